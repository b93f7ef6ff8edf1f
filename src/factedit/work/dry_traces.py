"""What traces take, of prompts whose tokens are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factedit.engine import budget
from factedit.engine.cost import ModelShape, Work, held, trace_work
from factedit.facts import template_of
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.trace.sweep import starts_of


class TracesTake(NamedTuple):
    """What traces take.

    Attributes:
        work: of all of them.
        memory: bytes beside the weights.
        starts: restorations at every token.
    """

    work: Work
    memory: float
    starts: int


def traces_take(
    model: EditableModel, asked: Sequence[tuple[str, str]], kinds: Sequence[str], window: int, samples: int
) -> TracesTake:
    """Return what traces of prompts take.

    Args:
        model: its outline.
        asked: prompts, each with its subject.
        kinds, window, samples: see `trace_fact`.
    """
    shape, starts = ModelShape.of(model), starts_of(kinds, model.n_layer, window)
    work, longest = Work(), 0
    for text, about in asked:
        located = locate(model, template_of(text, about), about)
        tokens = len(located.ids)
        longest = max(longest, tokens)
        batches = -(-len(starts) // budget.rows_restored(samples * tokens))
        together = budget.tokens_restored(model, len(starts) * samples * model.d_model * 4 * tokens)
        begin = located.subject_range[0]
        work += trace_work(shape, tokens, begin, samples, starts, batches=batches, together=together)
    columns = min(len(starts) * samples * longest, budget.COLUMNS_RESTORED)
    return TracesTake(work, held(shape, columns, budget.READS_RESTORED), len(starts))
