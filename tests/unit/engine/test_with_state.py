"""What tiny models seldom reach of the engine: states, layers from disk, kernels, models that cannot be resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from conftest import tiny
from factedit.engine import attention
from factedit.engine.attention import FEW, short_attention
from factedit.engine.resumed import prove_resumed
from factedit.engine.routing import experts_as_json, layers_with_experts, named, routes, subject_routes
from factedit.engine.states import ReadBefore
from factedit.engine.streaming import Walk, in_step
from factedit.errors import RequestError, UnsupportedModel
from factedit.models.adapter import EditableModel

# -- modules with a state ---------------------------------------------------------------------------


class Sums(nn.Module):
    """What a state is for: the sum of all tokens so far, padding left out."""

    def __init__(self, *, as_tuple: bool = False) -> None:
        super().__init__()
        self.as_tuple, self.given = as_tuple, list[dict[str, Any]]()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        self.given.append({"tokens": hidden_states.shape[1], "mask": attention_mask, **more})
        own = hidden_states if attention_mask is None else hidden_states * attention_mask[..., None]
        output = own.cumsum(1)
        return (output, "what else it gives") if self.as_tuple else output


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_segment_goes_on_from_what_was_read_before(as_tuple: bool, by_name: bool) -> None:
    module, hidden = Sums(as_tuple=as_tuple), drawn(2, 5, 3)
    whole = hidden.cumsum(1)

    def run(part: Tensor) -> Tensor:
        output = module(hidden_states=part, cache_params="none of its business") if by_name else module(part)
        if as_tuple:
            assert output[1] == "what else it gives"
            return output[0]
        return output

    first = ReadBefore(None)
    with first.in_place(module, None, keep=True):
        begun = run(hidden[:, :3])
    second = ReadBefore(first.new)
    with second.in_place(module, None, keep=True):
        rest = run(hidden[:, 3:])
    torch.testing.assert_close(begun, whole[:, :3])
    torch.testing.assert_close(rest, whole[:, 3:])
    assert second.new is not None
    assert torch.equal(second.new, hidden[:, None]), "kept as a past is: rows, one, tokens"
    assert [own["tokens"] for own in module.given] == [3, 5]
    assert all("cache_params" not in own for own in module.given), "a cache of its own would count twice"


def test_padding_is_told_to_it_as_numbers() -> None:
    module, hidden = Sums(), drawn(2, 4, 3)
    mask = torch.tensor([[False, True, True, True], [True, True, True, True]])
    with ReadBefore(hidden[:, None, :2]).in_place(module, mask, keep=False):
        found = module(hidden[:, 2:])
    torch.testing.assert_close(found, (hidden * mask[..., None]).cumsum(1)[:, 2:])
    assert module.given[0]["mask"].dtype == torch.int64


def test_what_is_not_to_be_kept_is_not() -> None:
    own, module = ReadBefore(None), Sums()
    with own.in_place(module, None, keep=False):
        module(drawn(1, 2, 3))
    assert own.new is None


@pytest.mark.parametrize("patched", [False, True])
def test_a_modules_own_forward_is_back_after_an_exception(patched: bool) -> None:
    """Also one that somebody else had put there before."""
    module = Sums()
    theirs = lambda hidden, **_more: hidden + 1  # noqa: E731
    if patched:
        module.forward = theirs  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="on the way"), ReadBefore(None).in_place(module, None, keep=False):
        raise RuntimeError("on the way")
    assert module.__dict__.get("forward") is (theirs if patched else None)
    with ReadBefore(torch.ones(1, 1, 2, 3)).in_place(module, None, keep=False):
        found = module(torch.ones(1, 1, 3))
    assert found[0, 0, 0] == (2 if patched else 3), "the patched one is what is run"


# -- layers from disk -------------------------------------------------------------------------------


class FromDisk:
    """Layers that come and go; notes which is there, and which it was told comes next."""

    def __init__(self, n_layer: int, *, streamed: bool = True) -> None:
        self.n_layer, self.streamed = n_layer, streamed
        self.there: int | None = None
        self.log: list[tuple[int, int | None]] = []

    @contextmanager
    def present(self, layer: int, then: int | None) -> Iterator[None]:
        self.log.append((layer, then))
        self.there = layer
        yield
        self.there = None

    def walk(self, name: float, layers: Sequence[int], seen: list[tuple[float, int]]) -> Walk:
        for layer in layers:
            yield layer
            assert not self.streamed or self.there == layer, "it goes through a layer while that is there"
            seen.append((name, layer))
        return torch.tensor(name)


def test_a_layer_from_disk_comes_once_for_all_walks() -> None:
    model, seen = FromDisk(4), list[tuple[float, int]]()
    walks = [
        model.walk(0, [1, 2, 3], seen),
        model.walk(1, [3], seen),
        model.walk(2, [], seen),
        model.walk(3, [2], seen),
    ]
    found = in_step(model, walks)  # type: ignore[arg-type]
    assert [float(own) for own in found] == [0, 1, 2, 3], "in the order of the walks"
    assert seen == [(0, 1), (0, 2), (3, 2), (0, 3), (1, 3)]
    assert model.log == [(1, 2), (2, 3), (3, None)], "none below the first that is asked for"


def test_in_memory_one_walk_comes_after_the_other() -> None:
    model, seen = FromDisk(3, streamed=False), list[tuple[float, int]]()
    found = in_step(model, [model.walk(0, [0, 1, 2], seen), model.walk(1, [1], seen)])  # type: ignore[arg-type]
    assert float(next(found)) == 0
    assert seen == [(0, 0), (0, 1), (0, 2)], "the second has not begun"
    assert [float(own) for own in found] == [1]
    assert model.log == []


def test_walks_through_no_layer_fetch_none() -> None:
    model = FromDisk(3)
    assert [float(own) for own in in_step(model, [model.walk(7, [], [])])] == [7]  # type: ignore[arg-type]
    assert model.log == []
    assert list(in_step(model, [])) == []  # type: ignore[arg-type]


# -- kernels ----------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[SDPBackend]]:
    """The orders of kernels that torch is asked for."""
    found: list[list[SDPBackend]] = []

    @contextmanager
    def note(order: list[SDPBackend], *, set_priority: bool) -> Iterator[None]:
        assert set_priority
        found.append(list(order))
        yield

    monkeypatch.setattr(attention, "sdpa_kernel", note)
    for kernel in attention._ENABLED:
        monkeypatch.setitem(attention._ENABLED, kernel, lambda: True)
    return found


@pytest.mark.parametrize(
    ("dtype", "first"),
    [(torch.float32, SDPBackend.MATH), (torch.bfloat16, SDPBackend.EFFICIENT_ATTENTION)],
)
def test_short_rows_on_a_cuda_device_have_an_order_of_their_own(
    dtype: torch.dtype, first: SDPBackend, asked: list[list[SDPBackend]]
) -> None:
    with short_attention(torch.device("cuda"), dtype, 6, 26):
        pass
    [order] = asked
    assert order[0] == first
    assert sorted(map(str, order)) == sorted(map(str, attention._ENABLED)), "every kernel, each once"


def test_on_other_devices_and_for_long_rows_nothing_is_asked(asked: list[list[SDPBackend]]) -> None:
    with short_attention(torch.device("cpu"), torch.float32, 6, 26):
        pass
    with short_attention(torch.device("cuda"), torch.float32, 1, FEW + 1):
        pass
    assert asked == []
    with short_attention(torch.device("cuda"), torch.float32, 1, FEW):
        pass
    assert len(asked) == 1, "up to so many"


def test_a_kernel_that_the_user_switched_off_stays_off(
    asked: list[list[SDPBackend]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(attention._ENABLED, SDPBackend.MATH, lambda: False)
    monkeypatch.setitem(attention._ENABLED, SDPBackend.CUDNN_ATTENTION, lambda: False)
    with short_attention(torch.device("cuda"), torch.float32, 2, 2):
        pass
    assert asked == [[SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]]
    for kernel in attention._ENABLED:
        monkeypatch.setitem(attention._ENABLED, kernel, lambda: False)
    with short_attention(torch.device("cuda"), torch.float32, 2, 2):
        pass
    assert len(asked) == 1, "with none left torch says so itself"


# -- what cannot be resumed -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def test_a_model_that_can_be_resumed_says_how_far_off_it_is(model: EditableModel) -> None:
    assert 0 <= prove_resumed(model) < 1e-4


def test_a_layer_that_looks_at_all_tokens_is_found_out(model: EditableModel) -> None:
    """What it takes off is the mean over the tokens it sees, which are fewer in a resumed run."""
    hook = model.layers[1].register_forward_hook(lambda _m, _i, output: output - output.mean(1, keepdim=True))
    try:
        with pytest.raises(UnsupportedModel, match=r"tiny-gpt2 \(gpt2\) cannot be resumed: 'resumed at a layer and a"):
            prove_resumed(model)
    finally:
        hook.remove()
    prove_resumed(model)


def test_numbers_that_are_none_are_not_within_rounding(model: EditableModel) -> None:
    hook = model.layers[2].register_forward_hook(lambda _m, _i, output: output * float("nan"))
    try:
        with pytest.raises(UnsupportedModel, match="is off by nan of their size"):
            prove_resumed(model)
    finally:
        hook.remove()


def test_a_models_own_error_is_quoted_in_a_line(model: EditableModel) -> None:
    def fail(*_args: object) -> None:
        raise ValueError(f"this layer keeps {'x' * 300}\nand a second line")

    hook = model.layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(
            UnsupportedModel, match=r"cannot be resumed: ValueError: this layer keeps x+\. What"
        ) as told:
            prove_resumed(model)
    finally:
        hook.remove()
    assert "second line" not in str(told.value)
    assert len(str(told.value)) < 500


# -- experts ----------------------------------------------------------------------------------------


def test_without_rows_or_experts_there_are_no_routes(model: EditableModel) -> None:
    """Before, no rows were an error of Python's own where there are experts."""
    experts = tiny("mixtral")
    assert routes(experts, []) == []
    assert subject_routes(experts, []) == []
    assert layers_with_experts(experts) == [0, 1, 2, 3]
    assert layers_with_experts(model) == []
    assert routes(model, [[5, 6], [7]]) == [[{}, {}], [{}]]
    with pytest.raises(RequestError):
        subject_routes(experts, [("{} is", "")])


def test_a_models_dense_layers_are_not_among_them() -> None:
    """DeepSeek's first layer has one MLP."""
    experts = tiny("deepseek_v3")
    assert layers_with_experts(experts) == [1, 2, 3]
    [[token, _]] = routes(experts, [[5, 6]])
    assert list(token) == [1, 2, 3]
    for own in token.values():
        assert len(own) == 2
        assert list(own.values()) == sorted(own.values(), reverse=True), "those with large weights first"


def test_routes_as_json_have_names() -> None:
    assert named({3: 0.75, 1: 0.25}) == {"3": 0.75, "1": 0.25}
    assert experts_as_json({0: {3: 0.75}, 2: {}}) == {"0": {"3": 0.75}, "2": {}}
