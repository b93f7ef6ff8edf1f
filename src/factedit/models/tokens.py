"""What a tokenizer puts beside a text's own tokens, and which of its tokens cannot be used.

Start and end tokens that the tokenizer adds, special tokens that the text itself brings (a chat's turns), tokens that
are only a space, tokens that the model has no embedding for, and characters that the tokenizer does not know.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from factedit.errors import RequestError
from factedit.facts import check_unicode, fill
from factedit.models.adapter import EditableModel

Spans = tuple[tuple[int, int], ...]
_ROLE = r"(?:(?:system|developer|user|human|assistant|model|bot|tool)[ \t]*)?"
_TURN_OPENS = re.compile(_ROLE + r"\n(?:[ \t]*\n)*")  # after a special token: the rest of the line that opens a turn
_SPACES = "\u2581\u0120 "  # how vocabularies write a space


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
        """Return the tokens `[first, last + 1)` that hold any of the characters `[begin, end)`.

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


def own_tokens(
    model: EditableModel, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]], added: Sequence[int]
) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
    """Return a text's tokens as the tokenizer gives them, without what it appends and with one start token at most.

    Args:
        model: whose tokenizer.
        text: the text.
        ids, spans: all its tokens and their characters.
        added: per token whether the tokenizer added it (1) or it stands for characters of the text (0).
    """
    starts = {model.tokenizer.bos_token_id, model.tokenizer.cls_token_id}
    end = len(ids)
    while end and added[end - 1]:
        end -= 1
    if not end:  # an empty text: its start token stays
        end = int(bool(ids) and ids[0] in starts)
        return ids[:end], spans[:end]
    begin = next(n for n in range(end) if not added[n])
    if begin and (ids[begin] in starts | set(ids[:begin]) or _opens_a_chat(model, text, ids[begin], ids[:begin])):
        return ids[begin:end], spans[begin:end]
    return ids[:end], spans[:end]


def _opens_a_chat(model: EditableModel, text: str, first: int, start: Sequence[int]) -> bool:
    """Return whether a text begins with a special token of a chat template that itself writes no start token."""
    template = model.tokenizer.chat_template
    if not isinstance(template, str) or not is_special(model, first):
        return False
    opening, *written = model.tokenizer.convert_ids_to_tokens([first, *start])
    return text.startswith(opening) and opening in template and not any(w in template for w in ("bos_token", *written))


def is_special(model: EditableModel, token: int) -> bool:
    """Return whether a token is none of a text's: a start or end token, the mark of a turn."""
    backend = model.tokenizer.backend_tokenizer
    return bool(backend.decode([token], skip_special_tokens=False)) and not backend.decode([token])


def is_space(model: EditableModel, token: int) -> bool:
    """Return whether a token is nothing but one or several spaces."""
    piece, backend = model.tokenizer.convert_ids_to_tokens(token), model.tokenizer.backend_tokenizer
    if not piece or is_special(model, token):
        return False
    return piece == "<0x20>" or not (piece.strip(_SPACES) or backend.decode([token]).strip(" "))


def after_space(model: EditableModel, ids: Sequence[int], first: int) -> int:
    """Return the first position from `first` on whose token is more than a space."""
    return next(n for n in range(first, len(ids)) if not is_space(model, ids[n]))


def text_tokens(model: EditableModel, text: str) -> tuple[list[int], list[int]]:
    """Return a running text of any length: the start tokens that the tokenizer puts before it, and its own tokens.

    Raises:
        RequestError: the text holds a token that the model has no embedding for, or half a character.
    """
    check_unicode(text)
    encoded = model.tokenizer(text, truncation=False, verbose=False, return_special_tokens_mask=True)
    ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
    check_embedded(model, ids)
    begin = next((n for n, special in enumerate(added) if not special), len(ids))
    return ids[:begin], [token for token, special in zip(ids[begin:], added[begin:], strict=True) if not special]


def text_after(model: EditableModel, before: Sequence[int], added: Sequence[int]) -> str:
    """Return what tokens add to the text before them: some tokenizers drop the first space of what they decode."""
    parts = [list(before), [*before, *added], list(added)]
    shorter, longer, alone = model.tokenizer.batch_decode(parts, skip_special_tokens=True)
    return str(longer[len(shorter) :] if longer.startswith(shorter) else alone)


# -- where a prompt ends, where contexts stand ---------------------------------------------------------


