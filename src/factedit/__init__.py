"""Find where a language model keeps a fact, change it, prove what the change did, undo it."""

__version__ = "0.1.0"
