"""The folder of a training: the best network, and until the end the state to go on from. Whole at every moment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from factedit.cache import replace_files, settled
from factedit.edit.manifest import canonical, sealed
from factedit.edit.trained import (
    NETWORK,
    RECORD,
    SEEN,
    STATE,
    Network,
    TrainedRecord,
    read_network_tensors,
    read_record,
)
from factedit.errors import UsageError

ADAM = ("step", "exp_avg", "exp_avg_sq")
SAME = ("kind", "model_fingerprint", "network", "training", "data", "records_sha256")


def save_folder(
    folder: Path,
    record: TrainedRecord,
    best: Mapping[str, Tensor],
    seen: Tensor,
    network: Network,
    optimiser: torch.optim.Adam,
) -> TrainedRecord:
    """Write the folder's own files, in place of those there; without the state once training has finished.

    Args:
        folder: where.
        record: the pedigree; its hashes are made anew.
        best: tensors of the best network.
        seen: hashes of the training texts.
        network, optimiser: where training stands.

    Returns:
        The record as written.

    Raises:
        ResourceError: the disk is full or not writable; the old folder is as it was.
    """
    files = {NETWORK: save_tensors({SEEN: seen, **_plain(best)})}
    if not record.finished:
        files[STATE] = save_tensors({**_plain(network.state_dict(), "network."), **_adam(optimiser)})
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    written = record.model_copy(update={"files": hashes})
    files[RECORD] = canonical(sealed(written.model_dump(mode="json")))

    def build(place: Path) -> None:
        for name, data in files.items():
            (place / name).write_bytes(data)

    replace_files(build, folder, old=(RECORD, NETWORK, STATE), last=RECORD, needed=sum(map(len, files.values())))
    return written


def read_if_any(folder: Path, wanted: TrainedRecord) -> TrainedRecord | None:
    """Return the record of a training that the folder holds, if it is the one wanted.

    Raises:
        UsageError: the folder holds another training, or something else.
    """
    folder = settled(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the training.")
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / RECORD).is_file():
        raise UsageError(f"{folder} exists and holds no training; name another folder.")
    record = read_record(folder)
    other = [name for name in SAME if getattr(record, name) != getattr(wanted, name)]
    if other:
        raise UsageError(
            f"{folder} holds another training (it differs in {', '.join(other)}). "
            "Name another folder, or delete it to train anew."
        )
    return record


def load_state(folder: Path, record: TrainedRecord, network: Network, optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    """Put network and optimiser where the folder's training stood; gives the tensors of the best network.

    Raises:
        DataError: a damaged folder.
    """
    best = read_network_tensors(folder, record, NETWORK)
    best.pop(SEEN)
    state = read_network_tensors(folder, record, STATE)
    device = next(network.parameters()).device
    weights = {name.removeprefix("network."): t.to(device) for name, t in state.items() if name.startswith("network.")}
    network.load_state_dict(weights)
    numbers = sorted({int(name.split(".")[1]) for name in state if name.startswith("adam.")})
    moments = {n: {part: state[f"adam.{n}.{part}"] for part in ADAM} for n in numbers}
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return best


def _plain(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}


def _adam(optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    state = optimiser.state_dict()["state"]
    return {
        f"adam.{n}.{part}": torch.as_tensor(moments[part]).cpu().contiguous()
        for n, moments in state.items()
        for part in ADAM
    }
