"""Edits of experts: ROME's theorems for all experts of a layer as one matrix, and the dense edit as a special case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import TEXT, random_moment, tiny, tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Method
from factedit.edit.methods.memit import memit
from factedit.edit.methods.memory import memory
from factedit.edit.methods.rome import rome
from factedit.edit.methods.rome_joint import rome_joint
from factedit.engine.routing import routes
from factedit.errors import DataError, EditError, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.stats.collect import collect, token_pieces
from factedit.stats.experts_moment import ExpertsMoment, RunningExperts
from factedit.stats.experts_store import read_experts, write_experts
from factedit.stats.preserved import Preserved
from factedit.stats.provide import Moments, Text

LAYER = 2
WHERE = {"mixtral": "eager", "qwen3_moe": "grouped_mm", "gpt_oss": "grouped_mm", "deepseek_v3": "batched_mm"}
FACTS = (
    EditRequest(subject="The Space Needle", prompt="{} is in", target_new="Paris"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
)
CONTEXTS = ("{}", "Café. {}", "東京 Москва. {}", "Paris is. {}")


def moments(model: EditableModel, layer: int) -> Any:
    """A random C; of experts one each."""
    mixture = model.mixture(layer)
    if mixture is None:
        return random_moment(model.mlp(layer).width)
    blocks = {name: random_moment(own.stop - own.start) for name, own in mixture.slices.items()}
    return ExpertsMoment(blocks, mixture.slices, layer, 100)


def make(name: str, model: EditableModel, source: Any = moments, **settings: Any) -> Method:
    own: dict[str, Any] = {"steps": 4, "context_templates": CONTEXTS, "subject_weight": 0.0, **settings}
    if name == "rome":
        return rome(model, source, layer=LAYER, **own)
    return (memit if name == "memit" else rome_joint)(model, source, layers=(1, LAYER), **own)


def changes(edit: Edit) -> list[LowRank]:
    return [effect for effect in edit.effects if isinstance(effect, LowRank)]


@pytest.fixture(scope="module", params=sorted(WHERE))
def model(request: pytest.FixtureRequest) -> EditableModel:
    return tiny(request.param, experts_implementation=WHERE[request.param])


@pytest.fixture(scope="module")
def twins() -> tuple[EditableModel, EditableModel]:
    """A mixture of one expert that gets every token, and the dense model with the same weights."""
    lm = tiny_lm("qwen3_moe", num_experts=1, num_experts_per_tok=1, moe_intermediate_size=48)
    dense = tiny_lm("qwen3")
    tensors = dict(lm.state_dict())
    for layer in range(4):
        mlp = f"model.layers.{layer}.mlp"
        gate, up = tensors.pop(f"{mlp}.experts.gate_up_proj")[0].chunk(2)
        tensors |= {f"{mlp}.gate_proj.weight": gate, f"{mlp}.up_proj.weight": up}
        tensors[f"{mlp}.down_proj.weight"] = tensors.pop(f"{mlp}.experts.down_proj")[0]
        del tensors[f"{mlp}.gate.weight"]
    dense.load_state_dict(tensors)
    return EditableModel(lm, tiny_tokenizer(), name="one"), EditableModel(dense, tiny_tokenizer(), name="dense")


@pytest.mark.parametrize("name", ["rome", "rome-joint", "memit"])
def test_where_one_expert_gets_every_token_its_edit_is_the_dense_one(
    twins: tuple[EditableModel, EditableModel], name: str
) -> None:
    made = [make(name, own).edit(FACTS).edits for own in twins]
    for one, dense in zip(*made, strict=True):
        assert [effect.place for effect in changes(one)] == [(n, "out.0") for n in dense.layers]
        for mine, right in zip(changes(one), changes(dense), strict=True):
            torch.testing.assert_close(mine.delta(), right.delta(), rtol=1e-3, atol=1e-5)


def test_c_of_that_expert_is_the_dense_one(twins: tuple[EditableModel, EditableModel]) -> None:
    found = []
    for own in twins:
        sums = collect(own, [LAYER], token_pieces(own, [TEXT[:60], TEXT[10:], "a b"]), tokens=50)[LAYER]
        found.append(sums.moment(LAYER, "", "").matrix if isinstance(sums, RunningExperts) else sums.mean())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_the_value_of_the_block_is_written_and_the_change_is_the_least(model: EditableModel) -> None:
    """k* (Ŵ − W) = δ over all experts, and ΔW = C⁻¹k* ⊗ Λ: the constraint of ROME eq. 2 and its stationarity."""
    method = make("rome", model)
    [value, _] = method.prepare(FACTS)  # type: ignore[attr-defined]
    edit = method.edit(FACTS).edits[0]
    mixture = model.mixture(LAYER)
    assert mixture is not None
    before = {effect.matrix: model.weight(LAYER, effect.matrix).clone() for effect in changes(edit)}
    delta, total = torch.zeros(mixture.width, model.d_model), torch.zeros(model.d_model)
    with edit.applied_to(model):
        for name, old in before.items():
            own = model.weight(LAYER, name) - old
            delta[mixture.slices[name]] = own
            total += value.key[mixture.slices[name]] @ own
    torch.testing.assert_close(total, value.delta, rtol=1e-3, atol=1e-5)
    weighed = moments(model, LAYER).matrix.float() @ delta  # CΔW has rank one and rows along k*
    side = torch.nn.functional.cosine_similarity(weighed @ value.delta, value.key, dim=0)
    assert abs(float(side)) == pytest.approx(1, abs=1e-4)


def test_experts_that_are_sent_nothing_keep_their_bits_and_the_shared_one_is_edited(model: EditableModel) -> None:
    edit, before = make("rome", model, experts="bare").edit(FACTS[:1]).edits[0], model.fingerprint()
    text = locate(model, FACTS[0].prompt, FACTS[0].subject)
    [row] = routes(model, [text.ids])
    sent = {f"out.{e}" for e in row[text.subject_last][LAYER]}
    mixture = model.mixture(LAYER)
    assert mixture is not None
    assert {effect.matrix for effect in changes(edit)} == sent | ({"out.shared"} if mixture.shared else set())
    kept = {name: model.weight(LAYER, name).clone() for name in mixture.slices}
    with edit.applied_to(model):
        for name, old in kept.items():
            assert torch.equal(model.weight(LAYER, name), old) != (name in {e.matrix for e in changes(edit)})
    assert model.fingerprint() == before
    told = edit.notes[0].diagnostics["experts"][str(LAYER)]
    assert sum(told.values()) == pytest.approx(1)
    assert set(told) == {effect.matrix for effect in changes(edit)}


def test_the_edited_layers_experts_run_once_and_the_edit_has_the_same_bits(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of v* change what they give and nothing that they read; the oracle runs them at every step."""
    calls: list[int] = []
    experts: Any = model.layers[LAYER].mlp.experts
    handle = experts.register_forward_hook(lambda *_: calls.append(1))

    def edited() -> list[LowRank]:
        calls.clear()
        return changes(make("rome", model, steps=5, stop_loss=0.0).edit(FACTS[:1]).edits[0])

    once, few = edited(), len(calls)
    monkeypatch.setattr("factedit.edit.value_rows.run_once", lambda *_: nullcontext())
    every, many = edited(), len(calls)
    handle.remove()
    assert many - few >= 3
    assert [effect.matrix for effect in once] == [effect.matrix for effect in every]
    assert all(torch.equal(mine.delta(), right.delta()) for mine, right in zip(once, every, strict=True))


