"""ROME at other tokens: the rows say where, and the figure shows what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.method_table import make_method
from factedit.edit.value_rows import request_rows
from factedit.errors import UnknownName, UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.layer_sweep import TOKENS, RomeAt, rows_at
from factedit.facts import EditRequest
from factedit.models.positions import strings
from factedit.report.figures import write_figure
from factedit.report.figures_layers import curve_of, layers_figure
from factedit.stats.second_moment import SecondMoment

CONTEXTS = ("{}", "In Paris. {}")
REQUEST = EditRequest(subject="LeBron James", prompt="Now {} plays the sport of", target_new="football")


def rome(model, layer: int = 1, contexts: tuple[str, ...] = CONTEXTS):  # type: ignore[no-untyped-def]
    moments = lambda m, _layer: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    settings = {"steps": 3, "context_templates": contexts, "clamp": 50.0}
    return make_method("rome", model, moments, layer=layer, **settings)


@pytest.mark.parametrize("start", [False, True])
def test_the_rows_say_where(start: bool) -> None:
    model = tiny("gpt2", start=start)
    plain = request_rows(model, 0, REQUEST, CONTEXTS)
    assert rows_at(model, 0, REQUEST, CONTEXTS, "subject_last") == plain
    first, last = (rows_at(model, 0, REQUEST, CONTEXTS, token) for token in ("subject_first", "last"))
    for row, at_first, at_last in zip(plain[:-1], first[:-1], last[:-1], strict=True):
        words = strings(model, row.ids)
        begin = at_first.subject_last
        assert REQUEST.subject.startswith("".join(words[begin : row.subject_last + 1]).strip()[:4])
        assert "".join(words[begin : row.subject_last + 1]).strip() == REQUEST.subject
        assert "".join(words[: at_last.subject_last + 1]).rstrip().endswith("the sport of")
        assert at_first.ids == at_last.ids == row.ids
    assert first[-1].ids == plain[-1].ids[: first[-1].subject_last + 1], "the essence is read at the subject's first"
    assert "".join(strings(model, last[-1].ids)).endswith("LeBron James is a")
    assert [row.context for row in last] == [row.context for row in plain]


def test_the_value_moves_by_delta_at_the_token_it_is_named_after() -> None:
    model = tiny("gpt2")
    ids = request_rows(model, 0, REQUEST, ("{}",))[0].ids
    places = []
    for token in TOKENS:
        [edit] = RomeAt(rome(model, contexts=("{}",)), token).edit([REQUEST]).edits
        assert edit.settings["token"] == token
        places.append(rows_at(model, 0, REQUEST, ("{}",), token)[0].subject_last)
        values: list[torch.Tensor] = []
        with torch.no_grad(), model.on_matrix(1, lambda _k, v, seen=values: seen.append(v[0].clone())):
            model.lm(input_ids=torch.tensor([ids]))
            with edit.applied_to(model):
                model.lm(input_ids=torch.tensor([ids]))
        delta = edit.effects[0].right[0] * edit.told_of(0)["denominator"]
        moved = values[1] - values[0]
        torch.testing.assert_close(moved[places[-1]], delta, atol=1e-4, rtol=1e-3)
        assert not any(torch.allclose(moved[n], delta, atol=1e-2) for n in range(len(ids)) if n != places[-1])
    assert places == sorted(set(places)), "three tokens, from the first to the last"


def test_names_differ_and_wrong_tokens_are_refused() -> None:
    model = tiny("gpt2")
    names = {RomeAt(rome(model, layer), token).name for layer in (0, 1) for token in ("last", "subject_last")}
    assert len(names) == 4
    with pytest.raises(UnknownName, match="Unknown token 'middle'"):
        RomeAt(rome(model), "middle")


def test_the_figure(tmp_path: Path) -> None:
    points = {
        (token, layer): {name: Estimate(50.0 + layer + k, 5.0, 9) for k, name in enumerate(("ES", "PS", "NS"))}
        for token in ("subject_last", "last")
        for layer in (3, 0, 1)
    }
    unedited = {name: Estimate(20.0, 3.0, 9) for name in ("ES", "PS", "NS")}
    layers, curve = curve_of(points, "last", COUNTERFACT.legs.wordings)
    assert layers == [0, 1, 3]
    assert [e.value for e in curve] == [51.0, 52.0, 54.0]
    figure = layers_figure(points, unedited=unedited, model="tiny", legs=COUNTERFACT.legs)
    lines = figure.axes[2].get_lines()
    assert list(lines[0].get_ydata()) == [52.0, 53.0, 55.0]
    assert len(lines) == 3, "two tokens and the unedited model"
    write_figure(figure, tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 5000
    with pytest.raises(UsageError, match="no layer to draw"):
        layers_figure({}, unedited=unedited, model="tiny", legs=COUNTERFACT.legs)
