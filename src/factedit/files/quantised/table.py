"""A folder whose `config.json` says that its weights are quantised: what they are, and their values.

The kinds are those of `KINDS`. Whatever else a configuration names is refused with their names: weights that are read
by the wrong rule look like weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from factedit.errors import FacteditError, ModelError, UnsupportedModel, first_line, shown
from factedit.files.checkpoint_weights import StoredTensor
from factedit.files.quantised import awq, bitsandbytes, compressed, fp8, gptq, mxfp4
from factedit.files.quantised.kind import INSTEAD, Kind, Packed, Parts

KINDS = {
    kind.name: kind
    for kind in (awq.KIND, bitsandbytes.KIND, compressed.KIND, fp8.BY_ROWS, fp8.KIND, gptq.KIND, mxfp4.KIND)
}
SAID = ("quantization_config", "compression_config")
_CONV1D = {"gpt2", "openai-gpt", "gpt_bigcode"}  # matrices stored [d_in, d_out]: quantisers turn them, or do not
# Of activations and caches, which are not quantised here.
_ACTIVATIONS = (
    ".input_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale", ".input_zero_point", ".input_global_scale",
    ".activation_scale", ".activation_scale_inv",
)  # fmt: skip


@dataclass(frozen=True)
class Quantised:
    """The quantised weights of a folder.

    Attributes:
        folder: where they are.
        what: how to name the model in messages.
        kind: one of `KINDS`.
        said: the settings, as the configuration has them.
        packed: the quantised weights, by the name of the weight each stands for.
        stored: the headers of all tensors of the files.
    """

    folder: Path
    what: str
    kind: Kind
    said: Mapping[str, Any]
    packed: Mapping[str, Packed]
    stored: Mapping[str, StoredTensor]

    @property
    def plain(self) -> list[str]:
        """The tensors that are weights as they are."""
        parts = {name for packed in self.packed.values() for name in packed.parts.values()}
        return [name for name in self.stored if name not in parts and not name.endswith(_ACTIVATIONS)]

    def plain_modules(self, but: Iterable[str] = ()) -> list[str]:
        """Return the modules whose matrix is stored as it is, without those of some weights."""
        left_out = set(but)
        names = [
            n for n in self.plain if n.endswith(".weight") and len(self.stored[n].shape) == 2 and n not in left_out
        ]
        return sorted(name.removesuffix(".weight") for name in names)

    def as_read(self) -> dict[str, StoredTensor]:
        """Return the headers of the weights that are read: the quantised ones as float32 of their whole shape."""
        headers = {name: self.stored[name] for name in self.plain}
        for name, packed in self.packed.items():
            headers[name] = StoredTensor(self.stored[next(iter(packed.parts.values()))].file, "F32", packed.shape)
        return headers

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as it is stored."""
        with safe_open(self.folder / self.stored[name].file, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors as they are stored."""
        return {name: self.tensor(name) for name in self.stored}

    def shards(self) -> dict[str, str]:
        """Return the file of every tensor."""
        return {name: tensor.file for name, tensor in self.stored.items()}

    def parts(self, packed: Packed) -> Parts:
        """Return what a weight is stored as."""
        return {role: self.tensor(name) for role, name in packed.parts.items()}

    def in_short(self) -> tuple[str, int]:
        """Return the kind's name, and how many weights are quantised."""
        return self.kind.name, len(self.packed)

    def each_weight(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight by name, one after the other, the quantised ones dequantised, float32; see `weights`."""
        for name in self.plain:
            yield name, self.tensor(name)
        for name, packed in self.packed.items():
            yield name, self.values(packed, self.parts(packed))

    def weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return all weights by name; the quantised ones dequantised in float32 and rounded once to a type.

        Raises:
            ModelError: scales that are not finite, or tensors that do not fit together.
        """
        return {name: tensor.to(dtype) if name in self.packed else tensor for name, tensor in self.each_weight()}

    def values(self, packed: Packed, parts: Parts) -> Tensor:
        """Return what a weight stands for, float32 in transformers' layout.

        Raises:
            ModelError: scales that are not finite, or tensors that do not fit together.
        """
        try:
            weight = self.kind.read(packed, parts).contiguous()
        except Exception as error:  # tensors of others, by formulas that expect sound ones: anything may be raised
            raise ModelError(
                f"The tensors of {packed.name} of {self.what} do not fit together as {self.kind.name} stores them "
                f"({first_line(error)}). Get the model again."
            ) from error
        if tuple(weight.shape) != packed.shape:
            raise ModelError(
                f"{packed.name} of {self.what} is {list(packed.shape)}, and its tensors give {list(weight.shape)}. "
                "Get the model again."
            )
        if not bool(torch.isfinite(weight).all()):
            scales = [name for role, name in packed.parts.items() if _not_finite(parts[role])]
            raise ModelError(
                f"{packed.name} of {self.what} cannot be dequantised: {', '.join(scales) or 'a value'} holds NaN or "
                "infinity. Get a sound copy of the model."
            )
        return weight


def _not_finite(tensor: Tensor) -> bool:
    if tensor.dtype in (torch.float8_e8m0fnu, torch.uint8):
        return tensor.dtype != torch.uint8 and bool((tensor.view(torch.uint8) == 255).any())
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all())


def settings_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a configuration says of quantised weights; None where there are none."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for key in SAID:
            if part.get(key):
                said = part[key]
                return said if isinstance(said, dict) else {"quant_method": said}
    return None


def kind_of(said: Mapping[str, Any], what: str) -> Kind:
    """Return the kind that settings name.

    Raises:
        UnsupportedModel: none that is read.
    """
    name = said.get("quant_method") or ("compressed-tensors" if "config_groups" in said else None)
    if not isinstance(name, str) or name not in KINDS:
        raise UnsupportedModel(
            f"The weights of {what} are quantised by {shown(name) if name else 'an unnamed method'}, which is not "
            f"read. Read are {', '.join(KINDS)} and the kinds of .gguf files. {INSTEAD}"
        )
    return KINDS[name]


def quantised(
    folder: Path, config: Mapping[str, Any], stored: Mapping[str, StoredTensor], what: str
) -> Quantised | None:
    """Return the quantised weights of a folder; None where its configuration names none.

    Args:
        folder: whose files were checked.
        config: as its file has it.
        stored: the headers of its tensors.
        what: how to name the model in messages.

    Raises:
        UnsupportedModel: a kind or a variant of one that is not read.
        ModelError: tensors that are missing or do not fit.
    """
    said = settings_of(config)
    if said is None:
        return None
    kind = kind_of(said, what)
    if config.get("model_type") in _CONV1D:
        raise UnsupportedModel(
            f"{what} is a quantised {config['model_type']}, whose matrices quantisers store turned or not. {INSTEAD}"
        )
    whole = Quantised(folder, what, kind, said, {}, stored)
    try:
        packed = kind.find(said, stored, whole.tensor)
    except FacteditError:
        raise
    except Exception as error:  # settings and headers of others: anything may be raised
        raise ModelError(
            f"What the config.json of {what} says of its quantised weights ({kind.name}), or a tensor of them, is "
            f"damaged ({type(error).__name__}: {first_line(error)}). Get the model again."
        ) from error
    return Quantised(folder, what, kind, said, packed, stored)
