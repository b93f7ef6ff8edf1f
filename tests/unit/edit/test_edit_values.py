"""An Edit as a value: what it must hold, what makes two of them one, and what is told of it; no weights are touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.edit import value_rows
from factedit.edit.artefact import Edit, Notes, rows_edited, weights_of
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.prompt import Prompt
from factedit.edit.manifest import canonical, is_sealed, sealed
from factedit.edit.many.kept_rows import KeptRows
from factedit.edit.many.settings import TuningSettings
from factedit.edit.methods.tuning import breadth_first, depth_first
from factedit.edit.objective import Losses, losses_told
from factedit.edit.presets import RomeSettings, off, preset_for, presets_of, what_is_wrong
from factedit.edit.show import FACTS_SHOWN, as_html, show, warnings
from factedit.edit.target_rows import TargetBatch, negative_log_likelihood, read_losses, target_row
from factedit.edit.value import _as_key, find_values
from factedit.edit.value_rows import PromptRow, grouped
from factedit.errors import EditError, UnknownName
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from plain import encode
from seen_markup import Seen

FACT = EditRequest(subject="Paris", prompt="{} is in", target_new="Rome", target_true="France")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def edit(count: int = 1, **more: Any) -> Edit:
    requests = tuple(replace(FACT, subject=f"City {n}") for n in range(count))
    return Edit(
        **{"method": "by hand", "requests": requests, "effects": (Prompt("said "),), "made_for": "w" * 64, **more}
    )


# -- the value --------------------------------------------------------------------------------------


def test_an_edit_has_notes_on_each_of_its_requests() -> None:
    assert edit(3).notes == (Notes(), Notes(), Notes())
    assert edit(0).notes == ()
    with pytest.raises(EditError, match="The edit has 3 requests and notes on 2"):
        edit(3, notes=(Notes(), Notes()))
    with pytest.raises(EditError, match="which weights it was made for: give `made_for` their fingerprint"):
        edit(made_for="")


def test_two_edits_are_one_by_what_they_are_and_not_by_what_was_measured() -> None:
    own = edit()
    measured = own.with_outcomes([({"target_new": 0.1}, {"target_new": 0.9})])
    shipped = own.with_export({"form": "peft", "prompts": 1, "same_first_token": 1})
    told = replace(own, versions={}, model_name="other", diagnostics={"update_norm": 1.0}, exports=({"form": "gguf"},))
    for other in (measured, shipped, told, edit()):
        assert other == own
        assert hash(other) == hash(own)
    for other in (
        edit(method="other"), edit(2), edit(effects=(Prompt("says "),)), edit(made_for="v" * 64),
        edit(settings={"steps": 1}), edit(effects=(Prompt("said "), Prompt("said "))), edit(effects=()),
    ):  # fmt: skip
        assert other != own
    assert own != "an edit"


def test_outcomes_are_of_each_request_in_order() -> None:
    own = edit(2, notes=(Notes(diagnostics={"a": 1}), Notes(diagnostics={"a": 2})))
    found = own.with_outcomes([({"p": 0.1}, {"p": 0.2}), ({"p": 0.3}, {"p": 0.4})])
    assert [(note.before["p"], note.after["p"], note.diagnostics["a"]) for note in found.notes] == [
        (0.1, 0.2, 1), (0.3, 0.4, 2),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="zip"):
        own.with_outcomes([({}, {})])


def test_what_was_measured_of_the_whole_is_told_with_each_request() -> None:
    own = edit(2, notes=(Notes(diagnostics={"key": 1, "both": 1}), Notes()), diagnostics={"size": 3, "both": 2})
    assert own.told_of(0) == {"size": 3, "key": 1, "both": 1}, "a request's own word counts"
    assert own.told_of(1) == {"size": 3, "both": 2}


def test_a_form_has_one_proof_the_latest() -> None:
    own = edit()
    for proof in ({"form": "peft", "n": 1}, {"form": "gguf", "n": 2}, {"form": "peft", "n": 3}):
        own = own.with_export(proof)
    assert own.exports == ({"form": "gguf", "n": 2}, {"form": "peft", "n": 3})


def test_where_an_edit_begins_and_which_layers_it_changes() -> None:
    change = LowRank(2, torch.zeros(4, 1), torch.zeros(1, 3))
    dense = Dense(1, torch.zeros(4, 3))
    assert edit(effects=()).first_layer is None
    assert edit(effects=(change, dense)).first_layer == 1
    assert edit(effects=(change, dense, change)).layers == [1, 2]
    both = edit(effects=(change, Prompt("said ")))
    assert (both.first_layer, both.layers) == (0, [2]), "a text is asked from the first layer on"
    with pytest.raises(EditError, match="'prompt', which is no change of weights"):
        weights_of([edit(effects=(change,)), both])
    assert weights_of([edit(effects=(change, dense)), edit(effects=(change,))]) == [change, dense, change]
    assert weights_of([]) == []


def test_an_edit_without_effects_is_put_on_and_changes_nothing(model: EditableModel) -> None:
    ids = torch.tensor([[5, 17]])
    with torch.no_grad():
        plain = model.lm(input_ids=ids).logits
        with edit(effects=()).applied_to(model, force=True), rows_edited(model, [edit(effects=()), None]):
            assert torch.equal(model.lm(input_ids=ids).logits, plain)


# -- its file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": math.nan}, "/a"), ({"a": {"b": [1, math.inf]}}, "/a/b/1"), ({"a": {1, 2}}, "/a"),
        ({"a": (1, {"b": object()})}, "/a/1/b"), ({"a": "\ud800"}, "/a"), ({"a": b"x"}, "/a"),
        ({"a": torch.ones(1)}, "/a"), ({"x": math.nan, "y": 1j}, "/x, /y"),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_named_by_its_place(value: Any, named: str) -> None:
    with pytest.raises(EditError, match=rf"Not a finite number or not a plain value: {named}\."):
        canonical(value)


def test_the_same_content_has_the_same_bytes_and_a_seal() -> None:
    one, other = {"b": 1, "a": ["é", 2.5, None, True]}, {"a": ["é", 2.5, None, True], "b": 1}
    assert canonical(one) == canonical(other)
    assert canonical(one).endswith(b"\n")
    raw = canonical(sealed(one))
    assert is_sealed(sealed(one), raw)
    assert sealed(sealed(one)) == sealed(one), "the seal is not part of what is sealed"
    for broken in (raw.replace(b"2.5", b"2.6"), raw[:-1], raw + b" ", raw.replace("é".encode(), b"\\u00e9")):
        assert not is_sealed(sealed(one), broken)
    assert not is_sealed({**sealed(one), "b": 2}, raw)
    assert not is_sealed([1], b"[1]")
    assert not is_sealed({"a": math.nan}, raw)


# -- what is told -----------------------------------------------------------------------------------


def test_an_edit_that_knows_one_of_two_sizes_is_told_all_the_same() -> None:
    """Before, one that told the size of the weights alone could not be shown."""
    assert show(edit(diagnostics={"weight_norm": 3.0}))["size"] == {"weight_norm": 3.0}
    assert show(edit(diagnostics={"update_norm": 3.0}))["size"] == {"update_norm": 3.0}
    both = edit(diagnostics={"update_norm": 1.0, "weight_norm": 4.0})
    assert show(both)["size"] == {"update_norm": 1.0, "weight_norm": 4.0, "relative": 0.25}
    assert "the change is large: ‖ΔW‖ is 25 % of ‖W‖" in warnings(both)
    assert show(edit(diagnostics={"update_norm": 1.0, "weight_norm": 0.0}))["size"]["weight_norm"] == 0.0


def test_of_several_facts_each_warning_says_of_how_many() -> None:
    good = Notes(before={"answers_target_new": False}, after={"answers_target_new": True})
    own = edit(4, notes=(good, Notes(after={"answers_target_new": False}), Notes(), Notes()))
    assert warnings(own) == [
        "its outcome was not measured (2 of 4 facts)",
        "the edited model does not rank the new object first on its own prompt (1 of 4 facts)",
    ]
    assert warnings(edit(2, notes=(good, good))) == []


def test_a_table_of_many_facts_shows_some_and_counts_the_rest() -> None:
    page = Seen(as_html(edit(FACTS_SHOWN + 3))).text
    assert f"City {FACTS_SHOWN - 1} is in → Rome" in page
    assert f"City {FACTS_SHOWN} is in" not in page
    assert "and 3 more facts" in page
    assert "more facts" not in Seen(as_html(edit(FACTS_SHOWN))).text


# -- presets ----------------------------------------------------------------------------------------


def test_presets_that_were_tuned_here_come_back_after_an_exception() -> None:
    gemma: Any = SimpleNamespace(family=SimpleNamespace(name="gemma3_text"), n_layer=18, d_model=640, vocab=262_144)
    xl: Any = SimpleNamespace(family=SimpleNamespace(name="gpt2"), n_layer=48, d_model=1600, vocab=50_257)
    assert preset_for(gemma) is not None
    with presets_of("published"):
        assert preset_for(gemma) is None
        assert preset_for(xl) is not None
        with presets_of("none"):
            assert preset_for(xl) is None
        assert preset_for(xl) is not None
    with pytest.raises(ZeroDivisionError), presets_of("published"):
        _ = 1 // 0
    assert preset_for(gemma) is not None
    with pytest.raises(UnknownName, match="Unknown preset 'best'"), presets_of("best"):
        pass
    llama: Any = SimpleNamespace(family=SimpleNamespace(name="llama"), n_layer=32, d_model=4096, vocab=128_256)
    assert preset_for(llama) is not None
    llama.vocab = 32_000
    assert preset_for(llama) is None, "Llama 2 7B has the shape, and other words"


def test_options_that_are_off_are_left_out_of_what_is_kept() -> None:
    assert [off(value) for value in ("none", 0, 0.0, False, "end", 1, True)] == [
        True,
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    kept = RomeSettings().model_dump(mode="json")
    assert not {"stop", "experts", "statement_context", "negation_kl", "neighbours", "neighbour_kl"} & set(kept)
    assert RomeSettings(stop="end", negation_kl=0.1).model_dump(mode="json").keys() - kept.keys() == {
        "stop",
        "negation_kl",
    }


def test_what_is_wrong_names_each_setting_with_its_value() -> None:
    with pytest.raises(ValueError) as told:
        RomeSettings(steps=0, clamp="x")  # type: ignore[arg-type]
    found = what_is_wrong(told.value)  # type: ignore[arg-type]
    assert "steps 0: " in found
    assert "clamp 'x': " in found
    assert found.count(";") == 1


# -- rows that are optimised ------------------------------------------------------------------------


def row(width: int, fact: int = 0, **more: Any) -> PromptRow:
    return PromptRow(fact, 0, tuple(range(3 + width)), 3, (3,), (1,), **more)


@pytest.mark.parametrize(
    ("widths", "groups"),
    [
        ([1] * 10 + [3], [11]),  # ten times two tokens of padding cost less than a call
        ([1] * 13 + [3], [13, 1]),  # thirteen times two more
        ([2, 2, 2], [3]),
        ([1, 2, 3, 4], [4]),
        ([5], [1]),
        ([1] * 24 + [2] + [9], [26 - 1, 1]),
    ],
)
def test_rows_join_a_wider_group_where_padding_costs_less(widths: Sequence[int], groups: list[int]) -> None:
    assert value_rows.TOKENS_PER_FETCH == 24
    own: Any = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
    rows = [row(width, fact) for fact, width in enumerate(widths)]
    found = grouped(rows[::-1], own)
    assert [len(group) for group in found] == groups
    assert sorted(own.fact for group in found for own in group) == list(range(len(rows)))


def test_what_few_rows_have_is_left_out_of_the_others_key() -> None:
    """So that what was kept before is still found."""
    assert set(_as_key(row(2))) == {"fact", "context", "ids", "subject_last", "reads", "targets"}
    assert _as_key(row(2, fact=7)) == _as_key(row(2)), "the number of a fact in its batch is no part of it"
    assert _as_key(row(2, weight=0.5))["weight"] == 0.5
    assert _as_key(row(2, scale=0.5))["scale"] == 0.5


def test_every_evaluation_of_the_loss_is_told_as_it_is_made(model: EditableModel) -> None:
    told: list[tuple[int, list[Losses]]] = []
    facts = [FACT, replace(FACT, subject="LeBron James")]
    settings = RomeSettings(layer=1, steps=3)
    with losses_told(lambda step, losses: told.append((step, losses))):
        values = find_values(model, 1, facts, ["{}"], settings)
    assert [step for step, _ in told] == [0, 1, 2]
    for step, losses in told:
        assert losses == [value.losses[step] for value in values]
    with pytest.raises(ZeroDivisionError), losses_told(lambda _step, _losses: 1 // 0):
        find_values(model, 1, facts, ["{}"], settings)
    find_values(model, 1, facts[:1], ["{}"], settings.model_copy(update={"steps": 1}))
    assert len(told) == 3, "outside nobody listens"


# -- tuning -----------------------------------------------------------------------------------------


class Scripted:
    """A tuner whose losses are written out; notes the batches it was given."""

    def __init__(self, *losses: float) -> None:
        self.losses, self.batches = list(losses), list[list[int]]()
        self.change = torch.zeros(2, 2)

    def step(self, which: Sequence[int]) -> float:
        self.batches.append(list(which))
        return self.losses.pop(0)


def test_breadth_first_goes_over_all_facts_anew_in_every_epoch() -> None:
    own: Any = Scripted(*[1.0] * 9)
    found = breadth_first(own, 5, TuningSettings(batch=2, epochs=3, stop_loss=0.01))
    epochs = [own.batches[n : n + 3] for n in (0, 3, 6)]
    assert [[len(batch) for batch in epoch] for epoch in epochs] == [[2, 2, 1]] * 3
    orders = [[fact for batch in epoch for fact in batch] for epoch in epochs]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 1, "shuffled anew"
    again: Any = Scripted(*[1.0] * 9)
    breadth_first(again, 5, TuningSettings(batch=2, epochs=3, stop_loss=0.01))
    assert again.batches == own.batches
    other: Any = Scripted(*[1.0] * 9)
    breadth_first(other, 5, TuningSettings(batch=2, epochs=3, stop_loss=0.01, shuffle_seed=1))
    assert other.batches != own.batches
    assert (found.batch_losses, found.epoch_losses) == ([1.0] * 9, [1.0] * 3)


def test_breadth_first_ends_when_an_epochs_mean_is_small() -> None:
    own: Any = Scripted(0.9, 0.1, 0.3, 0.05, 0.1, 0.0)
    found = breadth_first(own, 4, TuningSettings(batch=2, epochs=9, stop_loss=0.2))
    assert found.epoch_losses == pytest.approx([0.5, 0.175])
    assert len(own.batches) == 4, "the mean counts: one batch of the last epoch was above"


def test_depth_first_stays_with_a_batch_until_its_loss_is_small() -> None:
    own: Any = Scripted(0.9, 0.4, 0.1, 0.8, 0.7, 0.6, 0.05)
    found = depth_first(own, 3, TuningSettings(batch=1, epochs=3, stop_loss=0.2))
    assert own.batches == [[0]] * 3 + [[1]] * 3 + [[2]]
    assert found.epoch_losses == [0.1, 0.6, 0.05], "the last loss of each batch"
    assert found.batch_losses == [0.9, 0.4, 0.1, 0.8, 0.7, 0.6, 0.05]


def losses_of(model: EditableModel, prompts: Sequence[tuple[str, str]]) -> Tensor:
    """The mean −log P of each target, a plain pass per row."""
    found = []
    for prompt, target in prompts:
        ids, first = encode(model, f"{prompt} {target}"), len(encode(model, prompt))
        with torch.no_grad():
            log_p = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        found.append(-log_p[range(first - 1, len(ids) - 1), ids[first:]].mean())
    return torch.stack(found)


PROMPTS = [("Paris is in", "Seattle"), ("LeBron James plays the sport of", "football"), ("So", "Paris"), ("a b c", "d")]


@pytest.mark.parametrize("at_once", [1, 20, 2048])
def test_any_of_the_rows_are_run_again_from_their_layer(
    model: EditableModel, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.edit.many.kept_rows.TOKENS_AT_ONCE", at_once)
    monkeypatch.setattr("factedit.engine.budget.READS_TUNED", 3)
    expected = losses_of(model, PROMPTS)
    kept = KeptRows(model, 2, [target_row(model, *own) for own in PROMPTS])
    for which in ([0, 1, 2, 3], [2], [3, 1], [1, 1]):
        torch.testing.assert_close(kept.batch(which).losses(), expected[which], atol=1e-5, rtol=1e-4)


def test_losses_are_read_a_few_at_a_time_with_the_same_gradients(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = torch.randn(7, model.d_model, generator=torch.Generator().manual_seed(0))
    loss = negative_log_likelihood(torch.arange(7) + 30)
    found = []
    for rows in (2, 100):
        monkeypatch.setattr("factedit.engine.budget.READS_TUNED", rows)
        leaf = hidden.clone().requires_grad_()
        each = read_losses(model, leaf, loss)
        (each * torch.arange(1.0, 8.0)).sum().backward()
        found.append((each.detach(), leaf.grad))
        torch.testing.assert_close(read_losses(model, hidden, loss), each.detach())
    leaf = hidden.clone().requires_grad_()
    logits = model.lm.lm_head(model.lm.transformer.ln_f(leaf))
    by_hand = -logits.log_softmax(-1)[range(7), range(30, 37)]
    (by_hand * torch.arange(1.0, 8.0)).sum().backward()
    for each, gradient in found:
        torch.testing.assert_close(each, by_hand.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradient, leaf.grad, atol=1e-5, rtol=1e-4)


def test_a_rows_mean_is_over_its_own_reads(model: EditableModel) -> None:
    batch = TargetBatch(model, 1, [target_row(model, *own) for own in PROMPTS])
    counts = [len(row.targets) for row in batch.rows]
    each = torch.arange(float(sum(counts)))
    expected = [float(part.mean()) for part in each.split(counts)]
    assert batch.row_means(each).tolist() == pytest.approx(expected)


def test_no_rows_are_no_groups(tiny_gpt2: EditableModel) -> None:
    assert grouped([], tiny_gpt2) == []
