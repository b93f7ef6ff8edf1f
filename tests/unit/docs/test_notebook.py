"""The notebook runs, on a tiny model always and on the embedded one where it is installed, and is kept executed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, tiny_lm, tiny_tokenizer
from factedit.errors import ModelError
from factedit.files.embedded import EMBEDDED, packaged_file

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
PARTS = (
    "mlp: layer", "<table><caption>rome", "→ Paris", "first token alike on 8 of 8 prompts",
    "logits differ by less than 0.001: True", "Verified(entries=2, edits=1", "undone to the bit: True",
)  # fmt: skip
PATH = ROOT / "docs" / "one_fact.ipynb"


def run(monkeypatch: pytest.MonkeyPatch, model: str) -> str:
    """All that the notebook's cells print on a model."""
    monkeypatch.setenv("FACTEDIT_NOTEBOOK_MODEL", model)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "notebook", module)
    spec.loader.exec_module(module)
    return printed(module.executed())


def printed(notebook: Any) -> str:
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    figures = [o for o in outputs if len(o.get("data", {}).get("image/png", "")) > 5000]
    assert len(figures) == 1, "the trace is shown, not only told"
    return "\n".join(o.get("text", "") + str(o.get("data", {}).get("text/html", "")) for o in outputs)


def check(said: str) -> None:
    for part in PARTS:
        assert part in said


def test_it_runs_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_lm("gpt2", n_positions=512, max_position_embeddings=512).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    check(run(monkeypatch, str(tmp_path / "tiny")))


@pytest.mark.real
def test_it_runs_on_the_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        packaged_file(EMBEDDED["gemma3-270m"])
    except ModelError as error:
        pytest.skip(str(error))
    said = run(monkeypatch, "gemma3-270m")
    check(said)
    assert "answer ' Seattle'" in said


def test_it_is_kept_executed_and_names_no_place() -> None:
    notebook = nbformat.read(PATH, as_version=4)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    check(printed(notebook))
    text = PATH.read_text()
    assert "/home/" not in text
    assert "/tmp/" not in text
    assert str(ROOT) not in text
