"""Edits on quantised folders: the change is whole or its loss is told, all else keeps its bits, and it is undone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from factedit.cache import sha256_file
from factedit.edit.artefact import Edit
from factedit.edit.effects.weights import changed
from factedit.errors import DataError, EditError, UsageError
from factedit.export.ship import ship
from factedit.files.checkpoint_weights import check_weights
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.opened import open_edits
from factedit.stack.work import apply, revert
from quantised_cases import fp8_experts_folder, gpt_oss_folder, quantised_folder
from stack_cases import random_edit

NAME = "model.layers.1.mlp.down_proj"
SOME = [
    "bitsandbytes-int8", "bitsandbytes-nested", "gptq-3", "gptq-ordered", "awq", "fp8-powers", "fbgemm-fp8",
    "compressed-int4", "compressed-nvfp4",
]  # fmt: skip
LISTS = {"bitsandbytes": "llm_int8_skip_modules", "compressed-tensors": "ignore"}


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, as the index names them."""
    stored = check_weights(folder, what="it")
    files = {own.file: load_file(folder / own.file) for own in stored.values()}
    return {name: files[own.file][name] for name, own in stored.items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether tensors have the same names, types and bits."""
    bits = lambda t: t.contiguous().flatten().view(torch.uint8)  # noqa: E731
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype
        and left[n].shape == right[n].shape
        and torch.equal(bits(left[n]), bits(right[n]))
        for n in left
    )


def two(folder: Path) -> tuple[Edit, Edit]:
    """Two edits of one matrix, of a size that quantisation can hold in part."""
    model = load(str(folder))
    return random_edit(model, 1, layer=1, rank=1), random_edit(model, 3, layer=1, rank=2)


@pytest.mark.parametrize("case", SOME)
def test_an_edited_matrix_is_stored_whole_and_undone_to_the_bit(case: str, tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", case)
    before, config = tensors(base), (base / "config.json").read_bytes()
    model = load(str(base))
    edit, out = random_edit(model, 1, layer=1), tmp_path / "out"
    entry = apply(model, [edit], out)
    assert f"{NAME}.weight is stored unquantised, as float32" in "".join(entry.conflicts)
    found = tensors(out)
    [effect] = edit.effects
    assert torch.equal(found[f"{NAME}.weight"], changed(model.weight(1), effect).T)
    rest = {n: t for n, t in before.items() if not n.startswith(f"{NAME}.")}
    assert same({n: t for n, t in found.items() if n in rest}, rest)
    assert [n for n in found if n not in rest] == [f"{NAME}.weight"]
    again = load(str(out))
    assert torch.equal(again.weight(1), changed(model.weight(1), effect))
    assert torch.equal(again.weight(0), model.weight(0))
    said = json.loads((out / "config.json").read_text())["quantization_config"]
    if case.startswith("gptq"):
        assert [re.fullmatch(rule[2:], NAME) is not None for rule in said["dynamic"]] == [True]
    else:
        listed = said[LISTS.get(said["quant_method"], "modules_to_not_convert")]
        assert {NAME, "lm_head"} <= set(listed)
        assert f"{NAME.replace('1', '0')}" not in listed
    assert verify(out, model).edits == 1
    revert(out)
    assert same(tensors(out), before)
    assert (out / "config.json").read_bytes() == config
    assert verify(out, model).edits == 0


@pytest.mark.parametrize("case", SOME)
def test_quantised_anew_keeps_the_kind_and_tells_the_loss(case: str, tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", case)
    before, config, out = tensors(base), (base / "config.json").read_bytes(), tmp_path / "out"
    model = load(str(base))
    edit = random_edit(model, 1, layer=1)
    entry = apply(model, [edit], out, requantise=True)
    found, again = tensors(out), load(str(out))
    assert found.keys() == before.keys()
    assert {n: (t.dtype, t.shape) for n, t in found.items()} == {n: (t.dtype, t.shape) for n, t in before.items()}
    assert (out / "config.json").read_bytes() == config
    delta, stored = edit.effects[0].delta().double(), (again.weight(1) - model.weight(1)).double()
    said = re.search(
        r"quantised anew: (\d+) % of the change is kept.* off from it by (\d+) %", "".join(entry.conflicts)
    )
    assert said is not None
    share, error = float((stored * delta).sum() / delta.square().sum()), float((stored - delta).norm() / delta.norm())
    assert [int(said[1]), int(said[2])] == pytest.approx([100 * share, 100 * error], abs=0.51)
    assert 0.4 < share < 1.2
    assert re.search(r"log p -\d+\.\d+ unedited, -\d+\.\d+ edited, -\d+\.\d+ quantised anew", "".join(entry.conflicts))
    verify(out, model)
    revert(out, edit)
    assert same(tensors(out), before)


@pytest.mark.parametrize("requantise", [False, True])
def test_edits_on_top_of_each_other(requantise: bool, tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", "gptq-4")
    first, second = two(base)
    apply(str(base), [first], tmp_path / "one", requantise=requantise)
    apply(str(tmp_path / "one"), [second], requantise=requantise)
    both = tmp_path / "both"
    apply(str(base), [first, second], both, requantise=requantise)
    assert same(tensors(tmp_path / "one"), tensors(both))
    assert (tmp_path / "one" / "config.json").read_bytes() == (both / "config.json").read_bytes()
    revert(both, first)
    apply(str(base), [second], tmp_path / "two", requantise=requantise)
    assert same(tensors(tmp_path / "two"), tensors(both))
    opened = open_edits(both)
    assert [edit.identity for edit in opened.edits] == [second.identity]
    assert opened.base.fingerprint() == load(str(base)).fingerprint()


def test_a_matrix_that_was_not_touched_is_added_to_a_folder_of_edits(tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", "awq")
    model, out = load(str(base)), tmp_path / "out"
    edits = [random_edit(model, 1, layer=1), random_edit(model, 2, layer=0, matrix="in")]
    apply(model, edits[:1], out)
    entry = apply(str(out), edits[1:])
    assert "model.layers.0.mlp.up_proj.weight is stored unquantised" in "".join(entry.conflicts)
    listed = json.loads((out / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
    assert {NAME, "model.layers.0.mlp.up_proj", "lm_head"} <= set(listed)
    verify(out, model)
    revert(out, edits[0])
    assert NAME not in json.loads((out / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]


def test_transformers_reads_the_edited_matrix_beside_quantised_ones(tmp_path: Path) -> None:
    """FP8 alone is dequantised by transformers on a processor without another package."""
    base, _ = quantised_folder(tmp_path / "base", "fp8-whole-blocks")
    model = load(str(base))
    edit = random_edit(model, 1, layer=1)
    for name, asked in {"whole": False, "anew": True}.items():
        apply(model, [edit], tmp_path / name, requantise=asked)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).state_dict()
        ours = load(str(tmp_path / name)).lm.state_dict()
        assert all(torch.equal(own, theirs[n].float()) for n, own in ours.items())


@pytest.mark.parametrize("case", ["compressed-int4-symmetric", "compressed-fp8"])
def test_compressed_tensors_reads_the_edited_matrix_beside_quantised_ones(case: str, tmp_path: Path) -> None:
    """Its own path for zero points and whole int8 does not load what it stores (0.20.1 with transformers 5.23)."""
    pytest.importorskip("compressed_tensors")
    base, _ = quantised_folder(tmp_path / "base", case)
    asked_of_transformers(base, tmp_path, least=1e-6)


@pytest.mark.parametrize("case", ["bitsandbytes-nf4", "bitsandbytes-int8"])
def test_bitsandbytes_reads_the_edited_matrix_beside_quantised_ones(case: str, tmp_path: Path) -> None:
    """Its products on a processor are taken in narrower types (bfloat16, int8) than its own dequantised values."""
    pytest.importorskip("bitsandbytes")
    base, _ = quantised_folder(tmp_path / "base", case, sizes={"hidden_size": 64, "intermediate_size": 128})
    asked_of_transformers(base, tmp_path, least=0.1)


def asked_of_transformers(base: Path, place: Path, *, least: float) -> None:
    """The logits of an edited folder, read by transformers in its own way and by factedit."""
    model, ids = load(str(base)), torch.tensor([[5, 9, 200, 41]])
    apply(model, [random_edit(model, 1, layer=1)], place / "out")
    theirs = AutoModelForCausalLM.from_pretrained(place / "out", dtype=torch.float32).eval()
    assert theirs.get_submodule(NAME).weight.dtype == torch.float32
    with torch.no_grad():
        expected, found = load(str(place / "out")).lm(input_ids=ids).logits, theirs(input_ids=ids).logits
        assert float((expected - model.lm(input_ids=ids).logits).abs().max()) > 0.3  # the edit
        torch.testing.assert_close(found, expected, atol=least, rtol=0)


# Experts


def test_experts_in_mxfp4_are_quantised_anew_or_refused(tmp_path: Path) -> None:
    """All experts of a layer are one tensor, of which no single one can be left out of quantisation."""
    base, _ = gpt_oss_folder(tmp_path / "base")
    before, model, out = tensors(base), load(str(base)), tmp_path / "out"
    edit = random_edit(model, 1, layer=1, matrix="out.1")
    with pytest.raises(EditError, match=r"or only together with model.layers.1.mlp.experts.gate_up_proj"):
        apply(model, [edit], out)
    assert not out.exists()
    entry = apply(model, [edit], out, requantise=True)
    assert "model.layers.1.mlp.experts.down_proj is quantised anew: " in "".join(entry.conflicts)
    again, theirs = load(str(out)), AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert all(torch.equal(own, theirs.state_dict()[name]) for name, own in again.lm.state_dict().items())
    stored, wanted = again.weight(1, "out.1") - model.weight(1, "out.1"), edit.effects[0].delta()
    assert 0.7 < float((stored * wanted).sum() / wanted.square().sum()) < 1.2
    assert all(torch.equal(again.weight(1, f"out.{n}"), model.weight(1, f"out.{n}")) for n in (0, 2, 3))
    verify(out, model)
    revert(out)
    assert same(tensors(out), before)


@pytest.mark.parametrize("requantise", [False, True])
def test_experts_that_a_folder_stores_one_by_one(requantise: bool, tmp_path: Path) -> None:
    """As the FP8 folders of DeepSeek and Qwen do: one expert's matrix alone is stored otherwise."""
    base, name = fp8_experts_folder(tmp_path / "base"), "model.layers.1.mlp.experts.2.down_proj"
    before, model, out = tensors(base), load(str(base)), tmp_path / "out"
    edit = random_edit(model, 1, layer=1, matrix="out.2")
    apply(model, [edit], out, requantise=requantise)
    found, again = tensors(out), load(str(out))
    assert {n for n in before.keys() | found.keys() if n not in found or n not in before} == (
        set() if requantise else {f"{name}.weight_scale_inv"}
    )
    assert found[f"{name}.weight"].dtype == (torch.float8_e4m3fn if requantise else torch.float32)
    exact = changed(model.weight(1, "out.2"), edit.effects[0])
    assert torch.allclose(again.weight(1, "out.2"), exact, atol=0.05 if requantise else 0)
    assert torch.equal(again.weight(1, "out.1"), model.weight(1, "out.1"))
    verify(out, model)
    revert(out)
    assert same(tensors(out), before)
    with pytest.raises(EditError, match=r"stores the two parts of 'in\.2' of layer 1 apart"):
        apply(model, [random_edit(model, 1, layer=1, matrix="in.2")], tmp_path / "in")


# Exports


def test_merged_holds_all_weights_unquantised_in_the_shards_of_the_base(tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", "gptq-4")
    stored = load_file(base / "model.safetensors")
    first = {n: t for n, t in stored.items() if ".layers.0." in n or "embed" in n}
    files = {"model-1.safetensors": first, "model-2.safetensors": {n: t for n, t in stored.items() if n not in first}}
    for file, part in files.items():
        save_file(part, base / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, part in files.items() for n in part}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    (base / "model.safetensors").unlink()
    model = load(str(base))
    edit = random_edit(model, 1, layer=1)
    shipped = ship(model, [edit], tmp_path / "out", "merged")
    assert shipped.proof.largest_logit_difference == 0
    assert "the base is quantised (gptq), and this export holds all its weights unquantised" in shipped.notes[0]
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    places = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert places["model.layers.0.mlp.down_proj.weight"] == "model-1.safetensors"
    assert places["model.layers.1.mlp.down_proj.weight"] == "model-2.safetensors"


@pytest.mark.parametrize("case", ["compressed-int4-symmetric", "fp8-whole-blocks"])
def test_an_adapter_stands_beside_the_quantised_matrix(case: str, tmp_path: Path) -> None:
    """Put by PEFT on the model as transformers reads the quantised folder."""
    peft = pytest.importorskip("peft")
    if case.startswith("compressed"):
        pytest.importorskip("compressed_tensors")
    base, _ = quantised_folder(tmp_path / "base", case)
    model, ids = load(str(base)), torch.tensor([[5, 9, 200, 41]])
    edit = random_edit(model, 1, layer=1)
    ship(model, [edit], tmp_path / "adapter", "peft")
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        plain = theirs(input_ids=ids).logits
        with edit.applied_to(model):
            expected = model.lm(input_ids=ids).logits
        wrapped = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
        torch.testing.assert_close(wrapped(input_ids=ids).logits, expected, atol=1e-3, rtol=0)
        with wrapped.disable_adapter():
            assert torch.equal(wrapped(input_ids=ids).logits, plain)


# Refused


def test_a_folder_in_which_nothing_can_be_quantised_anew(tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", "gptq-4")
    config = json.loads((base / "config.json").read_text())
    model = load(str(base))
    edit = random_edit(model, 1, layer=1)
    apply(model, [edit], tmp_path / "out")
    with pytest.raises(UsageError, match="is stored unquantised since its first edit"):
        apply(str(tmp_path / "out"), [random_edit(model, 3, layer=1)], requantise=True, force=True)
    del config["quantization_config"]
    model.lm.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(UsageError, match="is not quantised, so nothing can be quantised anew"):
        apply(str(tmp_path / "plain"), [edit], tmp_path / "other", requantise=True)


def test_a_model_that_is_no_longer_what_its_folder_holds(tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", "gptq-4")
    model = load(str(base))
    with torch.no_grad():
        model.weight(0)[0, 0] += 1
    with pytest.raises(EditError, match=r"layers.0.mlp.down_proj.weight of base in memory is not what .* holds"):
        apply(model, [random_edit(model, 1, layer=1)], tmp_path / "out")
    with pytest.raises(UsageError, match=r"is quantised, and was read as bfloat16\. .* leave --dtype out"):
        apply(load(str(base), dtype="bfloat16"), [random_edit(model, 1)], tmp_path / "out", force=True)


def test_a_kept_original_or_configuration_that_was_changed(tmp_path: Path) -> None:
    base, _ = quantised_folder(tmp_path / "base", "gptq-4")
    model, out = load(str(base)), tmp_path / "out"
    apply(model, [random_edit(model, 1, layer=1)], out)
    kept = out / "factedit" / "originals" / "config.json"
    text = kept.read_text()
    kept.write_text(text.replace('"bits": 4', '"bits": 8'))
    with pytest.raises(DataError, match=r"originals/config.json is not the file that the ledger names"):
        revert(out)
    kept.write_text(text)
    assert sha256_file(kept) == sha256_file(base / "config.json")
    revert(out)
