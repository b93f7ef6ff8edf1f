"""A folder of edits on disk: a model in the transformers format, and beside it what undoing needs.

    config.json, tokenizer, …                  loads like any model's folder
    model-….safetensors                        the tensors that no edit touched, in the base's shards
    edited-layer2-out.safetensors              one file for every matrix that an edit ever touched
    model.safetensors.index.json               which file holds what; its metadata holds the ledger's last hash
    factedit/ledger.jsonl                      what was done (ledger.py)
    factedit/originals/layer2-out.safetensors  the matrix as it was before any edit
    factedit/edits/<identity>/                 every edit that was ever on

A change writes a new folder, whose unchanged files are second names of the old one's, and the two are exchanged in one
step; where a shell works in the folder, its files are replaced instead (`replace_files`). One process at a time may
change a folder. Whatever a change builds on is first compared with its hash in the ledger.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from factedit.cache import link_or_copy, replace_files, replace_folder, settled, sha256_file
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import changed_at
from factedit.edit.place import own_files
from factedit.errors import DataError, UnsafeFile, first_line
from factedit.files.checkpoint_checks import INDEX, WEIGHTS
from factedit.files.checkpoint_weights import check_weights
from factedit.files.save import bytes_of, write_index, write_safetensors
from factedit.folders import is_worked_in
from factedit.stack.ledger import LEDGER, Entry, Matrix, read_ledger

OWN = "factedit"
HEAD = "factedit_ledger"


def edited_file(matrix: Matrix) -> str:
    """The file of the weights that holds an edited matrix."""
    return f"edited-layer{matrix.layer}-{matrix.matrix}.safetensors"


def original_file(matrix: Matrix) -> str:
    """The file that holds the matrix as it was, from the folder."""
    return f"{OWN}/originals/layer{matrix.layer}-{matrix.matrix}.safetensors"


def edit_folder(identity: str) -> str:
    """The folder of an edit, from the folder."""
    return f"{OWN}/edits/{identity[:16]}"


def is_stack(path: str | Path) -> bool:
    """Whether a path is a folder that `apply` wrote."""
    return (settled(Path(path)) / OWN / LEDGER).is_file()


class StackFolder:
    """A folder of edits, read.

    Args:
        path: the folder.

    Attributes:
        entries: the ledger.
        shards: the file of every tensor.

    Raises:
        DataError: no such folder, a broken ledger or index.
        ModelError, UnsafeFile: weights that are missing, damaged, or lead out of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = settled(Path(path))
        if not (self.path / OWN / LEDGER).is_file():
            raise DataError(
                f"{self.path} holds no edits: it has no {OWN}/{LEDGER}. Give a folder that 'factedit apply' wrote."
            )
        _refuse_links(self.path)
        check_weights(self.path, what=f"The model in {self.path}")
        try:
            index = json.loads((self.path / INDEX).read_text(encoding="utf-8"))
            self.shards: dict[str, str] = index["weight_map"]
            head = str(index["metadata"][HEAD])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{INDEX} of {self.path} does not name the ledger ({type(error).__name__}: {first_line(error)}): "
                "another program wrote it. Get the folder again, or make it anew."
            ) from error
        self.entries: list[Entry] = read_ledger(self.path / OWN / LEDGER, head)

    @property
    def head(self) -> Entry:
        """The last entry."""
        return self.entries[-1]

    def tensor(self, name: str) -> Tensor:
        """A tensor of the weights.

        Raises:
            DataError: it is not there.
        """
        return _tensor(self.path / self.shards.get(name, WEIGHTS), name)

    def original(self, matrix: Matrix) -> Tensor:
        """A matrix as it was before any edit, as it is stored.

        Raises:
            DataError: it is not there.
        """
        return _tensor(self.path / original_file(matrix), matrix.tensor)

    def edit(self, identity: str) -> Edit:
        """An edit that is or was on.

        Raises:
            DataError: it is damaged, or another one lies in its place.
        """
        edit = Edit.load(self.path / edit_folder(identity))
        if edit.identity != identity:
            raise DataError(
                f"{self.path / edit_folder(identity)} holds the edit {edit.identity[:12]}…, and the ledger asks for "
                f"{identity[:12]}…. Put the right one there."
            )
        return edit

    def check_files(self) -> None:
        """Compare the files of weights and the kept originals with their hashes in the ledger.

        Raises:
            DataError: one is missing, was changed, or is not the ledger's.
        """
        there = {path.name for path in self.path.glob("*.safetensors")}
        if there != set(self.head.shards) or set(self.shards.values()) != there:
            odd = sorted(there ^ set(self.head.shards)) or sorted(there ^ set(self.shards.values()))
            raise DataError(
                f"The files of weights in {self.path} are not those of its ledger: {', '.join(odd)}. "
                "Another program added or removed them. Make the folder anew."
            )
        for file, sha in {**self.head.shards, **{original_file(m): m.original for m in self.head.matrices}}.items():
            path = self.path / file
            if not path.is_file() or sha256_file(path) != sha:
                raise DataError(
                    f"{path} is not the file that the ledger names: it was changed, cut off or removed. "
                    "Get it from a copy, or make the folder anew."
                )

    def write(self, change: Change, target: Path, entry: EntryMaker) -> Entry:
        """Write the folder with what is new and a further entry, in the place of `target`.

        Args:
            change: what is new.
            target: where to; this folder itself, or a new one.
            entry: makes the entry.

        Raises:
            ResourceError: the disk is full or not writable; the old folder is as it was.
        """
        made: list[Entry] = []
        needed = bytes_of(change.tensors) + bytes_of({n: t for n, (_, t) in change.originals.items()})
        here = target.resolve() == self.path.resolve()
        if here and is_worked_in(self.path):
            build = lambda place: made.append(_build(self, place, change, entry, None))  # noqa: E731
            replace_files(build, target, own=change.replaced(self), last=INDEX, needed=needed)
            return made[0]
        take = link_or_copy if here else shutil.copyfile  # one file under two names would change in both folders
        needed += 0 if here else sum((self.path / file).stat().st_size for file in self.head.shards)
        replace_folder(lambda place: made.append(_build(self, place, change, entry, take)), target, needed=needed)
        return made[0]


