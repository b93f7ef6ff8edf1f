"""The engine: forward passes that are resumed at a layer and a token, and what makes them cheap."""
