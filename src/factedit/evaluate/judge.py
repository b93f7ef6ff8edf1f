"""A judge from outside: any OpenAI-compatible endpoint that the user names, asked whether an answer is right.

One question, two answers (correct, incorrect), temperature 0. A judge that does not answer is asked again a few times,
and its nonsense counts as no judgement; neither stops a run. After several answers in a row did not come the judge
counts as gone, and is not waited for again. Redirects are not followed. What it replied is kept by the caller.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass, field
from http.client import HTTPException
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
NO_REPLY = (OSError, ValueError, LookupError, TypeError, RecursionError)  # of what is no reply, or no JSON
_WORD = re.compile(r"\b(in)?correct\b", re.IGNORECASE)


class Judgement(NamedTuple):
    """What a judge said.

    Attributes:
        right: None where it said nothing, or neither or both of the two words.
        reply: its text, or why there is none.
    """

    right: bool | None
    reply: str


@dataclass
class Judge:
    """An endpoint.

    Attributes:
        url: its base, e.g. `http://localhost:8000/v1`.
        model: the model's name there; empty asks for the first that is listed.
        pause: seconds before a second try, twice as long before a third.
        timeout: seconds that a reply may take.

    Raises:
        UsageError: no address of a web server.
    """

    url: str
    model: str = ""
    pause: float = PAUSE
    timeout: float = TIMEOUT
    _failed: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise UsageError(f"The judge {self.url!r} is not an address: write one like http://localhost:8000/v1.")
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
        why = ""
        for attempt in range(TRIES):
            time.sleep(self.pause * attempt)
            try:
                reply = str(self._sent("/chat/completions", asked)["choices"][0]["message"]["content"])
            except NO_REPLY as error:
                why = f"no reply: {error}"
                continue
            self._failed = 0
            return Judgement(_read(reply), reply)
        self._failed += 1
        return Judgement(None, why)

    def _sent(self, path: str, body: dict[str, Any] | None) -> Any:
        """Return the JSON of a reply.

        Raises:
            OSError, ValueError: there is none.
        """
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with _OPENER.open(Request(self.url + path, data, headers), timeout=self.timeout) as answer:
                return json.loads(answer.read(LARGEST))
        except URLError as error:
            raise OSError(str(error if isinstance(error, HTTPError) else error.reason)) from error
        except HTTPException as error:  # what comes is no HTTP, or breaks off
            raise OSError(f"{type(error).__name__}: {error}") from error


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: the key is for the address that was named."""

    def redirect_request(self, *_: Any) -> None:
        """Return nothing, so that the redirect is an error."""


_OPENER = build_opener(_Stay)


def _read(reply: str) -> bool | None:
    """Return what a reply says; None of neither word, or of both."""
    said = {match[1] is None for match in _WORD.finditer(reply)}
    return said.pop() if len(said) == 1 else None
