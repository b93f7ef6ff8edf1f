"""Tensors of a .gguf file, read and dequantised one by one when they are asked for, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from factedit.files.file_on_disk import FileOnDisk, changed_file
from factedit.files.gguf_config import config_of, shape_of
from factedit.files.gguf_file import in_transformers_layout, names_of
from factedit.files.gguf_reader import GgufFile, open_gguf
from factedit.files.gguf_tokenizer import load_gguf_tokenizer


class GgufOnDisk:
    """Tensors of a .gguf file by transformers' names and in its layout; see `OnDisk`.

    Args:
        path: the file.
        file: the same, its header checked.

    Attributes:
        bytes_read: so far, as they are stored.

    Raises:
        UnsupportedModel, DataError: a tensor that is not known, is missing, or has another shape than it must.
    """

    def __init__(self, path: Path, file: GgufFile) -> None:
        self.bytes_read, self._on_disk, self._file, self._shape = 0, FileOnDisk(path), file, shape_of(file)
        self._stored = {name: stored for stored, name in names_of(file, self._shape)}
        header = min((tensor.start for tensor in file.tensors.values()), default=0)
        if self._on_disk.start(header) != file.data[:header]:  # of the file that the header was read from
            raise changed_file(path, "its header is another")

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def size(self, name: str) -> int:
        """Return the bytes of a tensor as it is stored."""
        return self._file.tensors[self._stored[name]].size

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return a tensor, dequantised to float32 and then in a type.

        Raises:
            DataError: the file was changed, cut off or removed since it was opened.
            UnsupportedModel: the way it is stored cannot be read.
        """
        tensor = self._file.tensors[self._stored[name]]
        raw = np.empty(tensor.size, dtype=np.uint8)
        self._on_disk.fill(raw.data, tensor.start)
        self.bytes_read += tensor.size
        numbers = self._file.dequantised(tensor, raw)
        return torch.from_numpy(in_transformers_layout(self._shape, tensor.name, numbers)).to(dtype)


def open_gguf_streamed(path: Path) -> tuple[Any, Any, GgufOnDisk]:
    """Return the configuration and the tokenizer of a .gguf file, and its tensors; see `load_gguf`."""
    file = open_gguf(path)
    config = config_of(file)
    config.dtype = torch.float32  # as a model that was read whole says
    return config, load_gguf_tokenizer(file), GgufOnDisk(path, file)
