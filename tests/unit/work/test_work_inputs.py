"""Loading for a command: with as many threads as the process may use cores, unless it is told how many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from factedit.work.inputs import load_model, outline_model
from tiny_folder import save


@pytest.mark.parametrize("how", [load_model, outline_model])
@pytest.mark.parametrize(
    ("allowed", "asked", "expected"), [({3}, None, 1), ({0, 2, 5}, None, 3), ({0, 2, 5}, 2, 2), (None, None, 7)]
)
def test_a_process_that_may_use_one_core_starts_one_thread(
    how, allowed, asked, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: as many as the machine has cores, which on one core wait for each other at every step."""
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    if allowed is None:  # macOS and Windows cannot be asked
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: allowed, raising=False)
    how(str(save(tmp_path / "m")), threads=asked)
    assert torch.get_num_threads() == expected
