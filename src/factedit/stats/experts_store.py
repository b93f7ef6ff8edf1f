"""Second moments of a layer's experts on disk: one file per layer, a tensor per expert that got any token."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from factedit.cache import set_aside
from factedit.errors import DataError, first_line
from factedit.models.experts import Mixture
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.second_moment import SecondMoment
from factedit.stats.sound_moment import check_matrix
from factedit.stats.tensors import HASH, content_hash, write_tensors

COUNT = "tokens of "  # before an expert's name, in the notes


def write_experts(path: Path, moment: ExpertsMoment) -> Path:
    """Write C of a layer's experts; the file appears whole or not at all.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    notes = {"model": moment.model, "tokens": str(moment.tokens), "corpus": moment.corpus, "layer": str(moment.layer)}
    counts = {f"{COUNT}{name}": str(block.tokens) for name, block in moment.blocks.items()}
    write_tensors(
        path, {name: block.matrix.float().contiguous() for name, block in moment.blocks.items()}, notes | counts
    )
    return path


def read_experts(path: Path, mixture: Mixture, *, model: str = "") -> ExpertsMoment:
    """Return C of a layer's experts from a file.

    Args:
        path: that `write_experts` wrote.
        mixture: the experts it must fit.
        model: the fingerprint it must have been made for.

    Raises:
        DataError: no such file, other experts, another model or layer, or damaged since it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} is not a readable safetensors file ({first_line(error)}). Compute it with 'factedit stats'."
        ) from error
    if notes.get(HASH) != content_hash(tensors, notes):
        raise DataError(f"{path} is damaged: it is not what was written. Get it again, or compute it anew.")
    widths = {name: columns.stop - columns.start for name, columns in mixture.slices.items()}
    odd = [name for name, matrix in tensors.items() if list(matrix.shape) != [widths.get(name, -1)] * 2]
    if odd or notes.get("layer") != str(mixture.layer) or (model and notes.get("model") != model):
        raise DataError(
            f"{path} is not of the experts of layer {mixture.layer} of this model (layer {notes.get('layer')}, weights "
            f"{notes.get('model', '')[:12]}…{', odd: ' + odd[0] if odd else ''}). Compute it with 'factedit stats'."
        )
    blocks = {}
    for name in mixture.slices:
        if name in tensors:
            check_matrix(tensors[name], f"The second moment of {name} in {path}")
            count, corpus = int(notes[f"{COUNT}{name}"]), f"{notes['corpus']}, {name}"
            blocks[name] = SecondMoment(tensors[name], mixture.layer, count, notes["model"], corpus)
    slices = dict(mixture.slices)
    return ExpertsMoment(blocks, slices, mixture.layer, int(notes["tokens"]), notes["model"], notes["corpus"])


def cached_experts(path: Path, mixture: Mixture, *, model: str) -> ExpertsMoment | None:
    """Return C of a layer's experts from the cache; None where there is none, or a damaged one, which is set aside."""
    if not path.is_file():
        return None
    try:
        return read_experts(path, mixture, model=model)
    except (DataError, KeyError, ValueError) as error:
        set_aside(path, str(error))
        return None
