"""What the papers define, spelled out on a whole GPT-2 with torch alone: nothing shared, skipped or resumed.

Tests compare with these. `edits_of`, `edit_of`, `factors_of`, `changed_weight` and `notes_of` are the one place that
says how a method is asked for edits, and how an edit is made and read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.weights import changed
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel


def edits_of(method: Any, model: EditableModel, requests: Sequence[EditRequest]) -> list[Any]:
    """One edit per request."""
    return list(method.edit(requests).edits)


def edit_of(model: EditableModel, layer: int, *factors: tuple[Tensor, Tensor]) -> Edit:
    """An edit of the last matrix of a layer by products left right, one after the other."""
    effects = tuple(LowRank(layer, left, right) for left, right in factors)
    return Edit(method="by hand", requests=(), effects=effects, made_for=model.fingerprint())


def factors_of(edit: Any) -> tuple[Tensor, Tensor]:
    """Left `[d_in, rank]` and right `[rank, d_out]` of an edit's only change, ΔW = left right."""
    [change] = edit.effects
    return change.left, change.right


def changed_weight(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """A matrix `[d_in, d_out]` as the library changes it by left right."""
    return changed(weight, LowRank(0, left, right))


def notes_of(edit: Any) -> dict[str, Any]:
    """What the method measured of an edit of one request."""
    notes: dict[str, Any] = edit.told_of(0)
    return notes


class Losses(NamedTuple):
    """The terms of ROME's eq. 4, each a number that carries gradients."""

    nll: Tensor
    kl: Tensor
    decay: Tensor


def encode(model: EditableModel, text: str) -> list[int]:
    """A text's token ids, as the tokenizer gives them."""
    ids: list[int] = model.tokenizer(text)["input_ids"]
    return ids


def token_at(model: EditableModel, text: str, character: int) -> int:
    """The position of the token that holds a character."""
    spans = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    return next(n for n, (begin, end) in enumerate(spans) if begin <= character < end)


def logits(
    model: EditableModel, ids: Sequence[int], *, layer: int = 0, at: int = 0, offset: Tensor | None = None
) -> Tensor:
    """Logits `[tokens, vocab]` of a GPT-2, an offset added to what a layer's last matrix gives at one token."""

    def add(_module: object, _inputs: object, output: Tensor) -> Tensor:
        here = torch.zeros_like(output)
        here[0, at] = 1.0
        return output + here * offset

    handle = model.lm.transformer.h[layer].mlp.c_proj.register_forward_hook(add) if offset is not None else None
    try:
        found: Tensor = model.lm(input_ids=torch.tensor([list(ids)])).logits[0]
    finally:
        if handle is not None:
            handle.remove()
    return found


@torch.no_grad()
def value_at(model: EditableModel, ids: Sequence[int], layer: int, at: int) -> tuple[Tensor, Tensor]:
    """Key `[d_mlp]` and value `[d_model]` of a GPT-2's layer at one token."""
    seen: list[tuple[Tensor, Tensor]] = []
    module = model.lm.transformer.h[layer].mlp.c_proj
    handle = module.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0][0, at], output[0, at])))
    try:
        model.lm(input_ids=torch.tensor([list(ids)]))
    finally:
        handle.remove()
    return seen[0]


def prompt_after(context: str, request: EditRequest) -> tuple[str, int]:
    """The prompt after a context, and where the subject's last character stands in it."""
    before = context.split("{}")[0]
    template = before + request.prompt
    return template.replace("{}", request.subject), template.index("{}") + len(request.subject) - 1


