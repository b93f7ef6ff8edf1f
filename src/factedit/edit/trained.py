"""Trained hypernetworks as folders: `network.json` (pedigree) and `network.safetensors` (weights).

A folder belongs to one model, known by the fingerprint of its weights, and names what it was trained on: the data's
hash, a hash of the records' names, and per training text a hash by which an evaluation can tell that it would ask
what was trained. Folders live in the cache under `trained/<fingerprint>/<name>` unless a user names another place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from factedit.cache import cache_dir, settled
from factedit.edit.factors import last_matrices, shapes_of
from factedit.edit.manifest import is_sealed, read_file_of
from factedit.edit.network_ke import KeNetwork, KeSettings
from factedit.edit.network_mend import MendNetwork, MendSettings
from factedit.errors import DataError, EditError, UsageError, first_line
from factedit.models.adapter import EditableModel

RECORD, NETWORK, STATE = "network.json", "network.safetensors", "state.safetensors"
NetworkKind = Literal["ke", "mend"]
NETWORK_KINDS: tuple[NetworkKind, ...] = ("ke", "mend")
SUFFIX = {"general": "", "zsre": "-zsre", "counterfact": "-cf"}
SEEN = "seen"
Network = KeNetwork | MendNetwork
NETWORK_SETTINGS: dict[str, type[KeSettings] | type[MendSettings]] = {"ke": KeSettings, "mend": MendSettings}


class TrainedRecord(BaseModel):
    """The pedigree of a trained network.

    Attributes:
        format: version of this schema; from 2 on the file holds a hash of itself.
        kind: `ke` or `mend`.
        name: the method it serves, e.g. `mend-zsre`.
        model_name, model_fingerprint: the model it was trained for.
        blocks: how many last blocks it edits.
        network: settings of the network.
        training: settings of the training.
        data: name and hash of the training set.
        records: how many records were trained on.
        records_sha256: of their names, sorted.
        step: steps done.
        best_step, best_loss: the validation that `network.safetensors` is from.
        validation: `[step, loss, loss of the edit, divergence]` of every validation.
        seconds: spent in all.
        finished: whether training came to its end.
        why: how it ended, in words.
        files: SHA-256 of the other files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1, 2] = 2
    kind: NetworkKind
    name: str
    model_name: str
    model_fingerprint: str
    blocks: int
    network: dict[str, Any]
    training: dict[str, Any]
    data: dict[str, Any]
    records: int
    records_sha256: str
    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    validation: tuple[tuple[float, ...], ...] = ()
    seconds: float = 0.0
    finished: bool = False
    why: str = ""
    files: dict[str, str] = {}


def method_name(kind: str, data: str) -> str:
    """Return the method that a network trained on a set serves: `mend` and `general` give `mend`, `zsre` gives
    `mend-zsre`.
    """
    return kind + SUFFIX.get(data, f"-{data}")


def train_command(model: EditableModel, name: str, folder: Path | None = None) -> str:
    """Return what to type to train the network of a method, in a folder or where it lives by default."""
    kind, _, suffix = name.partition("-")
    data = next((data for data, ending in SUFFIX.items() if ending == (f"-{suffix}" if suffix else "")), suffix)
    return f"factedit train {kind} {model.name} --data {data}" + ("" if folder is None else f" --out {folder}")


def default_folder(model: EditableModel, name: str) -> Path:
    """Return where the network of a method for these weights lives unless a user says otherwise."""
    return cache_dir() / "trained" / model.fingerprint()[:16] / name


def find_folder(model: EditableModel, name: str, trained: str | Path | None) -> Path:
    """Return the folder of a method's network: the one named, one inside the one named, or the one in the cache.

    Raises:
        UsageError: there is none; the message gives the command that makes it.
    """
    asked = [default_folder(model, name)] if trained is None else [Path(trained) / name, Path(trained)]
    for folder in asked:
        if (settled(folder) / RECORD).is_file():
            return folder
    raise UsageError(
        f"{name} needs a network trained for {model.name}, and there is none in {asked[-1]}. "
        f"Train it: {train_command(model, name, None if trained is None else asked[0])}."
    )


