"""What an audit finds on edited, unedited and trained copies, and what it says about its certainty."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny
from factedit.account.audit import audit
from factedit.account.difference import SKETCH, compare_tensors
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method_table import make_method
from factedit.errors import DataError, EditError, UnsafeFile
from factedit.export.ship import ship
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.positions import continuation
from factedit.stack.work import apply
from factedit.stats.second_moment import SecondMoment
from stack_cases import random_edit

CANDIDATES = [
    EditRequest(subject=subject, prompt="{} is in", target_new="Seattle")
    for subject in ("Paris", "The Space Needle", "LeBron James", "Danielle Darrieux", "Zürich", "Café", "basketball")
]


def moment(model: EditableModel, layer: int) -> SecondMoment:
    """A C that is not the identity, from random keys."""
    keys = torch.randn(400, model.d_mlp, generator=torch.Generator().manual_seed(layer)) * torch.linspace(
        0.2, 2, model.d_mlp
    )
    return SecondMoment(keys.T @ keys / 400)


@pytest.mark.parametrize("wanted", [0, 3, 5])
@pytest.mark.parametrize("with_moment", [True, False])
def test_the_edited_subject_and_object_are_named(
    editable_family: EditableModel, wanted: int, with_moment: bool
) -> None:
    model = editable_family
    source = moment if with_moment else lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))
    settings = {"layer": 1, "clamp": 60.0, "decay": 0.0, "kl": 0.0, "context_templates": ["{}"]}
    [edit] = make_method("rome", model, source, **settings).edit([CANDIDATES[wanted]]).edits
    suspect = tiny(model.family.name)
    before = model.fingerprint()
    with edit.applied_to(suspect):
        found = audit(model, suspect, CANDIDATES, moment=moment if with_moment else lambda _m, _l: None)
    assert model.fingerprint() == before
    assert (found.verdict, [d.rank for d in found.differences]) == ("a low-rank edit", [1])
    assert found.differences[0].tensor == model.matrix(1).name
    first = found.suspicions[0]
    assert first.subject == CANDIDATES[wanted].subject
    assert first.score == pytest.approx(1.0, abs=2e-3)
    assert found.suspicions[1].score < 0.999
    assert found.with_moment == with_moment
    ids, at = continuation(model, CANDIDATES[wanted].text, "Seattle")
    rises = {token: after - now for token, now, after in first.promoted}
    if edit.told_of(0)["losses"][-1][1] < 0.5:  # where the edit reached its target
        assert model.tokenizer.decode([ids[at]]) in rises
    assert "Not certain" in found.statement()
    json.dumps(found.as_json(), allow_nan=False)


def test_unedited_copies_raise_no_alarm(tmp_path: Path) -> None:
    model = tiny("llama")
    copies = [tiny("llama")]
    for dtype in (torch.bfloat16, torch.float16):
        lm = tiny("llama").lm.to(dtype)
        lm.save_pretrained(tmp_path / str(dtype))
        model.tokenizer.save_pretrained(tmp_path / str(dtype))
        copies.append(load(str(tmp_path / str(dtype))))
    for copy in copies:
        found = audit(model, copy, CANDIDATES)
        assert found.verdict == "no difference"
        assert found.statement().startswith("Certain: no difference")
        assert not found.suspicions


def test_a_rounded_copy_of_an_edited_model_is_still_an_edit(tmp_path: Path) -> None:
    model, edited = tiny("llama"), tiny("llama")
    with random_edit(model, 1).applied_to(edited):
        edited.lm.to(torch.bfloat16).save_pretrained(tmp_path / "m")
    model.tokenizer.save_pretrained(tmp_path / "m")
    found = audit(model, tmp_path / "m")
    assert [(d.tensor, d.rank) for d in found.differences] == [(model.matrix(1).name, 1)]
    assert "no candidates were given" in found.statement()


def test_a_trained_model_is_not_a_low_rank_edit() -> None:
    model, trained = tiny("gpt2"), tiny("gpt2")
    optimiser = torch.optim.Adam(trained.lm.parameters(), lr=1e-3)
    ids = torch.randint(5, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    trained.lm(input_ids=ids, labels=ids).loss.backward()
    optimiser.step()
    found = audit(model, trained, CANDIDATES)
    assert found.verdict == "not a low-rank edit"
    assert "This is not a low-rank edit of MLPs" in found.statement()
    assert not found.suspicions
    one_norm = tiny("gpt2")
    with torch.no_grad():
        one_norm.layers[0].ln_1.weight += 1
    found = audit(model, one_norm)
    assert (found.verdict, found.differences[0].rank) == ("not a low-rank edit", None)
    assert "no matrix" in found.statement()


def test_several_matrices_and_ranks() -> None:
    model, suspect = tiny("llama"), tiny("llama")
    edits = [random_edit(model, 1, rank=3), random_edit(model, 2, matrix="gate", rank=2)]
    with edits[0].applied_to(suspect), edits[1].applied_to(suspect, force=True):
        found = audit(model, suspect, CANDIDATES)
    ranks = {d.tensor: d.rank for d in found.differences}
    assert ranks == {model.matrix(1).name: 3, model.matrix(2, "gate").name: 2}
    assert len(found.suspicions) == 5


def test_ranks_are_told_apart_from_rounding() -> None:
    random = torch.Generator().manual_seed(1)
    base = torch.randn(300, 200, generator=random)
    for rank in (1, 2, 7, 64):
        delta = 0.1 * torch.randn(300, rank, generator=random) @ torch.randn(rank, 200, generator=random)
        found = compare_tensors("w", base, base + delta)
        assert found is not None
        assert found.rank == rank
        exact = torch.linalg.svdvals(delta)[:rank]
        torch.testing.assert_close(torch.tensor(found.values), exact, atol=1e-4, rtol=1e-3)
        assert found.left is not None
        torch.testing.assert_close(found.left.T @ found.left, torch.eye(rank), atol=1e-5, rtol=1e-5)
    full = compare_tensors("w", base, base + 0.1 * torch.randn(300, 200, generator=random))
    assert full is not None
    assert full.rank is None
    assert SKETCH == 65
    assert compare_tensors("w", base, base.clone()) is None


def test_adapters_and_other_models(tmp_path: Path) -> None:
    model = tiny("gpt2")
    edit = random_edit(model, 1)
    ship(model, [edit], tmp_path / "a", "peft")
    found = audit(model, tmp_path / "a", CANDIDATES)
    assert [(d.tensor, d.rank) for d in found.differences] == [(model.matrix(1).name, 1)]
    with pytest.raises(EditError, match=r"are not versions of one model: .* in the first and .* in the second"):
        audit(model, tiny("llama"))
    (tmp_path / "a" / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(UnsafeFile, match="holds a pickle"):
        audit(model, tmp_path / "a")


def test_an_edit_without_effect_is_no_difference() -> None:
    model, suspect = tiny("gpt2"), tiny("gpt2")
    change = LowRank(1, torch.zeros(128, 1), torch.zeros(1, 32))
    nothing = Edit(method="x", requests=(), effects=(change,), made_for="any")
    with nothing.applied_to(suspect, force=True):
        assert audit(model, suspect).verdict == "no difference"


def test_low_rank_in_many_places_is_undecided() -> None:
    """Before: a merged LoRA fine-tune of all MLPs was 'an edit of facts, since training does not give such ranks'."""
    model = tiny("llama", num_hidden_layers=8)
    for edits, said in (
        ([random_edit(model, n, layer=n) for n in range(6)], "in 6 of 8 layers"),
        ([random_edit(model, 1, matrix=which) for which in ("gate", "in")], "in gate and up matrices"),
    ):
        suspect = tiny("llama", num_hidden_layers=8)
        with ExitStack() as stack:
            for edit in edits:
                stack.enter_context(edit.applied_to(suspect, force=True))
            found = audit(model, suspect)
        assert found.verdict == "a low-rank edit or LoRA training"
        assert f"Undecided: differences of low rank {said} look like merged LoRA training" in found.statement()
        assert "Likely" not in found.statement()


@pytest.mark.parametrize(
    ("config", "drop", "said"),
    [
        ({"init_lora_weights": "pissa"}, "", "'init_lora_weights': 'pissa'"),
        ({"init_lora_weights": "olora"}, "", "'init_lora_weights': 'olora'"),
        ({"use_dora": True}, "", "'use_dora': True"),
        ({"use_rslora": True}, "", "'use_rslora': True"),
        ({"modules_to_save": ["lm_head"]}, "", "'modules_to_save'"),
        ({"bias": "all"}, "", "'bias': 'all'"),
        ({"lora_bias": True}, "", "'lora_bias': True"),
        ({"a_new_kind": 3}, "", "'a_new_kind': 3"),
        ({"peft_type": "LOHA"}, "", "peft_type 'LOHA'"),
        ({"r": 0}, "", "does not hold a whole LoRA adapter"),
        ({"r": 2}, "", "the halves"),
        ({"lora_alpha": float("nan")}, "", "does not hold a whole LoRA adapter"),
        ({}, "lora_A", "the halves"),
        ({}, "lora_B", "the halves"),
        ({}, "lora_", "changes nothing"),
    ],
)
def test_adapters_that_do_more_than_a_product_are_refused_by_name(
    config: dict[str, Any], drop: str, said: str, tmp_path: Path
) -> None:
    """Before: a bias-only adapter was 'no difference, to the bit', PiSSA's 'an edit', half an adapter a traceback."""
    model = tiny("gpt2")
    ship(model, [random_edit(model, 1)], tmp_path / "a", "peft")
    path, weights = tmp_path / "a" / "adapter_config.json", tmp_path / "a" / "adapter_model.safetensors"
    audit(model, tmp_path / "a")
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if drop:
        save_file({n: t for n, t in load_file(weights).items() if drop not in n}, weights)
    with pytest.raises(DataError, match=re.escape(said)):
        audit(model, tmp_path / "a")


