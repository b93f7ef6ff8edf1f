"""Effects and successes by layer on a tiny model: each number once by hand, what is kept, what is said and drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import plain
from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.errors import UnknownName, UsageError
from factedit.evaluate.regression import fit
from factedit.facts import EditRequest, template_of
from factedit.models.adapter import EditableModel
from factedit.report.figures_locate import locate_figure, locate_markdown
from factedit.trace.effects import TraceResult
from factedit.work import locate as module
from factedit.work.locate import Located, effect_by_layer, locate_facts

FAST = {"methods": "ft", "windows": (1, 2), "samples": 2, "noise": "0.5", "settings": ("ft.steps=3",)}
PROMPTS = tuple(
    (s, f"{s} {r} (") for s in ("Paris", "Seattle", "France") for r in ("is the capital", "has many")
)  # no space


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def facts(model: EditableModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Facts whose true object is what the model writes, so far as it is a word, and one that it does not know."""
    path = tmp_path_factory.mktemp("facts") / "facts.jsonl"
    rows = []
    for subject, prompt in PROMPTS:
        with torch.no_grad():
            answer = model.tokenizer.decode(plain.logits(model, plain.encode(model, prompt))[-1].argmax())
        if answer.strip() == answer and answer.isprintable():
            rows.append({"subject": subject, "prompt": template_of(prompt, subject), "target_new": "football",
                         "target_true": answer})  # fmt: skip
    rows.append({"subject": "Paris", "prompt": "{} was never", "target_new": "football", "target_true": "Москва"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def found(model: EditableModel, facts: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Located, Path]:
    folder = tmp_path_factory.mktemp("located")
    return locate_facts(model, facts, folder, **FAST), folder  # type: ignore[arg-type]


def test_the_effect_is_the_share_that_is_brought_back() -> None:
    trace = TraceResult(
        model="m", prompt="a b c", subject="b", subject_range=(1, 2), tokens=("a", "b", "c"), answer="x", clean=0.6,
        corrupted=0.2, window=1, noise=1.0, samples=1, seed=0,
        scores={"mlp": ((9.0, 9.0, 9.0), (0.2, 0.5, 0.1), (9.0, 9.0, 9.0))},
    )  # fmt: skip
    assert effect_by_layer(trace, "mlp", (0, 1, 2)) == pytest.approx([0.0, 0.75, 0.0]), "never below 0"
    assert effect_by_layer(trace, "mlp", (1,)) == pytest.approx([0.75])
    raised = replace(trace, clean=0.1, corrupted=0.3)
    assert effect_by_layer(raised, "mlp", (1,)) == pytest.approx([1.0]), "of the difference, whatever its sign"
    assert math.isnan(effect_by_layer(replace(trace, clean=0.2), "mlp", (1,))[0])


def test_success_is_the_share_of_the_possible_rise(
    model: EditableModel, facts: str, found: tuple[Located, Path]
) -> None:
    located, _ = found
    fact = int(located.facts[0])
    row = [json.loads(line) for line in Path(facts).read_text().splitlines()][fact]
    subject, prompt = row["subject"], row["prompt"].format(row["subject"])
    ids = plain.encode(model, f"{prompt}football")
    first = len(plain.encode(model, prompt))

    @torch.no_grad()
    def probability() -> float:
        log_p = plain.logits(model, ids).log_softmax(-1)
        own = [float(log_p[n - 1, ids[n]]) for n in range(first, len(ids))]
        return math.exp(sum(own) / len(own))

    before = probability()
    for layer in (0, 2):
        request = EditRequest(subject=subject, prompt=template_of(prompt, subject), target_new="football")
        [edit] = make_method("ft", model, None, layer=layer, steps=3).edit([request]).edits  # type: ignore[arg-type]
        with edit.applied_to(model):
            after = probability()
        assert located.success["ft"][0][layer] == pytest.approx((after - before) / (1 - before), abs=1e-5)
        assert abs(after - before) > 1e-6


def test_facts_that_are_not_known_are_left_out_and_fits_are_of_these_numbers(found: tuple[Located, Path]) -> None:
    located, _ = found
    known = len(located.facts)
    assert 2 <= known < located.about["asked"], "the last is not known"
    assert located.layers == (0, 1, 2, 3)
    assert list(located.effects) == ["1", "2"]
    for window, effects in located.effects.items():
        assert located.fits["ft", window] == fit(located.success["ft"], effects, seed=0)
    told = located.as_json()
    assert [row["gain"] for row in told["fits"]] == [own.gain for own in located.fits.values()]
    assert told["words"] == located.words()


def test_what_is_done_is_not_done_again(
    model: EditableModel, facts: str, found: tuple[Located, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    located, folder = found

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(module, "make_each", never)
    monkeypatch.setattr("factedit.work.stored_traces.traced", lambda _m, facts, **_: iter((facts and never()) or ()))
    again = locate_facts(model, facts, folder, **FAST)  # type: ignore[arg-type]
    assert again.success == located.success
    assert again.effects == located.effects


def by_hand(gain: float) -> Located:
    """Twelve facts at three layers; success hangs on the effect, or on nothing."""
    drawn = np.random.default_rng(1)
    effect = drawn.random((12, 3))
    noise = drawn.random((12, 3))
    success = gain * effect + (1 - gain) * noise + np.array([0.0, 0.5, 0.2])
    fits = {("rome", "1"): fit(success, effect)}
    return Located({}, (3, 5, 8), ("a",) * 12, {"1": effect.tolist()}, {"rome": success.tolist()}, fits)


def test_the_sentence_follows_from_the_figures() -> None:
    [told] = by_hand(1.0).words()
    assert told.startswith("rome: tracing tells something of where to edit. The layer alone explains ")
    assert "success at layer 5" in told
    [silent] = by_hand(0.0).words()
    assert silent.startswith("rome: tracing does not tell where to edit.")
    assert "12 facts" in silent


def test_the_figure_and_the_table(found: tuple[Located, Path]) -> None:
    located, _ = found
    figure = locate_figure(located.layers, located.effects, located.success, located.fits, model="tiny", kind="mlp")
    left, middle, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["window 1", "window 2"]
    np.testing.assert_allclose(middle.lines[0].get_ydata(), np.mean(located.success["ft"], axis=0))
    widths = [patch.get_width() for patch in right.patches]
    fits = list(located.fits.values())
    assert widths == pytest.approx([*(own.layer for own in fits), *(own.gain for own in fits)])
    table = locate_markdown(located.fits)
    assert table.count("\n") == 4
    assert (
        f"| ft | 1 | {4 * len(located.facts)} | {fits[0].effect:.3f} | {fits[0].layer:.3f} | {fits[0].both:.3f} |"
        in table
    )


def test_what_cannot_be_compared_is_refused(model: EditableModel, facts: str, tmp_path: Path) -> None:
    def never() -> EditableModel:
        raise AssertionError("the model was loaded before the request was checked")

    with pytest.raises(UnknownName, match="'rom'"):
        locate_facts(never, facts, tmp_path, methods="rom")
    with pytest.raises(UsageError, match=r"windows \[0\] must be numbers of layers"):
        locate_facts(never, facts, tmp_path, windows=(0,))
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text(json.dumps({"subject": "Paris", "prompt": "{} is", "target_new": "a"}) + "\n")
    with pytest.raises(UsageError, match=r"No fact of unknown\.jsonl has a target_true"):
        locate_facts(never, str(unknown), tmp_path)
    unknown.write_text(
        json.dumps({"subject": "Paris", "prompt": "{} is", "target_new": "a", "target_true": "Москва"}) + "\n"
    )
    with pytest.raises(UsageError, match="tiny-gpt2 answers 0 of 1 facts, and two at least are needed"):
        locate_facts(model, str(unknown), tmp_path / "u", **FAST)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="ice cannot be put at one layer"):
        locate_facts(model, facts, tmp_path / "i", **FAST | {"methods": "ice", "settings": ()})  # type: ignore[arg-type]
