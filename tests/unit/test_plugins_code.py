"""The code of plug-ins stands in the keys of results: changed code never gets old numbers back."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.methods.rome import rome
from factedit.evaluate.measures import Measures
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.run import evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.plugins import code_of, strangers_of
from factedit.stats.second_moment import SecondMoment

METHOD = """
import torch
from {package}.size import SIZE
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made


class Adds:
    name, paper, scope = "adds", "none", "each"

    def __init__(self, model):
        self.model = model

    def edit(self, requests, state=None):
        made_for, left = self.model.fingerprint(), torch.full((self.model.d_mlp, 1), SIZE)
        effects = (LowRank(1, left, torch.ones(1, self.model.d_model)),)
        return Made(tuple(Edit(method="adds", requests=(r,), effects=effects, made_for=made_for) for r in requests))

    def describe(self):
        return {{}}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the package with a size and imports it afresh."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / "a_stranger"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "method.py").write_text(METHOD.format(package=folder.name))

    def load(size: float) -> ModuleType:
        (folder / "size.py").write_text(f"SIZE = {size}\n")
        for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        return importlib.import_module(f"{folder.name}.method")

    return load


def test_a_plug_in_whose_code_changed_is_computed_again(package: Any, tmp_path: Path) -> None:
    """Before: describe() says the same, so the old rows came back."""
    model = tiny("gpt2")
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="France", target_true="the capital")
    records = [FactRecord(case_id="1", request=request)]

    def run(method: Any) -> Any:
        with ResultStore(tmp_path / "r.sqlite") as store:
            return evaluate_methods(model, records, [method], store, dataset="test", measures=Measures(metrics=()))

    first = run(package(0.01).Adds(model))
    again = run(package(0.01).Adds(model))
    assert (first.stored, again.stored) == ((0, 2), (2, 2))
    assert again.results == first.results
    changed = run(package(0.5).Adds(model))  # in another file of the package
    assert changed.stored == (1, 2), "the unedited model's row"
    assert changed.results["adds"] != first.results["adds"]
    assert list(changed.settings["adds"]["code"]) == ["a_stranger"]
    assert "code" not in changed.settings["unedited"]


def test_own_things_and_libraries_have_no_code_of_strangers() -> None:
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    assert code_of(Free(), rome(tiny("gpt2"), moments, layer=1)) == {}
    assert code_of({}, 3, "text") == {}
    assert strangers_of(Free(), {}, 3) == []
    assert strangers_of(Free(), SimpleNamespace(edit=moments)) == [__name__.rpartition(".")[2]]
    assert list(code_of(SimpleNamespace(edit=moments))) == [__name__.rpartition(".")[2]], "a function that is held"


def test_what_is_written_into_a_notebook_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in ("1", "2"):
        own: dict[str, Any] = {"__name__": "__main__"}
        exec(f"class Mine:\n    def edit(self):\n        return self.size{size}\n", own)
        found.append(code_of(own["Mine"]()))
    assert [list(one) for one in found] == [["__main__.Mine"]] * 2
    assert found[0] != found[1]