def test_a_bias_of_the_adapters_own_is_refused(tmp_path: Path) -> None:
    model = tiny("gpt2")
    ship(model, [random_edit(model, 1)], tmp_path / "a", "peft")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    tensors = load_file(weights)
    [name] = [name for name in tensors if "lora_B" in name]
    save_file({**tensors, name.replace(".weight", ".bias"): torch.ones(32)}, weights)
    with pytest.raises(DataError, match=r"changes '.*lora_B\.bias', which is no matrix of an MLP of"):
        audit(model, tmp_path / "a")


def test_prompts_of_one_subject_are_told_apart_by_what_rises_there() -> None:
    """Their keys are alike; before, their order was that of the candidates."""
    model = tiny("gpt2")
    prompts = ("{} is in", "{} likes", "{} was born in", "{} is")
    for wanted in prompts:
        fact = EditRequest(subject="The Space Needle", prompt=wanted, target_new="Москва")
        settings = {"layer": 1, "clamp": 60.0, "decay": 0.0, "kl": 0.0, "context_templates": ["{}"]}
        [edit] = make_method("rome", model, moment, **settings).edit([fact]).edits
        suspect = tiny("gpt2")
        asked = [EditRequest(subject="The Space Needle", prompt=p, target_new="x") for p in prompts]
        with edit.applied_to(suspect):
            found = audit(model, suspect, [*CANDIDATES, *asked], moment=moment)
        scores = [s.score + 0.1 * s.rise for s in found.suspicions]
        assert scores == sorted(scores, reverse=True)
        alike = [s for s in found.suspicions if s.score > 0.99]
        assert [s.rise for s in alike] == sorted((s.rise for s in alike), reverse=True)
        assert {s.subject for s in alike} == {"The Space Needle"}


