"""The page against the command line on one model: times, paired in one run; memory; how soon it answers meanwhile.

    python benchmarks/page.py [--model gemma3-270m] [--repeats 3] [--threads 1] --out FILE.json

Two processes hold the model: the page's server, asked over HTTP as the page asks it, and one that calls what the
commands call. Each of a trace of one kind with ten samples, an edit and its proof is done by both in turn, by the clock
and in processor time; what loading takes, and taking an edit back, is left out of both. Then each is done once more by
the page alone while a second client asks `/api/state` ten times a second, and the time of every answer is kept. The
peak of the server's memory is read after all of it: one session with an edit. With Chromium and playwright there: the
time to the first view with the embedded example, from the moment the address is told, and once more while the model is
loaded. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from worker import Worker, serve

FACT = {
    "subject": "The Space Needle", "prompt": "{} is located in the city of", "target_new": "Paris",
    "target_true": "Seattle",
}  # fmt: skip
TRACE = {"prompt": "The Space Needle is in downtown", "subject": "The Space Needle", "kinds": "mlp", "samples": 10}


class Page:
    """A server in a process of its own, and a client that it let in."""

    def __init__(self, model: str, threads: int) -> None:
        command = [sys.executable, "-m", "factedit", "serve", model, "--no-open", "--port", "0"]
        self.began = time.perf_counter()
        self.process = subprocess.Popen([*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip() or sys.exit("there is no server; its error is above")
        self.seconds_to_address = time.perf_counter() - self.began
        self.host = urlsplit(self.address).netloc
        self._cookie = ""

    def let_in(self) -> None:
        """Follow the launch address, as a browser does."""
        headers = self._ask("GET", f"/?{urlsplit(self.address).query}")[1]
        self._cookie = headers["set-cookie"].split(";")[0]

    def _ask(self, method: str, path: str, value: Any = None) -> tuple[Any, dict[str, str]]:
        headers = {"cookie": self._cookie, "origin": f"http://{self.host}", "content-type": "application/json"}
        with contextlib.closing(HTTPConnection(self.host, timeout=600)) as talk:
            talk.request(method, path, None if value is None else json.dumps(value), headers)
            answer = talk.getresponse()
            text, told = answer.read(), {name.lower(): content for name, content in answer.getheaders()}
        return (json.loads(text) if text.startswith((b"{", b"[")) else None), told

    def get(self, path: str) -> Any:
        """What is told at an address."""
        return self._ask("GET", path)[0]

    def do(self, path: str, value: Any) -> Any:
        """Run a job to its end, as the page does, and return its result."""
        begun = self._ask("POST", f"/api/{path}", value)[0]
        if "job" not in begun:
            return begun
        wait = 0.06
        while (job := self.get(f"/api/jobs/{begun['job']}"))["state"] in ("queued", "running"):
            time.sleep(wait)
            left = job["seconds_left"]
            wait = min(1.4 * wait, 0.4 if left is None else min(1.0, max(0.06, left / 3)))  # as static/talk.js
        if job["state"] != "done":
            sys.exit(f"{path}: {job['error']}")
        return job["result"]

    def peak_bytes(self) -> int:
        """The most memory the server ever held."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    def close(self) -> None:
        """End the server."""
        self.process.terminate()
        self.process.wait(60)


def command_jobs(model_name: str, threads: int) -> dict[str, Callable[[], Any]]:
    """What the commands `trace`, `edit` and `prove` call, on a model that is loaded."""
    from factedit.edit.method_table import make_method
    from factedit.facts import EditRequest
    from factedit.work.edit import describe, edit_facts
    from factedit.work.inputs import load_model, moments_from
    from factedit.work.proof import prove, record_of
    from factedit.work.trace import trace_prompt

    model, request, made = load_model(model_name, threads=threads), EditRequest(**FACT), list[Any]()

    def edit() -> Any:
        made[:] = edit_facts(model, make_method("rome", model, moments_from()), [request])
        return describe(made[0])["after"]["target_new"]

    def proof() -> Any:
        return prove(model, record_of(request), [made[0].edit]).as_json()["rows"][0]["new"][1]

    return {"trace": lambda: trace_prompt(model, **TRACE).corrupted, "edit": edit, "prove": proof}


def page_jobs(page: Page) -> dict[str, Callable[[], Any]]:
    """The same three, asked of the page."""
    identity = [""]

    def edit() -> Any:
        made = page.do("edit", FACT)
        identity[0] = made["edit"]
        return made["after"]["target_new"]

    return {
        "trace": lambda: page.do("trace", TRACE)["corrupted"],
        "edit": edit,
        "prove": lambda: page.do("prove", {"edit": identity[0]})["rows"][0]["new"][1],
    }


def take_back(page: Page) -> None:
    """Forget all edits, so that the next one is the first."""
    for row in page.get("/api/state")["ledger"]:
        page.do("switch", {"edit": row["edit"], "on": False})
        page.do("forget", {"edit": row["edit"]})


