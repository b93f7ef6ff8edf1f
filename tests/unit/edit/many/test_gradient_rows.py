"""UltraEdit's pieces against their definitions: slopes by autograd, a running mean and variance, one ridge problem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.edit.many.gradients import (
    EPSILON,
    GradientNormaliser,
    Rows,
    gradient_rows,
    observed,
    ridge_change,
    shape_name,
)
from factedit.edit.method_table import make_method
from factedit.edit.state import State
from factedit.edit.target_rows import target_row
from factedit.errors import EditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import encode

FACTS = [("Paris is in", "Seattle"), ("LeBron James plays the sport of", "football"), ("Café", "Zürich")]
MODULES = {"out": "c_proj", "in": "c_fc"}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_autograd(model: EditableModel, layer: int, which: str) -> tuple[Tensor, Tensor]:
    """Inputs and slopes at the positions that predict target tokens, of the mean over all target tokens together."""
    module = getattr(model.lm.transformer.h[layer].mlp, MODULES[which])
    inputs, probes, losses, places = list[Tensor](), list[Tensor](), list[Tensor](), list[list[int]]()

    def watch(_module: object, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs.append(given[0].detach())
        probes.append(torch.zeros_like(output, requires_grad=True))
        return output + probes[-1]

    handle = module.register_forward_hook(watch)
    for prompt, target in FACTS:
        ids, first = encode(model, f"{prompt} {target}"), len(encode(model, prompt))
        log_p = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        losses += [-log_p[n - 1, ids[n]] for n in range(first, len(ids))]
        places.append(list(range(first - 1, len(ids) - 1)))
    handle.remove()
    slopes = torch.autograd.grad(torch.stack(losses).mean(), probes)
    return (
        torch.cat([own[0, at] for own, at in zip(inputs, places, strict=True)]),
        torch.cat([own[0, at] for own, at in zip(slopes, places, strict=True)]),
    )


@pytest.mark.parametrize("place", [(2, "out"), (1, "in")])
def test_rows_are_inputs_and_slopes_where_target_tokens_are_predicted(place: tuple[int, str]) -> None:
    """The loss is the mean over all target tokens of the batch: a fact's slopes depend on how many the others have."""
    model = tiny("gpt2")
    before = model.fingerprint()
    rows = [target_row(model, prompt, target) for prompt, target in FACTS]
    assert len({len(row.targets) for row in rows}) > 1
    found = gradient_rows(model, rows, [place])[place]
    inputs, slopes = by_autograd(model, *place)
    torch.testing.assert_close(found.inputs, inputs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.slopes, slopes, atol=1e-6, rtol=1e-3)
    assert model.fingerprint() == before
    assert all(p.grad is None for p in model.lm.parameters())


# -- the normaliser ---------------------------------------------------------------------------------


def test_the_running_mean_is_the_mean_of_all_rows() -> None:
    batches = [drawn(n, 5, seed=n) for n in (3, 1, 7, 2)]
    own = GradientNormaliser.empty(5, torch.device("cpu"))
    for batch in batches:
        own = own.after(batch)
    assert own.count == 13
    torch.testing.assert_close(own.mean, torch.cat(batches).mean(0))


def test_the_variance_is_the_published_one_batch_after_batch() -> None:
    """By hand for rows 1, 3 and then 5, 9, 10: M2 = 2·var(1, 3) + 3·var(5, 9, 10) + (8 − 2)²·2·3/5."""
    first, second = torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [9.0], [10.0]])
    own = GradientNormaliser.empty(1, torch.device("cpu")).after(first)
    assert own.total.tolist() == [2 * 2.0]  # the variance with rows − 1 below is 2
    assert own.deviation.tolist() == pytest.approx([2.0])  # √(4 / (2 − 1))
    own = own.after(second)
    assert own.total.tolist() == pytest.approx([4 + 3 * 7.0 + 36 * 6 / 5])
    assert own.deviation.tolist() == pytest.approx([(68.2 / 4) ** 0.5])
    torch.testing.assert_close(own.normalised(second), (second - own.mean) / (own.deviation + EPSILON))


def test_before_two_rows_there_is_no_spread() -> None:
    own = GradientNormaliser.empty(3, torch.device("cpu"))
    assert own.deviation.tolist() == [1.0] * 3
    own = own.after(drawn(1, 3))
    assert own.deviation.tolist() == [1.0] * 3
    assert own.total.tolist() == [0.0] * 3, "one row has no variance, and no NaN"
    torch.testing.assert_close(own.normalised(drawn(1, 3)), torch.zeros(1, 3))
    own = own.after(drawn(1, 3, seed=1))
    gap = drawn(1, 3, seed=1)[0] - drawn(1, 3)[0]
    torch.testing.assert_close(own.total, gap**2 / 2)


def test_the_order_of_rows_in_a_batch_is_no_matter_and_an_old_one_stays() -> None:
    own = GradientNormaliser.empty(4, torch.device("cpu")).after(drawn(5, 4))
    before = own.mean.clone(), own.total.clone()
    one, other = own.after(drawn(6, 4, seed=2)), own.after(drawn(6, 4, seed=2).flip(0))
    torch.testing.assert_close(one.total, other.total)
    assert torch.equal(own.mean, before[0])
    assert torch.equal(own.total, before[1])


