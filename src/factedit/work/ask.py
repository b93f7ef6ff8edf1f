"""Ask a model, unedited and with edits on it: the likeliest next tokens, and what it writes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factedit.edit.artefact import Edit
from factedit.engine.likeliest import Token
from factedit.errors import UsageError
from factedit.evaluate.asks import Ask
from factedit.evaluate.texts import Greedy
from factedit.evaluate.together import Together
from factedit.evaluate.top_tokens import TopTokens
from factedit.models.adapter import EditableModel

TOP, TOKENS = 10, 24


@dataclass(frozen=True)
class Reply:
    """What a model says after one prompt.

    Attributes:
        top: the likeliest next tokens.
        text: the greedy continuation.
    """

    top: tuple[Token, ...]
    text: str


@dataclass(frozen=True)
class PromptReplies:
    """One prompt.

    Attributes:
        prompt: the text.
        before: of the unedited model.
        after: with the edits on; None where there are none.
    """

    prompt: str
    before: Reply
    after: Reply | None

    def as_json(self) -> dict[str, Any]:
        """Return `{prompt, before: {top: [{text, probability}…], text}, after}`."""
        return {"prompt": self.prompt, "before": _told(self.before), "after": self.after and _told(self.after)}


def ask(
    model: EditableModel, prompts: Sequence[str], edits: Sequence[Edit] = (), *, top: int = TOP, tokens: int = TOKENS
) -> list[PromptReplies]:
    """Ask prompts of the unedited model and, where there are edits, with all of them on.

    Args:
        model: unedited; the same bits afterwards.
        prompts: texts.
        edits: in order.
        top: how many next tokens.
        tokens: how many to write at most.

    Raises:
        UsageError: no prompt, or nothing asked.
        RequestError: a prompt that is empty or too long.
        EditError: an edit of other shapes.
    """
    if not prompts or top < 1 or tokens < 1:
        raise UsageError("Nothing is asked: give a prompt, and at least 1 token.")
    asks: list[list[Ask]] = [[TopTokens(prompt, top), Greedy(prompt, tokens)] for prompt in prompts]
    before = Together(model).read(asks)
    after = Together(model).plus(edits).read(asks) if edits else [None] * len(asks)
    return [
        PromptReplies(prompt, Reply(*was), None if now is None else Reply(*now))
        for prompt, was, now in zip(prompts, before, after, strict=True)
    ]


def _told(reply: Reply) -> dict[str, Any]:
    return {"top": [token._asdict() for token in reply.top], "text": reply.text}
