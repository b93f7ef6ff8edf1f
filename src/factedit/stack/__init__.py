"""Several edits on one model, in order, in a folder that remembers how it came to be."""
