"""What a state says, against whole passes of transformers with hooks written out here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import tiny
from factedit.engine.likeliest import Token
from factedit.errors import RequestError, UsageError
from factedit.models.adapter import EditableModel
from factedit.trace.state import PLACE, REPEAT, WRITTEN, read_state
from factedit.trace.sweep import trace_fact
from factedit.work.states import StateAsked, named_states, read_states
from tiny_tokenizers import gemma_like, model_with

PROMPT = "In Paris the"
NORMS = {"gpt2": "ln_f", "gemma3_text": "norm"}
LARGER = {"n_positions": 256, "max_position_embeddings": 256}


@pytest.fixture(scope="module", params=sorted(NORMS))
def model(request: pytest.FixtureRequest) -> EditableModel:
    return tiny(request.param, **(LARGER if request.param == "gpt2" else {"max_position_embeddings": 256}))


def ids_of(model: EditableModel, text: str) -> list[int]:
    return list(model.tokenizer(text)["input_ids"])


def passed(model: EditableModel, ids: list[int], layer: int, change: Callable[[Tensor], None]) -> Tensor:
    """Logits after the last token of a whole pass; `change` sees, and may change, what the layer gives."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        change(hidden)
        return output

    handle = model.layers[layer].register_forward_hook(hook)
    try:
        return model.lm(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    finally:
        handle.remove()


def hidden_of(model: EditableModel, layer: int, token: int) -> Tensor:
    seen: list[Tensor] = []
    with torch.no_grad():
        passed(model, ids_of(model, PROMPT), layer, lambda hidden: seen.append(hidden[0, token].clone()))
    return seen[0]


def best(model: EditableModel, logits: Tensor) -> list[tuple[str, float]]:
    shares = logits.softmax(-1).topk(10)
    return [
        (model.tokenizer.decode([i]), p) for i, p in zip(shares.indices.tolist(), shares.values.tolist(), strict=True)
    ]


def agree(found: tuple[Token, ...], expected: list[tuple[str, float]]) -> None:
    assert [token.text for token in found] == [text for text, _ in expected]
    assert [token.probability for token in found] == pytest.approx([p for _, p in expected], rel=1e-4)


@torch.no_grad()
def test_the_lens_is_the_models_own_norm_and_head(model: EditableModel) -> None:
    norm = getattr(model.body, NORMS[model.lm.config.model_type])
    for token, layer in ((1, 0), (2, 1)):
        found = read_state(model, PROMPT, token, layer)
        agree(found.lens, best(model, model.lm.get_output_embeddings()(norm(hidden_of(model, layer, token)))))
        assert found.text == model.tokenizer.decode([ids_of(model, PROMPT)[token]])


@torch.no_grad()
def test_after_the_last_layer_the_lens_is_what_the_model_says_and_there_is_no_patchscope(model: EditableModel) -> None:
    ids = ids_of(model, PROMPT)
    found = read_state(model, PROMPT, len(ids) - 1, model.n_layer - 1)
    agree(found.lens, best(model, model.lm(input_ids=torch.tensor([ids])).logits[0, -1]))
    assert (found.repeated, found.written) == ((), "")
    assert "no token reads this state" in found.why_not


@torch.no_grad()
def test_a_patchscope_puts_the_state_into_the_prompt_of_repetitions(model: EditableModel) -> None:
    layer = model.n_layer - 2
    state, ids = hidden_of(model, layer, 1), ids_of(model, REPEAT.replace("{}", PLACE))
    [place] = [n for n, token in enumerate(ids) if PLACE in model.tokenizer.decode([token])]

    def put(hidden: Tensor) -> None:
        hidden[0, place] = state

    found = read_state(model, PROMPT, 1, layer)
    agree(found.repeated, best(model, passed(model, ids, layer, put)))
    written: list[int] = []
    for _ in range(WRITTEN):  # whole passes: the state is put there in each
        written.append(int(passed(model, [*ids, *written], layer, put).argmax()))
    both = model.tokenizer.decode([*ids, *written], skip_special_tokens=True)
    assert found.written == both[len(model.tokenizer.decode(ids, skip_special_tokens=True)) :]
    alone = best(model, model.lm(input_ids=torch.tensor([ids])).logits[0, -1])
    assert [p for _, p in alone] != pytest.approx([t.probability for t in found.repeated], rel=1e-3)


@torch.no_grad()
def test_what_the_mlp_adds_is_read_by_the_lens_alone() -> None:
    model, seen = tiny("gpt2"), list[Tensor]()
    handle = model.lm.transformer.h[1].mlp.register_forward_hook(lambda _m, _a, out: seen.append(out[0, 2].clone()))
    model.lm(input_ids=torch.tensor([ids_of(model, PROMPT)]))
    handle.remove()
    found = read_state(model, PROMPT, 2, 1, kind="mlp", top=10)
    agree(found.lens, best(model, model.lm.lm_head(model.lm.transformer.ln_f(seen[0]))))
    assert not found.repeated
    assert "reads a hidden state" in found.why_not
    assert found.as_json()["lens"][0] == {"text": found.lens[0].text, "probability": found.lens[0].probability}


def test_the_model_has_the_same_bits_and_hooks_afterwards() -> None:
    model = tiny("gpt2", **LARGER)
    before = model.fingerprint()
    read_state(model, PROMPT, 1, 0)
    read_state(model, PROMPT, 1, 0, kind="attn")
    assert model.fingerprint() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.lm.modules())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((PROMPT, 99, 0), "the prompt has tokens 0 to"),
        ((PROMPT, -1, 0), "the prompt has tokens 0 to"),
        ((PROMPT, 1, 9), "has layers 0 to"),
        ((PROMPT, 1, 0, "soul"), "there are hidden, attn, mlp"),
    ],
)
def test_a_state_that_there_is_not_is_refused(asked: tuple[Any, ...], said: str) -> None:
    prompt, token, layer, *kind = asked
    with pytest.raises(UsageError, match=said):
        read_state(tiny("gpt2"), prompt, token, layer, **({"kind": kind[0]} if kind else {}))


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(RequestError, match="no tokens"):
        read_state(tiny("gpt2"), "  ", 0, 0)