def test_contexts_that_go_elsewhere_are_edited_each_or_refused(model: EditableModel) -> None:
    edits = {own: make("rome", model, experts=own).edit(FACTS).edits for own in ("each", "bare")}
    names = {own: [{effect.matrix for effect in changes(edit)} for edit in made] for own, made in edits.items()}
    differ = [n for n in range(len(FACTS)) if names["each"][n] > names["bare"][n]]
    assert differ
    fact = FACTS[differ[0]]
    for name in ("rome", "rome-joint", "memit"):
        with pytest.raises(EditError, match=r"is sent to out\..* in the bare prompt and after other texts to out\."):
            make(name, model, experts="refuse").edit([fact])


def test_methods_of_one_matrix_per_layer_are_refused_before_anything_is_computed() -> None:
    with pytest.raises(UsageError, match=r"a mixture of 4 experts.*those that write keys and values do \(rome"):
        memory(tiny("mixtral"), moments, layer=LAYER, context_templates=["{}"])


def test_joint_edits_are_taken_back_fact_by_fact() -> None:
    model = tiny("mixtral")
    method = make("rome-joint", model)
    made = method.edit(FACTS)
    with made.edits[0].applied_to(model):
        from factedit.edit.standing import facts_on

        edit = made.edits[0].with_state(None, made.state)
        back = method.take_back([edit], [facts_on([edit])[1]], made.state)  # type: ignore[attr-defined]
        with back.applied_to(model):
            left = {name: model.weight(LAYER, name).clone() for name in model.mixture(LAYER).slices}  # type: ignore[union-attr]
    plain = {name: model.weight(LAYER, name) for name in left}
    gone = sum(float((left[name] - plain[name]).norm() ** 2) for name in left) ** 0.5
    whole = sum(float(effect.delta().norm() ** 2) for effect in changes(made.edits[0]) if effect.layer == LAYER) ** 0.5
    assert 0 < gone < whole


