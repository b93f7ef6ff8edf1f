"""Methods of other packages that lack something, or fail: said in a sentence that names them, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from run_command import ok, refused
from tiny_folder import save

FACT = ("--subject", "Paris", "--prompt", "{} is in", "--target", "Seattle")
HEAD = """
import torch
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made

class Own:
    name, paper, scope = "own", "none", "each"

    def __init__(self, model):
        self.model = model

    def describe(self):
        return {}

    def edit(self, requests, state=None):
        ones = torch.ones(self.model.d_mlp, 1), torch.ones(1, self.model.d_model)
        return Made(tuple(
            Edit(method="own", requests=(r,), effects=(LowRank(1, *ones),), made_for=self.model.fingerprint())
            for r in requests))

def own(model, moments, *, size=1.0):
    return Own(model)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and a folder for packages."""
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    save(tmp_path / "tiny")
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def install(place: Path, module: str, code: str) -> None:
    about = place / "site" / f"a_{module}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a-{module}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[factedit.methods]\nown = {module}:own\n")
    (place / "site" / f"{module}.py").write_text(code)


def test_notes_and_settings_may_be_left_out(place: Path) -> None:
    install(place, "lean_method", HEAD)
    ok(
        "edit",
        place / "tiny",
        *FACT,
        "--method",
        "own",
        "--set",
        "size=2",
        "--out",
        place / "edit",
        "--json",
        place / "j",
    )
    assert "Seattle" in ok("show", place / "edit", "--settings")
    ok("apply", place / "tiny", place / "edit", "--out", place / "edited")


@pytest.mark.parametrize(
    ("code", "asked", "exit_code", "message"),
    [
        (HEAD.replace(', scope = "own", "none", "each"', ' = "own", "none"'), (), 1, "is no method: it lacks scope"),
        (HEAD.replace('"each"', '"one"'), (), 1, "a scope that is one of each, joint (it says 'one')"),
        (HEAD.replace("def describe", "def tell"), (), 1, "it lacks describe"),
        (HEAD, ("--set", "x=1"), 2, "The method own does not take x; its settings are size."),
        (HEAD.replace("return Made", "raise KeyError('no such thing')"), (), 1, "this is a fault of a-method_"),
        (HEAD.replace("ones =", "raise SystemExit(0); ones ="), (), 1, "no part of factedit (SystemExit: 0)"),
        (HEAD.replace(' = "own", "none"', ' = "rome", "none"'), (), 1, "calls itself 'rome'"),
        (HEAD.replace("import torch", "import no_such_module"), (), 2, "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_what_is_lacking_is_said(
    place: Path, code: str, asked: tuple[str, ...], exit_code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    install(place, f"method_{abs(hash(code + str(asked)))}", code)
    said = refused(capsys, exit_code, "edit", place / "tiny", *FACT, "--method", "own", *asked, "--out", place / "edit")
    assert message in said
    assert not (place / "edit").exists()
