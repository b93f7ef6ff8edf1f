"""The page on a tiny model: its session, its queue, and a client that is let in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from conftest import random_moment, tiny
from factedit.web.app import make_app
from factedit.web.guard import Guard, Keys, loopback_hosts
from factedit.web.jobs import Jobs
from factedit.web.session import Session, given_folder
from processes import wait_until

PORT = 8123
HOST = f"127.0.0.1:{PORT}"
FACT = {"subject": "Paris", "prompt": "{} is in", "target_new": "Seattle", "target_true": "France"}
QUICK = {
    "layer": 1, "steps": 12, "learning_rate": 0.5, "kl": 0.0, "decay": 0.0, "subject_weight": 0.0,
    "context_templates": ["{}", "In. {}"],
}  # fmt: skip


def quick_moments(*_given: Any, **_named: Any) -> Any:
    """A C that is there at once."""
    return lambda model, _layer: random_moment(model.d_mlp)


def tiny_session(folders: tuple[Path, ...] = (), out: Path | None = None, **changes: Any) -> Session:
    """A session with a tiny GPT-2, loaded."""
    session = Session(lambda: (tiny("gpt2", **changes), ()), "tiny", [given_folder(own) for own in folders], out)
    session.open()
    return session


@contextmanager
def page_client(session: Session) -> Iterator[tuple[TestClient, Keys, Jobs]]:
    """A client that has been let in, what let it in, and the queue."""
    jobs, keys = Jobs(), Keys(loopback_hosts(PORT), PORT)
    client = TestClient(Guard(make_app(session, jobs), keys), base_url=f"http://{HOST}", follow_redirects=False)
    try:
        assert client.get("/", params={"token": keys.token}).status_code == 303
        yield client, keys, jobs
    finally:
        jobs.close()


def post(client: TestClient, path: str, value: Any, **headers: str) -> Any:
    """POST JSON as the page does."""
    return client.post(f"/api/{path}", json=value, headers={"origin": f"http://{HOST}", **headers})


def finished(client: TestClient, path: str, value: Any) -> dict[str, Any]:
    """What a job gave, once it is at its end."""
    answer = post(client, path, value)
    assert answer.status_code == 200, answer.text
    jobs: list[dict[str, Any]] = []

    def ended() -> bool:
        jobs.append(client.get(f"/api/jobs/{answer.json()['job']}").json())
        return jobs[-1]["state"] not in ("queued", "running")

    wait_until(ended, f"{path} does not end")
    return jobs[-1]
