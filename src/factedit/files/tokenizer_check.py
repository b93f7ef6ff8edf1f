"""Check on loading that a tokenizer cuts texts as the tokenizer.json beside it says.

The class that a configuration names may build its own tokenizer from the file's vocabulary and leave its normaliser
or pre-tokenizer out; such a model answers, and every position in it is wrong. So some texts are cut by both. Where
they differ, the file is right, since the model's makers wrote it: it is used as it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factedit.errors import ModelError, UnsupportedModel, first_line
from factedit.files.checkpoint_checks import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = (
    " 1985", "in 1985, 15 men", "the  1985", "year\n\n1985", "3.14159 km/h", "10²", "12345678", " two  spaces   three",
    "  ", "a ", "tab\tand\r\nline", "line\n\n\nline\n", "def f(x):\n    return x += 1", "don't I'LL we've",
    "ALL CAPS, MixedCase", "snake_case-and/path", "".join(map(chr, range(33, 127))), "Café Zürich Łódź",
    "Cafe\u0301 Zu\u0308rich", "ß ẞ ı İ ﬁ Å ½", "“quoted” – ‘so’…", "Москва — столица", "Ελλάδα",
    "القاهرة عاصمة", "ירושלים", "नई दिल्ली", "กรุงเทพมหานคร", "서울", "東京は日本の首都です。", "北京",
    "🗼 🇯🇵 👩\u200d👩\u200d👧 👍🏽",
    "\u00a0no-break\u200bspace\ufeff", "▁ Ġ ##", "𝕳𝖊𝖑𝖑𝖔",
)  # fmt: skip
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_FLAGS = ("add_bos_token", "add_eos_token")
_log = logging.getLogger("factedit")


def checked_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, what: str, *, blobs: Path | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model's folder, or one made of the folder's tokenizer.json where that cuts texts
    otherwise.

    Args:
        tokenizer: as transformers loaded it.
        folder: the model's; without a tokenizer.json there is nothing to compare with.
        what: how to name the model in messages.
        blobs: where links of the hub's cache may lead.

    Raises:
        ModelError: tokenizer.json cannot be read.
        UnsupportedModel: it cuts texts at random, or no tokenizer can be made that agrees with it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return tokenizer
    file = _file(path, what)
    config = folder / "tokenizer_config.json"
    said = read_json(config, what, blobs=blobs) if config.is_file() else {}
    flags = {name: said[name] for name in _FLAGS if isinstance(said.get(name), bool)}
    try:
        differing = _difference(tokenizer, file, start_too=not flags)
    except Exception as error:  # of settings of other types than the libraries expect
        raise ModelError(
            f"The tokenizer of {what} cannot be used ({type(error).__name__}: {first_line(error)}): its "
            "tokenizer_config.json is damaged. Download or copy it again."
        ) from error
    if differing is None:
        return tokenizer
    mended = _from_file(tokenizer, file, flags)
    if _difference(mended, file, start_too=not flags) is not None:
        raise UnsupportedModel(
            f"{type(tokenizer).__name__}, which {what} names as its tokenizer, cuts {differing!r} otherwise than its "
            "tokenizer.json. Take 'tokenizer_class' out of its tokenizer_config.json, or get the files that belong "
            "together."
        )
    _log.warning(
        "%s names %s as its tokenizer, which cuts %r otherwise than its tokenizer.json; the file is used.",
        what, type(tokenizer).__name__, differing,
    )  # fmt: skip
    return mended


def _file(path: Path, what: str) -> Any:
    """The tokenizer of a tokenizer.json, of the tokenizers library, which cuts whole texts."""
    from tokenizers import Tokenizer

    try:
        file = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise ModelError(
            f"{path.name} of {what} is damaged ({first_line(error)}). Download or copy it again."
        ) from error
    refuse_sampling(file)
    file.no_truncation()
    file.no_padding()
    return file


def refuse_sampling(backend: Any) -> None:
    """Refuse a tokenizer that cuts the same text now this way, now that (BPE dropout, Unigram sampling).

    Args:
        backend: of the tokenizers library.

    Raises:
        UnsupportedModel: saying by what.
    """
    for setting in ("dropout", "alpha"):
        value = getattr(backend.model, setting, None)
        if value:
            raise UnsupportedModel(
                f"The tokenizer cuts a text at random ({setting} = {value:g}), as in training, so no position in it "
                f"means anything. Take {setting!r} out of tokenizer.json, or set it to None."
            )


def _difference(tokenizer: Any, file: Any, *, start_too: bool) -> str | None:
    """A text that the two cut otherwise, or None.

    Args:
        tokenizer: of transformers.
        file: of the tokenizers library.
        start_too: whether added start and end tokens count; not where the configuration decides about them.
    """
    for text in PROBES:
        for added in (False, True) if start_too else (False,):
            ids = tokenizer(text, add_special_tokens=added)["input_ids"]
            if list(ids) != file.encode(text, add_special_tokens=added).ids:
                return text
    return None


def _from_file(tokenizer: Any, file: Any, flags: dict[str, bool]) -> PreTrainedTokenizerBase:
    """A tokenizer that is the file's, with those named special tokens and settings of the loaded one that fit it."""
    from transformers import PreTrainedTokenizerFast

    named = {name: getattr(tokenizer, name) for name in _NAMED}
    known = {name: str(token) for name, token in named.items() if token and file.token_to_id(str(token)) is not None}
    rest = {"chat_template": tokenizer.chat_template, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=file, **known, **flags, **rest)
