"""A folder of results written by hand: two methods on single facts, one of them also in sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.store import ResultStore
from factedit.work.results import STORE

CASES = {"1": 10.0, "2": 90.0, "3": 40.0, "4": 60.0}  # of rome; the unedited model has the rest to 100
STEPS = {10: 80.0, 20: 50.0, 40: 20.0}  # facts on the model, and what each case scores there


def write_results(folder: Path, dataset: str = "worldfacts", ids: tuple[str, ...] = tuple(CASES)) -> Path:
    """Write the store."""
    values = dict(zip(ids, CASES.values(), strict=True))

    def row(value: float) -> dict[str, Any]:
        return {"scores": {"ES": value, "free": value}, "peak_memory_mb": 1.0, "continuation": f" says {value:.0f}"}

    folder.mkdir(parents=True, exist_ok=True)
    with ResultStore(folder / STORE) as store:
        about = {"dataset": f"{dataset} {'0' * 64}", "seed": 0, "weights": "1" * 64, "version": "0"}
        runs = {UNEDITED: {case: row(100 - value) for case, value in values.items()}}
        runs["rome"] = {case: row(value) for case, value in values.items()}
        keys = []
        for name, cases in runs.items():
            keys.append(store.begin(name, {**about, "method": name}))
            store.add((keys[-1], case, own) for case, own in cases.items())
        for count, value in STEPS.items():
            regime = {"sequence": 10, "count": count}
            keys.append(store.begin("rome", {**about, "method": "rome", "regime": regime}))
            store.add((keys[-1], case, row(value)) for case in values)
        store.select("4 records", list(values), keys)
    return folder