def equation_4(
    model: EditableModel, layer: int, request: EditRequest, contexts: Sequence[str], offset: Tensor,
    *, kl: float = 1.0, decay: float = 1.0,
) -> Losses:  # fmt: skip
    """ROME (arXiv 2202.05262) eq. 4 at δ `[d_model]`, with the weights of the published program."""
    likelihoods = []
    for context in contexts:
        text, last = prompt_after(context, request)
        whole = f"{text} {request.target_new}"
        ids, first = encode(model, whole), token_at(model, whole, len(text))  # the space before the target is its own
        log_p = logits(model, ids[:-1], layer=layer, at=token_at(model, text, last), offset=offset).log_softmax(-1)
        likelihoods.append(torch.stack([log_p[n - 1, ids[n]] for n in range(first, len(ids))]).mean())
    essence, subject_last = f"{request.subject} is a", len(request.subject) - 1
    ids, at = encode(model, essence), token_at(model, essence, subject_last)
    edited = logits(model, ids, layer=layer, at=at, offset=offset)[at].log_softmax(-1)
    original = logits(model, ids)[at].log_softmax(-1).detach()
    text, last = prompt_after("{}", request)
    _, v0 = value_at(model, encode(model, text), layer, token_at(model, text, last))
    divergence = (edited.exp() * (edited - original)).sum()
    return Losses(-torch.stack(likelihoods).mean(), kl * divergence, decay * offset.norm() / (v0**2).sum())


def optimise(
    model: EditableModel, layer: int, request: EditRequest, contexts: Sequence[str],
    *, steps: int, learning_rate: float, kl: float, decay: float, clamp: float,
) -> tuple[Tensor, list[tuple[float, ...]]]:  # fmt: skip
    """δ after `steps` evaluations of eq. 4 and one update less, and the terms of every evaluation."""
    offset = torch.zeros(model.d_model, requires_grad=True)
    adam, history = torch.optim.Adam([offset], lr=learning_rate), []
    text, last = prompt_after("{}", request)
    _, v0 = value_at(model, encode(model, text), layer, token_at(model, text, last))
    for step in range(steps):
        terms = equation_4(model, layer, request, contexts, offset, kl=kl, decay=decay)
        history.append(tuple(term.item() for term in terms))
        if step == steps - 1:
            break
        [offset.grad] = torch.autograd.grad(terms.nll + terms.kl + terms.decay, offset)
        adam.step()
        with torch.no_grad():
            offset *= min(1.0, float(clamp * v0.norm() / offset.norm()))
    return offset.detach(), history


@torch.no_grad()
def restored(
    model: EditableModel, ids: Sequence[int], noise: Tensor, begin: int, kind: str, layers: Sequence[int], token: int
) -> float:
    """P*[answer | the outputs of these layers at one token clean] of a GPT-2, the mean over the samples of noise.

    Args:
        model: the model.
        ids: the prompt.
        noise: what is added to the embeddings from token `begin` on, `[samples, tokens, d_model]`.
        begin: the subject's first token.
        kind: `mlp` or `attn`.
        layers: whose outputs are put back.
        token: where.
    """
    clean: dict[int, Tensor] = {}
    modules = {n: getattr(model.lm.transformer.h[n], kind) for n in layers}

    def first(output: Any) -> Tensor:
        return output[0] if isinstance(output, tuple) else output

    hooks = [m.register_forward_hook(lambda _m, _i, o, n=n: clean.update({n: first(o)})) for n, m in modules.items()]
    answer = int(logits(model, ids)[-1].argmax())
    for hook in hooks:
        hook.remove()

    def corrupt(_module: object, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, begin : begin + noise.shape[1]] += noise.to(output)
        return output

    def put_back(n: int) -> Any:
        def hook(_module: object, _inputs: object, output: Any) -> Any:
            changed = first(output).clone()
            changed[:, token] = clean[n][:, token]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return hook

    hooks = [model.lm.transformer.wte.register_forward_hook(corrupt)]
    hooks += [module.register_forward_hook(put_back(n)) for n, module in modules.items()]
    rows = torch.tensor([list(ids)]).repeat(len(noise), 1)
    found = model.lm(input_ids=rows).logits[:, -1].double().softmax(-1)[:, answer].mean()
    for hook in hooks:
        hook.remove()
    return float(found)
