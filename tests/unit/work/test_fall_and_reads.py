"""What is left of an answer as noise grows, what factors read and write, and which facts a model knows: against the
definitions, written out on the whole model.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.dense import Dense
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.prompt import Prompt
from factedit.errors import RequestError, UsageError
from factedit.facts import EditRequest, KnownFact
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.work.fall import LEVELS, fall, named_levels
from factedit.work.known import known_facts
from factedit.work.reads import read_and_written
from factedit.work.touched import other_facts
from factedit.work.trace import trace_prompt
from stack_cases import random_edit

PROMPT, SUBJECT = "In Paris the", "Paris"
OTHERS = [EditRequest(subject=name, prompt="{} is in", target_new="Rome") for name in ("France", "Seattle", "Zürich")]


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


# -- the slider ------------------------------------------------------------------------------------


def blurred(model: EditableModel, noise: float, samples: int) -> tuple[float, float]:
    """P of the clean run's first token, clean and with noise on the subject's embeddings, from the whole model."""
    text = locate(model, "In {} the", SUBJECT)
    begin, end = text.subject_range
    ids = torch.tensor([text.ids])
    rows = model.lm.get_input_embeddings()(ids).repeat(1 + samples, 1, 1)
    own = np.random.RandomState(1).randn(samples, end - begin, rows.shape[2])
    rows[1:, begin:end] += torch.from_numpy(noise * own).to(rows)
    shares = model.lm(inputs_embeds=rows).logits[:, -1].double().softmax(-1)
    answer = int(shares[0].argmax())
    return float(shares[0, answer]), float(shares[1:, answer].mean())


@torch.no_grad()
def test_every_level_is_the_corrupted_run_at_its_noise(model: EditableModel) -> None:
    found = fall(model, PROMPT, SUBJECT, ("0.1", "0.5", "2"), samples=3)
    assert [own.level for own in found.levels] == ["0.1", "0.5", "2"]
    assert [own.noise for own in found.levels] == [0.1, 0.5, 2.0]
    for own in found.levels:
        clean, left = blurred(model, own.noise, 3)
        assert (found.clean, own.corrupted) == pytest.approx((clean, left), rel=1e-5)
    assert len({own.corrupted for own in found.levels}) == 3


def test_a_level_in_sigmas_is_that_of_a_trace_to_the_bit(model: EditableModel) -> None:
    told: list[tuple[float, float]] = []
    found = fall(model, PROMPT, SUBJECT, ("2s",), samples=2, progress=lambda _what, done, of: told.append((done, of)))
    trace = trace_prompt(model, PROMPT, SUBJECT, noise="2s", samples=2, kinds="hidden")
    [own] = found.levels
    assert (found.answer, found.clean, own.corrupted, own.noise) == (
        trace.answer, trace.clean, trace.corrupted, trace.noise,
    )  # fmt: skip
    assert told[-1] == (1, 1)


def test_levels_are_written_with_commas_and_all_are_ten() -> None:
    assert named_levels("1s, 2s,0.5") == ("1s", "2s", "0.5")
    assert named_levels(" all ") == LEVELS
    assert named_levels("") == ()
    assert len(LEVELS) == 10
    assert "3s" in LEVELS, "the paper's"


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ({"levels": ()}, UsageError, "at least one noise level"),
        ({"samples": 0}, UsageError, "one sample"),
        ({"levels": ("1s", "loud")}, UsageError, "'loud' is neither"),
        ({"subject": "Rome"}, RequestError, "does not occur"),
    ],
)
def test_what_cannot_be_blurred_is_told(model: EditableModel, how: dict[str, Any], kind: Any, said: str) -> None:
    asked: dict[str, Any] = {"subject": SUBJECT, "levels": ("1",)} | how
    with pytest.raises(kind, match=said):
        fall(model, PROMPT, **asked)


# -- what factors read and write -------------------------------------------------------------------


def keys_of(model: EditableModel, layer: int, requests: list[EditRequest]) -> torch.Tensor:
    """What the MLP's last matrix reads at the subject's last token, by a hook on the whole model."""
    found = []
    for request in requests:
        text = locate(model, request.prompt, request.subject)
        hook = model.lm.transformer.h[layer].mlp.c_proj.register_forward_pre_hook(
            lambda _module, given, at=text.subject_last: found.append(given[0][0, at])
        )
        model.lm(input_ids=torch.tensor([text.ids]))
        hook.remove()
    return torch.stack(found)


@torch.no_grad()
def test_subjects_and_tokens_are_those_of_the_definition(model: EditableModel) -> None:
    edit = random_edit(model, 3, layer=1)
    edit = replace(edit, requests=(EditRequest(subject="Paris", prompt="{} is in", target_new="Rome"),))
    [own] = read_and_written(model, edit, others=OTHERS, count=4)
    left, right = edit.effects[0].factors()  # type: ignore[attr-defined]
    written = (keys_of(model, 1, [edit.requests[0], *OTHERS]) @ left) @ right
    shares = (written @ written[0] / written[0].square().sum()).tolist()
    expected = dict(zip(["Paris", "France", "Seattle", "Zürich"], shares, strict=True))
    assert {one.subject: one.share for one in own.subjects} == pytest.approx(expected, rel=1e-4)
    sizes = [abs(one.share) for one in own.subjects]
    assert sizes == sorted(sizes, reverse=True)
    assert expected["Paris"] == pytest.approx(1.0)
    logits = model.lm.lm_head(model.lm.transformer.ln_f(written[0]))
    shares_of = logits.double().softmax(-1)
    best = shares_of.topk(4)
    assert [token.probability for token in own.tokens] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert [token.text for token in own.tokens] == [model.tokenizer.decode([n]) for n in best.indices.tolist()]
    assert (own.layer, own.matrix, own.subjects[0].prompt.endswith("is in")) == (1, "out", True)


def test_changes_of_one_matrix_are_summed_and_every_matrix_is_told(model: EditableModel) -> None:
    one, two = random_edit(model, 1, layer=1), random_edit(model, 2, layer=2, rank=None)
    halves = tuple(Dense(1, one.effects[0].delta() / 2) for _ in range(2))  # type: ignore[attr-defined]
    both = replace(one, effects=(*halves, *two.effects))
    found = read_and_written(model, both, others=OTHERS)
    assert [own.layer for own in found] == [1, 2]
    [alone] = read_and_written(model, one, others=OTHERS)
    assert [s.share for s in found[0].subjects] == pytest.approx([s.share for s in alone.subjects], rel=1e-4)


def test_a_matrix_that_writes_no_hidden_state_has_no_tokens(model: EditableModel) -> None:
    edit = random_edit(model, 1, layer=1, matrix="in")
    [own] = read_and_written(model, edit, others=OTHERS, count=2)
    assert (own.tokens, len(own.subjects), own.matrix) == ((), 2, "in")


def test_an_edit_of_no_weights_or_no_such_fact_is_refused(model: EditableModel) -> None:
    edit = random_edit(model, 1)
    text = replace(edit, effects=(Prompt("Paris is in Rome. {}"),))
    for own, fact in ((text, 0), (edit, 1), (edit, -1)):
        with pytest.raises(UsageError, match="changes weights"):
            read_and_written(model, own, fact=fact, others=OTHERS)


def test_other_facts_are_of_other_subjects_one_each() -> None:
    request = EditRequest(subject="France", prompt="The capital of {} is", target_new="Rome")
    names = [own.subject.casefold() for own in other_facts(request)]
    assert "france" not in names
    assert len(names) == len(set(names)) > 300


# -- facts a model knows ---------------------------------------------------------------------------


def test_known_is_what_the_model_writes_by_itself(model: EditableModel, caplog: pytest.LogCaptureFixture) -> None:
    prompts = [f"{name} is in" for name in ("Paris", "France", "Seattle", "Zürich", "LeBron James")] * 4
    facts = []
    for n, prompt in enumerate(prompts):
        ids = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
        written = model.tokenizer.decode(model.lm.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :])
        words = written.split()
        answer = words[0] if n % 2 and words else "no such word"
        facts.append(KnownFact(fact_id=str(n), prompt=prompt, subject=prompt[:-6], answer=answer))
    right = [fact for fact in facts if fact.answer != "no such word"]
    told: list[float] = []
    with caplog.at_level(logging.WARNING):
        found = known_facts(model, facts, count=3, progress=lambda _what, done, _of: told.append(done))
    assert found == right[:3]
    assert max(told) < len(facts), "the rest is not asked"
    assert known_facts(model, facts, count=99) == right


def test_a_low_rank_change_about_nobody_has_an_edit_to_be_of(model: EditableModel) -> None:
    """The key of the first request is what shares are of, so there must be one."""
    change = LowRank(1, torch.ones(model.d_mlp, 1), torch.ones(1, model.d_model))
    edit = Edit(method="random", requests=(), effects=(change,), made_for="0" * 64)
    with pytest.raises(UsageError, match="told of a fact"):
        read_and_written(model, edit, others=OTHERS)
