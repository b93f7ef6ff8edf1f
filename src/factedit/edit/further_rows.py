"""Further rows of a value's optimisation, all off by default: what an edit is to withstand, said in its own loss.

`statement_context`: the fact after its own statement, as one more context. `negation_kl`: after the prompt with " not"
behind, the next token stays what it was. `neighbour_kl`: at other facts, those that the edit reaches most, the next
token stays what it was, with δ acting there by the share that reaches them; `statement_kl`: the same after the edit's
own statement, where δ acts in the statement (NS+ and NKL+, arXiv 2305.17553; negation, arXiv 2510.00625; who is
reached, after arXiv 2603.19297). None of them is in the published method (ROME, arXiv 2202.05262).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from factedit.data.registry import load_known
from factedit.edit.endings import ended, spoken
from factedit.edit.presets import RomeSettings
from factedit.edit.value_rows import PromptRow
from factedit.facts import EditRequest, one_spelling, template_of, with_space
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate, subject_continuations
from factedit.models.tokens import in_contexts
from factedit.stats.preserved import Preserved
from factedit.stats.subjects import subject_keys

SOURCE = "worldfacts-known"  # whose facts are looked at for those that an edit reaches
NOT = " not"
NEGATION, NEIGHBOUR = -3, -4  # contexts of rows that are no contexts; neighbours take two numbers each


class Neighbour(NamedTuple):
    """Another fact that an edit reaches.

    Attributes:
        prompt, subject: of it.
        share: of δ that reaches its subject's last token.
    """

    prompt: str
    subject: str
    share: float


class Pool(NamedTuple):
    """Facts among which those that an edit reaches are looked for.

    Attributes:
        asked: prompt and subject of each.
        keys: at their subjects' last tokens `[facts, d_mlp]`.
    """

    asked: Sequence[tuple[str, str]]
    keys: Tensor


def pool_at(model: EditableModel, layer: int, asked: Sequence[tuple[str, str]] | None = None) -> Pool:
    """Return the embedded facts (or others) with their keys at a layer."""
    asked = [(fact.prompt, fact.subject) for fact in load_known(SOURCE).records] if asked is None else asked
    templates = [(template_of(prompt, subject), subject) for prompt, subject in asked]
    return Pool(asked, subject_keys(model, layer, templates).double())


def reached(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    count: int,
    pool: Pool,
    *,
    preserved: Preserved | None = None,
) -> list[list[Neighbour]]:
    """Return per request the facts that its edit reaches most, by kᵀC⁻¹k* / k*ᵀC⁻¹k*, the largest in size first.

    Args:
        model: the unedited model.
        layer: the edited layer.
        requests: the facts to edit; k* is the bare prompt's key.
        count: how many of each.
        pool: the facts to choose from; none about the edited subject is chosen.
        preserved: C; None takes the identity (a memory, whose gate goes by cosines).
    """
    keys = subject_keys(model, layer, [(request.prompt, request.subject) for request in requests])
    names = [request.subject for request in requests]
    directions = keys.double() if preserved is None else preserved.solve(keys, subjects=names).double()
    shares = (pool.keys @ directions.T / (keys.double() * directions).sum(-1)).T  # [requests, pool]
    return [_largest(request, row, pool.asked, count) for request, row in zip(requests, shares, strict=True)]


def _largest(request: EditRequest, shares: Tensor, pool: Sequence[tuple[str, str]], count: int) -> list[Neighbour]:
    others = [n for n, (_, subject) in enumerate(pool) if one_spelling(subject) != one_spelling(request.subject)]
    ranked = torch.tensor(others)[shares[others].abs().argsort(descending=True, stable=True).cpu()].tolist()
    return [Neighbour(pool[n][0], pool[n][1], float(shares[n])) for n in ranked[:count]]


def further_rows(
    model: EditableModel,
    fact: int,
    request: EditRequest,
    contexts: int,
    settings: RomeSettings,
    neighbours: Sequence[Neighbour] = (),
) -> list[PromptRow]:
    """Return the rows of a fact that settings ask for beside its contexts and its essence; see the module.

    Args:
        model: whose tokenizer counts.
        fact: index of the fact.
        request: the fact.
        contexts: how many contexts there are; the statement's is the next.
        settings: which rows, and their weights.
        neighbours: facts that the edit reaches.

    Raises:
        RequestError: a text longer than the context.
    """
    statement = f"{request.prompt}{with_space(request.text, request.target_new).rstrip('. ')}. "
    rows = []
    if settings.statement_context:
        rows.append(_after_statement(model, fact, request, contexts, settings))
    if settings.negation_kl:
        rows.append(_kept(model, fact, NEGATION, request.prompt + NOT, request.subject, settings.negation_kl))
    for n, other in enumerate(neighbours):
        number, weight = NEIGHBOUR - 2 * n, settings.neighbour_kl / len(neighbours)
        if weight:
            template = template_of(other.prompt, other.subject)
            rows.append(_kept(model, fact, number, template, other.subject, weight, other.share))
        weight = settings.statement_kl / len(neighbours)
        if weight:
            rows.append(_kept(model, fact, number - 1, statement + other.prompt, request.subject, weight))
    return rows


def _after_statement(
    model: EditableModel, fact: int, request: EditRequest, number: int, settings: RomeSettings
) -> PromptRow:
    """Return the fact after its own statement, in which δ does not act: the text before is one like any other."""
    said = request.text + with_space(request.text, request.target_new).rstrip(". ")
    [template] = in_contexts(model, request.prompt, [said.replace("{", " ").replace("}", " ") + ". {}"])
    [(text, first)] = subject_continuations(
        model, [template], request.subject, spoken(request.target_new, settings.stop)
    )
    reads = tuple(range(first - 1, len(text.ids) - 1))
    row = PromptRow(fact, number, text.ids[:-1], text.subject_last, reads, text.ids[first:])
    return ended(model, row, settings.stop)


def _kept(
    model: EditableModel, fact: int, number: int, template: str, subject: str, weight: float, scale: float = 1.0
) -> PromptRow:
    """Return a row whose next token is to stay what it was."""
    text = locate(model, template, subject)
    return PromptRow(fact, number, text.ids, text.subject_last, (len(text.ids) - 1,), (), weight, scale)
