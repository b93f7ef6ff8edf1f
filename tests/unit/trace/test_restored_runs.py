"""Restorations as values, statements that hold exactly, and what a trace tells of itself."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import tiny
from factedit.errors import NotFinite, RequestError, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.trace.asked import Readout, prompt_to_trace
from factedit.trace.corrupt import by_noise, by_subject, noise_samples
from factedit.trace.effects import TraceResult, average
from factedit.trace.restore import CorruptedFact, Restoration, contribution, hidden_state, severed, window_of
from factedit.trace.sweep import KINDS, SEVERED, check_kinds, starts_of, trace_fact, trace_facts
from plain import encode
from seen_markup import framed

PROMPT, SUBJECT = "In Paris LeBron James plays", "LeBron James"


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


# -- restorations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "window", "expected"),
    [
        (5, 1, [5]), (5, 2, [4, 5]), (5, 3, [4, 5, 6]), (5, 4, [3, 4, 5, 6]), (0, 4, [0, 1]), (0, 1, [0]),
        (9, 4, [7, 8, 9]), (9, 3, [8, 9]), (4, 100, list(range(10))),
    ],
)  # fmt: skip
def test_a_window_is_clipped_to_the_model(layer: int, window: int, expected: list[int]) -> None:
    assert list(window_of(layer, window, 10)) == expected


def test_what_is_put_back_and_from_where_on_it_is_run() -> None:
    assert hidden_state(3) == Restoration(4, hidden=3)
    assert contribution("mlp", 3, 2, 6) == Restoration(2, held="mlp", window=range(2, 4))
    assert severed("attn", 1, 4) == Restoration(2, hidden=1, held="attn", window=range(2, 4), clean=False)
    last = severed("mlp", 3, 4)
    assert (last.start, list(last.window)) == (4, []), "after the last layer nothing is left to hold"


def test_where_restorations_begin_is_known_before_they_are_run() -> None:
    assert starts_of(["hidden"], 4, 2) == [1, 2, 3, 4]
    assert starts_of(["mlp", "attn"], 4, 2) == [0, 0, 1, 2] * 2
    assert starts_of(SEVERED, 3, 9) == [1, 2, 3] * 2
    assert starts_of([], 4, 2) == []


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (
            ["feelings"],
            r"^Cannot trace feelings; there are hidden, mlp, attn, hidden-mlp-severed, hidden-attn-severed\.",
        ),
        (["mlp", "a", "b"], "Cannot trace a, b; "),
        ([], "Cannot trace nothing; "),
    ],
)
def test_kinds_that_there_are_not_are_named_with_those_there_are(kinds: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_kinds(kinds)
    check_kinds([*KINDS, *SEVERED])


# -- statements that hold exactly -------------------------------------------------------------------


def fact(model: EditableModel, noise: float, *, samples: int = 2, seed: int = 1) -> CorruptedFact:
    found = locate(model, PROMPT.replace(SUBJECT, "{}"), SUBJECT)
    return CorruptedFact(model, found.ids, found.subject_range, corrupt=by_noise(noise, samples, seed=seed))


def test_without_noise_nothing_is_lost_and_nothing_is_restored(model: EditableModel) -> None:
    own = fact(model, 1e-30)
    assert own.corrupted == pytest.approx(own.clean, rel=1e-5)
    everything = [hidden_state(1), contribution("mlp", 2, 2, 4), severed("attn", 0, 4)]
    for token in range(own.tokens):
        assert own.restored(token, everything) == pytest.approx([own.clean] * 3, rel=1e-5)


def test_all_contributions_of_both_kinds_are_not_the_hidden_state(model: EditableModel) -> None:
    """The embedding stays corrupted, so putting every MLP back at a subject's token restores less than its state."""
    own = fact(model, 0.6)
    begin = own.begin
    [mlps] = own.restored(begin, [contribution("mlp", 2, 100, 4)])
    [state] = own.restored(begin, [hidden_state(3)])
    assert state == pytest.approx(own.corrupted, rel=1e-6), "the last layer of an earlier token reaches nobody"
    assert mlps != pytest.approx(own.corrupted, rel=1e-6)


def test_a_severed_state_of_the_last_layers_is_the_whole_one(model: EditableModel) -> None:
    """Nothing is held after the last layer, and the last token's last state is all that is read."""
    own = fact(model, 0.6)
    last = own.tokens - 1
    found = own.restored(last, [hidden_state(3), severed("mlp", 3, 4), severed("attn", 3, 4)])
    assert found == pytest.approx([own.clean] * 3, rel=1e-5)


