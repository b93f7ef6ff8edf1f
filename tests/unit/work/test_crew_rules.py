"""What a driver makes of its workers' answers, with workers that are scripted: order, deaths, refusals, late comers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from conftest import tiny
from factedit import errors
from factedit.errors import EditError, FacteditError, ResourceError, UnknownName, UsageError
from factedit.evaluate.regime import Each, Joint, Regime, Sequence
from factedit.evaluate.runner import Todo
from factedit.facts import EditRequest, FactRecord
from factedit.work.crew import (
    DEATHS,
    FAILED,
    READY,
    RESULT,
    Lost,
    ModelPlace,
    Order,
    WorkItem,
    check_key,
    failed,
    in_order,
    mapped,
)
from factedit.work.on_ray import Serving
from factedit.work.processes import Processes
from factedit.work.recipe import Recipe, regime_as_json, regime_of
from factedit.work.settings import read_settings
from factedit.work.team import Team, _item, _named, team_of
from factedit.work.worker import answer_items

ORDER = Order("moments", ModelPlace("x"), {})
Answer = bytes | Lost
Script = Callable[[WorkItem], Answer]


class Scripted:
    """A worker that answers as it is told."""

    def __init__(self, begins: Answer, script: Script) -> None:
        self.answers: list[Answer] = [begins]
        self.script = script
        self.given: list[Any] = []
        self.ended = 0

    def give(self, item: WorkItem) -> None:
        self.given.append(item.content)
        found = self.script(item)
        if isinstance(found, Lost) and str(found) == "at once":
            raise found
        self.answers.append(found)

    def end(self) -> None:
        self.ended += 1


class Crew:
    """Workers of scripts, hired in order; the last script goes on."""

    def __init__(self, *scripts: tuple[Answer, Script], places: int = 1) -> None:
        self.scripts, self.places = scripts, places
        self.hired: list[Scripted] = []

    def hire(self, _order: Order) -> Scripted:
        self.hired.append(Scripted(*self.scripts[min(len(self.hired), len(self.scripts) - 1)]))
        return self.hired[-1]

    def wait(self, workers: Iterable[Any]) -> list[tuple[Any, Answer]]:
        found = [(worker, worker.answers.pop(0)) for worker in workers if worker.answers]
        assert found, "the driver waits for somebody who will never answer"
        return found


def ready(key: Any = None) -> bytes:
    return READY + json.dumps(key or {}).encode()


def echo(item: WorkItem) -> bytes:
    return RESULT + str(item.content).encode()


def items(number: int) -> list[WorkItem]:
    return [WorkItem(f"item {n}", n) for n in range(number)]


def run(crew: Crew, parts: Iterable[WorkItem], key: Any = None) -> list[tuple[int, bytes]]:
    return list(mapped(crew, ORDER, parts, key or {}))  # type: ignore[arg-type]


def test_an_order_is_read_as_it_was_written() -> None:
    place = ModelPlace("gpt2", "bfloat16", "cuda:1", 3)
    order = Order("traces", place, {"kinds": ["mlp"], "noise": 0.5, "none": None})
    assert Order.read(order.written()) == order
    with pytest.raises(UsageError, match=r"A worker has factedit .* has an earlier one\. Install the same"):
        Order.read(json.dumps({"job": "traces", "model": {"source": "gpt2"}, "asked": {}}).encode())
    assert ModelPlace("gpt2") == ModelPlace("gpt2", "float32", "cpu", 1)


@pytest.mark.parametrize("fields", [{"version": "9.9", "model": {"unheard": 1}}, {"version": None}, {"job": "other"}])
def test_a_worker_of_another_version_says_so_and_is_not_taken_for_a_dead_one(fields: dict[str, Any]) -> None:
    """Orders of another version have fields that it does not know: it died three times, and nobody said why."""
    [order], answers = [json.dumps(fields).encode()], list[bytes]()

    class Pipe:
        recv_bytes = staticmethod(lambda: order)
        send_bytes = staticmethod(answers.append)

    answer_items(Pipe())  # type: ignore[arg-type]
    for answer in (answers[0], Serving(order).begin()):
        with pytest.raises(UsageError, match=r"A worker has factedit .*Install the same version everywhere"):
            run(Crew((answer, echo)), items(1))


@pytest.mark.parametrize(
    "error", [BlockingIOError(11, "Resource temporarily unavailable"), OSError(24, "Too many open files")]
)
def test_a_worker_that_cannot_be_started_is_one_error(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("factedit.work.processes.subprocess.Popen", refused)
    with pytest.raises(ResourceError, match=rf"cannot be started \({error.strerror}\).*fewer than 7 \(--workers\)"):
        list(mapped(Processes(7), ORDER, items(1), {}))


def test_workers_whose_models_do_not_fit_are_refused_before_one_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each looked at the free memory by itself, when the others had not taken theirs."""
    model = tiny("gpt2")
    whole = sum(p.numel() * 4 for p in model.lm.parameters())
    monkeypatch.setattr("factedit.memory.available_memory", lambda: 2.5 * whole)
    team_of(2, "gpt2").require_room(model)  # type: ignore[union-attr]
    team_of(9, "gpt2", device="cuda").require_room(model)  # type: ignore[union-attr]
    three: Any = team_of(3, "gpt2")
    for asked in (lambda: three.shards(model, [0]), lambda: list(three.traces(model, [], {}))):
        with pytest.raises(ResourceError, match=r"for each of 3 workers, takes .* GB are free\. Ask for fewer"):
            asked()


