"""A joint method chosen by trying: by what is written, within bounds on the harm, within a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import random_moment, tiny
from factedit.errors import EditError
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
