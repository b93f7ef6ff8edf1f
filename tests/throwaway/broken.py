"""A metric whose module cannot be loaded."""

raise RuntimeError("half a file")