def test_where_there_is_nothing_to_do_nobody_is_hired() -> None:
    crew = Crew((ready(), echo), places=4)
    assert run(crew, []) == []
    assert crew.hired == []


def test_no_more_are_hired_than_there_are_items_and_all_are_ended() -> None:
    crew = Crew((ready(), echo), places=5)
    assert sorted(run(crew, items(2))) == [(0, b"0"), (1, b"1")]
    assert len(crew.hired) == 2
    assert [worker.ended for worker in crew.hired] == [1, 1]


def test_items_are_taken_as_workers_become_free() -> None:
    """A text is cut into parts while it is read: no more of it is held than workers can use."""
    drawn: list[int] = []

    def parts() -> Iterator[WorkItem]:
        for n in count():
            drawn.append(n)
            yield WorkItem(f"item {n}", n)

    going = mapped(Crew((ready(), echo), places=2), ORDER, parts(), {})  # type: ignore[arg-type]
    found = [next(going) for _ in range(5)]
    going.close()
    assert {number for number, _ in found} <= set(range(8))
    assert len(drawn) <= 5 + 2 * 2, "ahead by what workers hold and what waits for them"


def test_workers_are_ended_where_the_reader_stops_or_fails() -> None:
    crew = Crew((ready(), echo), places=2)
    going = mapped(crew, ORDER, items(9), {})  # type: ignore[arg-type]
    next(going)
    going.close()
    assert all(worker.ended == 1 for worker in crew.hired)
    crew = Crew((ready(), lambda _item: failed(EditError("no edit"))), places=2)
    with pytest.raises(EditError, match=r"^no edit$"):
        run(crew, items(3))
    assert all(worker.ended for worker in crew.hired)


def test_a_part_whose_worker_dies_is_done_first_by_the_next() -> None:
    crew = Crew((ready(), lambda _item: Lost("killed")), (ready(), echo))
    assert run(crew, items(3)) == [(0, b"0"), (1, b"1"), (2, b"2")]
    assert [worker.given for worker in crew.hired] == [[0], [0, 1, 2]]
    assert crew.hired[0].ended == 1


def test_a_part_that_was_given_back_comes_before_those_that_wait() -> None:
    """Results are put in order: what has waited longest holds up most. The second worker is ready late."""

    order: list[Any] = []

    def noted(item: WorkItem) -> bytes:
        order.append(item.content)
        return echo(item)

    class Late(Crew):
        def wait(self, workers: Iterable[Any]) -> list[tuple[Any, Answer]]:
            first, *others = self.hired
            there = [first] if not first.ended else [own for own in others if own.answers][:1]
            return super().wait(there)

    crew = Late((ready(), lambda _item: Lost("killed")), (ready(), noted), places=2)
    assert sorted(run(crew, items(4))) == [(n, str(n).encode()) for n in range(4)]
    assert crew.hired[0].given == [0]
    assert order[0] == 0, "before 1, which waits already"


def test_a_worker_that_is_dead_when_it_is_given_something_is_replaced() -> None:
    crew = Crew((ready(), lambda _item: Lost("at once")), (ready(), echo))
    assert run(crew, items(2)) == [(0, b"0"), (1, b"1")]


