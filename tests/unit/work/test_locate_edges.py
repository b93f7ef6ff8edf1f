"""Effects and successes by layer where numbers are missing: failed edits, one fact, nothing to explain."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from factedit.data.records import RecordSet
from factedit.errors import DataError, UsageError
from factedit.evaluate.regression import Fit, fit, means_by_layer
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.report.figures_locate import locate_figure, locate_markdown, locate_table
from factedit.work.locate import Located, _at, _Job, _share, locate_facts

NAN = math.nan
FIT = Fit(
    n=8, facts=4, layer=0.5, effect=0.1, both=0.6, f=2.0, degrees=(2, 4), p=0.25, shuffled=0.01
)  # a gain of 0.1: something is told


def located(success: list[list[float]], effects: list[list[float]], fits: dict[tuple[str, str], Fit]) -> Located:
    methods = {method for method, _ in fits}
    facts = tuple(str(n) for n in range(len(success)))
    layers = tuple(range(3, 3 + len(success[0])))
    return Located({"model": "m"}, layers, facts, {w: effects for _, w in fits}, dict.fromkeys(methods, success), fits)


def never() -> EditableModel:
    raise AssertionError("the model was loaded before the request was checked")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.0, 2.0], [3.0, 6.0]], [2.0, 4.0]),
        ([[1.0, NAN], [3.0, 6.0]], [2.0, 6.0]),
        ([[1.0, NAN], [3.0, NAN]], [2.0, NAN]),
        ([[NAN, NAN]], [NAN, NAN]),
        ([[5.0, -1.0]], [5.0, -1.0]),
    ],
)
def test_means_by_layer_are_of_the_numbers_there_are(rows: list[list[float]], expected: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(means_by_layer(rows), expected)


def test_a_layer_at_which_every_edit_failed_is_not_the_best() -> None:
    """argmax takes what is no number for the largest."""
    found = located([[0.1, NAN, 0.4], [0.3, NAN, 0.2]], [[0.9, 0.1, 0.1]] * 2, {("rome", "1"): FIT})
    assert found.best(found.success, "rome") == 5
    assert found.best(found.effects, "1") == 3
    assert "The effect peaks at layer 3, success at layer 5." in found.words()[0]


def test_the_sentence_is_of_the_window_that_explains_most_and_names_the_rule() -> None:
    """Something is told only above 3 points and where fewer than one deal in twenty explains as much."""
    rows = [[0.1, 0.2], [0.3, 0.4]]
    more = replace(FIT, both=0.7)
    [told] = located(rows, rows, {("ft", "1"): FIT, ("ft", "3"): more}).words()
    assert told == (
        "ft: tracing tells something of where to edit. The layer alone explains 50.0 % of the success; the traced "
        "effect adds 20.0 points at most (window 3, F 2.00, p 0.25, shuffled p 0.01; 4 facts). The effect peaks at "
        "layer 4, success at layer 4."
    )
    for own in (replace(FIT, both=0.529), replace(FIT, shuffled=0.05), replace(FIT, both=0.4)):
        [silent] = located(rows, rows, {("ft", "1"): own}).words()
        assert silent.startswith("ft: tracing does not tell where to edit.")


def test_what_machines_read_holds_every_number() -> None:
    found = located([[0.1, NAN], [0.3, 0.2]], [[0.9, 0.1]] * 2, {("rome", "1"): FIT})
    told = found.as_json()
    assert (told["model"], told["layers"], told["facts"]) == ("m", [3, 4], ["0", "1"])
    [row] = told["fits"]
    assert (row["method"], row["window"], row["degrees"]) == ("rome", "1", (2, 4))
    assert row["gain"] == pytest.approx(0.1)
    assert math.isnan(told["success"]["rome"][0][1])
    assert json.dumps(told["effects"]) == '{"1": [[0.9, 0.1], [0.9, 0.1]]}'


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ({"before": 0.2, "after": 0.6}, 0.5),
        ({"before": 0.5, "after": 0.25}, -0.5),  # an edit that makes it worse
        ({"before": 1.0, "after": 1.0}, NAN),  # no room to rise
        ({"failed": "no such subject"}, NAN),
    ],
)
def test_the_share_of_the_possible_rise(outcome: dict[str, Any], expected: float) -> None:
    assert _share(outcome) == pytest.approx(expected, nan_ok=True)


def test_a_band_is_that_of_the_numbers_there_are_and_of_one_fact_there_is_none() -> None:
    """1.96 · s / √n by hand: of 0.1 and 0.5 s is 0.2828 and n 2; a single number has no band, and no warning."""
    success = [[0.1, NAN, NAN], [0.5, 0.7, NAN]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = locate_figure(
            (0, 1, 2), {"1": [[0.0, 0.1, 0.2]]}, {"rome": success}, {("rome", "1"): FIT}, model="m", kind="hidden"
        )
    first, second, third = figure.axes
    assert [line.get_label() for line in first.lines] == ["hidden state"]
    middle = second.lines[0].get_ydata()
    np.testing.assert_allclose(np.asarray(middle, dtype=float), [0.3, 0.7, NAN])
    [band] = second.collections
    corners = band.get_paths()[0].vertices
    at_zero = sorted({round(float(y), 4) for x, y in corners if x == 0})
    half = 1.959964 * 0.282843 / 2**0.5
    assert at_zero == pytest.approx([0.3 - half, 0.3 + half], abs=1e-4)
    assert {round(float(y), 4) for x, y in corners if x == 1} == {0.7}
    assert [patch.get_width() for patch in third.patches] == pytest.approx([0.5, 0.1])
    assert "4 facts" in figure.get_suptitle()


def test_tables_of_fits_with_and_without_a_test() -> None:
    """Two facts leave nothing to test with: F and p are no numbers, and are shown so."""
    exact = replace(FIT, f=NAN, p=NAN, degrees=(2, 0), shuffled=1.0)
    fits = {("rome", "1"): FIT, ("ft", "10"): exact}
    lines = locate_markdown(fits).splitlines()
    assert lines[2] == "| rome | 1 | 8 | 0.100 | 0.500 | 0.600 | 0.100 | 2.00 (2, 4) | 0.25 | 0.010 |"
    assert lines[3] == "| ft | 10 | 8 | 0.100 | 0.500 | 0.600 | 0.100 | nan (2, 0) | nan | 1.000 |"
    assert {line.count("|") for line in lines} == {11}
    table = locate_table(fits, title="t")
    assert [list(column.cells) for column in table.columns][:3] == [["rome", "ft"], ["1", "10"], ["8", "8"]]
    assert len(table.columns) == 10


def test_a_fit_that_cannot_be_made_names_the_method_and_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from factedit.work.locate import _fitted

    with pytest.raises(UsageError, match=r"kn, window 3: 0 numbers of 2 facts by layer leave nothing to explain"):
        _fitted("kn", "3", [[NAN, NAN], [NAN, NAN]], [[0.1, 0.2], [0.3, 0.4]], 0)
    assert _fitted("kn", "3", [[0, 4], [1, 6]], [[0, 1], [1, 0]], 0) == fit([[0, 4], [1, 6]], [[0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layers": ()}, r"The layers \[\] must be one or more, each once"),
        ({"layers": (1, 1)}, r"The layers \[1, 1\] must be one or more, each once"),
        ({"windows": ()}, r"The windows \[\] must be numbers of layers, at least 1"),
        ({"windows": (3, -1)}, r"The windows \[-1, 3\] must be numbers of layers, at least 1"),
        ({"kind": "mlps"}, "mlps"),
        ({"noise": "loud"}, "loud"),
        ({"settings": ("steps",)}, "steps"),
        ({"methods": "rome,rome"}, "each of them once"),
        ({"methods": "ft,rome", "settings": ("rome.layer=3",)}, "rome is put at every layer here: leave its layer"),
    ],
)
def test_what_is_asked_wrong_is_refused_before_the_model_is_loaded(
    asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    facts = tmp_path / "f.jsonl"
    facts.write_text(json.dumps({"subject": "a", "prompt": "{} is", "target_new": "b", "target_true": "c"}) + "\n")
    with pytest.raises(UsageError, match=said):
        locate_facts(never, str(facts), tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_method_is_put_at_a_layer_by_whichever_of_its_settings_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most have `layer`, joint ones `layers`; another error of the settings is said as it is."""
    seen: list[dict[str, Any]] = []

    def made(name: str, _model: object, _moments: object, **settings: Any) -> str:
        seen.append(settings)
        if name == "joint" and "layer" in settings:
            raise UsageError("joint has no setting layer")
        if name == "text":
            raise UsageError("text has no setting layer or layers")
        if name == "odd":
            raise UsageError("steps must be at least 1")
        return name

    monkeypatch.setattr("factedit.work.locate.make_method", made)
    model: Any = None
    assert _at("single", model, None, 2, {"steps": 3}) == "single"
    assert _at("joint", model, None, 2, {"steps": 3}) == "joint"  # type: ignore[comparison-overlap]
    assert seen == [{"steps": 3, "layer": 2}, {"steps": 3, "layer": 2}, {"steps": 3, "layers": [2]}]
    with pytest.raises(UsageError, match="text cannot be put at one layer, which is compared here: text has no"):
        _at("text", model, None, 2, {})
    with pytest.raises(UsageError, match=r"^steps must be at least 1$"):
        _at("odd", model, None, 2, {})


@pytest.mark.parametrize("forged", [{}, {"before": 0.5}, {"before": "0.5", "after": 0.5}, {"before": None, "after": 1}])
def test_an_outcome_without_numbers_is_refused(
    tiny_gpt2: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forged: dict[str, Any]
) -> None:
    """Before: a traceback, from a store in which somebody else's hands had been."""
    monkeypatch.setattr(_Job, "_measured", lambda *_: {"0": forged})
    job = _Job(tiny_gpt2, RecordSet("d", (), 0, "", "0" * 64), (), tmp_path, 8, lambda *_: None)
    record = FactRecord(case_id="0", request=EditRequest(subject="a", prompt="{} is", target_new="b"))
    method: Any = SimpleNamespace(name="rome", describe=dict)
    with pytest.raises(DataError, match="holds an outcome of case 0 without numbers"):
        job._outcomes(method, [record], lambda _count: None)
