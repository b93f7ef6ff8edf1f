"""A Ray cluster of two nodes: the same bits as one process, also when a worker is killed, a node goes or one comes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from factedit.errors import ResourceError, UsageError
from factedit.models.load import load
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from factedit.work import on_ray
from factedit.work.crew import WorkItem
from factedit.work.evaluate import STORE, evaluate_dataset
from factedit.work.team import Team, team_of
from tiny_folder import save
from tiny_records import counterfact_rows

SUBJECTS = ("Paris", "Seattle", "France", "LeBron", "Zürich", "Danielle")
MANY = SUBJECTS * 5
TIMES = ("seconds_per_edit", "peak_memory_mb")


def trial(test: Any) -> Any:
    """A test that starts a cluster, which takes minutes."""
    asked = os.environ.get("FACTEDIT_TRIALS") == "all"
    test = pytest.mark.skipif(not asked, reason="starts a cluster: set FACTEDIT_TRIALS=all")(test)
    return pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra: cluster)")(test)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so Ray reads it; else a busy machine never gets to them
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.second = nodes.add_node(num_cpus=1)  # type: ignore[attr-defined]
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    save(folder / "model")
    (folder / "counterfact.json").write_text(json.dumps(counterfact_rows(SUBJECTS)))
    (folder / "many.json").write_text(json.dumps(counterfact_rows(MANY)))
    write_moment(folder / "c.safetensors", SecondMoment(torch.eye(128)))
    return folder


def stored(place: Path, out: Path, team: Team | None, data: str = "counterfact.json") -> dict[Any, Any]:
    """What an evaluation stores, but for times and memory."""
    evaluate_dataset(
        lambda: load(str(place / "model")), str(place / data), out, methods="ft,ft-l", batch=1,
        settings=["steps=2"], metrics=(), split="all", second_moment=place / "c.safetensors", team=team,
    )  # fmt: skip
    return rows(out)


def rows(out: Path) -> dict[Any, Any]:
    """What is stored in a folder, if anything is."""
    try:
        with sqlite3.connect(out / STORE) as store:
            found = {(run, case): json.loads(row) for run, case, row in store.execute("SELECT * FROM cases")}
    except sqlite3.OperationalError:
        return {}
    return {key: {n: v for n, v in row.items() if n not in TIMES} for key, row in found.items()}


def team(place: Path, cluster: Any) -> Team:
    found = team_of(None, str(place / "model"), cluster=cluster.address)
    assert found is not None
    return found


@trial
def test_two_nodes_a_killed_worker_and_a_node_that_goes(
    cluster: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    alone = stored(place, tmp_path / "alone", None)
    workers = team(place, cluster)
    assert workers.crew.places == 2
    assert stored(place, tmp_path / "two", workers) == alone
    given: list[Any] = []
    give = on_ray.Actor.give

    def disturbed(self: on_ray.Actor, item: WorkItem) -> None:
        give(self, item)
        given.append(item.content["ids"])
        if len(given) == 2:
            ray.kill(self.actor)
        if len(given) == 4:
            cluster.remove_node(cluster.second)

    monkeypatch.setattr(on_ray.Actor, "give", disturbed)
    assert stored(place, tmp_path / "disturbed", workers) == alone
    assert len(given) > len(SUBJECTS), "something was done again"


@trial
def test_a_killed_driver_goes_on_and_a_node_that_comes_late_is_used(
    cluster: Any, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is the command itself, killed in the middle; whoever goes on with it finds another node."""
    import ray

    alone = stored(place, tmp_path / "alone", None, "many.json")
    command = [
        "evaluate", place / "model", "--dataset", place / "many.json", "--method", "ft,ft-l", "--set", "steps=2",
        "--batch", 1, "--split", "all", "--no-free", "--second-moment", place / "c.safetensors",
        "--out", tmp_path / "on", "--cluster", cluster.address, "-q",
    ]  # fmt: skip
    driver = subprocess.Popen([sys.executable, "-m", "factedit", *map(str, command)])
    until = time.monotonic() + 120
    while not rows(tmp_path / "on"):
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    kept = rows(tmp_path / "on")
    assert 0 < len(kept) < len(alone), "it was killed before it was through"
    workers = team(place, cluster)
    there, hired = workers.crew.places, []
    given: list[on_ray.Actor] = []
    give = on_ray.Actor.give
    hire = on_ray.Rays.hire

    def hired_by(self: on_ray.Rays, order: Any) -> on_ray.Actor:
        hired.append(hire(self, order))
        return hired[-1]

    def joined(self: on_ray.Actor, item: WorkItem) -> None:
        given.append(self)
        if len(given) == 2:
            cluster.add_node(num_cpus=1)
        if len(given) == 4:  # none is left by the time that the new one's worker is ready, else
            ray.wait([worker.answering for worker in hired if worker not in given], timeout=60)
        give(self, item)

    monkeypatch.setattr(on_ray.Rays, "hire", hired_by)
    monkeypatch.setattr(on_ray.Actor, "give", joined)
    assert stored(place, tmp_path / "on", workers, "many.json") == alone
    assert workers.crew.places == there + 1
    assert len(set(given)) == there + 1, "the late one was given something"
    assert len(given) < len(MANY), "what was stored is not computed again"


def test_what_is_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        @staticmethod
        def init(**_how: Any) -> None:
            raise ConnectionError("nobody listens")

    monkeypatch.setitem(__import__("sys").modules, "ray", Elsewhere)
    with pytest.raises(ResourceError, match=r"The cluster at 'auto' cannot be reached \(nobody listens"):
        team_of(None, "gpt2", cluster="auto")
    monkeypatch.setattr(Elsewhere, "init", lambda **_how: pytest.fail("Ray would try for minutes"))
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        for address in (f"127.0.0.1:{taken.getsockname()[1]}", "127.0.0.1:99999"):
            with pytest.raises(ResourceError, match=f"The cluster at '{address}' cannot be reached"):
                team_of(None, "gpt2", cluster=address)
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match="--cluster needs Ray"):
        team_of(2, "gpt2", cluster="auto")
