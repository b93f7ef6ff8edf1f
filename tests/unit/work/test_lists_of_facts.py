"""Lists of facts sorted out, facts found in a folder, lines and notes beside a table, and a method chosen by trials."""

from __future__ import annotations

import json
import math
import random
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.standing import FactOn, facts_on
from factedit.errors import EditError, ModelError, ResourceError, UsageError
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.harm import Harm, _harm
from factedit.evaluate.holding import Held, Share, _asks, _held
from factedit.evaluate.metrics.free import FREE_TOKENS
from factedit.evaluate.probability import Question, Score
from factedit.evaluate.regime import Joint
from factedit.evaluate.regime import Sequence as InSequence
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.work import auto
from factedit.work.asked import command_line, place_of
from factedit.work.auto import Candidate, Choice, Trial, _lost, _order, _some, _trial, choose
from factedit.work.fact_list import SHOWN, asked_records, sort_out
from factedit.work.facts_of import _recorded, find_fact
from factedit.work.regimes import asked_regime, protocol_of, that_agree
from factedit.work.reproduce import _in_order, _methods_of, _of_rows, _with_texts
from factedit.work.together import EditedTogether, FactReport, _what_is_kept
from factedit.work.trace import _told, named_kinds


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def request(subject: str = "Paris", target: str = "Rome", prompt: str = "{} is in") -> EditRequest:
    return EditRequest(subject=subject, prompt=prompt, target_new=target)


def record(case: str, *args: str, **more: Any) -> FactRecord:
    return FactRecord(case_id=case, request=request(*args), **more)


def edit_of(*requests: EditRequest, takes_back: Sequence[tuple[str, int]] = ()) -> Edit:
    effect = LowRank(1, torch.zeros(8, 1), torch.zeros(1, 4))
    return Edit(method="memit", requests=requests, effects=(effect,), made_for="x", takes_back=tuple(takes_back))


# -- a list sorted out -----------------------------------------------------------------------------


def test_what_is_there_twice_and_what_is_on_already_is_left_out(model: EditableModel) -> None:
    """Letter case and spaces set aside; an object that changes takes the old fact back first."""
    standing = facts_on([edit_of(request("Seattle", "Rome"), request("France", "Oslo"))])
    records = [
        record("0"), record("1", "paris", "Rome", "{}  is in"), record("2", "Seattle", " Rome "),
        record("3", "France", "Rome"),
    ]  # fmt: skip
    found = sort_out(model, records, standing)
    assert [own.case_id for own in found.wanted] == ["0", "3"]
    assert found.left_out == {"1": "It is in the list before.", "2": "It is on the model already."}
    assert [fact.request.subject for fact in found.replaced] == ["France"]


def test_what_the_tokens_do_not_allow_is_left_out_with_the_reason(model: EditableModel) -> None:
    long = record("0", "Paris " * 80)
    found = sort_out(model, [long, record("1")], [])
    assert [own.case_id for own in found.wanted] == ["1"]
    assert "tokens" in found.left_out["0"]


def test_a_list_that_contradicts_itself_is_refused_by_name(model: EditableModel) -> None:
    with pytest.raises(UsageError, match="There are no facts to edit: the list is empty"):
        sort_out(model, [], [])
    with pytest.raises(UsageError) as one:
        sort_out(model, [record("0"), record("1", "PARIS", "Oslo"), record("2", "Seattle")], [])
    assert str(one.value) == (
        "The list says 1 fact in two ways: 'PARIS is in' → 'Rome' and → 'Oslo'. A model can hold one of them: take the "
        "other out."
    )
    many = [record(f"{n}{target}", f"s{n}", target) for n in range(SHOWN + 2) for target in ("Rome", "Oslo")]
    with pytest.raises(UsageError, match=rf"says {SHOWN + 2} facts in two ways: .*; and 2 more\. A model"):
        sort_out(model, many, [])


