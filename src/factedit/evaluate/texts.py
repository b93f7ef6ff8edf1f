"""What the model writes by itself: continuations of prompts, each under its own edit.

Teacher-forced scores flatter an editor (arXiv 2502.11177), so what is written freely stands beside them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, TypeVar

import torch

from factedit.edit.artefact import Edit, rows_edited
from factedit.edit.asking import prompts_edited
from factedit.engine import budget
from factedit.engine.generate import generate
from factedit.evaluate.asks import OwnEdits
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.positions import tokenize_all
from factedit.models.tokens import text_after

TOP_K = 5  # of sampled texts
_Reply = TypeVar("_Reply")
GENERATION_TOKENS = 100  # of sampled texts about a subject, prompt included


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
    asked = prompts_edited(model, prompts, edits)
    rows = continued(model, asked, edits, tokens=tokens, top_k=top_k, seeds=seeds)
    return [text_after(model, row, added) for row, added in rows]


@torch.no_grad()
def continued(
    model: EditableModel,
    asked: Sequence[str],
    edits: Sequence[Edit | None],
    *,
    tokens: int | Sequence[int],
    top_k: int = 1,
    seeds: Sequence[int] | None = None,
    last: Sequence[frozenset[int]] | None = None,
) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return per prompt its token ids and those that are added, each under its own edit.

    Args:
        model, edits, tokens, top_k, seeds: see `continue_texts`.
        asked: the prompts, as the edits have made them.
        last: per prompt tokens that end the row and are kept.
    """
    rows = [text.ids for text in tokenize_all(model, asked)]
    end = model.tokenizer.eos_token_id
    stop = frozenset() if end is None else frozenset([int(end)])
    limits = [tokens] * len(rows) if isinstance(tokens, int) else tokens
    seeds = range(len(rows)) if seeds is None else seeds
    added: list[list[int]] = []
    longest = max((len(row) + limit for row, limit in zip(rows, limits, strict=True)), default=0)
    count = budget.texts_written(model, longest)
    for begin in range(0, len(rows), count):
        part = slice(begin, begin + count)
        ends = None if last is None else last[part]
        added += generate(
            model, rows[part], tokens=limits[part], top_k=top_k, seeds=seeds[part], stop=stop, last=ends,
            under=partial(_rows_of, model, edits[part]),
        )  # fmt: skip
    return list(zip(rows, added, strict=True))


def _rows_of(model: EditableModel, edits: Sequence[Edit | None], rows: Sequence[int]) -> AbstractContextManager[None]:
    return rows_edited(model, [edits[row] for row in rows])


class Greedy(NamedTuple):
    """A prompt to be continued with the likeliest tokens; the reply is the text that is added.

    Attributes:
        prompt: the text.
        tokens: how many to add at most.
    """

    prompt: str
    tokens: int

    @classmethod
    def read(
        cls,
        model: EditableModel,
        asked: Sequence[Sequence[Greedy]],
        variants: Sequence[OwnEdits],
        *,
        seed: int,  # noqa: ARG003
    ) -> list[list[list[str]]]:
        """Return replies `[variant][record][ask]`; nothing is drawn, so the seed does not matter."""
        rows = [ask for asks in asked for ask in asks]
        by_variant = []
        for edits in variants:
            texts = continue_texts(model, [row.prompt for row in rows], per_row(asked, edits),
                                   tokens=[row.tokens for row in rows])  # fmt: skip
            by_variant.append(per_record(asked, texts))
        return by_variant


class Sampled(NamedTuple):
    """A prompt to be continued with tokens drawn from the five likeliest; the reply is the whole text.

    Attributes:
        prompt: the text.
        tokens: length of the whole text, prompt included.
        number: of the draw; draws of one number differ with the run's seed alone.
    """

    prompt: str
    tokens: int
    number: int = 0

    @classmethod
    def read(
        cls, model: EditableModel, asked: Sequence[Sequence[Sampled]], variants: Sequence[OwnEdits], *, seed: int
    ) -> list[list[list[str]]]:
        """Return replies `[variant][record][ask]`, all of a variant drawn in one batch."""
        rows = [ask for asks in asked for ask in asks]
        prompts = [row.prompt for row in rows]
        begun = tokenize_all(model, prompts)
        lengths = [max(0, row.tokens - len(text.ids)) for row, text in zip(rows, begun, strict=True)]
        seeds = [seed + row.number for row in rows]
        by_variant = []
        for edits in variants:
            added = continue_texts(model, prompts, per_row(asked, edits), tokens=lengths, top_k=TOP_K, seeds=seeds)
            by_variant.append(
                per_record(asked, [prompt.text + text for prompt, text in zip(begun, added, strict=True)])
            )
        return by_variant


def about_the_subject(record: FactRecord, tokens: int) -> list[Sampled]:
    """Return the record's generation prompts, each continued to a text of so many tokens."""
    return [Sampled(prompt, tokens, number) for number, prompt in enumerate(record.generation)]


def per_row(asked: Sequence[Sequence[object]], edits: OwnEdits) -> list[Edit | None]:
    """Return the edit of its record for everything that is asked, in order."""
    return [None if edits is None else edits[n] for n, asks in enumerate(asked) for _ in asks]


def per_record(asked: Sequence[Sequence[object]], replies: Sequence[_Reply]) -> list[list[_Reply]]:
    """Return replies to everything that is asked, in order, laid out by record as the asks are."""
    left = iter(replies)
    return [list(itertools.islice(left, len(asks))) for asks in asked]
