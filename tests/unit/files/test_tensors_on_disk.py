"""Tensors read from shards by name: the stored bits, counted; and a shard that changed meanwhile is told, not read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from factedit.errors import DataError
from factedit.files.checkpoint_weights import StoredTensor, check_safetensors
from factedit.files.file_on_disk import AT_ONCE
from factedit.files.tensors_on_disk import TensorsOnDisk

ONE = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4) / 7, "half": torch.tensor([1.5, -2.0]).half(),
    "brain": torch.tensor([[0.1], [3e38]]).bfloat16(), "empty": torch.zeros(0, 5), "single": torch.tensor(2.5),
}  # fmt: skip
TWO = {
    "whole": torch.tensor([2**40, -1]), "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "yes": torch.tensor([True, False, True]), "double": torch.tensor([1 / 3], dtype=torch.float64),
}  # fmt: skip


def write(folder: Path) -> dict[str, StoredTensor]:
    """Two shards, and what their headers say."""
    found: dict[str, StoredTensor] = {}
    for name, tensors in (("one.safetensors", ONE), ("two.safetensors", TWO)):
        save_file(tensors, folder / name)
        found |= check_safetensors(folder / name)
    return found


def opened(folder: Path, stored: dict[str, StoredTensor]) -> TensorsOnDisk:
    return TensorsOnDisk(folder, stored, {name: name for name in stored})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_kind_is_read_as_it_was_written_and_numbers_in_the_type_asked_for(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    files = opened(tmp_path, write(tmp_path))
    assert set(files) == ONE.keys() | TWO.keys()
    assert "a" in files
    assert "b" not in files
    read = 0
    for name, tensor in (ONE | TWO).items():
        found = files.read(name, dtype)
        expected = tensor.to(dtype) if tensor.is_floating_point() else tensor
        assert (found.dtype, found.shape) == (expected.dtype, tensor.shape), name
        assert torch.equal(found, expected), name
        size = tensor.numel() * tensor.element_size()
        read += size
        assert files.size(name) == size, "as it is stored, not as it is asked for"
        assert files.bytes_read == read, "counted as they are read"


def test_what_is_read_is_nobody_elses(tmp_path: Path) -> None:
    files = opened(tmp_path, write(tmp_path))
    files.read("a", torch.float32).zero_()
    assert torch.equal(files.read("a", torch.float32), ONE["a"])


def test_names_of_the_model_lead_to_those_in_the_files(tmp_path: Path) -> None:
    stored = write(tmp_path)
    files = TensorsOnDisk(tmp_path, {"model.a": stored["a"]}, {"model.a": "a"})
    assert list(files) == ["model.a"]
    assert torch.equal(files.read("model.a", torch.float32), ONE["a"])
    with pytest.raises(KeyError):
        files.read("a", torch.float32)


def test_a_tensor_larger_than_one_reading_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert AT_ONCE >= 1 << 20
    monkeypatch.setattr("factedit.files.file_on_disk.AT_ONCE", 7)
    files = opened(tmp_path, write(tmp_path))
    assert torch.equal(files.read("a", torch.float32), ONE["a"])


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewritten(path: Path) -> None:
    content = path.read_bytes()
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def another(path: Path) -> None:
    """The same bytes, size and times, in another file of that name."""
    status = path.stat()
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.replace(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [(longer, "its size, time or file is another"), (shorter, "its size, time or file is another"),
     (rewritten, "its size, time or file is another"), (another, "its size, time or file is another"),
     (Path.unlink, "it is gone")],
)  # fmt: skip
def test_a_shard_that_changed_since_is_told_and_the_others_are_read(
    change: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    files = opened(tmp_path, write(tmp_path))
    files.read("a", torch.float32)
    change(tmp_path / "one.safetensors")
    with pytest.raises(DataError) as found:
        files.read("a", torch.float32)
    assert f"one.safetensors were changed while the model was read from them ({why})" in str(found.value)
    assert "Put the file back, or get the model again" in str(found.value)
    assert torch.equal(files.read("whole", torch.float32), TWO["whole"])


def test_a_file_that_ends_too_early_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = opened(tmp_path, write(tmp_path))
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(DataError, match="it ends too early"):
        files.read("a", torch.float32)

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(DataError, match="it cannot be read: Input/output error"):
        files.read("a", torch.float32)


@pytest.mark.parametrize("change", [longer, rewritten, another, Path.unlink])
def test_a_shard_that_changes_in_the_middle_of_a_reading_is_told(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked at before the reading alone: half of a tensor could be of another file."""
    files = opened(tmp_path, write(tmp_path))
    really, changed = os.preadv, []

    def meanwhile(*asked: object) -> int:
        if not changed:
            changed.append(change(tmp_path / "one.safetensors"))
        return really(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", meanwhile)
    with pytest.raises(DataError, match=r"one\.safetensors were changed while the model was read from them"):
        files.read("a", torch.float32)


@pytest.mark.parametrize("other", [torch.zeros(7, 1), torch.zeros(2), torch.zeros(3, 2, dtype=torch.float16)])
def test_a_tensor_of_another_shape_or_type_than_was_checked_is_told(other: torch.Tensor, tmp_path: Path) -> None:
    """The shard was replaced between the look at all headers and its opening: it went into the model as it was."""
    stored = write(tmp_path)
    save_file({"a": other}, tmp_path / "one.safetensors")
    with pytest.raises(DataError, match=r"one\.safetensors were changed .*'a' is of another shape or type"):
        opened(tmp_path, {"a": stored["a"]})


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", header(b"{"), header(b"[]"), header(b"{}", 1 << 40), header(b"{}", (1 << 64) - 1), header(b"\xff"),
     header(b"[" * 100_000),
     header(json.dumps({"a": 3}).encode()), header(json.dumps({"a": {"dtype": "F32", "shape": [1]}}).encode()),
     header(json.dumps({"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}).encode()),
     header(json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": []}}).encode())],
    ids=range(12),
)  # fmt: skip
def test_a_header_that_became_another_is_told(content: bytes, tmp_path: Path) -> None:
    """Before: one that promises more than memory holds was an error that nobody foresaw."""
    stored = write(tmp_path)
    (tmp_path / "one.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"its header cannot be read|'a' is no longer there"):
        opened(tmp_path, {"a": stored["a"]})


def test_a_tensor_or_a_shard_that_is_gone_is_told_when_it_is_opened(tmp_path: Path) -> None:
    stored = write(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "one.safetensors")
    with pytest.raises(DataError, match="'a' is no longer there"):
        opened(tmp_path, {"a": stored["a"]})
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(DataError, match=r"one\.safetensors cannot be read: No such file or directory\. Get"):
        opened(tmp_path, {"a": stored["a"]})


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not walked


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_are_closed_when_nobody_has_them_and_after_an_error(tmp_path: Path) -> None:
    stored, before = write(tmp_path), open_files()
    files = opened(tmp_path, stored)
    assert open_files() == before + 2
    del files
    assert open_files() == before
    (tmp_path / "two.safetensors").write_bytes(b"broken")
    with pytest.raises(DataError):
        opened(tmp_path, stored)
    assert open_files() == before, "the shard that was sound is closed too"
