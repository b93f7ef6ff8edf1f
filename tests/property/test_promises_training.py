"""What a hypernetwork is trained for (MEND, arXiv 2110.11309, eq. 4), with the edit put into the weights by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from factedit.edit.factors import last_matrices, shapes_of
from factedit.edit.network_mend import MendNetwork, MendSettings
from factedit.edit.target_rows import target_row
from factedit.models.adapter import EditableModel
from factedit.train.examples import Example
from factedit.train.objective import losses
from plain import encode, token_at

RATE = 0.5
ASKED = [  # prompt, target; another wording; a text that stays, and how it goes on
    ("Paris is in", "Seattle", "Where is Paris? In", "The sport of", "basketball"),
    ("LeBron James plays", "French", "The sport of LeBron James is", "Café Zürich is", "the"),
]


def read(model: EditableModel, prompt: str, target: str) -> tuple[Tensor, list[int]]:
    """Log probabilities `[target tokens, vocab]` where a target is expected, and its tokens."""
    whole = f"{prompt} {target}"
    ids, first = encode(model, whole), token_at(model, whole, len(prompt))
    log_p = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return log_p[first - 1 : -1], ids[first:]


def nll(model: EditableModel, prompt: str, target: str) -> Tensor:
    log_p, tokens = read(model, prompt, target)
    return -log_p[range(len(tokens)), tokens].mean()


@contextmanager
def stepped_down(model: EditableModel, prompt: str, target: str) -> Iterator[None]:
    """The model after one step of RATE down the gradient of a target's loss, in the last MLP's two matrices."""
    mlp = model.lm.transformer.h[-1].mlp
    weights = [mlp.c_fc.weight, mlp.c_proj.weight]
    slopes = torch.autograd.grad(nll(model, prompt, target), weights)
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        try:
            for weight, slope in zip(weights, slopes, strict=True):
                weight -= RATE * slope
            yield
        finally:
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


@pytest.mark.parametrize(("c_edit", "c_loc"), [(1.0, 0.0), (0.0, 1.0), (0.1, 3.0)])
def test_a_network_is_trained_to_take_up_the_edit_in_other_words_and_to_leave_other_texts(
    tiny_gpt2: EditableModel, c_edit: float, c_loc: float
) -> None:
    """c_edit · (−log P̃ of the target after another wording) + c_loc · KL(P ‖ P̃) on another text, means over the batch.

    An untrained network gives −rate times the gradient, so P̃ is one step of plain gradient descent.
    """
    model = tiny_gpt2
    taken_up, drift = [], []
    for prompt, target, wording, text, more in ASKED:
        with torch.no_grad():
            before, _ = read(model, text, more)
        with stepped_down(model, prompt, target):
            taken_up.append(nll(model, wording, target))
            after, _ = read(model, text, more)
            drift.append((before.exp() * (before - after)).sum(1).mean())
    places = last_matrices(model, 1)
    network = MendNetwork(shapes_of(model, places), MendSettings(rank=2, rate=RATE), seed=0).eval()
    examples = [
        Example(target_row(model, prompt, target), target_row(model, wording, target), target_row(model, text, more))
        for prompt, target, wording, text, more in ASKED
    ]
    found = losses(model, network, places, examples, c_edit=c_edit, c_loc=c_loc)
    wanted_edit, wanted_drift = (float(torch.stack(values).mean()) for values in (taken_up, drift))
    assert found.edit == pytest.approx(wanted_edit, rel=1e-3)
    assert found.drift == pytest.approx(wanted_drift, rel=1e-2)
    assert found.total.item() == pytest.approx(c_edit * wanted_edit + c_loc * wanted_drift, rel=1e-2)
    assert wanted_drift > 1e-3, "the step shows"
