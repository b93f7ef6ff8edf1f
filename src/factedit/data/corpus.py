"""Text for second moments: local files or folders, or a data set of the Hugging Face hub, read as a stream.

Local files are `.txt` (one document; beyond `LONG` characters it is cut at the next line end) and `.jsonl`
(one document a line, in its field `text`), either also as `.gz`. A corpus is known by the content it will
give: the sha256 of its files, or the commit of the hub's data set, together with the order.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factedit.cache import sha256_file
from factedit.data.lines import read_lines
from factedit.data.records import Row, read_records
from factedit.errors import DataError, ResourceError, UsageError

TEXT_FILES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
LONG = 100_000
HELD = 10_000  # documents held at a time while their order is mixed


@dataclass(frozen=True)
class Corpus:
    """Documents to read from the beginning as often as wanted.

    Attributes:
        name: in words; holds no folder of this machine.
        fingerprint: sha256 of the content and its order, 64 hexadecimal digits.
        read: gives the documents from the beginning, blank ones among them.
    """

    name: str
    fingerprint: str
    read: Callable[[], Iterable[str]] = field(repr=False)

    def texts(self) -> Iterator[str]:
        """Yield the documents, without blank ones.

        Raises:
            DataError: there is none, or a file does not hold what it must.
        """
        empty = True
        for text in self.read():
            if text.strip():
                empty = False
                yield text
        if empty:
            raise DataError(f"The corpus {self.name} holds no text: give files with at least one document.")


def open_corpus(spec: str | Path, *, order_seed: int | None = None) -> Corpus:
    """Return the corpus of a file, a folder or a hub data set.

    Args:
        spec: a path, or `hf:REPOSITORY[@REVISION][:CONFIG[:SPLIT]]`, e.g.
            `hf:wikimedia/wikipedia:20231101.en`; the split is `train` unless said.
        order_seed: None for the order of the files (sorted by name) and of the documents in them; a number
            for an order mixed by that seed, `HELD` documents at a time.

    Raises:
        DataError: no such file, another kind of file, a folder without any, no text at all.
        UsageError: a hub data set without the package that reads it.
        ResourceError: the hub cannot be reached or knows no such data set.
    """
    if isinstance(spec, str) and spec.startswith("hf:"):
        return _hub(spec, order_seed)
    corpus = _local(Path(spec), order_seed)
    next(corpus.texts())
    return corpus


def _local(path: Path, seed: int | None) -> Corpus:
    files = _files(path)
    content = [[_kind(file), sha256_file(file)] for file in files]
    if seed is not None:
        random.Random(seed).shuffle(files)

    def read() -> Iterator[str]:
        documents = (text for file in files for text in _documents(file))
        return documents if seed is None else _mixed(documents, seed)

    return Corpus(_name(path.name, seed), _fingerprint("files", LONG, HELD, content, seed), read)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if not path.name.endswith(TEXT_FILES):
            raise DataError(f"{path} is not a kind of file that text is read from: {', '.join(TEXT_FILES)}.")
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder of text.")
    inside = (file for file in path.rglob("*") if file.name.endswith(TEXT_FILES) and file.is_file())
    files = sorted(inside, key=lambda file: file.relative_to(path).as_posix())
    if not files:
        raise DataError(f"The folder {path} holds no file that text is read from: {', '.join(TEXT_FILES)}.")
    return files


def _kind(file: Path) -> str:
    return file.name.removesuffix(".gz").rsplit(".", 1)[-1]


def _documents(file: Path) -> Iterator[str]:
    if _kind(file) == "jsonl":
        for line, fields in read_records(file):
            yield Row(f"{file}, line {line}", fields).text("text", empty=True)
        return
    held: list[str] = []
    size = 0
    for _, text in read_lines(file):
        held.append(text)
        size += len(text)
        if size >= LONG:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def _mixed(documents: Iterable[str], seed: int) -> Iterator[str]:
    """The documents in an order that depends on the seed alone, holding `HELD` of them at a time."""
    draw = random.Random(seed)
    held: list[str] = []
    for text in documents:
        if len(held) < HELD:
            held.append(text)
            continue
        at = draw.randrange(HELD)
        yield held[at]
        held[at] = text
    draw.shuffle(held)
    yield from held


def _hub(spec: str, seed: int | None) -> Corpus:
    repository, config, split = ([*spec.removeprefix("hf:").split(":"), "", ""])[:3]
    repository, _, revision = repository.partition("@")
    if not repository or spec.count(":") > 3:
        raise UsageError(f"{spec} is not of the form hf:REPOSITORY[@REVISION][:CONFIG[:SPLIT]].")
    datasets = _datasets_package()
    split = split or "train"
    commit = _from_hub(spec, lambda: _commit(repository, revision or None))

    def read() -> Iterator[str]:
        return _hub_texts(spec, _from_hub(spec, rows))

    def rows() -> Iterator[Any]:
        dataset = datasets.load_dataset(repository, config or None, split=split, streaming=True, revision=commit)
        return iter(dataset if seed is None else dataset.shuffle(seed=seed, buffer_size=HELD))

    fingerprint = _fingerprint("hub", HELD, repository, config, split, commit, seed)
    return Corpus(_name(f"{spec} at {commit[:12]}", seed), fingerprint, read)


def _hub_texts(spec: str, rows: Iterator[Any]) -> Iterator[str]:
    number = 0
    while (row := _from_hub(spec, lambda: next(rows, None))) is not None:
        number += 1
        yield Row(f"{spec}, row {number}", row).text("text", empty=True)


def _datasets_package() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "Text of the hub is read with the package 'datasets', which is not installed: "
            "pip install 'datasets>=4', or give a file or folder of text."
        ) from error
    if int(datasets.__version__.split(".")[0]) < 4:  # older ones can run code that comes with a data set
        raise UsageError(f"The package 'datasets' is {datasets.__version__}; 4 is needed: pip install 'datasets>=4'.")
    return datasets


def _commit(repository: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(repository, revision=revision).sha)


def _from_hub(spec: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # the client libraries raise errors of many families, none of them ours
        raise ResourceError(
            f"{spec} could not be read from the hub ({type(error).__name__}: {error}). "
            "Check name and network, or give a file or folder of text."
        ) from error


def _name(name: str, seed: int | None) -> str:
    return name if seed is None else f"{name}, order {seed}"


def _fingerprint(*parts: str | int | Sequence[Any] | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
