"""Restored runs equal the definition, spelled out on the whole model, on every family."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from conftest import tiny
from factedit.errors import RequestError, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.trace.sweep import KINDS, SEVERED, trace_fact

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


@torch.no_grad()
def test_every_restored_state_equals_the_definition(any_family: EditableModel) -> None:
    model, plain = any_family, Definition(any_family)
    found = trace_fact(model, PROMPT, SUBJECT, kinds=(*KINDS, *SEVERED), window=2, noise=NOISE, samples=SAMPLES)
    assert found.clean == pytest.approx(plain.clean, rel=1e-4)
    assert found.corrupted == pytest.approx(plain.run([]), rel=1e-4)
    spread = 0.0
    begin, end = found.subject_range
    for kind in (*KINDS, *SEVERED):
        for token in (begin - 1, begin, end - 1, len(found.tokens) - 1):
            for layer in range(model.n_layer):
                expected = plain.restored(kind, token, layer, 2)
                assert found.scores[kind][token][layer] == pytest.approx(expected, rel=2e-3, abs=1e-6), (
                    kind,
                    token,
                    layer,
                )
                spread = max(spread, abs(expected - found.corrupted))
    assert spread > 1e-4, "the restorations matter, so the comparison is not vacuous"


@torch.no_grad()
def test_exact_statements(tiny_gpt2: EditableModel) -> None:
    found = trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=NOISE, samples=SAMPLES)
    begin, _ = found.subject_range
    for kind in KINDS:
        effects = found.indirect_effects(kind)
        assert (effects[:begin] == 0).all(), "before the subject nothing is corrupted"
        assert (effects[:-1, -1] == 0).all(), "the last layer of an earlier token reaches nobody"
    assert found.scores["hidden"][-1][-1] == pytest.approx(found.clean, rel=1e-5)


def test_common_random_numbers(tiny_gpt2: EditableModel) -> None:
    again = [trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=NOISE, seed=s).corrupted for s in (1, 1, 2)]
    assert again[0] == again[1] != again[2]


def test_start_token_and_padding_free_positions() -> None:
    model = tiny("gemma3_text", start=True)
    found = trace_fact(model, PROMPT, SUBJECT, noise=NOISE, samples=2, kinds=("hidden",))
    assert found.tokens[0] == "<s>"
    begin, end = found.subject_range
    assert "".join(found.tokens[begin:end]).strip() == SUBJECT


def test_bad_input(tiny_gpt2: EditableModel) -> None:
    with pytest.raises(RequestError, match="does not occur in the prompt"):
        trace_fact(tiny_gpt2, PROMPT, "Москва", noise=1.0)
    with pytest.raises(UsageError, match="Cannot trace feelings"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=1.0, kinds=("feelings",))
    with pytest.raises(UsageError, match="must be at least 1"):
        trace_fact(tiny_gpt2, PROMPT, SUBJECT, noise=1.0, window=0)