@pytest.mark.parametrize(
    ("begins", "script", "what"),
    [
        (Lost("exit code 1: no module"), echo, r"the beginning of the job \(exit code 1: no module\)"),
        (ready(), lambda item: Lost("exit code -9") if item.content == 1 else echo(item), r"item 1 \(exit code -9\)"),
    ],
)
def test_workers_that_die_again_and_again_stop_the_job(begins: Answer, script: Script, what: str) -> None:
    crew = Crew((begins, script))
    found: list[tuple[int, bytes]] = []
    with pytest.raises(ResourceError, match=rf"A worker died {DEATHS} times on {what}.*--batch 1") as stopped:
        found.extend(mapped(crew, ORDER, items(3), {}))  # type: ignore[arg-type]
    assert "What was stored before is safe" in str(stopped.value)
    assert found == ([] if isinstance(begins, Lost) else [(0, b"0")])
    assert len(crew.hired) == DEATHS
    assert all(worker.ended for worker in crew.hired)


def test_deaths_on_different_parts_do_not_add_up() -> None:
    """Each of four parts kills one worker: none of them three."""
    killed: set[int] = set()

    def once(item: WorkItem) -> Answer:
        if item.content in killed:
            return echo(item)
        killed.add(item.content)
        return Lost("killed")

    crew = Crew((ready(), once))
    assert run(crew, items(4)) == [(n, str(n).encode()) for n in range(4)]
    assert len(crew.hired) == 5


def test_a_place_that_is_new_is_used() -> None:
    """A node that joins a cluster late."""

    class Growing(Crew):
        def wait(self, workers: Iterable[Any]) -> list[tuple[Any, Answer]]:
            found = super().wait(workers)
            self.places = 3
            return found

    crew = Growing((ready(), echo), places=1)
    assert len(run(crew, items(9))) == 9
    assert len(crew.hired) == 3


def test_results_are_put_in_order_as_soon_as_they_can_be() -> None:
    taken: list[int] = []

    def results() -> Iterator[tuple[int, bytes]]:
        for number in (2, 0, 1, 4, 3):
            taken.append(number)
            yield number, str(number).encode()

    going = in_order(results())
    assert next(going) == b"0"
    assert taken == [2, 0], "not after all have come"
    assert list(going) == [b"1", b"2", b"3", b"4"]
    assert list(in_order([])) == []


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ({"a": 1}, {"a": 2}, "its a is another. Workers need the same versions"),
        ({"a": 1, "b": {"torch": "2"}}, {"a": 2, "b": {"torch": "3"}}, "its a, torch are others."),
        ({}, {"weights": "w"}, "its weights is another"),
        ({"weights": "w"}, {}, "its weights is another"),
        (dict.fromkeys("abcdef", 1), dict.fromkeys("abcdef", 2), "its a, b, c, d are others"),
        ([1], [2], "its key is another"),
    ],
)
def test_a_worker_that_would_compute_other_numbers_is_refused(found: Any, wanted: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"computes something else than this process: {said}"):
        check_key(found, wanted)
    with pytest.raises(UsageError, match=said):
        run(Crew((ready(found) if found else READY + b"{}", echo)), items(1), wanted)


def test_a_key_is_compared_as_json() -> None:
    """Tuples come back as lists, and what JSON has no form for as its text."""
    check_key({"layers": [1, 2], "file": "a/b"}, {"layers": (1, 2), "file": Path("a/b")})


