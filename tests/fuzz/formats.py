"""The formats that are read from others' hands: how a sound one is made, how it is spoilt, how it is read.

A `Format` gives a folder or file, the files in it that are spoilt, and a reader whose result is what counts as its
content. Content that is guarded by hashes must be the same or refused; content that is not (a user's facts, weights
without a hash) may be another than before, but it must then be what an independent reading of the file gives.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors

import tiny_folder
import tiny_gguf
from conftest import tiny
from factedit.data.registry import load_dataset
from factedit.edit.artefact import Edit
from factedit.edit.trained import load_network
from factedit.evaluate.store import ResultStore
from factedit.export.read_peft import read_peft
from factedit.export.ship import ship
from factedit.files.gguf_file import load_gguf
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stack.check import log, verify
from factedit.stack.work import apply
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import read_moment, write_moment
from factedit.work.results import read_results
from stack_cases import random_edit
from tiny_training import train_tiny


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        make: writes a sound one below a folder and gives its path.
        files: what is spoilt, as patterns below that path; `.` is the path itself.
        read: reads it; the result is compared by its hash.
        says: an independent reading, for content that no hash guards; None where hashes guard it.
    """

    make: Callable[[Path], Path]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    says: Callable[[Path], Any] | None = None


def digest(value: Any) -> str:
    """A hash of what a reader gave."""
    return hashlib.sha256(repr(_plain(value)).encode("utf-8", "backslashreplace")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        raw = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        return str(value.dtype), tuple(value.shape), hashlib.sha256(raw).hexdigest()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


_MODELS: dict[str, EditableModel] = {}


def model() -> EditableModel:
    """The model that edits, networks and adapters are for; its own folder gives the same weights."""
    if "gpt2" not in _MODELS:
        _MODELS["gpt2"] = tiny("gpt2", n_layer=2)
    return _MODELS["gpt2"]


# -- models ------------------------------------------------------------------------------------------


def _weights(found: EditableModel) -> dict[str, Any]:
    tied = {"lm_head.weight"}
    return {name.removeprefix("transformer."): t for name, t in found.lm.state_dict().items() if name not in tied}


def _folder_says(path: Path) -> dict[str, Any]:
    """What the safetensors library finds in the weights."""
    tensors: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors |= load_tensors(file.read_bytes())
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items() if name != "lm_head.weight"}
    return {name: t.float() for name, t in tensors.items()}


def _gguf(folder: Path) -> Path:
    return tiny_gguf.write(folder / "tiny.gguf", tiny_gguf.llama_lm(num_hidden_layers=2))


def _read_gguf(path: Path) -> Any:
    lm, tokenizer = load_gguf(path)
    return {**lm.state_dict(), "tokens": tokenizer("The Space Needle\n 1985 é")["input_ids"]}


def _gguf_says(path: Path) -> Any:
    """What the gguf package finds in the tensors, by the sum of their numbers; order and rows are llama.cpp's."""
    import gguf

    reader = gguf.GGUFReader(path)
    return {
        t.name: float(gguf.quants.dequantize(t.data, t.tensor_type).astype("float64").sum()) for t in reader.tensors
    }


# -- edits -------------------------------------------------------------------------------------------


def _edit(folder: Path) -> Path:
    return random_edit(model(), 1).save(folder / "edit")


def _read_edit(path: Path) -> Any:
    found = Edit.load(path)
    return [found.identity, found.manifest(), *(t for effect in found.effects for t in effect.tensors().values())]


def _stack(folder: Path) -> Path:
    for seed in (1, 2):
        apply(model(), [random_edit(model(), seed)], folder / "stack")
        if seed == 1:
            _MODELS["stacked"] = load(str(folder / "stack"))
    return folder / "stack"


def _one_stack(folder: Path) -> Path:
    apply(model(), [random_edit(model(), 1), random_edit(model(), 2)], folder / "stack")
    return folder / "stack"


def _read_stack(path: Path) -> Any:
    return [[entry.model_dump() for entry in log(path)], vars(verify(path))]


# -- statistics, networks, results, adapters -----------------------------------------------------------


def _moment(folder: Path) -> Path:
    keys = torch.randn(200, 24, generator=torch.Generator().manual_seed(0))
    return write_moment(folder / "c.safetensors", SecondMoment(keys.T @ keys / 200, 1, 200, "f" * 64, "a text"))


def _read_moment(path: Path) -> Any:
    found = read_moment(path, d_mlp=24)
    return [found.matrix, found.layer, found.tokens, found.model, found.corpus]


def _moment_says(path: Path) -> Any:
    """A file whose header lost its hash is a user's own, which needs the tensor alone."""
    size = int.from_bytes(path.read_bytes()[:8], "little")
    notes = json.loads(path.read_bytes()[8 : 8 + size]).get("__metadata__") or {}
    layer = int(notes["layer"]) if "layer" in notes else None
    tensor = load_tensors(path.read_bytes())["second_moment"]
    return [tensor, layer, int(notes.get("tokens", 0)), notes.get("model", ""), notes.get("corpus", "unknown")]


def _network(folder: Path) -> Path:
    train_tiny(model(), "mend", folder / "mend-zsre", steps=2, validate_every=2, validation=2)
    return folder / "mend-zsre"


def _read_network(path: Path) -> Any:
    record, network, seen = load_network(model(), "mend-zsre", path)
    return [record.model_dump(), network.state_dict(), seen]


