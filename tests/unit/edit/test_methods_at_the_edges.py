"""Every method of the table at the edges: no facts, one layer, the same fact twice, half precision, odd settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from conftest import random_moment, tiny, tiny_tokenizer
from factedit.edit.method import check_is_method, check_takes
from factedit.edit.method_table import METHODS, MethodSpec, check_method, make_method
from factedit.edit.methods.lora import LoraSettings
from factedit.edit.presets import scaled_layer
from factedit.errors import EditError, UnknownName, UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment

FACTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
]
# A setting that makes each method quick on a tiny model; networks need a training of their own.
VALUES = {"steps": 2, "context_templates": ("{}",)}
QUICK: dict[str, dict[str, Any]] = {
    "rome": VALUES, "rome-original": VALUES, "rome-joint": VALUES, "memory": VALUES,
    "memit": VALUES, "memit-no-history": VALUES, "memit-rect": VALUES, "emmet": VALUES, "pmet": VALUES,
    "encore": VALUES, "alphaedit": VALUES, "alphaedit-no-history": VALUES, "alphaedit-nas": {**VALUES, "anchor": 3.0},
    "prune": VALUES, "nse": VALUES,
    "ft": {"steps": 2}, "ft-l": {"steps": 2}, "grace": {"steps": 2}, "lora": {"steps": 2},
    "locft-bf": {"epochs": 2}, "ft-m": {"epochs": 2}, "kn": {"threshold": 0.5}, "ultraedit": {},
    "ice": {}, "retrieval": {}, "mello": {},
}  # fmt: skip
JOINT = {name for name in QUICK if name.startswith(("memit", "alphaedit", "rome-joint"))} | {
    "emmet", "pmet", "encore", "prune", "nse", "ultraedit", "locft-bf", "ft-m", "lora",
}  # fmt: skip


def moments(model: EditableModel, layer: int) -> SecondMoment:
    return random_moment(model.mlp(layer).width)


def made(name: str, model: EditableModel, **changes: Any) -> Any:
    return make_method(name, model, moments, **{**QUICK.get(name, {}), **changes})


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def one_layer() -> EditableModel:
    found = tiny("gpt2", num_hidden_layers=1, n_layer=1)
    assert found.n_layer == 1
    return found


def test_every_method_but_those_of_networks_and_sets_is_looked_at() -> None:
    others = {name for name in METHODS if name.startswith(("ke", "mend"))} | {"ike"}
    assert set(QUICK) == set(METHODS) - others


@pytest.mark.parametrize("name", sorted(QUICK))
def test_no_facts_make_no_edits_and_one_layer_is_enough(name: str, one_layer: EditableModel) -> None:
    """Before, `grace`, `locft-bf` and `ft-m` asked a model of one layer for its layer 1."""
    method = made(name, one_layer)
    assert method.edit([]).edits == ()
    assert method.scope == ("joint" if name in JOINT else "each")
    before = one_layer.fingerprint()
    edits = method.edit(FACTS).edits
    assert [len(edit.requests) for edit in edits] == ([2] if name in JOINT else [1, 1])
    assert one_layer.fingerprint() == before
    for edit in edits:
        assert (edit.method, edit.made_for, edit.model_name) == (name, before, "tiny-gpt2")
        assert set(edit.layers) <= {0}
        assert edit.first_layer == 0


@pytest.mark.parametrize(
    ("layers", "layer", "of", "expected"),
    [
        (48, 17, 48, 17), (1, 35, 48, 0), (1, 22, 32, 0), (2, 35, 48, 1), (3, 35, 48, 2), (4, 35, 48, 3),
        (24, 17, 48, 8), (32, 22, 32, 22), (12, 1, 48, 0), (36, 1, 48, 1), (4, 17, 48, 1),
    ],
)  # fmt: skip
def test_a_layer_to_scale_is_one_the_model_has(layers: int, layer: int, of: int, expected: int) -> None:
    class Deep:
        n_layer = layers

    assert scaled_layer(Deep(), layer, of) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rome", "memory", "grace", "retrieval", "ft", "kn"])
def test_the_same_fact_twice_is_two_edits_that_do_the_same(name: str, model: EditableModel) -> None:
    first, second = made(name, model).edit([FACTS[0], FACTS[0]]).edits
    assert first.effects is not second.effects
    for mine, other in zip(first.effects, second.effects, strict=True):
        for one, two in zip(mine.tensors().values(), other.tensors().values(), strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_the_same_fact_twice_cannot_be_written_exactly(model: EditableModel) -> None:
    """The constraints are one; which of two values would hold nobody could say."""
    with pytest.raises(EditError, match="depend on each other"):
        made("emmet", model, softness=0.0).edit([FACTS[0], FACTS[0]])
    [edit] = made("memit", model).edit([FACTS[0], FACTS[0]]).edits
    assert edit.diagnostics["same_keys"] == 1
    assert edit.diagnostics["same_key"] == [[0, 1]]


@pytest.mark.parametrize("name", ["memory", "grace", "retrieval", "lora", "ultraedit", "locft-bf"])
def test_of_weights_in_half_precision_what_is_kept_is_float32_and_finite(name: str) -> None:
    half = EditableModel(tiny("gpt2").lm.to(torch.bfloat16), tiny_tokenizer(), name="half")
    edits = made(name, half).edit(FACTS).edits
    for edit in edits:
        assert edit.made_for == half.fingerprint()
        for effect in edit.effects:
            for tensor in effect.tensors().values():
                assert tensor.dtype == torch.float32
                assert torch.isfinite(tensor).all()
                assert tensor.abs().max() > 0


# -- settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("rome", "model"),
        ("rome", "moments"),
        ("kn", "_moments"),
        ("ice", "model"),
        ("rome+stop", "model"),
        ("grace+stop", "_moments"),
    ],
)
def test_what_a_method_is_made_for_is_no_setting(name: str, setting: str, model: EditableModel) -> None:
    """`--set model=3`: before, Python's own error about several values for one argument."""
    with pytest.raises(UsageError, match=rf"{setting.lstrip('_')}.*(leave them out|do not hold)"):
        MethodSpec(name, moments, {setting: 3}).build(model)


