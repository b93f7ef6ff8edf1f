"""Which weights a model has, as one hash.

The fingerprint is a sha256, since results and edits are bound to it for good. It takes a second per gigabyte or two, so
it is kept with a quick hash of the same bits (xxh3, 128 bits, ten times as fast): while the quick hash is what it was,
so is the fingerprint. No version counter of a tensor is trusted, since a write through `.data` does not move it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

NamedTensors = Callable[[], Iterable[tuple[str, Tensor]]]  # by name; an iterator gives them in the order of the names
TOKEN_RULES = 2  # of positions.py; raised when the same text and tokenizer give other positions than before
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_OF_NO_EFFECT = ("transformers_version", "architectures")


class Fingerprint:
    """The fingerprint of a module's weights, hashed anew only where a bit differs from what was seen before.

    Args:
        module: whose.
        weights: gives them, where they are not in its memory.
    """

    def __init__(self, module: nn.Module, weights: NamedTensors | None = None) -> None:
        self._weights = weights or (lambda: module.state_dict(keep_vars=True).items())
        self._stays = weights is None
        self._found: dict[bytes, str] = {}

    def now(self) -> str:
        """Return the sha256 of all names, types, shapes and bits: 64 hexadecimal digits."""
        seen = self.glance()
        if seen not in self._found:
            self._found[seen] = self.as_type(None)
        return self._found[seen]

    def glance(self) -> bytes:
        """Return the quick hash of the same, by which to tell within one process whether anything was changed."""
        glance = xxhash.xxh3_128()
        memories: set[tuple[int, torch.dtype, torch.Size, tuple[int, ...]]] = set()
        for head, tensor in _headed(self._weights()):
            glance.update(head)
            memory = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if memory not in memories:  # a head tied to the embeddings is the same memory
                glance.update(_bits(tensor))
            if self._stays:  # else the next one may come to lie where this one was
                memories.add(memory)
        return glance.digest()

    def type_with(self, fingerprint: str, current: torch.dtype) -> str:
        """Return the type, other than their own, in which the weights have a fingerprint; empty where there is none."""
        others = [dtype for dtype in _TYPES if dtype != current]
        fitting = next((dtype for dtype in others if self.as_type(dtype) == fingerprint), "")
        return str(fitting).removeprefix("torch.")

    def as_type(self, dtype: torch.dtype | None) -> str:
        """Return the fingerprint that the weights would have if they were loaded in another type."""
        digest = hashlib.sha256()
        for head, tensor in _headed(self._weights(), dtype):
            digest.update(head)
            digest.update(_bits(tensor))
        return digest.hexdigest()


def setup_of(config: Any, tokenizer: Any) -> str:
    """Return a hash of what decides the numbers beside the weights: configuration, tokenizer and the rules of reading
    it.

    64 hexadecimal digits. How the tokenizer pads and cuts is left out: every call says it, and leaves it behind.
    """
    told = {k: v for k, v in config.to_dict().items() if not k.startswith("_") and k not in _OF_NO_EFFECT}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    digest.update(f"{TOKEN_RULES} {_unpadded(tokenizer.backend_tokenizer)}".encode())
    return digest.hexdigest()


def _unpadded(backend: Any) -> str:
    """Return a tokenizer of the tokenizers library as text, as it is while it neither pads nor cuts."""
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    try:
        return str(backend.to_str())
    finally:
        if padding:
            backend.enable_padding(**padding)
        if truncation:
            backend.enable_truncation(**truncation)


def _headed(weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype | None = None) -> Iterator[tuple[bytes, Tensor]]:
    """Give each weight in the order of its name, with what stands before its bits in the hash."""
    for name, tensor in weights if isinstance(weights, Iterator) else sorted(weights):
        values = tensor.detach()
        if dtype is not None and values.is_floating_point():
            values = values.to(dtype)
        yield f"{name} {values.dtype} {tuple(values.shape)}\n".encode(), values


def _bits(tensor: Tensor) -> memoryview:
    flat = tensor.cpu().contiguous()
    return flat.view(-1).view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
