"""What a sequence of edits must remember, and how each edit keeps its part of it.

Nothing is global: a method is given the state that the edits before it left, and gives the next one. An edit keeps what
it *changed* in the state, so that a sequence of T edits takes the room of its facts once, not T times, and the state
after any number of edits is found from the edits themselves (`state_of`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factedit.errors import DataError

APPENDED, WHOLE, WITHOUT = "appended", "whole", "without"  # rows put after the others; a new tensor; rows that went


@dataclass(frozen=True)
class State:
    """What a sequence of edits must remember beside the edited weights.

    Attributes:
        base: fingerprint of the unedited model.
        tensors: by name, e.g. the keys of earlier facts at a layer.
    """

    base: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def change_between(before: State | None, after: State | None) -> dict[str, Tensor]:
    """Return what an edit changed in the state, by `<what was done>.<name of the tensor>`.

    Args:
        before: what the edit was given.
        after: what it left; None where there is nothing to remember.
    """
    old = {} if before is None else before.tensors
    changed = {}
    for name, tensor in ({} if after is None else after.tensors).items():
        earlier = old.get(name)
        if earlier is not None and _goes_on(earlier, tensor):
            rest = tensor[len(earlier) :]
            if len(rest):
                changed[f"{APPENDED}.{name}"] = rest.contiguous()
        else:
            changed[f"{WHOLE}.{name}"] = tensor.contiguous()
    return changed


def _goes_on(earlier: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor begins with the rows of an earlier one."""
    return (
        0 < earlier.ndim == tensor.ndim
        and earlier.dtype == tensor.dtype
        and earlier.shape[1:] == tensor.shape[1:]
        and len(earlier) <= len(tensor)
        and torch.equal(earlier, tensor[: len(earlier)].to(earlier.device))
    )


def rows_gone(names: Iterable[str], rows: Tensor) -> dict[str, Tensor]:
    """Return the change of a state by which rows go out of some of its tensors.

    Args:
        names: of the tensors.
        rows: their numbers, `[m]`.
    """
    return {f"{WITHOUT}.{name}": rows.to(torch.int64) for name in names}


def state_of(base: str, changes: Iterable[Mapping[str, Tensor]]) -> State | None:
    """Return the state after edits, from what each of them changed; None where none of them left any.

    Args:
        base: fingerprint of the unedited model.
        changes: per edit, in order.

    Raises:
        DataError: a change that does not fit what is there.
    """
    state: State | None = None
    for change in changes:
        state = state_after_change(base, state, change)
    return state


def state_after_change(base: str, state: State | None, change: Mapping[str, Tensor]) -> State | None:
    """Return the state after one more edit, from what it changed; None where there is nothing to remember still.

    Args:
        base: fingerprint of the unedited model.
        state: before it.
        change: what it changed.

    Raises:
        DataError: a change that does not fit what is there.
    """
    tensors = {} if state is None else dict(state.tensors)
    for key in sorted(change, key=lambda key: not key.startswith(f"{WITHOUT}.")):  # first what goes
        tensors[key.partition(".")[2]] = _changed(tensors, key, change[key])
    return State(base, tensors) if tensors else None


def _changed(tensors: Mapping[str, Tensor], key: str, change: Tensor) -> Tensor:
    what, _, name = key.partition(".")
    earlier = tensors.get(name)
    if what == WHOLE:
        return change
    if what == APPENDED and earlier is not None and earlier.shape[1:] == change.shape[1:]:
        return torch.cat([earlier, change])
    if what == WITHOUT and earlier is not None and len(change) and 0 <= int(change.min()) <= int(change.max()) < len(
        earlier
    ):  # fmt: skip
        kept = torch.ones(len(earlier), dtype=torch.bool)
        kept[change] = False
        return earlier[kept]
    raise DataError(
        f"The edit's state says {key!r} of shape {list(change.shape)}, and the edits before it left "
        f"{'nothing' if earlier is None else list(earlier.shape)} of that name: an edit of the sequence is missing, or "
        "they are out of order."
    )
