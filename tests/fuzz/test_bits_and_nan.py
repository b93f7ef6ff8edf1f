"""A flipped bit anywhere in the weights of a folder of edits, and NaN anywhere in a model, are found out.

`make test` tries a few places, `make fuzz` (FACTEDIT_TRIALS=all) many; the places are drawn by seed.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from conftest import tiny, tiny_lm, tiny_tokenizer
from factedit.errors import FacteditError, UnsupportedModel
from factedit.models.adapter import EditableModel
from factedit.stack.work import apply, revert
from fuzz.formats import snapshot
from fuzz.trials import ALL
from stack_cases import random_edit

ROUNDS = 400 if ALL else 24
FAMILIES = ("gpt2", "llama", "gemma3_text", "opt")


@pytest.fixture
def sound(tmp_path: Path) -> tuple[EditableModel, Path]:
    """A model and a folder with two edits on it, both matrices moved out of its shards."""
    model = tiny("gpt2", n_layer=3, n_embd=16, n_head=2)
    apply(model, [random_edit(model, 0, layer=0), random_edit(model, 1, layer=2)], tmp_path / "sound")
    return model, tmp_path / "sound"


def test_a_bit_flipped_anywhere_is_found_before_anything_is_built_on_it(
    sound: tuple[EditableModel, Path], tmp_path: Path
) -> None:
    model, folder = sound
    found = {"refused": 0, "accepted": 0}
    for seed in range(ROUNDS):
        draw, copy = random.Random(seed), tmp_path / f"m{seed}"
        shutil.copytree(folder, copy)
        file = draw.choice(sorted(copy.rglob("*.safetensors")))
        raw = bytearray(file.read_bytes())
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        file.write_bytes(raw)
        before = snapshot(copy)
        takes_off, layer = draw.random() < 0.5, draw.randrange(3)
        try:
            if takes_off:
                revert(copy)
            else:
                apply(copy, [random_edit(model, 2 + seed, layer=layer)])
            said = ""
        except FacteditError as error:
            said = str(error)
        found["refused" if said else "accepted"] += 1
        if said:
            assert file.name in said or "damaged" in said, f"{seed}: {said}"
            assert snapshot(copy) == before, f"{seed}: changed and refused"
        shutil.rmtree(copy)
    assert found == {"refused": ROUNDS, "accepted": 0}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_that_is_none_is_found_anywhere(family: str) -> None:
    lm, tokenizer = tiny_lm(family), tiny_tokenizer()
    tensors = [t.view(-1) for _, t in sorted(lm.state_dict().items()) if t.is_floating_point()]
    for seed in range(ROUNDS // 4):
        draw = random.Random(f"{family} {seed}")
        flat = draw.choice(tensors)
        at, value = draw.randrange(len(flat)), draw.choice((float("nan"), float("inf"), -float("inf")))
        kept = flat[at].clone()
        flat[at] = value
        with pytest.raises(UnsupportedModel, match=r"weights are not finite \(NaN or infinity"):
            EditableModel(lm, tokenizer)
        flat[at] = kept
    EditableModel(lm, tokenizer)  # put back, it is a model again: nothing else was refused
