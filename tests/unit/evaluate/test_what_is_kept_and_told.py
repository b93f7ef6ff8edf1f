"""Stores, summaries and what is told beside scores, at their edges: nothing, damage, several sets, other kinds."""

from __future__ import annotations

import json
import logging
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from factedit.errors import DataError, EditError, RequestError, ResourceError, UsageError
from factedit.evaluate import judge as judge_module
from factedit.evaluate.asks import replies
from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.column import Column
from factedit.evaluate.estimates import Estimate
from factedit.evaluate.judge import Judge, _read
from factedit.evaluate.leak import Kept, refuse_trained_on
from factedit.evaluate.measurable import not_measurable, without
from factedit.evaluate.metric import digest_of, mean_of
from factedit.evaluate.run import Evaluation, _refuse_nothing, _stop_if_nothing_is_edited
from factedit.evaluate.store import ResultStore, name_and_content, run_key
from factedit.evaluate.summary import as_numbers, summary_of
from factedit.evaluate.texts import about_the_subject, per_record, per_row
from factedit.evaluate.told import left_out, not_edited, not_executed
from factedit.evaluate.told import tests_of as counts_of
from factedit.evaluate.whole import digest, wholes_in
from factedit.evaluate.whole import mean_columns as mean_of_wholes
from factedit.facts import EditRequest, FactRecord
from factedit.work.results import read_results
from seen_markup import framed

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Rome")
SETTINGS = {"dataset": "own abc", "seed": 0, "weights": "w" * 64, "torch": "2"}
ROW = {"scores": {"ES": 1.0}, "peak_memory_mb": 5.0}


# -- the store -------------------------------------------------------------------------------------


def test_a_run_is_named_by_its_settings_whatever_their_order() -> None:
    assert run_key({"a": 1, "b": [1, 2]}) == run_key({"b": [1, 2], "a": 1})
    assert run_key({"a": 1}) != run_key({"a": 1.5}) != run_key({"a": "1"})
    assert len(run_key({})) == 16


@pytest.mark.parametrize(
    ("text", "expected"),
    [("counterfact abc", ("counterfact", "abc")), ("my own facts.jsonl abc", ("my own facts.jsonl", "abc")),
     ("bare", ("bare", "")), (" bare ", ("bare", "")), ("", ("", ""))],
)  # fmt: skip
def test_a_data_set_is_its_name_and_a_hash(text: str, expected: tuple[str, str]) -> None:
    assert name_and_content(text) == expected


def test_what_is_stored_comes_back_and_the_last_of_two_counts(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "deep" / "r.sqlite") as store:
        run = store.begin("rome", SETTINGS)
        assert store.begin("rome", dict(reversed(SETTINGS.items()))) == run
        store.add([])
        store.add([(run, "1", ROW), (run, "2", ROW)])
        store.add([(run, "1", {**ROW, "scores": {"ES": math.inf}})])
        assert store.done(run) == {"1", "2"}
        assert store.results(run)["1"]["scores"] == {"ES": math.inf}
        store.select("a", ["1"], [run])
        store.select("a", ["1"], [run])
        store.select("b", ["2", "1"], [run])
        assert store.selections() == [("a", ["1"], [run]), ("b", ["2", "1"], [run])], "each once, oldest first"
        assert store.runs() == {run: ("rome", SETTINGS)}
        assert (store.done("nobody"), store.results("nobody")) == (set(), {})


def test_a_part_of_which_a_row_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "r.sqlite") as store:
        run = store.begin("rome", SETTINGS)
        with pytest.raises(DataError, match="The result of case 2 is not stored, since JSON cannot hold it"):
            store.add([(run, "1", ROW), (run, "2", {"scores": {1, 2}})])
        assert store.done(run) == set()


def test_a_disk_that_is_full_is_said_with_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResultStore(tmp_path / "r.sqlite") as store:
        run = store.begin("rome", SETTINGS)

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None: ...

            def executemany(self, *_: object) -> None:
                raise sqlite3.OperationalError("database or disk is full")

            def close(self) -> None: ...

        whole, store._db = store._db, Full()  # type: ignore[assignment]
        with pytest.raises(
            ResourceError, match=r"r\.sqlite cannot take more results: .*full\. What was written before"
        ):
            store.add([(run, "1", ROW)])
        store._db = whole


