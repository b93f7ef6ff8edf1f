"""The corrupted run: Gaussian noise on the embeddings of the subject's tokens (ROME, arXiv 2202.05262, section 2.1), or
another subject of as many tokens in its place (symmetric replacement, arXiv 2309.16042).

The noise is the published program's own stream, `numpy.random.RandomState(seed).randn(samples, subject_tokens,
d_model)` with seed 1, times ν; it is the same for every restored state of a fact, so results compare number
for number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from factedit.engine.resume import embed
from factedit.errors import RequestError, UsageError, shown
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.models.tokens import check_embedded

SIGMAS = re.compile(r"([0-9.]+)s")
Corruption = Callable[[Tensor], Tensor]  # the subject's embeddings [1, tokens, d_embed] -> corrupted ones [samples, …]


def noise_samples(samples: int, tokens: int, width: int, *, seed: int) -> Tensor:
    """Return standard normal noise `[samples, tokens, width]` in float64, from numpy's legacy stream."""
    return torch.from_numpy(np.random.RandomState(seed).randn(samples, tokens, width))


def by_noise(noise: float, samples: int, *, seed: int) -> Corruption:
    """Return what adds ν times standard normal noise."""

    def corrupted(embeddings: Tensor) -> Tensor:
        extra = noise * noise_samples(samples, embeddings.shape[1], embeddings.shape[2], seed=seed)
        return embeddings.repeat(samples, 1, 1) + extra.to(embeddings)

    return corrupted


def by_subject(model: EditableModel, template: str, subject: str, other: str) -> Corruption:
    """Return what puts the embeddings of another subject in the place of the subject's.

    Raises:
        RequestError: the other subject has another number of tokens there, the same ones, or changes those around it.
    """
    text, swapped = locate(model, template, subject), locate(model, template, other)
    begin, end = text.subject_range
    counts = [stop - start for start, stop in (text.subject_range, swapped.subject_range)]
    if text.subject_range != swapped.subject_range or _around(text.ids, begin, end) != _around(swapped.ids, begin, end):
        raise RequestError(
            f"{shown(other)} cannot stand for {shown(subject)} here: it has {counts[1]} tokens and the subject "
            f"{counts[0]}, or the tokens around it change. Choose a subject of {counts[0]} tokens."
        )
    if swapped.ids == text.ids:
        raise RequestError(f"{shown(other)} in the place of {shown(subject)} changes nothing. Choose another subject.")
    ids = torch.tensor([swapped.ids[begin:end]], device=model.device)
    return lambda embeddings: embed(model, ids).to(embeddings)


def _around(ids: Sequence[int], begin: int, end: int) -> tuple[int, ...]:
    return (*ids[:begin], *ids[end:])


@torch.no_grad()
def embedding_sigma(model: EditableModel, subjects: Iterable[str]) -> float:
    """Return standard deviation of the token embeddings' entries over the subjects' tokens (no start tokens).

    ν is three times this (ROME section 2.1, appendix B.1, whose text measures it on a body of text).

    Raises:
        UsageError: no subjects.
        RequestError: a subject holds a token that the model has no embedding for.
    """
    ids = [i for s in subjects for i in model.tokenizer(s, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise UsageError("The noise level 3s needs subjects to measure embeddings on; give a number instead.")
    check_embedded(model, ids)
    return float(embed(model, torch.tensor([ids], device=model.device)).float().std())


def parse_noise(text: str | float) -> tuple[float, bool]:
    """Return a noise level as written: `"3s"` is (3.0, True), three standard deviations; `"0.1"` is (0.1, False).

    Raises:
        UsageError: neither a number nor a number followed by `s`, or not positive.
    """
    match = SIGMAS.fullmatch(str(text))
    try:
        value = float(match.group(1) if match else text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"The noise {text!r} is neither a positive number nor one followed by 's', such as 0.1 or 3s.")
    return value, match is not None


def noise_level(model: EditableModel, text: str | float, subjects: Iterable[str]) -> float:
    """Return ν from a noise level as written: a number as it is, `"3s"` times the embeddings' standard deviation.

    Args:
        model: whose embeddings.
        text: see `parse_noise`.
        subjects: whose tokens' embeddings are measured.

    Raises:
        UsageError: see `parse_noise` and `embedding_sigma`.
    """
    value, sigmas = parse_noise(text)
    return value * embedding_sigma(model, subjects) if sigmas else value
