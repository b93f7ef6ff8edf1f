"""The published way, written plainly from its description: the alternative that factedit is measured against.

Whole model, all tokens, all logits; one restored state and one fact at a time, the prompts of a case in one batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch

from factedit.edit.value_rows import ESSENCE
from factedit.facts import EditRequest, FactRecord, fill, template_of
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, locate
from factedit.trace.restore import window_of


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask `[rows, tokens]`, padded at the end."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


@torch.no_grad()
def trace_states(model, prompt, subject, states, *, noise, window, samples=10):  # type: ignore[no-untyped-def]
    """P*[answer] for (kind, token, layer) states, one pass of 1 + samples whole rows each."""
    found = locate(model, template_of(prompt, subject), subject)
    begin, end = found.subject_range
    ids = torch.tensor([found.ids]).repeat(1 + samples, 1)
    answer = int(model.lm(input_ids=ids[:1]).logits[0, -1].argmax())
    extra = torch.from_numpy(noise * np.random.RandomState(1).randn(samples, end - begin, model.d_model))

    def corrupt(_m, _a, out):  # type: ignore[no-untyped-def]
        out = out.clone()
        out[1:, begin:end] += extra.to(out)
        return out

    results = []
    for kind, token, layer in states:

        def put(out, token=token):  # type: ignore[no-untyped-def]
            out = out.clone()
            out[1:, token] = out[:1, token]
            return out

        with ExitStack() as stack:
            stack.callback(model.lm.get_input_embeddings().register_forward_hook(corrupt).remove)
            if kind == "hidden":
                hook = lambda _m, _a, out, put=put: put(out)  # noqa: E731
                stack.callback(model.layers[layer].register_forward_hook(hook).remove)
            else:
                for n in window_of(layer, window, model.n_layer):
                    stack.enter_context(model.on_output(kind, n, put))
            logits = model.lm(input_ids=ids).logits
        results.append(float(logits[1:, -1].softmax(-1).mean(0)[answer]))
    return results


def rome_delta(model: EditableModel, layer: int, request: EditRequest, contexts, settings):  # type: ignore[no-untyped-def]
    """δ of ROME eq. 4 by whole forward and backward passes over padded rows, all logits."""
    texts = [continuation(model, fill(fill(c, request.prompt), request.subject), request.target_new) for c in contexts]
    rows = [ids[:-1] for ids, _ in texts]
    spots = [locate(model, fill(c, request.prompt), request.subject).subject_last for c in contexts]
    essence = locate(model, ESSENCE, request.subject)
    rows.append(essence.ids)
    spots.append(essence.subject_last)
    ids, mask = padded(rows)
    targets = torch.full((len(texts), ids.shape[1]), -1)  # the token that each position must give
    for i, (text, first) in enumerate(texts):
        targets[i, first - 1 : len(text) - 1] = torch.tensor(text[first:])
    where = torch.arange(len(rows)), torch.tensor(spots)
    delta = torch.zeros(model.d_model, requires_grad=True)
    state: dict = {}

    def add(_key, value):  # type: ignore[no-untyped-def]
        state.setdefault("v0", value[0, spots[0]].detach().norm())
        if len(value) < len(rows):  # the bare prompt alone, for v0
            return value
        out = value.clone()
        out[where] = out[where] + delta
        return out

    with model.frozen():
        if settings.relative_rate:
            with torch.no_grad(), model.on_matrix(layer, add):
                model.lm(input_ids=ids[:1], attention_mask=mask[:1])
        rate = settings.learning_rate * (float(state["v0"]) if settings.relative_rate else 1.0)
        optimiser = torch.optim.Adam([delta], lr=rate)
        for step in range(settings.steps):
            with model.on_matrix(layer, add):
                log_p = model.lm(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
            of_targets = log_p[:-1].gather(2, targets.clamp(min=0)[..., None])[..., 0]
            nll = -(of_targets * (targets >= 0)).sum(1) / (targets >= 0).sum(1)
            now = log_p[-1, essence.subject_last]
            before = state.setdefault("essence", now.detach())
            kl = (now.exp() * (now - before)).sum()
            loss = nll.mean() + settings.kl * kl + settings.decay * delta.norm() / state["v0"] ** 2
            if step == settings.steps - 1 or float(loss.detach()) < settings.stop_loss:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                limit = settings.clamp * state["v0"]
                if delta.norm() > limit:
                    delta.mul_(limit / delta.norm())
    return delta.detach()


@torch.no_grad()
def second_moments(model: EditableModel, layers, texts, *, tokens: int, batch: int = 8, length: int = 512):  # type: ignore[no-untyped-def]
    """E[k kᵀ] layer by layer: one pass over the text for each, in padded batches, stopping after the layer."""

    class Stop(Exception):
        pass

    found = {}
    rows = []
    for text in texts:
        ids = model.tokenizer(text)["input_ids"][:length]
        rows.append(ids[: tokens - sum(map(len, rows))])
        if sum(map(len, rows)) >= tokens:
            break
    for layer in layers:
        total, count = torch.zeros(model.d_mlp, model.d_mlp), 0
        for begin in range(0, len(rows), batch):
            part = rows[begin : begin + batch]
            ids, mask = padded(part)
            kept = []

            def keep(key, _value, mask=mask, kept=kept):  # type: ignore[no-untyped-def]
                kept.append(key[mask.bool()])
                raise Stop

            with model.on_matrix(layer, keep), contextlib.suppress(Stop):
                model.lm(input_ids=ids, attention_mask=mask)
            total += kept[0].T @ kept[0]
            count += len(kept[0])
        found[layer] = total / count
    return found


@torch.no_grad()
def case_probabilities(model: EditableModel, record: FactRecord) -> list[float]:
    """Both targets on every prompt, one whole padded batch, all logits, normalised where an answer is read."""
    request = record.request
    prompts = (request.text, *record.paraphrases, *record.neighborhood)
    texts = [continuation(model, p, t) for p in prompts for t in (request.target_new, request.target_true or "")]
    ids, mask = padded([row for row, _ in texts])
    logits = model.lm(input_ids=ids, attention_mask=mask).logits
    found = []
    for i, (row, first) in enumerate(texts):
        log_p = logits[i, first - 1 : len(row) - 1].log_softmax(-1)
        found.append(float(log_p.gather(1, torch.tensor(row[first:])[:, None]).mean().exp()))
    return found