def build_network(model: EditableModel, blocks: int, settings: BaseModel, *, seed: int) -> Network:
    """Return a fresh network for a model's last blocks, of the kind that the settings are of."""
    shapes = shapes_of(model, last_matrices(model, blocks))
    if isinstance(settings, KeSettings):
        d_embed = model.lm.get_input_embeddings().weight.shape[1]
        return KeNetwork(shapes, settings, d_embed=d_embed, seed=seed).to(model.device)
    return MendNetwork(shapes, MendSettings(**settings.model_dump()), seed=seed).to(model.device)


def read_record(folder: Path) -> TrainedRecord:
    """Return the pedigree in a folder.

    Raises:
        DataError: not there, not of this schema, or changed since it was written.
    """
    raw = read_file_of(folder, RECORD)
    try:
        fields = json.loads(raw)
        if fields["format"] != 1 and not is_sealed(fields, raw):
            raise ValueError("it was changed after it was written")
        return TrainedRecord(**{name: value for name, value in fields.items() if name != "sha256"})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, EditError) as error:
        raise DataError(
            f"{folder / RECORD} is not the record of a trained network ({first_line(error)}). Train it again."
        ) from error


def read_network_tensors(folder: Path, record: TrainedRecord, name: str) -> dict[str, Tensor]:
    """Return the tensors of a file of the folder, checked against its hash.

    Raises:
        DataError: missing, changed or cut off.
    """
    raw = read_file_of(folder, name)
    if hashlib.sha256(raw).hexdigest() != record.files.get(name):
        raise DataError(f"{folder / name} is not the file that {RECORD} names: changed or cut off. Train it again.")
    try:
        return load_tensors(raw)
    except SafetensorError as error:
        raise DataError(f"{folder / name} cannot be read ({first_line(error)}). Train it again.") from error


def load_network(model: EditableModel, name: str, trained: str | Path | None) -> tuple[TrainedRecord, Network, Tensor]:
    """Return the trained network of a method for a model, its pedigree, and the hashes of the texts it was trained on.

    Raises:
        UsageError: there is none.
        EditError: it is another method's or another model's, or its training did not come to its end.
        DataError: a damaged folder.
    """
    folder = find_folder(model, name, trained)
    record = read_record(folder)
    if record.name != name:
        raise EditError(f"{folder} holds a network for {record.name}, and {name} was asked for. Name its own folder.")
    fingerprint = model.fingerprint()
    if record.model_fingerprint != fingerprint:
        raise EditError(
            f"{folder} was trained for weights {record.model_fingerprint[:12]}… ({record.model_name}); "
            f"{model.name} has {fingerprint[:12]}…. Train one for it: {train_command(model, name)}."
        )
    if not record.finished:
        raise EditError(
            f"The training in {folder} stopped at step {record.step} before its end. "
            f"The same command goes on: {train_command(model, name, None if trained is None else folder)}."
        )
    tensors = read_network_tensors(folder, record, NETWORK)
    seen = tensors.pop(SEEN, torch.empty(0, dtype=torch.int64))
    try:
        network = build_network(model, record.blocks, NETWORK_SETTINGS[record.kind](**record.network), seed=0)
        network.load_state_dict(tensors)
    except (RuntimeError, ValidationError) as error:
        raise DataError(f"{folder} does not hold the network that {RECORD} describes: {first_line(error)}.") from error
    return record, network.eval(), seen


def text_hashes(texts: Iterable[str]) -> Tensor:
    """Return a number per text, by which two sets of texts can be compared: the first 8 bytes of its SHA-256, `[n]`
    int64.
    """
    numbers = {int.from_bytes(hashlib.sha256(t.strip().encode()).digest()[:8], signed=True) for t in texts}
    return torch.tensor(sorted(numbers), dtype=torch.int64)
