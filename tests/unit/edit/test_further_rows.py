"""Further rows of v*'s loss: every term and its gradient on the whole model, and which facts are reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import random_moment, tiny
from factedit.data.registry import load_known
from factedit.edit import further_rows as module
from factedit.edit.further_rows import NOT, Neighbour, further_rows, pool_at, reached
from factedit.edit.method_table import make_method
from factedit.edit.presets import RomeSettings
from factedit.edit.value import find_values
from factedit.errors import UsageError
from factedit.facts import EditRequest, template_of
from factedit.models.adapter import EditableModel
from factedit.stats.preserved import Preserved
from plain import encode, equation_4, token_at, value_at
from plain import logits as spelled_out

REQUEST = EditRequest(subject="Paris", prompt="So {} is in", target_new="Seattle", target_true="France")
CONTEXTS = ("{}", "It was. {}")
NEAR = (Neighbour("Basketball is", "Basketball", 0.5), Neighbour("So LeBron James plays", "LeBron James", -0.25))
LAYER = 1
BASE: dict[str, Any] = {"layer": LAYER, "steps": 4, "learning_rate": 0.3, "kl": 0.2, "decay": 0.1, "clamp": 50.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "statement_context": {"statement_context": True},
    "negation_kl": {"negation_kl": 0.7},
    "neighbour_kl": {"neighbour_kl": 2.0, "neighbours": 2},
    "statement_kl": {"statement_kl": 3.0, "neighbours": 2},
    "all": {"statement_context": True, "negation_kl": 0.7, "neighbour_kl": 2.0, "statement_kl": 3.0, "neighbours": 2,
            "stop": "end"},
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_positions=128, max_position_embeddings=128)


def next_log_p(model: EditableModel, text: str, last: int, offset: Tensor | None) -> Tensor:
    """The next token's log probabilities after a text, an offset added at the token of a character."""
    ids = encode(model, text)
    return spelled_out(model, ids, layer=LAYER, at=token_at(model, text, last), offset=offset)[-1].log_softmax(-1)


def drift(model: EditableModel, text: str, last: int, offset: Tensor) -> Tensor:
    after, before = next_log_p(model, text, last, offset), next_log_p(model, text, last, None).detach()
    return (after.exp() * (after - before)).sum()


def nll(model: EditableModel, prompt: str, last: int, offset: Tensor, *, end: bool) -> Tensor:
    ids, first = encode(model, f"{prompt} Seattle"), token_at(model, f"{prompt} Seattle", len(prompt))
    ids = [*ids, model.tokenizer.eos_token_id] if end else ids
    at = token_at(model, prompt, last)
    log_p = spelled_out(model, ids[:-1], layer=LAYER, at=at, offset=offset).log_softmax(-1)
    return -torch.stack([log_p[n - 1, ids[n]] for n in range(first, len(ids))]).mean()


