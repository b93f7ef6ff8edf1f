"""Second moments of the keys: C = E[k kᵀ]."""