def test_facts_are_named_by_parts_or_by_a_file(tmp_path: Path) -> None:
    [one] = asked_records("Paris", "{} is in", "Rome", None, None)
    assert (one.case_id, one.request) == ("0", request())
    assert asked_records("Paris", "{} is in", "Rome", "France", None)[0].request.target_true == "France"
    with pytest.raises(UsageError, match=r"Missing --subject, --target \(or give --requests with a file of facts\)"):
        asked_records(None, "{} is in", None, None, None)
    file = tmp_path / "f.jsonl"
    file.write_text(json.dumps({"subject": "Paris", "prompt": "{} is in", "target_new": "Rome"}) + "\n")
    assert [own.request.subject for own in asked_records(None, None, None, None, file)] == ["Paris"]
    for parts in (("Paris", None, None, None), (None, None, None, "France")):
        with pytest.raises(UsageError, match="Give --requests or --subject, --prompt and --target, not both"):
            asked_records(*parts, file)


# -- facts of a folder -----------------------------------------------------------------------------

FACTS = facts_on([edit_of(request("Alien: Covenant", "Rome"), request("Paris", "Rome")),
                  edit_of(request("Paris", "Oslo", "{} was built in"), request("Paris Hilton"))])  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "target", "prompt"),
    [
        ("alien:  covenant", "Rome", "{} is in"),
        ("Paris: {} is in", "Rome", "{} is in"),
        ("paris: Paris was built in", "Oslo", "{} was built in"),
        ("Alien: Covenant: {} IS in", "Rome", "{} is in"),
    ],
)
def test_a_fact_is_found_by_its_subject_or_with_its_relation(asked: str, target: str, prompt: str) -> None:
    found = find_fact(FACTS, asked, where="f")
    assert (found.request.target_new, found.request.prompt) == (target, prompt)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Paris", r"'Paris' fits 2 facts of f\. Give SUBJECT or 'SUBJECT: RELATION' of: Paris: {} is in → Rome; Paris: "
                  r"{} was built in → Oslo\."),
        ("Pari: x", "'Pari: x' is not a fact of f. .* of: Paris: {} is in → Rome; .*; Paris Hilton: {} is in → Rome"),
        ("Oslo", "'Oslo' is not a fact of f. .* of: Alien: Covenant: {} is in → Rome; Paris"),
    ],
)  # fmt: skip
def test_what_is_no_fact_or_several_is_told_with_those_there_are(asked: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_fact(FACTS, asked, where="f")


def test_of_no_facts_and_of_many_it_is_said() -> None:
    with pytest.raises(UsageError, match=r"of: none\.$"):
        find_fact([], "Paris", where="f")
    many = facts_on([edit_of(*(request(f"s{n}") for n in range(15)))])
    with pytest.raises(UsageError, match=r"s11: {} is in → Rome; and 3 more\.$"):
        find_fact(many, "nobody", where="f")


def test_a_fact_that_was_taken_back_is_not_on() -> None:
    first = edit_of(request("Paris"), request("Seattle"))
    second = edit_of(takes_back=[(first.identity, 0)])
    assert [fact.request.subject for fact in facts_on([first, second])] == ["Seattle"]
    assert facts_on([]) == []


def test_whether_it_was_written_when_it_was_made() -> None:
    edit = edit_of(request())
    assert _recorded(FactOn(edit, 0)) is None, "it was not measured"
    for text, written in ((" Rome, of course", True), (" a city", False)):
        outcome = {"continuation": text, "target_new": 0.5}
        measured = edit.with_outcomes([(outcome, outcome)])
        assert _recorded(FactOn(measured, 0)) is written


def test_what_is_asked_of_a_fact_and_how_it_is_read() -> None:
    own = record("1", paraphrases=("p1", "p2"), neighborhood=("n1", "n2"))
    true = replace(own, request=replace(own.request, target_true="Oslo"))
    assert _asks(own) == [Greedy(text, FREE_TOKENS) for text in ("Paris is in", "p1", "p2")] + [
        Question("Paris is in", "Rome")
    ], "without an old object neighbours have no answer of their own"
    beside = [Question(n, target) for n in ("n1", "n2") for target in ("Oslo", "Rome")]
    assert _asks(true)[4:] == beside
    low, high = Score((-3.0,), (False,)), Score((-1.0,), (True,))
    found = _held(true, [" Rome.", " in Rome", " Rome", low, high, low, low, low])
    assert found == Held(True, " Rome.", math.exp(-3), Share(1, 2), Share(1, 2)), "a tie is not kept"
    assert found.as_json()["wordings"] == [1, 2]
    assert Share(1, 2) + Share(3, 4) == Share(4, 6)
    assert (Share(1, 4).percent, Share(0, 0).percent) == (25.0, None)


# -- lines and notes -------------------------------------------------------------------------------


def test_a_command_can_be_given_to_a_shell_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings hold brackets and quotes, names spaces; what is not set does not stand there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my facts.jsonl").write_text("")
    line = command_line(
        "evaluate", "gemma3-270m", dataset=str(tmp_path / "my facts.jsonl"), method="rome,ft+stop", records=0,
        no_free=True, free=False, trained=None, set=('rome.context_templates=["{}"]', "steps=20"), batch=(),
    )  # fmt: skip
    assert shlex.split(line) == [
        "factedit", "evaluate", "gemma3-270m", "--dataset", "my facts.jsonl", "--method", "rome,ft+stop", "--records",
        "0", "--no-free", "--set", 'rome.context_templates=["{}"]', "--set", "steps=20",
    ]  # fmt: skip
    assert command_line("trace", "a b; rm -rf x") == "factedit trace 'a b; rm -rf x'"
    assert command_line("evaluate", "m", dataset="counterfact") == "factedit evaluate m --dataset counterfact"


def test_type_and_device_are_told_where_they_are_not_the_usual(model: EditableModel) -> None:
    assert place_of(model) == {"dtype": None, "device": None}
    odd: Any = SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cuda:1"))
    assert place_of(odd) == {"dtype": "bfloat16", "device": "cuda:1"}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [("all", ("hidden", "mlp", "attn")), (" mlp , hidden", ("mlp", "hidden")), ("mlp,mlp", ("mlp",))],
)
def test_kinds_of_states_as_written(text: str, kinds: tuple[str, ...]) -> None:
    assert named_kinds(text) == kinds
    assert named_kinds("severed")[0] == "hidden"
    with pytest.raises(UsageError, match="mpl"):
        named_kinds("mlp,mpl")


