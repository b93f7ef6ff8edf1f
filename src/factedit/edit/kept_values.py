"""Values that were found are kept as they come, so that what interrupts the editing of many facts loses none of them.

Where a `keeping_values` block is open, every group of facts whose values were optimised together is written to a folder
under a key of everything that decides them: the weights as they are, the layer, the settings, the rows. The same
computation finds them there, to the bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from factedit.cache import read_entry, write_entry
from factedit.edit.objective import Losses

_Result = TypeVar("_Result")
SUFFIX = ".values"
LOSSES = "losses"  # the field that is no tensor `[…]`, but several evaluations of several numbers


@dataclass(frozen=True)
class KeptValues:
    """Where values are kept, and who is told.

    Attributes:
        folder: None keeps nothing.
        progress: called with the number of facts whose values were just found.
    """

    folder: Path | None
    progress: Callable[[int], None]


_open: ContextVar[KeptValues | None] = ContextVar("kept values", default=None)


@contextmanager
def keeping_values(folder: Path | None, progress: Callable[[int], None] = lambda _facts: None) -> Iterator[None]:
    """Keep the values of facts that are found inside, and tell how many there are; see the module.

    Args:
        folder: made where something is kept; None keeps nothing.
        progress: called with the number of facts of every group.
    """
    token = _open.set(KeptValues(folder, progress))
    try:
        yield
    finally:
        _open.reset(token)


def forget_values(folder: Path) -> None:
    """Remove the values that were kept in a folder, and the folder if it holds nothing else."""
    for path in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        folder.rmdir()


def kept(
    find: Callable[[], list[_Result]], kind: type[_Result], facts: int, key: Callable[[], Any], device: torch.device
) -> list[_Result]:
    """Return values of facts that are optimised together: those that are kept, or found and kept.

    Args:
        find: finds them.
        kind: of a value: a dataclass of tensors, and of `losses`.
        facts: how many.
        key: everything that decides them, as JSON values.
        device: where their tensors are to be.
    """
    watch = _open.get()
    if watch is None:
        return find()
    path = None if watch.folder is None else watch.folder / f"{_digest([kind.__name__, key()])}{SUFFIX}"
    content = None if path is None else read_entry(path)
    values = find() if content is None else _read(content, kind, device)
    if path is not None and content is None:
        write_entry(path, _written(values))
    watch.progress(facts)
    return values


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _written(values: Sequence[Any]) -> bytes:
    tensors: dict[str, Tensor] = {}
    for n, value in enumerate(values):
        for field in fields(value):
            entry = getattr(value, field.name)
            as_tensor = torch.tensor(entry, dtype=torch.float64).reshape(-1, 4) if field.name == LOSSES else entry
            tensors[f"{n}.{field.name}"] = as_tensor.detach().cpu().clone()
    return save_tensors(tensors)


def _read(content: bytes, kind: type[Any], device: torch.device) -> list[Any]:
    tensors = load_tensors(content)
    count = 1 + max(int(name.partition(".")[0]) for name in tensors)
    values = []
    for n in range(count):
        entries: dict[str, Any] = {
            f.name: tensors[f"{n}.{f.name}"].to(device) for f in fields(kind) if f.name != LOSSES
        }
        values.append(kind(**entries, losses=_losses(tensors[f"{n}.{LOSSES}"])))
    return values


def _losses(numbers: Tensor) -> tuple[Losses, ...]:
    return tuple(Losses(*row) for row in numbers.tolist())
