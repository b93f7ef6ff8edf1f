"""What does not fit is halved, and only a single item that does not fit is an error."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from factedit import memory
from factedit.engine.products import has_onednn
from factedit.errors import ResourceError
from factedit.memory import (
    CACHES_OF_SHAPES,
    SHAPES_KEPT,
    PeakMemory,
    in_halves,
    is_out_of_memory,
    keep_few_shapes,
    release,
    require_memory,
)
from factedit.models.load import load
from tiny_folder import save

NO_MEMORY = RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 99 bytes")


def fits(limit: int, asked: list[int], error: BaseException = NO_MEMORY):
    def work(items: Sequence[int]) -> list[int]:
        asked.append(len(items))
        if len(items) > limit:
            raise error
        return [10 * item for item in items]

    return work


@pytest.mark.parametrize("error", [NO_MEMORY, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_halved_until_it_fits(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[int] = []
    with caplog.at_level(logging.WARNING, "factedit"):
        assert in_halves(range(7), fits(2, asked, error), what="facts") == [0, 10, 20, 30, 40, 50, 60]
    assert asked == [7, 3, 1, 2, 4, 2, 2]
    assert "7 facts do not fit in memory at once; going on with 3" in caplog.text


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ResourceError, match="Memory ran out with a single one of the facts"):
        in_halves([1, 2], fits(0, []), what="facts")


def test_other_errors_pass() -> None:
    asked: list[int] = []
    with pytest.raises(RuntimeError, match="shapes"):
        in_halves([1, 2], fits(0, asked, RuntimeError("shapes do not match")), what="facts")
    assert asked == [2]
    assert is_out_of_memory(RuntimeError("could not create a primitive")), "what oneDNN says"
    assert not is_out_of_memory(ValueError("memory allocation"))


def test_peak_is_of_the_block() -> None:
    release()  # else the block may be served from memory that is free and resident already
    with PeakMemory() as large:
        torch.ones(60_000_000).sum()
    release()
    with PeakMemory() as small:
        torch.ones(10).sum()
    assert large.mb > 240
    assert large.mb - small.mb > 200, "the first block's record does not reach into the second"


def test_a_block_inside_another_does_not_take_its_record_away() -> None:
    release()
    with PeakMemory() as outer:
        torch.ones(60_000_000).sum()
        release()
        with PeakMemory() as inner:
            torch.ones(10).sum()
    assert outer.mb - inner.mb > 200, "what was before the inner block"
    with PeakMemory() as outer:
        with PeakMemory():
            torch.ones(60_000_000).sum()
        release()
        with PeakMemory() as inner:
            torch.ones(10).sum()
    assert outer.mb - inner.mb > 200, "what was in an earlier one"


def test_what_will_not_fit_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 3e9)
    require_memory("The model", 3e9, "")
    with pytest.raises(ResourceError, match=r"The model takes 3\.20 GB, and 3\.00 GB are free\. Do this\."):
        require_memory("The model", 3.2e9, "Do this.")
    monkeypatch.setattr(memory, "available_memory", lambda: 0.0)
    require_memory("The model", 1e15, "")  # where the system does not say, nobody is refused


def test_the_system_says_what_is_free() -> None:
    held = torch.ones(1 << 26)  # 268 MB
    less = memory.available_memory()
    del held
    release()
    assert 0 < less < 1e15
    assert memory.available_memory() > less - 1e8


MANY_SHAPES = """
import hashlib, sys, torch
from pathlib import Path
from factedit.memory import keep_few_shapes
torch.set_num_threads(1)
if sys.argv[1] == "few":
    keep_few_shapes()
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
weight, told = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)), hashlib.sha256()
product = lambda rows: torch.ops.mkldnn._linear_pointwise(torch.ones(rows, 512), weight, None, "none", [], "")
before = resident()
for rows in range(5, 185):
    told.update(product(rows).numpy().tobytes())
print(resident() - before, told.hexdigest())
"""


@pytest.mark.skipif(
    not has_onednn(torch.ones(1)) or not Path("/proc/self/statm").exists(), reason="no oneDNN, no /proc"
)
def test_the_code_of_few_shapes_is_kept_where_it_is_asked_and_the_bits_are_the_same() -> None:
    """A streamed trace of 8 GB took 5 GB, of which two caches of products by shape had 3.5."""
    unset = {name: value for name, value in os.environ.items() if name not in CACHES_OF_SHAPES}
    run = lambda how: subprocess.run(  # noqa: E731
        [sys.executable, "-c", MANY_SHAPES, how], check=True, capture_output=True, text=True, env=unset
    ).stdout.split()
    (few, bits), (many, as_usual) = run("few"), run("as it is")
    assert 3 * int(few) < int(many)
    assert bits == as_usual


def test_the_users_own_number_of_shapes_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_set_here", {})
    first, second = CACHES_OF_SHAPES
    monkeypatch.setenv(first, "7")
    monkeypatch.setenv(second, "")  # so that what is set here goes afterwards
    monkeypatch.delenv(second)
    keep_few_shapes()
    assert (os.environ[first], os.environ[second]) == ("7", str(SHAPES_KEPT))


@pytest.mark.parametrize("given", [{}, {CACHES_OF_SHAPES[0]: "7", CACHES_OF_SHAPES[1]: "9"}])
def test_a_model_that_is_loaded_into_memory_bounds_the_shapes_unless_the_user_has(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 000 facts at once took 6 GB with a model of 1 GB: every fact that stopped gave the others new shapes."""
    monkeypatch.setattr(memory, "_set_here", {})
    for name in CACHES_OF_SHAPES:
        monkeypatch.setenv(name, given.get(name, ""))  # so that what is set here goes afterwards
        if name not in given:
            monkeypatch.delenv(name)
    load(str(save(tmp_path / "model")), stream=False)
    assert {name: os.environ[name] for name in CACHES_OF_SHAPES} == (given or dict.fromkeys(CACHES_OF_SHAPES, "128"))
