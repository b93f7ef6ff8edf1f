"""A server that is killed while it puts edits on and writes them out: the folders are the old or the new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from factedit.disk import sha256_file
from factedit.export.ship import RECORD
from factedit.models.load import load
from factedit.web import actions
from factedit.web.asked import AskBody, EmptyBody, ExportBody
from factedit.web.jobs import QueuedJob
from factedit.web.session import Session
from processes import killed
from stack_cases import random_edit
from tiny_folder import save


def files(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def exporting(model: Path, out: Path) -> Callable[[], object]:
    """What the page does when an edit is put on, asked about, written out and taken back."""
    session = Session(lambda: (load(str(model)), ()), "tiny", out=out)
    session.open()
    session.put(random_edit(session.model, 1))

    def work() -> None:
        job = QueuedJob("all of it", lambda _job: None)
        actions.ask(session, job, AskBody(prompt="Paris is in", tokens=1))
        actions.export(session, job, ExportBody(form="merged"))
        actions.undo(session, job, EmptyBody())

    return work


@pytest.mark.parametrize("after", [15, 80, 160])
def test_the_model_is_untouched_and_an_export_is_whole_or_none(tmp_path: Path, after: int) -> None:
    model, out = save(tmp_path / "model"), tmp_path / "exports"
    before = files(model)
    work = exporting(model, out)
    killed(work, after)
    assert files(model) == before
    for record in out.glob(f"*/{RECORD}") if out.is_dir() else []:
        told = json.loads(record.read_text())["files"]
        assert {name: sha for name, sha in files(record.parent).items() if name != RECORD} == told
    work()  # the next server, in the same folder
    whole = [path.parent for path in out.glob(f"merged-*/{RECORD}")]
    assert whole
    assert load(str(whole[-1])).fingerprint() != load(str(model)).fingerprint()
    assert files(model) == before


def test_the_test_kills_where_it_says(tmp_path: Path) -> None:
    work = exporting(save(tmp_path / "model"), tmp_path / "exports")
    assert killed(work, 40)
    assert not killed(work, 10_000_000)
