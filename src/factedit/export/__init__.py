"""The forms in which an edited model is handed on, each proven by loading it back."""
