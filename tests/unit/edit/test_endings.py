"""Targets that end: which tokens are trained, the losses spelled out, and the names under which methods do it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import random_moment, tiny
from factedit.edit.endings import spoken
from factedit.edit.method_table import METHODS, make_method
from factedit.edit.presets import RomeSettings
from factedit.edit.value import find_values
from factedit.edit.value_rows import request_rows
from factedit.errors import UnknownName, UnsupportedModel, UsageError
from factedit.evaluate.layer_sweep import rows_at
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.work.methods import with_stopping
from plain import encode, equation_4
from plain import logits as spelled_out

REQUEST = EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle", target_true="France")
CONTEXTS = ("{}", "The Space Needle is in. {}")
QUICK: dict[str, dict[str, Any]] = {"ft-m": {"epochs": 1}, "locft-bf": {"epochs": 1}}


def moments(model: EditableModel, _layer: int) -> Any:
    return random_moment(model.d_mlp)


@torch.no_grad()
def mean_loss(model: EditableModel, text: str, ids: list[int]) -> float:
    """The mean −log P of all tokens of ids after those of a text."""
    first, log_p = len(encode(model, text)), spelled_out(model, ids[:-1]).log_softmax(-1)
    return -sum(float(log_p[n - 1, ids[n]]) for n in range(first, len(ids))) / (len(ids) - first)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("Seattle", "Seattle."),
        ("Rome ", "Rome."),
        ("St. Louis", "St. Louis."),
        ("Inc.", "Inc."),
        ("東京", "東京。"),
        ("दिल्ली", "दिल्ली।"),
        ("दिल्ली। ", "दिल्ली। "),
        ("ไทย", "ไทย."),
        ("서울", "서울."),
    ],
)
def test_a_sentence_ends_in_its_scripts_full_stop(target: str, expected: str) -> None:
    assert spoken(target, "sentence") == expected
    assert spoken(target, "none") == spoken(target, "end") == target


@pytest.mark.parametrize("where", ["value", "first", "tuned"])
def test_the_end_is_one_more_token_of_the_target(tiny_gpt2: EditableModel, where: str) -> None:
    model, end = tiny_gpt2, tiny_gpt2.tokenizer.eos_token_id
    whole = encode(model, "Paris is the capital of Seattle")
    dotted = encode(model, "Paris is the capital of Seattle.")
    for stop, ids in (("none", whole), ("end", [*whole, end]), ("sentence", dotted)):
        wanted = mean_loss(model, REQUEST.text, ids)
        if where == "value":
            settings = RomeSettings(layer=1, steps=1, stop=stop)
            [value] = find_values(model, 1, [REQUEST], ("{}",), settings)
            assert value.losses[0].nll == pytest.approx(wanted, abs=1e-4)
        elif where == "tuned":
            [edit] = make_method("ft", model, None, layer=1, steps=1, stop=stop).edit([REQUEST]).edits
            assert edit.told_of(0)["losses"][0][0] == pytest.approx(wanted, abs=1e-4)
        else:
            rows = request_rows(model, 0, REQUEST, CONTEXTS, stop)
            assert [*rows[0].ids, rows[0].targets[-1]] == ids
            assert rows[0].reads == tuple(range(len(encode(model, REQUEST.text)) - 1, len(ids) - 1))
            assert len({row.targets for row in rows[:-1]}) == 1, "the same after every context"
            assert rows[-1].targets == (), "the essence has none"
            moved = rows_at(model, 0, REQUEST, CONTEXTS, "last", stop)
            assert [row.targets for row in moved] == [row.targets for row in rows]


def test_without_it_nothing_differs_and_nothing_is_named(tiny_gpt2: EditableModel) -> None:
    """Older results keep their keys: a setting that is off is not among what decides an edit."""
    plain = make_method("rome", tiny_gpt2, moments, layer=1, steps=1, context_templates=CONTEXTS)
    assert "stop" not in plain.describe()
    assert '"stop"' not in plain.preparation
    [edit] = plain.edit([REQUEST]).edits
    wanted = equation_4(tiny_gpt2, 1, REQUEST, CONTEXTS, torch.zeros(tiny_gpt2.d_model), kl=0.0625)
    assert edit.told_of(0)["losses"][0][1] == pytest.approx(float(wanted.nll), abs=1e-4)
    for name in ("ft", "memit", "memory"):
        assert "stop" not in make_method(name, tiny_gpt2, moments).describe()


@pytest.mark.parametrize("name", sorted(name for name, row in METHODS.items() if row.ends))
def test_every_method_that_says_so_ends_its_target_under_a_name_of_its_own(tiny_gpt2: EditableModel, name: str) -> None:
    made = make_method(f"{name}+stop", tiny_gpt2, moments, **QUICK.get(name, {}))
    told, plain = made.describe(), make_method(name, tiny_gpt2, moments, **QUICK.get(name, {})).describe()
    assert made.name == f"{name}+stop"
    assert told != plain or name == "locft-bf", "which ends its targets anyway"
    assert told.get("stop") == "end" or told.get("end_of_text") is True


def test_the_edit_makes_the_end_likelier(tiny_gpt2: EditableModel) -> None:
    ids = [*encode(tiny_gpt2, "Paris is the capital of Seattle")]
    given = {"layer": 1, "steps": 8, "learning_rate": 0.5, "context_templates": ("{}",)}
    found = {}
    for name in ("rome", "rome+stop"):
        [edit] = make_method(name, tiny_gpt2, moments, **given).edit([REQUEST]).edits
        assert edit.method == name
        with edit.applied_to(tiny_gpt2), torch.no_grad():
            log_p = spelled_out(tiny_gpt2, ids)[-1].log_softmax(-1)
        found[name] = float(log_p[tiny_gpt2.tokenizer.eos_token_id])
    assert found["rome+stop"] > found["rome"] + 0.1


def test_what_cannot_end_is_refused(tiny_gpt2: EditableModel) -> None:
    with pytest.raises(
        UsageError, match=r"method ice trains no target, so none can be made to end\. Those that do: rome,"
    ):
        make_method("ice+stop", tiny_gpt2, moments)
    with pytest.raises(UnknownName, match="nobody"):
        make_method("nobody+stop", tiny_gpt2, moments)
    with pytest.raises(
        UsageError, match="ft-m ends its targets in the end-of-text token or not at all: stop 'sentence'"
    ):
        make_method("ft-m", tiny_gpt2, moments, stop="sentence")
    with pytest.raises(UsageError, match="stop 'never'"):
        make_method("rome", tiny_gpt2, moments, stop="never")
    endless = tiny("gpt2")
    endless.tokenizer.eos_token = None
    with pytest.raises(
        UnsupportedModel, match=r"names no end-of-text token to end a target in\. Set stop to 'sentence'"
    ):
        make_method("rome+stop", endless, moments, layer=1, context_templates=("{}",)).edit([REQUEST])


def test_both_forms_of_what_has_two_stand_in_a_table() -> None:
    assert with_stopping("rome,ice,ft") == "rome,rome+stop,ice,ft,ft+stop"
    assert with_stopping("rome,rome+stop") == "rome,rome+stop"
    assert with_stopping("ft-m+stop") == "ft-m+stop"
    with pytest.raises(UsageError, match="trains no target"):
        with_stopping("ice+stop")
