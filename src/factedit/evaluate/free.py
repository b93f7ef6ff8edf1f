"""What the model writes by itself: free-running match, generation entropy, consistency.

Teacher-forced scores flatter an editor (arXiv 2502.11177), so the greedy continuation stands beside them.
GE and RS are those of ROME (arXiv 2202.05262, section 3.4).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch

from factedit.edit.artefact import Edit, rows_edited
from factedit.engine.generate import generate
from factedit.memory import at_once
from factedit.models.adapter import EditableModel
from factedit.models.positions import tokenize_all
from factedit.models.tokens import text_after
from factedit.text import begins_with, words

ROWS_AT_ONCE = 64  # texts written together on a processor; the vocabulary and the past of each are held;
ROWS_AT_MOST = 512  # elsewhere


@torch.no_grad()
def continue_texts(
    model: EditableModel,
    prompts: Sequence[str],
    edits: Sequence[Edit | None],
    *,
    tokens: int | Sequence[int],
    top_k: int = 1,
    seeds: Sequence[int] | None = None,
) -> list[str]:
    """Continue every prompt under its own edit.

    Args:
        model: the unedited model; not changed.
        prompts: texts.
        edits: one per prompt, or None for the unedited model.
        tokens: how many to add at most, to all or to each; the end token stops a row.
        top_k: 1 is greedy.
        seeds: of the sampling, one per prompt.

    Returns:
        The added texts, each as it follows its prompt (white space at a prompt's end is not counted to the prompt).
    """
    rows = [text.ids for text in tokenize_all(model, prompts)]
    end = model.tokenizer.eos_token_id
    stop = frozenset() if end is None else frozenset([int(end)])
    limits = [tokens] * len(rows) if isinstance(tokens, int) else tokens
    seeds = range(len(rows)) if seeds is None else seeds
    added: list[list[int]] = []
    longest = max((len(row) + limit for row, limit in zip(rows, limits, strict=True)), default=0)
    each = 12 * model.vocab + 12 * longest * model.n_layer * model.d_model
    count = min(ROWS_AT_MOST, at_once(model.device, each, on_processor=ROWS_AT_ONCE))
    for begin in range(0, len(rows), count):
        part = slice(begin, begin + count)
        with rows_edited(model, edits[part]):
            added += generate(model, rows[part], tokens=limits[part], top_k=top_k, seeds=seeds[part], stop=stop)
    return [text_after(model, row, own) for row, own in zip(rows, added, strict=True)]


def free_match(continuation: str, target: str) -> bool:
    """Whether the free continuation opens with the target as whole words, letter case aside (see `begins_with`)."""
    return begins_with(continuation, target)


def entropy(text: str, n: int) -> float:
    """Entropy of a text's n-grams of words, in bits; in scripts without spaces, of characters."""
    parts = words(text)
    counts = Counter(zip(*(parts[i:] for i in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) if total else 0.0


def generation_entropy(texts: Sequence[str]) -> float:
    """GE: mean over texts of the mean of 2/3 of the bigram and 4/3 of the trigram entropy, × 100."""
    values = [(2 / 3 * entropy(text, 2) + 4 / 3 * entropy(text, 3)) / 2 for text in texts]
    return 100 * sum(values) / len(values) if values else math.nan
