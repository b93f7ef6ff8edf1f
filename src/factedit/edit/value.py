"""v*: the value that makes the model say the new object (ROME, arXiv 2202.05262, eq. 4).

An offset δ is added to the output of the edited matrix at the last subject token and optimised so that the
target is likely after every context while the subject's essence ("{} is a") stays what it was. Many facts are
optimised in one batch, each with its own stopping and clamping; results do not depend on which facts share a batch.

Only layers >= l and tokens from the last subject token on are run at each step (see `engine/resume.py`), the
vocabulary is read only at the target's and the essence's positions, and no parameter carries a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from factedit.edit.further_rows import Neighbour, further_rows
from factedit.edit.kept_values import kept
from factedit.edit.objective import Losses, ValueSettings, optimise
from factedit.edit.presets import RomeSettings
from factedit.edit.value_rows import (
    PromptRow,
    RowBatch,
    beginnings,
    begun,
    grouped,
    own_rows,
    request_rows,
    stems_of,
)
from factedit.engine import budget
from factedit.engine.half import at_least_float32
from factedit.facts import EditRequest
from factedit.memory import in_halves
from factedit.models.adapter import EditableModel

# settings that decide a value, whatever method asks for it
DECIDING = frozenset(
    ("learning_rate", "relative_rate", "steps", "decay", "kl", "clamp", "stop_loss", "stop_after", "stop_probability")
)
_Result = TypeVar("_Result")
_Rows = TypeVar("_Rows", bound=RowBatch)


@dataclass(frozen=True)
class Value:
    """What the optimisation of one fact found, in float32 at least.

    Attributes:
        key: k*, the mean over the contexts of the key at the last subject token, `[d_mlp]`.
        bare_key: the key in the bare prompt, `[d_mlp]`.
        initial: v0, the matrix's output in the bare prompt, `[d_model]`.
        delta: the optimised offset δ, `[d_model]`.
        losses: one entry per evaluation of the loss.
    """

    key: Tensor
    bare_key: Tensor
    initial: Tensor
    delta: Tensor
    losses: tuple[Losses, ...]


def find_values(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: RomeSettings,
    *,
    rows: Sequence[Sequence[PromptRow]] | None = None,
    neighbours: Sequence[Sequence[Neighbour]] | None = None,
    tokens_at_once: int | None = None,
) -> list[Value]:
    """Optimise v* for every request (ROME eq. 4).

    Args:
        model: the model; unchanged.
        layer: whose matrix.
        requests: the facts.
        contexts: templates with one `{}`, the bare `"{}"` first.
        settings: learning rate, steps, weights, clamp.
        rows: per fact its rows, to add δ at another token than the subject's last; None takes `request_rows`, and
            those that the settings ask for beside them.
        neighbours: per fact others that its edit reaches, which the settings may ask for.
        tokens_at_once: tokens from the subject on that are optimised together; None suits the memory. Facts with
            as many such tokens run together; the results do not depend on it, to rounding.

    Raises:
        RequestError: a subject or target without tokens.
        EditError: the loss is not finite.
        ResourceError: a single fact does not fit in memory.
    """
    if rows is None:
        rows = prompt_rows_of(model, requests, contexts, settings, neighbours)
    work = lambda part: _find(model, layer, part, settings)  # noqa: E731
    return over_facts(model, [layer], rows, work, Value, settings, tokens_at_once=tokens_at_once)


def prompt_rows_of(
    model: EditableModel,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: RomeSettings,
    neighbours: Sequence[Sequence[Neighbour]] | None = None,
) -> list[list[PromptRow]]:
    """Return the rows of every fact: `request_rows`, and those that the settings ask for beside them.

    Args:
        model: whose tokenizer counts.
        requests: the facts.
        contexts, settings, neighbours: see `find_values`.

    Raises:
        RequestError: a subject or target without tokens.
    """
    near = neighbours or [()] * len(requests)
    return [
        [
            *request_rows(model, fact, request, contexts, settings.stop),
            *further_rows(model, fact, request, len(contexts), settings, near[fact]),
        ]
        for fact, request in enumerate(requests)
    ]


def over_facts(
    model: EditableModel,
    layers: Sequence[int],
    rows: Sequence[Sequence[PromptRow]],
    work: Callable[[Sequence[Sequence[PromptRow]]], list[_Result]],
    kind: type[_Result],
    settings: ValueSettings,
    *,
    tokens_at_once: int | None = None,
) -> list[_Result]:
    """Return what `work` finds for the rows of every fact, as many facts at a time as suit the memory.

    Args:
        model: the model; no parameter asks for a gradient inside.
        layers: where offsets are added, ascending; those from the lowest on are run at every step.
        rows: per fact its rows.
        work: gives one result per fact from the rows of some.
        kind: of a result; results that are kept are not found again (`kept_values.py`).
        settings: all that decide a result.
        tokens_at_once: see `find_values`.
    """
    limit = tokens_at_once or budget.tokens_optimised(model, layers[0])
    work_on = lambda facts: work([rows[fact] for fact in facts])  # noqa: E731
    by_fact: dict[int, _Result] = {}
    with model.frozen(), torch.enable_grad():
        for part in groups_of_facts(rows, limit, budget.share_of_past(model, layers[0])):
            find = partial(in_halves, part, work_on, what="facts")
            key = partial(_key, model, layers, settings, [rows[fact] for fact in part])
            by_fact |= dict(zip(part, kept(find, kind, len(part), key, model.device), strict=True))
    return [by_fact[fact] for fact in range(len(rows))]


def _key(
    model: EditableModel, layers: Sequence[int], settings: ValueSettings, rows: Sequence[Sequence[PromptRow]]
) -> list[Any]:
    """Return everything that decides the values of facts that are optimised together."""
    texts = [[_as_key(row) for row in fact_rows] for fact_rows in rows]
    deciding = {name: value for name, value in settings.model_dump(mode="json").items() if name in DECIDING}
    where = layers[0] if len(layers) == 1 else list(layers)
    return [model.fingerprint(), model.setup_fingerprint(), where, deciding, texts]


def _as_key(row: PromptRow) -> dict[str, Any]:
    """Return what decides a row; what few rows have is left out of the others, as in what was kept before."""
    entries = asdict(replace(row, fact=0))
    if (row.weight, row.scale) != (None, 1.0):
        return entries
    return {name: entry for name, entry in entries.items() if name not in ("weight", "scale")}


def groups_of_facts(rows: Sequence[Sequence[PromptRow]], limit: int, before: float) -> Iterator[list[int]]:
    """Yield facts in groups of at most `limit` tokens from the subject on, those of like width together; one before
    the subject's last counts `before`.
    """
    width = [sum(len(row.ids) - row.subject_last for row in fact_rows) for fact_rows in rows]
    size = [
        wide + before * sum(row.subject_last for row in fact_rows) for wide, fact_rows in zip(width, rows, strict=True)
    ]
    part: list[int] = []
    for fact in sorted(range(len(rows)), key=lambda fact: width[fact]):  # the same order wherever the model is
        if part and sum(size[n] for n in part) + size[fact] > limit:
            yield part
            part = []
        part.append(fact)
    if part:
        yield part


def _find(model: EditableModel, layer: int, rows: Sequence[Sequence[PromptRow]], settings: RomeSettings) -> list[Value]:
    """v* of facts that are optimised together."""
    batches = batches_of(model, layer, rows, RowBatch)
    wide = at_least_float32(model.dtype)
    per_fact = [tuple(tensor.to(wide) for tensor in own_rows(batches, fact)) for fact in range(len(rows))]
    norms = torch.stack([values[0].norm() for _, values in per_fact])
    deltas, losses = optimise(batches, norms, settings)
    return [
        # ROME eq. 3: the mean over the contexts
        Value(keys.mean(0), keys[0], values[0], deltas[fact], tuple(losses[fact]))
        for fact, (keys, values) in enumerate(per_fact)
    ]


def batches_of(
    model: EditableModel,
    layer: int,
    rows: Sequence[Sequence[PromptRow]],
    kind: Callable[..., _Rows],
    *,
    layers: int | None = None,
) -> list[_Rows]:
    """Return the rows of facts that are optimised together, the facts numbered as they come, in batches of like
    length.

    Args:
        model: the model; unchanged.
        layer: whose matrix.
        rows: per fact its rows.
        kind: of a batch.
        layers: how many of the lowest layers the tokens before the subjects' last are taken through: of rows that are
            not resumed, those up to the matrix; None: all.
    """
    numbered = [replace(row, fact=fact) for fact, fact_rows in enumerate(rows) for row in fact_rows]
    stems, groups = stems_of(model, numbered, layers=layers), grouped(numbered, model)
    batches: list[_Rows] = []
    for part in [groups] if model.streamed else [[group] for group in groups]:  # from disk all of them together
        pasts = stems.pasts([beginnings(group) for group in part])
        entering = [kind(model, layer, group, past) for group, past in zip(part, pasts, strict=True)]
        begun(entering)
        batches += entering
    return batches
