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

Spans = tuple[tuple[int, int], ...]


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
    spans: Spans

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
    return tokenize_all(model, [text])[0]


def tokenize_all(model: EditableModel, texts: Sequence[str]) -> list[TokenizedText]:
    """`tokenize` of many texts in one call, which costs each a third.

    Raises:
        RequestError: a text is empty, or longer than the model's context.
    """
    if not texts:
        return []
    encoded = model.tokenizer(list(texts), return_offsets_mapping=True)
    end, longest = model.tokenizer.eos_token_id, model.context_length
    rows = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [_checked(model, longest, text, *_without_end(ids, spans, end)) for text, ids, spans in rows]


def _without_end(ids: list[int], spans: list[tuple[int, int]], end: int | None) -> tuple[list[int], Spans]:
    count = len(ids)
    while count > 1 and ids[count - 1] == end and spans[count - 1][0] == spans[count - 1][1]:
        count -= 1
    return ids[:count], tuple((begin, stop) for begin, stop in spans[:count])


def _checked(model: EditableModel, longest: int, text: str, ids: list[int], spans: Spans) -> TokenizedText:
    if not ids:
        raise RequestError(f"The text {text!r} has no tokens: write a prompt of at least one word.")
    if len(ids) > longest:
        raise RequestError(
            f"The text beginning {text[:40]!r} has {len(ids)} tokens; {model.name} reads {longest}. Shorten it."
        )
    return TokenizedText(text, tuple(ids), spans)


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
    return _located(template, subject, tokenize(model, fill(template, subject) + suffix))


def locate_all(model: EditableModel, asked: Sequence[tuple[str, str]]) -> list[SubjectText]:
    """`locate` of many templates, each with its subject, in one call.

    Raises:
        RequestError: no token holds a subject, or a text is too long.
    """
    found = tokenize_all(model, [fill(*pair) for pair in asked])
    return [_located(*pair, whole) for pair, whole in zip(asked, found, strict=True)]


def _located(template: str, subject: str, found: TokenizedText) -> SubjectText:
    begin = template.index("{}")
    return SubjectText(found.text, found.ids, found.spans, found.tokens_of(begin, begin + len(subject)))


def continuation(model: EditableModel, prompt: str, target: str) -> tuple[tuple[int, ...], int]:
    """Token ids of the prompt followed by the target, and how many of them are the prompt's.

    The target gets one leading space unless the prompt ends in one. A token that holds characters of both
    counts as the target's.

    Raises:
        RequestError: the target has no tokens, or the text is too long.
    """
    return continuations(model, [(prompt, target)])[0]


def continuations(model: EditableModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[tuple[int, ...], int]]:
    """`continuation` of many prompts, each with its target, in one call.

    Raises:
        RequestError: a target has no tokens, or a text is too long.
    """
    found = tokenize_all(model, [prompt + with_space(prompt, target) for prompt, target in pairs])
    return [(whole.ids, _prompt_tokens(prompt, whole)) for (prompt, _), whole in zip(pairs, found, strict=True)]


def _prompt_tokens(prompt: str, whole: TokenizedText) -> int:
    """How many tokens of a prompt with its target are the prompt's."""
    tail = whole.text[len(prompt) :]
    first, _ = whole.tokens_of(len(whole.text) - len(tail.lstrip()), len(whole.text))
    return first


def subject_continuations(
    model: EditableModel, templates: Sequence[str], subject: str, target: str
) -> list[tuple[SubjectText, int]]:
    """Templates filled with a subject and followed by a target, and how many tokens of each are the prompt's.

    Raises:
        RequestError: the subject or the target has no tokens, or a text is too long.
    """
    prompts = [fill(template, subject) for template in templates]
    found = tokenize_all(model, [prompt + with_space(prompt, target) for prompt in prompts])
    return [
        (_located(template, subject, whole), _prompt_tokens(prompt, whole))
        for template, prompt, whole in zip(templates, prompts, found, strict=True)
    ]


def strings(model: EditableModel, ids: Sequence[int]) -> list[str]:
    """Each token as text (a start token as its name)."""
    return [model.tokenizer.decode([i]) for i in ids]
