"""What an adapter that somebody else wrote means: ΔW = alpha / r · B A, whatever alpha is."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import save_file

from conftest import tiny
from factedit.export.lora import read_llama_lora, read_peft


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