@pytest.mark.parametrize("name", ["rome", "rome+stop", "memit", "alphaedit"])
@pytest.mark.parametrize("setting", ["name", "maker", "paper", "bare_denominator"])
def test_what_functions_hand_on_inside_is_no_setting(name: str, setting: str, model: EditableModel) -> None:
    with pytest.raises(
        UsageError, match=rf"settings of (ROME|memit|alphaedit) do not hold: {setting} 'x': Extra inputs"
    ):
        MethodSpec(name, moments, {setting: "x"}).build(model)


@pytest.mark.parametrize("name", sorted(set(QUICK) - {"rome", "rome-original", "memory"}))
def test_a_setting_nobody_knows_is_named_with_those_there_are(name: str, model: EditableModel) -> None:
    with pytest.raises(UsageError, match=rf"^The settings of {name} do not hold: nothing 1: .*\. It has "):
        make_method(name, model, moments, nothing=1)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("grace", {"steps": 0}, "steps 0"),
        ("grace", {"learning_rate": 0}, "learning_rate 0"),
        ("grace", {"share": 2}, "share 2"),
        ("grace", {"epsilon": 0.0}, "epsilon 0.0"),
        ("grace", {"stop": "never"}, "stop 'never'"),
        ("lora", {"alpha": 0}, "alpha 0"),
        ("lora", {"batch": 0}, "batch 0"),
        ("lora", {"layers": ()}, r"must ascend, each named once; found \[\]"),
        ("lora", {"layers": (2, 1)}, r"must ascend, each named once; found \[2, 1\]"),
        ("lora", {"layers": (1, 1)}, r"must ascend, each named once; found \[1, 1\]"),
        ("lora", {"layers": "1-9"}, "Layer 4 was asked for; tiny-gpt2 has layers 0 to 3"),
        ("memit", {"layers": ()}, r"must ascend, each named once; found \[\]"),
        ("memit", {"share": 0}, "share 0"),
        ("memit", {"keep": 1.5}, "keep 1.5"),
        ("emmet", {"softness": -1}, "softness -1"),
        ("alphaedit", {"energy": 1}, "energy 1"),
        ("encore", {"stop_probability": 1}, "stop_probability 1"),
        ("prune", {"log_base": 1}, "log_base 1"),
        ("prune", {"history": True}, "leave history and keep out"),
        ("nse", {"strongest": 0}, "strongest 0"),
        ("nse", {"share": 1}, "give a share below 1"),
        ("memit", {"share_of": "all"}, "share_of 'all'"),
        ("kn", {"threshold": 1}, "threshold 1"),
        ("kn", {"shared": 0}, "shared 0"),
        ("kn", {"steps": 1}, "steps 1"),
        ("retrieval", {"count": 0}, "count 0"),
        ("retrieval", {"threshold": math.nan}, "threshold nan"),
        ("mello", {"encoder": "words"}, "encoder 'words'"),
        ("ultraedit", {"matrices": []}, r"each named once; found \[\]"),
        ("ultraedit", {"matrices": [[1, "out"], [1, "out"]]}, r"each named once; found \[\[1, 'out'\], \[1, 'out'\]\]"),
        ("ultraedit", {"matrices": [[9, "out"]]}, "Layer 9 was asked for"),
        ("ultraedit", {"matrices": [[1, "up"]]}, "matrices.0.1 'up'"),
        ("locft-bf", {"stop": "sentence"}, "ends its targets in the end-of-text token or not at all"),
        ("ft-m", {"stop": "sentence"}, "ft-m ends its targets in the end-of-text token or not at all"),
        ("ft", {"epsilon": 0.1}, "is the method ft-l"),
        ("ft-l", {"epsilon": 0}, "epsilon 0"),
        ("rome-joint", {"share": 1.1}, "share 1.1"),
        ("rome-joint", {"layers": "2,1-1"}, None),
    ],
)
def test_settings_out_of_range_are_named(
    name: str, change: dict[str, Any], said: str | None, model: EditableModel
) -> None:
    if said is None:
        assert list(made(name, model, **change).solvers) == [1, 2]
        return
    with pytest.raises(UsageError, match=said):
        made(name, model, **change)