def test_restorations_do_not_depend_on_which_are_run_together(model: EditableModel) -> None:
    own = fact(model, 0.6)
    several = [hidden_state(0), contribution("attn", 1, 2, 4), severed("mlp", 1, 4), hidden_state(2)]
    at = own.begin + 1
    together = own.restored(at, several)
    assert together == pytest.approx([own.restored(at, [one])[0] for one in several], rel=1e-5)
    assert own.restored(at, several[::-1]) == pytest.approx(together[::-1], rel=1e-5)
    both = own.restored_at([own.begin, at], several)
    assert both[1] == pytest.approx(together, rel=1e-6)


def test_before_the_subject_all_is_as_in_the_corrupted_run(model: EditableModel) -> None:
    own = fact(model, 0.6)
    assert own.begin > 0
    for token in range(own.begin):
        assert own.restored(token, [hidden_state(0), contribution("mlp", 0, 9, 4)]) == [own.corrupted] * 2


def test_a_subject_at_the_beginning_has_no_past(model: EditableModel) -> None:
    found = trace_fact(model, "Paris is in", "Paris", noise=0.6, samples=2, kinds=("hidden",))
    assert found.subject_range[0] == 0
    assert found.scores["hidden"][-1][-1] == pytest.approx(found.clean, rel=1e-5)
    assert np.ptp(found.indirect_effects("hidden")[0]) > 0


# -- what corrupts ----------------------------------------------------------------------------------


def test_noise_is_added_to_the_subjects_embeddings_sample_by_sample() -> None:
    embeddings = torch.arange(12.0).reshape(1, 3, 4)
    found = by_noise(0.5, 2, seed=3)(embeddings)
    expected = embeddings.numpy() + 0.5 * np.random.RandomState(3).randn(2, 3, 4)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(noise_samples(2, 3, 4, seed=3)[0], noise_samples(1, 3, 4, seed=3)[0])
    assert torch.equal(embeddings, torch.arange(12.0).reshape(1, 3, 4)), "the clean run's stay"


