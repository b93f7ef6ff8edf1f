"""A joint method chosen by trying: by what is written, within bounds on the harm, within a time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import random_moment, tiny
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.work import auto
from factedit.work.auto import Candidate, Trial, choose

WEAK = Candidate("ft-m", {"layer": 1, "epochs": 1, "learning_rate": 1e-5})
STRONG = Candidate("ft-m", {"layer": 1, "epochs": 60, "learning_rate": 5e-3})
SUBJECTS = ("Paris", "Seattle", "France", "LeBron James", "Zürich", "Москва", "東京", "Danielle Darrieux")
RECORDS = [
    FactRecord(case_id=str(n), request=EditRequest(subject=s, prompt="{} is in", target_new="football"))
    for n, s in enumerate(
        ("Paris", "Seattle", "France", "LeBron James", "Zürich", "Москва", "東京", "Danielle Darrieux")
    )
]


def moments(model: EditableModel, _layer: int) -> SecondMoment:
    return random_moment(model.d_mlp)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


def test_the_one_that_writes_more_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "PERPLEXITY_UP", 1e9)
    found = choose(tiny("gpt2"), moments, RECORDS, candidates=(WEAK, STRONG))
    weak, strong = found.trials
    assert (weak.written or 0) < (strong.written or 0), "or the test says nothing"
    assert found.chosen is STRONG
    assert found.users
    assert "most facts written within the bounds" in found.why


def test_no_trial_is_begun_after_the_time_is_over() -> None:
    times = iter(range(0, 10_000, 100))
    found = choose(
        tiny("gpt2"), moments, RECORDS, candidates=(WEAK, STRONG), seconds=1, clock=lambda: float(next(times))
    )
    assert [trial.candidate for trial in found.trials] == [WEAK]
    assert found.left == (STRONG,)
    assert "The time did not allow to try ft-m --set layer=1 --set epochs=60" in found.why


def scripted(monkeypatch: pytest.MonkeyPatch, *trials: Trial) -> list[float]:
    """Trials that take their seconds by the clock and nothing else; gives the clock."""
    now, rest = [0.0], iter(trials)

    def try_(*_asked: object) -> Trial:
        trial = next(rest)
        now[0] += trial.seconds
        return trial

    monkeypatch.setattr(auto, "_try", try_)
    return now


OTHER = Candidate("memit", {})


@pytest.mark.parametrize(
    ("seconds", "tried"),
    [(0, 1), (60, 1), (119, 1), (120, 2), (179, 2), (180, 3), (1e9, 3)],
)
def test_no_trial_is_begun_that_would_not_end_in_time(
    seconds: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [Trial(candidate, written=50.0, seconds=60.0) for candidate in (WEAK, STRONG, OTHER)]
    now = scripted(monkeypatch, *every)
    found = choose(
        tiny("gpt2"), moments, RECORDS, candidates=(WEAK, STRONG, OTHER), seconds=seconds, clock=lambda: now[0]
    )
    assert found.trials == tuple(every[:tried])
    assert len(found.left) == 3 - tried
    assert now[0] <= max(seconds, 60)


def test_where_the_first_fails_and_the_time_is_over_another_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, it ended with an error though a method would have worked."""
    now = scripted(monkeypatch, Trial(WEAK, failed="no C", seconds=60), Trial(STRONG, written=90.0, seconds=60))
    found = choose(tiny("gpt2"), moments, RECORDS, candidates=(WEAK, STRONG, OTHER), seconds=1, clock=lambda: now[0])
    assert found.chosen is STRONG
    assert found.left == (OTHER,)


def test_where_nothing_is_written_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = scripted(monkeypatch, Trial(WEAK, written=0.0), Trial(STRONG, written=0.0))
    found = choose(tiny("gpt2"), moments, RECORDS, candidates=(WEAK, STRONG), clock=lambda: now[0])
    assert "No candidate wrote any of them" in found.why
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["chosen"] == found.chosen.text
    assert [trial["written"] for trial in told["trials"]] == [0.0, 0.0]


def test_what_is_wrong_with_the_list_is_said_before_anything_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, facts that contradict each other were refused when the trials were over."""
    monkeypatch.setattr(auto, "_try", lambda *_asked: pytest.fail("a method is tried"))
    other = FactRecord(case_id="x", request=replace(RECORDS[0].request, target_new="basketball"))
    for records, said in (([*RECORDS, other], "says 1 fact in two ways"), ([], "the list is empty")):
        with pytest.raises(UsageError, match=said):
            choose(tiny("gpt2"), moments, records)


def test_settings_that_do_not_fit_the_model_are_a_trial_that_failed() -> None:
    deep, alone = Candidate("memit", {"layers": (90,)}), Candidate("ft", {"steps": 1})
    found = choose(tiny("gpt2"), moments, RECORDS, candidates=(deep, alone, WEAK))
    assert found.chosen is WEAK
    assert "Layer 90 was asked for" in found.trials[0].failed
    assert "ft edits every fact alone" in found.trials[1].failed


def test_a_method_that_edits_no_fact_is_a_trial_that_failed() -> None:
    """Keys that depend on each other are no fact's fault: before, such a method counted as one that wrote nothing."""
    same = [replace(RECORDS[0], case_id=str(n), request=replace(RECORDS[0].request, prompt=f"{{}} {n} is in"))
            for n in range(8)]  # fmt: skip
    exact = Candidate("emmet", {"layers": (0,), "softness": 0.0, "steps": 1, "context_templates": ("{}",)})
    found = choose(tiny("gpt2"), moments, same, candidates=(exact, WEAK))
    assert found.chosen is WEAK
    assert "depend on each other" in found.trials[0].failed


def test_the_preset_that_was_asked_for_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, methods were tried with the tuned preset and then edited with the one asked for."""
    asked = list[str]()

    def made(*_of: object, preset: str, **_settings: object) -> None:
        asked.append(preset)
        raise EditError("enough")

    monkeypatch.setattr(auto, "make_method", made)
    with pytest.raises(EditError, match="enough"):
        choose(tiny("gpt2"), moments, RECORDS, candidates=(WEAK,), preset="published")
    assert asked == ["published"]


def test_a_method_that_fails_is_told_and_the_others_go_on() -> None:
    broken = Candidate("alphaedit", {"layers": (1,), "context_templates": ("{}",), "threshold": 1e-30})
    found = choose(tiny("gpt2"), moments, RECORDS, candidates=(broken, WEAK))
    assert found.chosen is WEAK
    assert found.trials[0].failed
    with pytest.raises(EditError, match="No method could be tried: alphaedit"):
        choose(tiny("gpt2"), moments, RECORDS, candidates=(broken,))


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"written": 90.0}, {"written": 80.0}),
        ({"written": 80.0, "panel_lost": 5.0}, {"written": 99.0, "panel_lost": 11.0}),  # out of bounds
        ({"written": 80.0, "neighbours_lost": 12.0}, {"written": 99.0, "neighbours_lost": 30.0}),  # less so
        ({"written": 80.0, "perplexity_up": 0.04}, {"written": 80.0, "perplexity_up": 0.06}),
        ({"written": 90.0, "wordings": 60.0}, {"written": 90.0, "wordings": 50.0}),
        ({"written": 90.0, "panel_lost": 1.0}, {"written": 90.0, "panel_lost": 2.0}),
    ],
)
def test_the_order_of_what_counts(better: dict[str, float], worse: dict[str, float]) -> None:
    assert auto._order(Trial(WEAK, **better)) < auto._order(Trial(WEAK, **worse))