# -- second moments ----------------------------------------------------------------------------


def by_hand(model: EditableModel, rows: Sequence[Sequence[int]]) -> Iterator[tuple[str, Tensor]]:
    """Each token's weighted key at each expert that it is sent to, one row at a time, from the model's own tensors."""
    block: Any = model.layers[LAYER].mlp
    seen: list[tuple[Tensor, ...]] = []
    handles = [
        block.experts.register_forward_pre_hook(lambda _m, args: seen.append(args)),
        *([block.shared_experts.down_proj.register_forward_pre_hook(lambda _m, args: seen.append(args))]
          if model.family.shared else []),
    ]  # fmt: skip
    for ids in rows:
        seen.clear()
        with torch.no_grad():
            model.lm(input_ids=torch.tensor([list(ids)]))
        states, experts, weights = seen[0]
        for token in range(len(ids)):
            for expert, weight in zip(experts[token].tolist(), weights[token], strict=True):
                first = block.experts.gate_up_proj[expert].detach()
                if model.family.name == "gpt_oss":
                    gave = states[token] @ first + block.experts.gate_up_proj_bias[expert].detach()
                    gate, up = gave[::2].clamp(max=7.0), gave[1::2].clamp(-7.0, 7.0)
                    key = (up + 1) * gate * torch.sigmoid(1.702 * gate)
                else:
                    gate, up = (first @ states[token]).chunk(2)
                    key = torch.nn.functional.silu(gate) * up
                yield f"out.{expert}", weight * key
            if model.family.shared:
                yield "out.shared", seen[1][0].view(len(ids), -1)[token]
    for handle in handles:
        handle.remove()


def test_c_is_of_the_tokens_alone_that_are_sent_to_the_expert(model: EditableModel) -> None:
    rows = list(token_pieces(model, [TEXT[:70], TEXT[30:], "a b c"]))
    tokens = sum(map(len, rows))
    sums = collect(model, [1, LAYER], rows, tokens=tokens)[LAYER]
    assert isinstance(sums, RunningExperts)
    moment = sums.moment(LAYER, "", "text")
    right: dict[str, Tensor] = {}
    count: dict[str, int] = {}
    for name, key in by_hand(model, rows):
        right[name] = right.get(name, 0) + torch.outer(key, key).double() / tokens
        count[name] = count.get(name, 0) + 1
    assert {name: n for name, n in moment.reached.items() if n} == count
    assert moment.tokens == tokens
    for name, matrix in right.items():
        torch.testing.assert_close(moment.blocks[name].matrix, matrix, rtol=1e-3, atol=1e-6)


