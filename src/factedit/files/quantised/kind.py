"""What a kind of quantised weights is, and what the kinds share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from factedit.errors import ModelError, UnsupportedModel, shown
from factedit.files.checkpoint_weights import StoredTensor

Headers = Mapping[str, StoredTensor]
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Packed:
    """A quantised weight as a folder stores it.

    Attributes:
        name: of the weight it stands for, as transformers names it.
        shape: of that weight: `[d_out, d_in]`; of experts `[experts, …]`.
        parts: the tensors it is stored as, by what they are to its kind.
        module: what is left out of quantisation as a whole.
        said: the settings that hold for it.
    """

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]
    module: str
    said: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One kind of quantised weights; a file of `files/quantised/` and a line in the table of `table.py`.

    Attributes:
        name: as `quant_method` of a configuration has it.
        find: the quantised weights of a folder, by name, from its settings, its tensors' headers, and a way to read a
            small tensor.
        read: the values a weight stands for, float32 in transformers' layout, from its parts.
        write: parts for another weight of the same shape. Scales stay where the weight fits into them, so that a
            number that did not change is stored as it was.
        spare: the settings with modules left out of quantisation; None where the format has no such thing.
    """

    name: str
    find: Callable[[Mapping[str, Any], Headers, Callable[[str], Tensor]], dict[str, Packed]]
    read: Callable[[Packed, Parts], Tensor]
    write: Callable[[Packed, Parts, Tensor], Parts]
    spare: Callable[[Mapping[str, Any], Sequence[str], Sequence[str]], dict[str, Any]] | None


def header(stored: Headers, name: str) -> StoredTensor:
    """Return the header of a tensor that a quantised weight needs.

    Raises:
        ModelError: it is not there.
    """
    if name not in stored:
        raise ModelError(f"The tensor {name!r} is missing, without which a weight cannot be dequantised. Get it again.")
    return stored[name]


def packed_words(stored: Headers, name: str) -> tuple[int, int]:
    """Return rows and columns of the words that a weight's whole numbers are packed into.

    Raises:
        ModelError: they are not there, or no matrix of whole numbers of 32 bits.
    """
    words = header(stored, name)
    if words.kind != "I32" or len(words.shape) != 2:
        raise misfit(name, words, "a matrix of whole numbers of 32 bits")
    return words.shape[0], words.shape[1]


def misfit(name: str, tensor: StoredTensor, wanted: str) -> ModelError:
    """Return the error for a tensor that is not what its kind stores there."""
    return ModelError(f"{name!r} is {tensor.kind} {list(tensor.shape)}, and not {wanted}. Get the model again.")


def matrices(stored: Headers, end: str) -> list[str]:
    """Return the modules that have a tensor of this name."""
    return sorted(name.removesuffix(end) for name in stored if name.endswith(end))


def optional(stored: Headers, module: str, **names: str) -> dict[str, str]:
    """Return those of a module's tensors that are there, by what they are."""
    return {role: f"{module}.{end}" for role, end in names.items() if f"{module}.{end}" in stored}


def whole_number(said: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """Return a whole number of the settings.

    Raises:
        ModelError: there is none.
    """
    value = said.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ModelError(f"The quantisation of the config.json gives {key} = {shown(value)}, not a whole number.")
    return value


def not_read(kind: str, what: str) -> UnsupportedModel:
    """Return the error for a variant of a kind that is not read."""
    return UnsupportedModel(f"The weights are quantised by {kind} with {what}, which is not read. {INSTEAD}")


def spared(key: str) -> Callable[[Mapping[str, Any], Sequence[str], Sequence[str]], dict[str, Any]]:
    """Return a `Kind.spare` for settings that list the modules left out under a key.

    Where there was no list, loaders leave out what they think right (the output matrix); with one they do not, so
    that the modules that are not quantised are named with the others.
    """

    def spare(said: Mapping[str, Any], modules: Sequence[str], plain: Sequence[str]) -> dict[str, Any]:
        before = said.get(key)
        listed = list(before) if isinstance(before, list) else ["lm_head", *(m for m in plain if m != "lm_head")]
        return {**said, key: [*listed, *(module for module in modules if module not in listed)]}

    return spare


def wider(scale: Tensor, need: Tensor) -> Tensor:
    """Return the scales, larger where the weights need it; none is zero. Kept in the scales' own type."""
    limits = torch.finfo(scale.dtype)
    new = torch.where(need > scale.float(), need, scale.float()).clamp(limits.tiny, limits.max).to(scale.dtype)
    return torch.where(need > scale.float(), new, scale)


INSTEAD = "Use the original weights, in float32, bfloat16 or float16."
