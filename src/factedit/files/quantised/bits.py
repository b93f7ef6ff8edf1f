"""Whole numbers of few bits in words, four-bit floats, powers of two: what the kinds of quantised weights share."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 32
# FP4 E2M1 by its four bits: sign, two of the exponent, one of the mantissa (OCP Microscaling Formats 1.0, table 5).
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
NO_NUMBER = 255  # E8M0's NaN (same document, 5.4.1)


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Return whole numbers that lie one behind the other in words, the lowest bits first.

    Args:
        words: `[..., words]` int32.
        bits: of each number, 1 to 8; one may begin in a word and end in the next.
        count: how many numbers the last dimension holds.

    Returns:
        `[..., count]` int32, 0 to 2^bits − 1.
    """
    most = (1 << bits) - 1
    if WORD % bits == 0:
        shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
        return ((words.unsqueeze(-1) >> shifts) & most).flatten(-2)[..., :count]
    at = torch.arange(count) * bits
    wide = torch.nn.functional.pad(words.to(torch.int64) & 0xFFFFFFFF, (0, 1))
    low, high = wide[..., at // WORD] >> (at % WORD), wide[..., at // WORD + 1] << (WORD - at % WORD)
    return ((low | high) & most).to(torch.int32)


def pack(numbers: Tensor, bits: int) -> Tensor:
    """Return the words that `unpack` reads numbers `[..., count]` from; what is left of the last word is zero."""
    count = -(-numbers.shape[-1] * bits // WORD) * WORD
    each = (numbers.unsqueeze(-1) >> torch.arange(bits)) & 1
    stream = torch.nn.functional.pad(each.flatten(-2), (0, count - numbers.shape[-1] * bits))
    words = (stream.to(torch.int64).unflatten(-1, (-1, WORD)) << torch.arange(WORD)).sum(-1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def halves(bytes_: Tensor, *, high_first: bool = False) -> Tensor:
    """Return the two four-bit numbers of every byte: `[..., n]` uint8 -> `[..., 2 n]`; the low one first."""
    low, high = bytes_ & 15, bytes_ >> 4
    return torch.stack((high, low) if high_first else (low, high), dim=-1).flatten(-2)


def join_halves(numbers: Tensor, *, high_first: bool = False) -> Tensor:
    """Return the bytes that `halves` reads four-bit numbers `[..., 2 n]` from."""
    first, second = numbers.to(torch.uint8).unflatten(-1, (-1, 2)).unbind(-1)
    both: Tensor = (first << 4) | second if high_first else first | (second << 4)
    return both


def coded(numbers: Tensor, codes: Tensor) -> Tensor:
    """Return what numbers of few bits stand for in a table of values, float32."""
    return torch.take(codes.float(), numbers.long())


def nearest(values: Tensor, codes: Tensor, before: Tensor) -> Tensor:
    """Return the number of the nearest value of a table; the number before where it still says the value.

    Args:
        values: any shape.
        codes: the table; zero may stand in it twice.
        before: the numbers so far, of the same shape.
    """
    order = codes.float().sort()
    between = (order.values[1:] + order.values[:-1]) / 2
    numbers = order.indices[torch.bucketize(values.float().contiguous(), between)]
    same = coded(numbers, codes) == coded(before, codes)
    return torch.where(same, before.to(numbers.dtype), numbers)


def nearer(blocks: Tensor, before: Tensor, kept: Tensor, grown: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers of E2M1 blocks, and which blocks take the larger one of two scales.

    A scale that is twice as large puts every number of a block on a grid twice as coarse, which may cost more than
    cutting one number off: whichever comes nearer is taken.

    Args:
        blocks: values `[..., blocks, size]`.
        before: the numbers so far, of the same shape.
        kept, grown: two scales for every block.
    """
    codes, tried = torch.tensor(E2M1), []
    for scale in (kept.unsqueeze(-1), grown.unsqueeze(-1)):
        numbers = nearest(blocks / scale, codes, before)
        tried.append((numbers, (coded(numbers, codes) * scale - blocks).square().sum(-1)))
    larger = tried[1][1] < tried[0][1]
    return torch.where(larger.unsqueeze(-1), tried[1][0], tried[0][0]), larger


def powers(exponents: Tensor) -> Tensor:
    """Return 2^(e − 127) of E8M0 exponents (uint8); NaN where the format has NaN."""
    value = torch.exp2(exponents.view(torch.uint8).to(torch.float64) - 127).float()
    return torch.where(exponents.view(torch.uint8) == NO_NUMBER, torch.nan, value)


def exponents(least: Tensor) -> Tensor:
    """Return the E8M0 exponents of the smallest powers of two that are not below the numbers given."""
    return (torch.log2(least.double().clamp(min=2.0**-127)).ceil() + 127).clamp(0, NO_NUMBER - 1).to(torch.uint8)
