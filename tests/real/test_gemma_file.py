"""The embedded Gemma's .gguf file becomes what transformers' own path makes of it, weights and tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from factedit.errors import ModelError
from factedit.files.embedded import EMBEDDED, packaged_file
from factedit.files.gguf_file import load_gguf
from gemma_file import PATH, told_of_model, told_of_tokenizer

pytestmark = pytest.mark.real
GOLDEN = json.loads(PATH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, as the package holds it."""
    try:
        data = packaged_file(EMBEDDED["gemma3-270m"]).data
    except ModelError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("gemma") / "m.gguf"
    path.write_bytes(data)
    return path


def agree(ours: dict[str, Any], name: str) -> None:
    """Check what is told against what was kept; a later transformers may know settings that it did not."""
    theirs = GOLDEN[name]
    assert ours.keys() == theirs.keys()
    for part, value in theirs.items():
        known = {key: ours[part].get(key) for key in value} if part == "config" else ours[part]
        assert known == value, part


def test_weights_and_tokens_are_those_of_transformers_own_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(file.parent / "cache"))
    lm, tokenizer = load_gguf(file)
    assert len(GOLDEN["model"]["tensors"]) == 237
    assert len(GOLDEN["model"]["config"]) > 30
    agree(told_of_model(lm), "model")
    agree(told_of_tokenizer(tokenizer), "tokenizer")


@pytest.mark.skipif(os.environ.get("FACTEDIT_TRIALS") != "all", reason="a minute: set FACTEDIT_TRIALS=all")
def test_what_is_kept_is_what_transformers_own_path_gives(file: Path) -> None:
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    agree(told_of_model(AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)), "model")
    agree(told_of_tokenizer(AutoTokenizer.from_pretrained(**where)), "tokenizer")
