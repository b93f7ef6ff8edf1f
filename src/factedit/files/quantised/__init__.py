"""Weights that are quantised in a folder, read as the values they stand for, and written again."""
