"""Contexts for k* (ROME, arXiv 2202.05262, eq. 3): the bare prompt and prompts after texts the model writes.

The contexts depend on the model and the seed and on nothing else; they are sampled when asked for and the
caller keeps them, so that no two models share them by accident.
"""

from __future__ import annotations

from collections.abc import Sequence

from factedit.engine.generate import sample_texts
from factedit.errors import UsageError, shown
from factedit.models.adapter import EditableModel

BARE = "{}"


def sample_contexts(
    model: EditableModel,
    counts: Sequence[tuple[int, int]],
    *,
    seed: int,
    openings: Sequence[str] = ("",),
    top_k: int = 5,
) -> tuple[str, ...]:
    """Return the bare `"{}"`, then for each opening, count and length that many templates `text + ". {}"`.

    Args:
        model: writes the texts.
        counts: how many texts of which length in tokens (start token and opening counted).
        openings: what the texts begin with, after the start token.
        seed: of the sampling.
        top_k: the reference's 5.
    """
    lengths = [length for count, length in counts for _ in range(count)]
    texts = sample_texts(model, lengths, top_k=top_k, seed=seed, openings=openings) if lengths else []
    return (BARE, *(text.replace("{", " ").replace("}", " ") + ". {}" for text in texts))


def check_contexts(templates: Sequence[str]) -> tuple[str, ...]:
    """Return a user's contexts, the bare one put first.

    Raises:
        UsageError: no list, or a template without exactly one `{}`.
    """
    if isinstance(templates, str) or not isinstance(templates, Sequence):
        raise UsageError(f"The contexts {shown(templates)} must be a list of texts, each with exactly one '{{}}'.")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UsageError(f"The context {template!r} must be a text with exactly one '{{}}'.")
    return (BARE, *(t for t in templates if t != BARE))
