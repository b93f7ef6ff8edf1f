"""Every form: written, loaded back, and equal to the edited model as far as the form can hold it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind

from conftest import EDITABLE, tiny
from factedit.cache import sha256_file
from factedit.edit.artefact import Edit
from factedit.errors import DataError, EditError, UnsafeFile, UnsupportedModel, UsageError
from factedit.export.lora import read_llama_lora, write_llama_lora, write_peft
from factedit.export.read_peft import read_peft
from factedit.export.ship import FORMS, ship
from factedit.facts import EditRequest
from factedit.files.gguf_reader import open_gguf
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from stack_cases import random_edit
from tiny_folder import save_sharded
from tiny_gguf import llama_lm, write

IDS = torch.tensor([[5, 9, 200, 41]])


@pytest.fixture
def model() -> EditableModel:
    return tiny("gpt2")


@torch.no_grad()
def edited_logits(model: EditableModel, edits: list[Edit]) -> torch.Tensor:
    if not edits:
        return model.lm(input_ids=IDS).logits
    with edits[0].applied_to(model, force=True):
        return edited_logits(model, edits[1:])


def test_merged_is_the_edited_model_in_the_bases_shards(tmp_path: Path) -> None:
    model = load(str(save_sharded(tmp_path / "base")))
    edits = [random_edit(model, 1, rank=None), random_edit(model, 1, matrix="in")]
    before = model.fingerprint()
    shipped = ship(model, edits, tmp_path / "out", "merged")
    assert model.fingerprint() == before
    assert shipped.proof.largest_logit_difference == 0.0
    assert shipped.proof.same_first_token == shipped.proof.prompts == 13
    assert {p.name for p in (tmp_path / "out").glob("*.safetensors")} == {"model-1.safetensors", "model-2.safetensors"}
    again = load(str(tmp_path / "out"))
    assert torch.equal(edited_logits(again, []), edited_logits(model, edits))
    assert {"tokenizer.json", "generation_config.json", "README.md"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_merged_in_a_narrower_type_says_what_it_costs(model: EditableModel, tmp_path: Path) -> None:
    shipped = ship(model, [random_edit(model, 1)], tmp_path / "out", "merged", store_as="BF16")
    [stored] = shipped.stored
    assert (stored.was, stored.now) == ("F32", "BF16")
    assert 1e-4 < stored.error < 0.1
    assert 0 < shipped.proof.largest_logit_difference < 0.5
    assert load(str(tmp_path / "out"), dtype="bfloat16").dtype == torch.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("model_type", EDITABLE)
def test_peft_equals_the_edit_and_merges_exactly(model_type: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = tiny(model_type)
    edits = [random_edit(model, 1), random_edit(model, 2, matrix="in", rank=2)]
    before = model.fingerprint()
    shipped = ship(model, edits, tmp_path / "out", "peft")
    assert shipped.proof.loaded_with.startswith("peft")
    assert shipped.proof.largest_logit_difference < 2e-4
    assert model.fingerprint() == before
    ship(model, edits[:1], tmp_path / "one", "peft", rank=8)
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 8
    merged = peft.PeftModel.from_pretrained(tiny(model_type).lm, tmp_path / "one").merge_and_unload().eval()
    with torch.no_grad():
        assert torch.equal(merged(input_ids=IDS).logits, edited_logits(model, edits[:1]))


def test_without_peft_the_adapter_is_read_by_factedit(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.export.ship.find_spec", lambda _name: None)
    shipped = ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    assert "peft is not installed" in shipped.proof.loaded_with
    assert shipped.proof.largest_logit_difference == 0.0


def test_adapters_are_read_as_they_were_written(model: EditableModel, tmp_path: Path) -> None:
    edits = [random_edit(model, 1), random_edit(model, 1, rank=2), random_edit(model, 2, matrix="in")]
    (tmp_path / "p").mkdir()
    write_peft(model, edits, tmp_path / "p", base="x", rank=4)
    write_llama_lora(model, edits, tmp_path / "l.gguf")
    for changes in (read_peft(model, tmp_path / "p"), read_llama_lora(tmp_path / "l.gguf")):
        assert [(c.layer, c.matrix) for c in changes] == [(1, "out"), (2, "in")]
        assert torch.equal(changes[1].delta(), edits[2].effects[0].delta())
        summed = edits[0].effects[0].delta() + edits[1].effects[0].delta()
        torch.testing.assert_close(changes[0].delta(), summed)


def test_llama_lora_has_the_keys_that_llama_cpp_asks_for(tmp_path: Path) -> None:
    model = tiny("gemma3_text")
    ship(model, [random_edit(model, 1, rank=2)], tmp_path / "out", "llama-lora")
    file = open_gguf(tmp_path / "out" / "adapter.gguf")
    said = {"general.type": "adapter", "general.architecture": "gemma3", "adapter.type": "lora"}
    assert said.items() <= file.metadata.items()
    assert file.metadata["adapter.lora.alpha"] == 2.0
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    assert shapes == {
        "blk.1.ffn_down.weight.lora_a": (2, model.d_mlp),
        "blk.1.ffn_down.weight.lora_b": (model.d_model, 2),
    }
    with pytest.raises(EditError, match="does not know the architecture gpt_neo"):
        ship(tiny("gpt_neo"), [random_edit(tiny("gpt_neo"), 1)], tmp_path / "o", "llama-lora")


# -- GGUF ------------------------------------------------------------------------------------------


def gguf_model(path: Path, kind: Kind) -> EditableModel:
    """A tiny Llama whose MLP is wide enough for blocks of 32 (and of 256)."""
    return load(str(write(path, llama_lm(intermediate_size=256), kind=kind)))


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [(Kind.F32, 0, 1e-6), (Kind.F16, 1e-5, 0.02), (Kind.BF16, 1e-4, 0.1), (Kind.Q8_0, 1e-3, 0.3)],
)
def test_only_the_edited_tensor_of_a_gguf_file_changes(tmp_path: Path, kind: Kind, least: float, most: float) -> None:
    path = tmp_path / "base.gguf"
    model = gguf_model(path, kind)
    shipped = ship(model, [random_edit(model, 1)], tmp_path / "out", "gguf", gguf=path)
    [stored] = shipped.stored
    assert (stored.tensor, stored.was, stored.now) == ("blk.1.ffn_down.weight", kind.name, kind.name)
    assert least <= stored.error <= most
    assert_others_alike(path, tmp_path / "out" / "model.gguf", moved=False)
    again = load(str(tmp_path / "out" / "model.gguf"))
    torch.testing.assert_close(
        edited_logits(again, []), edited_logits(model, [random_edit(model, 1)]), atol=max(1e-4, 3 * most), rtol=0.05
    )


@pytest.mark.parametrize("store_as", ["F16", "F32", "Q8_0"])
def test_a_tensor_that_cannot_be_written_is_stored_wider(tmp_path: Path, store_as: str) -> None:
    path = tmp_path / "base.gguf"
    model = gguf_model(path, Kind.Q4_1)
    with pytest.raises(EditError, match=r"stored as Q4_1, which would round the change.*--store-as F16.*'llama-lora'"):
        ship(model, [random_edit(model, 1)], tmp_path / "out", "gguf", gguf=path)
    assert not (tmp_path / "out").exists()
    edits = [random_edit(model, 1), random_edit(model, 3, matrix="gate", rank=None)]
    shipped = ship(model, edits, tmp_path / "out", "gguf", gguf=path, store_as=store_as)
    assert [stored.now for stored in shipped.stored] == [store_as] * 2
    assert_others_alike(path, tmp_path / "out" / "model.gguf", moved=True)
    table = list(open_gguf(tmp_path / "out" / "model.gguf").tensors.values())
    for tensor, after in pairwise(table):  # llama.cpp wants tensors one behind the other
        assert after.start == -(-(tensor.start + tensor.size) // 32) * 32


def assert_others_alike(base: Path, patched: Path, *, moved: bool) -> None:
    """Metadata, table and the bytes of every tensor but the MLP's in layers 1 and 3 are the same."""
    import gguf

    old, new = open_gguf(base), open_gguf(patched)
    assert new.metadata_sha256() == old.metadata_sha256()
    assert list(new.tensors) == list(old.tensors)
    changed = []
    for name, tensor in old.tensors.items():
        other = new.tensors[name]
        same = old.data[tensor.start : tensor.start + tensor.size] == new.data[other.start : other.start + other.size]
        changed += [] if same else [name]
        if not moved:
            assert (other.start, other.kind) == (tensor.start, tensor.kind)
    assert changed in (["blk.1.ffn_down.weight"], ["blk.1.ffn_down.weight", "blk.3.ffn_gate.weight"])
    read = gguf.GGUFReader(patched)  # the published reader agrees
    assert [t.name for t in read.tensors] == list(new.tensors)
    for tensor in read.tensors:
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(found.reshape(new.tensors[tensor.name].shape), new.read(tensor.name))


