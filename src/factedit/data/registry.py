"""The data sets there are, how they are found, and how records are drawn from them.

A published file is looked for in the folder `FACTEDIT_DATA`, then in the cache, then at its address.
Records with `case_id` divisible by 4 are for tuning, the others for the numbers one reports.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from factedit.data.counterfact import read_counterfact
from factedit.data.download import downloaded, fetch
from factedit.data.field_files import read_edit_list
from factedit.data.formats import format_of
from factedit.data.known_facts import read_known_facts
from factedit.data.panel import read_panel
from factedit.data.records import RECORD_FILES, Record, RecordSet, record_id
from factedit.data.zsre import read_zsre
from factedit.errors import DataError, ResourceError, UnknownName, UsageError
from factedit.facts import FactRecord, KnownFact

Reader = Callable[[Path, str], RecordSet[Any]]
WORLDFACTS_SEED = 0
_PUBLISHED = "https://rome.baulab.info/data/dsets/"
_ROME = "Meng et al. 2022, arXiv 2202.05262"
_LOCFT = "LocFT-BF, arXiv 2509.22072; a local file only"
_MEND = "Mitchell et al. 2022, arXiv 2110.11309, after Levy et al. 2017"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set.

    Args:
        name: what users call it.
        kind: `facts` to edit or `known` facts to trace.
        what: what it is, for people.
        source: where it comes from, for people.
        files: names it may have in the folder `FACTEDIT_DATA`; the first is also the name in the cache.
        reader: reads such a file.
        url: where the file is published.
        embedded: makes the records of a set that comes with factedit, which then needs no file.
        benchmark: whose questions its facts are asked, a name in `evaluate/benchmarks`.
    """

    name: str
    kind: Literal["facts", "known"]
    what: str
    source: str
    files: tuple[str, ...] = ()
    reader: Reader | None = None
    url: str | None = None
    embedded: Callable[[], Sequence[FactRecord] | Sequence[KnownFact]] | None = None
    benchmark: str = ""


def _worldfacts() -> Sequence[FactRecord]:
    from factedit.data.worldfacts import worldfacts

    return worldfacts(WORLDFACTS_SEED)


def _worldfacts_known() -> Sequence[KnownFact]:
    from factedit.data.worldfacts import worldfacts_known

    return worldfacts_known()


_ROWS = (
    Dataset(
        name="worldfacts", kind="facts", benchmark="counterfact", embedded=_worldfacts,
        source="written for factedit, embedded",
        what="edits of common facts, with paraphrases and neighbours",
    ),
    Dataset(
        name="counterfact", kind="facts", benchmark="counterfact", reader=read_counterfact, source=_ROME,
        url=_PUBLISHED + "counterfact.json", what="counterfactual edits, with paraphrases and neighbours",
        files=("counterfact.json", "counterfact/counterfact.json", "counterfact/counterfact_original.json"),
    ),
    Dataset(
        name="counterfact-reconstructed", kind="facts", benchmark="counterfact", reader=read_counterfact,
        source=f"{_ROME}, partly rebuilt; a local file only",
        what="nearly all of CounterFact with re-paired test prompts, for training and large runs",
        files=("counterfact_reconstructed.jsonl.gz", "counterfact/counterfact_reconstructed.jsonl.gz"),
    ),
    Dataset(
        name="zsre", kind="facts", benchmark="zsre", reader=read_zsre, source=_MEND,
        url=_PUBLISHED + "zsre_mend_eval.json",
        what="questions to answer anew, with a rephrased and an unrelated question",
        files=("zsre_mend_eval.json", "zsre/zsre_mend_eval.json"),
    ),
    Dataset(
        name="zsre-train", kind="facts", benchmark="zsre", reader=read_zsre, source=_MEND,
        url=_PUBLISHED + "zsre_mend_train.json", what="the same, for training",
        files=("zsre_mend_train.json", "zsre/zsre_mend_train.json"),
    ),
    Dataset(
        name="counterfact-flat", kind="facts", benchmark="zsre", reader=read_edit_list, source=_LOCFT,
        what="CounterFact's edits with one other wording and one neighbour, to be answered in writing",
        files=("counterfact_flat.jsonl.gz", "written_answers/counterfact_flat.jsonl.gz"),
    ),
    Dataset(
        name="wikibigedit", kind="facts", benchmark="zsre", reader=read_edit_list, source=_LOCFT,
        what="questions from changes of Wikidata, to be answered in writing",
        files=("wikibigedit.jsonl.gz", "written_answers/wikibigedit.jsonl.gz"),
    ),
    Dataset(
        name="qaedit", kind="facts", benchmark="zsre", reader=read_edit_list,
        source="Yang et al. 2025, arXiv 2502.11177; a local file only",
        what="questions that six models did not answer, to be answered in writing",
        files=("qaedit.jsonl.gz", "written_answers/qaedit.jsonl.gz"),
    ),
    Dataset(
        name="knowedit", kind="facts", benchmark="knowedit", reader=read_edit_list,
        source="KnowEdit, arXiv 2401.01286, of RippleEdits, arXiv 2307.12976; a local file only",
        what="counterfactual edits with what they entail and what must stay",
        files=(
            "knowedit_wiki_counterfact_test_839.json", "multihop_ripple/knowedit_wiki_counterfact_test_839.json",
        ),
    ),
    Dataset(
        name="known-facts", kind="known", reader=read_known_facts, source=_ROME,
        url=_PUBLISHED + "known_1000.json", what="facts GPT-2 XL knows, to trace",
        files=("known_1000.json", "known_facts/known_1000.json", "known_facts/known_facts.json"),
    ),
    Dataset(
        name="known-panel", kind="known", reader=read_panel,
        source="CLaRE, arXiv 2603.19297; a local file only", what="true facts that an edit must leave alone",
        files=("clare_facts.jsonl.gz", "panel/clare_facts.jsonl.gz"),
    ),
    Dataset(
        name="worldfacts-known", kind="known", embedded=_worldfacts_known,
        source="written for factedit, embedded", what="common facts, to trace",
    ),
)  # fmt: skip
DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}


