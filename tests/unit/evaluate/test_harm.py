"""What edits cost elsewhere, against plain forward passes."""

from __future__ import annotations

import math

import pytest
import torch

from conftest import tiny
from factedit.evaluate.harm import Probes
from factedit.evaluate.probability import Question
from factedit.models.adapter import EditableModel


def log_p(model: EditableModel, question: Question) -> list[float]:
    """Log probabilities of the answer's tokens by one plain pass; the prompt's last token ends before the space."""
    text = f"{question.prompt} {question.answer}"
    ids = model.tokenizer(text)["input_ids"]
    begun = len(model.tokenizer(question.prompt)["input_ids"])
    with torch.no_grad():
        rows = model.lm(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return [float(rows[n - 1, ids[n]]) for n in range(begun, len(ids))]


def test_the_perplexity_is_that_of_plain_passes() -> None:
    model = tiny("gpt2")
    probes = Probes.of(model)
    with model.with_weight(1, 3 * model.weight(1)):
        read = [value for question in probes.texts for value in log_p(model, question)]
        found = probes.measured(model)
    assert found.tokens == pytest.approx(len(read), rel=0.05)  # odd bytes may be cut otherwise at the seam
    assert found.perplexity == pytest.approx(math.exp(-sum(read) / len(read)), rel=0.05)
    assert found.perplexity != pytest.approx(probes.unedited.perplexity, rel=1e-3)


def test_the_unedited_model_is_measured_as_any_other() -> None:
    model = tiny("gpt2")
    probes = Probes.of(model)
    again = probes.measured(model)
    assert again.perplexity == pytest.approx(probes.unedited.perplexity, rel=1e-6)
    assert again.tokens == probes.unedited.tokens


def test_the_panel_is_what_the_model_knew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that always writes the answer's only token knows one fact; broken, it loses it."""
    from factedit.evaluate import harm
    from factedit.facts import KnownFact

    model = tiny("gpt2")
    ids = model.tokenizer("Paris is in")["input_ids"]
    with torch.no_grad():
        first = int(model.lm(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
    likeliest = model.tokenizer.decode([first])
    facts = [KnownFact(fact_id="a", prompt="Paris is in", subject="Paris", answer=likeliest.strip() or "x"),
             KnownFact(fact_id="b", prompt="Paris is in", subject="Paris", answer="Москва")]  # fmt: skip
    monkeypatch.setattr(harm, "worldfacts_known", lambda: facts)
    known = [all(own.first) for own in harm._scores(model, [Question(f.prompt, f.answer) for f in facts])]
    probes = Probes.of(model)
    assert probes.unedited.facts == sum(known)
    assert Probes.of(model, without=["paris"]).unedited.facts == 0
    assert math.isnan(Probes.of(model, without=["Paris"]).unedited.panel)
