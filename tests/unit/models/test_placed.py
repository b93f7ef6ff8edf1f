"""A model that accelerate keeps in the processor's memory or on disk gives the numbers of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import random_moment, tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.errors import EditError, UnsupportedModel, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.outline import outline
from factedit.models.placed import PlacedModel
from factedit.stack.opened import open_edits
from factedit.stack.work import apply
from factedit.stats.collect import collect, token_pieces
from factedit.trace.sweep import trace_fact
from run_command import refused
from stack_cases import folder_bits, random_edit
from tiny_folder import save_sharded

accelerate = pytest.importorskip("accelerate")
FAMILIES = ("gpt2", "gemma3_text", "gpt_neox", "llama", "opt")
REQUESTS = [
    EditRequest(subject=s, prompt=p, target_new=t, target_true="Seattle")
    for s, p, t in (("Seattle", "{} is in", "France"), ("LeBron James", "{} plays", "French"))
]
Place = Callable[[Any, Path], Any]


def in_memory(lm: Any, _folder: Path) -> Any:
    return accelerate.cpu_offload(lm)


def on_disk(lm: Any, folder: Path) -> Any:
    return accelerate.disk_offload(lm, folder / "weights")


def some_on_disk(lm: Any, folder: Path) -> Any:
    """As a placement spreads a model: layers here and there."""
    path = next(name for name, module in lm.named_modules() if isinstance(module, torch.nn.ModuleList))
    where = {name: "cpu" for name, module in lm.named_modules() if not list(module.children())}
    spread = {name: place for name, place in where.items() if not name.startswith(f"{path}.")}
    spread |= {f"{path}.{n}": "disk" if n % 2 else "cpu" for n in range(4)}
    return accelerate.dispatch_model(lm, spread, main_device="cpu", offload_dir=folder / "weights", force_hooks=True)


PLACES = {"memory": in_memory, "disk": on_disk, "some": some_on_disk}
CASES = [(family, "disk" if n % 2 else "memory") for n, family in enumerate(FAMILIES)] + [("llama", "some")]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[EditableModel, Any]:
    """A plain model, and the same as accelerate has placed it."""
    family, place = request.param
    folder = tmp_path_factory.mktemp("placed")
    lm = PLACES[place](tiny_lm(family), folder)
    return EditableModel(tiny_lm(family), tiny_tokenizer()), load(lm, tiny_tokenizer())


def kept_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Everything that the hooks could bring, and everything that is there."""
    return {name: model.tensor(name).clone() for name in model.lm.state_dict()}


def edits(model: EditableModel, name: str, **settings: Any) -> list[dict[str, torch.Tensor]]:
    moments = lambda m, _l: random_moment(m.d_mlp)  # noqa: E731
    method = make_method(name, model, moments, steps=4, context_templates=["So it was. {}"], **settings)
    return [effect.tensors() for edit in method.edit(REQUESTS).edits for effect in edit.effects]


def test_it_is_the_same_model(both: tuple[EditableModel, Any]) -> None:
    plain, placed = both
    assert isinstance(placed, PlacedModel)
    assert any(p.is_meta for p in placed.lm.parameters()), "or nothing was placed elsewhere"
    assert placed.fingerprint() == plain.fingerprint()
    for layer in (0, 3):
        assert torch.equal(placed.weight(layer), plain.weight(layer))
        assert placed.matrix(layer).shape == plain.matrix(layer).shape
    assert torch.equal(placed.words, plain.words)


def test_a_trace_and_edits(both: tuple[EditableModel, Any]) -> None:
    placed = both[1]
    before = kept_tensors(placed)
    asked: dict[str, Any] = {"noise": 0.5, "samples": 2}
    one, other = (trace_fact(m, "The Space Needle is in downtown", "The Space Needle", **asked) for m in both)
    for kind, scores in one.scores.items():
        torch.testing.assert_close(torch.tensor(other.scores[kind]), torch.tensor(scores), rtol=1e-4, atol=1e-6)
    for name, settings in (("rome", {"layer": 1}), ("memit", {"layers": (1, 2)})):
        found = [edits(model, name, **settings) for model in both]
        assert len(found[0]) == len(found[1]) > 0
        for left, right in zip(*found, strict=True):
            for key, tensor in left.items():
                torch.testing.assert_close(right[key], tensor, rtol=2e-3, atol=1e-4)
    after = kept_tensors(placed)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@torch.no_grad()