def _results(folder: Path) -> Path:
    row = {"scores": {"ES": 100.0, "PS": 50.0, "NS": 25.0}, "peak_memory_mb": 1.5, "seconds_per_edit": 0.5}
    with ResultStore(folder / "runs" / "results.sqlite") as store:
        run = store.begin("rome", {"dataset": "worldfacts abc", "seed": 0, "weights": "f" * 64})
        store.add([(run, str(n), row) for n in range(5)])
        store.select("all", [str(n) for n in range(5)], [run])
    with closing(sqlite3.connect(folder / "runs" / "results.sqlite")) as own:
        own.execute("PRAGMA journal_mode=DELETE")  # so that a copy of the file is a copy of the store
    return folder / "runs"


def _read_results(path: Path) -> Any:
    return {str(k.name): v.as_json() for k, v in read_results([path]).items()}


def _adapter(folder: Path) -> Path:
    ship(model(), [random_edit(model(), 1), random_edit(model(), 2)], folder / "adapter", "peft", base="a/base")
    return folder / "adapter"


def _read_adapter(path: Path) -> Any:
    return [(e.place, e.left, e.right) for e in read_peft(model(), path)]


def _adapter_says(path: Path) -> Any:
    """LoRA's own formula on what the safetensors library finds."""
    config = json.loads((path / "adapter_config.json").read_text())
    tensors = load_tensors((path / "adapter_model.safetensors").read_bytes())
    scale, found = float(config["lora_alpha"]) / int(config["r"]), []
    for name in sorted(n for n in tensors if ".lora_A." in n):
        layer = int(name.split(".h.")[1].split(".")[0])
        which = "in" if "c_fc" in name else "out"
        right = scale * tensors[name.replace("lora_A", "lora_B")].float().T
        found.append(((layer, which), tensors[name].float().T, right))
    return found


# -- facts -------------------------------------------------------------------------------------------

_REWRITE = {"prompt": "{} is in", "subject": "Paris", "target_new": {"str": "Rome"}, "target_true": {"str": "France"}}
ROWS: dict[str, list[dict[str, Any]]] = {
    "counterfact": [
        {"case_id": n, "requested_rewrite": _REWRITE, "paraphrase_prompts": ["So Paris is in"],
         "neighborhood_prompts": ["Lyon is in"], "attribute_prompts": ["Milan is in"], "generation_prompts": ["Paris"]}
        for n in range(3)
    ],
    "zsre": [
        {"subject": "Paris", "src": "Where is Paris?", "rephrase": "Paris is where?", "answers": ["Rome"],
         "loc": "nq question: who sings", "loc_ans": "Prince"}
    ] * 3,
    "known": [{"known_id": n, "subject": "Paris", "prompt": "Paris is in", "attribute": "France"} for n in range(3)],
    "requests": [{"subject": s, "prompt": "{} is in", "target_new": "Rome"} for s in ("Paris", "Lyon")],
}  # fmt: skip


def _facts(kind: str, ending: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rows = ROWS[kind]
        text = json.dumps(rows) if ending.startswith(".json") and not ending.startswith(".jsonl") else ""
        raw = (text or "".join(json.dumps(row) + "\n" for row in rows)).encode()
        path = folder / f"{kind}{ending}"
        path.write_bytes(gzip.compress(raw, mtime=0) if ending.endswith(".gz") else raw)
        return path

    return make


def _read_facts(path: Path) -> Any:
    found = load_dataset(path)
    return [[str(vars(record)) for record in found.records], found.skipped]


def _facts_say(path: Path) -> Any:
    """How many objects JSON finds in the file: each is a record or is counted as skipped."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    name = path.name.removesuffix(".gz")
    return (
        json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.split("\n") if line.strip()]
    )


FORMATS: dict[str, Format] = {
    "gguf": Format(_gguf, (".",), _read_gguf, _gguf_says),
    "model folder": Format(
        lambda folder: tiny_folder.save(folder / "model"),
        ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"),
        lambda path: _weights(load(str(path))),
        _folder_says,
    ),
    "sharded folder": Format(
        lambda folder: tiny_folder.save_sharded(folder / "model"),
        ("model.safetensors.index.json", "model-1.safetensors", "config.json"),
        lambda path: _weights(load(str(path))),
        _folder_says,
    ),
    "edit": Format(_edit, ("edit.json", "edit.safetensors"), _read_edit),
    "ledger": Format(
        _one_stack, ("ledger.jsonl", "model.safetensors.index.json", "*.safetensors", "edits/*/*"), _read_stack
    ),
    "moment": Format(_moment, (".",), _read_moment, _moment_says),
    "network": Format(_network, ("network.json", "network.safetensors"), _read_network),
    "results": Format(_results, ("results.sqlite",), _read_results, _read_results),
    "adapter": Format(_adapter, ("adapter_config.json", "adapter_model.safetensors"), _read_adapter, _adapter_says),
    **{
        f"facts {kind}{ending}": Format(_facts(kind, ending), (".",), _read_facts, _facts_say)
        for kind, ending in (
            ("counterfact", ".json"), ("counterfact", ".jsonl.gz"), ("zsre", ".json"), ("known", ".jsonl"),
            ("requests", ".jsonl"),
        )
    },
}  # fmt: skip


def copied(sound: Path, place: Path) -> Path:
    """A fresh copy of a sound one."""
    target = place / sound.name
    if sound.is_dir():
        return Path(shutil.copytree(sound, target, symlinks=True))
    return Path(shutil.copy(sound, target))


def snapshot(path: Path) -> dict[str, str]:
    """Every file below a path by the hash of its bytes: what a reader must leave as it is."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {os.path.relpath(p, path): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
