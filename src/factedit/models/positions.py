"""Text and subject to token positions, by character offsets in the final text.

Everything in this field depends on the right token. Tokenising prefix, subject and suffix apart goes wrong
with start tokens, leading spaces and merges across the border; so the final text is tokenised once and the
subject is found by the offsets of its characters (SPEC section 6). Rules:

- A token belongs to the subject if any of the subject's characters do, also where the tokenizer merges the
  subject with its neighbour.
- In a template the `{}` says which occurrence is meant; in a plain prompt it is the first.
- Start tokens are the tokenizer's own; an end token that it appends is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factedit.errors import RequestError
from factedit.facts import fill, with_space
from factedit.models.adapter import EditableModel


@dataclass(frozen=True)
class TokenizedText:
    """A text and its tokens.

    Attributes:
        text: the text.
        ids: its token ids, start token included.
        spans: per token the characters `[begin, end)` it covers; empty for special tokens.
    """

    text: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def tokens_of(self, begin: int, end: int) -> tuple[int, int]:
        """The tokens `[first, last + 1)` that hold any of the characters `[begin, end)`.

        Raises:
            RequestError: no token holds one of them.
        """
        inside = [
            i
            for i, (b, e) in enumerate(self.spans)
            if any(not self.text[c].isspace() for c in range(max(b, begin), min(e, end)))
        ]
        if not inside:
            raise RequestError(f"No token of {self.text!r} holds {self.text[begin:end]!r}: the tokenizer drops it.")
        return inside[0], inside[-1] + 1


@dataclass(frozen=True)
class SubjectText(TokenizedText):
    """A tokenised text with the subject's tokens `[first, last + 1)`.

    Attributes:
        subject_range: token positions of the subject.
    """

    subject_range: tuple[int, int]

    @property
    def subject_last(self) -> int:
        """Position of the last subject token."""
        return self.subject_range[1] - 1


def tokenize(model: EditableModel, text: str) -> TokenizedText:
    """The tokens of a text, with the tokenizer's own start token and without an end token.

    Raises:
        RequestError: the text is empty, or longer than the model's context.
    """
    tokenizer = model.tokenizer
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, spans = list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]
    while ids and spans[-1][0] == spans[-1][1] and ids[-1] == tokenizer.eos_token_id and len(ids) > 1:
        ids.pop()
        spans.pop()
    if not ids:
        raise RequestError(f"The text {text!r} has no tokens: write a prompt of at least one word.")
    if len(ids) > model.context_length:
        raise RequestError(
            f"The text beginning {text[:40]!r} has {len(ids)} tokens; {model.name} reads {model.context_length}. "
            "Shorten it."
        )
    return TokenizedText(text, tuple(ids), tuple(spans))


def locate(model: EditableModel, template: str, subject: str, *, suffix: str = "") -> SubjectText:
    """Tokenise `template` filled with the subject and followed by `suffix`; find the subject's tokens.

    Args:
        model: the model whose tokenizer counts.
        template: text with one `{}`.
        subject: what stands there.
        suffix: text that follows, e.g. the target with its leading space.

    Raises:
        RequestError: no token holds the subject, or the text is too long.
    """
    begin = template.index("{}")
    found = tokenize(model, fill(template, subject) + suffix)
    return SubjectText(found.text, found.ids, found.spans, found.tokens_of(begin, begin + len(subject)))


def continuation(model: EditableModel, prompt: str, target: str) -> tuple[tuple[int, ...], int]:
    """Token ids of the prompt followed by the target, and how many of them are the prompt's.

    The target gets one leading space unless the prompt ends in one. A token that holds characters of both
    counts as the target's.

    Raises:
        RequestError: the target has no tokens, or the text is too long.
    """
    tail = with_space(prompt, target)
    whole = tokenize(model, prompt + tail)
    begin = len(prompt) + len(tail) - len(tail.lstrip())
    first, _ = whole.tokens_of(begin, len(whole.text))
    return whole.ids, first


def strings(model: EditableModel, ids: Sequence[int]) -> list[str]:
    """Each token as text (a start token as its name)."""
    return [model.tokenizer.decode([i]) for i in ids]