def test_a_changed_matrix_acts_and_is_undone_to_the_bit(both: tuple[EditableModel, Any]) -> None:
    plain, placed = both
    ids, before = torch.tensor([[5, 9, 200]]), kept_tensors(placed)
    unedited = placed.lm(input_ids=ids).logits
    for layer in (1, 2):
        new = plain.weight(layer) * 1.5
        with plain.with_weight(layer, new), placed.with_weight(layer, new):
            assert placed.fingerprint() == plain.fingerprint()
            torch.testing.assert_close(placed.lm(input_ids=ids).logits, plain.lm(input_ids=ids).logits)
            assert not torch.equal(placed.lm(input_ids=ids).logits, unedited)
        with pytest.raises(EditError, match="not finite"), placed.with_weight(layer, new * float("nan")):
            pass
    assert torch.equal(placed.lm(input_ids=ids).logits, unedited)
    after = kept_tensors(placed)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    asking = [{n for n, p in m.lm.named_parameters(remove_duplicate=False) if p.requires_grad} for m in both]
    assert asking[0] == asking[1]


def test_second_moments(both: tuple[EditableModel, Any]) -> None:
    rows = list(token_pieces(both[0], ["Paris is the capital of France. " * 5] * 3, length=30))
    plain, placed = (collect(model, [1, 2], rows, tokens=100) for model in both)
    for layer in (1, 2):
        torch.testing.assert_close(placed[layer].mean(), plain[layer].mean())  # type: ignore[union-attr]


def test_a_folder_is_written_from_a_placed_model(tmp_path: Path) -> None:
    plain = EditableModel(tiny_lm("llama"), tiny_tokenizer())
    edit: Edit = random_edit(plain, 1)
    placed = load(on_disk(tiny_lm("llama"), tmp_path), tiny_tokenizer())
    apply(placed, [edit], tmp_path / "placed")
    apply(plain, [edit], tmp_path / "plain")
    assert folder_bits(tmp_path / "placed") == folder_bits(tmp_path / "plain")


def test_accelerate_places_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for a part of it: what does not fit is read from the folder's own shards."""
    folder = save_sharded(tmp_path / "model")
    room = {"cpu": 200_000}
    for module in ("accelerate.utils.modeling", "transformers.integrations.accelerate"):
        monkeypatch.setattr(f"{module}.get_max_memory", lambda *_args, **_named: dict(room))
    placed, plain = load(str(folder), device="auto"), load(str(folder))
    assert isinstance(placed, PlacedModel)
    assert placed.fingerprint() == plain.fingerprint()
    assert placed.name == plain.name


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_sharded(tmp_path / "model")
    assert outline(str(folder), device="auto").device.type in ("cpu", "cuda")
    with pytest.raises(UsageError, match=r"Give one of the two"):
        load(str(folder), device="auto", stream=True)
    with pytest.raises(UsageError, match=r"is loaded to one device"):
        load("gemma3-270m", device="auto")
    with pytest.raises(UnsupportedModel, match=r"has experts, and accelerate keeps weights of it elsewhere"):
        load(in_memory(tiny_lm("mixtral"), tmp_path), tiny_tokenizer())
    apply(load(str(folder)), [random_edit(load(str(folder)), 1)], tmp_path / "edited")
    said = refused(capsys, 2, "stats", folder, "--workers", "2", "--device-map", "auto")
    assert "A worker computes on one device" in said
    with pytest.raises(UsageError, match="Give one --device"):
        open_edits(tmp_path / "edited", device="auto")
    monkeypatch.setattr("factedit.models.load.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"needs accelerate, which is not here\. Get it: pip install"):
        load(str(folder), device="auto")