def test_matrices_of_one_shape_share_a_normaliser_and_take_turns() -> None:
    batch = {
        (1, "out"): Rows(drawn(3, 4), drawn(3, 2)), (2, "out"): Rows(drawn(2, 4, seed=5), drawn(2, 2, seed=5)),
        (2, "in"): Rows(drawn(2, 2, seed=6), drawn(2, 4, seed=6)),
    }  # fmt: skip
    assert [shape_name(rows) for rows in batch.values()] == ["4x2", "4x2", "2x4"]
    found = observed({}, batch)
    assert {name: own.count for name, own in found.items()} == {"4x2": 5, "2x4": 2}
    together = torch.cat([torch.cat(batch[place], 1) for place in ((1, "out"), (2, "out"))])
    torch.testing.assert_close(found["4x2"].mean, together.mean(0))
    again = observed(found, batch)
    assert again["4x2"].count == 10
    assert found["4x2"].count == 5, "the turns before are not moved"


# -- the solve --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(3, 6, 4), (9, 5, 2), (1, 4, 4)])
def test_the_change_is_the_ridge_problems_minimum(rows: int, d_in: int, d_out: int) -> None:
    """argmin ‖H ΔW − V‖² + ‖ΔW‖², by its normal equations in d_in: (HᵀH + I) ΔW = HᵀV."""
    own = Rows(drawn(rows, d_in, seed=7), drawn(rows, d_out, seed=8))
    normaliser = GradientNormaliser(20.0, drawn(d_in + d_out, seed=9), drawn(d_in + d_out, seed=10) ** 2 + 1)
    left, right = ridge_change(own, normaliser, 0.3)
    assert (tuple(left.shape), tuple(right.shape)) == ((d_in, rows), (rows, d_out))
    normal = (torch.cat(own, 1) - normaliser.mean) / ((normaliser.total / 19).sqrt() + EPSILON)
    values = -0.3 * normal[:, :d_in].pow(2).sum(1, keepdim=True) * normal[:, d_in:]
    h = own.inputs.double()
    expected = torch.linalg.solve(h.T @ h + torch.eye(d_in), h.T @ values.double())
    torch.testing.assert_close(left @ right.double(), expected, atol=1e-5, rtol=1e-4)


def test_the_rate_is_a_factor_of_the_change() -> None:
    own, seen = Rows(drawn(3, 4), drawn(3, 2)), GradientNormaliser.empty(6, torch.device("cpu")).after(drawn(5, 6))
    one, two = (left @ right.double() for left, right in (ridge_change(own, seen, rate) for rate in (1.0, 2.0)))
    torch.testing.assert_close(two, 2 * one)


# -- the method -------------------------------------------------------------------------------------


def test_the_state_goes_on_and_that_of_other_matrices_is_refused() -> None:
    model = tiny("gpt2")
    facts = [EditRequest(subject=p.split()[0], prompt="{}" + p[len(p.split()[0]) :], target_new=t) for p, t in FACTS]
    method = make_method("ultraedit", model, None, matrices=[[1, "out"], [2, "in"]], batch=2)  # type: ignore[arg-type]
    made = method.edit(facts)
    [edit] = made.edits
    assert made.state is not None
    assert sorted(made.state.tensors) == [f"{n}.{s}" for n in ("count", "mean", "total") for s in ("128x32", "32x128")]
    tokens = sum(note.diagnostics["target_tokens"] for note in edit.notes)
    assert edit.diagnostics["rows_seen"] == {"128x32": tokens, "32x128": tokens}
    assert made.state.base == model.fingerprint() == edit.made_for
    again = method.edit(facts[:1], made.state)
    own = edit.notes[0].diagnostics["target_tokens"]
    assert again.edits[0].diagnostics["rows_seen"] == {"128x32": tokens + own, "32x128": tokens + own}
    other = State(made.state.base, {n: t for n, t in made.state.tensors.items() if "128x32" in n})
    with pytest.raises(EditError, match=r"no normaliser of matrices 32x128; it holds .*by another method or for other"):
        method.edit(facts, other)
    short = {**made.state.tensors, "mean.128x32": torch.zeros(3)}
    with pytest.raises(EditError, match="no normaliser of matrices 128x32"):
        method.edit(facts, State(made.state.base, short))
    assert method.edit(facts, State(made.state.base)).edits[0].diagnostics["rows_seen"]["128x32"] == tokens


def test_gradients_that_are_not_finite_are_refused_by_place() -> None:
    model = tiny("gpt2")
    with torch.no_grad():
        model.lm.transformer.h[3].mlp.c_proj.bias.fill_(float("nan"))
    fact = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle")
    method = make_method("ultraedit", model, None, matrices=[[1, "out"]])  # type: ignore[arg-type]
    with pytest.raises(EditError, match=r"gradients at the matrix 'out' of layer 1 are not finite; the model is unch"):
        method.edit([fact])
