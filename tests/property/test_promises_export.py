"""What is handed on: what somebody else's adapter means, what of ΔW a file holds, how an export compares."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conftest import tiny
from factedit.export.lora import read_llama_lora
from factedit.export.prove import compare_logits
from factedit.export.read_peft import read_peft
from factedit.export.ship import ship
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from plain import edit_of
from tiny_gguf import llama_lm, write


@pytest.mark.parametrize("alpha", [1, 6, 16])
def test_a_peft_adapter_is_scaled_by_alpha_over_r(alpha: int, tmp_path: Path) -> None:
    model = tiny("llama")
    a, b = torch.randn(2, model.d_mlp), torch.randn(model.d_model, 2)
    name = "base_model.model.model.layers.1.mlp.down_proj"
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": alpha, "target_modules": "x"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    [change] = read_peft(model, tmp_path)
    assert (change.layer, change.matrix) == (1, "out")
    torch.testing.assert_close(change.delta(), alpha / 2 * (b @ a).T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 6.0])
def test_an_adapter_of_llama_cpp_is_scaled_by_alpha_over_its_rank(alpha: float, tmp_path: Path) -> None:
    a, b = torch.randn(3, 48), torch.randn(32, 3)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_tensor("blk.2.ffn_down.weight.lora_a", a.numpy())
    writer.add_tensor("blk.2.ffn_down.weight.lora_b", b.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    [change] = read_llama_lora(tmp_path / "a.gguf")
    assert (change.layer, change.matrix) == (2, "out")
    torch.testing.assert_close(change.delta(), alpha / 3 * (b @ a).T, rtol=1e-5, atol=1e-5)


def test_the_error_of_a_rewritten_tensor_is_of_the_change_and_over_the_change(tmp_path: Path) -> None:
    """‖stored change − ΔW‖ / ‖ΔW‖ of a file in F16, rounded here by numpy: a small change in it loses more."""
    path = write(tmp_path / "base.gguf", llama_lm(intermediate_size=256), kind=gguf.GGMLQuantizationType.F16)
    model = load(str(path))
    w = model.weight(1).numpy().copy()
    errors = []
    for n, size in enumerate((1e-3, 1e-1)):
        left, right = size * torch.ones(model.d_mlp, 1), torch.randn(1, model.d_model)
        [stored] = ship(model, [edit_of(model, 1, (left, right))], tmp_path / str(n), "gguf", gguf=path).stored
        kept = (w + (left @ right).numpy()).astype(np.float16).astype(np.float32) - w
        delta = (w + (left @ right).numpy()) - w
        assert stored.error == pytest.approx(np.linalg.norm(kept - delta) / np.linalg.norm(delta), rel=1e-4)
        errors.append(stored.error)
    assert errors[0] > 10 * errors[1] > 0


def test_an_export_is_compared_by_its_worst_prompt(tiny_gpt2: EditableModel) -> None:
    """KL(in memory ‖ shipped), in nats, and the differences are the largest over the prompts."""
    random = torch.Generator().manual_seed(0)
    memory = torch.randn(3, 5, generator=random)
    shipped = memory + torch.tensor([0.1, 1.0, 0.0])[:, None] * torch.randn(3, 5, generator=random)
    shipped[1] = memory[1].roll(1)
    found = compare_logits(
        tiny_gpt2, [], ["a", "b", "c"], {"base": memory, "memory": memory, "shipped": shipped}, "by hand"
    )
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (memory.double().numpy(), shipped.double().numpy()))
    divergence = (p * np.log(p / q)).sum(1)
    assert found.largest_kl == pytest.approx(divergence.max(), rel=1e-4)
    other_way = (q * np.log(q / p)).sum(1)
    assert abs(other_way.max() - divergence.max()) > 0.01 * divergence.max(), "the direction shows"
    assert found.largest_probability_difference == pytest.approx(np.abs(p - q).max(), rel=1e-4)
    assert found.largest_logit_difference == pytest.approx(float((memory - shipped).abs().max()))
    assert found.same_first_token == int((p.argmax(1) == q.argmax(1)).sum()) < found.prompts == 3
