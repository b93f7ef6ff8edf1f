"""Put edits on a model in a folder, and take them off.

The weights of a folder are always `base + edits`: every touched matrix is computed from its kept original and the
edits that stand, in order, by the one function that also `Edit.applied_to` uses. Taking an edit off, also from the
middle, therefore gives the bits as if it had never been on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from factedit.cache import locked, replace_files, settled
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import places_of
from factedit.errors import EditError, UsageError
from factedit.files.checkpoint_checks import INDEX, WEIGHTS, read_json
from factedit.files.quantised.table import Quantised
from factedit.files.save import ReadTensor, bytes_of, copy_rest, shards_of, tensors_of, write_rest, write_shards
from factedit.models.adapter import EditableModel
from factedit.models.families import Family, split_name
from factedit.models.family_table import family_of, model_types_of
from factedit.models.load import STORED, load
from factedit.outputs import check_apart, check_writable
from factedit.stack.change import Change
from factedit.stack.folder import StackFolder, is_stack, keep_config, write_ledger
from factedit.stack.ledger import Entry, LedgerMatrix, Standing, next_entry
from factedit.stack.opened import open_base
from factedit.stack.original import Original, touches
from factedit.stack.packed import original_of, quantised_source, told_of_quantised
from factedit.stack.stand import OfFolder, OfModel, Stand, conflicts, stand_on


def apply(
    model: EditableModel | str | Path,
    edits: Sequence[Edit],
    folder: str | Path | None = None,
    *,
    force: bool = False,
    requantise: bool = False,
) -> Entry:
    """Put edits on a model, one after the other, into a folder that `transformers` loads.

    Args:
        model: a model in memory (not changed), whatever `load` takes, or a folder that `apply` wrote. Weights are kept
            in the type they have.
        edits: in order.
        folder: where to: a new folder. Not needed for a folder that `apply` wrote, which is then replaced.
        force: also edits that were made for other weights.
        requantise: of a quantised folder: quantise edited matrices anew; default: they are stored unquantised.

    Returns:
        The ledger's new entry; its `conflicts` tell which edits are about the same fact, and what of a change is lost.

    Raises:
        UsageError: no edits, no folder.
        EditError: an edit made for another model, of other shapes, not finite, or on already; the folder exists; a
            quantised matrix that can only be quantised anew.
        ResourceError: the disk is full or not writable, or another process keeps the folder; nothing was changed.
    """
    if not edits:
        raise UsageError("There is nothing to apply: name at least one edit.")
    from_stack = not isinstance(model, EditableModel) and is_stack(model)
    if folder is None and not from_stack:
        raise UsageError("Name a folder for the edited model (--out).")
    target = Path(folder or str(model))
    source = str(getattr(model.lm, "name_or_path", "")) if isinstance(model, EditableModel) else str(model)
    if source and not (from_stack and target.resolve() == Path(source).resolve()):
        check_apart([target], [Path(source)])
    check_writable(target)
    with locked(target, *([source] if from_stack else [])):  # until the change is written: else another is lost
        return _apply(model, edits, settled(target), _How(force, requantise), from_stack=from_stack)


class _How(NamedTuple):
    force: bool
    requantise: bool


def _apply(
    model: EditableModel | str | Path, edits: Sequence[Edit], target: Path, how: _How, *, from_stack: bool
) -> Entry:
    """`apply`, with the folders locked."""
    if target.exists() and not (from_stack and target.resolve() == Path(str(model)).resolve()) and _holds(target):
        raise EditError(
            f"{target} exists. To put further edits on a folder of edits, give it as the model; else name a new folder."
        )
    if from_stack:
        return _extend(StackFolder(str(model)), edits, target, how)
    loaded = model if isinstance(model, EditableModel) else load(str(model), dtype=STORED, stream=None)
    return _begin(loaded, edits, target, how)


def _holds(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())


def revert(folder: str | Path, edit: str | Path | Edit | None = None, *, force: bool = False) -> Entry:
    """Take an edit off, or all of them: the same bits as if it had never been on.

    Args:
        folder: a folder that `apply` wrote; it is replaced.
        edit: an edit, its folder, or the first digits of its identity; None takes off all.
        force: also where a later edit was computed for the model with this one on it.

    Returns:
        The ledger's new entry.

    Raises:
        UsageError: no such edit on the model, or several.
        EditError: a later edit needs this one.
        DataError: the folder is damaged.
        ResourceError: the disk is full or not writable, or another process keeps the folder, which is as it was.
    """
    with locked(folder):  # until the change is written: else another is lost
        return _revert(StackFolder(folder), edit, force)


def _revert(stack: StackFolder, edit: str | Path | Edit | None, force: bool) -> Entry:
    """`revert`, with the folder locked."""
    stack.check_files()
    before = stack.head.standing
    gone = tuple(standing.identity for standing in _named(stack, edit))
    rest = tuple(standing for standing in before if standing.identity not in gone)
    needing = [f"{s.text} needs {n[:12]}" for s in rest for n in s.needs if n in gone]
    if needing and not force:
        raise EditError(
            f"{stack.path} cannot be recomputed without it: {'; '.join(needing)}, since it was computed for the model "
            "with that edit on. Revert the later edit first, or force it."
        )
    change, edits = Change(), [stack.edit(standing.identity) for standing in rest]
    taken = stack.taken_off(gone)
    for matrix in stack.head.matrices:
        if taken is None or touches(taken, matrix):
            change.put(stack.original(matrix), edits)
    change.config = stack.configuration(stack.head.matrices, edits)
    return stack.write(
        change, stack.path,
        lambda hashes, _new: next_entry(
            stack.head, kind="revert", edits=gone, standing=rest, conflicts=(), forced=bool(needing), shards=hashes
        ),
    )  # fmt: skip


def _named(stack: StackFolder, edit: str | Path | Edit | None) -> list[Standing]:
    standing = list(stack.head.standing)
    if edit is None and not standing:
        raise UsageError(f"No edit is on {stack.path}: there is nothing to revert.")
    if edit is None:
        return standing
    if not isinstance(edit, Edit) and str(edit) and Path(edit).is_dir():
        edit = Edit.load(edit)
    asked = edit.identity if isinstance(edit, Edit) else str(edit)
    fitting = [s for s in standing if asked and s.identity.startswith(asked)]
    if len(fitting) != 1:
        there = "; ".join(s.text for s in standing) or "none"
        what = "is not one of them" if not fitting else f"fits {len(fitting)} of them"
        raise UsageError(f"The edit {asked[:12]!r} {what}. On {stack.path}: {there}. Give a folder or more digits.")
    return fitting


def _begin(model: EditableModel, edits: Sequence[Edit], folder: Path, how: _How) -> Entry:
    source = quantised_source(model)
    model.let_go()
    _check_quantised(source is not None, how, model.name)
    tensors, change = source.tensors() if source else tensors_of(model.lm), Change(edits)
    there = {*tensors, *(source.packed if source else ())}
    made: list[Entry] = []

    def build(place: Path) -> None:
        with ThreadPoolExecutor(1) as aside:  # the weights are hashed while the tokenizer is written
            hashing = aside.submit(model.fingerprint)
            copy_rest(source.folder, place) if source else write_rest(model.lm, model.tokenizer, place)
            base = hashing.result()
        stand = stand_on(OfModel(model, base), (), edits, force=how.force)
        matrices = _matrices(model.family, edits, there)
        originals = [_original(matrix, model.tensor, source, how) for matrix in matrices]
        for original in originals:
            change.keep(original)
            change.put(original, edits)
        written = {name: tensor for name, tensor in {**tensors, **change.tensors}.items() if name not in change.gone}
        shards = {**_apart(source.shards() if source else shards_of(model.lm)), **change.files}
        shards = {name: shards[name] for name in written}
        hashes, kept = write_shards(written, shards, place, model.tensor), change.write_kept(place)
        first = next_entry(
            None, kind="base", edits=(), standing=(), conflicts=(), forced=False, model_name=model.name,
            model_fingerprint=base, dtype=str(model.dtype).removeprefix("torch."), matrices=(), shards={},
            config=keep_config(place, kept, edits, source) if source else "",
        )  # fmt: skip
        stand = stand._replace(notes=(*stand.notes, *told_of_quantised(model, originals, edits)))
        made.append(_applied(first, edits, stand, hashes, kept))
        write_ledger(place, [first, *made], shards, bytes_of(written))

    replace_files(build, folder, last=INDEX, needed=bytes_of(tensors))
    return made[0]


def _check_quantised(is_quantised: bool, how: _How, name: str) -> None:
    if how.requantise and not is_quantised:
        raise UsageError(f"{name} is not quantised, so nothing can be quantised anew. Leave --requantise out.")


def _original(matrix: LedgerMatrix, tensor: ReadTensor, source: Quantised | None, how: _How) -> Original:
    if source is None:
        return Original(matrix, {matrix.tensor: tensor(matrix.tensor)})
    return original_of(matrix, source, requantise=how.requantise)


def _extend(stack: StackFolder, edits: Sequence[Edit], target: Path, how: _How) -> Entry:
    stack.check_files()
    head, source = stack.head, stack.quantised()
    _check_quantised(source is not None, how, str(stack.path))
    stand = stand_on(OfFolder(stack), head.standing, edits, force=how.force)
    known, change = {matrix.tensor: matrix for matrix in head.matrices}, Change(edits)
    every = [*(stack.edit(s.identity) for s in head.standing), *edits]
    family = family_of(*model_types_of(read_json(stack.path / "config.json", str(stack.path))))
    originals = []
    for matrix in _matrices(family, edits, stack.shards):
        if matrix.tensor in known:
            original = stack.original(known[matrix.tensor])
            _check_form(original.matrix, how, stack)
        else:
            original = _original(matrix, stack.tensor, source, how)
            change.keep(original)
        change.put(original, every)
        originals.append(original)
    changed = (*head.matrices, *(original.matrix for original in change.originals.values()))
    change.config = stack.configuration(changed, every)
    if any(original.matrix.form != "plain" for original in originals):
        stand = stand._replace(notes=(*stand.notes, *told_of_quantised(open_base(stack), originals, every)))
    return stack.write(
        change, target,
        lambda hashes, new: _applied(head, edits, stand, hashes, (*head.matrices, *new)),
    )  # fmt: skip


def _check_form(matrix: LedgerMatrix, how: _How, stack: StackFolder) -> None:
    """Refuse to store a matrix in another way than the edits that are on it."""
    if matrix.form == "unquantised" and how.requantise:
        raise UsageError(
            f"{matrix.tensor} of {stack.path} is stored unquantised since its first edit, and stays so. Leave "
            "--requantise out, or make the folder anew from the base."
        )


def _applied(
    before: Entry,
    edits: Sequence[Edit],
    stand: Stand,
    hashes: dict[str, str],
    matrices: tuple[LedgerMatrix, ...],
) -> Entry:
    return next_entry(
        before, kind="apply", edits=[edit.identity for edit in edits], standing=stand.standing,
        conflicts=(*stand.notes, *conflicts(stand.standing, len(edits))), forced=stand.forced, matrices=matrices,
        shards=hashes,
    )  # fmt: skip


def _apart(shards: dict[str, str]) -> dict[str, str]:
    """A single file is given the name of a shard: beside others it must not look like the whole model."""
    return {name: "model-00001-of-00001.safetensors" if file == WEIGHTS else file for name, file in shards.items()}


def _matrices(family: Family, edits: Sequence[Edit], there: Iterable[str]) -> list[LedgerMatrix]:
    """The matrices that edits touch, of a model with these tensors; the experts of a layer are one."""
    names = set(there)
    modules = {name.rpartition(".")[0] for name in names}  # that have tensors, however they are stored
    matrices = {}
    for layer, which in places_of(weights_of(edits)):
        kind, expert = split_name(which)
        stacked = expert.isdecimal()
        alone = f"{family.layers}.{layer}.{family.experts}.{expert}.down_proj.weight"  # of a quantised folder
        if stacked and alone in names:
            if kind != "out":
                raise EditError(
                    f"The folder stores the two parts of {which!r} of layer {layer} apart, each quantised, and an edit "
                    "of both is not stored. Ship it as 'merged'."
                )
            matrices[alone] = LedgerMatrix(tensor=alone, layer=layer, matrix=which, stored_in_out=False, original="")
            continue
        tensor = family.expert_tensor(layer, which, names) if expert else family.tensor(layer, which, modules)
        matrices[tensor] = LedgerMatrix(
            tensor=tensor, layer=layer, matrix=kind if stacked else which, stacked=stacked, original="",
            stored_in_out=family.stored_in_out and (stacked or not expert),
        )  # fmt: skip
    return list(matrices.values())
