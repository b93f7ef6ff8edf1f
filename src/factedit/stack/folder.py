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
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from factedit.cache import link_or_copy, replace_files, replace_folder, settled, sha256_file
from factedit.edit.artefact import Edit
from factedit.edit.manifest import MANIFEST, edits_inside
from factedit.errors import DataError, ModelError, UnsafeFile, first_line
from factedit.files.checkpoint_checks import INDEX, WEIGHTS
from factedit.files.checkpoint_weights import check_weights
from factedit.files.quantised.table import Quantised, quantised
from factedit.files.save import bytes_of, outlines, write_index, write_safetensors
from factedit.folders import is_worked_in
from factedit.paths import is_name
from factedit.safe import parse_json
from factedit.stack.change import Change
from factedit.stack.ledger import LEDGER, Entry, LedgerMatrix, read_ledger
from factedit.stack.names import HEAD, OWN, edit_folder, kept_config, original_file
from factedit.stack.original import CONFIG, Original, config_with, read_original

_APPLIED = "Give a folder that 'factedit apply' wrote."
_AN_EDIT = (
    "It is an edit's own folder, which is in no model's weights until it is applied: leave it out, or take it off in "
    "memory (EditedModel.undo)."
)


def is_stack(path: str | Path) -> bool:
    """Return whether a path is a folder that `apply` wrote."""
    return is_name(path) and (settled(Path(path)) / OWN / LEDGER).is_file()


class StackFolder:
    """A folder of edits, read.

    Args:
        path: the folder.

    Attributes:
        entries: the ledger.
        shards: the file of every tensor.
        stored: every tensor, as the headers of the files have it.

    Raises:
        DataError: no such folder, a broken ledger or index.
        ModelError, UnsafeFile: weights that are missing, damaged, or lead out of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = settled(Path(path))
        if not (self.path / OWN / LEDGER).is_file():
            advice = _AN_EDIT if (self.path / MANIFEST).is_file() else edits_inside(self.path) or _APPLIED
            raise DataError(f"{self.path} holds no edits: it has no {OWN}/{LEDGER}. {advice}")
        _refuse_links(self.path)
        self.stored = check_weights(self.path, what=str(self.path))
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
        """Return a tensor of the weights.

        Raises:
            DataError: it is not there.
        """
        return _tensor(self.path / self.shards.get(name, WEIGHTS), name)

    def original(self, matrix: LedgerMatrix) -> Original:
        """Return a matrix as it was before any edit.

        Raises:
            DataError: it is not there.
        """
        path = self.path / original_file(matrix)
        try:
            return read_original(path, matrix, kept_config(self.path), str(self.path))
        except (OSError, SafetensorError, ModelError) as error:
            raise DataError(
                f"{path} does not give the matrix {matrix.tensor!r} ({first_line(error)}). Get the folder again."
            ) from error

    def quantised(self) -> Quantised | None:
        """Return the weights of a quantised folder that are quantised now; None of any other folder.

        Raises:
            DataError: the configuration that the folder began with is not there.
        """
        if not self.head.config:
            return None
        try:
            config = parse_json(kept_config(self.path).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{kept_config(self.path)} cannot be read ({error}). Get the folder again.") from error
        what = str(self.path)
        return quantised(self.path, config, self.stored, what)

    def configuration(self, matrices: Sequence[LedgerMatrix], edits: Sequence[Edit]) -> bytes | None:
        """Return the configuration of a quantised folder with the edits that stand; None of any other folder."""
        source = self.quantised()
        return config_with(kept_config(self.path).read_bytes(), matrices, edits, source) if source else None

    def edit(self, identity: str) -> Edit:
        """Return an edit that is or was on.

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

    def taken_off(self, identities: Sequence[str]) -> list[Edit] | None:
        """Return edits that are to be taken off; None where the folder of one is lost, which is said: every matrix is
        then computed anew from those that are kept.

        Raises:
            DataError: one is there and damaged.
        """
        lost = [identity[:12] for identity in identities if not (self.path / edit_folder(identity)).exists()]
        if lost:
            logging.getLogger("factedit").warning(
                "The folder of the edit %s is lost. It is taken off all the same, by the matrices that are kept.",
                ", ".join(lost),
            )
            return None
        try:
            return [self.edit(identity) for identity in identities]
        except DataError as error:
            raise DataError(
                f"{error} Where its folder is removed it is taken off by the matrices that are kept."
            ) from error

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
        kept = {original_file(m): m.original for m in self.head.matrices}
        if self.head.config:
            kept[kept_config(Path()).as_posix()] = self.head.config
        for file, sha in {**self.head.shards, **kept}.items():
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
        needed = bytes_of(change.tensors) + sum(bytes_of(original.tensors) for original in change.originals.values())
        here = target.resolve() == self.path.resolve()
        if here and is_worked_in(self.path):
            build = lambda place: made.append(_build(self, place, change, entry, None))  # noqa: E731
            replace_files(build, target, old=change.replaced(self), last=INDEX, needed=needed)
            return made[0]
        take = link_or_copy if here else shutil.copyfile  # one file under two names would change in both folders
        needed += 0 if here else sum((self.path / file).stat().st_size for file in self.head.shards)
        replace_folder(lambda place: made.append(_build(self, place, change, entry, take)), target, needed=needed)
        return made[0]


