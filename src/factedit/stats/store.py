"""Second moments on disk, found by content: the model's weights, its configuration and tokenizer, the layer, the text,
the number of tokens.

A stored moment is a safetensors file with the tensor `second_moment` `[d_mlp, d_mlp]`; its header has its origin and
the hash of it all. A user's own file needs the tensor only. A damaged entry of the cache is set aside and made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from factedit.cache import found_or_earlier, locked, set_aside
from factedit.disk import disk_errors, require_space
from factedit.engine import budget
from factedit.errors import DataError, first_line
from factedit.memory import require_memory
from factedit.models.adapter import EditableModel
from factedit.stats.collect import RunningMoments, Shards, collect, token_pieces
from factedit.stats.experts_moment import ExpertsMoment, RunningExperts
from factedit.stats.experts_store import cached_experts, read_experts, write_experts
from factedit.stats.moment_places import moment_path, noted_number
from factedit.stats.second_moment import RunningSecondMoment, SecondMoment
from factedit.stats.sound_moment import check_matrix
from factedit.stats.tensors import HASH, content_hash, packed_triangle, whole_matrix, write_tensors

TENSOR = "second_moment"
Moment = SecondMoment | ExpertsMoment
SumsElsewhere = Callable[[EditableModel, Sequence[int]], Shards | None]
SAVE_EVERY = 25_000  # tokens between two savings of an unfinished collection
PART = "tokens of a part"  # in the notes of an unfinished collection: other parts would give other last bits


def _check_model(path: str | Path, said: str, asked: str) -> None:
    """Refuse a file that says that it is of another model."""
    if said and asked and said != asked:
        raise DataError(
            f"{path} was made for weights {said[:12]}…; this model has {asked[:12]}…. "
            "Compute it for this model with 'factedit stats'."
        )


def _check_layer(path: str | Path, said: int | None, asked: int | None) -> None:
    """Refuse a file that says that it is of another layer."""
    if said is not None and asked is not None and said != asked:
        raise DataError(f"{path} was made for layer {said}; layer {asked} was asked for.")


def read_moment(
    path: str | Path, *, d_mlp: int | None = None, model: str = "", layer: int | None = None
) -> SecondMoment:
    """Return a second moment from a file.

    Args:
        path: a safetensors file.
        d_mlp: the width it must have.
        model: the fingerprint it must have been made for, where the file says one.
        layer: the layer it must have been made for, where the file says one.

    Raises:
        DataError: no such file, no such tensor, another size, another model or layer, or damaged since it was written.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(f"{path} is not a readable safetensors file (it is a folder or a pipe).")
    try:
        with safe_open(path, framework="pt") as file:
            if TENSOR not in file.keys():  # noqa: SIM118 - not a dict
                raise DataError(f"{path} holds {sorted(file.keys())}, not the tensor {TENSOR!r} [d_mlp, d_mlp].")
            shape, notes = file.get_slice(TENSOR).get_shape(), file.metadata() or {}
            _check_shape(path, shape, d_mlp)
            matrix = file.get_tensor(TENSOR).clone()  # what is mapped can change
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is not a readable safetensors file ({first_line(error)}). Compute it with 'factedit stats'."
        ) from error
    if HASH in notes and notes[HASH] != content_hash({TENSOR: matrix}, notes):
        raise DataError(f"{path} is damaged: it is not what was written. Get it again, or compute it anew.")
    if matrix.ndim == 1:
        matrix = whole_matrix(matrix)
    said_model, said_layer = notes.get("model", ""), noted_number(path, notes, "layer")
    _check_model(path, said_model, model)
    _check_layer(path, said_layer, layer)
    moment = SecondMoment(
        matrix,
        layer=layer if said_layer is None else said_layer,
        tokens=noted_number(path, notes, "tokens") or 0,
        model=said_model,
        corpus=notes.get("corpus", "unknown"),
    )
    check_matrix(matrix, f"The second moment in {path}")
    return moment