def test_a_few_of_those_that_were_left_out_are_told() -> None:
    assert _told({}) == ""
    assert _told({"a": "x", "b": "y"}) == "a (x); b (y)"
    assert _told(dict.fromkeys("abcd", "x")) == "a (x); b (x); c (x); …"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, None, None, (), None), "--at-once 0 puts no fact on a model: give at least 1"),
        ((None, -3, None, (), None), "--sequence -3 puts no fact"),
        ((None, 9, 0, (), None), "--batch 0 puts no fact"),
    ],
)
def test_no_facts_at_once_is_not_each_alone(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked_regime(*given)


def test_a_regime_has_the_papers_name_and_records_that_agree_stay() -> None:
    assert [protocol_of(own) for own in (None, Joint(3), InSequence(2))] == ["", "at once", "sequence"]
    assert asked_regime(9, None, None, (), 18) == (Joint(9), 18), "two groups of nine"
    assert asked_regime(None, 7, 50, (), 7) == (InSequence(7, (7,)), 7), "no batch is larger than the sequence"
    assert that_agree([]) == ([], 0, 0)


# -- a table of a benchmark ------------------------------------------------------------------------


def found_of(*rows: tuple[str, str], **summary: dict[str, Estimate]) -> Any:
    settings = {row: {"method": method, "dtype": "torch.float32", "device": "cpu"} for row, method in rows}
    return SimpleNamespace(settings=settings, summary={row: summary.get(row, {}) for row, _ in rows})


def test_rows_stand_in_the_tables_order_and_others_last() -> None:
    rows = (("own", "own"), ("rome, 5 at once", "rome"), ("ft", "ft"), ("unedited", "unedited"))
    found = found_of(*rows)
    assert list(_in_order(found, ["ft", "rome"])) == ["unedited", "ft", "rome, 5 at once", "own"]
    assert _methods_of(found) == "own,rome,ft", "as the command line takes them, without the unedited model"
    twice = found_of(("rome, 5 in batches of 1", "rome"), ("rome, 9 in batches of 1", "rome"))
    assert _methods_of(twice) == "rome"


def test_sampled_texts_are_scored_over_the_first_records_only() -> None:
    asked: list[tuple[int, tuple[str, ...]]] = []
    texts: Any = [SimpleNamespace(columns=(SimpleNamespace(name="GE"), SimpleNamespace(name="RS")))]

    def run(records: Sequence[Any], measures: Any) -> Any:
        asked.append((len(records), measures.metrics))
        n = len(records)
        row = {"ES": Estimate(10.0 * n, 1.0, n)} | ({"GE": Estimate(1.0 * n, 1.0, n)} if measures.metrics else {})
        return Ran(summary={"rome": row, "ft": {"ES": row["ES"]}})

    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Ran:
        summary: dict[str, dict[str, Estimate]]

    @dataclass(frozen=True)
    class Own:
        metrics: tuple[Any, ...] = ()

    records: Any = list("abcd")
    part = _with_texts(run, records, Own(), texts, 2)  # type: ignore[arg-type]
    assert [n for n, _ in asked] == [4, 2]
    assert (part.summary["rome"]["ES"].n, part.summary["rome"]["GE"].n) == (4, 2)
    assert part.summary["ft"] == {"ES": Estimate(40.0, 1.0, 4)}
    asked.clear()
    assert _with_texts(run, records, Own(), texts, 4).summary["rome"]["GE"].n == 4  # type: ignore[arg-type]
    assert "GE" not in _with_texts(run, records, Own(), (), 0).summary["rome"]  # type: ignore[arg-type]
    assert [n for n, _ in asked] == [4, 4], "each once"


def test_what_one_must_know_of_the_rows() -> None:
    found = found_of(("unedited", "unedited"), ("mend", "mend"), mend={"GE": Estimate(1.0, 1.0, 5)})
    training = {"steps": 100, "batch": 8}
    found.settings["mend"]["settings"] = {
        "training": training, "network": {"rank": 4}, "best_step": 60, "records": 9, "data": {"name": "own"},
    }  # fmt: skip
    texts: Any = [SimpleNamespace(columns=(SimpleNamespace(name="GE"), SimpleNamespace(name="RS")))]
    assert _of_rows(found, texts) == {
        "computed": "float32 on cpu",
        "network of mend": "rank 4; step 60 of at most 100 of 8 examples, 9 records of own",
        "n of GE": "5",
        "settings of every row": "in table.json; where our presets are from: `factedit models`",
    }


# -- a method chosen by trying ---------------------------------------------------------------------

ROME, MEMIT = Candidate("rome-joint", {}), Candidate("memit", {"layers": [3]})


@pytest.mark.parametrize(
    ("trial", "over"),
    [
        (Trial(ROME), 0.0),
        (Trial(ROME, neighbours_lost=10.0, panel_lost=10.0, perplexity_up=0.05), 0.0),
        (Trial(ROME, neighbours_lost=15.0, panel_lost=12.0), 0.5),
        (Trial(ROME, panel_lost=-40.0, perplexity_up=0.15), 2.0),
        (Trial(ROME, perplexity_up=math.inf), math.inf),
    ],
)
def test_by_how_much_bounds_are_broken(trial: Trial, over: float) -> None:
    assert trial.over == pytest.approx(over)
    assert trial.as_json()["over"] == pytest.approx(over)


def test_what_is_better() -> None:
    """Bounds before what is written, that before other wordings, those before harm."""
    ordered = [
        Trial(ROME, written=90.0, wordings=80.0, neighbours_lost=1.0),
        Trial(ROME, written=90.0, wordings=80.0, neighbours_lost=1.0, panel_lost=2.0),
        Trial(ROME, written=90.0, wordings=70.0),
        Trial(ROME, written=50.0, wordings=90.0),
        Trial(ROME, written=None),
        Trial(ROME, written=100.0, neighbours_lost=11.0),
        Trial(ROME, written=100.0, neighbours_lost=30.0),
    ]
    assert sorted(random.Random(1).sample(ordered, len(ordered)), key=_order) == ordered


def test_the_choice_in_words() -> None:
    assert MEMIT.text == "memit --set layers=[3]"
    kept = Choice(ROME, (Trial(ROME, written=91.7), Trial(MEMIT, written=10.0)), 24, True)
    assert kept.why == (
        "rome-joint: 92 % of 24 of your facts written; most facts written within the bounds (neighbours 10 points, "
        "other facts 10 points, perplexity 5 %)."
    )
    broken = Choice(MEMIT, (Trial(MEMIT, written=None, panel_lost=99.0),), 8, False)
    assert broken.why.startswith(
        "memit --set layers=[3]: 0 % of 8 facts of the embedded set written; none stays within"
    )
    assert broken.why.endswith("this one breaks them least.")


def test_a_model_that_writes_no_number_any_more_has_lost_everything() -> None:
    """Its perplexity is no number, which counted as nothing lost."""
    before, none = Harm(10.0, 100.0, 5, 9), Harm(math.nan, math.nan, 0, 0)
    assert _lost(before, Harm(11.0, 60.0, 5, 9)) == (40.0, pytest.approx(0.1))
    assert _lost(before, Harm(math.nan, 0.0, 5, 9)) == (100.0, math.inf)
    assert _lost(none, none) == (None, None), "nothing could be asked"
    assert Trial(ROME, perplexity_up=_lost(before, Harm(math.nan, 100.0, 5, 9))[1]).over == math.inf


def test_a_perplexity_past_all_numbers_is_infinite_and_of_no_text_there_is_none() -> None:
    assert _harm([True, False], [Score((-1000.0, -2000.0), (True, True))]) == Harm(math.inf, 50.0, 2, 2)
    assert math.isnan(_harm([], []).perplexity)
    assert math.isnan(_harm([], []).panel)
    assert _harm([True], [Score((-1.0,), (True,)), Score((-3.0,), (True,))]).perplexity == pytest.approx(math.e**2)
    assert Harm(math.nan, 50.0, 2, 2).as_json() == {"perplexity": None, "panel": 50.0, "facts": 2, "tokens": 2}


def test_some_of_the_facts_are_drawn_evenly() -> None:
    records: Any = list(range(100))
    assert _some(records) == [n * 100 // auto.TRIED for n in range(auto.TRIED)]
    assert _some(records[:5]) == [0, 1, 2, 3, 4]


def fact(status: str, before: Held | None, after: Held | None) -> FactReport:
    return FactReport(record("1"), status, "", before, after)


def test_a_trial_counts_what_was_edited() -> None:
    """Of two facts that were edited one took; neighbours fell from 3 of 4 to 1 of 4; one that failed does not count."""
    before, after = (Held(False, "", 0.1, Share(1, 2), Share(n, 2)) for n in (2, 0))
    other = Held(True, "", 0.9, Share(2, 2), Share(1, 2))
    found = EditedTogether("memit", (), (fact("took", before, other), fact("not written", other, after),
                                         fact("failed", before, None)), None, 3.0)  # fmt: skip
    assert _trial(MEMIT, found, 5.0) == Trial(
        MEMIT, written=50.0, wordings=75.0, neighbours_lost=50.0, panel_lost=None, perplexity_up=None, seconds=5.0
    )
    assert found.neighbours == (Share(3, 4), Share(1, 4))
    nothing = EditedTogether("memit", (), (), None, 0.0)
    assert _trial(MEMIT, nothing, 0.0) == Trial(MEMIT)
    told = found.as_json()
    assert told["counts"] == {"took": 1, "not written": 1, "known": 0, "left out": 0, "failed": 1}
    assert (told["wordings"], told["neighbours"]) == ([3, 4], [[3, 4], [1, 4]])
    assert told["facts"][2]["after"] is None


@pytest.mark.parametrize("error", [EditError("e"), ModelError("not finite"), ResourceError("memory")])
def test_a_candidate_that_fails_is_told_and_not_the_end(
    error: Exception, model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, *_: Any, **__: Any) -> Any:
        if name == "memit":
            raise error
        return name

    found = EditedTogether("rome-joint", (), (), None, 0.0)
    monkeypatch.setattr(auto, "make_method", made)
    monkeypatch.setattr(auto, "edit_together", lambda *_, **__: found)
    records = [record(str(n), f"s{n}") for n in range(auto.FEW)]
    told: list[tuple[float, float]] = []
    choice = choose(model, lambda *_: None, records, candidates=(MEMIT, ROME),  # type: ignore[arg-type, return-value]
                    progress=lambda _what, done, total: told.append((done, total)))  # fmt: skip
    assert choice.chosen == ROME
    assert choice.trials[0].failed == str(error)
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert (choice.facts, choice.users) == (auto.FEW, True)


def test_what_is_kept_of_a_sequence_that_is_stopped(tmp_path: Path) -> None:
    running: Any = SimpleNamespace(made=[1, 2])
    assert _what_is_kept(running, None, None) == "no edit was saved"
    assert _what_is_kept(running, tmp_path, tmp_path) == (
        f"2 edits are kept in {tmp_path}, the values found so far in the cache; the same command goes on there"
    )
