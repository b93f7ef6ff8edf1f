"""Edits on a quantised folder: the files they begin from, and what storing them costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import places_of, weights_changed
from factedit.edit.standing import facts_on
from factedit.errors import EditError, UsageError
from factedit.facts import EditRequest
from factedit.files.checkpoint_checks import hub_blobs, read_json
from factedit.files.checkpoint_weights import check_weights
from factedit.files.quantised.table import Quantised, quantised
from factedit.models.adapter import EditableModel
from factedit.models.families import split_name
from factedit.models.positions import continuation
from factedit.stack.ledger import LedgerMatrix
from factedit.stack.original import Original, is_at, kept_share, quantised_matrix, touches

FUSED = (
    "vLLM fuses the matrices that read the hidden state and takes all of them quantised or none: serve it there as an "
    "adapter (ship --as peft)"
)
ENOUGH = 0.9  # of a change
ASKED = 5  # requests that are asked at most


def quantised_source(model: EditableModel) -> Quantised | None:
    """Return the quantised folder that a model was read from; None where it was not.

    Raises:
        UsageError: it was read in another type than float32.
        EditError: it is not what the folder holds (any more).
    """
    folder = Path(str(getattr(model.lm, "name_or_path", "") or ""))
    if not (folder / "config.json").is_file():
        return None
    what, blobs = str(folder), hub_blobs(folder)
    config = read_json(folder / "config.json", what, blobs=blobs)
    source = quantised(folder, config, check_weights(folder, what=what, blobs=blobs), what)
    if source is None:
        return None
    if model.dtype != torch.float32:
        raise UsageError(
            f"{what} is quantised, and was read as {str(model.dtype).removeprefix('torch.')}. Edits are put on it as "
            "float32: leave --dtype out."
        )
    state = model.lm.state_dict()
    for name, tensor in source.each_weight():
        if name in state and not torch.equal(state[name].cpu(), tensor.float()):
            raise EditError(
                f"{name} of {model.name} in memory is not what {folder} holds: it was changed. Give the folder itself, "
                "or ship the edit as 'merged'."
            )
    return source


def original_of(matrix: LedgerMatrix, folder: Quantised, *, requantise: bool) -> Original:
    """Return a matrix of a quantised folder before any edit.

    Raises:
        EditError: it cannot be stored edited.
    """
    matrix = quantised_matrix(matrix, folder, requantise=requantise)
    tensors = {name: folder.tensor(name) for name in matrix.parts or (matrix.tensor,)}
    return Original(matrix, tensors, (folder.packed[matrix.tensor], folder) if matrix.parts else None)


def told_of_quantised(model: EditableModel, originals: Sequence[Original], edits: Sequence[Edit]) -> tuple[str, ...]:
    """Return what is to be said of quantised matrices: how each is stored, and what quantising anew loses.

    Args:
        model: unedited; the same bits afterwards.
        originals: of the matrices that are written.
        edits: all that stand.
    """
    said, again = [], []
    for original in originals:
        matrix = original.matrix
        if matrix.form == "unquantised":
            fused = "" if split_name(matrix.matrix)[0] == "out" else f". {FUSED}"
            said.append(
                f"{matrix.tensor} is stored unquantised, as float32, and left out of quantisation in config.json: its "
                f"change is whole. Programs that compute in a narrower type round it as they load it{fused}"
            )
        elif matrix.form == "requantised" and touches(edits, matrix):
            again.append(original)
            share, error = kept_share(original, edits)
            said.append(
                f"{matrix.tensor} is quantised anew: {100 * share:.0f} % of the change is kept, and what is stored is "
                f"off from it by {100 * error:.0f} % of its size"
                + ("; without --requantise all of it is kept" if share < ENOUGH else "")
            )
    return (*said, *(_asked(model, again, edits) if again else ()))


@torch.no_grad()
def _asked(model: EditableModel, again: Sequence[Original], edits: Sequence[Edit]) -> list[str]:
    """What the edited prompts are answered before, with the edits, and with them quantised anew."""
    requests = [fact.request for fact in facts_on(edits)][-ASKED:]
    unedited = [log_p(model, request) for request in requests]
    with weights_changed(model, weights_of(edits)):
        whole = [log_p(model, request) for request in requests]
        with ExitStack() as stack:
            for original in again:
                matrix, stored = original.matrix, original.read_back(edits)
                for place in places_of(weights_of(edits)):
                    if is_at(matrix, place):
                        part = stored[int(split_name(place[1])[1])] if matrix.stacked else stored
                        weight = part if matrix.stored_in_out else part.T
                        stack.enter_context(model.with_weight(place[0], weight, place[1]))
            stored_p = [log_p(model, request) for request in requests]
    return [
        f"{request.text!r} → {request.target_new!r}: log p {a:.2f} unedited, {b:.2f} edited, {c:.2f} quantised anew"
        for request, a, b, c in zip(requests, unedited, whole, stored_p, strict=True)
    ]


def log_p(model: EditableModel, request: EditRequest) -> float:
    """Return the log probability of a request's new object after its prompt, summed over its tokens."""
    ids, first = continuation(model, request.text, request.target_new)
    row = torch.tensor([list(ids)], device=model.device)
    scores = model.lm(input_ids=row).logits[0, first - 1 : -1].float().log_softmax(-1)
    return float(scores.gather(1, row[0, first:].unsqueeze(1)).sum())
