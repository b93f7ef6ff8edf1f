"""A model larger than memory: its layers are read from disk when they are run, and go (docs/decisions/0028).

Embeddings, final norm and output matrix stay; of the layers the one that runs is in memory, and the next one, which is
read meanwhile. Everything else is as of any model: the engine asks for a layer where it runs it (`present`), a matrix
is read where its values are asked for, and a changed matrix takes its place whenever its layer comes by.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from factedit.errors import NotStreamed, UnsupportedModel
from factedit.files.tensors_on_disk import OnDisk
from factedit.memory import keep_few_shapes, require_memory
from factedit.models.adapter import EditableModel
from factedit.models.check import prove_family
from factedit.models.families import MatrixName, Place
from factedit.models.fetched import FetchedMatrix
from factedit.models.finite import all_finite
from factedit.models.matrix import Matrix
from factedit.models.sound import refuse_slow

NARROWER = "Read it in half of that (--dtype bfloat16), free some memory, or take a machine with more."
PROVED = 2  # first layers on which the family's row is proven


class StreamedModel(EditableModel):
    """An `EditableModel` whose layers come from disk.

    Args:
        model: a causal language model of transformers on `meta`, but for its buffers.
        tokenizer: its fast tokenizer.
        files: its tensors, by the names of its `state_dict`.
        name: how to call it in results.
        device: where to compute.

    Attributes:
        files: what was read is counted there.

    Raises:
        UnsupportedModel: as of any model.
        NotStreamed: a mixture of experts.
        ResourceError: there is not memory enough for what stays and two layers.
    """

    fetched = streamed = True

    def __init__(self, model: Any, tokenizer: Any, files: OnDisk, *, name: str = "model", device: str = "cpu") -> None:
        self.files, self._to = files, torch.device(device)
        self._dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self._changed: dict[Place, Tensor] = {}
        self._held: int | None = None
        self._empty: list[tuple[nn.Module, str, nn.Parameter]] = []  # of the held layer: what stood there before
        self._coming: tuple[int, Future[dict[str, Tensor]]] | None = None
        self._reader = ThreadPoolExecutor(1, "factedit-layers")
        self._fingerprint = ""
        self._sound: set[str] = set()  # tensors that were looked at
        keep_few_shapes()  # else what they take grows with layers and tokens
        super().__init__(model, tokenizer, name=name)

    def _refuse(self, model: Any, tokenizer: Any) -> None:
        refuse_slow(tokenizer)

    def _check(self) -> None:
        """Bring in what stays, and prove the row on the first layers."""
        if self._mixtures:
            raise NotStreamed(f"{self.name} has experts, whose layers are not streamed. Load it whole.")
        each = self._dtype.itemsize
        whole = sum(each * parameter.numel() for name, parameter in self.lm.named_parameters() if name in self.files)
        sizes = [sum(each * parameter.numel() for parameter in layer.parameters()) for layer in self.layers]
        stays = whole - sum(sizes) + 2 * max(sizes, default=0)
        require_memory(f"{self.name}, streamed (what stays, and two layers),", stays, NARROWER)
        for owner, key, name in _empty_places(self.lm):
            if not name.startswith(f"{self.family.layers}.") and name in self.files:
                self._put(owner, key, self._read(name))
        self.lm.tie_weights()
        for module in self.lm.modules():
            module._buffers = {
                key: None if buffer is None else buffer.to(self._to) for key, buffer in module._buffers.items()
            }
        for n, layer in enumerate(self.layers):
            layer.register_forward_pre_hook(lambda module, _args, n=n: self._called(n, module))
        path = self.family.layers.rpartition(".")[2]
        layers, listed, places = self.layers, getattr(self.body, path), self.places
        self.layers, self.places = layers[:PROVED], places[:PROVED]
        self.n_layer = len(self.layers)
        setattr(self.body, path, nn.ModuleList(self.layers))
        try:
            prove_family(self)
        finally:
            self.layers, self.places, self.n_layer = layers, places, len(layers)
            setattr(self.body, path, listed)

    # -- layers --------------------------------------------------------------------------------------

    @contextmanager
    def present(self, layer: int, then: int | None = None) -> Iterator[None]:
        """Inside, a layer's weights are in memory; the one that comes then is read meanwhile.

        It stays until another one comes, so that the way back begins without reading.
        """
        self._hold(layer)
        if then is not None and then != self._held and (self._coming is None or self._coming[0] != then):
            self._forget()
            self._coming = then, self._reader.submit(self._layer, then)
        yield

    def let_go(self) -> None:
        """Let the held layer go, and the one that is being read; whoever asks for one again gets it."""
        self._forget()
        self._release()

    @property
    def pass_bytes(self) -> int:
        """Bytes that are read for a pass through all layers."""
        return sum(self.files.size(name) for name in self.files if name.startswith(f"{self.family.layers}."))

    def _called(self, layer: int, module: nn.Module) -> None:
        """Of a call that the engine does not make: the layer comes, unless its `forward` is replaced."""
        if "forward" not in module.__dict__:
            self._hold(layer)

    def _hold(self, layer: int) -> None:
        if self._held == layer:
            return
        self._release()
        if self._coming is not None and self._coming[0] == layer:
            coming, self._coming = self._coming[1], None  # one that failed is not asked again
            tensors = coming.result()
        else:
            self._forget()
            tensors = self._layer(layer)
        for owner, key, name in _empty_places(self.layers[layer], self._prefix(layer)):
            self._empty.append((owner, key, owner._parameters[key]))  # type: ignore[arg-type]
            self._put(owner, key, tensors[name])
        self._held = layer

    def _release(self) -> None:
        """Let the held layer go: its parameters are on `meta` again."""
        for owner, key, empty in self._empty:
            owner._parameters[key] = empty
        self._empty, self._held = [], None

    def _forget(self) -> None:
        """Let what is being read go, read or not."""
        if self._coming is not None and not self._coming[1].cancel():
            self._coming[1].exception()
        self._coming = None

    def _layer(self, layer: int) -> dict[str, Tensor]:
        """Return the tensors of a layer as it is now."""
        changed = {self.matrix(*place).name: weight for place, weight in self._changed.items() if place[0] == layer}
        names = [self._prefix(layer) + name for name, _ in self.layers[layer].named_parameters()]
        return {name: changed[name] if name in changed else self._read(name) for name in names}

    def _prefix(self, layer: int) -> str:
        return f"{self.family.layers}.{layer}."

    def _read(self, name: str) -> Tensor:
        tensor = self.files.read(name, self._dtype)
        if name not in self._sound and not all_finite(tensor):
            raise UnsupportedModel(
                f"{name} holds values that are not finite (NaN or infinity). Get a sound copy of the model."
            )
        self._sound.add(name)
        return tensor.to(self._to)

    @staticmethod
    def _put(owner: nn.Module, key: str, tensor: Tensor) -> None:
        owner._parameters[key] = nn.Parameter(tensor, requires_grad=False)

    # -- matrices and identity -----------------------------------------------------------------------

    def matrix(self, layer: int, which: MatrixName = "out") -> Matrix:
        """Return one of the MLP's matrices; see `EditableModel.matrix`. Its values are read where they are asked."""
        plain = super().matrix(layer, which)
        return StreamedMatrix(plain.place, plain.module, plain.name, plain.stored_in_out, plain.owner, self)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._to

    def fingerprint(self) -> str:
        """Return a hash of all weights, from one pass over the files; the unchanged model's is taken once."""
        if self._changed:
            return self._weights.as_type(None)
        self._fingerprint = self._fingerprint or self._weights.as_type(None)
        return self._fingerprint

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer as it is now; see `EditableModel.tensor`."""
        if not name.startswith(f"{self.family.layers}.") or name not in self.files:
            return super().tensor(name)
        changed = (weight for place, weight in self._changed.items() if self.matrix(*place).name == name)
        tensor = next(changed, None)
        return self._read(name) if tensor is None else tensor


@dataclass(frozen=True)
class StreamedMatrix(FetchedMatrix):
    """A matrix that is read where its values are asked for.

    Attributes:
        model: whose.
    """

    model: StreamedModel

    @contextmanager
    def _in_place(self, new: Tensor) -> Iterator[None]:
        """The matrix with another tensor whenever its layer comes; as before on leaving."""
        before = self.model._changed.get(self.place)
        self._set(new.to(self.model.device).contiguous())
        try:
            yield
        finally:
            self._set(before)

    def _set(self, weight: Tensor | None) -> None:
        model = self.model
        if weight is None:
            del model._changed[self.place]
        else:
            model._changed[self.place] = weight
        model._forget()  # it may be this layer, as it was
        if model._held == self.place[0]:
            try:
                model._put(self.module, "weight", model._read(self.name) if weight is None else weight)
            except BaseException:
                model._release()  # else the layer would go on with the other matrix
                raise


def _empty_places(module: nn.Module, prefix: str = "") -> list[tuple[nn.Module, str, str]]:
    """Owner, key and full name of the parameters on `meta`."""
    return [
        (owner, key, prefix + (f"{path}.{key}" if path else key))
        for path, owner in module.named_modules()
        for key, parameter in owner._parameters.items()
        if parameter is not None and parameter.is_meta
    ]