def by_hand(model: EditableModel, own: RomeSettings, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Likelihood, divergences and decay at δ, from the words of the module."""
    usual = equation_4(model, LAYER, REQUEST, CONTEXTS, offset, kl=own.kl, decay=own.decay)
    end, last = own.stop == "end", len("So Paris") - 1
    prompts = [("So Paris is in", last), ("It was. So Paris is in", len("It was. ") + last)]
    said = "So Paris is in Seattle. "
    if own.statement_context:
        prompts.append((f"{said}So Paris is in", len(said) + last))
    likely = torch.stack([nll(model, prompt, at, offset, end=end) for prompt, at in prompts]).mean()
    if not own.statement_context and not end:
        torch.testing.assert_close(likely, usual.nll)
    kl = usual.kl
    if own.negation_kl:
        kl = kl + own.negation_kl * drift(model, "So Paris is in not", last, offset)
    for other in NEAR if own.neighbours else ():
        at = other.prompt.index(other.subject) + len(other.subject) - 1
        kl = kl + own.neighbour_kl / 2 * drift(model, other.prompt, at, other.share * offset)
        kl = kl + own.statement_kl / 2 * drift(model, said + other.prompt, last, offset)
    return likely, kl, usual.decay


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_terms_and_gradients_are_those_of_the_whole_model(model: EditableModel, name: str) -> None:
    own = RomeSettings(**BASE, **SETTINGS[name])
    [value] = find_values(model, LAYER, [REQUEST], CONTEXTS, own, neighbours=[NEAR if own.neighbours else ()])
    offset = torch.zeros(model.d_model, requires_grad=True)
    adam = torch.optim.Adam([offset], lr=own.learning_rate)
    for step, found in enumerate(value.losses):
        terms = by_hand(model, own, offset)
        for mine, theirs in zip(found[1:], terms, strict=True):
            assert mine == pytest.approx(float(theirs.detach()), abs=2e-4), (step, found)
        if step < own.steps - 1:
            [offset.grad] = torch.autograd.grad(sum(terms), offset)  # type: ignore[arg-type]
            adam.step()
    assert value.losses[-1].kl > 1e-3, "the terms are more than nothing"
    torch.testing.assert_close(value.delta, offset.detach(), atol=5e-3, rtol=5e-3)


def test_rows_that_keep_have_no_part_in_the_key(model: EditableModel) -> None:
    plain, kept = RomeSettings(**BASE), RomeSettings(**BASE, **SETTINGS["neighbour_kl"], negation_kl=1.0)
    [one] = find_values(model, LAYER, [REQUEST], CONTEXTS, plain)
    [other] = find_values(model, LAYER, [REQUEST], CONTEXTS, kept, neighbours=[NEAR])
    torch.testing.assert_close(one.key, other.key)
    said = RomeSettings(**BASE, statement_context=True)
    [third] = find_values(model, LAYER, [REQUEST], CONTEXTS, said)
    text = "So Paris is in Seattle. So Paris is in"
    key, _ = value_at(model, encode(model, text), LAYER, token_at(model, text, text.rindex("Paris") + 4))
    torch.testing.assert_close(third.key, (2 * one.key + key) / 3, atol=1e-5, rtol=1e-4)


def test_facts_side_by_side_have_their_own_rows(model: EditableModel) -> None:
    other = EditRequest(subject="LeBron James", prompt="{} plays", target_new="football")
    own = RomeSettings(**BASE, **SETTINGS["all"])
    near = [NEAR, NEAR[::-1]]
    together = find_values(model, LAYER, [REQUEST, other], CONTEXTS, own, neighbours=near)
    for n, request in enumerate((REQUEST, other)):
        [alone] = find_values(model, LAYER, [request], CONTEXTS, own, neighbours=[near[n]])
        torch.testing.assert_close(together[n].delta, alone.delta, atol=2e-3, rtol=2e-3)


def test_which_facts_an_edit_reaches(model: EditableModel) -> None:
    asked = [("Paris was", "Paris"), ("Seattle is near", "Seattle"), ("The sport of LeBron James", "LeBron James"),
             ("France has", "France"), ("Basketball is", "Basketball")]  # fmt: skip
    moment, pool = random_moment(model.d_mlp), pool_at(model, LAYER, asked)

    def key(template: str, subject: str) -> Tensor:
        text = template.replace("{}", subject)
        at = token_at(model, text, template.index("{}") + len(subject) - 1)
        return value_at(model, encode(model, text), LAYER, at)[0].double()

    own = key(REQUEST.prompt, "Paris")
    solved = torch.linalg.solve(moment.matrix.double(), own)
    wanted = {
        subject: float(key(template_of(text, subject), subject) @ solved / (own @ solved)) for text, subject in asked
    }
    order = sorted((s for s in wanted if s != "Paris"), key=lambda s: -abs(wanted[s]))
    [found] = reached(model, LAYER, [REQUEST], 3, pool, preserved=Preserved(model, LAYER, moment))
    assert [near.subject for near in found] == order[:3]
    assert [near.share for near in found] == pytest.approx([wanted[s] for s in order[:3]], rel=1e-4)
    [flat] = reached(model, LAYER, [REQUEST], 1, pool)
    shares = {s: float(key(template_of(t, s), s) @ own / (own @ own)) for t, s in asked if s != "Paris"}
    assert flat[0].share == pytest.approx(max(shares.values(), key=abs), rel=1e-4), "without C by the keys alone"


def test_methods_take_them_and_are_named_apart(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    known = load_known(module.SOURCE)
    monkeypatch.setattr(module, "load_known", lambda _name: replace(known, records=known.records[:5]))
    moments = lambda m, _layer: random_moment(m.d_mlp)  # noqa: E731
    given: dict[str, Any] = {"layer": LAYER, "steps": 2, "context_templates": ("{}",)}
    plain = make_method("rome", model, moments, **given)
    on = {"neighbours": 2, "statement_kl": 1.0, "negation_kl": 0.5}
    assert not {"neighbours", "statement_context", "negation_kl"} & plain.describe().keys(), (
        "off: as it was kept before"
    )
    for name in ("rome", "memory", "rome-joint"):
        made = make_method(name, model, moments, **given, **on)
        assert made.describe().items() >= on.items()
        [edit] = made.edit([REQUEST]).edits
        assert edit.identity != make_method(name, model, moments, **given).edit([REQUEST]).edits[0].identity
    rome, memory = (make_method(name, model, moments, **given, **on) for name in ("rome", "memory"))
    assert rome.preparation != memory.preparation, "their neighbours are chosen in another way"
    alike = [make_method(name, model, moments, **given).preparation for name in ("rome", "memory")]
    assert alike[0] == alike[1]


def test_settings_that_do_not_go_together_are_refused(model: EditableModel) -> None:
    for wrong in ({"neighbours": 3}, {"statement_kl": 1.0}, {"neighbour_kl": 1.0}):
        with pytest.raises(UsageError, match=r"neighbours, and a weight of theirs .*, come together"):
            make_method("memory", model, None, layer=1, **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="negation_kl"):
        make_method("memory", model, None, layer=1, negation_kl=-1.0)  # type: ignore[arg-type]


def test_rows_are_where_the_words_say(model: EditableModel) -> None:
    own = RomeSettings(**BASE, **SETTINGS["all"])
    rows = further_rows(model, 0, REQUEST, 2, own, NEAR)
    texts = [model.tokenizer.decode(row.ids) for row in rows]
    assert texts[0].startswith("So Paris is in Seattle. So Paris is in")
    assert texts[1] == f"So Paris is in{NOT}"
    assert texts[2:] == ["Basketball is", "So Paris is in Seattle. Basketball is", "So LeBron James plays",
                         "So Paris is in Seattle. So LeBron James plays"]  # fmt: skip
    assert [row.scale for row in rows] == [1, 1, 0.5, 1, -0.25, 1]
    assert [row.weight for row in rows] == [None, 0.7, 1.0, 1.5, 1.0, 1.5]
    assert len({row.context for row in rows}) == 6
    assert further_rows(model, 0, REQUEST, 2, RomeSettings(**BASE)) == []
