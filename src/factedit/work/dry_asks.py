"""What answers take: prompts that are read, with or without an answer given, and tokens that are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factedit.engine import budget
from factedit.engine.cost import ModelShape, Work
from factedit.evaluate.asks import Ask
from factedit.evaluate.probability import Question
from factedit.evaluate.stemmed import After
from factedit.facts import with_space
from factedit.models.adapter import EditableModel


class Asks(NamedTuple):
    """What is asked of all records.

    Attributes:
        tokens: of prompts and given answers.
        keys: that a token sees, on average.
        reads: of the vocabulary for given answers.
        written: tokens that are written.
        per_record: the most tokens that are written one after the other for a record.
    """

    tokens: float
    keys: float
    reads: float
    written: float
    per_record: int


def counted_asks(model: EditableModel, asked: Sequence[Sequence[Ask]]) -> Asks:
    """Return what is asked, counted in tokens; a prompt that a record asks twice in one kind is read once.

    Args:
        model: whose tokens; may be an outline.
        asked: of every record.
    """
    longest: dict[tuple[int, type, str], int] = {}
    reads = written = 0.0
    most = 0
    for n, asks in enumerate(asked):
        for ask in asks:
            kind, prompt = type(ask), len(model.tokenizer(ask.prompt)["input_ids"])
            answers = ask.answers if isinstance(ask, After) else (ask.answer,) if isinstance(ask, Question) else ()
            for answer in answers:
                whole = len(model.tokenizer(ask.prompt + with_space(ask.prompt, answer))["input_ids"])
                reads += whole - prompt
                longest[n, kind, ask.prompt] = max(whole - 1, longest.get((n, kind, ask.prompt), 0))
            if answers:
                continue
            longest.setdefault((n, kind, ask.prompt), prompt)
            reads += not hasattr(ask, "tokens")  # the distribution of the next token alone
            added = getattr(ask, "tokens", 0) - (prompt if kind.__name__ == "Sampled" else 0)
            written, most = written + max(0, added), max(most, added)
    tokens = float(sum(longest.values()))
    return Asks(tokens, tokens / max(1, len(longest)), reads, written, most)


def answers_take(shape: ModelShape, asks: Asks, layers: int, chunk: int) -> Work:
    """Return the work of prompts through some layers, and of every written token through all of them.

    Args:
        shape: of the model.
        asks: what is asked.
        layers: that prompts pass; those below an edit are as they were.
        chunk: records whose texts are written together.
    """
    batches = max(1.0, asks.tokens / budget.COLUMNS_SCORED)
    prompts = shape.forward(asks.tokens, asks.keys, layers, reads=asks.reads, batches=batches)
    steps = asks.per_record * max(1.0, asks.written / max(1, asks.per_record) / chunk) if asks.written else 0.0
    return prompts + shape.forward(
        asks.written, asks.keys + asks.per_record, shape.n_layer, reads=asks.written, batches=steps
    )