EntryMaker = Callable[[dict[str, str], tuple[LedgerMatrix, ...]], Entry]
"""Makes an entry from the SHA-256 of every file of the weights and the matrices whose originals were kept."""


def keep_config(place: Path, matrices: Sequence[LedgerMatrix], edits: Sequence[Edit], source: Quantised) -> str:
    """Keep the configuration of a new quantised folder as it is, and set it for the edits; the SHA-256 of the first."""
    original = (place / CONFIG).read_bytes()
    kept_config(place).write_bytes(original)
    (place / CONFIG).write_bytes(config_with(original, matrices, edits, source))
    return sha256_file(kept_config(place))


def write_ledger(place: Path, entries: Sequence[Entry], shards: Mapping[str, str], size: int) -> None:
    """Write the ledger, and the index that names its last entry."""
    (place / OWN / LEDGER).write_text("".join(entry.line() for entry in entries), encoding="utf-8")
    write_index(place, shards, size, **{HEAD: entries[-1].hash})


def _build(
    folder: StackFolder, place: Path, change: Change, entry: EntryMaker, take: Callable[[Path, Path], object] | None
) -> Entry:
    """Write the changed folder; what did not change is taken from the old one, or left out where `take` is None."""
    anew, config = change.anew(folder), {CONFIG} if change.config is not None else set()
    for path in sorted(folder.path.rglob("*")) if take else ():
        name = path.relative_to(folder.path).as_posix()
        if path.is_dir():
            (place / name).mkdir()
        elif take and name not in {INDEX, f"{OWN}/{LEDGER}", *config, *anew}:
            take(path, place / name)
    (place / OWN).mkdir(exist_ok=True)
    hashes = {file: sha for file, sha in folder.head.shards.items() if file not in anew}
    shards = {name: file for name, file in folder.shards.items() if name not in change.gone} | change.files
    stored = outlines(folder.stored)
    size = _size(folder) + bytes_of(change.tensors)
    size -= bytes_of({n: stored[n] for n in {*change.tensors, *change.gone} if n in folder.shards})
    if change.config is not None:
        (place / CONFIG).write_bytes(change.config)
    for file in sorted(anew):
        names = [name for name, where in shards.items() if where == file]
        if names:  # a shard whose last tensor moved out is gone
            tensors = {n: change.tensors[n] if n in change.tensors else stored[n] for n in names}
            hashes[file] = write_safetensors(place / file, tensors, folder.tensor)
    made = entry(hashes, change.write_kept(place))
    write_ledger(place, [*folder.entries, made], shards, size)
    return made


def _size(folder: StackFolder) -> int:
    """How many bytes the tensors of a folder take, as its index says."""
    return int(json.loads((folder.path / INDEX).read_text(encoding="utf-8"))["metadata"]["total_size"])


def _tensor(path: Path, name: str) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} does not give the tensor {name!r} ({first_line(error)}). Get the folder again."
        ) from error


def _refuse_links(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise UnsafeFile(f"{path} is a link to {path.resolve()}. Put the file itself there.")