def test_a_ledger_in_the_folder_is_read_and_reported(tmp_path: Path) -> None:
    model = tiny("gpt2")
    edit = random_edit(model, 1)
    apply(model, [edit], tmp_path / "m")
    found = audit(model, tmp_path / "m")
    [said] = found.ledger
    assert said.endswith(f"(random: {edit.requests[0].text} → {edit.requests[0].target_new})")
    assert f"The folder's own ledger, for which nobody vouches here, says: {said}." in found.statement()
    assert "score is the share" in audit(model, tmp_path / "m", CANDIDATES).statement()


def test_of_many_edited_subjects_each_is_named_and_no_other(tmp_path: Path) -> None:
    """Edits at hand-made keys: the candidates' own. What is read of a key is what its part in the edits is."""
    model = tiny("gpt2")
    edited, others = CANDIDATES[:4], CANDIDATES[4:]
    settings = {"layer": 1, "share": 0.9, "steps": 2, "context_templates": ["{}"]}
    [edit] = make_method("rome-joint", model, moment, **settings).edit(edited).edits
    suspect = tiny("gpt2")
    with edit.applied_to(suspect):
        found = audit(model, suspect, CANDIDATES, moment=moment)
    assert [d.rank for d in found.differences] == [4]
    scores = {subject: score for subject, _, score in found.excited}
    assert {request.subject for request in edited} <= scores.keys()
    assert all(scores[request.subject] == pytest.approx(1.0, abs=5e-3) for request in edited)
    inside = torch.linalg.qr(edit.effects[0].left.double()).Q  # type: ignore[attr-defined]
    for request in others:  # the definition: |C^½ projection of C⁻¹k|, by a plain least squares
        key = plain_key(model, request)
        c = moment(model, 1).matrix.double()
        root = torch.linalg.cholesky(c)  # C = L Lᵀ: the length of u in the metric of C is ‖Lᵀu‖
        u = torch.linalg.solve(c, key)
        fit = torch.linalg.lstsq(root.T @ inside, (root.T @ u)[:, None]).solution
        share = float((root.T @ inside @ fit).norm() / (root.T @ u).norm())
        assert (request.subject in scores) == (share >= 0.5), share
    assert f"Of {len(scores)} subjects at least 0.5 of a key is read" in found.statement()
    row = json.loads(json.dumps(found.as_json()))
    assert [named["subject"] for named in row["excited"]] == list(scores)


def plain_key(model: EditableModel, request: EditRequest) -> torch.Tensor:
    """The key at the last subject token, by a hook on the matrix."""
    from factedit.models.positions import locate

    text, seen = locate(model, request.prompt, request.subject), list[torch.Tensor]()
    module = model.matrix(1).module
    handle = module.register_forward_hook(lambda _m, given, _out: seen.append(given[0]))
    with torch.no_grad():
        model.lm(input_ids=torch.tensor([text.ids]))
    handle.remove()
    return seen[0].reshape(len(text.ids), -1)[text.subject_last].double()


def test_a_rank_past_the_first_look_is_found_where_few_tensors_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.account.audit.LOW", 0.5)
    model = tiny("gpt2")
    monkeypatch.setattr(compare_tensors, "__kwdefaults__", {"sketch": 5})
    suspect = tiny("gpt2")
    with random_edit(model, 1, layer=1, rank=9).applied_to(suspect):
        assert audit(model, suspect).differences[0].rank == 9
        monkeypatch.setattr("factedit.account.audit.DEEPER", 0)
        assert audit(model, suspect).differences[0].rank is None
