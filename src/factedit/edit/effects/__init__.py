"""What an edit does, one file per kind: a change of a matrix (thin factors, a whole ΔW), a memory, a text."""
