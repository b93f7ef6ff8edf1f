"""Causal tracing by its definition, spelled out on the whole model: the oracle of the tests of `trace/`."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch

from factedit.models.adapter import EditableModel
from factedit.models.positions import locate

PROMPT, SUBJECT = "In Paris LeBron James plays", "LeBron James"
NOISE, SAMPLES = 0.6, 3


class Definition:
    """ROME's three runs (arXiv 2202.05262, section 2.1) with hooks on the whole model, nothing shared or skipped."""

    def __init__(self, model: EditableModel) -> None:
        self.model = model
        self.found = locate(model, PROMPT.replace(SUBJECT, "{}"), SUBJECT)
        self.ids = torch.tensor([self.found.ids]).repeat(1 + SAMPLES, 1)
        begin, end = self.found.subject_range
        width = model.lm.get_input_embeddings().weight.shape[1]
        self.noise = NOISE * np.random.RandomState(1).randn(SAMPLES, end - begin, width)
        logits = model.lm(input_ids=self.ids[:1]).logits[0, -1]
        self.answer = int(logits.argmax())
        self.clean = float(logits.softmax(-1)[self.answer])

    def run(self, hooks: list) -> float:
        """P*[answer] with hooks (kind, layer, function of the `[1 + samples, tokens, d]` output)."""
        begin, end = self.found.subject_range

        def corrupt(_module, _args, output):
            output = output.clone()
            output[1:, begin:end] += torch.from_numpy(self.noise).to(output)
            return output

        with ExitStack() as stack:
            stack.callback(self.model.lm.get_input_embeddings().register_forward_hook(corrupt).remove)
            for kind, layer, function in hooks:
                if kind == "hidden":
                    stack.callback(self.model.layers[layer].register_forward_hook(on_hidden(function)).remove)
                else:
                    stack.enter_context(self.model.on_output(kind, layer, function))
            logits = self.model.lm(input_ids=self.ids).logits[1:, -1]
        return float(logits.double().softmax(-1).mean(0)[self.answer])

    def restored(self, kind: str, token: int, layer: int, window: int) -> float:
        n_layer = self.model.n_layer
        if kind == "hidden":
            return self.run([("hidden", layer, clean_row(token))])
        if kind in ("mlp", "attn"):
            half = window // 2  # of an even window: layers [l − w/2, l + w/2 − 1], clipped to the model
            layers = [n for n in range(layer - half, layer + half) if 0 <= n < n_layer]
            return self.run([(kind, n, clean_row(token)) for n in layers])
        part = kind.split("-")[1]
        corrupted: dict[int, torch.Tensor] = {}
        self.run([(part, n, keep(corrupted, n)) for n in range(n_layer)])
        hooks = [(part, n, hold(corrupted, n, token)) for n in range(n_layer)]
        return self.run([*hooks, ("hidden", layer, clean_row(token))])


def on_hidden(function):
    def hook(_module, _args, output):
        if isinstance(output, tuple):
            return (function(output[0]), *output[1:])
        return function(output)

    return hook


def clean_row(token: int):
    def put(out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[1:, token] = out[:1, token]
        return out

    return put


def keep(store: dict, layer: int):
    def put(out: torch.Tensor) -> None:
        store[layer] = out.clone()

    return put


def hold(store: dict, layer: int, token: int):
    def put(out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[1:, token] = store[layer][1:, token]
        return out

    return put
