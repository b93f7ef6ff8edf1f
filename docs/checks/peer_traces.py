"""Hold traces of five families against TransformerLens's bridge, on tiny random models (development only).

    pip install transformer-lens    # into an environment of its own, beside factedit's
    PYTHONPATH=src:tests python docs/checks/peer_traces.py

Both get the same weights and the same noise; TransformerLens runs whole passes with its own hooks. Written is the
largest difference of a restored probability, per family.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

from conftest import randomised, tiny_tokenizer
from factedit.models.adapter import EditableModel
from factedit.trace.sweep import trace_fact
from tiny_families import tiny_family_lm
from trace_definition import NOISE, PROMPT, SAMPLES, SUBJECT, Definition

FAMILIES = ("gpt2", "llama", "gemma2", "qwen3", "gpt_neox")
HOOKS = {"hidden": "blocks.{}.hook_resid_post", "attn": "blocks.{}.hook_attn_out", "mlp": "blocks.{}.hook_mlp_out"}


def restored(bridge: Any, plain: Definition, noise: Tensor, places: list[tuple[str, int]], token: int) -> float:
    """P*[answer] with clean values at these hooks and this token, as TransformerLens computes it."""
    begin, end = plain.found.subject_range

    def corrupt(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 - called by its name
        value = value.clone()
        value[1:, begin:end] += noise.to(value)
        return value

    def clean(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        value = value.clone()
        value[1:, token] = value[:1, token]
        return value

    hooks: list[tuple[str, Callable[..., Tensor]]] = [("hook_embed", corrupt)]
    hooks += [(HOOKS[kind].format(layer), clean) for kind, layer in places]
    logits = bridge.run_with_hooks(plain.ids, fwd_hooks=hooks, prepend_bos=False)[1:, -1]
    return float(logits.double().softmax(-1).mean(0)[plain.answer])


@torch.no_grad()
def main() -> None:
    """Compare, and print a line per family."""
    for name in FAMILIES:
        with TemporaryDirectory() as folder:
            lm, tokenizer = randomised(tiny_family_lm(name)), tiny_tokenizer()
            lm.save_pretrained(folder)
            tokenizer.save_pretrained(Path(folder))
            model = EditableModel(lm, tokenizer)
            bridge = TransformerBridge.boot_transformers(
                folder, device="cpu", tokenizer=AutoTokenizer.from_pretrained(folder)
            )
            plain, worst = Definition(model), 0.0
            found = trace_fact(model, PROMPT, SUBJECT, window=2, noise=NOISE, samples=SAMPLES)
            noise = torch.from_numpy(plain.noise)
            for kind in HOOKS:
                for token in range(len(found.tokens)):
                    for layer in range(model.n_layer):
                        around = range(max(0, layer - 1), layer + 1) if kind != "hidden" else (layer,)
                        theirs = restored(bridge, plain, noise, [(kind, n) for n in around], token)
                        worst = max(worst, abs(theirs - float(found.scores[kind][token][layer])))
        line = f"{name}: largest difference {worst:.1e}, of {found.clean:.4f} clean, {found.corrupted:.4f} corrupted"
        print(line)  # noqa: T201


if __name__ == "__main__":
    main()
