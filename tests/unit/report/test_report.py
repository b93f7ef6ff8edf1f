"""Tables, figures and the page, from small honest inputs."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Notes
from factedit.errors import UsageError
from factedit.evaluate.estimates import Estimate
from factedit.markup import NEW, OLD
from factedit.report.columns import columns_of, decimals_of
from factedit.report.figures import as_bytes, averages_figure, trace_figure, write_figure
from factedit.report.page import render, size_of, write_page
from factedit.report.story import Story
from factedit.report.tables import as_item, csv_text, markdown, summary_table
from factedit.safe import safe_text
from factedit.trace.effects import ROLES, TraceResult, average, role_rows
from factedit.work.demo import Demo
from seen_markup import Seen
from tiny_story import tiny_story

SUMMARY = {
    "unedited": {"ES": Estimate(20.0, 5.0, 9), "NS": Estimate(80.0, math.nan, 1)},
    "rome": {"ES": Estimate(99.96, 0.04, 9), "S": Estimate(90.0, 1.0, 9)},
}


def fact(seed: int, *, subject: tuple[int, int] = (1, 4), tokens: int = 8) -> TraceResult:
    random = torch.Generator().manual_seed(seed)
    scores = {
        kind: tuple(tuple(row) for row in (0.1 + 0.5 * torch.rand(tokens, 4, generator=random)).tolist())
        for kind in ("hidden", "mlp", "attn")
    }
    return TraceResult(
        model="m", prompt="p", subject="s", subject_range=subject, tokens=tuple("abc$defgh"[:tokens]), answer=" x",
        clean=0.7, corrupted=0.1, window=2, noise=0.5, samples=3, seed=1, scores=scores,
    )  # fmt: skip


def test_tables() -> None:
    text = markdown(SUMMARY)
    assert text.splitlines()[0] == "| method | n | S | ES | NS |", "the paper's order, only columns that are there"
    assert "| rome | 9 | 90.0 ±1.0 | 100.0 ±0.0 | – |" in text
    assert "| unedited | 9 | – | 20.0 ±5.0 | 80.0 |" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(SUMMARY))))
    assert rows[1]["ES"] == "99.96"
    assert rows[1]["NS"] == ""


def test_columns_stand_in_the_order_of_the_published_tables() -> None:
    """Then metrics, scores of metrics that nobody here knows, what goes beyond the tables, and costs."""
    order = ["S", "ES", "EM", "PS", "PM", "NS", "NM", "efficacy", "paraphrase", "specificity", "free", "GE", "RS",
             "of a stranger", "efficacy_tokens", "seconds_per_edit", "peak_memory_mb"]  # fmt: skip
    mixed = {"a": dict.fromkeys(reversed(order[:9]), Estimate(1.0, 1.0, 2)),
             "b": dict.fromkeys(reversed(order[5:]), Estimate(1.0, 1.0, 2))}  # fmt: skip
    assert columns_of(mixed) == order


def test_roles_cover_every_token_after_the_first() -> None:
    rows = dict(role_rows((1, 4), 8))
    assert rows == {
        "first subject": [1], "middle subject": [2], "last subject": [3],
        "first subsequent": [4], "further": [5, 6], "last": [7],
    }  # fmt: skip
    one = dict(role_rows((0, 1), 2))
    assert one == {"first subject": [0], "last subject": [0], "first subsequent": [1], "last": [1]}
    assert "first subsequent" not in dict(role_rows((1, 3), 3)), "the subject ends the prompt"


def test_averages_by_hand() -> None:
    traces = [fact(1), fact(2, subject=(0, 2), tokens=5)]
    found = average(traces, asked=3)
    curve = found.curves["mlp"]["last subject"]
    by_hand = [(traces[0].scores["mlp"][3][n] + traces[1].scores["mlp"][1][n]) / 2 - 0.1 for n in range(4)]
    assert curve.mean == pytest.approx(by_hand)
    assert curve.n == 2
    assert found.curves["mlp"]["further"].n == 2 + 1, "token-weighted"
    assert found.total_effect[0] == pytest.approx(0.6)
    of_two = [traces[0].scores["mlp"][3][n] - traces[1].scores["mlp"][1][n] for n in range(4)]
    usual = [1.959964 * abs(d) / 2 for d in of_two]  # 1.96 s / sqrt(2) with s = |d| / sqrt(2)
    assert curve.half_width == pytest.approx(usual, rel=1e-5), "one token per fact: the usual interval"
    assert (found.facts, found.asked) == (2, 3)
    layer, value = found.peak("mlp", "last subject")
    assert value == max(curve.mean) == curve.mean[layer]
    with pytest.raises(UsageError, match="None of the 3 facts is answered right"):
        average([], asked=3)


def test_tokens_of_one_fact_are_not_independent() -> None:
    """Each fact's middle tokens repeated tenfold say no more than the fact does."""
    few = [fact(n, subject=(1, 4)) for n in range(5)]
    many = []
    for trace in few:
        grids = {k: (g[0], g[1], *[g[2]] * 10, *g[3:]) for k, g in trace.scores.items()}
        many.append(replace(trace, scores=grids, subject_range=(1, 13), tokens=tuple("t" * 17)))
    one = average(few, asked=5).curves["mlp"]["middle subject"]
    ten = average(many, asked=5).curves["mlp"]["middle subject"]
    assert ten.n == 10 * one.n
    assert ten.mean == pytest.approx(one.mean)
    assert ten.half_width == pytest.approx(one.half_width)


