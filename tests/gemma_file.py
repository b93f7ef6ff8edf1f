"""What a .gguf file of the embedded Gemma holds, told so that it can be kept: its tensors in hashes, its tokens in ids.

`tests/golden/gemma3-270m.json` tells what transformers' own (slow) path makes of the file; `FACTEDIT_TRIALS=all` makes
it anew and compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

from conftest import ROOT

PATH = ROOT / "tests" / "golden" / "gemma3-270m.json"
OF_THE_LOADER = {"_name_or_path", "_model_name_or_path", "quantization_config", "transformers_version"}
TEXTS = (
    "", " ", "  a  ", "\n\n", "\t", "\r\n", "the Space Needle", " the  Space   Needle",
    "LeBron James plays the sport of",
    "Café Zürich", "Cafe\u0301 Zu\u0308rich", "東京は日本の首都です。", "Москва — столица России", "القاهرة عاصمة مصر",
    "नई दिल्ली", "กรุงเทพมหานคร", "한국의 수도는 서울", "🗼 Tokyo Tower 🇯🇵", "👩‍👩‍👧", "\u200bzero\u200bwidth",
    "\u00a0no-break\u00a0space", "\ufeffmark", "3.14159", "10²", "def f(x):\n    return x\n", "<bos><eos>", "a<eos>b",
    "<unused7>", "<0x41>", "DON'T", "…–—“”‘’", "▁▁the", "Ġthe", "line\n\n\nline", "\x00\x01\x7f", "ﬁ ﬂ Å Å", "ß ẞ ı İ",
    "𝕳𝖊𝖑𝖑𝖔", "\U0010ffff", "the" * 50,
)  # fmt: skip


def told_of_model(lm: Any) -> dict[str, Any]:
    """Every tensor's hash, some of each buffer, and the configuration.

    Buffers are computed, by powers whose last bit another processor may round otherwise.
    """
    config = json.loads(json.dumps(lm.config.to_dict(), default=str))
    return {
        "tensors": _hashes(lm.state_dict()),
        "buffers": {name: _some(buffer) for name, buffer in lm.named_buffers()},
        "config": {name: value for name, value in config.items() if name not in OF_THE_LOADER},
    }


def told_of_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """The vocabulary's and the merges' hash, and what becomes of texts."""
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    return {
        "vocabulary": _hash(json.dumps(sorted(stored["model"]["vocab"].items())).encode()),
        "merges": _hash(json.dumps(stored["model"]["merges"]).encode()),
        "added": _hash(json.dumps(stored["added_tokens"]).encode()),
        "special": dict(tokenizer.special_tokens_map),
        "ids": ids,
        "decoded": [tokenizer.decode(row) for row in ids],
    }


def _hashes(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {
        name: f"{tensor.dtype} {list(tensor.shape)} {_hash(tensor.contiguous().numpy().data)}"
        for name, tensor in sorted(tensors.items())
    }


def _some(buffer: torch.Tensor) -> list[float]:
    values = buffer.double().flatten()
    return [len(values), *(round(value, 6) for value in values[:: max(1, len(values) // 7)].tolist())]


def _hash(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
