"""What the model writes as an answer: its likeliest tokens, with no part of the answer fed in, to the sentence's end.

The protocol is WILD's (arXiv 2502.11177): greedy, at most 50 tokens, stopped at a full stop, a line's end or the end
token; three forms of a prompt: bare, as a question, as a turn of a chat.
"""

from __future__ import annotations

import logging
import re
import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from factedit.edit.asking import prompts_edited
from factedit.errors import first_line
from factedit.evaluate.asks import OwnEdits
from factedit.evaluate.texts import continued, per_record, per_row
from factedit.models.adapter import EditableModel
from factedit.models.tokens import is_special, text_after
from factedit.text import FULL_STOPS

TOKENS = 50  # that are written at most
logger = logging.getLogger("factedit")
NO_TEMPLATE = "the tokenizer has no chat template"
NO_CHAT = f"{NO_TEMPLATE} that works"  # kept with a record
_STOPS = (".", "\n", "\r", *FULL_STOPS)
_STOPS_IN_VOCABULARIES = (*_STOPS, "Ċ", "č", "<0x0A>", "<0x0D>", "<0x2E>")
_SENTENCE_END = re.compile(f"[{re.escape(''.join(_STOPS))}]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Writing(NamedTuple):
    """What was written.

    Attributes:
        text: as it follows the prompt, special tokens left out.
        ids: the tokens.
        special: how many of them are special tokens.
    """

    text: str
    ids: tuple[int, ...]
    special: int


class Written(NamedTuple):
    """A prompt to be answered; the reply is a `Writing`, or None where it cannot be asked in this form.

    Attributes:
        prompt: the text; of a chat what the user says.
        chat: it is put into the tokenizer's chat template.
        whole: the text goes on behind the end of a sentence.
        tokens: how many to write at most.
    """

    prompt: str
    chat: bool = False
    whole: bool = False
    tokens: int = TOKENS

    @classmethod
    def read(
        cls,
        model: EditableModel,
        asked: Sequence[Sequence[Written]],
        variants: Sequence[OwnEdits],
        *,
        seed: int,  # noqa: ARG003
    ) -> list[list[list[Writing | None]]]:
        """Return replies `[variant][record][ask]`; nothing is drawn, so the seed does not matter."""
        rows = [ask for asks in asked for ask in asks]
        why = why_no_chat(model) if any(row.chat for row in rows) else ""
        places = [n for n, row in enumerate(rows) if not (why and row.chat)]
        if why:
            _say_no_chat(model.name, why)
        ends = sentence_ends(model)
        by_variant = []
        for edits in variants:
            per_ask = per_row(asked, edits)
            said = prompts_edited(model, [rows[n].prompt for n in places], [per_ask[n] for n in places])
            prompts = [_asked(model, rows[n], text) for n, text in zip(places, said, strict=True)]
            written = continued(
                model, prompts, [per_ask[n] for n in places], tokens=[rows[n].tokens for n in places],
                last=[frozenset() if rows[n].whole else ends for n in places],
            )  # fmt: skip
            texts: list[Writing | None] = [None] * len(rows)
            for n, (row, added) in zip(places, written, strict=True):
                special = sum(is_special(model, token) for token in added)
                texts[n] = Writing(text_after(model, row, added), tuple(added), special)
            by_variant.append(per_record(asked, texts))
        return by_variant


def why_no_chat(model: EditableModel) -> str:
    """Return why a model cannot be asked as in a chat: its tokenizer has no template, or one that takes no user's turn;
    nothing where it can.
    """
    if model.tokenizer.chat_template is None:
        return NO_TEMPLATE
    try:
        _as_chat(model, "x")
    except Exception as error:  # a template is a program of the model's makers
        return f"the tokenizer's chat template fails, {type(error).__name__}: {first_line(error)}"
    return ""


@lru_cache(maxsize=64)
def _say_no_chat(name: str, why: str) -> None:
    """Say it once of a model, not with every chunk of records."""
    logger.warning("The chat form of written answers is left out: %s (%s).", why, name)


def _asked(model: EditableModel, row: Written, prompt: str) -> str:
    """Return what the model is given: the template goes around what an edit of prompts makes of the text."""
    return _as_chat(model, prompt) if row.chat else prompt


def _as_chat(model: EditableModel, prompt: str) -> str:
    """Return a prompt as a user's turn that is to be answered."""
    turns = [{"role": "user", "content": prompt}]
    return str(model.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def sentence_ends(model: EditableModel) -> frozenset[int]:
    """Return the tokens that hold a full stop or end a line."""
    backend = model.tokenizer.backend_tokenizer
    marks = (*_STOPS_IN_VOCABULARIES, *map(_as_bytes, FULL_STOPS))
    likely = (token for piece, token in backend.get_vocab().items() if any(mark in piece for mark in marks))
    return frozenset(token for token in likely if any(stop in backend.decode([token]) for stop in _STOPS))


def _as_bytes(character: str) -> str:
    """Return a character as byte-level vocabularies write it."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)[0][0]


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop (of whatever script) or line end, without it."""
    return _SENTENCE_END.split(text, maxsplit=1)[0]


def squad(text: str) -> str:
    """Return a text as SQuAD's scorer compares it: lower case, no punctuation, no articles, single spaces.

    Punctuation is ASCII's, as there; accents are composed (NFC), which the scorer leaves to its data.
    """
    composed = unicodedata.normalize("NFC", text.lower())
    bare = "".join(letter for letter in composed if letter not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def can_be_matched(target: str) -> bool:
    """Return whether a text to a full stop can be the target: it holds none inside, and a word to compare."""
    bare = _without_stop(target)
    return first_sentence(bare) == bare and bool(squad(bare))


def _without_stop(target: str) -> str:
    return target.strip().rstrip("." + FULL_STOPS)


def exact(text: str, target: str) -> bool:
    """Return whether the first sentence of a text is the target, both normalised."""
    wanted = squad(_without_stop(target))
    return bool(wanted) and squad(first_sentence(text)) == wanted
