"""What the page's jobs do: each takes what was asked, calls a function of `work`, and gives JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.cache import cache_dir
from factedit.data.registry import load_known, select
from factedit.edit.method_table import make_method
from factedit.edit.objective import Losses, losses_told
from factedit.errors import UsageError
from factedit.export.ship import FORMS
from factedit.export.ship import ship as ship_edits
from factedit.facts import EditRequest
from factedit.trace.state import read_state
from factedit.web import asked as wanted
from factedit.web.jobs import QueuedJob
from factedit.web.session import MODEL, Session
from factedit.work.account import audit_model
from factedit.work.ask import ask as ask_model
from factedit.work.damage import damage as find_damage
from factedit.work.edit import describe, edit_facts
from factedit.work.inputs import load_model, moments_from
from factedit.work.proof import prove as prove_fact
from factedit.work.proof import record_of
from factedit.work.touched import likely_touched, on_already
from factedit.work.trace import trace_known, trace_prompt
from factedit.work.undo import undo as take_back

KNOWN = "worldfacts-known"
SEARCH = "finding the value (evaluations of the loss)"


def ask(session: Session, _job: QueuedJob, asked: wanted.AskBody) -> dict[str, Any]:
    """Return next tokens and greedy text, unedited and edited."""
    [answer] = ask_model(session.model, [asked.prompt], session.on(), top=asked.top, tokens=asked.tokens)
    return answer.as_json()


def trace(session: Session, job: QueuedJob, asked: wanted.TraceBody) -> dict[str, Any]:
    """Return a causal trace of the unedited model."""
    traced = trace_prompt(session.model, **asked.model_dump(), progress=job.tell)
    layers = sorted({layer for edit in session.on() for layer in edit.layers})
    return traced.as_stored() | {"edited_layers": layers, "notes": traced.notes()}


def averages(session: Session, job: QueuedJob, asked: wanted.AveragesBody) -> dict[str, Any]:
    """Average traces over known facts; they are kept in the cache, where the next average finds them."""
    place = cache_dir() / "page-traces"
    return trace_known(session.model, KNOWN, place, **asked.model_dump(), progress=job.tell).as_json()


def state(session: Session, _job: QueuedJob, asked: wanted.StateBody) -> dict[str, Any]:
    """Return what one state of the unedited model says, by the logit lens and a Patchscope."""
    return read_state(session.model, asked.prompt, asked.token, asked.layer, kind=asked.kind).as_json()


def _request(asked: wanted.FactBody) -> EditRequest:
    return EditRequest(
        subject=asked.subject, prompt=asked.prompt, target_new=asked.target_new, target_true=asked.target_true or None
    )


def touched(session: Session, job: QueuedJob, asked: wanted.FactBody) -> dict[str, Any]:
    """Return what an edit is likely to touch, and which edits that are on it would contradict."""
    request = _request(asked)
    method = make_method(
        asked.method, session.model, moments_from(progress=job.tell), preset=asked.preset, **asked.settings
    )
    facts = likely_touched(session.model, method, request)
    already = [vars(earlier) for earlier in on_already(session.on(), request)]
    return {"touched": [row.as_json() for row in facts], "already": already, "settings": method.describe()}


def edit(session: Session, job: QueuedJob, asked: wanted.FactBody) -> dict[str, Any]:
    """Compute an edit of the unedited model and put it on."""
    model, request = session.model, _request(asked)
    moments = moments_from(progress=job.tell)
    job.tell("making ready", 0, 1)
    method = make_method(asked.method, model, moments, preset=asked.preset, **asked.settings)
    steps = getattr(getattr(method, "settings", None), "steps", None) or 1

    def told(step: int, losses: list[Losses]) -> None:
        job.tell(SEARCH, step + 1, steps)
        job.note([list(row) for row in losses])

    already = [vars(earlier) for earlier in on_already(session.on(), request)]
    job.tell(SEARCH, 0, steps)
    with losses_told(told):
        [saved] = edit_facts(model, method, [request])
    session.put(saved.edit)
    return describe(saved) | {"edit": saved.edit.identity, "already": already}


def prove(session: Session, job: QueuedJob, asked: wanted.ProveBody) -> dict[str, Any]:
    """Ask the tests of an edit's fact, before and with all edits that are on."""
    made = session.edit(asked.edit)
    if made not in session.on():
        raise UsageError("The edit is not on the model. Switch it on in the ledger, then prove it.")
    if asked.fact >= len(made.requests):
        raise UsageError(f"The edit has {len(made.requests)} facts.")
    record = record_of(made.requests[asked.fact])
    return prove_fact(session.model, record, session.on(), prompts=asked.own, progress=job.tell).as_json()


def damage(session: Session, job: QueuedJob, asked: wanted.DamageBody) -> dict[str, Any]:
    """Ask true facts before and with all edits that are on."""
    facts = select(load_known(KNOWN).records, limit=asked.facts, seed=0)
    return {"rows": [row.as_json() for row in find_damage(session.model, facts, session.on(), progress=job.tell)]}


def switch(session: Session, _job: QueuedJob, asked: wanted.SwitchBody) -> dict[str, Any]:
    """Switch an edit that was made with others on."""
    session.switch(asked.edit, asked.on)
    return {}


def undo(session: Session, job: QueuedJob, _asked: wanted.EmptyBody) -> dict[str, Any]:
    """Take all edits back, and show that the weights are what they were."""
    job.tell("hashing all weights, three times", 0, 1)
    undone = take_back(session.model, session.on())
    session.switch(None, False)
    return undone.as_json() | {"at_start": session.fingerprint}


def export(session: Session, job: QueuedJob, asked: wanted.ExportBody) -> dict[str, Any]:
    """Ship the edits that are on into the folder that the server was started with."""
    if session.out is None:
        raise UsageError("The server was started without a folder for exports: start it with --out FOLDER.")
    if asked.form not in FORMS:
        raise UsageError(f"The form {asked.form!r} is not one of {', '.join(FORMS)}.")
    job.tell(f"writing and proving {asked.form}", 0, 1)
    place = _free(session.out, asked.form)
    shipped = ship_edits(session.model, session.on(), place, asked.form)
    return shipped.as_json() | {"folder": place.name, "duties": list(shipped.licence.duties), "advice": shipped.advice}


def _free(folder: Path, form: str) -> Path:
    number = 1
    while (folder / f"{form}-{number}").exists():
        number += 1
    return folder / f"{form}-{number}"


def audit(session: Session, job: QueuedJob, asked: wanted.AuditBody) -> dict[str, Any]:
    """Compare two models, of those that the server was started with."""
    job.tell("comparing all tensors", 0, 1)
    suspect = session.folder(asked.suspect, MODEL)
    base = session.model if asked.base is None else None
    outcome = audit_model(base or load_model(str(session.folder(asked.base or 0, MODEL).path)), str(suspect.path))
    names = {"base": session.name if asked.base is None else session.folders[asked.base].name, "suspect": suspect.name}
    return outcome.as_json() | names | {"verdict": outcome.verdict, "statement": outcome.statement()}
