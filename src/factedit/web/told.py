"""What the page is told beside the answers of jobs: the model, its edits, methods, folders, suggestions."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from factedit import __version__
from factedit.data.registry import DATASETS, load_dataset
from factedit.data.worldfacts import relations
from factedit.edit.presets import rome_values
from factedit.errors import UsageError
from factedit.evaluate.store import name_and_content
from factedit.export.ship import FORMS
from factedit.facts import FactRecord
from factedit.files.embedded import EMBEDDED
from factedit.models.adapter import EditableModel
from factedit.report.columns import sentences_of
from factedit.report.figures_many import ages_of, pictures, points_of
from factedit.web.actions import needs_a_folder
from factedit.web.asked import LONGEST, MANY, SHORT
from factedit.web.jobs import WAITING, Jobs
from factedit.web.session import GivenFolder, Session
from factedit.work.fall import LEVELS
from factedit.work.lists import list_methods
from factedit.work.proof import PARTS
from factedit.work.results import STORE, Results, read_results


def page_state(session: Session, jobs: Jobs) -> dict[str, Any]:
    """Return everything the page needs to draw itself, as JSON values."""
    model = None if session.failed or not session.fingerprint else session.model
    return {
        "version": __version__,
        "name": session.name,
        "model": None if model is None else _model(model, session.fingerprint),
        "failed": session.failed,
        "ledger": [row.as_json() for row in session.rows],
        "exchange": session.exchange(),
        "history": [event._asdict() for event in session.history],
        "jobs": [{"job": job.name, "what": job.what, "state": job.state} for job in jobs.live()],
        "folders": [
            {"number": n, "name": folder.name, "kind": folder.kind} for n, folder in enumerate(session.folders)
        ],
        "exports": None if session.out is None else {"folder": session.out.name, "forms": FORMS},
        "methods": _methods(),
        "noise_levels": LEVELS,
        "parts": PARTS,
        "limits": {"prompt": LONGEST, "name": SHORT, "prompts": MANY, "jobs": WAITING},
        "notice": EMBEDDED[session.name].notice if session.name in EMBEDDED else "",
    }


@cache
def _methods() -> dict[str, dict[str, str]]:
    """The methods that the page offers; packages are looked through once, not whenever the state is asked."""
    return {name: row for name, row in list_methods().items() if not needs_a_folder(name)}


def _model(model: EditableModel, fingerprint: str) -> dict[str, Any]:
    return {
        "name": model.name, "family": model.family.name, "n_layer": model.n_layer, "d_model": model.d_model,
        "fingerprint": fingerprint, "dtype": str(model.dtype).removeprefix("torch."),
        "not_editable": model.family.refused, "edit_layer": int(rome_values(model)["layer"]),
    }  # fmt: skip


@cache
def suggestions() -> dict[str, Any]:
    """Return relations of the embedded facts with their subjects and objects, to choose from."""
    return {
        "relations": [
            {"name": known.name, "prompt": known.prompt, "objects": list(known.objects), "pairs": known.pairs}
            for known in relations()
        ]
    }


def results_of(folder: GivenFolder) -> dict[str, Any]:
    """Return the scores of a folder of results, with what is drawn against the number of facts on the model."""
    results = _results(folder.path)
    points = points_of(results.settings)
    shown = pictures(results.summary[point.row] for point in points)
    return {
        "name": folder.name, "rows": results.as_json(), "notes": list(results.notes), "about": results.about,
        "counts": results.counts, "points": [point._asdict() for point in points],
        "pictures": {picture.score: picture._asdict() for picture in shown},
        "methods": {name: settings["method"] for name, settings in results.settings.items()},
        "ages": [age._asdict() for age in ages_of(points, results.cases)],
        "words": sentences_of(results.summary),
    }  # fmt: skip


def records_of(folder: GivenFolder, row: str) -> dict[str, Any]:
    """Return the records behind a row's numbers: each case with its scores, and its fact where the data set is
    embedded.

    Raises:
        UsageError: the results have no such row.
    """
    results = _results(folder.path)
    if row not in results.cases:
        raise UsageError("These results have no such row any more; reload the page.")
    dataset = name_and_content(results.settings[row]["dataset"])[0]
    facts = _facts(dataset)
    kept = ("scores", "failed", "left_out", "continuation")
    cases = [
        {"case": case, "fact": facts.get(case, ""), **{name: scores[name] for name in kept if name in scores}}
        for case, scores in results.cases[row].items()
    ]
    return {"dataset": dataset, "cases": cases}


def _results(folder: Path) -> Results:
    changed = [file.stat().st_mtime_ns for file in sorted(folder.glob(f"{STORE}*"))]
    return _read(folder, tuple(changed))


@lru_cache(maxsize=4)
def _read(folder: Path, _changed: tuple[int, ...]) -> Results:
    return read_results([folder])[folder]


@cache
def _facts(dataset: str) -> dict[str, str]:
    """Facts by case, of a data set that comes with the package."""
    row = DATASETS.get(dataset)
    if row is None or row.embedded is None:
        return {}
    records = [record for record in load_dataset(dataset).records if isinstance(record, FactRecord)]
    return {record.case_id: f"{record.request.text} → {record.request.target_new}" for record in records}