def load_dataset(name_or_path: str | Path) -> RecordSet[Any]:
    """A data set by its name, or a user's file in one of the formats known.

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
    found = format_of(path)
    return replace(found.reader(path, path.name), benchmark=found.benchmark, own=True)


def load_facts(name_or_path: str | Path) -> RecordSet[FactRecord]:
    """A data set of facts to edit.

    Raises:
        UsageError: it holds facts to trace. Else as `load_dataset`.
    """
    return _of_kind(name_or_path, FactRecord, "facts", "facts to edit")


def load_known(name_or_path: str | Path) -> RecordSet[KnownFact]:
    """A data set of facts to trace.

    Raises:
        UsageError: it holds facts to edit. Else as `load_dataset`.
    """
    return _of_kind(name_or_path, KnownFact, "known", "facts to trace")


def _of_kind(name_or_path: str | Path, record: type, kind: str, words: str) -> RecordSet[Any]:
    row = DATASETS.get(str(name_or_path))
    found = load_dataset(name_or_path) if row is None or row.kind == kind else None
    if found is None or not isinstance(found.records[0], record):
        names = ", ".join(row.name for row in DATASETS.values() if row.kind == kind)
        raise UsageError(f"{name_or_path} does not hold {words}. Choose one of {names}, or a file of them.")
    return found


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
    """A published data set that is at hand, in `FACTEDIT_DATA` or in the cache; nothing is downloaded.

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
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise UsageError(f"FACTEDIT_DATA names {named}, which is not a folder. Correct it or unset it.")
        for file in row.files:
            if (folder / file).is_file():
                return folder / file
    return None


def _locate(row: Dataset) -> Path:
    """The file of a data set: from `FACTEDIT_DATA`, the cache or its address."""
    if found := _in_data_folder(row):
        return found
    if row.url is None:
        raise ResourceError(
            f"The data set {row.name!r} is a local file only and was not found. Put {row.files[0]} into a "
            "folder and name that folder in FACTEDIT_DATA."
        )
    return fetch(row.url, sha256=None, name=row.files[0])


def select_of(data: RecordSet[Record], *, split: str = "report", **drawn: Any) -> tuple[Record, ...]:
    """Some of a data set's records for the numbers that one reports; a user's own file is never split.

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
    """Some of the records, in the order they are in.

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