@pytest.mark.parametrize(("written", "layers"), [("1-2", (1, 2)), (3, (3,)), ("0,2", (0, 2)), (None, (0, 1, 2, 3))])
def test_lora_and_memit_take_layers_alike(written: Any, layers: tuple[int, ...], model: EditableModel) -> None:
    """Before, `--set layers=1-2` and `--set layers=3` were layers of every method for many facts but lora."""
    assert made("lora", model, layers=written).layers == layers
    if written is not None:
        assert tuple(made("memit", model, layers=written).solvers) == layers
    assert LoraSettings(layers=written).layers == (None if written is None else layers)


def test_a_form_that_ends_is_asked_for_only_where_there_is_one() -> None:
    with pytest.raises(UsageError, match=r"kn trains no target, so none can be made to end\. Those that do"):
        check_method("kn+stop")
    with pytest.raises(UnknownName, match="rome"):
        check_method("rom+stop")
    with pytest.raises(UnknownName):
        check_method("rome+stop+stop")
    assert callable(check_method("grace+stop"))
    assert callable(check_method("mend-mine")), "a network trained on a user's own facts"
    with pytest.raises(UnknownName):
        check_method("mend-")


# -- what makes a method ----------------------------------------------------------------------------


def _plain(model: object, moments: object, *, size: int = 1, other: int = 2) -> None: ...
def _bare(model: object, moments: object) -> None: ...
def _open(model: object, moments: object, **settings: object) -> None: ...


@pytest.mark.parametrize(
    ("maker", "settings", "said"),
    [
        (_plain, {"size": 1, "other": 3}, None),
        (_plain, {"sizes": 1}, "does not take sizes; its settings are size, other"),
        (_plain, {"sizes": 1, "b": 2, "size": 1}, "does not take sizes, b; its settings are size, other"),
        (_plain, {"model": 1}, "does not take model; its settings are size, other"),
        (_bare, {}, None),
        (_bare, {"x": 1}, "does not take x; it has no settings"),
        (_bare, {"moments": 1}, "does not take moments; it has no settings"),
        (_open, {"anything": 1}, None),
        (_open, {"moments": 1, "x": 2}, "does not take moments; these are what it is made for: leave them out"),
    ],
)
def test_settings_are_those_that_what_makes_a_method_takes(
    maker: Callable[..., None], settings: dict[str, object], said: str | None
) -> None:
    if said is None:
        check_takes("own", maker, settings)
        return
    with pytest.raises(UsageError, match=f"^The method own {said}\\.$"):
        check_takes("own", maker, settings)


def test_a_maker_that_cannot_be_looked_into_is_let_through() -> None:
    """A built-in has no signature; what it makes is checked."""
    check_takes("own", type, {"anything": 1})
    with pytest.raises(EditError, match="is no method: it lacks name, paper, scope, edit, describe"):
        check_is_method("own", object())


class Whole:
    name, paper, scope = "own", "nowhere", "each"

    def edit(self, requests: object, state: object = None) -> None: ...
    def describe(self) -> dict[str, object]:
        return {}


def test_what_was_made_is_a_method_or_it_is_said_what_it_lacks() -> None:
    own = Whole()
    assert check_is_method("own", own) is own
    other = Whole()
    other.scope = "all"
    with pytest.raises(EditError, match=r"it lacks a scope that is one of each, joint \(it says 'all'\)"):
        check_is_method("own", other)

    class Half:
        name, paper, scope = "own", "nowhere", "each"

    with pytest.raises(EditError, match=r"it lacks edit, describe\. Its author must add that; docs/extend/method\.md"):
        check_is_method("own", Half())
