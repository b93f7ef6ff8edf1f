"""What the page's jobs do: each takes what was asked, calls a function of `work`, and gives JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from factedit.cache import cache_dir
from factedit.edit.method import Method
from factedit.edit.method_table import make_method
from factedit.edit.objective import Losses, losses_told
from factedit.errors import UsageError
from factedit.export.serving import commands_told
from factedit.export.ship import FORMS
from factedit.export.ship import ship as ship_edits
from factedit.facts import EditRequest
from factedit.trace.state import read_state
from factedit.web import asked as wanted
from factedit.web import puzzle as riddle
from factedit.web.jobs import QueuedJob
from factedit.web.session import MODEL, Session
from factedit.work.account import audit_model
from factedit.work.ask import ask as ask_model
from factedit.work.damage import KNOWN, true_facts
from factedit.work.damage import damage as find_damage
from factedit.work.edit import describe, edit_facts
from factedit.work.fall import fall as find_fall
from factedit.work.inputs import load_model, moments_from
from factedit.work.known import known_facts
from factedit.work.proof import prove as prove_fact
from factedit.work.proof import record_of
from factedit.work.reads import read_and_written
from factedit.work.touched import likely_touched, on_already
from factedit.work.trace import trace_known, trace_prompt
from factedit.work.undo import undo as take_back

LOOKED_AT = 48  # facts, to find some that the model knows
TRAINED = ("ke", "mend", "ike")
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


def fall(session: Session, job: QueuedJob, asked: wanted.FallBody) -> dict[str, Any]:
    """Return what is left of the answer of the unedited model as the subject is blurred more and more."""
    return find_fall(session.model, **asked.model_dump(), progress=job.tell).as_json()


def known(session: Session, job: QueuedJob, asked: wanted.KnownBody) -> dict[str, Any]:
    """Return facts that the unedited model knows, to trace or to change."""
    facts = known_facts(session.model, true_facts(LOOKED_AT), count=asked.count, progress=job.tell)
    return {"facts": [{"prompt": fact.prompt, "subject": fact.subject, "answer": fact.answer} for fact in facts]}


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


def needs_a_folder(method: str) -> bool:
    """Return whether a method needs more than one fact of a user: a trained network, or demonstrations."""
    return method.partition("+")[0].partition("-")[0] in TRAINED


def _method(session: Session, job: QueuedJob, asked: wanted.FactBody) -> Method:
    """The method that was asked for; none that reads a folder, since the browser names no path."""
    if needs_a_folder(asked.method):
        raise UsageError(f"{asked.method} needs more than one fact: a folder of its own. Use it by 'factedit edit'.")
    moments = moments_from(progress=job.tell)
    return make_method(asked.method, session.model, moments, preset=asked.preset, **asked.settings)


def touched(session: Session, job: QueuedJob, asked: wanted.FactBody) -> dict[str, Any]:
    """Return what an edit is likely to touch, and which edits that are on it would contradict."""
    request, method = _request(asked), _method(session, job, asked)
    facts = likely_touched(session.model, method, request)
    already = [vars(earlier) for earlier in on_already(session.on(), request)]
    return {"touched": [row.as_json() for row in facts], "already": already, "settings": method.describe()}


def edit(session: Session, job: QueuedJob, asked: wanted.FactBody) -> dict[str, Any]:
    """Compute an edit of the unedited model and put it on."""
    model, request = session.model, _request(asked)
    job.tell("making ready", 0, 1)
    method = _method(session, job, asked)
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


def factors(session: Session, _job: QueuedJob, asked: wanted.EditBody) -> dict[str, Any]:
    """Return what the factors of an edit read and write."""
    return {"places": [place.as_json() for place in read_and_written(session.model, session.edit(asked.edit))]}


def prove(session: Session, job: QueuedJob, asked: wanted.ProveBody) -> dict[str, Any]:
    """Ask the tests of an edit's fact, before and with all edits that are on."""
    made = session.edit(asked.edit)
    if made not in session.on():
        raise UsageError("The edit is not on the model. Switch it on in the ledger, then prove it.")
    if asked.fact >= len(made.requests):
        raise UsageError(f"The edit has {len(made.requests)} facts.")
    record = record_of(made.requests[asked.fact])
    proof = prove_fact(session.model, record, session.on(), prompts=asked.own, progress=job.tell)
    session.keep_tests(asked.edit, asked.own)
    return proof.as_json()


def damage(session: Session, job: QueuedJob, asked: wanted.DamageBody) -> dict[str, Any]:
    """Ask true facts before and with all edits that are on."""
    facts = true_facts(asked.facts)
    return {"rows": [row.as_json() for row in find_damage(session.model, facts, session.on(), progress=job.tell)]}


def switch(session: Session, _job: QueuedJob, asked: wanted.SwitchBody) -> dict[str, Any]:
    """Switch an edit that was made with others on."""
    session.switch(asked.edit, asked.on)
    return {}


def undo(session: Session, job: QueuedJob, _asked: wanted.EmptyBody) -> dict[str, Any]:
    """Take all edits back, and show that the weights are what they were."""
    undone = take_back(session.model, session.on(), progress=job.tell)
    session.switch(None, False)
    session.remember(f"all weights hashed: {'the same bits' if undone.restored else 'other bits'} as at the start")
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
    session.remember(f"exported as {asked.form}: {place.name}")
    told = {"folder": place.name, "duties": list(shipped.licence.duties), "advice": shipped.advice}
    card = (place / "README.md").read_text(encoding="utf-8")
    return shipped.as_json() | told | {"card": card, "serve": commands_told(card)}


def _free(folder: Path, form: str) -> Path:
    number = 1
    while (folder / f"{form}-{number}").exists():
        number += 1
    return folder / f"{form}-{number}"


def audit(session: Session, job: QueuedJob, asked: wanted.AuditBody) -> dict[str, Any]:
    """Compare two models, of those that the server was started with."""
    suspect = session.folder(asked.suspect, MODEL)
    base = session.model if asked.base is None else None
    source = base or load_model(str(session.folder(asked.base or 0, MODEL).path))
    outcome = audit_model(source, str(suspect.path), progress=job.tell)
    names = {"base": session.name if asked.base is None else session.folders[asked.base].name, "suspect": suspect.name}
    return outcome.as_json() | names | {"verdict": outcome.verdict, "statement": outcome.statement()}


def puzzle(session: Session, job: QueuedJob, asked: wanted.PuzzleBody) -> dict[str, Any]:
    """Make a puzzle: five models, of which one was edited."""
    job.tell("making five models", 0, 1)
    model, moments = session.model, moments_from(progress=job.tell)
    made = riddle.make_puzzle(model, lambda: make_method("rome", model, moments), seed=asked.seed)
    session.puzzles.keep(made)
    return made.as_told()


def puzzle_ask(session: Session, _job: QueuedJob, asked: wanted.PuzzleAskBody) -> dict[str, Any]:
    """Ask one of the five."""
    suspect = session.puzzles.of(asked.seed).suspects[asked.which]
    [answer] = ask_model(session.model, [asked.prompt], [suspect], tokens=12)
    return answer.as_json()


def puzzle_audit(session: Session, job: QueuedJob, asked: wanted.PuzzleAuditBody) -> dict[str, Any]:
    """Audit one of the five."""
    job.tell("comparing all tensors", 0, 1)
    made = session.puzzles.of(asked.seed)
    return riddle.audit_suspect(session.model, made, asked.which, progress=job.tell).as_json()
