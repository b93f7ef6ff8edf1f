"""kill −9 while a streamed command reads its layers: the same command again gives what it gives uninterrupted."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file

from conftest import random_moment
from factedit.engine.resume import next_token
from factedit.files.file_on_disk import FileOnDisk
from factedit.models.load import load
from factedit.stats.store import write_moment
from processes import end, start
from run_command import ok
from tiny_folder import save
from tiny_records import counterfact_rows

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals")
SUBJECTS = ("Paris", "Seattle", "France", "LeBron")
TIMES = ("seconds_per_edit", "peak_memory_mb", "seconds")


class Streamed(NamedTuple):
    """A command.

    Attributes:
        words: after the command's name and the model, with the folder that it writes to.
        result: what it left there.
        resumes: what was done before it was killed is not done again.
    """

    words: Callable[[Path, Path], list[object]]
    result: Callable[[Path], Any]
    resumes: bool = True


def json_of(out: Path) -> Any:
    return json.loads((out / "found.json").read_text())["scores"]


def tensors_of(out: Path) -> dict[str, list[float]]:
    [path] = (path for path in out.rglob("*.safetensors") if "unfinished" not in path.name)
    return {name: tensor.flatten().tolist() for name, tensor in load_file(path).items()}


def rows_of(out: Path) -> dict[tuple[str, str], Any]:
    with sqlite3.connect(out / "results.sqlite") as store:
        found = {(run, case): json.loads(row) for run, case, row in store.execute("SELECT * FROM cases")}
    return {key: {name: v for name, v in row.items() if name not in TIMES} for key, row in found.items()}


COMMANDS = {
    "trace": Streamed(
        lambda data, out: ["Paris is in France", "--subject", "Paris", "--noise", "0.5", "--samples", "2",
                           "--kind", "hidden", "--json", out / "found.json"],
        json_of, resumes=False,
    ),
    "trace --facts": Streamed(
        lambda data, out: ["--facts", data / "known.json", "--noise", "0.5", "--samples", "2", "--kind", "hidden",
                           "--json", out / "found.json", "--out", out / "traces"],
        lambda out: json.loads((out / "found.json").read_text()),
    ),
    "edit": Streamed(
        lambda data, out: ["--subject", "Paris", "--prompt", "{} is in", "--target", "Seattle", "--layer", "1",
                           "--steps", "3", "--second-moment", data / "c.safetensors", "--contexts", data / "two.json",
                           "--out", out / "edit"],
        tensors_of, resumes=False,
    ),
    "evaluate": Streamed(
        lambda data, out: ["--dataset", data / "facts.json", "--method", "ft", "--split", "all", "--batch", "1",
                           "--no-free", "--set", "steps=2", "--out", out],
        rows_of,
    ),
    "stats": Streamed(
        lambda data, out: ["--layers", "1", "--corpus", data / "text.txt", "--tokens", "600"], tensors_of
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, records, known facts, a text, C, contexts."""
    place = tmp_path_factory.mktemp("streamed")
    model = load(str(save(place / "model")))
    (place / "facts.json").write_text(json.dumps(counterfact_rows(SUBJECTS)))
    known = []
    for n, subject in enumerate(SUBJECTS * 3):
        prompt = f"{subject} is number {n} ("
        answer = model.tokenizer.decode([next_token(model, model.tokenizer(prompt)["input_ids"])])
        known.append({"known_id": n, "subject": subject, "attribute": answer, "prompt": prompt})
    (place / "known.json").write_text(json.dumps(known))
    (place / "text.txt").write_text("\n\n".join(f"Paris is the capital of {s}. " * 9 for s in SUBJECTS * 4))
    (place / "two.json").write_text(json.dumps(["{}", "So it was. {}"]))
    write_moment(place / "c.safetensors", random_moment(model.d_mlp))
    return place


@pytest.mark.parametrize("name", COMMANDS)
def test_it_goes_on_to_the_same(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.stats.store.SAVE_EVERY", 1)
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", 8)  # many parts of a text
    monkeypatch.setattr("factedit.engine.budget.PARTS_SUMMED", 2)
    command, readings = COMMANDS[name], [0]
    fill, last = FileOnDisk.fill, [-1]

    def counted(self: FileOnDisk, view: memoryview, begin: int) -> None:
        readings[0] += 1
        if readings[0] == last[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        fill(self, view, begin)

    monkeypatch.setattr(FileOnDisk, "fill", counted)

    def run(out: Path) -> int:
        """Run the command; how often it read."""
        monkeypatch.setenv("FACTEDIT_CACHE", str(out / "cache"))
        readings[0] = 0
        words = [name.split()[0], data / "model", *command.words(data, out), "--stream", "--threads", "1"]
        ok(*words)
        return readings[0]

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    total = run(tmp_path / "whole")
    last[0] = int(0.8 * total)
    assert end(start(lambda: run(tmp_path / "killed"))) == -signal.SIGKILL
    last[0] = -1
    rest = run(tmp_path / "killed")
    assert command.result(tmp_path / "killed") == command.result(tmp_path / "whole")
    assert command.result(tmp_path / "whole"), "or nothing was compared"
    assert rest < 0.8 * total if command.resumes else rest == total, (rest, total)
    left = [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp") or "unfinished" in path.name]
    assert not left
