"""Asks of several kinds in one call: each kind is read once, and every reply stands where it was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from conftest import tiny
from factedit.errors import ResourceError
from factedit.evaluate.asks import replies
from factedit.evaluate.probability import Question, score
from factedit.evaluate.texts import Greedy, continue_texts
from stack_cases import random_edit

CALLS: list[tuple[str, int, int]] = []


class Echo(NamedTuple):
    prompt: str
    loud: bool = False

    @classmethod
    def read(cls, _model: object, asked: Sequence[Sequence[Any]], variants: Sequence[Any], *, seed: int) -> Any:
        CALLS.append(("echo", len(asked), seed))
        return [[[(ask.prompt, own is not None and own[n]) for ask in asks] for n, asks in enumerate(asked)]
                for own in variants]  # fmt: skip


class Length(NamedTuple):
    prompt: str

    @classmethod
    def read(cls, _model: object, asked: Sequence[Sequence[Any]], variants: Sequence[Any], *, seed: int) -> Any:
        CALLS.append(("length", len(asked), seed))
        return [[[len(ask.prompt) for ask in asks] for asks in asked] for _ in variants]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def test_every_reply_stands_where_it_was_asked() -> None:
    asked = [[Echo("a"), Length("four"), Echo("b")], [], [Length("sixsix")]]
    edits = ["first", "second", "third"]
    found = replies(tiny("gpt2"), asked, [None, edits], seed=9)
    assert found == [
        [[("a", False), 4, ("b", False)], [], [6]],
        [[("a", "first"), 4, ("b", "first")], [], [6]],
    ]
    assert sorted(CALLS) == [("echo", 3, 9), ("length", 3, 9)], "one batch per kind, with the seed"


def test_what_does_not_fit_is_halved_and_every_record_keeps_its_edit() -> None:
    class Heavy(Echo):
        @classmethod
        def read(cls, model: object, asked: Sequence[Sequence[Any]], variants: Sequence[Any], *, seed: int) -> Any:
            if len(asked) > 2:
                raise MemoryError
            return Echo.read(model, asked, variants, seed=seed)

    asked = [[Heavy(str(n))] for n in range(5)]
    [found] = replies(tiny("gpt2"), asked, [[f"edit {n}" for n in range(5)]], seed=0)
    assert found == [[(str(n), f"edit {n}")] for n in range(5)]
    assert max(count for _, count, _ in CALLS) == 2


def test_one_record_that_does_not_fit_is_an_error() -> None:
    class Huge(Echo):
        @classmethod
        def read(cls, *_args: object, seed: int) -> Any:
            raise MemoryError

    with pytest.raises(ResourceError):
        replies(tiny("gpt2"), [[Huge("x")]], [None], seed=0)


def test_questions_and_texts_together_are_read_as_each_alone() -> None:
    model = tiny("gpt2")
    edits = [random_edit(model, 1), None]
    asked = [[Question("Paris is in", "France"), Greedy("The sport", 4)], [Greedy("Seattle", 4)]]
    plain, edited = replies(model, asked, [None, edits], seed=0)
    for found, own in ((plain, None), (edited, edits)):
        [[[question], _]] = score(model, [[asked[0][0]], []], [own])
        assert found[0][0].log_p == pytest.approx(question.log_p, abs=1e-5)
        texts = continue_texts(model, ["The sport", "Seattle"], [None, None] if own is None else own, tokens=[4, 4])
        assert [found[0][1], found[1][0]] == texts