def test_figures_are_written_in_both_formats(tmp_path: Path) -> None:
    for figure in (trace_figure(fact(1)), averages_figure(average([fact(1), fact(2)], asked=2))):
        assert as_bytes(figure, ".png").startswith(b"\x89PNG")
        svg = as_bytes(figure, ".svg").decode()
        assert "<svg" in svg
    starred = as_bytes(trace_figure(fact(1)), ".svg")
    assert starred.count(b"<!-- b* -->") == 3, "the subject's tokens are starred in each of three maps"
    write_figure(trace_figure(fact(1)), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    with pytest.raises(UsageError, match=r"\.svg or \.pdf, not \.bmp"):
        write_figure(trace_figure(fact(1)), tmp_path / "a.bmp")
    assert all(role in ROLES for role in average([fact(1)], asked=1).curves["attn"])


@pytest.mark.parametrize("text", ["$x^$", "$$", r"$\\frac$", "a$b$", "\x1b[31m\u202e", "\ud800", "\\$", "_^{"])
def test_figures_show_any_text_and_obey_none(text: str) -> None:
    trace = fact(1)
    trace = replace(trace, answer=text, tokens=tuple(text for _ in trace.tokens))
    assert as_bytes(trace_figure(trace), ".png").startswith(b"\x89PNG")
    svg = as_bytes(trace_figure(trace), ".svg").decode()
    assert not {"\x1b", "\u202e", "\ud800"} & set(svg)


@pytest.fixture(scope="module")
def story() -> Story:
    return tiny_story()


def test_the_page_stands_alone_and_escapes(story: Story, tmp_path: Path) -> None:
    page = render(story, notice="terms & conditions")
    assert "&lt;b&gt;Seattle" in page
    assert "<b>Seattle" not in page
    assert set(re.findall(r"https?://[^\"' <]*", page)) == {"http://www.w3.org/2000/svg"}, "a name, asked for by nobody"
    assert not re.search(r"<link|\b(src|href)=|@import|url\(", page)
    assert "terms &amp; conditions" in page
    for fingerprint in story.fingerprints:
        assert fingerprint in page
    for answer in story.answers:
        assert answer.prompt in page
    assert "the same to the bit" in page
    assert "the same to the bit" not in render(replace(story, fingerprints=("a", "b", "c")))
    write_page(story, tmp_path / "deep" / "report.html")
    written = (tmp_path / "deep" / "report.html").read_text()
    assert written.startswith("<!doctype html>")
    assert story.fingerprints[2] in written
    assert len(list((tmp_path / "deep").iterdir())) == 1, "nothing temporary stays"


def test_the_page_begins_with_a_verdict(story: Story) -> None:
    """Whether it took, where else it shows and whether neighbours moved, counted from the probabilities shown."""
    word, told = story.verdict
    assert render(story).split("</h1>")[1].split("</p>")[0].count(word) == 1
    new, true = (0.1, 0.9), (0.9, 0.1)
    rewrite, wording, near, _, free = story.answers
    by_hand = {
        ((0.1, 0.9), (0.1, 0.9), (0.1, 0.1)): "The edit took",
        ((0.1, 0.9), (0.1, 0.1), (0.1, 0.1)): "The edit took, but not in all wordings",
        ((0.1, 0.9), (0.1, 0.9), (0.1, 0.9)): "The edit took, but neighbours moved",
        ((0.1, 0.2), (0.1, 0.9), (0.1, 0.1)): "The edit did not take",
        ((0.95, 0.99), (0.1, 0.9), (0.1, 0.1)): "The model gave the new object before the edit, too",
    }
    for (of_edit, of_wording, of_near), expected in by_hand.items():
        rows = [
            replace(answer, new=values, true=(0.9, 0.5))
            for answer, values in zip((rewrite, wording, near), (of_edit, of_wording, of_near), strict=True)
        ]
        assert replace(story, answers=(*rows, free)).verdict[0] == expected
    assert "1 of 1 other wordings" in told
    held = replace(wording, new=(0.95, 0.99), true=(0.9, 0.5))
    assert (
        "1 of 1 other wordings give the new object (1 of 1 before the edit)"
        in (replace(story, answers=(rewrite, held)).verdict[1])
    )
    moved = replace(story, answers=(replace(rewrite, new=new, true=true),), fingerprints=("a", "b", "c"))
    assert moved.verdict[0] == "The edit took at its own prompt"
    assert moved.verdict[1] == "P(<b>Seattle</b>) 0.10 → 0.90; not undone: the weights differ afterwards"


def test_the_page_marks_the_edited_layer_and_uses_one_pair_of_colours(story: Story) -> None:
    page = render(story)
    assert f"--new: {NEW}; --old: {OLD};" in page
    seen = Seen(page)
    traced, _ = json.loads(seen.scripts[0])
    assert (traced["edited_layers"], traced["marked"]) == (story.edit.layers, "which is edited below")
    assert seen.tags.count("caption") == 3 + 1 + 1, "a table per kind, of the answers, of the hashes"
    assert "Frame: the layer that is edited" in page
    assert "rank</em>: how many directions" in page


def test_what_the_page_draws_is_what_the_json_says(story: Story) -> None:
    drawn, asked = json.loads(Seen(render(story)).scripts[0])
    told = Demo(story, "", 1.0).as_json()
    assert {kind: drawn["scores"][kind] for kind in told["trace"]["kinds"]} == {
        kind: [list(row) for row in told["trace"][kind]] for kind in told["trace"]["kinds"]
    }
    assert [(row["prompt"], row["new"], row["old"]) for row in asked["rows"]] == [
        (row["prompt"], *(list(row[key]) if row[key] else None for key in ("new", "true"))) for row in told["answers"]
    ]


def test_where_no_script_runs_the_same_numbers_stand_in_tables(story: Story) -> None:
    seen = Seen(render(story))
    cells = iter(seen.cells)
    for grid in story.trace.scores.values():
        assert [next(cells) for _ in range(sum(map(len, grid)))] == [f"{value:.3f}" for row in grid for value in row]
    for answer in story.answers:
        asked = [f"{value:.3f}" for value in (*(answer.new or ()), *(answer.true or ()))]
        texts = [safe_text(text.strip()) for text in answer.text]
        assert [next(cells) for _ in range(6)] == [*(asked or [""] * 4), *texts]


def test_the_page_says_how_large_the_edit_is_and_only_what_is_known(story: Story) -> None:
    rows = {label: (value, rest) for label, value, rest in size_of(story.edit)}
    assert rows["matrix"] == ("layer 1", "")
    assert rows["rank"] == ("1", "")
    [effect] = story.edit.effects
    weight = tiny("gpt2").weight(1)
    share = 100 * float(effect.delta().norm() / weight.norm())  # type: ignore[attr-defined]
    assert rows["size of the change"][0] == f"{share:.2f} %"
    assert rows["evaluations of the loss"][0] == str(len(story.edit.notes[0].diagnostics["losses"]))
    page = render(story)
    assert all(value in page for value, _ in rows.values())
    unmeasured = replace(story, edit=replace(story.edit, notes=(Notes(),), diagnostics={}))
    assert [label for label, _, _ in size_of(unmeasured.edit)] == ["matrix", "rank"]
    text = Seen(render(unmeasured)).text
    assert "spill" not in text
    assert "condition number" not in text


def test_a_column_says_how_many_decimals_it_needs_and_names_are_no_markup() -> None:
    """A divergence of 0.0123 nats is not 0.0; a model's folder may be called anything."""
    rows = {"a|b_*<i>": {"ES": Estimate(95.25, 1.0, 9), "NKL": Estimate(0.01234, 0.00123, 9)}}
    text = markdown(rows)
    assert "| 95.2 ±1.0 | 0.0123 ±0.0012 |" in text
    assert r"| a\|b\_\*\<i\> | 9 |" in text
    table = summary_table(rows, title="t")
    assert [next(iter(column.cells)) for column in table.columns][2:] == ["95.2 ±1.0", "0.0123 ±0.0012"]
    assert decimals_of("moved") == 4
    assert as_item("two\nlines <b>") == "two lines &lt;b>"
