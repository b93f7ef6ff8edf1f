"""A judge from outside, on a server of our own: what counts, what is asked again, and what is given up."""

from __future__ import annotations

import contextlib
import json
import math
import socket
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from conftest import tiny
from factedit.errors import UsageError
from factedit.evaluate import judge as module
from factedit.evaluate.benchmarks.table import find_benchmark
from factedit.evaluate.judge import Judge
from factedit.evaluate.measures import Measures
from factedit.evaluate.measuring import AS_IT_IS, measure
from factedit.evaluate.metric import Answered
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.judged import Judged
from factedit.evaluate.writing import Writing
from factedit.facts import EditRequest, FactRecord
from factedit.work.evaluate import metrics_for
from factedit.work.recipe import Recipe
from processes import PATIENCE

RECORD = FactRecord(case_id="1", request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome"))


class Server:
    """Answers what it is told to, in turn; a number is a status."""

    def __init__(self) -> None:
        self.replies: list[str | int] = []
        self.gets = 0
        self.seen: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.gets += 1
                self._send(json.dumps({"data": [{"id": "tiny-judge"}]}))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append(json.loads(body) | {"key": self.headers.get("Authorization")})
                reply = outer.replies.pop(0)
                if isinstance(reply, int):
                    self.send_error(reply)
                elif reply.startswith("{"):
                    self._send(reply)
                else:
                    self._send(json.dumps({"choices": [{"message": {"content": reply}}]}))

            def _send(self, text: str) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("reply", "right"),
    [("correct", True), ("Incorrect.", False), ("It is CORRECT", True), ("correct or incorrect", None),
     ("maybe", None), ("", None), ("uncorrected", None), ("not correct", None)],
)  # fmt: skip
def test_only_one_of_two_words_is_a_judgement_and_nonsense_is_asked_again(
    server: Server, reply: str, right: bool | None
) -> None:
    server.replies = [reply] * (1 if right is not None else module.TRIES)
    assert Judge(server.url, pause=0).judge("q", "Rome", " roma") == (right, reply)
    assert not server.replies, "what is no judgement is asked for so often"
    asked = server.seen[0]
    assert (asked["temperature"], asked["model"], asked["key"]) == (0, "tiny-judge", None)
    assert "Question: q\nCorrect answer: Rome\nGiven answer: roma\n" in asked["messages"][0]["content"]


def test_a_judge_is_asked_again_and_then_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FACTEDIT_JUDGE_KEY", "k")
    own = Judge(server.url, "named", pause=0)
    server.replies = [500, "{}", "correct"]
    assert own.judge("q", "a", "b").right is True
    assert [asked["key"] for asked in server.seen] == ["Bearer k"] * 3
    server.replies = [500] * 3 * module.GONE_AFTER
    for _ in range(module.GONE_AFTER):
        right, why = own.judge("q", "a", "b")
        assert right is None
        assert why.startswith("no reply: ")
    assert own.judge("q", "a", "b").reply == "not asked: the last 5 questions were not answered"
    [told] = [record.message for record in caplog.records]
    assert told.startswith(f"The judge {server.url} did not answer 5 times in a row and is asked no more (no reply: ")
    assert not server.replies


