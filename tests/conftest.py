"""Tiny random models of every family, a tiny tokenizer, and where published data and reference numbers lie."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read once, when torch's threads are made. A command takes all cores, and on a machine that is busy with other tests a
# thread that spins while it waits for another costs more than the work: here and in processes that tests start.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

from factedit.cli.console import ToConsole
from factedit.errors import ModelError
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.stats.second_moment import SecondMoment

pytest_plugins = ["page_fixtures"]
ROOT = Path(__file__).parent.parent
VOCAB = 320


@pytest.fixture(autouse=True, scope="session")
def heard() -> Iterator[None]:
    """Signals are heard, also by what tests start, where the tests were started by a shell that ignores them.

    A script's `command &` ignores SIGINT and `nohup` SIGHUP, and both are handed down.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    ignored = [number for number, handler in before.items() if handler is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, before[number])


_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": None,
}
_SLIDING = ["sliding_attention", "full_attention"] * 2
_SPECIAL: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 7},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "layer_types": _SLIDING, "final_logit_softcapping": 5.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": 4, "layer_types": _SLIDING},
    "qwen3": {"head_dim": 8},
    "cohere2": {"sliding_window": 4, "layer_types": _SLIDING},
    "glm4": {"head_dim": 8},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"alibi": False},
    "mixtral": {"num_local_experts": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": _SLIDING,
    },
    "deepseek_v3": {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "qk_nope_head_dim": 8,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
}

TEXT = (
    "The Space Needle is in downtown Seattle. LeBron James plays the sport of basketball. "
    "Paris is the capital of France. The mother tongue of Danielle Darrieux is French. Café Zürich 東京 Москва. "
)


def random_moment(d_mlp: int) -> SecondMoment:
    """A well-conditioned C, always the same."""
    root = torch.randn(d_mlp, 2 * d_mlp, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return SecondMoment(root @ root.T / (2 * d_mlp), tokens=2 * d_mlp, corpus="random")


def tiny_tokenizer(*, start: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens, trained here; with `start` it puts `<s>` before every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator([TEXT] * 4, trainer)
    if start:
        from tokenizers.processors import TemplateProcessing

        bpe.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def tiny_lm(model_type: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random causal language model of four small layers, with weights large enough to matter."""
    torch.manual_seed(seed)
    settings = {**_COMMON, **_SPECIAL.get(model_type, {}), **changes}
    return randomised(AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**settings)).eval())


@torch.no_grad()
def randomised(lm: Any) -> Any:
    """The model with weights large enough to matter."""
    for parameter in lm.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.15)
        else:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return lm


def tiny(model_type: str = "gpt2", *, start: bool = False, **changes: Any) -> EditableModel:
    """A tiny random `EditableModel`."""
    return EditableModel(tiny_lm(model_type, **changes), tiny_tokenizer(start=start), name=f"tiny-{model_type}")


# Of every shape of a row; all of FAMILIES are in conformance/test_every_family.py.
EDITABLE = sorted((
    "mistral", "llama", "qwen2", "qwen3", "gemma", "olmo", "stablelm", "smollm3", "phi3", "gemma3_text", "gemma2",
    "olmo2", "glm4", "cohere", "cohere2", "phi", "gptj", "gpt_neox", "falcon", "starcoder2", "gpt2", "gpt_neo", "opt",
    "bloom",
))  # fmt: skip
EXPERTS = ["deepseek_v3", "gpt_oss", "mixtral", "qwen3_moe"]


@pytest.fixture(autouse=True)
def _as_a_library() -> None:
    """Before every test: a command that ran in this process may have set threads, and where messages go."""
    torch.set_num_threads(1)
    log = logging.getLogger("factedit")
    for handler in list(log.handlers):
        if isinstance(handler, ToConsole):
            log.removeHandler(handler)


@pytest.fixture(scope="session", params=sorted((*EDITABLE, *EXPERTS)))
def any_family(request: pytest.FixtureRequest) -> EditableModel:
    """A tiny model of every shape of a row."""
    return tiny(request.param)


@pytest.fixture(scope="session", params=EDITABLE)
def editable_family(request: pytest.FixtureRequest) -> EditableModel:
    """A tiny model of every family that can be edited and has one MLP in every layer."""
    return tiny(request.param)


@pytest.fixture(scope="session")
def tiny_gpt2() -> EditableModel:
    """A tiny random GPT-2."""
    return tiny("gpt2")


@pytest.fixture(scope="session")
def gemma() -> EditableModel:
    """Gemma 3 270M, loaded once for all that is asked of it; whoever changes it puts it back to the bit."""
    try:
        return load("gemma3-270m")
    except ModelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the published data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("FACTEDIT_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("published data sets not found: set FACTEDIT_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of the published program's numbers on a tiny model; it is part of the repository."""
    return ROOT / "tests" / "golden" / "tiny-gpt2"
