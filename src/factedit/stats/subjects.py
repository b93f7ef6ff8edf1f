"""E[k kᵀ] over names of subjects: what an edit of one subject must leave alone in the others.

C (ROME, arXiv 2202.05262, §3.1) weighs every token of running text alike, but facts are read at the last token of
subjects, of which text holds few. Added to C, the second moment of the keys there turns C⁻¹k* away from them, so that
less of an edit reaches another subject. The names are of subjects of the embedded facts, each on its own; half of them,
so that how well others are left alone can be asked about the other half (docs/decisions/0011-subjects-in-c.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from factedit.cache import cache_dir, found_or_earlier
from factedit.data.worldfacts import names_for_moments
from factedit.engine import budget
from factedit.engine.resume import Segment, align, embed
from factedit.models.adapter import EditableModel
from factedit.models.families import MATRICES, MatrixName
from factedit.models.positions import locate_all
from factedit.stats.collect import sums_of
from factedit.stats.experts_moment import RunningExperts
from factedit.stats.store import Moment, kept_sums, layer_cached


@cache
def subject_names() -> dict[str, str]:
    """Return the names in C by their plain form (`plain_name`); those of like length together."""
    return {plain_name(name): name for name in names_for_moments()}


def plain_name(name: str) -> str:
    """Return a name without its article and its case."""
    return name.casefold().removeprefix("the ")


def name_number(name: str) -> int:
    """Return a number of 63 bits by which a name's plain form is told from others, whatever names there are."""
    return int.from_bytes(hashlib.sha256(plain_name(name).encode()).digest()[:8], "big") >> 1


def subject_moment(model: EditableModel, layer: int) -> Moment:
    """Return the second moment of a layer's keys at the last tokens of names; from the cache where it was computed
    before.

    Args:
        model: the model; unchanged.
        layer: whose keys.

    Raises:
        DataError: the keys are not finite.
        ResourceError: the cache cannot be written.
    """
    names = list(subject_names().values())
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    folder, file = cache_dir() / "subject_moments" / model.fingerprint()[:16], f"layer_{layer}.safetensors"
    path = folder / f"{digest}-{model.setup_fingerprint()[:16]}" / file
    moment = layer_cached(model, found_or_earlier(path, folder / digest / file), layer)
    if moment is None:
        sums, keys = sums_of(model, layer), subject_keys(model, layer, [("{}", name) for name in names])
        if isinstance(sums, RunningExperts):
            sums.add_joined(keys)
        else:
            sums.add(keys)
        moment = kept_sums(model, path, sums, layer, f"the names of {len(names)} subjects ({digest})")
    return moment


@torch.no_grad()
def subject_keys(
    model: EditableModel, layer: int, asked: Sequence[tuple[str, str]], *, matrix: MatrixName = "out"
) -> Tensor:
    """Return what a matrix reads at the last subject token, `[asked, d_in]`, on the model's device.

    Args:
        model: the model.
        layer: the layer.
        asked: prompt template and subject, pairs.
        matrix: which of the layer's matrices; `out` reads the key.

    Raises:
        RequestError: a subject without tokens.
    """
    inputs: list[Tensor] = []
    reader = model.mlp(layer) if matrix == MATRICES[0] else model.matrix(layer, matrix)
    for begin in range(0, len(asked), budget.NAMES_READ):
        texts = locate_all(model, asked[begin : begin + budget.NAMES_READ])
        batch = align([text.ids for text in texts], device=model.device)
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        where = list(range(len(texts))), [text.subject_last for text in texts]
        with reader.noted(where) as seen:
            segment.run(segment.start, range(layer + 1))
        inputs.append(seen[0][0])
    return torch.cat(inputs)
