"""Contexts for k* (ROME, arXiv 2202.05262, eq. 3): the bare prompt and prompts after texts the model writes.

The contexts depend on the model and the seed and on nothing else; they are sampled when asked for and the
caller keeps them, so that no two models share them by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from factedit.errors import UsageError
from factedit.models.adapter import EditableModel
from factedit.models.generate import sample_texts

BARE = "{}"


def sample_contexts(
    model: EditableModel,
    counts: Sequence[tuple[int, int]],
    *,
    seed: int,
    openings: Sequence[str] = ("",),
    top_k: int = 5,
) -> tuple[str, ...]:
    """The bare `"{}"`, then for each (count, length) and opening that many templates `text + ". {}"`.

    Args:
        model: writes the texts.
        counts: how many texts of which length in tokens (start token and opening counted).
        openings: what the texts begin with, after the start token.
        seed: of the sampling.
        top_k: the reference's 5.
    """
    templates = [BARE]
    for number, ((count, length), opening) in enumerate(product(counts, openings)):
        texts = sample_texts(model, count=count, tokens=length, top_k=top_k, seed=seed + 1000 * number, opening=opening)
        templates += [text.replace("{", " ").replace("}", " ") + ". {}" for text in texts]
    return tuple(templates)


def check_contexts(templates: Sequence[str]) -> tuple[str, ...]:
    """A user's contexts, the bare one put first.

    Raises:
        UsageError: a template without exactly one `{}`.
    """
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise UsageError(f"The context {template!r} must be a text with exactly one '{{}}'.")
    return (BARE, *(t for t in templates if t != BARE))