def prompt_end(model: EditableModel, whole: TokenizedText, length: int) -> int:
    """Return how many characters are the prompt's of a text whose first `length` characters were written as the prompt.

    White space at the prompt's end is not, unless it ends the line that opens a turn of a chat.
    """
    bare = len(whole.text[:length].rstrip())
    return bare if bare == length else max(bare, _turn_opened(model, whole.text[:length], whole.ids, whole.spans))


def in_contexts(model: EditableModel, prompt: str, contexts: Sequence[str]) -> list[str]:
    """Return the template of a prompt after each context, each again with one `{}`.

    A context never stands before a start token or a turn's mark that the prompt brings: it follows the last special
    token before the subject, and the rest of the line that opens the turn.

    Args:
        model: whose tokenizer.
        prompt: a template with one `{}`.
        contexts: templates with one `{}`, where the prompt stands.

    Raises:
        RequestError: one of them holds half a character.
    """
    check_unicode(prompt, *contexts)
    head = prompt[: prompt.index("{}")]
    place = 0
    if head:
        encoded = model.tokenizer(head, add_special_tokens=False, return_offsets_mapping=True)
        place = _turn_opened(model, head, encoded["input_ids"], encoded["offset_mapping"])
    return [prompt[:place] + fill(context, prompt[place:]) for context in contexts]


def _turn_opened(model: EditableModel, text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> int:
    """Return where a text's last special token ends, with the rest of the line where it opens a turn; 0 without one."""
    inside = [(token, end) for token, (begin, end) in zip(ids, spans, strict=True) if begin < end <= len(text)]
    last = max((end for token, end in inside if is_special(model, token)), default=0)
    turn = _TURN_OPENS.match(text, last) if last else None
    return turn.end() if turn else last


# -- tokens that cannot be used ------------------------------------------------------------------------


def check_embedded(model: EditableModel, ids: Sequence[int]) -> None:
    """Refuse tokens that the model has no embedding for.

    Raises:
        RequestError: naming the first of them.
    """
    rows = min(model.lm.get_input_embeddings().weight.shape[0], model.vocab)
    if max(ids, default=0) >= rows:
        token = next(token for token in ids if token >= rows)
        raise RequestError(
            f"The token {model.tokenizer.convert_ids_to_tokens(token)!r} has number {token}, and {model.name} has "
            f"embeddings for {rows} tokens: its tokenizer is larger than the model. Leave that token out, or use the "
            "tokenizer that belongs to the model."
        )


def check_nothing_left_out(model: EditableModel, tokenized: TokenizedText) -> None:
    """Refuse a text of which the tokenizer leaves characters out: it may even misplace those that follow.

    Raises:
        RequestError: quoting the text; which characters it leaves out, the tokenizer does not tell.
    """
    reached = 0
    for begin, end in (*tokenized.spans, (len(tokenized.text), len(tokenized.text))):
        if any(map(_is_visible, tokenized.text[reached:begin])):
            raise RequestError(
                f"The tokenizer of {model.name} leaves out characters of {tokenized.text[:80]!r}, for which it has no "
                "token. Write it otherwise, or use a model that knows its script."
            )
        reached = max(reached, end)


def check_known(model: EditableModel, tokenized: TokenizedText, what: str, begin: int, end: int) -> None:
    """Refuse a subject or target of which the tokenizer makes its unknown token.

    Args:
        model: whose tokenizer.
        tokenized: the text.
        what: `subject` or `target`.
        begin, end: its characters.

    Raises:
        RequestError: naming the unknown characters.
    """
    unknown, name = _unknown_token(model)
    for token, (first, last) in zip(tokenized.ids, tokenized.spans, strict=True):
        written = tokenized.text[first:last].strip()
        if token == unknown and max(first, begin) < min(last, end) and written != name:
            raise RequestError(
                f"The tokenizer of {model.name} knows no token for {written!r} in the {what} "
                f"{tokenized.text[begin:end].strip()!r}: it is read as {name!r}, as anything unknown is. "
                "Write it otherwise, or use a model that knows its script."
            )


def _unknown_token(model: EditableModel) -> tuple[int | None, str]:
    backend = model.tokenizer.backend_tokenizer
    # a Unigram model keeps the number of its unknown token to itself
    name = str(model.tokenizer.unk_token or getattr(backend.model, "unk_token", None) or "<unk>")
    return backend.token_to_id(name), name


def _is_visible(character: str) -> bool:
    """Return whether a character is more than white space, a control character, or a sign on the one before it."""
    return not character.isspace() and unicodedata.category(character)[0] not in "MC"