def command_line(model: str, threads: int) -> Worker:
    """The commands' functions in a process of their own."""
    program = [sys.executable, str(Path(__file__).resolve()), "--worker", "--model", model, "--threads", str(threads)]
    return Worker(program)


@contextlib.contextmanager
def asked_meanwhile(page: Page, answers: list[float]) -> Iterator[None]:
    """Ask the page's state ten times a second, and keep how long each answer took."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.1):
            began = time.perf_counter()
            page.get("/api/state")
            answers.append(time.perf_counter() - began)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser, started before anything is measured; None where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        yield None
        return
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        browser.new_page().close()
        yield browser
        browser.close()


def first_view(browser: Any, page: Page) -> dict[str, Any] | None:
    """Seconds from opening the address to the first paint and to the table of the embedded example."""
    if browser is None:
        return None
    window, began = browser.new_context().new_page(), time.perf_counter()
    window.goto(page.address, wait_until="commit")
    window.locator("table.top tbody tr").first.wait_for()
    shown = time.perf_counter() - began
    first = window.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime / 1000 || null")
    stored = any("stored" in text for text in window.locator(".note").all_inner_texts())
    window.context.close()
    return {"first_contentful_paint_s": first, "example_shown_s": shown, "stored_example": stored}


def processor_seconds(pid: int) -> float:
    """Processor time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(pid: int, job: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a job gives, its seconds by the clock, and those that the process `pid` computed meanwhile."""
    computed, began = processor_seconds(pid), time.perf_counter()
    number = job()
    return number, time.perf_counter() - began, processor_seconds(pid) - computed


def ratios(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians of both, and of their ratios with the range of these."""
    each = sorted(a / b for a, b in pairs)
    return {
        "page_s": statistics.median(a for a, _ in pairs), "command_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(each), "ratio_range": [each[0], each[-1]],
    }  # fmt: skip


def compared(page: Page, other: Worker, name: str, job: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """A job of the page against the same of the commands, in turn, with nobody else asking."""
    clock, processor = list[tuple[float, float]](), list[tuple[float, float]]()
    for n in range(repeats + 1):
        if name == "edit":
            take_back(page)
        number, *here = timed(page.process.pid, job)
        (_, same, _), *there = timed(other.pid, lambda: other.do(name))
        assert number == same, f"{name}: the page says {number}, the command {same}"
        if n:  # the first warms: what is computed once lies in the cache
            clock.append((here[0], there[0]))
            processor.append((here[1], there[1]))
    return {"job": name, "pairs": repeats, "clock": ratios(clock), "processor": ratios(processor)}


def answered_meanwhile(page: Page, jobs: dict[str, Callable[[], Any]], names: list[str]) -> dict[str, Any]:
    """How soon the state is told to a second client while the page's jobs run, once each."""
    answers = list[float]()
    with asked_meanwhile(page, answers):
        for name in names:
            jobs[name]()
    answers.sort()
    middle, late = statistics.median(answers), answers[int(0.99 * (len(answers) - 1))]
    return {"answers": len(answers), "median_s": middle, "p99_s": late, "slowest_s": answers[-1]}


def measure(model: str, repeats: int, threads: int, names: list[str]) -> dict[str, Any]:
    """Measure, and print each row as it comes."""
    with chromium() as browser, contextlib.closing(Page(model, threads)) as page:
        result: dict[str, Any] = {"model": model, "threads": threads, "seconds_to_address": page.seconds_to_address}
        result["first_view"] = first_view(browser, page)
        result["view_while_it_loads"] = first_view(browser, page)
        page.let_in()
        while page.get("/api/state")["model"] is None:
            time.sleep(0.2)
        result["seconds_to_model"] = time.perf_counter() - page.began
        result["loaded_bytes"] = page.peak_bytes()
        jobs, other = page_jobs(page), command_line(model, threads)
        result["jobs"] = []
        for name in names:
            result["jobs"].append(compared(page, other, name, jobs[name], repeats))
            print(json.dumps(result["jobs"][-1]), flush=True)
        other.end()
        take_back(page)
        result["state_meanwhile"] = answered_meanwhile(page, jobs, names)
        return result | memory(page, model)


def memory(page: Page, model: str) -> dict[str, Any]:
    """The server's peak against the bytes of the weights."""
    from factedit.models.load import load

    weights = sum({t.data_ptr(): t.nbytes for t in load(model).lm.state_dict().values()}.values())
    return {"weights_bytes": weights, "peak_bytes": page.peak_bytes(), "peak_over_weights": page.peak_bytes() / weights}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", default="trace,edit,prove")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        serve({name: (1, job) for name, job in command_jobs(asked.model, asked.threads).items()})
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(asked.threads))
    result = measure(asked.model, asked.repeats, asked.threads, asked.jobs.split(","))
    print(json.dumps({name: value for name, value in result.items() if name != "jobs"}, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
