"""What else the model can do: items of a user's local folder, asked through lm-evaluation-harness or by ourselves."""
