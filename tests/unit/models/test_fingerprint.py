"""The fingerprint is the same sha256 whether it is taken anew or recognised; no write of any kind goes unseen."""

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from factedit.models.fingerprint import Fingerprint


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(6, 6, bias=False)
        self.head = nn.Linear(6, 6, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(6)


def by_hand(module: nn.Module) -> str:
    text = b""
    for name, tensor in sorted(module.state_dict().items()):
        text += f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode() + tensor.contiguous().numpy().tobytes()
    return hashlib.sha256(text).hexdigest()


def swap_rows(module: Tied) -> None:
    module.embed.weight.data = module.embed.weight.data[[1, 0, 2, 3, 4, 5]]


def write_through_data(module: Tied) -> None:
    module.norm.bias.data[2] = 1e-38


def write_through_numpy(module: Tied) -> None:
    module.embed.weight.detach().numpy()[5, 5] = 2.0


def turn(module: Tied) -> None:
    module.head.weight = nn.Parameter(module.embed.weight.detach().T)


def turn_sign_of_zero(module: Tied) -> None:
    module.norm.bias.data.neg_()


@pytest.mark.parametrize(
    "write", [swap_rows, write_through_data, write_through_numpy, turn, turn_sign_of_zero], ids=lambda w: w.__name__
)
def test_a_write_of_any_kind_is_seen_and_gives_the_hash_by_hand(write: Callable[[Tied], None]) -> None:
    module = Tied()
    weights = Fingerprint(module)
    assert weights.now() == by_hand(module)
    before = weights.now()
    write(module)
    assert weights.now() == by_hand(module) != before


def test_weights_that_were_seen_are_not_hashed_in_full_again() -> None:
    module, counted = Tied(), []
    weights = Fingerprint(module)
    original = weights.as_type
    weights.as_type = lambda dtype: counted.append(1) or original(dtype)  # type: ignore[method-assign]
    first = weights.now()
    module.norm.bias.data[0] = 1.0
    assert (weights.now() != first, len(counted)) == (True, 2)
    module.norm.bias.data[0] = 0.0
    assert [weights.now(), weights.now()] == [first, first]
    assert len(counted) == 2


def test_weights_that_come_and_go_may_lie_where_others_did() -> None:
    """A buffer that is filled anew for every weight, as one that is read from a file may be."""
    room, values = torch.zeros(4), {"a": 1.0, "b": 2.0}
    weights = Fingerprint(nn.Linear(1, 1), lambda: ((name, room.fill_(value)) for name, value in values.items()))
    before = weights.now()
    values["b"] = 3.0
    assert weights.now() != before
