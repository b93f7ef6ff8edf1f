"""Traces as arrays for other programs: .npz (numpy), .csv, .parquet (where pyarrow is installed)."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from factedit.cache import write_atomic
from factedit.errors import UsageError
from factedit.trace.effects import TraceResult

Traces = Mapping[str, TraceResult]


def check_arrays(path: Path) -> str:
    """Return the suffix of a file of arrays, if they can be written so.

    Raises:
        UsageError: another suffix than those of `WRITERS`, or what it needs is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UsageError(f"Arrays can be written as {', '.join(WRITERS)}, not {suffix or 'without a suffix'}.")
    if suffix == ".parquet":
        _pyarrow()
    return suffix


def write_arrays(traces: Traces, path: Path) -> None:
    """Write traces, by the names of their facts.

    `.npz`: per fact and kind the table `FACT/KIND` `[tokens, layers]` of what was measured, `FACT/tokens`,
    `FACT/subject_range`, and `FACT/effects` (clean, corrupted). `.csv` and `.parquet`: a row per fact, kind, token and
    layer.

    Raises:
        UsageError: see `check_arrays`.
        ResourceError: the file cannot be written.
    """
    write_atomic(path, WRITERS[check_arrays(path)](traces))


def _rows(traces: Traces) -> Iterator[dict[str, Any]]:
    for name, trace in traces.items():
        for row in trace.rows():
            yield {"fact": name, **row}


def _npz(traces: Traces) -> bytes:
    arrays: dict[str, Any] = {}
    for name, trace in traces.items():
        arrays |= {f"{name}/{kind}": np.array(table) for kind, table in trace.scores.items()}
        arrays[f"{name}/tokens"] = np.array(trace.tokens)
        arrays[f"{name}/subject_range"] = np.array(trace.subject_range)
        arrays[f"{name}/effects"] = np.array([trace.clean, trace.corrupted])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _csv(traces: Traces) -> bytes:
    rows = list(_rows(traces))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _parquet(traces: Traces) -> bytes:
    arrow, parquet = _pyarrow()
    buffer = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(list(_rows(traces))), buffer)
    return buffer.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError("A .parquet file needs pyarrow: pip install pyarrow, or write .npz or .csv.") from error


WRITERS: dict[str, Callable[[Traces], bytes]] = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}
