"""Texts as long as the context and longer: what is read, gone on with, and refused in words."""

from __future__ import annotations

import pytest
import torch

from conftest import tiny
from factedit.edit.methods.kn import _old_object
from factedit.engine.generate import generate, sample_texts, start_token
from factedit.engine.mean_states import mean_states
from factedit.errors import RequestError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.trace.sweep import trace_fact


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def row(count: int) -> list[int]:
    return [5 + n % 300 for n in range(count)]


def test_a_row_that_fills_the_context_is_gone_on_with_by_nothing(model: EditableModel) -> None:
    assert generate(model, [row(64), row(62)], tokens=[5, 5])[0] == []
    assert len(generate(model, [row(64), row(62)], tokens=[5, 5])[1]) == 2
    assert generate(model, [row(3)], tokens=[0]) == [[]]
    assert generate(model, [], tokens=[]) == []


def test_a_row_longer_than_the_context_is_refused_in_words(model: EditableModel) -> None:
    """Before, torch's own error about an index that is out of range; also for texts with such an opening."""
    with pytest.raises(RequestError, match=r"^A text to go on with has 65 tokens; tiny-gpt2 reads 64\. Shorten"):
        generate(model, [row(3), row(65)], tokens=[1, 1])
    with pytest.raises(RequestError, match=r"A text to go on with has .*; tiny-gpt2 reads 64"):
        sample_texts(model, [5], top_k=1, seed=0, openings=("", "Paris is in " * 40))


def test_a_text_is_as_long_as_asked_for_with_its_opening(model: EditableModel) -> None:
    """An opening that is longer already stands alone."""
    opening = "The Space Needle is in"
    begun = [start_token(model), *model.tokenizer(opening)["input_ids"]]
    lengths = [2, len(begun), len(begun) + 3]
    short, exact, longer = sample_texts(model, lengths, top_k=1, seed=0, openings=(opening,))
    assert short == exact == opening
    assert longer.startswith(opening)
    [added] = generate(model, [begun], tokens=[3])
    assert longer == opening + model.tokenizer.decode(added)


def test_tokens_that_end_a_row_and_are_part_of_it(model: EditableModel) -> None:
    """`last` ends a row after a token, `stop` before it; each row has its own `last`."""
    [whole] = generate(model, [row(4)], tokens=[12])
    at = next(n for n in range(1, 12) if whole[n] not in whole[:n])
    token = whole[at]
    ended, plain = generate(model, [row(4), row(4)], tokens=[12, 12], last=[frozenset({token}), frozenset()])
    assert ended == whole[: at + 1]
    assert plain == whole
    [stopped] = generate(model, [row(4)], tokens=[12], stop=frozenset({token}))
    assert stopped == whole[:at]
    [both] = generate(model, [row(4)], tokens=[12], stop=frozenset({token}), last=[frozenset({token})])
    assert both == whole[:at], "what ends a row before counts first"


def test_a_mean_is_of_texts_that_fit_with_their_start_token(model: EditableModel) -> None:
    ids = model.tokenizer("Paris is in Seattle. " * 40)["input_ids"]
    fits = next(
        text for end in range(63, 90)
        if len(model.tokenizer(text := model.tokenizer.decode(ids[:end]).rstrip())["input_ids"]) == 63
    )  # fmt: skip
    full = next(
        text for end in range(64, 90)
        if len(model.tokenizer(text := model.tokenizer.decode(ids[:end]).rstrip())["input_ids"]) == 64
    )  # fmt: skip
    assert torch.isfinite(mean_states(model, [fits])).all()
    with pytest.raises(
        RequestError, match=r"A text with its start token has 65 tokens; tiny-gpt2 reads 64\. Shorten it"
    ):
        mean_states(model, ["Paris", full])
    with pytest.raises(RequestError, match="reads 64"):
        mean_states(model, ["Paris is in " * 40])
    with pytest.raises(RequestError):
        mean_states(model, [""])


def test_a_space_after_a_full_prompt_leaves_no_room(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a model says a space first (before a digit, say), the answer is the token after it. Before, torch's own
    error about an index.
    """
    monkeypatch.setattr("factedit.trace.sweep.is_space", lambda _model, _token: True)
    monkeypatch.setattr("factedit.edit.methods.kn.is_space", lambda _model, _token: True)
    ids = model.tokenizer("Paris is in Seattle. " * 40)["input_ids"]
    full = next(
        text for end in range(64, 90)
        if len(model.tokenizer(text := model.tokenizer.decode(ids[:end]).rstrip())["input_ids"]) == 64
    )  # fmt: skip
    said = r"The prompt with the space that the model says after it has 65 tokens; tiny-gpt2 reads 64"
    with pytest.raises(RequestError, match=said):
        trace_fact(model, full, "Paris", noise=0.5, samples=1, kinds=("hidden",))
    fact = EditRequest(subject="Paris", prompt=full.replace("Paris", "{}", 1), target_new="R")
    with pytest.raises(RequestError, match=said):
        _old_object(model, fact)
    short = trace_fact(model, "Paris is in", "Paris", noise=0.5, samples=1, kinds=("hidden",))
    assert len(short.tokens) == len(model.tokenizer("Paris is in")["input_ids"]) + 1


def test_a_text_of_the_start_token_alone_has_a_mean() -> None:
    """`<s>` written out is a text of one token; it is read after another start."""
    model = tiny("gpt2", start=True)
    [found] = mean_states(model, ["<s>"])
    with torch.no_grad():
        seen: list[torch.Tensor] = []
        hook = model.layers[-1].register_forward_hook(
            lambda _m, _i, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        model.lm(input_ids=torch.tensor([[1, 1]]))
        hook.remove()
    torch.testing.assert_close(found, seen[0].reshape(-1, model.d_model)[1], atol=1e-5, rtol=1e-4)