def test_the_space_that_a_trace_puts_after_the_prompt_can_be_read() -> None:
    model = model_with(gemma_like(), **LARGER)
    space = model.tokenizer.convert_tokens_to_ids("▁")
    with torch.no_grad():
        model.lm.lm_head.weight[space] = 50 * model.lm.transformer.ln_f(hidden_of(model, 1, 2)).sign()
    trace = trace_fact(model, PROMPT, "Paris", noise=0.1, samples=1, kinds=("hidden",))
    count = len(ids_of(model, PROMPT))
    assert len(trace.tokens) == count + 1, "the model says a space next"
    [found] = read_states(model, trace, [StateAsked("last", 0)])
    assert (found.token, found.text) == (count, trace.tokens[-1])


def test_states_are_named_as_one_thinks_of_them() -> None:
    assert named_states(["subject:5", "3:5:mlp", "last:0:attn"]) == [
        ("subject", 5, "hidden"), ("3", 5, "mlp"), ("last", 0, "attn")
    ]  # fmt: skip
    model = tiny("gpt2", **LARGER)
    trace = trace_fact(model, PROMPT, "Paris", noise=0.1, samples=1, kinds=("hidden",))
    found = read_states(model, trace, named_states(["subject:1", "last:0:mlp", "0:1"]))
    assert [(own.token, own.layer, own.kind) for own in found] == [
        (trace.subject_range[1] - 1, 1, "hidden"), (len(trace.tokens) - 1, 0, "mlp"), (0, 1, "hidden"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "5", "soul:5", "3:", "3:-1", "3:x", "3:5:soul", "3:5:mlp:1", "-1:5", "²:1"])
def test_what_names_no_state_says_how_one_is_written(text: str) -> None:
    with pytest.raises(UsageError, match=r"subject:5 or 3:5:mlp"):
        named_states([text])
