"""Text to second moments: one pass over the text for all layers asked, stopping after the last of them.

No padding: a row is one piece of one document. All tokens count, the start token included, as in the
reference (ROME, arXiv 2202.05262, appendix E.2); with it the edit learns to leave the start token's key alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from factedit.models.adapter import EditableModel
from factedit.models.resume import Segment, align, embed
from factedit.stats.second_moment import RunningSecondMoment

PIECE = 512
Running = dict[int, RunningSecondMoment]


def pieces(model: EditableModel, texts: Iterable[str], *, length: int = PIECE) -> Iterator[list[int]]:
    """Token ids of the texts, each cut into pieces of at most `length` tokens that begin with its start token."""
    length = min(length, model.context_length)
    for text in texts:
        ids = model.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        start = [ids[0]] if ids and ids[0] == model.tokenizer.bos_token_id else []
        body = ids[len(start) :]
        step = length - len(start)
        for begin in range(0, len(body), step):
            yield start + body[begin : begin + step]


@torch.no_grad()
def collect(
    model: EditableModel,
    layers: Sequence[int],
    rows: Iterable[Sequence[int]],
    *,
    tokens: int,
    running: Running | None = None,
    after_row: Callable[[Running, int], None] | None = None,
) -> Running:
    """Sum k kᵀ of the layers' keys over rows of token ids until `tokens` have been read.

    Args:
        model: the model.
        layers: whose keys.
        rows: token ids, see `pieces`.
        tokens: how many to read; the last row is cut so that the number is exact.
        running: sums to go on from.
        after_row: called with the sums and the number of rows read in this call, after each row.
    """
    running = running or {layer: RunningSecondMoment(model.d_mlp) for layer in layers}
    last, done = max(layers), next(iter(running.values())).tokens
    with ExitStack() as stack:
        for layer, moment in running.items():
            stack.enter_context(model.on_matrix(layer, _adding(moment)))
        for count, row in enumerate(rows, 1):
            if done >= tokens:
                break
            batch = align([row[: tokens - done]], device=model.device)
            segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
            segment.run(segment.start, range(last + 1))
            done += batch.ids.shape[1]
            if after_row:
                after_row(running, count)
    return running


def _adding(moment: RunningSecondMoment) -> Callable[[Tensor, Tensor], None]:
    return lambda key, _value: moment.add(key[0])
