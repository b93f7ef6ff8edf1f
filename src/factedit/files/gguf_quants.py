"""Quantise blocks of a .gguf file anew: Q4_0 to Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL and MXFP4 (ggml's block formats).

The `gguf` package reads all of them and writes some. Here a block is tried with the scales it has and with scales made
for its new numbers, and the nearer of the two is stored: where an edit moves little, numbers that it does not move keep
their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
MX4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice E2M1
SIX = 63  # the largest scale of a part of a K-quant


@dataclass(frozen=True)
class Scales:
    """Of n blocks: a value is scale · number − least.

    Attributes:
        raw: as they are stored `[n, bytes]`.
        scale, least: per part of a block `[n, parts]`.
    """

    raw: Bytes
    scale: Floats
    least: Floats


@dataclass(frozen=True)
class Layout:
    """How one kind stores a block.

    Attributes:
        read: the scales of stored blocks `[n, bytes]`.
        fresh: scales for values `[n, parts, numbers]`.
        join: blocks from scales as they are stored and numbers `[n, numbers]`, counted from zero.
        parts: of a block, with a scale each.
        low, high: the least and the greatest number.
        codes: what numbers stand for, where they are no whole numbers.
    """

    read: Callable[[Bytes], Scales]
    fresh: Callable[[Floats], Scales]
    join: Callable[[Bytes, Bytes], Bytes]
    parts: int = 1
    low: int = 0
    high: int = 15
    codes: tuple[int, ...] = ()


def encode(kind: str, blocks: Bytes, values: Floats) -> Bytes:
    """Return blocks that hold new values.

    Args:
        kind: one of `LAYOUTS`, as ggml names it.
        blocks: as they are stored now, `[n, bytes]`.
        values: that they are to hold, `[n, numbers]` float32.
    """
    layout = LAYOUTS[kind]
    parted = values.reshape(len(values), layout.parts, -1)
    kept, kept_error = _with(layout, layout.read(blocks), parted)
    new, new_error = _with(layout, layout.fresh(parted), parted)
    chosen: Bytes = np.where((new_error < kept_error)[:, None], new, kept)
    return chosen.astype(np.uint8)


def _with(layout: Layout, scales: Scales, values: Floats) -> tuple[Bytes, Floats]:
    """Blocks with these scales, and the squared error of each."""
    scale, least = scales.scale[..., None], scales.least[..., None]
    wanted = np.divide(values + least, scale, out=np.zeros_like(values), where=scale != 0)
    if layout.codes:
        codes = np.array(layout.codes, dtype=np.float32)
        order = np.unique(codes, return_index=True)[1]  # by value; zero may stand there twice
        number = order[np.searchsorted((codes[order][1:] + codes[order][:-1]) / 2, wanted)]
        back = codes[number] * scale
    else:
        number = np.clip(np.rint(wanted), layout.low, layout.high)
        back = number * scale - least
    error = np.square(back - values).sum((1, 2))
    number = (number - layout.low).astype(np.uint8).reshape(len(values), -1)
    return layout.join(scales.raw, number), np.where(np.isfinite(error), error, np.inf).astype(np.float32)


def _half(values: Floats) -> tuple[Bytes, Floats]:
    """Numbers `[n]` as float16: their bytes `[n, 2]`, and what these say."""
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    return stored.view(np.uint8).reshape(-1, 2), stored.astype(np.float32)


def _of_half(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


# -- blocks of 32 ----------------------------------------------------------------------------------


def _plain(
    join: Callable[[Bytes, Bytes], Bytes], low: int, high: int, *, least: bool = False, codes: tuple[int, ...] = ()
) -> Layout:
    """A block with a float16 scale, and the least value where there is one."""

    def read(blocks: Bytes) -> Scales:
        numbers = _of_half(blocks[:, : 4 if least else 2])
        return Scales(
            blocks[:, : 4 if least else 2], numbers[:, :1], -numbers[:, 1:] if least else np.zeros_like(numbers)
        )

    def fresh(values: Floats) -> Scales:
        flat = values[:, 0]
        if least:
            start = flat.min(-1)
            (a, scale), (b, offset) = _half((flat.max(-1) - start) / (high - low)), _half(start)
            return Scales(np.concatenate([a, b], axis=1), scale[:, None], -offset[:, None])
        widest = np.take_along_axis(flat, np.abs(flat).argmax(-1)[:, None], 1)[:, 0]
        raw, scale = _half(widest / np.float32(min(codes) if codes else low))  # the widest one takes the longer side
        return Scales(raw, scale[:, None], np.zeros_like(scale)[:, None])

    return Layout(read, fresh, join, low=low, high=high, codes=codes)


def _nibbles(number: Bytes) -> Bytes:
    """`[n, 32]` -> `[n, 16]`: the second half of a block in the high bits."""
    both: Bytes = np.bitwise_or(number[:, :16] & 15, (number[:, 16:] & 15) << 4, dtype=np.uint8)
    return both


def _join_4(raw: Bytes, number: Bytes) -> Bytes:
    return np.concatenate([raw, _nibbles(number)], axis=1)


def _join_5(raw: Bytes, number: Bytes) -> Bytes:
    fifth = np.packbits(number >> 4, axis=1, bitorder="little")
    return np.concatenate([raw, fifth, _nibbles(number)], axis=1)


def _join_8(raw: Bytes, number: Bytes) -> Bytes:
    return np.concatenate([raw, number - np.uint8(128)], axis=1)


def _power(raw: Bytes) -> Floats:
    """2^(e − 128), as ggml halves E8M0: its values are twice E2M1."""
    return np.exp2(raw.astype(np.float64) - 128).astype(np.float32)


def _read_mx(blocks: Bytes) -> Scales:
    return Scales(blocks[:, :1], _power(blocks[:, :1]), np.zeros((len(blocks), 1), dtype=np.float32))


def _fresh_mx(values: Floats) -> Scales:
    most = np.maximum(np.abs(values[:, 0]).max(-1, keepdims=True).astype(np.float64), 2.0**-120)
    raw = np.clip(np.ceil(np.log2(most / 12)) + 128, 0, 254).astype(np.uint8)
    return Scales(raw, _power(raw), np.zeros(raw.shape, dtype=np.float32))


# -- K-quants: blocks of 256 -----------------------------------------------------------------------


def _six_bits(raw: Bytes) -> tuple[Bytes, Bytes]:
    """Twelve bytes -> eight scales and eight mins of six bits, as ggml packs them."""
    low, mins, high = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    return (
        np.concatenate([low & 63, (high & 15) | ((low >> 2) & 48)], axis=1),
        np.concatenate([mins & 63, (high >> 4) | ((mins >> 2) & 48)], axis=1),
    )


def _packed_six(scale: Bytes, least: Bytes) -> Bytes:
    """The twelve bytes that `_six_bits` reads."""
    first = (scale[:, :4] & 63) | ((scale[:, 4:] >> 4) << 6)
    second = (least[:, :4] & 63) | ((least[:, 4:] >> 4) << 6)
    return np.concatenate([first, second, (scale[:, 4:] & 15) | ((least[:, 4:] & 15) << 4)], axis=1)


def _read_k(blocks: Bytes) -> Scales:
    raw = blocks[:, :16]
    outer, (scale, least) = _of_half(raw[:, :4]), _six_bits(raw[:, 4:])
    return Scales(raw, outer[:, :1] * scale.astype(np.float32), outer[:, 1:] * least.astype(np.float32))


def _fresh_k(high: int) -> Callable[[Floats], Scales]:
    def fresh(values: Floats) -> Scales:
        start = np.minimum(values.min(-1), 0)
        step = (np.maximum(values.max(-1), start) - start) / high
        (d, d_is), (m, m_is) = _half(step.max(-1) / SIX), _half((-start).max(-1) / SIX)
        numbers = [_steps(part, outer[:, None], SIX) for part, outer in ((step, d_is), (-start, m_is))]
        return _read_k(np.concatenate([d, m, _packed_six(*(n.astype(np.uint8) for n in numbers))], axis=1))

    return fresh


def _steps(values: Floats, step: Floats, most: int) -> Floats:
    return np.clip(np.rint(np.divide(values, step, out=np.zeros_like(values), where=step != 0)), -most, most)


def _low_bits(number: Bytes) -> Bytes:
    """`[n, 256]` -> `[n, 128]`: of every 64 numbers the second 32 in the high bits."""
    pairs = number.reshape(len(number), 4, 2, 32) & 15
    both: Bytes = np.bitwise_or(pairs[:, :, 0], pairs[:, :, 1] << 4, dtype=np.uint8).reshape(len(number), 128)
    return both


def _join_q4_k(raw: Bytes, number: Bytes) -> Bytes:
    return np.concatenate([raw, _low_bits(number)], axis=1)


def _join_q5_k(raw: Bytes, number: Bytes) -> Bytes:
    fifth = np.packbits((number >> 4).reshape(len(number), 8, 32), axis=1, bitorder="little")
    return np.concatenate([raw, fifth[:, 0], _low_bits(number)], axis=1)


def _read_q6_k(blocks: Bytes) -> Scales:
    raw = blocks[:, 192:]
    scale = _of_half(raw[:, 16:]) * np.ascontiguousarray(raw[:, :16]).view(np.int8).astype(np.float32)
    return Scales(raw, scale, np.zeros_like(scale))


def _fresh_q6_k(values: Floats) -> Scales:
    step = np.abs(values).max(-1) / 31
    d, d_is = _half(step.max(-1) / 127)
    scale = _steps(step, d_is[:, None], 127).astype(np.int8).view(np.uint8)
    raw = np.concatenate([scale, d], axis=1)
    return _read_q6_k(np.concatenate([np.zeros((len(raw), 192), dtype=np.uint8), raw], axis=1))


def _join_q6_k(raw: Bytes, number: Bytes) -> Bytes:
    low = number.reshape(len(number), 2, 2, 64) & 15  # of 128 numbers the second 64 in the high bits
    high = number.reshape(len(number), 2, 4, 32) >> 4
    top = high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)
    low = (low[:, :, 0] | (low[:, :, 1] << 4)).reshape(len(number), 128)
    return np.concatenate([low, top.reshape(len(number), 64), raw], axis=1)


LAYOUTS = {
    "Q4_0": _plain(_join_4, -8, 7),
    "Q4_1": _plain(_join_4, 0, 15, least=True),
    "Q5_0": _plain(_join_5, -16, 15),
    "Q5_1": _plain(_join_5, 0, 31, least=True),
    "Q8_0": _plain(_join_8, -128, 127),
    "IQ4_NL": _plain(_join_4, 0, 15, codes=IQ4),
    "MXFP4": Layout(_read_mx, _fresh_mx, _join_4, codes=MX4),
    "Q4_K": Layout(_read_k, _fresh_k(15), _join_q4_k, parts=8),
    "Q5_K": Layout(_read_k, _fresh_k(31), _join_q5_k, parts=8, high=31),
    "Q6_K": Layout(_read_q6_k, _fresh_q6_k, _join_q6_k, parts=16, low=-32, high=31),
}
