"""What is done to sound files: seeded damage of bytes, and forgeries of the values in them."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

Random = random.Random
NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 2**31, 2**31 - 1, 2**63, -(2**63), 10**8, 10**30, 1e308, -0.5, 1e-320,
    float("nan"), float("inf"), "", " ", "x", "x" * 5000, "\ud800", "\x00", "\x1b[31m", "../../etc/passwd", "/dev/zero",
    "float32", "1", [], {}, [[]], [None], {"": None}, [1, "a", None], "{}", "é́東",
)  # fmt: skip


def damaged(raw: bytes, rng: Random) -> bytes:
    """The bytes with one to three accidents."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        raw = rng.choice(_ACCIDENTS)(raw, rng)
    return raw


def _place(raw: bytes, rng: Random) -> int:
    """A place; the beginning, where headers are, more often than not."""
    return rng.randrange(min(len(raw), rng.choice((16, 64, 512, 4096, len(raw) + 1)) or 1)) if raw else 0


def _flip(raw: bytes, rng: Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :] if raw else raw


def _set(raw: bytes, rng: Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + bytes([rng.choice((0, 1, 127, 128, 255, 34, 91, 123))]) + raw[at + 1 :]


def _number(raw: bytes, rng: Random) -> bytes:
    at, form = _place(raw, rng), rng.choice(("<B", "<H", "<I", "<Q"))
    size = struct.calcsize(form)
    value = rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 10**8, 300_000)) % (1 << 8 * size)
    return raw[:at] + struct.pack(form, value) + raw[at + size :]


def _cut(raw: bytes, rng: Random) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)]


def _remove(raw: bytes, rng: Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + raw[at + rng.choice((1, 2, 8, 100)) :]


def _repeat(raw: bytes, rng: Random) -> bytes:
    at, size = _place(raw, rng), rng.choice((1, 2, 8, 100, 1000))
    return raw[: at + size] + raw[at : at + size] + raw[at + size :]


def _insert(raw: bytes, rng: Random) -> bytes:
    at = _place(raw, rng)
    return raw[:at] + rng.randbytes(rng.choice((1, 2, 8))) + raw[at:]


def _blank(raw: bytes, rng: Random) -> bytes:
    at, size = _place(raw, rng), rng.choice((1, 4, 64, 4096))
    return raw[:at] + bytes(len(raw[at : at + size])) + raw[at + size :]


def _empty(_raw: bytes, _rng: Random) -> bytes:
    return b""


def _append(raw: bytes, rng: Random) -> bytes:
    return raw + rng.choice((b"\n", b"\0" * 100, raw[:50], b'{"a": 1}'))


_ACCIDENTS = (_flip, _flip, _set, _set, _number, _number, _cut, _remove, _repeat, _insert, _blank, _append, _empty)


def forged(value: Any, rng: Random) -> Any:
    """A JSON value with one part of it replaced, left out, doubled or nested deep."""
    value = json.loads(json.dumps(value))
    places = list(_places(value))
    if not places:
        return rng.choice(NASTY)
    holder, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.7:
        holder[key] = rng.choice(NASTY)
    elif kind < 0.8:
        del holder[key]
    elif kind < 0.9 and isinstance(holder, dict):
        holder[rng.choice(("extra", "auto_map", "__class__", "quantization_config", "dtype", key + " "))] = holder[key]
    elif isinstance(holder[key], str):
        holder[key] = forged_text(holder[key], rng)
    else:
        holder[key] = [holder[key]]
    return value


def _places(value: Any) -> Any:
    """Every (holder, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(items)[:200]:
        yield value, key
        yield from _places(part)


def forged_text(text: str, rng: Random) -> str:
    """A text, spoilt."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(("{}", "\ud800", "\x00", "\n", "‮", "", "x" * 2000, " ")) + text[at + 1 :]


def written(value: Any, rng: Random, *, indent: int | None = None) -> bytes:
    """JSON text, at times of a kind that few writers make: nested deep, a key twice, half a character."""
    text = json.dumps(value, indent=indent)
    kind = rng.random()
    if kind < 0.03:
        text = "[" * 100_000 + "]" * 100_000
    elif kind < 0.06 and text.startswith("{") and len(text) > 2:
        text = '{"format": 7, ' + text[1:]
    elif kind < 0.08:
        text = text + text
    return text.encode("utf-8", "surrogatepass")


def forged_safetensors(raw: bytes, rng: Random) -> bytes:
    """A safetensors file whose header says something else than before."""
    size = int.from_bytes(raw[:8], "little")
    header = written(forged(json.loads(raw[8 : 8 + size]), rng), rng)
    return len(header).to_bytes(8, "little") + header + raw[8 + size :]
