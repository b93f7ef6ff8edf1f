"""What an edit does, one file per kind: a change of a matrix by two thin factors, or by a whole ΔW."""