@pytest.mark.parametrize(
    "error",
    [kind("own words") for kind in vars(errors).values() if isinstance(kind, type)
     and issubclass(kind, FacteditError) and kind is not UnknownName]
    + [UnknownName("method", "rom", ["rome"], "Look.")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_a_worker_refuses_is_raised_as_what_it_was(error: FacteditError) -> None:
    with pytest.raises(FacteditError) as found:
        run(Crew((failed(error), echo)), items(1))
    assert type(found.value) is type(error)
    assert str(found.value) == str(error)


def test_what_a_worker_stumbles_over_is_told_with_what_to_do() -> None:
    class Own(FacteditError):
        """Of another package, which this process need not know."""

    for error, said in ((ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"), (Own("mine"), "mine")):
        with pytest.raises(ResourceError, match=f"A worker failed: {said}. Try it in one process, without --workers"):
            run(Crew((failed(error), echo)), items(1))
    content = FAILED + json.dumps(["Path", "x"]).encode()
    with pytest.raises(ResourceError, match="A worker failed: x"):
        run(Crew((content, echo)), items(1))


@pytest.mark.parametrize("regime", [None, Joint(7), Sequence(3, (3, 6), 9), Sequence(2)])
def test_a_regime_is_read_as_it_was_written(regime: Regime | None) -> None:
    assert regime_of(json.loads(json.dumps(regime_as_json(regime)))) == regime
    assert regime_as_json(Each()) is None, "each fact on its own is said by nothing"


def test_items_are_named_by_their_records_and_say_what_is_missing() -> None:
    request = EditRequest(subject="a", prompt="{}", target_new="b")
    part = [FactRecord(case_id=str(n), request=request) for n in range(10)]
    item = _item(Todo(part, {"rome": frozenset({"3", "1"}), "unedited": frozenset()}))
    assert item.name == "records 0, 1, 2, 3, 4, 5, 6, 7 …"
    assert item.content == {"ids": [str(n) for n in range(10)], "missing": {"rome": ["1", "3"], "unedited": []}}
    assert _named("facts", ["a"]) == "facts a"


def test_a_team_is_of_whole_places_and_knows_where_its_model_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workers in (0, -2):
        with pytest.raises(UsageError, match=f"{workers} workers were asked for: give at least 1"):
            team_of(workers, "gpt2")
    assert team_of(None, "gpt2") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    team = team_of(3, "model", dtype="bfloat16", threads=2)
    assert team == Team(Processes(3), ModelPlace(str(tmp_path / "model"), "bfloat16", "cpu", 2))
    assert team.crew.places == 3
    named = team_of(1, "gpt2")
    assert named is not None
    assert named.model == ModelPlace("gpt2")


def test_a_recipe_is_what_workers_make_the_methods_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files by where they are whoever asks, data sets by name; without a team nothing is computed elsewhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facts.jsonl").write_text("{}")
    recipe = Recipe("facts.jsonl", ("rome",), inputs={"panel": Path("p.jsonl"), "judge": "http://x", "other": 3})
    benchmark: Any = type("B", (), {"name": "counterfact"})
    measures: Any = type("M", (), {"metrics": (), "seed": 5, "chunk": 4})
    records = [FactRecord(case_id="7", request=EditRequest(subject="a", prompt="{}", target_new="b"))]
    assert recipe.runner(records, benchmark, measures, None) is None
    own = Recipe(**{**vars(recipe), "team": team_of(2, "gpt2")})
    runner: Any = own.runner(records, benchmark, measures, Joint(1))
    asked = json.loads(runner.order.written())["asked"]
    assert asked["dataset"] == str(tmp_path / "facts.jsonl")
    assert (asked["inputs"], asked["words"]) == ({"panel": str(tmp_path / "p.jsonl")}, {"judge": "http://x"})
    assert (asked["ids"], asked["regime"], asked["seed"]) == (["7"], {"kind": "joint", "count": 1}, 5)
    assert (asked["trained"], asked["places"], asked["references"]) == (None, None, None)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["steps=20"], {"rome": {"steps": 20}, "ft": {"steps": 20}}),
        (["rome.steps=20", "ft.steps=5"], {"rome": {"steps": 20}, "ft": {"steps": 5}}),
        ([" ft.steps = 0.5 "], {"rome": {}, "ft": {"steps": 0.5}}),
        (['a=["{}", "x. {}"]', "b=null", "c=word", "d=a=b"],
         {m: {"a": ["{}", "x. {}"], "b": None, "c": "word", "d": "a=b"} for m in ("rome", "ft")}),
        (["deep=" + "[" * 100_000], {m: {"deep": "[" * 100_000} for m in ("rome", "ft")}),
    ],
)  # fmt: skip
def test_settings_as_they_are_written(texts: list[str], expected: dict[str, Any]) -> None:
    assert read_settings(texts, ["rome", "ft"]) == expected


@pytest.mark.parametrize("text", ["steps", "=3", "memit.steps=3", "2x=3", "rome.=3", ".steps=3", " ft . steps = 1", ""])
def test_settings_that_are_not_written_so_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"or like rome\.steps=20 for one of the methods asked for \(rome, ft\)"):
        read_settings([text], ["rome", "ft"])


def test_a_setting_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="The setting steps of ft is given twice"):
        read_settings(["steps=1", "ft.steps=2"], ["rome", "ft"])
