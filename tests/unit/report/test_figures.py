"""Figures show the numbers: what is drawn is read off the axes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle

from factedit.errors import UsageError
from factedit.evaluate.benchmark import Legs
from factedit.evaluate.estimates import Estimate
from factedit.markup import NEW, OLD
from factedit.outputs import is_made_here
from factedit.report.colours import LINES, map_of, white_at
from factedit.report.figures import FORMATS, as_bytes, averages_figure, check_suffix, trace_figure, write_figure
from factedit.report.figures_layers import layers_figure, points_as_json
from factedit.trace.effects import TraceResult, average


def trace(shift: float = 0.0, kinds: tuple[str, ...] = ("hidden", "mlp")) -> TraceResult:
    grid = tuple(tuple(shift + 0.1 * token + 0.01 * layer for layer in range(3)) for token in range(5))
    return TraceResult(
        model="tiny", prompt="x", subject="y", subject_range=(1, 3), tokens=("The", " cost", " $5", "\n", " is"),
        answer=" ten", clean=0.9, corrupted=0.05, window=2, noise=0.5, samples=2, seed=1,
        scores=dict.fromkeys(kinds, grid),
    )  # fmt: skip


def test_a_heat_map_per_kind_holds_the_probabilities() -> None:
    figure = trace_figure(trace())
    maps = [axes for axes in figure.axes if any(isinstance(c, QuadMesh) for c in axes.collections) and axes.get_title()]
    for axes, kind in zip(maps, ("hidden", "mlp"), strict=False):
        [mesh] = [c for c in axes.collections if isinstance(c, QuadMesh)]
        np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), np.array(trace().scores[kind]).ravel())
        assert [label.get_text() for label in axes.get_yticklabels()] == ["The", " cost*", " $5*", "⏎", " is"]
    assert "window of 2 layers" in maps[1].get_title()
    assert "window" not in maps[0].get_title()


def test_curves_are_the_averages_in_percent() -> None:
    averages = average([trace(), trace(0.2)], asked=4)
    figure = averages_figure(averages)
    lines = next(axes for axes in figure.axes if axes.get_ylabel() == "AIE, %")
    for role in averages.curves["hidden"]:
        [line] = [own for own in lines.get_lines() if own.get_label() == role]
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(averages.curves["hidden"][role].mean))
    assert figure.get_suptitle().startswith("2 facts of 4: ATE 85.0")


def test_layers_are_drawn_in_order_with_the_unedited_scores() -> None:
    points = {
        ("subject_last", layer): {"ES": Estimate(10.0 * layer, 1.0, 7), "PS": Estimate(5.0, 1.0, 7),
                                  "NS": Estimate(80.0, 1.0, 7)}
        for layer in (4, 2, 3)
    }  # fmt: skip
    unedited = {"ES": Estimate(20, 1, 7), "PS": Estimate(25, 1, 7), "NS": Estimate(77, 1, 7)}
    figure = layers_figure(points, unedited=unedited, model="tiny", legs=Legs("ES", "PS", "NS"))
    curve, before = figure.axes[0].get_lines()
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([2, 3, 4], [20.0, 30.0, 40.0])
    assert set(before.get_ydata()) == {20}
    assert "7 records" in figure.get_suptitle()
    assert points_as_json(points)[0] == {"token": "subject_last", "layer": 4, "ES": [40.0, 1.0, 7], "PS": [5.0, 1.0, 7],
                                  "NS": [80.0, 1.0, 7]}  # fmt: skip
    with pytest.raises(UsageError, match="no layer to draw"):
        layers_figure({}, unedited=unedited, model="tiny", legs=Legs("ES", "PS", "NS"))


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_same_figure_gives_the_same_file(suffix: str, start: bytes, tmp_path: Path) -> None:
    write_figure(trace_figure(trace(kinds=("hidden",))), tmp_path / f"f{suffix}")
    assert (tmp_path / f"f{suffix}").read_bytes().startswith(start)
    assert as_bytes(trace_figure(trace(kinds=("hidden",))), ".png") == as_bytes(
        trace_figure(trace(kinds=("hidden",))), ".png"
    )


def test_a_figure_knows_itself_again_in_any_format() -> None:
    for suffix in FORMATS:
        assert is_made_here(as_bytes(averages_figure(average([trace(), trace(0.2)], asked=4)), suffix)), suffix


def test_white_is_the_corrupted_run_and_both_sides_have_one_scale() -> None:
    """An effect of zero is white, whatever lies above and below."""
    for grid in ([0.2, 0.6], [0.05, 0.2], [-0.3, 0.6]):
        norm, colours = white_at(0.2, min(0.2, *grid), max(0.2, *grid)), map_of("mlp")
        assert colours(norm(0.2))[:3] == pytest.approx((1, 1, 1), abs=0.02)
        above, below = colours(norm(0.21)), colours(norm(0.19))
        assert above[1] < 1.0 or max(grid) > 0.5
        assert abs(sum(above[:3]) - sum(below[:3])) < 0.2, "a little less is not painted like much less"


def test_every_figure_names_model_window_and_n() -> None:
    one = trace_figure(trace(), edited=[1])
    assert one.get_suptitle() == "tiny, n = 1 prompt, 2 noise samples, ν = 0.5, framed: the edited layer 1"
    frames = [p for axes in one.axes for p in axes.patches if isinstance(p, Rectangle) and p.get_x() == 1]
    assert len(frames) == 2, "one in each heat map"
    many = averages_figure(average([trace(), trace(0.2)], asked=4), model="tiny", window=2)
    assert many.get_suptitle().startswith("tiny: 2 facts of 4: ATE")
    assert [axes.get_title() for axes in many.axes if "window of 2 layers" in axes.get_title()]
    assert NEW not in LINES
    assert OLD not in LINES


@pytest.mark.parametrize("name", ["figure.bmp", "figure", "figure.png.txt"])
def test_another_format_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"written as \.png, \.svg or \.pdf, not "):
        check_suffix(Path(name))
    assert check_suffix(Path("A.PNG")) == ".png"