def test_in_half_precision_the_noise_is_drawn_before_it_is_rounded() -> None:
    found = by_noise(1.0, 1, seed=1)(torch.zeros(1, 2, 4, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, noise_samples(1, 2, 4, seed=1).to(torch.bfloat16))


def test_another_subject_stands_in_the_subjects_place(model: EditableModel) -> None:
    own, other = encode(model, "So France is in"), encode(model, "So French is in")
    at = [n for n, (a, b) in enumerate(zip(own, other, strict=True)) if a != b]
    assert at, "they differ in their tokens"
    corrupt = by_subject(model, "So {} is in", "France", "French")
    begin, end = locate(model, "So {} is in", "France").subject_range
    found = corrupt(torch.zeros(1, end - begin, model.d_model))
    words = model.lm.transformer.wte.weight
    for n in range(begin, end):
        torch.testing.assert_close(found[0, n - begin], words[other[n]])
    assert set(at) <= set(range(begin, end))
    with pytest.raises(RequestError, match=r"cannot stand for 'France' here: it has \d+ tokens and the subject \d+"):
        by_subject(model, "So {} is in", "France", "The Space Needle")


# -- what is read -----------------------------------------------------------------------------------


def test_an_answers_probability_is_the_product_over_its_tokens(model: EditableModel) -> None:
    final = torch.randn(300, 2, model.d_model, generator=torch.Generator().manual_seed(0))  # more than fit at once
    found = Readout((4, 5), (17, 3)).value(model, final)
    with torch.no_grad():
        logits = model.lm.lm_head(model.lm.transformer.ln_f(final)).double()
    log_p = logits.log_softmax(-1)
    torch.testing.assert_close(found, (log_p[:, 0, 17] + log_p[:, 1, 3]).exp(), atol=1e-9, rtol=1e-4)
    difference = Readout((4,), (17,), against=3).value(model, final[:, :1])
    torch.testing.assert_close(difference, logits[:, 0, 17] - logits[:, 0, 3], atol=1e-4, rtol=1e-4)
    assert found.dtype == difference.dtype == torch.float64


def test_what_is_asked_after_a_prompt(model: EditableModel) -> None:
    ids = tuple(encode(model, PROMPT))
    plain = prompt_to_trace(model, "In Paris {} plays", SUBJECT)
    assert (plain.ids, plain.tokens, plain.readout, plain.answer) == (ids, len(ids), None, "")
    chosen = prompt_to_trace(model, "In Paris {} plays", SUBJECT, answer="football")
    whole = tuple(encode(model, f"{PROMPT} football"))
    assert chosen.ids == whole[:-1]
    assert chosen.tokens == len(ids), "the answer's own tokens are not restored"
    assert chosen.readout == Readout(tuple(range(len(ids) - 1, len(whole) - 1)), whole[len(ids) :])
    with pytest.raises(RequestError, match=r"answers '.*' for 'Paris' and for 'Paris': choose a subject with another"):
        prompt_to_trace(model, "{} is in", "Paris", replaced="Paris", measure="logit-difference")


# -- the trace --------------------------------------------------------------------------------------


def test_progress_is_told_token_by_token(model: EditableModel) -> None:
    told: list[tuple[int, int]] = []
    found = trace_fact(
        model, PROMPT, SUBJECT, noise=0.5, samples=1, kinds=("attn",), progress=lambda *own: told.append(own)
    )
    count = len(found.tokens)
    assert told == [(n + 1, count) for n in range(count)]


def test_one_kind_gives_the_numbers_of_all_kinds_together(model: EditableModel) -> None:
    every = trace_fact(model, PROMPT, SUBJECT, noise=0.5, samples=2, window=2)
    assert list(every.scores) == list(KINDS)
    for kind in KINDS:
        alone = trace_fact(model, PROMPT, SUBJECT, noise=0.5, samples=2, window=2, kinds=(kind,))
        np.testing.assert_allclose(alone.scores[kind], every.scores[kind], rtol=1e-4)
        assert (alone.clean, alone.corrupted) == (every.clean, every.corrupted)
    assert every.window == 2
    assert trace_fact(model, PROMPT, SUBJECT, noise=0.5, samples=1, kinds=("mlp",)).window == 1, "10 of 48, of four"


@pytest.mark.parametrize("given", [{"samples": 0}, {"window": 0}, {"window": -3}, {"samples": -1}])
def test_windows_and_samples_are_at_least_one(model: EditableModel, given: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=r"Window .* and samples .* must be at least 1"):
        trace_fact(model, PROMPT, SUBJECT, noise=0.5, **given)  # type: ignore[arg-type]


def test_a_trace_of_broken_numbers_names_the_run(model: EditableModel) -> None:
    with pytest.raises(NotFinite, match=r"the corrupted run gives numbers that are not finite: the noise is too large"):
        trace_fact(model, PROMPT, SUBJECT, noise=math.inf, samples=1, kinds=("hidden",))


def test_no_facts_make_no_traces(model: EditableModel) -> None:
    assert list(trace_facts(model, [], noise=0.5)) == []
    with pytest.raises(UsageError, match="needs subjects to measure embeddings on"):
        list(trace_facts(model, []))


def stored(**changes: object) -> TraceResult:
    """Two tokens and three layers; the subject is the first token."""
    own = TraceResult(
        model="tiny", prompt="<b> is", subject="<b>", subject_range=(0, 1), tokens=("<b>", " is"), answer=" a",
        clean=0.8, corrupted=0.2, window=1, noise=0.5, samples=2, seed=1,
        scores={"mlp": ((0.3, 0.7, 0.5), (0.2, 0.1, 0.8))},
    )  # fmt: skip
    return replace(own, **changes)  # type: ignore[arg-type]


def test_the_subjects_last_token_is_where_facts_are_recalled() -> None:
    """The prompt's last token restores all, and is no place to look: the peak is there and is not taken."""
    own = stored()
    assert own.peak("mlp") == (1, 2)
    layer, effect = own.at_subject_last("mlp")
    assert (layer, effect) == (1, pytest.approx(0.5))
    assert own.notes() == [], "no state gives more than was lost"


def test_states_that_give_more_than_was_lost_are_told() -> None:
    own = stored(scores={"mlp": ((0.3, 0.95), (0.2, 0.1)), "attn": ((0.3, 0.3), (0.2, 0.8))})
    [note] = own.notes()
    assert "mlp 0.750" in note
    assert "TE 0.600" in note
    assert "attn" not in note, "that gives just what was lost"
    assert stored(clean=0.1, scores=own.scores).notes() == [], "nothing was lost"


def test_what_was_measured_has_a_name_and_a_map() -> None:
    assert stored().measured == "p(a)"
    assert stored(against=" c").measured == "logit(a) − logit(c)"
    page, _ = framed(stored()._repr_html_())
    assert "b" not in page.tags, "text of a prompt is no markup"
    assert "<b>*" in page.text, "the subject's tokens bear a star"
    assert "0.700" in page.cells


def test_a_map_of_equal_numbers_divides_by_nothing() -> None:
    flat = stored(corrupted=0.5, scores={"mlp": ((0.5, 0.5), (0.5, 0.5))})
    page, _ = framed(flat._repr_html_())
    assert page.cells == ["0.500"] * 4


def test_averages_know_their_peak_and_can_be_written() -> None:
    found = average([stored(), stored(clean=0.6)], asked=5)
    assert found.peak("mlp", "last subject") == (1, pytest.approx(0.5))
    assert found.peak("mlp", "last") == (2, pytest.approx(0.6))
    told = found.as_json()
    assert (told["facts"], told["asked"]) == (2, 5)
    assert told["total_effect"][0] == pytest.approx(0.5)
    assert told["curves"]["mlp"]["last"]["n"] == 2
