"""A few hundred spoilt files in every test run; all of them by `make fuzz`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from fuzz.formats import FORMATS
from fuzz.run import BAD, EQUAL, REFUSED, fuzz, table

INPUTS = 24


@pytest.mark.parametrize("name", FORMATS)
def test_spoilt_files_are_refused_or_read_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fuzz(INPUTS, seed=7, only=name, keep=tmp_path / "bad", place=tmp_path)
    finally:
        logging.disable(logging.NOTSET)
    counts = found[name]
    said = [path.read_text(errors="replace")[:3000] for path in (tmp_path / "bad").glob("*/said.txt")]
    assert not any(counts[kind] for kind in BAD), f"{table(found)}\n" + "\n".join(said)
    assert counts[REFUSED] + counts[EQUAL] == INPUTS
    assert counts[REFUSED] >= INPUTS // 4, "damage is found out"


def test_the_same_seed_spoils_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    once, again = (fuzz(12, seed=3, only="facts known.jsonl", place=tmp_path) for _ in range(2))
    assert once == again
