"""A puzzle for classes: five models, each with one matrix changed by as much; one was edited, and about what?"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from factedit.account.outcome import Audit
from factedit.data.registry import load_facts
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Method
from factedit.errors import EditError, UsageError
from factedit.export.lora import write_peft
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.work.account import audit_model
from factedit.work.edit import edit_facts
from factedit.work.progress import Progress, silent

NAMES = "ABCDE"
FACTS = "worldfacts"
TRIES = 4  # facts, to find one that takes
KEPT = 30  # puzzles: five rank-one changes each


@dataclass(frozen=True)
class Puzzle:
    """Five models, of which one was edited.

    Attributes:
        seed: it was made with.
        suspects: what was put on each; of four it is a random change of the same size, about nothing.
        edited: which is the edited one.
    """

    seed: int
    suspects: tuple[Edit, ...]
    edited: int

    @property
    def fact(self) -> EditRequest:
        """What the edited one was edited about."""
        return self.suspects[self.edited].requests[0]

    def as_told(self) -> dict[str, Any]:
        """Return what the class is told before it has guessed."""
        return {"seed": self.seed, "names": list(NAMES)}

    def answer(self, guess: int) -> dict[str, Any]:
        """Return whether a guess is right, and the solution."""
        return {"right": guess == self.edited, "which": NAMES[self.edited], "fact": vars(self.fact)}


class Puzzles:
    """The puzzles that were made last, by their numbers, so that every window asks about its own."""

    def __init__(self) -> None:
        self._made: dict[int, Puzzle] = {}

    def keep(self, made: Puzzle) -> None:
        """Keep one; of more than `KEPT` the one that was made first goes."""
        others = [one for seed, one in self._made.items() if seed != made.seed]
        self._made = {one.seed: one for one in (*others[-(KEPT - 1) :], made)}  # whole or not at all: others read it

    def of(self, seed: int) -> Puzzle:
        """Return the puzzle of a number.

        Raises:
            UsageError: it was not made, or others were since.
        """
        made = self._made.get(seed)
        if made is None:
            raise UsageError(f"There is no puzzle {seed} any more; make it first.")
        return made


def make_puzzle(model: EditableModel, method: Callable[[], Method], *, seed: int) -> Puzzle:
    """Edit one of five copies about a fact of the embedded set, drawn with the seed; the others get random changes.

    Args:
        model: unedited; not changed.
        method: gives one that changes one matrix.
        seed: decides the fact, its place, and the random changes.

    Raises:
        UnsupportedModel, UsageError: the model cannot be edited.
        EditError: none of the facts that were drawn took.
    """
    model.family.check_edited(model.name)
    chance, editor = random.Random(seed), method()
    records = chance.sample(list(load_facts(FACTS).records), TRIES)
    for record in records:
        [made] = edit_facts(model, editor, [record.request])
        if made.edit.notes[0].after.get("answers_target_new"):
            break
    else:
        raise EditError("None of the facts of this puzzle could be written into the model; take another.")
    place, numbers = chance.randrange(len(NAMES)), torch.Generator().manual_seed(seed)
    suspects = [made.edit if n == place else _about_nothing(made.edit, numbers) for n in range(len(NAMES))]
    return Puzzle(seed, tuple(suspects), place)


def _about_nothing(edit: Edit, numbers: torch.Generator) -> Edit:
    """An edit of the same matrices by rank-one changes of the same size, at random."""
    effects = []
    for effect in weights_of([edit]):
        delta = effect.delta()
        left, right = (torch.randn(side, generator=numbers) for side in delta.shape)
        left *= delta.norm() / (left.norm() * right.norm())
        effects.append(LowRank(effect.place[0], left[:, None], right[None], effect.place[1]))
    return replace(edit, effects=tuple(effects), requests=(), notes=(), diagnostics={}, method="random")


def audit_suspect(model: EditableModel, puzzle: Puzzle, which: int, *, progress: Progress = silent) -> Audit:
    """Audit one of the five against the model, as `factedit audit` does an adapter's folder.

    Args:
        model: unedited; the same bits afterwards.
        puzzle: the five.
        which: of them.
        progress: told the tensors compared.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / f"model {NAMES[which]}"
        folder.mkdir()
        write_peft(model, [puzzle.suspects[which]], folder, base=model.name)
        return audit_model(model, str(folder), progress=progress)