def test_gguf_refusals(model: EditableModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the file that the model was loaded from"):
        ship(model, [random_edit(model, 1)], tmp_path / "out", "gguf")
    path = tmp_path / "base.gguf"
    base = gguf_model(path, Kind.F16)
    with pytest.raises(UsageError, match=r"cannot be stored as 'Q4_K'\. Known: F32, F16, BF16, Q8_0"):
        ship(base, [random_edit(base, 1)], tmp_path / "out", "gguf", gguf=path, store_as="Q4_K")
    huge = random_edit(base, 1)
    huge = replace(huge, effects=(replace(huge.effects[0], left=1e6 * huge.effects[0].left),))
    with pytest.raises(EditError, match=r"does not fit into F16.*Use BF16 or F32"):
        ship(base, [huge], tmp_path / "out", "gguf", gguf=path)
    with pytest.raises(UnsupportedModel, match="the edit needs"):
        ship(model, [random_edit(model, 1)], tmp_path / "out", "gguf", gguf=path)
    assert not (tmp_path / "out").exists()


# -- what all forms share --------------------------------------------------------------------------


def test_dense_changes_do_not_fit_into_lora(model: EditableModel, tmp_path: Path) -> None:
    for form in ("peft", "llama-lora"):
        with pytest.raises(EditError, match=r"LoRA cannot hold that\. Ship it as 'merged' or 'gguf'"):
            ship(model, [random_edit(model, 1, rank=None)], tmp_path / "out", form)
    with pytest.raises(UsageError, match="Rank 1 was asked for; the edits of one matrix have rank 3 together"):
        ship(model, [random_edit(model, 1, rank=3)], tmp_path / "out", "peft", rank=1)
    for rank in (0, -1, 10**9):
        with pytest.raises(UsageError, match=f"Rank {rank} was asked for; an adapter of these matrices has one from 1"):
            ship(model, [random_edit(model, 1, rank=3)], tmp_path / "out", "peft", rank=rank, truncate=True)
    with pytest.raises(UsageError, match="cannot be stored as 'Q8_0'"):
        ship(model, [random_edit(model, 1)], tmp_path / "out", "merged", store_as="Q8_0")
    assert not (tmp_path / "out").exists()


def test_wrong_use(model: EditableModel, tmp_path: Path) -> None:
    edit = random_edit(model, 1)
    with pytest.raises(UsageError, match="The form 'onnx' is not one of merged, peft"):
        ship(model, [edit], tmp_path / "out", "onnx")
    with pytest.raises(UsageError, match="nothing to ship"):
        ship(model, [], tmp_path / "out", "merged")
    with pytest.raises(EditError, match="Edits do not carry over"):
        ship(tiny("gpt2", seed=9), [edit], tmp_path / "out", "merged")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(EditError, match="exists and is not an export"):
        ship(model, [edit], tmp_path / "mine", "merged")
    assert list(FORMS) == ["merged", "peft", "llama-lora", "gguf"]


def test_an_older_export_is_replaced_only_where_asked_and_only_its_own_files(
    model: EditableModel, tmp_path: Path
) -> None:
    ship(model, [random_edit(model, 1)], tmp_path / "out", "merged")
    kept = {".git/HEAD": "ref", "notes.txt": "mine", "config.json": "changed by me"}
    for name, text in kept.items():
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    with pytest.raises(EditError, match="holds an export, which is not replaced unasked"):
        ship(model, [random_edit(model, 2)], tmp_path / "out", "peft")
    with pytest.raises(UsageError, match=r"config\.json is there and was not written by factedit"):
        ship(model, [random_edit(model, 2)], tmp_path / "out", "merged", overwrite=True)
    assert (tmp_path / "out" / "model.safetensors").exists()
    ship(model, [random_edit(model, 2)], tmp_path / "out", "peft", overwrite=True)
    assert {name: (tmp_path / "out" / name).read_text() for name in kept} == kept
    assert not (tmp_path / "out" / "model.safetensors").exists()
    record = json.loads((tmp_path / "out" / "factedit-export.json").read_text())
    assert record["form"] == "peft"
    for name, sha in record["files"].items():
        assert sha256_file(tmp_path / "out" / name) == sha


def test_the_proof_compares_with_the_edited_model(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of another edit is found out by its numbers; a merged model of another edit is refused."""
    edit, other = random_edit(model, 1), random_edit(model, 2)
    monkeypatch.setattr(
        "factedit.export.ship.write_peft", lambda m, _edits, f, **settings: write_peft(m, [other], f, **settings)
    )
    proof = ship(model, [edit], tmp_path / "out", "peft", prompts=["A further prompt"]).proof
    assert proof.largest_logit_difference > 0.05
    assert proof.prompts == 1 + 2 + 5 + 1
    [target] = proof.targets
    assert target["memory"] != target["shipped"]
    from factedit.export import ship as module

    true = module.write_shards
    monkeypatch.setattr(module, "write_shards", lambda *asked: true(*asked[:3], lambda name: asked[3](name) + 1e-3))
    with pytest.raises(EditError, match="read back is not the edited one"):
        ship(model, [edit], tmp_path / "m", "merged")


# -- adapters of others ----------------------------------------------------------------------------


def test_unsafe_and_odd_adapters_are_refused(model: EditableModel, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    write_peft(model, [random_edit(model, 1)], folder, base="x")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(DataError, match=r"of a kind that is not read \('use_dora': True\)"):
        read_peft(model, folder)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="is no matrix of an MLP"):
        read_peft(tiny("llama"), folder)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights[:50])
    with pytest.raises(DataError, match="does not hold a whole LoRA adapter"):
        read_peft(model, folder)
    (folder / "adapter_model.safetensors").unlink()
    (tmp_path / "elsewhere").write_bytes(weights)
    (folder / "adapter_model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFile, match="is a link to"):
        read_peft(model, folder)
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(UnsafeFile, match=r"holds a pickle \(adapter_model.bin\)"):
        read_peft(model, folder)
    base = write(tmp_path / "b.gguf", llama_lm())
    with pytest.raises(DataError, match="is no LoRA adapter"):
        read_llama_lora(base)


def test_edits_of_more_rank_than_the_matrix_are_shipped_as_their_sum(model: EditableModel, tmp_path: Path) -> None:
    edits = [random_edit(model, seed, layer=1, rank=20) for seed in range(3)]  # 60 together; the matrix is [128, 32]
    shipped = ship(model, edits, tmp_path / "a", "peft")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["r"] == 32
    assert shipped.proof.largest_logit_difference < 1e-4
    whole = sum(edit.effects[0].delta().double() for edit in edits)  # type: ignore[attr-defined]
    [back] = read_peft(model, tmp_path / "a")
    assert torch.allclose(back.delta().double(), whole, atol=1e-5)


def test_an_adapter_is_cut_down_only_where_asked_and_says_what_is_lost(model: EditableModel, tmp_path: Path) -> None:
    edit = random_edit(model, 1, layer=1, rank=20)
    with pytest.raises(UsageError, match="--truncate"):
        ship(model, [edit], tmp_path / "a", "peft", rank=5)
    shipped = ship(model, [edit], tmp_path / "a", "peft", rank=5, truncate=True)
    delta = edit.effects[0].delta().double()  # type: ignore[attr-defined]
    sizes = torch.linalg.svdvals(delta)
    [cut] = shipped.stored
    assert cut.error == pytest.approx(float(sizes[5:].norm() / sizes.norm()), rel=1e-5)
    [back] = read_peft(model, tmp_path / "a")
    assert float((back.delta().double() - delta).norm() / delta.norm()) == pytest.approx(cut.error, rel=1e-4)


def test_a_rank_that_servers_refuse_is_refused(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.export.lora.SERVED", 16)
    edit = random_edit(model, 1, layer=1, rank=20)
    with pytest.raises(UsageError, match=r"need rank 20.*--rank 16 --truncate"):
        ship(model, [edit], tmp_path / "a", "peft")
    assert not (tmp_path / "a").exists()
    ship(model, [edit], tmp_path / "a", "peft", rank=20)


def test_of_many_facts_some_are_proven(model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.export.prove.PROVEN", 2)
    edits = [random_edit(model, seed, layer=1) for seed in range(4)]
    proof = ship(model, edits, tmp_path / "m", "merged").proof
    assert proof.requests == 4
    assert [row["prompt"] for row in proof.targets] == ["Subject 0 is in", "Subject 2 is in"]


def test_an_edit_without_changes_has_no_adapter(model: EditableModel, tmp_path: Path) -> None:
    """Before: a traceback. As a merged model it is the base."""
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="Rome")
    nothing = Edit(method="nothing", requests=(request,), effects=(), made_for=model.fingerprint())
    for form in ("peft", "llama-lora"):
        with pytest.raises(EditError, match="The edits change no matrix"):
            ship(model, [nothing], tmp_path / form, form, base="x")
        assert not (tmp_path / form).exists()
    assert ship(model, [nothing], tmp_path / "merged", "merged").proof.largest_logit_difference == 0
