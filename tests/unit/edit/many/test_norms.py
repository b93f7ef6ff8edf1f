"""NAS: the anchor, the values that get its norm, and the ones that are not trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import tiny, tiny_tokenizer
from factedit.edit.many.anchor_store import anchor_of
from factedit.edit.many.hidden_value import HiddenValue
from factedit.edit.many.norms import anchor, value_norms, with_norm
from factedit.edit.many.settings import HiddenSettings
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

SETTINGS = HiddenSettings(layers=(1, 2), steps=2, learning_rate=0.1, anchor_facts=2)


def value(mlp: list[float], delta: list[float]) -> HiddenValue:
    initial = torch.tensor([10.0, 20.0])
    return HiddenValue(initial=initial, mlp=torch.tensor(mlp), delta=torch.tensor(delta), losses=())


def test_the_anchor_is_the_mean_norm_without_the_largest() -> None:
    norms = torch.tensor([1.0, 2.0, 3.0, 4.0, 1000.0])
    assert anchor(norms, left_out=0.25) == pytest.approx(2.5)
    assert anchor(norms, left_out=0.0) == pytest.approx(202.0)
    assert anchor(norms.flip(0), left_out=0.25) == pytest.approx(2.5)


@pytest.mark.parametrize(("count", "left_out"), [(0, 0.05), (3, 1.0), (3, -0.1)])
def test_an_anchor_of_nothing_is_refused(count: int, left_out: float) -> None:
    with pytest.raises(UsageError, match="An anchor needs some norms"):
        anchor(torch.ones(count), left_out=left_out)


def test_values_get_the_anchors_norm_and_those_twice_as_long_lose_their_offset() -> None:
    """z = (h − m) + v, v of the anchor's norm; one longer than twice the anchor stays m."""
    found = [value([3.0, 0.0], [0.0, 4.0]), value([3.0, 0.0], [0.0, 40.0])]
    targets, dropped = with_norm(found, 5.5)
    rest = torch.tensor([7.0, 20.0])
    torch.testing.assert_close(targets[0] - rest, 5.5 * torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(targets[1] - rest, torch.tensor([3.0, 0.0]))
    assert dropped.tolist() == [False, True]


def test_a_value_of_zero_has_no_direction_and_stays() -> None:
    targets, dropped = with_norm([value([0.0, 0.0], [0.0, 0.0]), value([3.0, 0.0], [0.0, 4.0])], 5.5)
    torch.testing.assert_close(targets[0], torch.tensor([10.0, 20.0]))
    assert (targets.isfinite().all(), dropped.tolist()) == (True, [False, False])


def test_an_anchor_is_measured_once_and_kept_by_what_decides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    measured: list[float] = []

    def norms(*_args: object) -> torch.Tensor:
        measured.append(float(len(measured) + 1))
        return torch.tensor([measured[-1]])

    monkeypatch.setattr("factedit.edit.many.anchor_store.value_norms", norms)
    model = tiny("gpt2")
    assert [anchor_of(model, 2, SETTINGS, None) for _ in range(2)] == [1.0, 1.0]
    assert anchor_of(model, 2, SETTINGS.model_copy(update={"anchor": 3.25}), None) == 3.25
    assert measured == [1.0]
    others = [
        anchor_of(tiny("gpt2", seed=1), 2, SETTINGS, None),
        anchor_of(model, 1, SETTINGS, None),
        anchor_of(model, 2, SETTINGS.model_copy(update={"steps": 3}), None),
        anchor_of(model, 2, SETTINGS.model_copy(update={"anchor_facts": 3}), None),
        anchor_of(model, 2, SETTINGS.model_copy(update={"stop": "end"}), None),
    ]
    assert others == [2.0, 3.0, 4.0, 5.0, 6.0]
    assert anchor_of(model, 2, SETTINGS, None) == 1.0
    retold = EditableModel(model.lm, tiny_tokenizer(start=True))
    assert anchor_of(retold, 2, SETTINGS, None) == 7.0, "the same weights, read by another tokenizer"
    told, own = iter(tmp_path.rglob("*.entry")), {model.name: 1.0, retold.name: 7.0}
    assert sum(json.loads(p.read_text().partition("\n")[2])["anchor"] in own.values() for p in told) == 2


def test_the_norms_are_of_what_the_mlp_is_to_give_in_the_bare_prompt() -> None:
    model = tiny("gpt2")
    fact = EditRequest(subject="Paris", prompt="{} is in", target_new="football")
    [with_no_step] = value_norms(model, 1, [fact], SETTINGS.model_copy(update={"steps": 1}))
    seen: list[torch.Tensor] = []
    ids = model.tokenizer("Paris is in", return_offsets_mapping=True)
    last = next(n for n, (begin, end) in enumerate(ids["offset_mapping"]) if begin <= 4 < end)
    with model.on_output("mlp", 1, lambda out: seen.append(out[0, last].clone())), torch.no_grad():
        model.lm(input_ids=torch.tensor([ids["input_ids"]]))
    assert float(with_no_step) == pytest.approx(float(seen[0].norm()), rel=1e-4), "the last evaluation moves nothing"
