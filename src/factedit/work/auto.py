"""Choose a joint method by trying: `--method auto`.

A part of the user's own facts (facts of the embedded set where these are few) is edited with every candidate within a
time budget: none is begun that would not end within it, going by the longest so far, once one could be tried. Among
those whose harm stays within bounds the one that writes most facts is taken; equal ones are told
apart by other wordings, then by harm. Where every candidate breaks a bound, the one that breaks it least is taken, and
that is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from factedit.data.registry import load_facts, select
from factedit.edit.artefact import Edit
from factedit.edit.method import MomentSource
from factedit.edit.method_table import make_method
from factedit.edit.standing import facts_on
from factedit.errors import EditError, FacteditError
from factedit.evaluate.harm import Harm
from factedit.evaluate.holding import Share
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.work.fact_list import sort_out
from factedit.work.progress import Progress, silent
from factedit.work.together import FAILED, TOOK, EditedTogether, edit_together

AUTO = "auto"
TRIED = 24  # facts that are edited to choose
FEW = 8  # below so many facts of the user's, facts of the embedded set are tried instead
NEIGHBOURS_LOST = 10.0  # points that neighbours may lose at most
PANEL_LOST = 10.0  # points that other known facts may lose at most
PERPLEXITY_UP = 0.05  # share by which the perplexity may rise at most


class Candidate(NamedTuple):
    """A method with departures from its preset."""

    method: str
    settings: Mapping[str, Any]

    @property
    def text(self) -> str:
        """As one would ask for it."""
        return " ".join([self.method, *(f"--set {name}={value}" for name, value in self.settings.items())])


CANDIDATES = (
    Candidate("rome-joint", {}),
    Candidate("rome-joint", {"share": 0.8, "ridge": 0.1}),  # gentler, where the preset breaks a bound
    Candidate("memit", {}),
)


@dataclass(frozen=True)
class Trial:
    """What a candidate did to the tried facts.

    Attributes:
        candidate: the method.
        written, wordings: of the tried facts and their other wordings, in percent; None where there are none.
        neighbours_lost, panel_lost: in points; None where nothing was asked.
        perplexity_up: as a share.
        seconds: that it took.
        failed: why it could not be tried.
    """

    candidate: Candidate
    written: float | None = None
    wordings: float | None = None
    neighbours_lost: float | None = None
    panel_lost: float | None = None
    perplexity_up: float | None = None
    seconds: float = 0.0
    failed: str = ""

    @property
    def over(self) -> float:
        """By how much it breaks the bounds, each in units of itself; 0 where it keeps them."""
        bounds = (
            (self.neighbours_lost, NEIGHBOURS_LOST), (self.panel_lost, PANEL_LOST),
            (self.perplexity_up, PERPLEXITY_UP),
        )  # fmt: skip
        return max(0.0, *((value or 0.0) / bound - 1 for value, bound in bounds))

    def as_json(self) -> dict[str, Any]:
        """Return the same as JSON values."""
        return vars(self) | {"candidate": self.candidate.text, "over": self.over}


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        chosen: the candidate.
        trials: all of them, in order.
        facts: how many were tried.
        users: they were the user's own.
        left: candidates that the time did not allow.
    """

    chosen: Candidate
    trials: tuple[Trial, ...]
    facts: int
    users: bool
    left: tuple[Candidate, ...] = ()

    @property
    def why(self) -> str:
        """The choice in a sentence or two."""
        [best] = [trial for trial in self.trials if trial.candidate == self.chosen]
        whose = "of your facts" if self.users else "facts of the embedded set"
        kept = (
            f"within the bounds (neighbours {NEIGHBOURS_LOST:g} points, other facts {PANEL_LOST:g} points, perplexity "
            f"{100 * PERPLEXITY_UP:g} %)"
        )
        reason = f"most facts written {kept}" if best.over == 0 else f"none stays {kept}; this one breaks them least"
        said = f"{self.chosen.text}: {best.written or 0:.0f} % of {self.facts} {whose} written; {reason}."
        if self.left:
            untried = ", ".join(candidate.text for candidate in self.left)
            said += f" The time did not allow to try {untried}: give more (--minutes)."
        if best.written == 0:
            said += " No candidate wrote any of them: look at the facts' wording, or name a method and its settings."
        return said

    def as_json(self) -> dict[str, Any]:
        """Return the choice, why, and all trials, as JSON values."""
        trials = [trial.as_json() for trial in self.trials]
        return {"chosen": self.chosen.text, "why": self.why, "facts": self.facts, "users": self.users, "trials": trials}


