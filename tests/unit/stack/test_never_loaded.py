"""A model is edited in a folder and shipped without being loaded: little of it is in memory at any time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind

from conftest import random_moment, tiny, tiny_lm, tiny_tokenizer
from factedit.cache import sha256_file
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import weights_changed
from factedit.edit.method_table import make_method
from factedit.edit.standing import facts_on
from factedit.errors import EditError, ResourceError
from factedit.export.ship import FORMS, ship
from factedit.facts import EditRequest, FactRecord
from factedit.files.gguf_stream import GgufOnDisk
from factedit.files.tensors_on_disk import TensorsOnDisk
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.opened import open_edits
from factedit.stack.work import apply, revert
from factedit.stats.second_moment import SecondMoment
from factedit.work.facts_of import take_back_fact
from factedit.work.together import edit_together
from stack_cases import folder_bits, random_edit
from tiny_folder import save_sharded
from tiny_gguf import llama_lm, write

LAYERS = 12


def never(*_args: object, **_named: object) -> None:
    raise AssertionError("the model was loaded")


@pytest.fixture
def _never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.models.load.read_files", never)
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", never)


@pytest.fixture(scope="module", params=["folder", "gguf"])
def deep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, EditableModel]:
    """A model of many layers: its name and itself."""
    place = tmp_path_factory.mktemp("deep")
    if request.param == "gguf":
        lm = llama_lm(num_hidden_layers=LAYERS, intermediate_size=64)
        source = str(write(place / "deep.gguf", lm, kind=Kind.F16))
    else:
        tiny_lm("gpt2", num_hidden_layers=LAYERS, n_layer=LAYERS).save_pretrained(place, max_shard_size="100KB")
        tiny_tokenizer().save_pretrained(place)
        source = str(place)
    return source, load(source)


@pytest.fixture(scope="module")
def two(deep: tuple[str, EditableModel]) -> list[Edit]:
    return [random_edit(deep[1], 3), random_edit(deep[1], 8, matrix="in")]


class Held:
    """Bytes of tensors that were read from disk and are in memory, at most, and which were read."""

    def __init__(self) -> None:
        self.most, self.names, self._alive = 0, list[str](), dict[int, int]()

    def note(self, name: str, found: torch.Tensor) -> None:
        number = len(self._alive)
        self.names.append(name)
        self._alive[number] = found.numel() * found.element_size()
        weakref.finalize(found.untyped_storage(), self._alive.__setitem__, number, 0)
        if sum(self._alive.values()) > self.most:
            gc.collect()  # what nobody holds but itself is let go now, and not when it happens
            self.most = max(self.most, sum(self._alive.values()))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held()
    gc.freeze()  # what there was before is not looked through at every collection
    for kind in (TensorsOnDisk, GgufOnDisk):

        def counted(self: Any, name: str, dtype: torch.dtype, read: Any = kind.read) -> torch.Tensor:
            own: torch.Tensor = read(self, name, dtype)
            found.note(name, own)
            return own

        monkeypatch.setattr(kind, "read", counted)
    yield found
    gc.unfreeze()


def files(folder: Path) -> dict[str, str]:
    """The content of all files but those that tell the time."""
    apart = ("ledger.jsonl", "model.safetensors.index.json", "factedit-export.json", "edit.json", "README.md")
    return {p.name: sha256_file(p) for p in folder.rglob("*") if p.is_file() and p.name not in apart}


@pytest.mark.usefixtures("_never_loaded")
def test_further_edits_and_taking_back(tmp_path: Path) -> None:
    model = tiny("gpt2")
    first, second = random_edit(model, 0), random_edit(model, 1)
    apply(model, [first], tmp_path / "edited")
    one = folder_bits(tmp_path / "edited")
    apply(str(tmp_path / "edited"), [second])
    assert folder_bits(tmp_path / "edited") != one
    revert(tmp_path / "edited", second)
    assert folder_bits(tmp_path / "edited") == one
    revert(tmp_path / "edited")


@pytest.mark.usefixtures("_never_loaded")
def test_apply_writes_what_it_writes_of_a_model_in_memory(
    deep: tuple[str, EditableModel], two: list[Edit], held: Held, tmp_path: Path
) -> None:
    source, model = deep
    apply(model, two, tmp_path / "memory")
    assert not held.names
    apply(source, two, tmp_path / "disk")
    assert files(tmp_path / "disk") == files(tmp_path / "memory")
    layer = sum(p.numel() for p in model.layers[0].parameters()) * 4
    whole = sum(p.numel() for p in model.lm.parameters()) * 4
    assert held.most <= whole - (LAYERS - 3) * layer, "what stays, two layers to prove the row, and what is written"
    of_last = [name for name in held.names if f".{LAYERS - 1}." in name]
    assert len(of_last) == 2 * len(set(of_last)), "to be hashed, and to be written"


@pytest.mark.parametrize("form", FORMS)
def test_ship_writes_what_it_writes_of_a_model_in_memory(
    form: str, deep: tuple[str, EditableModel], two: list[Edit], held: Held, tmp_path: Path
) -> None:
    source, model = deep
    if form == "gguf" and not source.endswith(".gguf"):
        pytest.skip("patches a .gguf file")
    how: dict[str, Any] = {"base": "base", "gguf": source if form == "gguf" else None}
    memory = ship(model, two, tmp_path / "memory", form, **how)
    assert not held.names
    disk = ship(load(source, stream=True), two, tmp_path / "disk", form, **how)
    assert files(tmp_path / "disk") == files(tmp_path / "memory")
    layer = sum(p.numel() for p in model.layers[0].parameters()) * 4
    whole = sum(p.numel() for p in model.lm.parameters()) * 4
    copies = 2 if form in ("merged", "gguf") else 1  # what is shipped is read back the same way
    assert held.most <= copies * (whole - (LAYERS - 3) * layer)
    for left, right in zip(disk.proof.targets, memory.proof.targets, strict=True):
        assert left["prompt"] == right["prompt"]
        for name in ("base", "memory", "shipped"):
            assert left[name] == pytest.approx(right[name], rel=1e-4, abs=1e-7)
    said = disk.proof.loaded_with
    assert ("would load the whole model" in said) == (form == "peft"), said


def test_a_folder_of_edits_is_read_from_disk_as_the_model_it_began_as(
    deep: tuple[str, EditableModel], two: list[Edit], tmp_path: Path
) -> None:
    source, model = deep
    apply(source, two, tmp_path / "edited")
    base, edits = open_edits(tmp_path / "edited", stream=True)
    assert base.streamed
    assert base.fingerprint() == model.fingerprint()
    assert [edit.identity for edit in edits] == [edit.identity for edit in two]
    assert torch.equal(base.weight(3), model.weight(3)), "the matrix as it was, not as it is in the folder"


def test_one_fact_is_taken_back(
    deep: tuple[str, EditableModel], held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the middle of a sequence, from the files: the bits that a model in memory gives."""
    source, model = deep
    moments = lambda m, _layer: random_moment(m.d_mlp)  # noqa: E731
    quick: dict[str, Any] = {"layers": (1, 2), "steps": 2, "share": 0.9, "context_templates": ("{}",)}
    method, state, edits = make_method("memit", model, moments, **quick), None, list[Edit]()
    facts = [EditRequest(subject=s, prompt="{} is in", target_new="Seattle") for s in ("Paris", "France", "LeBron")]
    for part in (facts[:2], facts[2:]):
        with weights_changed(model, weights_of(edits)):
            [edit], after = method.edit(part, state)
        edits.append(edit.with_state(state, after))
        state = after
    assert state is not None
    with weights_changed(model, weights_of(edits)):
        wanted = method.take_back(edits, [facts_on(edits)[0]], state)  # type: ignore[attr-defined]
    apply(source, edits, tmp_path / "edited")
    held.names.clear()
    held.most = 0
    monkeypatch.setattr("factedit.models.load.read_files", never)
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", never)
    entry = take_back_fact(tmp_path / "edited", "Paris: {} is in", moments)
    assert entry.standing[-1].identity == wanted.identity
    assert [fact.request.subject for fact in facts_on(open_edits(tmp_path / "edited", stream=True).edits)] == [
        "France", "LeBron",
    ]  # fmt: skip
    layer = sum(p.numel() for p in model.layers[0].parameters()) * 4
    whole = sum(p.numel() for p in model.lm.parameters()) * 4
    assert held.most <= 2 * (whole - (LAYERS - 3) * layer), "what stays of the base, and of the folder put on"
    monkeypatch.setattr("factedit.evaluate.harm.PANEL", 4)
    monkeypatch.setattr("factedit.evaluate.harm.TEXTS", 1)
    new = FactRecord(case_id="1", request=replace(facts[2], target_new="football"))
    base, standing = open_edits(tmp_path / "edited", stream=True)
    made = make_method("memit", base, moments, **quick)
    both = edit_together(base, made, [new], earlier=standing, also_known=True, keep_values=False).edits
    assert [(len(edit.takes_back), len(edit.requests)) for edit, _ in both] == [(1, 0), (0, 1)]
    apply(str(tmp_path / "edited"), [edit for edit, _ in both])
    objects = [f.request.target_new for f in facts_on(open_edits(tmp_path / "edited", stream=True).edits)]
    assert objects == ["Seattle", "football"], "a new object in place of the old one, from the files, too"
    with pytest.raises(EditError, match="the second moments"):
        take_back_fact(tmp_path / "edited", "France", lambda m, _layer: SecondMoment(2 * random_moment(m.d_mlp).matrix))


@pytest.mark.usefixtures("_never_loaded")
def test_an_edit_that_was_made_with_others_on(tmp_path: Path) -> None:
    """Whether it fits is asked of the files."""
    source = save_sharded(tmp_path / "base")
    model = load(str(source), stream=True)
    first = random_edit(model, 0)
    with first.applied_to(model):
        second = random_edit(model, 1)
    apply(str(source), [first], tmp_path / "edited")
    entry = apply(str(tmp_path / "edited"), [second])
    assert entry.standing[1].needs == (first.identity,)
    assert not entry.forced


def test_too_little_disk_is_said_before_anything_is_copied(
    deep: tuple[str, EditableModel], two: list[Edit], held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, model = deep
    whole = 4 * sum(p.numel() for p in model.lm.parameters())
    monkeypatch.setattr("factedit.disk.shutil.disk_usage", lambda _path: SimpleNamespace(free=whole - 1))
    with pytest.raises(ResourceError, match=rf"is full: {whole:,} bytes .* are needed, {whole - 1:,} bytes"):
        apply(source, two, tmp_path / "edited")
    assert not [name for name in held.names if f".{LAYERS - 1}." in name], "the row is proven on the first layers"
    assert not (tmp_path / "edited").exists()
