"""A large joint edit on its whole way: put on, asked, shipped in every form and asked there, one fact taken back.

    python docs/checks/large_edit.py gemma3-270m --edit EDIT --facts 300 --out DIR

EDIT is a folder that `factedit edit --together` wrote; where there is none, --facts facts of --dataset are edited into
it first (`rome-joint`; the same command goes on where it stopped). Every row says how many of the edit's facts are
written: in the folder of edits (`factedit check`), in the merged model, in the GGUF file, under the adapter of its own
rank and under adapters cut down to --ranks (with the share of ‖ΔW‖ that is lost), and after one fact was taken back.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tell import asks, tell

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import weights_changed
from factedit.edit.manifest import MANIFEST
from factedit.edit.method_table import make_method
from factedit.edit.standing import facts_on
from factedit.errors import EditError, UsageError
from factedit.evaluate.holding import ask_facts
from factedit.export.read_peft import read_peft
from factedit.export.ship import MODEL, Shipped, ship
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.opened import open_edits
from factedit.stack.work import apply
from factedit.work.evaluate import chosen_records
from factedit.work.facts_of import check_facts, take_back_fact
from factedit.work.inputs import load_model, moments_from
from factedit.work.settings import read_settings
from factedit.work.together import edit_together

Row = dict[str, Any]


def edits_in(folder: Path) -> list[Edit]:
    """The edits of a folder, or of its folders by number."""
    places = [folder] if (folder / MANIFEST).is_file() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return [Edit.load(place) for place in places]


def made(model: EditableModel, asked: argparse.Namespace) -> list[Edit]:
    """The edits, made where they are not there."""
    edits = edits_in(asked.edit)
    if edits and sum(len(edit.requests) for edit in edits) >= asked.facts:
        return edits
    if not asked.facts:
        raise UsageError(f"{asked.edit} holds no edit, and --facts does not say how many to edit into it.")
    records = chosen_records(
        asked.dataset, records=None, ids=None, split="report", seed=0, batch=None, at_once=asked.facts, sequence=None,
        checkpoints=(),
    ).records  # fmt: skip
    settings = read_settings(asked.set or (), [asked.method])[asked.method]
    method = make_method(asked.method, model, moments_from(asked.second_moment), **settings)
    edit_together(model, method, records, batch=asked.batch, folder=asked.edit, also_known=True)
    return edits_in(asked.edit)


def held(model: EditableModel, edits: Sequence[Edit]) -> Row:
    """How many of the facts a model writes, and the mean probability of their objects."""
    facts = facts_on(edits)
    records = [FactRecord(case_id=str(n), request=fact.request) for n, fact in enumerate(facts)]
    answers = ask_facts(model, records)
    mean = sum(answer.probability for answer in answers) / max(1, len(answers))
    return {"written": sum(answer.written for answer in answers), "facts": len(facts), "probability": mean}


def checked(folder: Path) -> Row:
    """What `factedit check` tells of a folder of edits."""
    base, edits = open_edits(folder)
    checks = check_facts(base, edits)
    lost = sum(bool(check.recorded) and not check.held.written for check in checks)
    mean = sum(check.held.probability for check in checks) / max(1, len(checks))
    return {"written": sum(c.held.written for c in checks), "facts": len(checks), "probability": mean, "lost": lost}


def of_one(folder: Path, request: EditRequest) -> Row:
    """How one fact stands in a folder of edits, whether it is on or not."""
    base, edits = open_edits(folder)
    with weights_changed(base, weights_of(edits)):
        [answer] = ask_facts(base, [FactRecord(case_id="one", request=request)])
    return {"written": int(answer.written), "facts": 1, "probability": answer.probability}


def told_of(shipped: Shipped) -> Row:
    """Size and exactness of an export."""
    proof = shipped.proof
    stored = max((patched.error for patched in shipped.stored), default=0.0)
    return {
        "MB": shipped.bytes / 1e6, "largest logit difference": proof.largest_logit_difference,
        "same first token": f"{proof.same_first_token} of {proof.prompts}", "error of ΔW": stored,
    }  # fmt: skip


def shipped_rows(model: EditableModel, edits: Sequence[Edit], asked: argparse.Namespace) -> list[Row]:
    """A row per form: loaded back and asked; a form that refuses says why."""
    rows = []

    def add(name: str, read_back: Callable[[Path], EditableModel], form: str, **options: Any) -> None:
        place, began = asked.out / name, time.perf_counter()
        try:
            done = ship(model, edits, place, form, overwrite=True, **options)
        except (UsageError, EditError) as error:
            rows.append({"what": name, "said": str(error)})
            return
        with ExitStack() as stack:
            if form == "peft":
                stack.enter_context(weights_changed(model, read_peft(model, place)))
                asked_model = model
            else:
                asked_model = read_back(place)
            rows.append({"what": name, **held(asked_model, edits), **told_of(done),
                         "seconds": time.perf_counter() - began})  # fmt: skip

    add("merged", lambda place: load(str(place)), "merged")
    file = asked.model if asked.model.endswith(".gguf") else None
    add("gguf-f16", lambda place: load(str(place / MODEL)), "gguf", store_as="F16", gguf=file)
    add("peft", lambda _place: model, "peft")
    if rows[-1].get("said"):
        needed = max(sum(effect.rank for e in edits for effect in e.effects if effect.place == place)
                     for place in {effect.place for e in edits for effect in e.effects})  # fmt: skip
        width = min(min(model.weight(*effect.place).shape) for e in edits for effect in e.effects)
        add(f"peft-{min(needed, width)}", lambda _place: model, "peft", rank=min(needed, width))
    for rank in (int(text) for text in asked.ranks.split(",") if text):
        add(f"peft-cut-to-{rank}", lambda _place: model, "peft", rank=rank, truncate=True)
    return rows


def run(model: EditableModel, asked: argparse.Namespace) -> str:
    """Go the whole way and tell."""
    edits = made(model, asked)
    folder = asked.out / "edited"
    if not folder.exists():
        apply(model, edits, folder)
    rows = [{"what": "unedited", **held(model, edits)}, {"what": "check", **checked(folder)}]
    rows += shipped_rows(model, edits, asked)
    facts = facts_on(edits)
    gone = facts[len(facts) // 2].request
    rows.append({"what": f"{gone.subject}, on", **of_one(folder, gone)})
    began = time.perf_counter()
    try:
        take_back_fact(folder, f"{gone.subject}: {gone.prompt}", moments_from(asked.second_moment))
    except (UsageError, EditError) as error:
        rows.append({"what": "one fact taken back", "said": str(error)})
    else:
        seconds = time.perf_counter() - began
        rows.append({"what": f"check, {gone.subject} taken back", **checked(folder), "seconds": seconds})
        rows.append({"what": f"{gone.subject}, taken back", **of_one(folder, gone)})
    about = {"check": "a large edit", "edits": len(edits), "facts": len(facts), "model": asked.model,
             "method": edits[0].method, "dataset": asked.dataset}  # fmt: skip
    return tell(asked.out, "large-edit", about, rows)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked on the command line."""
    parser = asks(__doc__)
    parser.add_argument("--edit", type=Path, required=True)
    parser.add_argument("--facts", type=int, default=0, help="0: those that EDIT holds")
    parser.add_argument("--batch", type=int, help="facts of one edit; default: all")
    parser.add_argument("--method", default="rome-joint")
    parser.add_argument("--ranks", default="256,64,16")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parsed()
    run(load_model(chosen.model, threads=chosen.threads), chosen)
