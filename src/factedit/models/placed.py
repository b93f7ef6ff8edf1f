"""A model that accelerate has placed: on several devices, in the processor's memory, on disk (`--device-map auto`).

accelerate's hooks bring the weights of a module to where it computes when it is called, and take them away. The engine
calls the same modules, so it follows; this file knows where a weight is that is not there (`_kept`), and puts a changed
matrix in its place: the hooks then bring the changed one. Nothing of accelerate is imported. On leaving the entry is
what it was, so that undoing is exact; a file on disk is never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from factedit.errors import UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.models.families import Contribution, MatrixName
from factedit.models.fetched import FetchedMatrix
from factedit.models.matrix import Matrix, MatrixHook, ValueHook

KeptWeights = dict[str, tuple[Any, str]]  # by name in the model: the mapping that keeps a weight, and its name there


class PlacedModel(EditableModel):
    """An `EditableModel` whose modules are where accelerate put them.

    Hidden states that the engine holds are on one device, where the token embeddings compute; what is seen of a layer
    elsewhere is brought there, and what takes its place is brought back.

    Args:
        model: a causal language model of transformers with accelerate's hooks; its hooks stay.
        tokenizer: its fast tokenizer.
        name: how to call it in results.

    Attributes:
        streamed: weights come and go, so that a layer is passed by all that there is while it is there.

    Raises:
        UnsupportedModel: as of any model; experts that are kept elsewhere.
    """

    fetched = True

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        self._kept = _kept(model)
        self.streamed = bool(self._kept)
        self._home = _where(model.get_input_embeddings())
        super().__init__(model, tokenizer, name=name)

    def _check(self) -> None:
        if self._mixtures and self._kept:
            raise UnsupportedModel(
                f"{self.name} has experts, and accelerate keeps weights of it elsewhere. Place all of it in memory: "
                "more devices, or a smaller type."
            )
        for device_hook in (hook for layer in self.layers for hook in _hooks(layer) if hasattr(hook, "io_same_device")):
            device_hook.io_same_device = True  # what a layer gives comes back to where the engine holds it
        super()._check()

    @property
    def device(self) -> torch.device:
        """Where the token embeddings compute."""
        return self._home

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer as it is now, wherever it is kept; see `EditableModel.tensor`."""
        tensor = super().tensor(name)
        if not tensor.is_meta:
            return tensor
        keeps, key = self._kept[name]
        stored: Tensor = keeps[key]
        return stored.detach()

    @property
    def words(self) -> Tensor:
        """The output matrix `[vocab, d_model]`, wherever it is kept."""
        weight = self.lm.get_output_embeddings().weight
        names = (name for name, parameter in self.lm.named_parameters(remove_duplicate=False) if parameter is weight)
        return self.tensor(next(names)).to(self._home)

    def matrix(self, layer: int, which: MatrixName = "out") -> Matrix:
        """Return one of the MLP's matrices; see `EditableModel.matrix`."""
        plain = super().matrix(layer, which)
        if type(plain) is not Matrix:  # of an expert, which is in memory
            return plain
        return PlacedMatrix(plain.place, plain.module, plain.name, plain.stored_in_out, plain.owner, self)

    @contextmanager
    def on_output(self, kind: Contribution, layer: int, hook: ValueHook) -> Iterator[None]:
        """See, or replace, what the residual receives; see `EditableModel.on_output`."""

        def brought(value: Tensor) -> Tensor | None:
            new = hook(value.to(self._home))
            return None if new is None else new.to(value.device)

        with super().on_output(kind, layer, brought):
            yield


@dataclass(frozen=True)
class PlacedMatrix(FetchedMatrix):
    """A matrix that may be kept elsewhere than where it is multiplied.

    Attributes:
        model: whose.
    """

    model: PlacedModel

    @contextmanager
    def _in_place(self, new: Tensor) -> Iterator[None]:
        """The matrix with another tensor, which the hooks bring; as before on leaving."""
        if not self.module.weight.is_meta:
            with super()._in_place(new):
                yield
            return
        keeps, key = self.model._kept[self.name]
        # of a mapping with files behind it this is asked before they are
        entries: dict[str, Tensor] = keeps.state_dict if hasattr(keeps, "state_dict") else keeps
        before: Tensor | None = entries.get(key)
        entries[key] = new.to("cpu" if before is None else before.device).contiguous()
        try:
            yield
        finally:
            if before is None:
                del entries[key]
            else:
                entries[key] = before

    @contextmanager
    def watched(self, hook: MatrixHook) -> Iterator[None]:
        """See what it reads and gives, or replace what it gives; see `Matrix.watched`."""
        home = self.model.device

        def brought(key: Tensor, value: Tensor) -> Tensor | None:
            new = hook(key.to(home), value.to(home))
            return None if new is None else new.to(value.device)

        with super().watched(brought):
            yield


def is_placed(model: Any) -> bool:
    """Return whether accelerate has put hooks on a model."""
    return isinstance(model, nn.Module) and any(hasattr(module, "_hf_hook") for module in model.modules())


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = getattr(module, "_hf_hook", None)
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))


def _kept(model: nn.Module) -> KeptWeights:
    """Where the weights are that hooks bring when they are needed."""
    kept: KeptWeights = {}
    for path, module in model.named_modules():
        for hook in _hooks(module):
            if not getattr(hook, "offload", False):
                continue
            for name, parameter in module.named_parameters(recurse=hook.place_submodules):
                if parameter.is_meta:
                    keeps, key = hook.weights_map, name
                    while hasattr(keeps, "prefix"):  # accelerate's view of a larger mapping
                        keeps, key = keeps.dataset, keeps.prefix + key
                    kept[f"{path}.{name}".removeprefix(".")] = keeps, key
    return kept


def _where(module: nn.Module) -> torch.device:
    """The device on which a module computes."""
    said = [hook.execution_device for hook in _hooks(module) if getattr(hook, "execution_device", None) is not None]
    if not said:
        weight: Tensor = module.weight  # type: ignore[assignment]
        return weight.device
    return torch.device("cuda", said[-1]) if isinstance(said[-1], int) else torch.device(said[-1])
