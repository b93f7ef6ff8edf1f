"""How the answer falls as the subject is blurred more and more: the corrupted run at several noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from factedit.errors import NotFinite, UsageError, shown
from factedit.facts import template_of
from factedit.models.adapter import EditableModel
from factedit.trace.asked import prompt_to_trace
from factedit.trace.corrupt import by_noise, parse_noise
from factedit.trace.sweep import corrupted_fact
from factedit.work.inputs import noise_for
from factedit.work.progress import Progress, advancing, silent

LEVELS = ("0.5s", "1s", "1.5s", "2s", "2.5s", "3s", "3.5s", "4s", "5s", "6s")


class Blurred(NamedTuple):
    """The corrupted run at one noise level.

    Attributes:
        level: as it was asked for: a number, or `3s`.
        noise: ν.
        corrupted: P*[o], the mean over the samples.
    """

    level: str
    noise: float
    corrupted: float


class Fall(NamedTuple):
    """The answer of one prompt, clean and ever more blurred.

    Attributes:
        answer: the token that the clean run ranks first, as text.
        clean: P[o].
        levels: per noise level what is left.
    """

    answer: str
    clean: float
    levels: tuple[Blurred, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return {"answer": self.answer, "clean": self.clean, "levels": [level._asdict() for level in self.levels]}


def named_levels(text: str) -> tuple[str, ...]:
    """Return noise levels as written: `all`, or levels with commas; none of an empty text."""
    return LEVELS if text.strip() == "all" else tuple(part.strip() for part in text.split(",") if part.strip())


def fall(
    model: EditableModel,
    prompt: str,
    subject: str,
    levels: Sequence[str] = LEVELS,
    *,
    samples: int = 10,
    seed: int = 1,
    progress: Progress = silent,
) -> Fall:
    """Run a prompt clean, and corrupted at several noise levels (ROME, arXiv 2202.05262, section 2.1).

    Args:
        model: unchanged.
        prompt: a complete text.
        subject: a part of it.
        levels: noise levels, each a number or `3s`, three standard deviations of the embedded facts' subjects.
        samples, seed: of the noise; the numbers at a level are those of a trace with these.
        progress: told the levels done.

    Raises:
        RequestError: the subject is not in the prompt, or the prompt is too long.
        UsageError: no levels, one that is no noise level, or no samples.
        NotFinite: a level gives numbers that are not finite.
    """
    if not levels or samples < 1:
        raise UsageError("Nothing is asked: give at least one noise level and one sample.")
    parsed = [parse_noise(level) for level in levels]
    sigma = noise_for(model, "1s") if any(of_sigma for _, of_sigma in parsed) else 1.0
    template, advance = template_of(prompt, subject), advancing(progress, "blurring the subject (levels)", len(levels))
    asked, blurred, clean = prompt_to_trace(model, template, subject), list[Blurred](), math.nan
    answer = ""
    for level, (value, of_sigma) in zip(levels, parsed, strict=True):
        noise = value * sigma if of_sigma else value
        named, fact = corrupted_fact(model, asked, by_noise(noise, samples, seed=seed))
        answer, clean = named.answer, fact.clean
        if not all(map(math.isfinite, (clean, fact.corrupted))):
            raise NotFinite(f"Blurred with noise {level} at {shown(prompt)}, the model's numbers are not finite.")
        blurred.append(Blurred(level, noise, fact.corrupted))
        advance(1)
    return Fall(answer, clean, tuple(blurred))
