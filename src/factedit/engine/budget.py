"""How many rows, tokens or facts fit at once: the one file that decides it.

On a processor a fixed number: once the weights are fetched for enough of them, more at a time wins nothing and costs
memory. On an accelerator as many as a share of its free memory holds, since every call costs the same there, however
small. No result depends on any of these, to rounding. What does not fit all the same is halved (`memory.py`).
"""

from __future__ import annotations

import torch

from factedit.memory import SHARE_OF_FREE, free_bytes
from factedit.models.adapter import EditableModel

COLUMNS_READ = 1024  # rows x tokens that are read together for second moments
PARTS_SUMMED = 16  # times so many are one partial sum
COLUMNS_SCORED = 2048  # rows x tokens that are scored together
COLUMNS_RESTORED = 16_384  # rows x tokens of restored runs, on any device
COLUMNS_AT_MOST = 16_384  # of what is read or scored on an accelerator: rows of one batch should be of like length
TOKENS_OF_PROMPTS = 2048  # that are taken through a layer together on the way to facts' keys,
TOKENS_OF_PROMPTS_ELSEWHERE = 1 << 15  # on an accelerator
TEXTS_WRITTEN = 64  # together; the vocabulary and the past of each are held,
TEXTS_AT_MOST = 512  # on an accelerator
NAMES_READ = 64  # subjects' names whose keys are read together
KNOWN_FACTS = 32  # whose answers are looked at together before they are traced
FACTS_TRANSFORMED = 16  # whose gradients a network reads together
READS_RESTORED = 256  # rows of logits of restored runs
READS_SCORED, READS_OPTIMISED, READS_TUNED = 48, 48, 64  # rows of logits
ESSENCES = 8  # of the rows that are optimised: a dozen numbers a word are held
STREAMED = 4e8  # bytes of activations of a model that is read from disk
LEAST_TOKENS = 64  # that are optimised together


def columns_read(model: EditableModel) -> int:
    """Return rows x tokens whose keys are read together for second moments."""
    each = (10 * model.d_model + 10 * model.d_mlp) * 4
    return min(COLUMNS_AT_MOST, _at_once(model.device, each, COLUMNS_READ))


def tokens_summed() -> int:
    """Return tokens of a partial sum of second moments, the same on every machine: sums of parts are added in order."""
    return PARTS_SUMMED * COLUMNS_READ


def columns_scored(model: EditableModel) -> int:
    """Return rows x tokens that are scored together."""
    each = (10 * model.d_model + 5 * model.d_mlp) * 4
    return min(COLUMNS_AT_MOST, _at_once(model.device, each, COLUMNS_SCORED))


def rows_restored(columns: int) -> int:
    """Return how many restorations of a trace, of so many rows x tokens each, are run together."""
    return max(1, COLUMNS_RESTORED // columns)


def tokens_restored(model: EditableModel, each: float) -> int:
    """Return tokens of a prompt at which a trace restores in one go, of so many bytes of hidden states each."""
    return max(1, int(STREAMED / each)) if model.streamed else 1


def reads_scored(model: EditableModel) -> int:
    """Return rows of logits held at a time while scoring; three numbers a word are held."""
    return _at_once(model.device, 12 * model.vocab, READS_SCORED)


def reads_optimised(model: EditableModel) -> int:
    """Return rows of logits held at a time while a value is optimised: themselves, their gradients, room to make
    them.
    """
    return _at_once(model.device, 16 * model.vocab, READS_OPTIMISED)


def reads_tuned(model: EditableModel) -> int:
    """Return rows of logits held at a time for the loss of targets."""
    return _at_once(model.device, 16 * model.vocab, READS_TUNED)


def texts_written(model: EditableModel, longest: int) -> int:
    """Return texts of at most so many tokens that are written together."""
    each = 12 * model.vocab + 12 * longest * model.n_layer * model.d_model
    return min(TEXTS_AT_MOST, _at_once(model.device, each, TEXTS_WRITTEN))


def tokens_optimised(model: EditableModel, layer: int) -> int:
    """Return tokens from the subject on that are optimised together above a layer: a fifth of the weights' size."""
    if model.streamed:  # of layers that went only what they received is held (`streaming.py`)
        return max(LEAST_TOKENS, int(STREAMED / (_held_optimised(model, layer) * _number(model))))
    each = max(1, model.n_layer - layer) * (10 * model.d_model + 5 * model.d_mlp) * _number(model)
    return max(LEAST_TOKENS, _at_once(model.device, each, _in_weights(model, 0.2, each), share=0.4))


def share_of_past(model: EditableModel, layer: int) -> float:
    """Return how much a token before the subject's last counts among those of `tokens_optimised`: of a model that is
    read from disk its keys and values of all layers are held.
    """
    if not model.streamed:
        return 0.0
    return 2 * model.n_layer * model.d_model / _held_optimised(model, layer)


def _held_optimised(model: EditableModel, layer: int) -> int:
    """Return numbers that a token of a streamed model's optimisation holds."""
    return 2 * max(1, model.n_layer - layer) * model.d_model + 10 * model.d_model + 5 * model.d_mlp


def tokens_of_prompts(model: EditableModel) -> int:
    """Return tokens that are taken through a layer together on the way to facts' keys."""
    return TOKENS_OF_PROMPTS if model.device.type == "cpu" else TOKENS_OF_PROMPTS_ELSEWHERE


def tokens_waiting(model: EditableModel) -> int:
    """Return tokens whose hidden states may wait for the next edited layer: the weights' size."""
    each = model.d_model * _number(model)
    if model.streamed:
        return int(STREAMED / each)
    return _at_once(model.device, each, _in_weights(model, 1.0, each), share=0.3)


def changes_tuned(model: EditableModel, layer: int) -> int:
    """Return facts that are fine-tuned side by side: six copies of ΔW each (itself, gradient, two moments, room for
    the step).

    They may take a quarter of the weights' size, but 100 MB in any case.
    """
    each = 6 * 4 * model.weight(layer).numel()
    weights = sum(p.numel() * p.element_size() for p in model.lm.parameters())
    return max(1, int(max(0.25 * weights, 100_000_000) / each))


def _number(model: EditableModel) -> int:
    """Bytes of a number in the model's type."""
    return torch.finfo(model.dtype).bits // 8


def _in_weights(model: EditableModel, share: float, each: int) -> int:
    """Return how many things of so many bytes take a share of the weights' size."""
    return int(share * sum(p.numel() for p in model.lm.parameters()) * _number(model) / each)


def _at_once(device: torch.device, each: float, on_processor: int, *, share: float = SHARE_OF_FREE) -> int:
    """Return how many things of so many bytes to hold at a time.

    Args:
        device: where they are held.
        each: bytes of one.
        on_processor: the number on a processor.
        share: of the free memory of an accelerator.
    """
    return on_processor if device.type != "cuda" else max(1, int(share * free_bytes(device) / each))
