"""What is no second moment is refused, whoever gives it: a file, Python, a plug-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from conftest import random_moment, tiny
from factedit.edit.method_table import make_method
from factedit.errors import DataError, EditError, FacteditError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import read_moment

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="France")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def sound(size: int = 128) -> Tensor:
    return random_moment(size).matrix.float()


def indefinite(matrix: Tensor, size: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    values[0] = -size * values.mean()
    return (vectors * values @ vectors.T).float()


def spoilt(place: tuple[int, int], value: float) -> Callable[[Tensor], Tensor]:
    def spoil(matrix: Tensor) -> Tensor:
        matrix = matrix.clone()
        matrix[place] = matrix[place[::-1]] = value
        return matrix

    return spoil


BAD: dict[str, Callable[[Tensor], Tensor]] = {
    "upper triangle": torch.triu,
    "lower triangle": torch.tril,
    "transposed blocks": lambda m: torch.cat([m[64:], m[:64]]),
    "complex": lambda m: m.to(torch.complex64),
    "whole numbers": lambda m: (100 * m).long(),
    "eight bits": lambda m: m.to(torch.float8_e4m3fn),
    "nan": spoilt((3, 4), torch.nan),
    "infinite": spoilt((3, 3), torch.inf),
    "zero": torch.zeros_like,
    "negative": lambda m: -m,
    "a negative variance": spoilt((5, 5), -0.5),
    "a correlation above one": spoilt((5, 6), 9.0),
    "indefinite": lambda m: indefinite(m, 0.05),
    "rank one": lambda m: m[:, :1] @ m[:1],
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_it_is_refused_from_python_and_from_plug_ins(model: EditableModel, kind: str, ridge: float) -> None:
    """Before: an upper triangle gave a ΔW of another norm without a word, an indefinite C a ridge of 0.1."""
    bad = SecondMoment(BAD[kind](sound()), corpus=kind)
    if (kind, ridge) == ("rank one", 0.3):
        return  # a ridge that the user asked for is the user's own statement on it
    with pytest.raises((DataError, EditError), match="second moment"):
        make_method("rome", model, lambda _m, _n: bad, layer=1, steps=2, context_templates=["{}"], ridge=ridge).edit(
            [REQUEST]
        )


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind not in ("indefinite", "rank one")])
def test_it_is_refused_from_a_file(kind: str, tmp_path: Path) -> None:
    save_file({"second_moment": BAD[kind](sound()).contiguous()}, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"The second moment in .*c\.safetensors"):
        read_moment(tmp_path / "c.safetensors", d_mlp=128)


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"tokens": "many"}, "says of its tokens: 'many'"),
        ({"layer": "-1"}, "says of its layer"),
        ({"tokens": "9" * 99}, "says of its tokens"),
    ],
)
def test_notes_that_are_no_numbers_are_refused(notes: dict[str, str], said: str, tmp_path: Path) -> None:
    save_file({"second_moment": sound()}, tmp_path / "c.safetensors", metadata=notes)
    with pytest.raises(DataError, match=said):
        read_moment(tmp_path / "c.safetensors", d_mlp=128, layer=1)


def test_a_moment_of_other_keys_is_refused_whoever_gives_it(model: EditableModel) -> None:
    for bad, said in (
        (SecondMoment(sound(64)), r"need \[128, 128\]"),
        (SecondMoment(sound(), layer=2), "of layer 2 was given for layer 1"),
        (SecondMoment(sound(), model="0" * 64), "was made for weights 000000000000"),
    ):
        with pytest.raises(FacteditError, match=said):
            make_method("rome", model, lambda _m, _n, bad=bad: bad, layer=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_rounded_is_sound(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(400, 128, generator=generator) * torch.logspace(2, -1, 128)
    SecondMoment((keys.T @ keys / 400).to(dtype)).checked()
    few = keys[:40].double()
    found = SecondMoment((few.T @ few / 40).float(), tokens=40)
    assert 0 < found.ridge_used < 1e-2, "of fewer keys than entries: a ridge within what rounding may have taken"
    assert torch.isfinite(found.solve(keys[0])).all()