EntryMaker = Callable[[dict[str, str], tuple[Matrix, ...]], Entry]
"""Makes an entry from the SHA-256 of every file of the weights and the matrices whose originals were kept."""


class Change:
    """What is new in a folder.

    Args:
        edits: that the folder does not yet hold.

    Attributes:
        tensors: to be written, by name, as they are stored.
        files: the file of every such tensor.
        originals: matrices that were never edited before, each with its tensor as it is stored.
    """

    def __init__(self, edits: Sequence[Edit] = ()) -> None:
        self.edits = tuple(edits)
        self.tensors: dict[str, Tensor] = {}
        self.files: dict[str, str] = {}
        self.originals: dict[str, tuple[Matrix, Tensor]] = {}

    def put(self, matrix: Matrix, original: Tensor, edits: Sequence[Edit]) -> None:
        """A matrix to be written: its original, as it is stored, with the edits on it."""
        weight = stacked(original, matrix, edits)
        self.tensors[matrix.tensor] = (weight if matrix.stored_in_out else weight.T).contiguous()
        self.files[matrix.tensor] = edited_file(matrix)

    def keep(self, matrix: Matrix, original: Tensor) -> None:
        """A matrix that is edited for the first time."""
        self.originals[matrix.tensor] = (matrix, original)

    def anew(self, folder: StackFolder) -> set[str]:
        """The files of weights that are written anew, or are gone since their last tensor moved out."""
        return {folder.shards[name] for name in self.tensors} | set(self.files.values())

    def replaced(self, folder: StackFolder) -> set[str]:
        """The files of a folder that the change takes the place of."""
        places = [edit_folder(edit.identity) for edit in self.edits]
        edits = {f"{place}/{name}" for place in places for name in own_files(folder.path / place)}
        return {INDEX, f"{OWN}/{LEDGER}", *edits, *(file for file in self.anew(folder) if file in folder.head.shards)}

    def write_kept(self, place: Path) -> tuple[Matrix, ...]:
        """Write edits and originals; the matrices, each with the SHA-256 of its original's file."""
        (place / OWN / "originals").mkdir(parents=True, exist_ok=True)
        for edit in self.edits:
            edit.save(place / edit_folder(edit.identity))
        return tuple(
            m.model_copy(update={"original": write_safetensors(place / original_file(m), {m.tensor: tensor})})
            for m, tensor in self.originals.values()
        )


def stacked(original: Tensor, matrix: Matrix, edits: Sequence[Edit]) -> Tensor:
    """A matrix `[d_in, d_out]` with the edits on it, in order.

    Args:
        original: as it was before any edit, as it is stored.
        matrix: which it is.
        edits: all edits; those that do not touch it are passed over.

    Raises:
        EditError: another shape, or values that are not finite.
    """
    weight = original if matrix.stored_in_out else original.T
    return changed_at((matrix.layer, matrix.matrix), weight, weights_of(edits))


def write_ledger(place: Path, entries: Sequence[Entry], shards: Mapping[str, str], size: int) -> None:
    """Write the ledger, and the index that names its last entry."""
    (place / OWN / LEDGER).write_text("".join(entry.line() for entry in entries), encoding="utf-8")
    write_index(place, shards, size, **{HEAD: entries[-1].hash})


def _build(
    folder: StackFolder, place: Path, change: Change, entry: EntryMaker, take: Callable[[Path, Path], object] | None
) -> Entry:
    """Write the changed folder; what did not change is taken from the old one, or left out where `take` is None."""
    anew = change.anew(folder)
    for path in sorted(folder.path.rglob("*")) if take else ():
        name = path.relative_to(folder.path).as_posix()
        if path.is_dir():
            (place / name).mkdir()
        elif take and name not in {INDEX, f"{OWN}/{LEDGER}", *anew}:
            take(path, place / name)
    (place / OWN).mkdir(exist_ok=True)
    hashes = {file: sha for file, sha in folder.head.shards.items() if file not in anew}
    shards = {**folder.shards, **change.files}
    for file in sorted(anew):
        own = [name for name, where in shards.items() if where == file]
        if own:  # a shard whose last tensor moved out is gone
            tensors = {n: change.tensors[n] if n in change.tensors else folder.tensor(n) for n in own}
            hashes[file] = write_safetensors(place / file, tensors)
    made = entry(hashes, change.write_kept(place))
    index = json.loads((folder.path / INDEX).read_text(encoding="utf-8"))
    write_ledger(place, [*folder.entries, made], shards, index["metadata"]["total_size"])
    return made


def _tensor(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(name)
            return found
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} does not give the tensor {name!r} ({first_line(error)}). Get the folder again."
        ) from error


def _refuse_links(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise UnsafeFile(f"{path} is a link to {path.resolve()}. Put the file itself there.")
