"""Values of facts are kept as they are found: what was interrupted finds them again to the bit, and only its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit import value
from factedit.edit.kept_values import keeping_values, kept
from factedit.edit.many.hidden_value import find_hidden_values
from factedit.edit.objective import Losses
from factedit.edit.presets import RomeSettings
from factedit.edit.value import Value, find_values
from factedit.facts import EditRequest

FACTS = [
    EditRequest(subject=subject, prompt="{} is in", target_new="football", target_true=None)
    for subject in ("Paris", "Seattle", "France")
]
SETTINGS = RomeSettings(layer=1, steps=3)


def test_a_second_run_finds_nothing_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = tiny("gpt2"), list[int]()
    with keeping_values(tmp_path / "values", told.append):
        first = find_values(model, 1, FACTS, ["{}"], SETTINGS)
    monkeypatch.setattr(value, "_find", lambda *_args: pytest.fail("values were found anew"))
    with keeping_values(tmp_path / "values", told.append):
        again = find_values(model, 1, FACTS, ["{}"], SETTINGS)
    assert sum(told) == 2 * len(FACTS)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.delta, other.delta)
        assert torch.equal(one.key, other.key)
        assert one.losses == other.losses


def test_what_is_found_there_is_where_the_model_is(tmp_path: Path) -> None:
    """Values of an accelerator are kept on the processor, and stacked with others that are found anew."""
    value = Value(*(torch.ones(n) for n in (2, 2, 3, 3)), (Losses(1.0, 2.0, 3.0, 4.0),))
    with keeping_values(tmp_path):
        for device in ("cpu", "meta"):
            [found] = kept(lambda: [value], Value, 1, lambda: "key", torch.device(device))
    assert {own.device.type for own in (found.key, found.bare_key, found.initial, found.delta)} == {"meta"}
    assert found.losses == value.losses


def test_an_interrupted_run_keeps_the_groups_before(tmp_path: Path) -> None:
    model, done = tiny("gpt2"), list[int]()

    def stop(facts: int) -> None:
        done.append(facts)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), keeping_values(tmp_path / "values", stop):
        find_values(model, 1, FACTS, ["{}"], SETTINGS, tokens_at_once=1)
    assert len(list((tmp_path / "values").iterdir())) == 2


@pytest.mark.parametrize("change", ["settings", "layer", "weights", "kind"])
def test_other_values_are_not_taken_for_them(tmp_path: Path, change: str) -> None:
    model = tiny("gpt2")
    with keeping_values(tmp_path):
        find_values(model, 1, FACTS, ["{}"], SETTINGS)
        before = len(list(tmp_path.iterdir()))
        settings = SETTINGS.model_copy(update={"steps": 2}) if change == "settings" else SETTINGS
        if change == "kind":
            find_hidden_values(model, 0, FACTS, ["{}"], settings)
        elif change == "weights":
            with model.with_weight(0, 2 * model.weight(0)):
                find_values(model, 1, FACTS, ["{}"], settings)
        else:
            find_values(model, 0 if change == "layer" else 1, FACTS, ["{}"], settings)
    assert len(list(tmp_path.iterdir())) > before


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    model = tiny("gpt2")
    with keeping_values(tmp_path):
        first = find_values(model, 1, FACTS, ["{}"], SETTINGS)
        for path in list(tmp_path.iterdir()):
            path.write_bytes(path.read_bytes()[:-1])
        again = find_values(model, 1, FACTS, ["{}"], SETTINGS)
    assert all(torch.equal(a.delta, b.delta) for a, b in zip(first, again, strict=True))
