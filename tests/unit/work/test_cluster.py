"""A Ray cluster of two nodes: the same bits as one process, also when a worker is killed, a node goes or one comes."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
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
TIMES = ("seconds_per_edit", "peak_memory_mb")


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
    write_moment(folder / "c.safetensors", SecondMoment(torch.eye(128)))
    return folder


def stored(place: Path, out: Path, team: Team | None) -> dict[Any, Any]:
    """What an evaluation stores, but for times and memory."""
    evaluate_dataset(
        lambda: load(str(place / "model")), str(place / "counterfact.json"), out, methods="ft,ft-l", batch=1,
        settings=["steps=2"], metrics=(), split="all", second_moment=place / "c.safetensors", team=team,
    )  # fmt: skip
    with sqlite3.connect(out / STORE) as store:
        found = {(run, case): json.loads(row) for run, case, row in store.execute("SELECT * FROM cases")}
    return {key: {n: v for n, v in row.items() if n not in TIMES} for key, row in found.items()}


def team(place: Path, cluster: Any) -> Team:
    found = team_of(None, str(place / "model"), cluster=cluster.address)
    assert found is not None
    return found


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra: cluster)")
@pytest.mark.skipif(os.environ.get("FACTEDIT_TRIALS") != "all", reason="starts a cluster: set FACTEDIT_TRIALS=all")
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
