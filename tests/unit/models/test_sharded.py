"""A model that transformers has cut over two processes gives the plain one's numbers, and is edited in its parts."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import random_moment, tiny_lm, tiny_tokenizer
from factedit.edit.method_table import make_method
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.files.save import tensors_of
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.sharded import Among, ShardedMatrix, ShardedModel, gathered, part_at
from factedit.trace.sweep import trace_fact
from processes import PATIENCE, end, start

REQUEST = EditRequest(subject="Seattle", prompt="{} is in", target_new="France", target_true="Seattle")
IDS = torch.tensor([[5, 9, 200, 41]])


def cut(folder: Path, rank: int) -> ShardedModel:
    """This process's part of a model, of two."""
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    meeting = {"init_method": f"file://{folder / 'meeting'}", "timeout": timedelta(seconds=PATIENCE)}
    dist.init_process_group("gloo", rank=rank, world_size=2, **meeting)  # type: ignore[arg-type]
    plan = DistributedConfig(tp_plan="auto")
    lm = AutoModelForCausalLM.from_pretrained(folder, distributed_config=plan, dtype=torch.float32)
    found = load(lm.eval(), tiny_tokenizer())
    assert isinstance(found, ShardedModel)
    return found


def close(found: torch.Tensor, expected: torch.Tensor, size: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= size * float(expected.abs().max())


def same_numbers(parts: ShardedModel, plain: EditableModel) -> None:
    assert parts.fingerprint() == plain.fingerprint()
    assert torch.equal(parts.weight(1), plain.weight(1))
    assert torch.equal(parts.words, plain.words)
    models: tuple[EditableModel, EditableModel] = (parts, plain)
    for which in ("out", "in"):  # cut along what it reads, and along what it gives
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        for model in models:
            with torch.no_grad(), model.on_matrix(1, lambda key, value, s=seen: s.append((key, value)), which):
                model.lm(input_ids=IDS)
        close(seen[0][0], seen[1][0])
        close(seen[0][1], seen[1][1])
    asked: dict[str, Any] = {"noise": 0.5, "samples": 2}
    traced = [trace_fact(m, "The Space Needle is in downtown", "The Space Needle", **asked) for m in models]
    for kind, scores in traced[1].scores.items():
        close(torch.tensor(traced[0].scores[kind]), torch.tensor(scores), 1e-4)
    for name, settings in (("rome", {"layer": 1}), ("memit", {"layers": (1, 2)})):
        own: list[list[torch.Tensor]] = []
        for model in models:
            moments = lambda m, _l: random_moment(m.d_mlp)  # noqa: E731
            method = make_method(name, model, moments, steps=4, context_templates=["So it was. {}"], **settings)
            own.append([e.delta() for edit in method.edit([REQUEST]).edits for e in edit.effects])  # type: ignore[attr-defined]
        assert own[1]
        for left, right in zip(*own, strict=True):
            close(left, right, 1e-4)


@torch.no_grad()
def edited_in_its_parts(parts: ShardedModel, plain: EditableModel, rank: int) -> None:
    for which, matrix in (
        ("out", parts.lm.model.layers[1].mlp.down_proj),
        ("in", parts.lm.model.layers[1].mlp.up_proj),
    ):
        weight = matrix.weight
        own, place = weight.to_local(), weight.to_local().data_ptr()
        before = own.clone()
        assert own.numel() == plain.weight(1, which).numel() // 2, "or nothing was cut"
        new = plain.weight(1, which) * torch.linspace(0.5, 2, plain.weight(1, which).shape[1])
        with parts.with_weight(1, new, which), plain.with_weight(1, new, which):
            close(parts.lm(input_ids=IDS).logits, plain.lm(input_ids=IDS).logits)
            assert parts.fingerprint() == plain.fingerprint()
            expected = new.T.chunk(2, dim=1 if which == "out" else 0)[rank]
            assert torch.equal(own, expected), "its own part of the new matrix"
            assert weight.to_local().data_ptr() == place, "written where it was"
        assert torch.equal(weight.to_local(), before)
    assert parts.fingerprint() == plain.fingerprint()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes(tmp_path: Path) -> None:
    torch.distributed.is_available() or pytest.skip("torch was built without processes")
    tiny_lm("llama").save_pretrained(tmp_path)

    def work(rank: int) -> None:
        parts, plain = cut(tmp_path, rank), EditableModel(tiny_lm("llama"), tiny_tokenizer())
        same_numbers(parts, plain)
        edited_in_its_parts(parts, plain, rank)
        with pytest.raises(UsageError, match=r"lies in parts over processes.*to the model's folder"):
            tensors_of(parts.lm)
        torch.distributed.barrier()

    children = [start(lambda rank=rank: work(rank)) for rank in (0, 1)]
    assert [end(child) for child in children] == [0, 0]


def test_what_is_whole_is_not_cut() -> None:
    whole = torch.ones(2, 3)
    assert part_at(whole, 3, None) is gathered(whole, 3, None) is whole


class Mesh:
    """Two groups of two processes; this one is the second of the first dimension and the first of the other."""

    def get_local_rank(self, dimension: int) -> int:
        return (1, 0)[dimension]

    def get_group(self, dimension: int) -> str:
        return ("those of one copy", "the copies")[dimension]


def test_parts_are_those_of_the_mesh_and_not_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes that hold two copies of a model cut in two: the third has a first part, not a third one."""
    asked: list[Any] = []
    both = torch.arange(12.0).view(2, 6)
    gather = lambda part, group: asked.append((part, group)) or both.split(3, dim=-1)  # noqa: E731
    monkeypatch.setattr("torch.distributed.nn.functional.all_gather", gather)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: pytest.fail("the rank among all processes was asked"))
    for dimension, part in enumerate((both[:, 3:], both[:, :3])):
        among = Among(Mesh(), dimension)
        assert torch.equal(part_at(both, 3, among), part)
        assert torch.equal(gathered(part, 6, among), both)
        assert asked[dimension][1] == Mesh().get_group(dimension)
        assert part_at(both, 6, among) is gathered(both, 6, among) is both


def test_a_matrix_knows_the_dimension_of_the_mesh_that_it_is_cut_along() -> None:
    whole_one = tiny_lm("llama").model.layers[0].mlp.down_proj
    placed = [SimpleNamespace(is_shard=lambda cut=cut: cut) for cut in (False, True)]
    weight = SimpleNamespace(full_tensor=None, device_mesh=Mesh(), placements=placed)
    cut_one: Any = SimpleNamespace(weight=weight)
    parts = [ShardedMatrix((0, "out"), module, "", False, module)._among for module in (whole_one, cut_one)]
    assert parts[0] is None
    assert parts[1] is not None
    assert (parts[1].mesh, parts[1].dimension) == (weight.device_mesh, 1)
