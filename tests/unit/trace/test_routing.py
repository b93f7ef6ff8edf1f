"""Which experts tokens are sent to: in a trace, in other wordings, and before and after an edit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.engine.routing import routes, subject_routes
from factedit.errors import RequestError
from factedit.evaluate.outcome import with_outcomes
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.report.tables import edit_table, experts_table
from factedit.trace.effects import TraceResult
from factedit.trace.experts import with_experts
from factedit.trace.sweep import trace_fact
from factedit.work.edit import SavedEdit, describe
from stack_cases import random_edit

PROMPT, SUBJECT = "The Space Needle is in", "The Space Needle"
OTHERS = ("In which city is the Space Needle? The Space Needle", "Paris. The Space Needle was")


@pytest.fixture(scope="module", params=["qwen3_moe", "deepseek_v3"])
def model(request: pytest.FixtureRequest) -> EditableModel:
    return tiny(request.param)


def by_hand(model: EditableModel, layer: int, ids: Any) -> list[dict[int, float]]:
    """What the experts' module of transformers is called with, for one row of tokens."""
    seen: list[Any] = []
    experts: Any = model.layers[layer].mlp.experts
    handle = experts.register_forward_pre_hook(lambda _m, args: seen.append(args))
    with torch.no_grad():
        model.lm(input_ids=torch.tensor([list(ids)]))
    handle.remove()
    return [dict(zip(e.tolist(), w.tolist(), strict=True)) for e, w in zip(*seen[0][1:3], strict=True)]


def test_routes_are_those_of_the_model_row_by_row(model: EditableModel) -> None:
    rows = [locate(model, "{} is in", SUBJECT).ids, (5, 9, 11)]
    for ids, own in zip(rows, routes(model, rows), strict=True):
        for layer in own[0]:
            for mine, right in zip(own, by_hand(model, layer, ids), strict=True):
                assert mine[layer] == pytest.approx(right, abs=1e-5)
                assert list(mine[layer].values()) == sorted(mine[layer].values(), reverse=True)
    assert set(routes(model, rows)[0][0]) == {n for n in range(4) if model.mixture(n)}
    assert routes(tiny("gpt2"), rows)[0][0] == {}


def test_a_trace_tells_the_experts_of_its_tokens_and_of_other_wordings(model: EditableModel) -> None:
    trace = trace_fact(model, PROMPT, SUBJECT, noise=1.0, samples=1, kinds=("mlp",))
    whole = with_experts(model, trace, (), OTHERS)
    text = locate(model, "{} is in", SUBJECT)
    for layer, tokens in whole.experts["tokens"].items():
        assert len(tokens) == len(trace.tokens)
        right = by_hand(model, int(layer), text.ids)[text.subject_last]
        assert {int(e) for e in tokens[text.subject_last]} == set(right)
    assert set(whole.experts["paraphrases"]) == set(OTHERS)
    assert TraceResult.from_stored(whole.as_stored()) == whole
    assert whole.as_json()["experts"] == whole.experts
    table = experts_table(whole)
    assert table is not None
    assert table.row_count == len(whole.experts["tokens"])
    assert [column.header for column in table.columns][2] == "wordings with the same, of 2"
    with pytest.raises(RequestError):
        with_experts(model, trace, (), ["Paris is the capital of"])


def test_a_trace_of_one_mlp_per_layer_says_nothing_of_experts() -> None:
    model = tiny("gpt2")
    trace = with_experts(model, trace_fact(model, PROMPT, SUBJECT, noise=1.0, samples=1, kinds=("mlp",)), (), OTHERS)
    assert "experts" not in trace.as_json()
    assert experts_table(trace) is None


def test_the_block_is_what_a_trace_restores_of_experts(model: EditableModel) -> None:
    """With every token's MLP contributions put back over all layers, the noise is gone as far as MLPs hold it."""
    seen: list[torch.Tensor] = []
    ids = torch.tensor([list(locate(model, "{} is in", SUBJECT).ids)])
    with model.on_output("mlp", 2, lambda own: seen.append(own.clone())), torch.no_grad():
        block = model.layers[2].mlp
        handle = block.register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
        model.lm(input_ids=ids)
        handle.remove()
    assert torch.equal(seen[0], seen[1])


def test_an_edit_tells_the_experts_before_and_after(model: EditableModel) -> None:
    edit = random_edit(model, 1, layer=1, matrix="out.0", rank=4)
    [found] = with_outcomes(model, [edit])
    [note] = found.notes
    request = edit.requests[0]
    [right] = subject_routes(model, [(request.prompt, request.subject)])
    assert {n: set(own) for n, own in note.before["experts"].items()} == {
        str(n): {str(e) for e in own} for n, own in right.items()
    }
    with edit.applied_to(model):
        [after] = subject_routes(model, [(request.prompt, request.subject)])
    for layer, own in after.items():
        assert note.after["experts"][str(layer)] == pytest.approx({str(e): w for e, w in own.items()}, abs=1e-4)
    table = edit_table(describe(SavedEdit(found, None)))
    assert "experts of the subject's last token" in list(table.columns[0].cells)