def test_a_shared_expert_with_a_gate_counts_by_it_though_it_is_called_before_the_others() -> None:
    model = tiny("qwen2_moe", shared_expert_intermediate_size=24)
    block: Any = model.layers[LAYER].mlp
    rows = list(token_pieces(model, [TEXT[:70], TEXT[30:], "a b c"]))
    tokens, right, read = sum(map(len, rows)), torch.zeros(24, 24, dtype=torch.float64), list[Tensor]()
    sums = collect(model, [LAYER], rows, tokens=tokens)[LAYER]
    assert isinstance(sums, RunningExperts)
    handles = [
        module.register_forward_pre_hook(lambda _m, args: read.append(args[0]))
        for module in (block.shared_expert.down_proj, block.shared_expert_gate)
    ]
    for row in rows:
        read.clear()
        with torch.no_grad():
            model.lm(input_ids=torch.tensor([list(row)]))
        keys = read[0] * torch.sigmoid(read[1] @ block.shared_expert_gate.weight.detach().T)
        right += (keys.T @ keys).double() / tokens
    for handle in handles:
        handle.remove()
    found = sums.moment(LAYER, "", "text").blocks["out.shared"]
    assert found.tokens == tokens
    torch.testing.assert_close(found.matrix, right, rtol=1e-3, atol=1e-6)


def test_a_solution_is_that_of_the_whole_matrix() -> None:
    blocks = {f"out.{n}": random_moment(5) for n in range(3)}
    moment = ExpertsMoment(blocks, {f"out.{n}": slice(5 * n, 5 * n + 5) for n in range(3)}, LAYER, 100)
    keys = torch.randn(4, 15, dtype=torch.float64)
    keys[1, 5:] = 0
    torch.testing.assert_close(moment.solve(keys), torch.linalg.solve(moment.matrix, keys.T).T)
    part = 0.1 * torch.randn(4, 15, dtype=torch.float64)
    outer = torch.block_diag(*torch.ones(3, 5, 5))  # C of names, too, is of each expert alone
    without = [
        torch.linalg.solve(moment.matrix - outer * torch.outer(a, a), k) for a, k in zip(part, keys, strict=True)
    ]
    found = moment.solve_without(keys, part)
    torch.testing.assert_close(found, torch.stack(without))
    assert not found[1, 5:].any(), "an expert that the key does not reach is not edited"


def test_an_expert_without_tokens_is_one_clear_error(tmp_path: Any) -> None:
    model = tiny("mixtral")
    source = Moments(corpus=Text("one word", lambda: ["a"]), tokens=1)
    moment = source(model, LAYER)
    assert isinstance(moment, ExpertsMoment)
    assert len(moment.unreached) == 2
    kept = Preserved(model, LAYER, moment)
    with pytest.raises(EditError, match=r"No token of the text \(1 tokens, one word\) is sent to the expert 'out\.\d'"):
        kept.solve(torch.ones(1, moment.size))
    with pytest.raises(EditError, match="is sent to the expert"):
        kept.null_space(energy=0.5)


def test_it_is_read_back_as_it_was_written_and_refused_for_other_experts(tmp_path: Any) -> None:
    model = tiny("mixtral")
    mixture = model.mixture(LAYER)
    assert mixture is not None
    sums = collect(model, [LAYER], token_pieces(model, [TEXT]), tokens=60)[LAYER]
    assert isinstance(sums, RunningExperts)
    moment = sums.moment(LAYER, model.fingerprint(), "text")
    path = write_experts(tmp_path / "c.safetensors", moment)
    again = read_experts(path, mixture, model=model.fingerprint())
    assert again.fingerprint == moment.fingerprint
    assert again.reached == moment.reached
    assert Moments(file=path)(model, LAYER).fingerprint == moment.fingerprint
    other = tiny("mixtral", seed=1).mixture(1)
    assert other is not None
    with pytest.raises(DataError, match="is not of the experts of layer 1 of this model"):
        read_experts(path, other)
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(DataError, match="is damaged"):
        read_experts(path, mixture)
