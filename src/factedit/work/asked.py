"""What stands beside a table: the command that gives it again, the data it is of, what one must know to read it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from factedit.data.records import RecordSet
from factedit.edit.manifest import installed
from factedit.evaluate.run import Evaluation
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.report.tables import notes_on_rows


def command_line(name: str, *arguments: str, **options: Any) -> str:
    """Return a command line as a shell takes it: options that are set, a tuple's once for each value, files by their
    names alone.
    """
    parts = ["factedit", name, *(shlex.quote(_without_folder(argument)) for argument in arguments)]
    for option, values in options.items():
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value is not False:
                told = "" if value is True else f" {shlex.quote(_without_folder(value))}"
                parts.append(f"--{option.replace('_', '-')}{told}")
    return " ".join(parts)


def _without_folder(value: Any) -> str:
    return Path(value).name if isinstance(value, str | Path) and Path(value).exists() else str(value)


def place_of(model: EditableModel) -> dict[str, str | None]:
    """Return number type and device as options, where they are not the defaults."""
    dtype, device = str(model.dtype).removeprefix("torch."), str(model.device)
    return {"dtype": None if dtype == "float32" else dtype, "device": None if device == "cpu" else device}


def data_in_words(data: RecordSet[Any]) -> str:
    """Return a data set's name and the beginning of its hash."""
    return f"{data.name}, sha256 {data.sha256[:16]}"


def versions_in_words() -> str:
    """Return the versions of factedit and of the libraries that compute."""
    return ", ".join(f"{name} {version}" for name, version in installed().items())


def about_table(model: EditableModel, data: RecordSet[Any], line: str, *, records: str) -> dict[str, str]:
    """Return what a table is of, by name: model, data, which records, the command line, versions."""
    return {
        "model": model.name, "fingerprint": model.fingerprint(), "data": data_in_words(data), "records": records,
        "command": line, "versions": versions_in_words(),
    }  # fmt: skip


def notes_of(data: RecordSet[FactRecord], evaluation: Evaluation) -> tuple[str, ...]:
    """Return what one must know to read the scores: which records, prompts and tests are not in them, in sentences."""
    notes = (data.note_on_skipped(), evaluation.kept.note(), *evaluation.unmeasured.values())
    return tuple(note for note in (*notes, *notes_on_rows(evaluation.results)) if note)
