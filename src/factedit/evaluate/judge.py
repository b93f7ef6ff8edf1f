"""A judge from outside: any OpenAI-compatible endpoint that the user names, asked whether an answer is right.

One question, two answers (correct, incorrect), temperature 0. A judge that does not answer, or answers with neither of
the two words, is asked again a few times; what then is no judgement counts as none, and does not stop a run. After
several answers in a row did not come the judge counts as gone, and is not waited for again. A reply is waited for so
long as a whole, however slowly it comes. Redirects are not followed. What it replied is kept by the caller.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from factedit.errors import UsageError

PROMPT = (
    "Question: {question}\nCorrect answer: {target}\nGiven answer: {answer}\n\n"
    "Is the given answer correct? Reply with one word: correct or incorrect."
)
KEY = "FACTEDIT_JUDGE_KEY"  # the environment variable of an endpoint's key
TRIES, PAUSE, TIMEOUT, GONE_AFTER = 3, 1.0, 60.0, 5
LARGEST = 1 << 20  # bytes of a reply
KEPT = 500  # characters of a reply that are kept
logger = logging.getLogger("factedit")
NO_REPLY = (OSError, ValueError, LookupError, TypeError, RecursionError)  # of what is no reply, or no JSON
_WORD = re.compile(r"\b(in)?correct\b", re.IGNORECASE)
_TURNED = re.compile(r"(?:\bnot|n['’]t)\b", re.IGNORECASE)  # "not correct", which holds the word of the other answer


class Judgement(NamedTuple):
    """What a judge said.

    Attributes:
        right: None where it said nothing, neither or both of the two words, or one of them with a "not".
        reply: the beginning of its text, or why there is none.
    """

    right: bool | None
    reply: str


@dataclass
class Judge:
    """An endpoint.

    Attributes:
        url: its base, e.g. `http://localhost:8000/v1`.
        model: the model's name there; empty asks for the first that is listed.
        pause: seconds before a second try of one that did not answer, twice as long before a third.
        timeout: seconds that a whole reply may take.

    Raises:
        UsageError: no address of a web server, or one that holds more than that: a name and password, a query.
    """

    url: str
    model: str = ""
    pause: float = PAUSE
    timeout: float = TIMEOUT
    _failed: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is no number, half an IPv6 address
            whole = False
        if not whole:
            raise UsageError(f"The judge {self.url!r} is not an address: write one like http://localhost:8000/v1.")
        if parts.username is not None or parts.query or parts.fragment:  # not quoted: it may hold a secret
            raise UsageError(
                f"The judge's address at {parts.hostname} holds a name and password, or a query. It would stand in the "
                f"results: give scheme, host and path alone, and a key in the environment variable {KEY}."
            )
        self.url = self.url.rstrip("/")

    def name(self) -> str:
        """Return the model's name at the endpoint; the address alone where it does not tell."""
        if not self.model:
            try:
                self.model = str(self._sent("/models", None)["data"][0]["id"])
            except NO_REPLY:
                return self.url
        return f"{self.model} at {self.url}"

    def judge(self, question: str, target: str, answer: str) -> Judgement:
        """Return whether an answer is right.

        Args:
            question: what was asked.
            target: the right answer.
            answer: the one given.
        """
        if self._failed >= GONE_AFTER:
            return Judgement(None, f"not asked: the last {GONE_AFTER} questions were not answered")
        text = PROMPT.format(question=question, target=target, answer=answer.strip() or "(nothing)")
        self.name()
        asked = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": text}],
        }
        said, waited = Judgement(None, ""), 0
        for _ in range(TRIES):
            time.sleep(self.pause * waited)
            try:
                reply = str(self._sent("/chat/completions", asked)["choices"][0]["message"]["content"])
            except NO_REPLY as error:
                said, waited = Judgement(None, f"no reply: {error}"[:KEPT]), waited + 1
                continue
            said, waited = Judgement(_read(reply), reply[:KEPT]), 0
            if said.right is not None:
                break
        self._failed = self._failed + 1 if waited else 0
        if self._failed == GONE_AFTER:
            logger.warning("The judge %s did not answer %d times in a row and is asked no more (%s).",
                           self.url, GONE_AFTER, said.reply)  # fmt: skip
        return said

    def _sent(self, path: str, body: dict[str, Any] | None) -> Any:
        """Return the JSON of a reply that comes whole within the time that it may take.

        Raises:
            OSError, ValueError: there is none.
        """
        return _within(self.timeout, lambda: self._read_from(path, body))

    def _read_from(self, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with _OPENER.open(Request(self.url + path, data, headers), timeout=self.timeout) as answer:
                text = answer.read(LARGEST + 1)
        except URLError as error:
            raise OSError(str(error if isinstance(error, HTTPError) else error.reason)) from error
        except HTTPException as error:  # what comes is no HTTP, or breaks off
            raise OSError(f"{type(error).__name__}: {error}") from error
        if len(text) > LARGEST:
            raise ValueError(f"the reply is longer than {LARGEST} bytes")
        return json.loads(text)


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: the key is for the address that was named."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing, so that the redirect is an error."""


_OPENER = build_opener(_Stay)


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what a call returns, or raise what it raises; one that takes longer is left behind.

    A socket's own timeout starts anew with every byte, so that a reply a byte a minute would never end.

    Raises:
        TimeoutError: it takes longer.
    """
    done: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except Exception as error:  # raised where the call is waited for
            done.put((None, error))

    Thread(target=run, daemon=True).start()
    try:
        value, error = done.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"nothing whole within {seconds:g} seconds") from None
    if error is not None:
        raise error
    return value


def _read(reply: str) -> bool | None:
    """Return what a reply says; None of neither word, of both, or of one that is negated."""
    said = {match[1] is None for match in _WORD.finditer(reply)}
    return said.pop() if len(said) == 1 and not _TURNED.search(reply) else None
