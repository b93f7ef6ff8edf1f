"""What effects have in common that act at one matrix of a layer."""

from __future__ import annotations


class AtMatrix:
    """An effect at a matrix: prompts stay as they are, and nothing below its layer changes.

    Attributes:
        layer: of the matrix.
    """

    layer: int

    def first_layer(self) -> int:
        """Return the layer of the matrix."""
        return self.layer

    def on_prompt(self, text: str) -> str:
        """Return the text itself."""
        return text
