"""Text and subject to token positions, by character offsets in the final text.

Everything in this field depends on the right token. Tokenising prefix, subject and target apart goes wrong
with start tokens, leading spaces and merges across the border; so the final text is tokenised once, and subject and
target are found by the offsets of their characters. Rules:

- A token belongs to the subject if any of the subject's characters do, also where the tokenizer merges the
  subject with its neighbour.
- In a template the `{}` says which occurrence is meant; in a plain prompt the first that is a whole word.
- The target begins at the first token that covers any character after the prompt, the space before it included:
  where a tokenizer writes that space as a token of its own, the model must say it like the rest.
- White space at the end of a prompt is the target's; the line that opens a turn of a chat keeps its own.
- The start token is the tokenizer's, once: a text that brings its own, or its chat template's, gets no second one.
  Special tokens that the tokenizer appends are dropped.
- What cannot be read is refused: a token that the model has no embedding for, a subject or target of which the
  tokenizer makes the unknown token, a text of which it leaves characters out, a target that shares a token with the
  subject or swallows the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factedit.errors import RequestError
from factedit.facts import check_unicode, fill, with_space
from factedit.models.adapter import EditableModel
from factedit.models.tokens import (
    TokenizedText,
    check_embedded,
    check_known,
    check_nothing_left_out,
    is_special,
    own_tokens,
    prompt_end,
)


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


def tokenize(model: EditableModel, prompt: str) -> TokenizedText:
    """Return the tokens of a prompt, up to where an answer begins: white space at its end is the answer's.

    Raises:
        RequestError: the prompt is empty, longer than the model's context, or has a token without an embedding.
    """
    return tokenize_all(model, [prompt])[0]


def tokenize_all(model: EditableModel, prompts: Sequence[str]) -> list[TokenizedText]:
    """Return `tokenize` of many prompts in one call, which costs each a third.

    Raises:
        RequestError: a prompt is empty, longer than the model's context, or has a token without an embedding.
    """
    bare = [prompt.rstrip() for prompt in prompts]
    texts = _encode(model, bare)
    for n, (prompt, short) in enumerate(zip(prompts, bare, strict=True)):
        if prompt != short:  # rare; the line that opens a turn keeps its white space
            [whole] = _encode(model, [prompt])
            texts[n] = _encode(model, [prompt[: prompt_end(model, whole, len(prompt))]])[0]
    return texts


def _encode(model: EditableModel, texts: Sequence[str]) -> list[TokenizedText]:
    """Whole texts with their tokens."""
    if not texts:
        return []
    check_unicode(*texts)
    encoded = model.tokenizer(list(texts), return_offsets_mapping=True, return_special_tokens_mask=True)
    rows = zip(
        texts, encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
    )  # fmt: skip
    return [_checked(model, text, *own_tokens(model, text, ids, spans, added)) for text, ids, spans, added in rows]


def check_fits(model: EditableModel, tokens: int, what: str) -> None:
    """Refuse more tokens than a model reads.

    Args:
        model: the model.
        tokens: how many.
        what: has them, for the message.

    Raises:
        RequestError: saying both numbers.
    """
    if tokens > model.context_length:
        raise RequestError(f"{what} has {tokens} tokens; {model.name} reads {model.context_length}. Shorten it.")


def _checked(model: EditableModel, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> TokenizedText:
    if not ids:
        raise RequestError(f"The text {text!r} has no tokens: write a prompt of at least one word.")
    check_fits(model, len(ids), f"The text beginning {text[:40]!r}")
    tokenized = TokenizedText(text, tuple(ids), tuple((begin, end) for begin, end in spans))
    check_embedded(model, ids)
    check_nothing_left_out(model, tokenized)
    return tokenized


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
    text = fill(template, subject)
    tokenized = _encode(model, [text + suffix])[0] if suffix else tokenize(model, text)
    return _located(model, template, subject, tokenized)


def locate_all(model: EditableModel, asked: Sequence[tuple[str, str]]) -> list[SubjectText]:
    """Return `locate` of many templates, each with its subject, in one call.

    Raises:
        RequestError: no token holds a subject, or a text is too long.
    """
    texts = tokenize_all(model, [fill(*pair) for pair in asked])
    return [_located(model, *pair, whole) for pair, whole in zip(asked, texts, strict=True)]


def _located(model: EditableModel, template: str, subject: str, tokenized: TokenizedText) -> SubjectText:
    begin = template.index("{}")
    place = tokenized.tokens_of(begin, begin + len(subject))
    check_known(model, tokenized, "subject", begin, begin + len(subject))
    return SubjectText(tokenized.text, tokenized.ids, tokenized.spans, place)


def continuation(model: EditableModel, prompt: str, target: str) -> tuple[tuple[int, ...], int]:
    """Return token ids of the prompt followed by the target, and how many of them are the prompt's.

    The target begins at the first token that covers any character after the prompt, the space between them included
    (`with_space` says what stands there). A token that holds characters of both counts as the target's.

    Raises:
        RequestError: the target has no tokens or unknown ones, or the text is too long.
    """
    return continuations(model, [(prompt, target)])[0]


def continuations(model: EditableModel, pairs: Sequence[tuple[str, str]]) -> list[tuple[tuple[int, ...], int]]:
    """Return `continuation` of many prompts, each with its target, in one call.

    Raises:
        RequestError: a target has no tokens or unknown ones, or a text is too long.
    """
    texts = _encode(model, [prompt + with_space(prompt, target) for prompt, target in pairs])
    return [(whole.ids, _prompt_tokens(model, prompt, whole)) for (prompt, _), whole in zip(pairs, texts, strict=True)]


def _prompt_tokens(model: EditableModel, prompt: str, whole: TokenizedText) -> int:
    """Return how many tokens of a prompt with its target are the prompt's."""
    end = prompt_end(model, whole, len(prompt))
    check_known(model, whole, "target", len(prompt), len(whole.text))
    begun = [n for n, (_, stop) in enumerate(whole.spans) if stop > end]
    # a special token that the prompt ends in may take the white space after it
    of_target = (n for n in begun if whole.spans[n][0] >= end or not is_special(model, whole.ids[n]))
    first = next(of_target, None)
    if first is None:
        raise RequestError(f"The target has no tokens of its own in {whole.text!r}: write one that is visible text.")
    if first == 0:
        raise RequestError(
            f"The tokenizer of {model.name} joins the whole prompt {prompt!r} with the target's beginning in one "
            "token, so nothing is left to read the target from. Write a longer prompt."
        )
    return first


def subject_continuations(
    model: EditableModel, templates: Sequence[str], subject: str, target: str
) -> list[tuple[SubjectText, int]]:
    """Return templates filled with a subject and followed by a target, and how many tokens of each are the prompt's.

    Raises:
        RequestError: the subject or the target has no tokens or unknown ones, they share one, or a text is too long.
    """
    prompts = [fill(template, subject) for template in templates]
    texts = _encode(model, [prompt + with_space(prompt, target) for prompt in prompts])
    return [
        _apart(model, _located(model, template, subject, whole), _prompt_tokens(model, prompt, whole))
        for template, prompt, whole in zip(templates, prompts, texts, strict=True)
    ]


def _apart(model: EditableModel, located: SubjectText, first: int) -> tuple[SubjectText, int]:
    if located.subject_last >= first:
        raise RequestError(
            f"The tokenizer of {model.name} joins the end of the subject with the beginning of the target in "
            f"{located.text!r}, so one cannot be edited to give the other. Put a word between them."
        )
    return located, first


def strings(model: EditableModel, ids: Sequence[int]) -> list[str]:
    """Return each token as text (a start token as its name)."""
    return [model.tokenizer.decode([i]) for i in ids]