def test_nonsense_is_no_silence(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that talks nonsense is not gone, is not waited for, and may come to its senses; a failure between is."""
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    judge = Judge(server.url, "named", pause=1)
    server.replies = ["hm", "", "incorrect"]
    assert judge.judge("q", "a", "b") == (False, "incorrect")
    server.replies = ["hm"] * module.TRIES * (module.GONE_AFTER + 1)
    assert {judge.judge("q", "a", "b") for _ in range(module.GONE_AFTER + 1)} == {(None, "hm")}
    assert not any(waits)
    server.replies = ["hm", 500, "correct"]
    assert judge.judge("q", "a", "b").right is True
    assert waits[-3:] == [0, 0, 1], "after one that did not come"


class Slowly:
    """A server that sends a byte of its reply every now and then, and never its end."""

    def __init__(self) -> None:
        self._socket, self._over = socket.create_server(("127.0.0.1", 0)), Event()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                talk, _ = self._socket.accept()
            except OSError:
                return
            Thread(target=self._trickle, args=(talk,), daemon=True).start()

    def _trickle(self, talk: socket.socket) -> None:
        with talk, contextlib.suppress(OSError):
            talk.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while not self._over.wait(0.01):
                talk.sendall(b" ")

    def stop(self) -> None:
        self._over.set()
        self._socket.close()


def test_a_reply_that_never_ends_is_not_waited_for_longer_than_one_may_take() -> None:
    """Every byte comes in time; the whole does not."""
    slow = Slowly()
    try:
        judge = Judge(slow.url, "named", pause=0, timeout=0.15)
        right, why = judge.judge("q", "a", "b")
    finally:
        slow.stop()
    assert right is None
    assert why.startswith("no reply: ")


def test_a_huge_reply_is_none_and_of_a_long_one_the_beginning_is_kept(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 2000)
    judge = Judge(server.url, "named", pause=0)
    server.replies = ["x" * 3000] * module.TRIES
    assert judge.judge("q", "a", "b") == (None, "no reply: the reply is longer than 2000 bytes")
    server.replies = [" " * 900 + "correct" + " " * 900]
    assert judge.judge("q", "a", "b") == (True, " " * module.KEPT)


@pytest.mark.parametrize("url", ["http://me:secret@x/v1", "https://x/v1?api-key=secret", "http://x/v1#secret"])
def test_an_address_with_a_secret_in_it_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(UsageError, match="FACTEDIT_JUDGE_KEY") as caught:
        Judge(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://x:port/v1", "http://[::1/v1", "http://:80/v1"])
def test_an_address_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        Judge(url)


def test_a_run_goes_on_without_its_judge_and_says_why(server: Server) -> None:
    """Nobody answers: every record keeps the reason, and the other metrics have their scores."""
    judge = Judge("http://127.0.0.1:9", "named", pause=0, timeout=0.2)
    records = [RECORD, replace(RECORD, case_id="2")]
    [found] = measure(tiny("gpt2"), records, [Judged(judge, 3), Free(3)], [AS_IT_IS], seed=0)
    for one in found:
        assert one.tests["judged_bare"] == one.tests["judged_qa"] == (0, 1)
        assert one.tests["free"] == (1, 0)
        assert not one.left_out
        assert all(reply.startswith(("no reply: ", "not asked: ")) for _, reply in one.texts["judge"].values())


def test_nobody_there_is_no_error() -> None:
    own = Judge("http://127.0.0.1:9", pause=0, timeout=0.2)
    assert own.judge("q", "a", "b").right is None
    assert own.name() == "http://127.0.0.1:9"
    with pytest.raises(UsageError, match="is not an address"):
        Judge("localhost:8000")


def test_what_is_no_http_or_points_elsewhere_is_no_reply(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nonsense does not stop a run, and the key goes to nobody but the address that was named."""
    monkeypatch.setenv("FACTEDIT_JUDGE_KEY", "secret")
    with socket.create_server(("127.0.0.1", 0)) as other:
        seen: list[bytes] = []

        def answer() -> None:
            for text in (b"nonsense\r\n\r\n", f"HTTP/1.1 302 Found\r\nLocation: {server.url}/models\r\n\r\n".encode()):
                talk, _ = other.accept()
                with talk:
                    seen.append(talk.recv(1 << 16))
                    talk.sendall(text)

        Thread(target=answer, daemon=True).start()
        monkeypatch.setattr(module, "TRIES", 1)
        own = Judge(f"http://127.0.0.1:{other.getsockname()[1]}", "named", pause=0, timeout=PATIENCE)
        for said in ("no reply: BadStatusLine", "no reply: "):
            right, why = own.judge("q", "a", "b")
            assert right is None
            assert why.startswith(said)
        assert len(seen) == 2
        assert "302" in why
    assert server.gets == 0, "where it points to is not asked"


def test_the_metric_by_hand(server: Server) -> None:
    """Bare: correct; as a question: nonsense, which is not executed. Only the first sentence is judged."""
    made = Judged.for_records([RECORD], judge=Judge(server.url, pause=0))
    assert made is not None
    server.replies = ["correct", *["who knows"] * module.TRIES]
    written = [Writing(" Rome. And more", (), 0), Writing("", (), 0)]
    found = made.scored(Answered(RECORD, written))
    assert found.scores["judged_bare"] == 100
    assert math.isnan(found.scores["judged_qa"])
    assert found.tests == {"judged_bare": (1, 0), "judged_qa": (0, 1)}
    assert found.texts["judge"] == {"judged_bare": [" Rome", "correct"], "judged_qa": ["", "who knows"]}
    assert "Given answer: Rome\n" in server.seen[0]["messages"][0]["content"]
    assert "Given answer: (nothing)\n" in server.seen[1]["messages"][0]["content"]
    assert made.describe()["judge"] == f"tiny-judge at {server.url}"


def test_without_a_judge_it_is_left_out_and_said() -> None:
    class Data:
        name, records = "x", (RECORD,)

    made, missing = metrics_for(["judge"], Data)  # type: ignore[arg-type]
    assert not made
    assert missing["judge"] == "judge is left out: no judge was given (--judge URL)."


def test_workers_are_told_the_judges_address_as_it_is_and_files_by_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Team:
        def evaluating(self, asked: dict[str, Any]) -> dict[str, Any]:
            return asked

    monkeypatch.chdir(tmp_path)
    inputs = {"judge": "http://127.0.0.1:9/v1", "panel": Path("p.jsonl"), "abilities": None}
    recipe = Recipe("worldfacts", ("ft",), inputs=inputs, team=Team())  # type: ignore[arg-type]
    asked: Any = recipe.runner([RECORD], find_benchmark("counterfact"), Measures(), None)
    assert (asked["words"], asked["inputs"]) == (
        {"judge": "http://127.0.0.1:9/v1"}, {"panel": str(tmp_path / "p.jsonl")},
    )  # fmt: skip
