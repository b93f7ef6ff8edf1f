"""The page against the command line on one model: times, paired in one run; memory; how soon it answers meanwhile.

    python benchmarks/page.py [--model gemma3-270m] [--repeats 3] [--threads 1] --out FILE.json

Two processes hold the model: the page's server, asked over HTTP, and one that calls what the commands call. Each of a
trace of one kind with ten samples, an edit and its proof is done by both in turn; what loading takes is left out of
both. Meanwhile a second client asks `/api/state` ten times a second, and the time of every answer is kept. The peak of
the server's memory is read after all of it: one session with an edit. With Chromium and playwright there: the time to
the first view with the embedded example, before the model is loaded. Nothing is asserted.
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
        self.address = self.process.stdout.readline().strip()
        self.seconds_to_address = time.perf_counter() - self.began
        parts = urlsplit(self.address)
        self.host = parts.netloc
        answer = self._ask("GET", f"/?{parts.query}")
        self.cookie = (answer[1].get("set-cookie") or "").split(";")[0]

    def _ask(self, method: str, path: str, value: Any = None) -> tuple[Any, dict[str, str]]:
        with contextlib.closing(HTTPConnection(self.host, timeout=600)) as talk:
            headers = {"cookie": getattr(self, "cookie", ""), "origin": f"http://{self.host}"}
            body = None if value is None else json.dumps(value)
            talk.request(method, path, body, {**headers, "content-type": "application/json"})
            answer = talk.getresponse()
            text, own = answer.read(), {key.lower(): one for key, one in answer.getheaders()}
            return (json.loads(text) if text.startswith((b"{", b"[")) else None), own

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
            wait = min(0.4, 1.4 * wait)
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
    """The same three, asked of the page; an edit that is there already is forgotten first."""
    identity = [""]

    def edit() -> Any:
        if identity[0]:
            page.do("switch", {"edit": identity[0], "on": False})
            page.do("forget", {"edit": identity[0]})
        found = page.do("edit", FACT)
        identity[0] = found["edit"]
        return found["after"]["target_new"]

    return {
        "trace": lambda: page.do("trace", TRACE)["corrupted"],
        "edit": edit,
        "prove": lambda: page.do("prove", {"edit": identity[0]})["rows"][0]["new"][1],
    }


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


def first_paint(page: Page) -> dict[str, float] | None:
    """Seconds from opening the address to the first paint and to the table of the embedded example."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        window = browser.new_page()
        began = time.perf_counter()
        window.goto(page.address)
        window.locator("table.top tbody tr").first.wait_for()
        shown = time.perf_counter() - began
        paint = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
        first = window.evaluate(paint)
        note = window.locator(".note").first.inner_text() if window.locator(".note").count() else ""
        browser.close()
    return {"first_contentful_paint_s": first / 1000, "example_shown_s": shown, "stored": float("stored" in note)}


def measure(model: str, repeats: int, threads: int, names: list[str]) -> dict[str, Any]:
    """Measure, and print each row as it comes."""
    page = Page(model, threads)
    try:
        found: dict[str, Any] = {"model": model, "threads": threads, "seconds_to_address": page.seconds_to_address}
        found["first_view"] = first_paint(page)
        while page.get("/api/state")["model"] is None:
            time.sleep(0.2)
        found["seconds_to_model"] = time.perf_counter() - page.began
        found["loaded_bytes"] = page.peak_bytes()
        jobs, other, answers = page_jobs(page), command_line(model, threads), list[float]()
        found["jobs"] = []
        for name in names:
            jobs[name](), other.do(name)  # warm: what is computed once lies in the cache
            pairs = []
            for _ in range(repeats):
                with asked_meanwhile(page, answers):
                    began = time.perf_counter()
                    number = jobs[name]()
                    own = time.perf_counter() - began
                seconds, same = other.do(name)
                assert number == same, f"{name}: the page says {number}, the command {same}"
                pairs.append((own, seconds))
            ratios = sorted(a / b for a, b in pairs)
            row = {"job": name, "page_s": statistics.median(a for a, _ in pairs), "command_s":
                   statistics.median(b for _, b in pairs), "ratio": statistics.median(ratios),
                   "ratio_range": [ratios[0], ratios[-1]], "pairs": len(pairs)}  # fmt: skip
            found["jobs"].append(row)
            print(json.dumps(row), flush=True)
        other.end()
        answers.sort()
        found["state_meanwhile"] = {
            "answers": len(answers), "median_s": statistics.median(answers), "p99_s":
            answers[int(0.99 * (len(answers) - 1))], "slowest_s": answers[-1],
        }  # fmt: skip
        found |= memory(page, model)
    finally:
        page.close()
    return found


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
    found = measure(asked.model, asked.repeats, asked.threads, asked.jobs.split(","))
    print(json.dumps({key: own for key, own in found.items() if key != "jobs"}, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
