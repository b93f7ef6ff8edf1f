"""What the page is told beside the answers of jobs: the model, its edits, methods, folders, suggestions."""

from __future__ import annotations

from functools import cache
from typing import Any

from factedit import __version__
from factedit.data.worldfacts import relations
from factedit.export.ship import FORMS
from factedit.files.embedded import EMBEDDED
from factedit.models.adapter import EditableModel
from factedit.web.asked import LONGEST, MANY, SHORT
from factedit.web.jobs import WAITING, Jobs
from factedit.web.session import Session
from factedit.work.lists import list_methods
from factedit.work.proof import PARTS

TRAINED = ("ke", "mend", "ike")  # need more than one fact of a user: a trained network, or demonstrations
MANY_FACTS = ("locft-bf", "ft-m", "ultraedit")  # epochs over facts


def state_of(session: Session, jobs: Jobs) -> dict[str, Any]:
    """Everything the page needs to draw itself, as JSON values."""
    model = None if session.failed or not session.fingerprint else session.model
    return {
        "version": __version__,
        "name": session.name,
        "model": None if model is None else _model(model, session.fingerprint),
        "failed": session.failed,
        "ledger": [row.as_json() for row in session.rows],
        "jobs": [{"job": job.name, "what": job.what, "state": job.state} for job in jobs.live()],
        "folders": [{"number": n, "name": own.name, "kind": own.kind} for n, own in enumerate(session.folders)],
        "exports": None if session.out is None else {"folder": session.out.name, "forms": FORMS},
        "methods": {name: row for name, row in list_methods().items() if name.partition("-")[0] not in TRAINED},
        "parts": PARTS,
        "limits": {"prompt": LONGEST, "name": SHORT, "prompts": MANY, "jobs": WAITING},
        "notice": EMBEDDED[session.name].notice if session.name in EMBEDDED else "",
    }


def _model(model: EditableModel, fingerprint: str) -> dict[str, Any]:
    return {
        "name": model.name, "family": model.family.name, "n_layer": model.n_layer, "d_model": model.d_model,
        "fingerprint": fingerprint, "dtype": str(model.dtype).removeprefix("torch."),
        "not_editable": model.family.refused,
    }  # fmt: skip


@cache
def suggestions() -> dict[str, Any]:
    """Relations of the embedded facts with their subjects and objects, to choose from."""
    return {
        "relations": [
            {"name": own.name, "prompt": own.prompt, "objects": list(own.objects), "pairs": own.pairs}
            for own in relations()
        ]
    }