def _check_shape(path: str | Path, shape: Sequence[int], d_mlp: int | None) -> None:
    """Refuse other sizes before anything is read: a square, or its upper triangle in a row."""
    packed = d_mlp is not None and list(shape) == [d_mlp * (d_mlp + 1) // 2]
    square = len(shape) == 2 and shape[0] == shape[1] and d_mlp in (None, shape[0])
    if not (packed or square or (d_mlp is None and len(shape) == 1)):
        wanted = "it must be square" if d_mlp is None else f"the model's keys need [{d_mlp}, {d_mlp}]"
        raise DataError(f"The second moment in {path} is {list(shape)}; {wanted}. Compute it with 'factedit stats'.")


def write_moment(path: Path, moment: SecondMoment, *, packed: bool = False) -> Path:
    """Write a second moment; the file appears whole or not at all.

    Args:
        path: where to.
        moment: what.
        packed: store the upper triangle only, in float32.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    notes = {"model": moment.model, "tokens": str(moment.tokens), "corpus": moment.corpus}
    if moment.layer is not None:
        notes["layer"] = str(moment.layer)
    tensor = packed_triangle(moment.matrix) if packed else moment.matrix.float().contiguous()
    write_tensors(path, {TENSOR: tensor}, notes)
    return path


def cached_moment(path: Path, *, d_mlp: int, model: str, layer: int) -> SecondMoment | None:
    """Return a second moment of the cache; None without one, or of a damaged one, which is set aside with a word."""
    if not path.is_file():
        return None
    try:
        return read_moment(path, d_mlp=d_mlp, model=model, layer=layer)
    except DataError as error:
        set_aside(path, str(error))
        return None


def second_moments(
    model: EditableModel,
    layers: Sequence[int],
    texts: Callable[[], Iterable[str]],
    *,
    corpus: str,
    tokens: int,
    progress: Callable[[int], None] | None = None,
    elsewhere: SumsElsewhere | None = None,
) -> dict[int, Moment]:
    """Return C of several layers from one pass over a text; what the cache holds is not computed again.

    An interrupted collection goes on where it last saved; one of experts, whose sums are large, begins anew.

    Args:
        model: the model.
        layers: whose keys.
        texts: called to read the text from its beginning.
        corpus: the text in words and by fingerprint; part of the cache's key.
        tokens: how many to read.
        progress, elsewhere: told the tokens read so far; gives what sums parts for some layers in other processes.

    Raises:
        DataError: the text is empty or the keys are not finite.
        ResourceError: the disk is full.
    """
    kind = {layer: "experts" if model.mixture(layer) else "layer" for layer in layers}
    paths, earlier = (
        {n: moment_path(model, corpus, tokens, n, what=kind[n], setup=setup) for n in layers} for setup in (True, False)
    )

    def cached(wanted: Iterable[int]) -> dict[int, Moment]:
        read = {n: layer_cached(model, found_or_earlier(paths[n], earlier[n]), n) for n in wanted}
        return {n: moment for n, moment in read.items() if moment is not None}

    moments = cached(layers)
    if missing := [layer for layer in layers if layer not in moments]:
        with locked(folder := paths[missing[0]].parent):  # another process may be computing the same
            moments |= cached(missing)
            missing = [layer for layer in missing if layer not in moments]
            _require_room(model, missing, folder)
            shards = elsewhere(model, missing) if elsewhere and missing else None
            running = _collect_resumably(model, missing, texts, tokens, folder, progress, shards) if missing else {}
            for layer, sums in running.items():
                moments[layer] = kept_sums(model, paths[layer], sums, layer, corpus)
    return {layer: moments[layer] for layer in layers}


def _require_room(model: EditableModel, layers: Sequence[int], folder: Path) -> None:
    """Refuse sums that will not fit in memory, or second moments that will not on disk, before any text is read.

    Raises:
        ResourceError: naming the bytes.
    """
    numbers = sum(model.mlp(layer).width ** 2 for layer in layers if model.mixture(layer) is None)
    require_memory(f"C of {len(layers)} layers", 5.0 * numbers, "Ask for fewer layers at a time (--layers).")
    with disk_errors(folder, 2 * numbers):  # of each its triangle is written
        folder.mkdir(parents=True, exist_ok=True)
        require_space(folder, 2 * numbers)


def layer_cached(model: EditableModel, path: Path, layer: int) -> Moment | None:
    """Return C of a layer, or of its experts, from the cache; None where there is none, or a damaged one, which is set
    aside.
    """
    mixture, fingerprint = model.mixture(layer), model.fingerprint()
    if mixture is not None:
        return cached_experts(path, mixture, model=fingerprint)
    return cached_moment(path, d_mlp=model.mlp(layer).width, model=fingerprint, layer=layer)


def kept_sums(
    model: EditableModel, path: Path, sums: RunningSecondMoment | RunningExperts, layer: int, corpus: str
) -> Moment:
    """Write the mean of a layer's sums, and return it as it is read back.

    Raises:
        DataError: no key was added, or keys that are not finite.
        ResourceError: the disk is full.
    """
    fingerprint, mixture = model.fingerprint(), model.mixture(layer)
    if isinstance(sums, RunningExperts) and mixture is not None:
        return read_experts(write_experts(path, sums.moment(layer, fingerprint, corpus)), mixture)
    assert isinstance(sums, RunningSecondMoment)
    return read_moment(write_moment(path, SecondMoment(sums.mean(), layer, sums.tokens, fingerprint, corpus)))


def _collect_resumably(
    model: EditableModel,
    layers: Sequence[int],
    texts: Callable[[], Iterable[str]],
    tokens: int,
    folder: Path,
    progress: Callable[[int], None] | None,
    elsewhere: Shards | None,
) -> RunningMoments:
    partial = folder / f"unfinished_{'_'.join(map(str, layers))}.safetensors"
    running, skip = _read_partial(partial, layers)
    saved = next(iter(running.values())).tokens if running else 0

    def after_rows(sums: RunningMoments, rows: int) -> None:
        nonlocal saved
        read = next(iter(sums.values())).tokens
        if progress:
            progress(read)
        plain = {layer: part for layer, part in sums.items() if isinstance(part, RunningSecondMoment)}
        if read - saved >= SAVE_EVERY and read < tokens and len(plain) == len(sums):
            saved = read
            blocks = {f"{layer}.{n}": block for layer, part in plain.items() for n, block in enumerate(part.blocks)}
            write_tensors(
                partial, blocks, {"tokens": str(read), "rows": str(skip + rows), PART: str(budget.tokens_summed())}
            )

    rows = (row for number, row in enumerate(token_pieces(model, texts())) if number >= skip)
    sums = collect(model, layers, rows, tokens=tokens, running=running, after_rows=after_rows, elsewhere=elsewhere)
    partial.unlink(missing_ok=True)
    return sums


def _read_partial(path: Path, layers: Sequence[int]) -> tuple[RunningMoments | None, int]:
    """The sums of an interrupted collection and how many rows they hold."""
    if not path.is_file():
        return None, 0
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if notes[HASH] != content_hash(tensors, notes):
            raise ValueError("it is not what was written")
        if notes.get(PART) != str(budget.tokens_summed()):
            raise ValueError(f"it is not of parts of {budget.tokens_summed()} tokens")
        running: RunningMoments = {}
        for layer in layers:
            blocks = [tensors[name] for name in sorted(tensors) if name.startswith(f"{layer}.")]
            running[layer] = RunningSecondMoment(blocks[0].shape[1], blocks, int(notes["tokens"]))
        return running, int(notes["rows"])
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        set_aside(path, str(error))
        return None, 0
