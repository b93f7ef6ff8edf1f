"""What was done to a model by whoever: two checkpoints compared."""
