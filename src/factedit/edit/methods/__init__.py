"""One file per editing method."""