def test_a_store_that_is_only_read_is_not_made_and_not_written(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "r.sqlite") as store:
        run = store.begin("rome", SETTINGS)
        store.add([(run, "1", ROW)])
    before = (tmp_path / "r.sqlite").read_bytes()
    with ResultStore(tmp_path / "r.sqlite", read_only=True) as store:
        assert store.done(run) == {"1"}
        with pytest.raises(ResourceError, match="readonly database"):
            store.add([(run, "2", ROW)])
    assert (tmp_path / "r.sqlite").read_bytes() == before


@pytest.mark.parametrize("content", [b"no database", b"SQLite format 3\x00" + b"x" * 100, b"\x00" * 5000])
def test_a_file_that_is_something_else_is_left_as_it_is(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_bytes(content)
    with pytest.raises(DataError, match=r"r\.sqlite is not a results store: .* Name another folder"):
        ResultStore(tmp_path / "r.sqlite")
    assert (tmp_path / "r.sqlite").read_bytes() == content
    with pytest.raises(DataError, match="is not a file; name another folder"):
        ResultStore(tmp_path)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("CREATE TABLE other (a TEXT)", "it is a database of other"),
        ("CREATE TABLE runs (run TEXT, what TEXT); CREATE TABLE cases (a TEXT)", "its tables have other columns"),
    ],
)
def test_another_database_is_told_by_its_tables(statement: str, said: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as db:
        db.executescript(statement)
    with pytest.raises(DataError, match=said):
        ResultStore(tmp_path / "r.sqlite")


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        ("cases", "result", "[1]", r"a value in it is \[1\]"),
        ("cases", "result", "{", "a value in it is not JSON"),
        ("cases", "result", "[" * 100_000, "a value in it is not JSON"),
        ("cases", "result", '{"scores": {"ES": "high"}}', "of case '1' the field 'scores' is"),
        ("cases", "result", '{"tests": {"ES": [1]}}', "the field 'tests' is"),
        ("cases", "result", '{"tests": {"ES": [true, 0]}}', "the field 'tests' is"),
        ("cases", "result", '{"failed": 3}', "the field 'failed' is 3"),
        ("cases", "result", '{"left_out": {"free": null}}', "the field 'left_out' is"),
        ("cases", "result", '{"peak_memory_mb": true}', "the field 'peak_memory_mb' is True"),
        ("cases", "result", b"\xff", "a value in it is no text"),
        ("runs", "settings", '"x"', "a value in it is 'x'"),
        ("selections", "ids", "{}", "a value in it is {}"),
        ("selections", "ids", "[1]", "a list of names in it holds something else"),
    ],
)
def test_damage_is_told_with_what_was_found(table: str, column: str, value: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        run = store.begin("rome", SETTINGS)
        store.add([(run, "1", ROW)])
        store.select("all", ["1"], [run])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {table} SET {column} = ?", [value])
    with pytest.raises(DataError, match=rf"results\.sqlite is not a results store: .*{said}.* Name another folder"):
        read_results([tmp_path])


def test_what_another_program_computed_is_told_and_only_where_it_is_the_same_question(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "factedit")
    with ResultStore(tmp_path / "r.sqlite") as store:
        run = store.begin("rome", SETTINGS)
        store.begin("rome", {**SETTINGS, "torch": "3"})
        assert not caplog.records, "nothing is lost where nothing was computed"
        store.add([(run, "1", ROW)])
        store.begin("ft", {**SETTINGS, "torch": "3"})
        store.begin("rome", {**SETTINGS, "seed": 1, "torch": "4"})
        assert not caplog.records
        store.begin("rome", {**SETTINGS, "torch": "4", "version": "9"})
    [told] = [entry.getMessage() for entry in caplog.records]
    assert "holds 1 cases of rome that were computed with another version, torch; they are kept and not used" in told


# -- summaries -------------------------------------------------------------------------------------


def test_seconds_are_a_mean_without_an_interval_and_memory_the_most() -> None:
    rows = [{**ROW, "seconds_per_edit": 2.0}, {**ROW, "peak_memory_mb": 9.0, "seconds_per_edit": 4.0}, ROW]
    found = summary_of(rows)
    assert (found["seconds_per_edit"].value, found["seconds_per_edit"].n) == (3.0, 2)
    assert math.isnan(found["seconds_per_edit"].half_width)
    assert (found["peak_memory_mb"].value, found["ES"].n) == (9.0, 3)
    assert "seconds_per_edit" not in summary_of([ROW]), "the unedited model is not edited"
    with pytest.raises(UsageError, match="no records"):
        summary_of([])


def test_numbers_for_machines() -> None:
    summary = {"ES": Estimate(50.0, 5.0, 9), "peak_memory_mb": Estimate(3.0, math.nan, 12)}
    assert as_numbers(summary) == {"n": 12, "ES": 50.0, "peak_memory_mb": 3.0, "ci": {"ES": 5.0}}
    told = as_numbers(summary, {"7": "no"}, {"ES": [3, 1]})
    assert (told["not_edited"], told["tests"]) == ({"7": "no"}, {"ES": [3, 1]})
    assert as_numbers(summary, {}, {}).keys() == as_numbers(summary).keys()


def test_rounds_are_found_by_their_subjects_and_averaged() -> None:
    """`moved` is the root of the sum of squares over matrices: 0.5 of 0.3 and 0.4, and 0.0 of none."""
    own, other = (f"(whole) {digest(sorted(names))} 1" for names in (["a", "b"], ["c"]))
    first = {"harm": {"perplexity": 10.0, "panel": None}, "moved": {"3 out": 0.3, "4 out": 0.4}}
    second = {"harm": {"perplexity": None, "panel": 80.0}, "moved": {}}
    results = {"1": ROW, f"{own}1": second, own: first, other: second}
    found = wholes_in(results, ["b", "a", "a"])
    assert found == [first, second]
    means = mean_of_wholes(found)
    assert {name: (own.value, own.n) for name, own in means.items()} == {
        "perplexity": (10.0, 1), "panel": (80.0, 1), "moved": (0.25, 2),
    }  # fmt: skip
    assert mean_of_wholes([]) == {}
    assert wholes_in(results, ["nobody"]) == []
    assert digest(["a b"]) != digest(["a", "b"])


def test_a_mean_of_what_was_executed() -> None:
    assert mean_of([100.0, None, 0.0, math.nan, math.inf]) == (50.0, (2, 3))
    mean, tests = mean_of([None])
    assert (math.isnan(mean), tests) == (True, (0, 1))
    assert mean_of([])[1] == (0, 0)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of([["a", 1], ["b", 2]])


@pytest.mark.parametrize(("reached", "silent"), [(9.99, True), (10.0, False), (None, True)])
def test_a_score_needs_what_the_unedited_model_can_do(reached: float | None, silent: bool) -> None:
    columns = [Column("hop", "w", needs=("hop_unedited", 10.0)), Column("ES", "w")]
    row = {} if reached is None else {"hop_unedited": Estimate(reached, 1.0, 9)}
    found = not_measurable({UNEDITED: row, "rome": {"hop_unedited": Estimate(99.0, 1.0, 9)}}, columns)
    assert list(found) == (["hop"] if silent else [])
    if silent:
        has = "nothing" if reached is None else "10.0"
        assert found["hop"] == (
            f"hop is not measurable on this model: unedited it reaches {has} in hop_unedited, and 10 is needed."
        )
    assert not_measurable({}, columns[1:]) == {}
    summary = {"rome": {"hop": Estimate(1.0, 1.0, 1), "ES": Estimate(2.0, 1.0, 1)}}
    assert without(summary, ["hop"]) == {"rome": {"ES": summary["rome"]["ES"]}}


# -- what is told ----------------------------------------------------------------------------------


def test_counts_add_up_over_records_and_what_was_left_out_is_by_metric() -> None:
    rows: dict[str, Mapping[str, Any]] = {
        "1": {"tests": {"ES": [1, 0], "NS": [8, 2]}, "failed": "no"},
        "2": {"tests": {"NS": [10, 0]}, "left_out": {"free": "too long"}},
        "3": {},
    }
    assert not_edited(rows) == {"1": "no"}
    assert counts_of(list(rows.values())) == {"ES": [1, 0], "NS": [18, 2]}
    assert left_out({"rome": rows, "ft": {}}) == {"free": {"rome": {"2": "too long"}}}
    assert not_executed({"rome": {"1": rows["1"]}, "ft": {"3": rows["3"]}}) == {"rome": {"NS": [8, 2]}}
    assert counts_of([]) == {}


def test_tests_of_a_metric_that_left_the_record_out_are_not_told_again() -> None:
    """Of a metric that is not installed it is not known which scores are its own: then none of the record's count."""
    known = {"tests": {"free": [0, 1], "ES": [0, 1]}, "left_out": {"free": "too long"}}
    stranger = {"tests": {"free": [0, 1], "ES": [0, 1]}, "left_out": {"of another package": "x"}}
    assert not_executed({"rome": {"1": known}}) == {"rome": {"ES": [0, 1]}}
    assert not_executed({"rome": {"1": known, "2": stranger}}) == {"rome": {"ES": [0, 1]}}


def test_a_method_that_edits_nothing_is_stopped_after_eight_and_not_before() -> None:
    no = {"failed": "No such layer."}
    _stop_if_nothing_is_edited("kn", {str(n): no for n in range(7)})
    _stop_if_nothing_is_edited("kn", {**{str(n): no for n in range(9)}, "x": ROW})
    with pytest.raises(EditError, match=r"^kn could not edit one of the 8 records so far\. Case 0: No such layer\.$"):
        _stop_if_nothing_is_edited("kn", {str(n): no for n in range(8)})


def test_records_of_which_none_could_be_asked_are_no_table() -> None:
    plan: Any = SimpleNamespace(benchmark=SimpleNamespace(scores=(Column("ES", "w"), Column("NS", "w"))))
    none = {"scores": {"ES": math.nan}}
    _refuse_nothing({"1": none, "2": {"scores": {"NS": 1.0}}}, plan)
    with pytest.raises(RequestError, match=r"None of the 1 records could be asked; the first: the model gives numbers"):
        _refuse_nothing({"1": none}, plan)
    with pytest.raises(RequestError, match=r"None of the 2 records could be asked; the first: too long"):
        _refuse_nothing({"1": none, "2": {**none, "left_out": {"free": "too long"}}}, plan)


def test_an_evaluation_in_a_notebook_has_no_markup_of_others_and_no_nan() -> None:
    summary = {"a<b>": {"ES": Estimate(50.0, math.nan, 1)}, "ft": {"NS": Estimate(1.0, 2.0, 9)}}
    found = Evaluation(summary, {name: {} for name in summary}, {}, SimpleNamespace())  # type: ignore[arg-type]
    page, inside = framed(found._repr_html_())
    assert "a<b>" in page.text
    assert page.cells == ["1", "50.0", "–", "9", "–", "1.0 ±2.0"]
    [told] = json.loads(inside.scripts[0])
    assert told["rows"] == found.as_json(), "what is drawn is what the command gives"


# -- leaks -----------------------------------------------------------------------------------------


class Trained:
    """A method that has seen some records."""

    name = "mend"

    def __init__(self, known: Sequence[str]) -> None:
        self.known = list(known)

    def trained_on(self, records: Sequence[FactRecord]) -> list[str]:
        return [own.case_id for own in records if own.case_id in self.known]


def test_a_network_is_not_asked_what_it_was_trained_on() -> None:
    records = [FactRecord(case_id=str(n), request=REQUEST) for n in range(30)]
    methods: Any = [SimpleNamespace(name="rome"), Trained([])]
    refuse_trained_on(methods, records)
    with pytest.raises(DataError, match=r"The network of mend was trained on 2 of the 30 records: 3, 7\. Evaluate on"):
        refuse_trained_on([*methods, Trained(["7", "3"])], records)
    with pytest.raises(DataError, match=r"trained on 25 of the 30 records: 0, .*, 19 …\. Evaluate on others, or train"):
        refuse_trained_on([Trained([str(n) for n in range(25)])], records)  # type: ignore[list-item]


def test_names_that_are_kept_are_looked_for_as_whole_words() -> None:
    kept = Kept(("rome",), frozenset({("Rome",), ("Space", "Needle")}))
    prompts = ("Rome's walls", "Romeo is", "The Space Needle is", "Space. Needle", "Needle Space")
    [left], told = kept.left_out_of([FactRecord(case_id="1", request=REQUEST, neighborhood=prompts)])
    assert left.neighborhood == ("Romeo is", "Needle Space"), "signs between the words do not matter"
    assert told.prompts == (3, 5)
    assert told.as_key() == kept.as_key() != Kept(("rome",), frozenset({("Rome",)})).as_key()
    assert (Kept().as_key(), Kept().note()) == ({}, "")


# -- asks ------------------------------------------------------------------------------------------


class Upper(NamedTuple):
    """Replies with its prompt in capitals and the edit it was read under."""

    prompt: str

    @classmethod
    def read(cls, _model: Any, asked: Any, variants: Any, *, seed: int) -> Any:
        return [
            [
                [(ask.prompt.upper(), None if own is None else own[n], seed) for ask in asks]
                for n, asks in enumerate(asked)
            ]
            for own in variants
        ]


class Length(NamedTuple):
    """Replies with the length of its prompt."""

    prompt: str

    @classmethod
    def read(cls, _model: Any, asked: Any, variants: Any, *, seed: int) -> Any:
        return [[[len(ask.prompt) for ask in asks] for asks in asked] for _ in variants]


def test_replies_of_several_kinds_stand_where_they_were_asked() -> None:
    asked: Any = [[Upper("a"), Length("bcd"), Upper("e")], [], [Length("f")]]
    found = replies(None, asked, [None, ["x", "y", "z"]], seed=7)  # type: ignore[arg-type, list-item]
    assert found == [
        [[("A", None, 7), 3, ("E", None, 7)], [], [1]],
        [[("A", "x", 7), 3, ("E", "x", 7)], [], [1]],
    ]
    assert replies(None, [], [None], seed=0) == [[]]  # type: ignore[arg-type]


def test_rows_are_laid_out_by_record_and_back() -> None:
    asked = [["a", "b"], [], ["c"]]
    edits: Any = ["x", "y", "z"]
    assert per_row(asked, edits) == ["x", "x", "z"]
    assert per_row(asked, None) == [None, None, None]
    assert per_record(asked, [1, 2, 3]) == [[1, 2], [], [3]]
    record = FactRecord(case_id="1", request=REQUEST, generation=("g", "h"))
    assert [(own.prompt, own.tokens, own.number) for own in about_the_subject(record, 9)] == [("g", 9, 0), ("h", 9, 1)]


# -- a judge ---------------------------------------------------------------------------------------


class Answering:
    """What opens an address and gives the same bytes to every question."""

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, list[str]()

    def open(self, request: Any, timeout: float) -> Any:
        self.asked.append(request.full_url)
        return self

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, most: int) -> bytes:
        return self.content[:most]


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"\xff\xfe", b"[" * 200_000,
     b'{"choices": {"0": 1}}'],
)  # fmt: skip
def test_a_reply_that_is_nonsense_is_no_judgement_and_no_error(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON that is nested without end was an error of its own kind, and stopped the run."""
    there = Answering(content)
    monkeypatch.setattr(judge_module, "_OPENER", there)
    judge = Judge("http://x/v1/", pause=0)
    found = judge.judge("q", "a", "b")
    assert found.right is None
    assert found.reply.startswith("no reply: ")
    assert judge.name() == "http://x/v1"
    assert there.asked.count("http://x/v1/chat/completions") == judge_module.TRIES


def test_a_judge_that_answers_again_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only answers that do not come in a row count."""
    good = json.dumps({"choices": [{"message": {"content": "correct"}}]}).encode()
    judge = Judge("http://x/v1", "m", pause=0)
    for content, right in [(b"{}", None)] * 4 + [(good, True)] + [(b"{}", None)] * 4 + [(good, True)]:
        monkeypatch.setattr(judge_module, "_OPENER", Answering(content))
        assert judge.judge("q", "a", "b").right is right
    assert judge.name() == "m at http://x/v1"


@pytest.mark.parametrize("url", ["", "ftp://x", "x:8000", "http://", "file:///etc/passwd", "//x"])
def test_what_is_no_address_of_a_web_server_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address: write one like http://localhost:8000/v1"):
        Judge(url)


@pytest.mark.parametrize(
    ("reply", "right"),
    [("Correct, correct.", True), ("incorrect; INCORRECT", False), ("It is not correct", None),
     ("It isn't correct", None), ("not incorrect", None), ("correctly", None), ("correct\nincorrect", None)],
)  # fmt: skip
def test_a_word_is_a_judgement_wherever_it_stands(reply: str, right: bool | None) -> None:
    assert _read(reply) is right
