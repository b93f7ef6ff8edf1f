"""Text to second moments: one pass over the text for all layers asked, stopping after the last of them.

A row is one piece of one document; where rows run together, padding counts for nothing. All tokens count, the start
token included, as in the reference (ROME, arXiv 2202.05262, appendix E.5); with it the edit learns to leave the start
token's key alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from factedit.engine import budget
from factedit.engine.resume import Batch, Segment, align, embed
from factedit.models.adapter import EditableModel
from factedit.models.tokens import text_tokens
from factedit.stats.experts_moment import RunningExperts
from factedit.stats.second_moment import RunningSecondMoment

PIECE = 512
BATCHES_READ = 4  # so many at a time, to put rows of like length together
RunningMoments = dict[int, RunningSecondMoment | RunningExperts]


def token_pieces(model: EditableModel, texts: Iterable[str], *, length: int = PIECE) -> Iterator[list[int]]:
    """Yield token ids of the texts, each cut into pieces of at most `length` tokens that begin with its start token.

    Raises:
        RequestError: a text holds a token that the model has no embedding for.
    """
    length = min(length, model.context_length)
    for text in texts:
        start, body = text_tokens(model, text)
        step = length - len(start)
        for begin in range(0, len(body), step):
            yield start + body[begin : begin + step]


Shards = Callable[
    [Iterable[list[Sequence[int]]]], Iterator[RunningMoments]
]  # partial sums of parts of the text, in order


def collect(
    model: EditableModel,
    layers: Sequence[int],
    rows: Iterable[Sequence[int]],
    *,
    tokens: int,
    running: RunningMoments | None = None,
    after_rows: Callable[[RunningMoments, int], None] | None = None,
    elsewhere: Shards | None = None,
) -> RunningMoments:
    """Sum k kᵀ of the layers' keys over rows of token ids until `tokens` have been read.

    The text is cut into parts whose size no machine decides (`budget.tokens_summed`); each is summed alone and the sums
    are added in order, so that where the parts are summed changes no bit.

    Args:
        model: the model.
        layers: whose keys.
        rows: token ids, see `token_pieces`.
        tokens: how many to read; the last row is cut so that the number is exact.
        running: sums to go on from.
        after_rows: called with the sums and the number of rows read in this call, after every part.
        elsewhere: sums parts in other processes (`work/crew.py`); None sums them here.
    """
    running = running or {layer: sums_of(model, layer) for layer in layers}
    done, read = next(iter(running.values())).tokens, list[int]()

    def parts() -> Iterator[list[Sequence[int]]]:
        for part in _parts(rows, tokens - done, budget.tokens_summed()):
            read.append(len(part))
            yield part

    sums = elsewhere(parts()) if elsewhere else (part_sums(model, layers, part) for part in parts())
    for n, sums_of_part in enumerate(sums):
        for layer, moment in running.items():
            moment.plus(sums_of_part[layer])  # type: ignore[arg-type]
        if after_rows:
            after_rows(running, sum(read[: n + 1]))
    return running


def sums_of(model: EditableModel, layer: int) -> RunningSecondMoment | RunningExperts:
    """Return empty sums for a layer's keys."""
    mixture = model.mixture(layer)
    return RunningSecondMoment(model.mlp(layer).width) if mixture is None else RunningExperts(mixture)


@torch.no_grad()
def part_sums(model: EditableModel, layers: Sequence[int], rows: Sequence[Sequence[int]]) -> RunningMoments:
    """Return the sums of k kᵀ of one part of the text, begun at zero."""
    running = {layer: sums_of(model, layer) for layer in layers}
    columns = budget.columns_read(model)
    parts = _parts(rows, sum(map(len, rows)), BATCHES_READ * columns)
    batches = [batch for part in parts for batch in _alike(part, columns)]
    if model.streamed:
        _add_layer_by_layer(model, running, batches)
        return running
    for batch in batches:
        _add_keys(model, running, batch)
    return running


def _add_layer_by_layer(
    model: EditableModel, running: RunningMoments, batches: Sequence[Sequence[Sequence[int]]]
) -> None:
    """The same for all batches at once: every layer comes once."""
    aligned = [align(rows, device=model.device) for rows in batches]
    segments = [Segment(model, batch.mask, embeddings=embed(model, batch.ids)) for batch in aligned]
    hidden = [segment.start for segment in segments]
    for layer in range(max(running) + 1):
        following = layer + 1 if layer < max(running) else None
        with model.present(layer, following):
            for n, batch in enumerate(aligned):
                with _adding(model, running, layer, batch):
                    hidden[n] = segments[n].run(hidden[n], range(layer, layer + 1))


def _parts(rows: Iterable[Sequence[int]], tokens: int, size: int) -> Iterator[list[Sequence[int]]]:
    """Rows of so many tokens at once, `tokens` in all; the last row is cut."""
    part: list[Sequence[int]] = []
    held = 0
    for whole in rows if tokens > 0 else ():
        part.append(whole[:tokens])
        tokens -= len(part[-1])
        held += len(part[-1])
        if not tokens or held >= size:
            yield part
            part, held = [], 0
        if not tokens:
            return
    if part:
        yield part


def _alike(rows: Sequence[Sequence[int]], columns: int) -> Iterator[list[Sequence[int]]]:
    """The rows in batches of like length, so that little is padded."""
    batch: list[Sequence[int]] = []
    for row in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(row) > columns:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _add_keys(model: EditableModel, running: RunningMoments, rows: Sequence[Sequence[int]]) -> None:
    """Run rows up to the last layer asked and add their keys."""
    batch = align(rows, device=model.device)
    with ExitStack() as stack:
        for layer in running:
            stack.enter_context(_adding(model, running, layer, batch))
        segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
        segment.run(segment.start, range(max(running) + 1))


@contextmanager
def _adding(model: EditableModel, running: RunningMoments, layer: int, batch: Batch) -> Iterator[None]:
    """Inside, keys of a layer are added where it is asked for; padding counts for nothing."""
    moment, mixture = running.get(layer), model.mixture(layer)
    real = batch.mask.flatten().nonzero()[:, 0] if len(batch.ids) > 1 else slice(None)
    if isinstance(moment, RunningSecondMoment):
        with model.on_matrix(layer, lambda key, _value: moment.add(key.flatten(0, 1)[real])):
            yield
    elif moment is not None and mixture is not None:
        moment.tokens += int(batch.mask.sum())
        with mixture.keys_seen(moment.add, real):
            yield
    else:
        yield
