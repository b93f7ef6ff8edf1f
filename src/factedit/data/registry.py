"""The data sets there are, how they are found, and how records are drawn from them.

A published file is looked for in the folder `FACTEDIT_DATA`, then in the cache, then at its address.
Records with `case_id` divisible by 4 are for tuning, the others for the numbers one reports.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from factedit.data.dataset_table import DATASETS as DATASETS
from factedit.data.dataset_table import WORLDFACTS_SEED as WORLDFACTS_SEED
from factedit.data.dataset_table import Dataset as Dataset
from factedit.data.download import downloaded, fetch
from factedit.data.formats import format_of
from factedit.data.records import RECORD_FILES, Record, RecordSet, record_id
from factedit.errors import DataError, ResourceError, UnknownName, UsageError
from factedit.facts import FactRecord, KnownFact
from factedit.paths import user_path


def load_dataset(name_or_path: str | Path) -> RecordSet[Any]:
    """Return a data set by its name, or a user's file in one of the formats known.

    Args:
        name_or_path: a name in `DATASETS`, or a path; a name goes before a file of the same name.

    Raises:
        UnknownName: neither a name nor a file.
        DataError: a file that does not hold what it must.
        ResourceError: a file that is not there and cannot be downloaded.
    """
    row = DATASETS.get(str(name_or_path))
    if row is not None:
        return _load_row(row)
    path = Path(name_or_path)
    if not (path.exists() or path.name.endswith(RECORD_FILES)):
        raise UnknownName("data set", str(name_or_path), DATASETS, f"Or give a file: {', '.join(RECORD_FILES)}.")
    form = format_of(path)
    return replace(form.reader(path, path.name), benchmark=form.benchmark, own=True)


def load_facts(name_or_path: str | Path) -> RecordSet[FactRecord]:
    """Return a data set of facts to edit.

    Raises:
        UsageError: it holds facts to trace. Else as `load_dataset`.
    """
    return _of_kind(name_or_path, FactRecord, "facts", "facts to edit")


def load_known(name_or_path: str | Path) -> RecordSet[KnownFact]:
    """Return a data set of facts to trace.

    Raises:
        UsageError: it holds facts to edit. Else as `load_dataset`.
    """
    return _of_kind(name_or_path, KnownFact, "known", "facts to trace")


def _of_kind(name_or_path: str | Path, record: type, kind: str, words: str) -> RecordSet[Any]:
    row = DATASETS.get(str(name_or_path))
    dataset = load_dataset(name_or_path) if row is None or row.kind == kind else None
    if dataset is None or not isinstance(dataset.records[0], record):
        names = ", ".join(row.name for row in DATASETS.values() if row.kind == kind)
        raise UsageError(f"{name_or_path} does not hold {words}. Choose one of {names}, or a file of them.")
    return dataset


def _load_row(row: Dataset) -> RecordSet[Any]:
    if row.embedded is not None:
        records = tuple(row.embedded())
        content = json.dumps([vars(record) for record in records], default=vars, sort_keys=True)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        return RecordSet(row.name, records, 0, row.source, sha256, row.benchmark)
    if row.reader is None:
        raise DataError(f"The data set {row.name!r} has neither records of its own nor a reader.")
    return replace(row.reader(_locate(row), row.name), benchmark=row.benchmark)


def load_here(name: str) -> RecordSet[Any] | None:
    """Return a published data set that is at hand, in `FACTEDIT_DATA` or in the cache; nothing is downloaded.

    Raises:
        UsageError, DataError: as `load_dataset`.
    """
    row = DATASETS[name]
    path = _in_data_folder(row) or downloaded(row.files[0])
    return None if path is None or row.reader is None else replace(row.reader(path, name), benchmark=row.benchmark)


def _in_data_folder(row: Dataset) -> Path | None:
    """The file of a data set in `FACTEDIT_DATA`."""
    named = os.environ.get("FACTEDIT_DATA")
    if named:
        folder = user_path(named)
        if not folder.is_dir():
            raise UsageError(f"FACTEDIT_DATA names {named}, which is not a folder. Correct it or unset it.")
        for file in row.files:
            if (folder / file).is_file():
                return folder / file
    return None


def _locate(row: Dataset) -> Path:
    """The file of a data set: from `FACTEDIT_DATA`, the cache or its address."""
    if path := _in_data_folder(row):
        return path
    if row.url is None:
        raise ResourceError(
            f"The data set {row.name!r} is a local file only and was not found. Put {row.files[0]} into a "
            "folder and name that folder in FACTEDIT_DATA."
        )
    return fetch(row.url, sha256=None, name=row.files[0])


def select_of(data: RecordSet[Record], *, split: str = "report", **drawn: Any) -> tuple[Record, ...]:
    """Return some of a data set's records for the numbers that one reports; a user's own file is never split.

    Args:
        data: the set.
        split: see `select`; `report` of a user's own file is all of it, since no preset was tuned on it.
        drawn: see `select`.

    Raises:
        UsageError: the split `tune` of a user's own file. Else as `select`.
    """
    if data.own and split == "tune":
        raise UsageError(f"No preset was tuned on {data.name}, so it has no records for tuning: leave --split out.")
    return select(data.records, split="all" if data.own and split == "report" else split, **drawn)


def select(
    records: Sequence[Record],
    *,
    limit: int | None = None,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    split: str = "all",
) -> tuple[Record, ...]:
    """Return some of the records, in the order they are in.

    The draw of a seed depends on the records' ids alone, and a larger one contains the smaller.

    Args:
        records: a data set's.
        limit: how many to draw; None for all.
        ids: only these; they must lie in the split.
        seed: of the draw.
        split: `all`, `tune` (ids divisible by 4; other words: their hash) or `report`, the rest.

    Raises:
        UnknownName: another split.
        UsageError: an id that is not there, fewer records than asked for, a limit below 1, an empty split.
    """
    if split not in ("all", "tune", "report"):
        raise UnknownName("split", split, ("all", "tune", "report"))
    pool = [record for record in records if split == "all" or _for_tuning(record_id(record)) == (split == "tune")]
    if ids is not None:
        missing = sorted(set(ids) - {record_id(record) for record in pool})
        if missing:
            raise UsageError(f"No record {', '.join(missing)} among the {len(pool)} of the split {split!r}.")
        pool = [record for record in pool if record_id(record) in set(ids)]
    if not pool:
        raise UsageError(f"No record is left of {len(records)}: the split {split!r} or the list of ids is empty.")
    if limit is None:
        return tuple(pool)
    if not 1 <= limit <= len(pool):
        raise UsageError(f"{limit} records were asked for; give a number from 1 to {len(pool)}.")
    drawn = sorted(range(len(pool)), key=lambda at: _hash(f"{seed}:{record_id(pool[at])}"))[:limit]
    return tuple(pool[at] for at in sorted(drawn))


def _for_tuning(name: str) -> bool:
    number = int(name) if name.isdecimal() else _hash(name)
    return number % 4 == 0


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest())
