"""Multimodal wrappers: the text model is traced and edited, the wrapper's folder is written back whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

from conftest import randomised, tiny_tokenizer
from factedit.engine.resume import Segment, align, embed, read_out
from factedit.errors import UnknownName, UnsupportedModel
from factedit.files.classes import class_of
from factedit.models.adapter import EditableModel
from factedit.models.families import Family
from factedit.models.family_table import family_of, model_types_of
from factedit.models.load import load
from factedit.stack.work import apply, revert
from stack_cases import random_edit
from tiny_families import tiny_config
from tiny_folder import write

IDS = torch.tensor([[5, 9, 200, 41]])
_SIGHT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8, "num_channels": 3, "head_dim": 8,
}  # fmt: skip
_SIGLIP = {**_SIGHT, "model_type": "siglip_vision_model"}
_OWN = {
    "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": 32,
    "num_position_embeddings": 16,
}  # fmt: skip
_LLAMA4 = {**_SIGHT, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
WRAPPERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": ("gemma3_text", {"vision_config": _SIGLIP, "mm_tokens_per_image": 4}),
    "mistral3": ("ministral3", {"vision_config": {**_SIGHT, "model_type": "pixtral"}}),
    "llava": ("llama", {"vision_config": _SIGLIP}),
    "qwen3_5": ("qwen3_5_text", {"vision_config": _OWN}),
    "llama4": ("llama4_text", {"vision_config": _LLAMA4}),
}


def wrapper(kind: str) -> Any:
    torch.manual_seed(0)
    text, rest = WRAPPERS[kind]
    config = CONFIG_MAPPING[kind](text_config=tiny_config(text).to_dict(), **rest)
    return randomised(class_of(config)(config).eval())


@torch.no_grad()
@pytest.mark.parametrize("kind", WRAPPERS)
def test_its_text_model_is_read_resumed_and_edited(kind: str) -> None:
    model = EditableModel(wrapper(kind), tiny_tokenizer())
    assert model.family.name == WRAPPERS[kind][0]
    batch = align(IDS.tolist())
    segment = Segment(model, batch.mask, embeddings=embed(model, batch.ids))
    below = segment.run(segment.start, range(2), keep=True)
    segment.run(below, range(2, 4), keep=True)
    final = Segment(model, batch.mask, past=segment.past().until(2)).run(below[:, 2:], range(2, 4))
    whole = model.lm(input_ids=IDS).logits[0]
    torch.testing.assert_close(read_out(model, final[0]), whole[2:], atol=2e-4, rtol=1e-4)
    layer = next(n for n in range(4) if model.places[n].matrices)
    with model.with_weight(layer, 2 * model.weight(layer)):
        assert not torch.equal(model.lm(input_ids=IDS).logits[0], whole)
    assert torch.equal(model.lm(input_ids=IDS).logits[0], whole)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gemma3", "qwen3_5"])
def test_its_folder_is_written_back_whole(kind: str, tmp_path: Path) -> None:
    lm, source, out = wrapper(kind), tmp_path / "base", tmp_path / "edited"
    lm.save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    write(source / "preprocessor_config.json", {"size": 16})
    model = load(str(source))
    edit = random_edit(model, 1)
    apply(model, [edit], out)
    assert (out / "preprocessor_config.json").read_bytes() == (source / "preprocessor_config.json").read_bytes()
    whole, before = AutoModelForImageTextToText.from_pretrained(out).eval(), lm.state_dict()
    changed = [n for n, t in whole.state_dict().items() if not torch.equal(t, before[n])]
    assert changed == [model.matrix(1).name]
    with edit.applied_to(model):
        assert torch.equal(whole(input_ids=IDS).logits, model.lm(input_ids=IDS).logits)
    apply(out, [random_edit(model, 2)])  # a second one, on the folder
    revert(out)
    assert load(str(out)).fingerprint() == model.fingerprint()


def test_rows_of_wrappers_are_those_of_their_text_models() -> None:
    row = family_of("mistral3", "mistral")
    assert isinstance(row, Family)
    assert (row.name, row.layers, row.gguf) == ("mistral", "model.language_model.layers", "llama")
    assert family_of("smolvlm", "llama").layers == "model.text_model.layers"
    assert family_of("llama").layers == "model.layers"
    assert model_types_of({"model_type": "llama", "text_config": None}) == ("llama", "")


def test_a_wrapper_without_a_text_model_that_is_known_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"Unknown architecture 'emu3_text_model'"):
        family_of("emu3", "emu3_text_model")
    with pytest.raises(UnsupportedModel, match="run only where there is a picture"):
        family_of("mllama", "mllama_text_model")
    with pytest.raises(UnsupportedModel, match="of the kind 'siglip_vision_model' holds no text model"):
        class_of(CONFIG_MAPPING["siglip_vision_model"]())
