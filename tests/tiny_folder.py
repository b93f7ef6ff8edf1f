"""Tiny models in the transformers format, and how to spoil them."""

from __future__ import annotations

import atexit
import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_lm, tiny_tokenizer
from factedit.files.checkpoint import load_checkpoint


@cache
def _saved() -> Path:
    folder = Path(mkdtemp(prefix="factedit-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_lm("gpt2", n_layer=2).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save(folder: Path) -> Path:
    """A tiny GPT-2 as transformers saves it."""
    return Path(shutil.copytree(_saved(), folder))


def save_sharded(folder: Path) -> Path:
    """The same model in two shards."""
    save(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
    shards = {name: shard for shard, part in halves.items() for name in part}
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": shards})
    (folder / "model.safetensors").unlink()
    return folder


def write(path: Path, value: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value))


def change(path: Path, **values: Any) -> None:
    """Change entries of a JSON object."""
    write(path, {**json.loads(path.read_text()), **values})


def refuse(folder: Path | str, kind: type[Exception], match: str) -> str:
    """Check that a source is refused with just this error, and return the message."""
    with pytest.raises(kind, match=match) as found:
        load_checkpoint(str(folder))
    assert type(found.value) is kind
    return str(found.value)


def same(left: Any, right: Any) -> bool:
    """Whether two models have the same tensors, to the bit."""
    other = right.state_dict()
    return all(torch.equal(value, other[name]) for name, value in left.state_dict().items())
