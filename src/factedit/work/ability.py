"""Ask ability sets of a model, and again with edits on it, through lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit
from factedit.errors import UsageError
from factedit.evaluate.ability.harness import TaskAnswers, ask_tasks, lm_eval, write_tasks
from factedit.evaluate.ability.items import AbilityItem, AbilityTask, items_of, sets_folder, tasks_in
from factedit.evaluate.ability.paired import Paired, paired
from factedit.evaluate.distribution import NextToken
from factedit.evaluate.together import Together
from factedit.stack.stand import check_made_for
from factedit.work.inputs import Opener
from factedit.work.progress import Progress, silent


@dataclass(frozen=True)
class Abilities:
    """What was found.

    Attributes:
        unedited: by task what the harness gives for the unedited model.
        edited: the same with the edits on; None where there are none.
        notes: what is to be said of the edits.
    """

    unedited: Mapping[str, TaskAnswers]
    edited: Mapping[str, TaskAnswers] | None
    notes: tuple[str, ...] = field(default=())

    def compared(self) -> dict[str, Paired]:
        """Return each task before and after; nothing where there are no edits."""
        edited = self.edited or {}
        return {name: paired(self.unedited[name], after) for name, after in edited.items()}

    def as_json(self) -> dict[str, Any]:
        """Return `{task: {unedited: {score: value}, edited, compared}}`."""
        pairs = self.compared()
        return {
            name: {
                "unedited": dict(before.scores),
                "edited": None if self.edited is None else dict(self.edited[name].scores),
                "compared": pairs[name].as_json() if name in pairs else None,
            }
            for name, before in self.unedited.items()
        }


def ability_items(
    data: Path | None, names: Sequence[str] = (), limit: int | None = None
) -> tuple[list[AbilityTask], dict[str, list[AbilityItem]]]:
    """Return tasks and their items.

    Args:
        data: the folder; None is `ability` in the folder that FACTEDIT_DATA names.
        names: of tasks; none is all that the folder holds.
        limit: items of each at most, evenly drawn.

    Raises:
        UsageError, DataError: see `tasks_in`.
    """
    folder = sets_folder(data)
    if folder is None:
        raise UsageError("Name the folder of the ability sets (--data), or a folder that holds it in FACTEDIT_DATA.")
    tasks = tasks_in(folder, list(names) or None)
    return tasks, {task.name: items_of(task, folder, limit) for task in tasks}


def write_ability_tasks(out: Path, data: Path | None, names: Sequence[str] = (), limit: int | None = None) -> list[str]:
    """Write the tasks for the harness's own command line (`--include_path`); return their names there.

    Args:
        out: where to.
        data, names, limit: see `ability_items`.
    """
    tasks, items = ability_items(data, names, limit)
    return write_tasks(tasks, items, out)


def ask_abilities(
    source: Opener,
    edits: Sequence[Path] = (),
    *,
    data: Path | None = None,
    names: Sequence[str] = (),
    limit: int | None = None,
    batch: int = 16,
    progress: Progress = silent,
) -> Abilities:
    """Ask a model, and where there are edits the model with them on.

    Args:
        source: gives the unedited model and the edits that are on it.
        edits: folders of further ones.
        data, names, limit: see `ability_items`.
        batch: texts at a time.
        progress: told the runs done.

    Raises:
        UsageError: the harness is not installed, or the sets are not found.
        EditError: an edit that was made for other weights.
    """
    lm_eval()
    tasks, items = ability_items(data, names, limit)
    further = [Edit.load(folder) for folder in edits]
    model, on = source()
    every = [*on, *further]
    notes = check_made_for(model, every)
    progress("asking (runs)", 0, 1 + bool(every))
    unedited = ask_tasks(model, tasks, items, batch=batch)
    progress("asking (runs)", 1, 1 + bool(every))
    if not every:
        return Abilities(unedited, None)
    together = Together(model).plus(every)
    with together.on(model):
        edited = ask_tasks(model, tasks, items, on_prompt=partial(_on_prompt, together), batch=batch)
    progress("asking (runs)", 2, 2)
    return Abilities(unedited, edited, notes)


def _on_prompt(together: Together, text: str) -> str:
    """Return what is asked in place of a text; the text itself unless some of the edits are of prompts."""
    return str(together.asked([[NextToken(text)]])[0][0].prompt)
