"""Text of users and models as a terminal may show it; the standard library alone, so that it is there at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

# what a terminal obeys or what turns the order of letters: C0 (but line feed), DEL, C1, line and paragraph separators,
# bidirectional marks, embeddings, overrides and isolates, tags, lone surrogates
UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)

QUOTED = 120  # characters of a quotation that are kept
LONG_QUOTE = re.compile(rf"(['\"])((?:\\.|(?!\1)[^\\]){{{QUOTED + 20},}})\1", re.DOTALL)  # as `repr` quotes


def safe_text(text: str) -> str:
    r"""Return the text with every character that a terminal would obey written out, e.g. ESC as `\x1b`."""
    return UNSAFE.sub(lambda match: _written_out(ord(match[0])), text)


def cut_quotes(text: str) -> str:
    """Return the text with everything between quotes cut to a line; a message of somebody's page of text stays a
    message.
    """
    return LONG_QUOTE.sub(lambda match: f"{match[1]}{match[2][:QUOTED]}…{match[1]}", text)


def safe_json(text: str) -> str:
    r"""Return JSON text that says the same, with those characters as JSON's own escapes, e.g. ESC as `\u001b`.

    They can stand inside JSON strings only, so the value is the same.
    """
    return UNSAFE.sub(lambda match: _json_escape(ord(match[0])), text)


def parse_json(text: str | bytes, **how: Any) -> Any:
    """Return the value of JSON text that anybody may have written.

    Args:
        text: the text, in UTF-8 where it is bytes.
        how: what `json.loads` takes.

    Raises:
        ValueError: it is no JSON, or nested so deep that it is nothing that anybody means.
    """
    try:
        return json.loads(text, **how)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict (a hook of `json.loads`, which lets the last of equal keys win without a word).

    Raises:
        ValueError: a key stands twice in it.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} stands twice in one object: merge the two")
    return value


def plain_json(value: Any, **how: Any) -> str:
    """Return JSON for a file that is shown to people, too: indented, without the characters that terminals obey.

    Args:
        value: JSON values.
        how: what `json.dumps` takes.
    """
    return safe_json(json.dumps(value, indent=1, ensure_ascii=False, **how))


def own_json(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return JSON as the commands write it, by whose layout and end it is known again as factedit's own.

    It ends in a space and a line feed: notebooks and edits are laid out alike, and end in a line feed alone.
    """
    return plain_json(value, allow_nan=False, default=default) + " \n"


def without_nan(value: Any) -> Any:
    """Return the value with what JSON cannot hold as null: NaN and infinities."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _written_out(code: int) -> str:
    if code in (0x09, 0x0D):
        return "\\t" if code == 0x09 else "\\r"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