def choose(
    base: EditableModel,
    moments: MomentSource,
    records: Sequence[FactRecord],
    *,
    earlier: Sequence[Edit] = (),
    seconds: float = 900.0,
    preset: str = "tuned",
    candidates: Sequence[Candidate] = CANDIDATES,
    clock: Callable[[], float] = time.monotonic,
    progress: Progress = silent,
) -> Choice:
    """Try candidates and choose one.

    Args:
        base: the unedited model; not changed.
        moments: gives second moments.
        records: the user's facts.
        earlier: edits that are on the model.
        seconds: the budget: no further candidate is begun that would end later. One is tried in any case.
        preset: see `make_method`.
        candidates: what is tried, in order.
        clock: gives seconds.
        progress: told the candidates done.

    Raises:
        UsageError: no facts; facts that contradict each other.
        EditError: no candidate could be tried.
    """
    wanted = sort_out(base, records, facts_on(earlier)).wanted
    enough = len(wanted) >= FEW
    tried = _some(wanted) if enough else list(select(load_facts("worldfacts").records, limit=TRIED, split="tune"))
    began, trials = clock(), list[Trial]()
    for number, candidate in enumerate(candidates):
        longest = max((trial.seconds for trial in trials), default=0.0)
        if any(not trial.failed for trial in trials) and clock() - began + longest > seconds:
            break
        progress("trying methods", number, len(candidates))
        trials.append(_try(base, moments, candidate, tried, earlier, clock, preset))
    progress("trying methods", len(candidates), len(candidates))
    could = [trial for trial in trials if not trial.failed]
    if not could:
        raise EditError(f"No method could be tried: {'; '.join(f'{t.candidate.text}: {t.failed}' for t in trials)}")
    best = min(could, key=_order)
    return Choice(best.candidate, tuple(trials), len(tried), enough, tuple(candidates[len(trials) :]))


def _order(trial: Trial) -> tuple[float, ...]:
    """The better, the smaller: bounds kept, written, wordings, harm."""
    harm = sum(value or 0.0 for value in (trial.neighbours_lost, trial.panel_lost))
    return trial.over, -(trial.written or 0.0), -(trial.wordings or 0.0), harm


def _some(records: Sequence[FactRecord]) -> list[FactRecord]:
    """Some of the facts, evenly drawn."""
    count = min(TRIED, len(records))
    return [records[n * len(records) // count] for n in range(count)]


def _try(
    base: EditableModel,
    moments: MomentSource,
    candidate: Candidate,
    tried: Sequence[FactRecord],
    earlier: Sequence[Edit],
    clock: Callable[[], float],
    preset: str,
) -> Trial:
    began = clock()
    try:
        method = make_method(candidate.method, base, moments, preset=preset, **candidate.settings)
        outcome = edit_together(base, method, tried, earlier=earlier, also_known=True)
    except FacteditError as error:  # also settings that a model's shape does not fit, a C that is not there
        return Trial(candidate, failed=str(error), seconds=clock() - began)
    if outcome.facts and outcome.count(FAILED) == len(outcome.facts):
        return Trial(candidate, failed=outcome.facts[0].why, seconds=clock() - began)
    return _trial(candidate, outcome, clock() - began)


def _trial(candidate: Candidate, outcome: EditedTogether, seconds: float) -> Trial:
    edited = [fact for fact in outcome.facts if fact.after is not None]
    before, after = outcome.neighbours
    lost = None if before.percent is None or after.percent is None else before.percent - after.percent
    panel, perplexity = (None, None) if outcome.harm is None else _lost(*outcome.harm)
    return Trial(
        candidate,
        written=Share(outcome.count(TOOK), len(edited)).percent,
        wordings=outcome.wordings.percent,
        neighbours_lost=lost,
        panel_lost=panel,
        perplexity_up=perplexity,
        seconds=seconds,
    )


def _lost(before: Harm, after: Harm) -> tuple[float | None, float | None]:
    """Points of the panel that were lost, and the share that the perplexity rose; None where nothing could be asked.

    A perplexity that is no number any more has risen without end.
    """
    panel = None if math.isnan(before.panel) else before.panel - after.panel
    if math.isnan(before.perplexity):
        return panel, None
    return panel, math.inf if math.isnan(after.perplexity) else after.perplexity / before.perplexity - 1
