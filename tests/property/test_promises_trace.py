"""What causal tracing promises (ROME, arXiv 2202.05262, section 2): window, noise, which facts count, averages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny
from factedit.facts import KnownFact
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.trace.corrupt import embedding_sigma, noise_level
from factedit.trace.effects import TraceResult, average
from factedit.trace.sweep import default_window, trace_fact, trace_facts
from plain import encode, restored, token_at

PROMPT, SUBJECT = "In Paris LeBron James plays", "LeBron James"
# layers [l − w/2, l + w/2 − 1], clipped to six layers: for a width of 1 the layer alone, of 3 one on either side
WINDOWS = {
    1: [[0], [1], [2], [3], [4], [5]],
    2: [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]],
    3: [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5]],
    4: [[0, 1], [0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5]],
}


@pytest.mark.parametrize("width", sorted(WINDOWS))
@pytest.mark.parametrize("kind", ["mlp", "attn"])
def test_the_window_is_half_its_width_before_the_layer_and_the_rest_from_it_on(width: int, kind: str) -> None:
    model = tiny("gpt2", n_layer=6, num_hidden_layers=6)
    ids = encode(model, PROMPT)
    begin = token_at(model, PROMPT, PROMPT.index(SUBJECT))
    last = token_at(model, PROMPT, PROMPT.index(SUBJECT) + len(SUBJECT) - 1)
    noise = 0.6 * torch.from_numpy(np.random.RandomState(1).randn(3, last + 1 - begin, model.d_model))
    found = trace_fact(model, PROMPT, SUBJECT, kinds=[kind], window=width, noise=0.6, samples=3)
    assert found.subject_range == (begin, last + 1)
    for token in (last, len(ids) - 1):
        expected = [restored(model, ids, noise, begin, kind, layers, token) for layers in WINDOWS[width]]
        assert found.scores[kind][token] == pytest.approx(expected, rel=1e-4)
        assert max(expected) - min(expected) > 1e-3 * max(expected), "the layers show"


def test_the_default_window_is_the_papers_ten_layers_of_48_to_scale() -> None:
    assert {n: default_window(n) for n in (48, 36, 28, 24, 18, 6, 2, 1)} == {
        48: 10, 36: 8, 28: 6, 24: 5, 18: 4, 6: 1, 2: 1, 1: 1,
    }  # fmt: skip


def test_sigma_is_of_the_subjects_own_tokens_without_start_tokens() -> None:
    model = tiny("gpt2", start=True)
    words = model.lm.transformer.wte.weight.detach()
    with torch.no_grad():
        words[model.tokenizer.bos_token_id] *= 30.0  # were it counted, it would show
    ids = [i for text in ("LeBron James", "Paris") for i in encode(model, text) if i != model.tokenizer.bos_token_id]
    entries = words[ids].flatten().double()
    expected = math.sqrt(float(((entries - entries.mean()) ** 2).sum()) / (len(entries) - 1))
    assert embedding_sigma(model, ["LeBron James", "Paris"]) == pytest.approx(expected, rel=1e-5)
    assert noise_level(model, "3s", ["LeBron James", "Paris"]) == pytest.approx(3 * expected, rel=1e-5)
    assert noise_level(model, "0.1", ["LeBron James", "Paris"]) == 0.1


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> EditableModel:
    """The tiny model of the reference numbers: after this prompt it says " Africa"."""
    return load(str(golden_dir))


def known(answer: str) -> KnownFact:
    return KnownFact(fact_id=answer, prompt="LeBron James plays the sport of", subject="LeBron James", answer=answer)


def test_a_fact_is_known_where_the_clean_run_ranks_the_answers_first_token_first(golden: EditableModel) -> None:
    """An answer may be longer than the token, but it must begin with it."""
    answers = ("Africa", " Africa", "Africa of the east", "the Africa", "Af")
    tokens = [encode(golden, f" {answer.strip()}") for answer in answers]
    assert [len(ids) > 1 for ids in tokens] == [False, False, True, True, False]
    assert [ids[0] == tokens[0][0] for ids in tokens] == [True, True, True, False, False]
    assert tokens[3][-1] == tokens[0][0], "an answer that ends in the token is another one"
    facts = map(known, answers)
    found = {
        fact.fact_id: trace for fact, trace in trace_facts(golden, [*facts], noise=0.5, samples=1, kinds=["hidden"])
    }
    assert [found[answer] is not None for answer in answers] == [True, True, True, False, False]
    assert {trace.answer for trace in found.values() if trace} == {" Africa"}


def test_facts_are_traced_with_three_sigmas_of_noise_unless_told(golden: EditableModel) -> None:
    [(_, trace)] = trace_facts(golden, [known("Africa")], samples=1, kinds=["hidden"])
    assert trace is not None
    entries = golden.lm.transformer.wte.weight.detach()[encode(golden, "LeBron James")].flatten()
    assert trace.noise == pytest.approx(3 * float(np.std(entries.numpy(), ddof=1)), rel=1e-5)


def trace(scores: list[list[float]], *, subject: tuple[int, int], clean: float, corrupted: float) -> TraceResult:
    return TraceResult(
        model="m", prompt="p", subject="s", subject_range=subject, tokens=("t",) * len(scores), answer="a",
        clean=clean, corrupted=corrupted, window=1, noise=1.0, samples=1, seed=1,
        scores={"hidden": tuple(map(tuple, scores))},
    )  # fmt: skip


def test_averages_and_bands_by_hand() -> None:
    """Two facts, two layers. Effects are over each fact's own corrupted run; a role's tokens weigh alike."""
    one = trace([[0.1, 0.1], [0.5, 0.3], [0.9, 0.2], [0.3, 0.4]], subject=(0, 3), clean=0.8, corrupted=0.1)
    two = trace([[0.2, 0.2], [0.6, 0.4], [0.4, 0.7], [0.8, 0.3], [0.6, 0.2]], subject=(0, 4), clean=0.6, corrupted=0.2)
    found = average([one, two], asked=5)
    assert found.total_effect[0] == pytest.approx((0.7 + 0.4) / 2)
    assert found.total_effect[1] == pytest.approx(1.959964 * 0.15 * math.sqrt(2) / math.sqrt(2), rel=1e-5)
    assert found.clean == pytest.approx(0.7)
    middle = found.curves["hidden"]["middle subject"]  # token 1 of the first, tokens 1 and 2 of the second
    assert (middle.n, found.curves["hidden"]["last subject"].n) == (3, 2)
    effects = np.array([[0.4, 0.2], [0.4, 0.2], [0.2, 0.5]])
    assert middle.mean == pytest.approx(effects.mean(0))
    of_facts = np.stack([effects[0] - effects.mean(0), (effects[1:] - effects.mean(0)).sum(0)])
    band = 1.959964 * np.sqrt((of_facts**2).sum(0) * 2 / 1) / 3
    assert middle.half_width == pytest.approx(band, rel=1e-5)
    assert "further" not in found.curves["hidden"]
    assert found.peak("hidden", "last subject") == (0, pytest.approx((0.8 + 0.6) / 2))
    assert one.peak("hidden") == (2, 0)
    assert replace(one, corrupted=0.0).total_effect == pytest.approx(0.8)
