"""A model on which an edit would not act, or more than asked, is refused before anybody edits it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import weight_norm as old_weight_norm

from conftest import EDITABLE, tiny, tiny_lm, tiny_tokenizer
from factedit.errors import ResourceError, UnsupportedModel, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.finite import all_finite, not_finite
from factedit.models.load import load
from tiny_folder import save


def refuse(lm: Any, match: str, kind: type[Exception] = UnsupportedModel) -> None:
    with pytest.raises(kind, match=match):
        EditableModel(lm, tiny_tokenizer())


# Weights that are no parameters of their own


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


WAYS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": old_weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "parametrize": lambda module: parametrize.register_parametrization(module, "weight", Halved()),
    "prune": lambda module: prune.random_unstructured(module, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("path", ["down_proj", "up_proj", "gate_proj"])
@pytest.mark.parametrize("way", WAYS)
def test_parametrised_matrices_are_refused(way, path):
    lm = tiny_lm("llama")
    WAYS[way](lm.model.layers[2].mlp.get_submodule(path))
    refuse(lm, rf"model.layers.2.mlp.{path}.weight is no plain parameter")


def test_adapters_around_a_matrix_are_refused():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(tiny_lm("gpt2"), settings)
    refuse(wrapped, "wrapped|no plain parameter")
    refuse(wrapped.base_model.model, "is no plain parameter: Linear computes it from others")


def test_a_sparse_matrix_is_refused():
    lm = tiny_lm("llama")
    module = lm.model.layers[2].mlp.down_proj
    module.weight = nn.Parameter(module.weight.detach().to_sparse())
    refuse(lm, r"model.layers.2.mlp.down_proj.weight is no plain parameter: .*\(sparse\)")


def test_a_tensor_subclass_in_the_place_of_a_weight_is_refused():
    class Packed(torch.Tensor):
        pass

    lm = tiny_lm("gpt2")
    module = lm.transformer.h[1].mlp.c_proj
    module.weight = nn.Parameter(module.weight.detach().as_subclass(Packed))
    refuse(lm, "is no plain parameter")


# Modules that do not use their weight


class Frozen(nn.Linear):
    """Has a weight, and computes with a copy of it."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__(of.in_features, of.out_features, bias=of.bias is not None)
        self.load_state_dict(of.state_dict())
        self.kept = self.weight.detach().clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.kept, self.bias)


class View(Frozen):
    """Computes with a view that was taken when it was made: a new weight passes it by, a change in place would not."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__(of)
        self.kept = self.weight.detach()


class Scaled(nn.Linear):
    """Computes something else than its weight says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1.01


@pytest.mark.parametrize("path", ["down_proj", "up_proj", "gate_proj"])
@pytest.mark.parametrize("kind", [Frozen, View, Scaled])
def test_modules_that_do_not_use_their_weight_are_refused(kind, path):
    lm = tiny_lm("llama")
    mlp = lm.model.layers[3].mlp
    module = mlp.get_submodule(path)
    new = kind(module) if kind is not Scaled else Scaled(module.in_features, module.out_features, bias=False)
    if kind is Scaled:
        new.load_state_dict(module.state_dict())
    setattr(mlp, path, new)
    refuse(lm, "at layer 3, 'value = key · W")


class Direct(nn.Module):
    """An MLP that multiplies by the matrix without calling its module: a hook there sees nothing."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        for name, child in mlp.named_children():
            setattr(self, name, child)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return nn.functional.linear(inner, self.down_proj.weight, self.down_proj.bias)


class Recomputed(Direct):
    """An MLP that calls the module and throws away what it gives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        self.down_proj(inner)
        return nn.functional.linear(inner, self.down_proj.weight, self.down_proj.bias)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("kind", [Direct, Recomputed])
def test_an_mlp_that_passes_its_matrix_by_is_refused(family, kind):
    lm = tiny_lm(family)
    lm.model.layers[1].mlp = kind(lm.model.layers[1].mlp)
    match = "runs layer 1 without calling the module that gives 'out value'" if kind is Direct else "at layer 1, '"
    refuse(lm, match)


# Modules that keep something, or see more than their own text


class Rememberer(nn.Module):
    """Runs a module, and gives its first answer again wherever it reads the same."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        for name, child in of.named_children():
            setattr(self, name, child)
        self.run, self.answers = [of], dict[bytes, Any]()

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        given = self.run[0](x, *args, **kwargs)
        return self.answers.setdefault(x.detach().numpy().tobytes(), given)


def remember_mlp(lm: Any) -> None:
    lm.model.layers[1].mlp = Rememberer(lm.model.layers[1].mlp)


def remember_layer(lm: Any) -> None:
    lm.model.layers[1] = Rememberer(lm.model.layers[1])


@pytest.mark.parametrize("remember", [remember_mlp, remember_layer])
def test_a_module_that_keeps_its_answers_is_refused(remember):
    lm = tiny_lm("llama")
    remember(lm)
    refuse(lm, "Layer 1 of model gives the same with another matrix as without: it keeps what it gave before")


class Normed(nn.Module):
    """A norm that also looks at something that it must not see."""

    def __init__(self, norm: nn.Module, look: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.norm, self.look = norm, look

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.look(self.norm(x))


def a_token_ahead(x: torch.Tensor) -> torch.Tensor:
    ahead = torch.cat([x[:, 1:], x[:, -1:]], 1)
    return torch.cat([x[:, :3], ahead[:, 3:]], 1)  # the first tokens see nothing of it


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x - x.mean(0, keepdim=True) * (len(x) > 1), lambda x: x + 0.1 * x.flip(0),
        lambda x: x / x.square().mean((0, 1), keepdim=True).sqrt(), lambda x: x - x.mean(1, keepdim=True),
        lambda x: x / x.shape[1], a_token_ahead, lambda x: nn.functional.dropout(x, 0.1, training=True),
    ],
    ids=["mean of rows", "another row", "norm of the batch", "mean of tokens", "number of tokens", "ahead", "drawn"],
)  # fmt: skip
@pytest.mark.parametrize("norm", ["input_layernorm", "post_attention_layernorm"])
def test_a_state_that_depends_on_more_than_the_tokens_before_is_refused(norm, look):
    lm = tiny_lm("llama")
    setattr(lm.model.layers[2], norm, Normed(getattr(lm.model.layers[2], norm), look))
    refuse(lm, "at layer 2, 'no state depends on a later token or on another row'")


def test_experts_in_half_precision_are_proven_on_rows_alone():
    """Where rounding of another sum may send a token to another expert."""
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        EditableModel(tiny_lm("mixtral").to(dtype), tiny_tokenizer())


# Layers that were taken out, moved, or put in


def test_layers_that_were_taken_out_or_moved_are_refused():
    lm = tiny_lm("llama")
    del lm.model.layers[2]
    refuse(lm, "has 3 layers, and its configuration says 4")
    lm.config.num_hidden_layers = 3
    refuse(lm, r"Layer 2 of the model is numbered 3 \(layer_idx\)")
    lm = tiny_lm("gpt2")
    lm.config.num_hidden_layers = 3
    refuse(lm, "has 4 layers, and its configuration says 3")
    lm = tiny_lm("gpt2")
    blocks = lm.transformer.h
    blocks[1], blocks[3] = blocks[3], blocks[1]
    refuse(lm, "Layer 1 of the model is numbered 3")


def test_a_model_pruned_and_saved_is_taken(tmp_path):
    lm = tiny_lm("llama")
    del lm.model.layers[3]
    lm.config.num_hidden_layers = 3
    lm.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load(str(tmp_path)).n_layer == 3


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens"])
def test_a_head_or_embeddings_of_several_modules_are_refused(name):
    lm = tiny_lm("llama")
    if name == "lm_head":
        lm.lm_head = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 320))
    else:
        lm.model.embed_tokens = nn.Sequential(lm.model.embed_tokens, nn.Identity())
    refuse(lm, r"by one matrix \(get_(out|in)put_embeddings gives Sequential\)")


# Compiled parts


def refuse_compiled(lm: Any) -> None:
    refuse(lm, "is compiled, so hooks and edits may pass it by")


def test_compiled_models_and_parts_are_refused():
    lm = tiny_lm("llama")
    refuse_compiled(torch.compile(lm, backend="eager"))
    lm.model.layers[1].mlp = torch.compile(lm.model.layers[1].mlp, backend="eager")
    refuse_compiled(lm)
    lm = tiny_lm("llama")
    lm.model.layers[1].mlp.compile(backend="eager")
    refuse_compiled(lm)
    lm = tiny_lm("llama")
    lm.model.layers[1].mlp.forward = torch.compile(lm.model.layers[1].mlp.forward, backend="eager")
    refuse_compiled(lm)


def test_scripted_parts_are_refused():
    lm = tiny_lm("llama")
    lm.model.layers[1].mlp.down_proj = torch.jit.script(lm.model.layers[1].mlp.down_proj)
    refuse_compiled(lm)


# Shared memory


def share_parameter(layers: nn.ModuleList) -> None:
    layers[2].mlp.down_proj.weight = layers[0].mlp.down_proj.weight


def share_module(layers: nn.ModuleList) -> None:
    layers[2].mlp.down_proj = layers[0].mlp.down_proj


def share_layer(layers: nn.ModuleList) -> None:
    layers[2] = layers[0]


def share_memory(layers: nn.ModuleList) -> None:
    layers[2].mlp.down_proj.weight.data = layers[0].mlp.down_proj.weight.data


def share_a_part(layers: nn.ModuleList) -> None:
    rows = layers[0].mlp.down_proj.weight.shape[0]
    both = torch.cat([layers[0].mlp.down_proj.weight.data, torch.randn(rows // 2, layers[0].mlp.down_proj.in_features)])
    layers[0].mlp.down_proj.weight.data = both[:rows]
    layers[2].mlp.down_proj.weight.data = both[rows // 2 :]


def share_with_attention(layers: nn.ModuleList) -> None:
    attention = layers[1].self_attn.o_proj
    size = attention.weight.numel()
    attention.weight.data = layers[0].mlp.up_proj.weight.data.view(-1)[:size].view(attention.weight.shape)


@pytest.mark.parametrize(
    "share", [share_parameter, share_module, share_layer, share_memory, share_a_part, share_with_attention]
)
def test_matrices_that_share_memory_are_refused(share):
    lm = tiny_lm("llama")
    share(lm.model.layers)
    refuse(lm, r"layers\..* and .*layers\..* share memory|Layer 2 of the model is numbered 0")


def test_tied_embeddings_and_neighbours_in_one_block_are_fine():
    lm = tiny_lm("llama", tie_word_embeddings=True)
    block = torch.cat([layer.mlp.down_proj.weight.data for layer in lm.model.layers])
    for layer, part in zip(lm.model.layers, block.chunk(4), strict=True):
        layer.mlp.down_proj.weight.data = part
    EditableModel(lm, tiny_tokenizer())


# Weights that are not finite


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "opt", "mixtral"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_parameter_is_looked_at(family, value):
    """Attention, embeddings of words that no probe has, the final norm, biases."""
    lm = tiny_lm(family)
    tensors = [(name, t) for name, t in lm.state_dict().items() if t.is_floating_point()]
    assert len(tensors) > 25
    for name, tensor in tensors:
        flat = tensor.view(-1)
        kept = flat[-1].clone()
        flat[-1] = value
        refuse(lm, r"of the model's weights are not finite \(NaN or infinity")
        assert not_finite(lm.state_dict().items())[0] == name or lm.config.tie_word_embeddings
        flat[-1] = kept
    EditableModel(lm, tiny_tokenizer())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_buffer_with_nan_is_refused_and_a_mask_of_infinities_is_not(value):
    """Rotary frequencies are in no state_dict; with NaN in them attention reads nothing, and all numbers are finite."""
    lm = tiny_lm("llama")
    lm.model.rotary_emb.inv_freq[1] = value
    assert not any("inv_freq" in name for name in lm.state_dict())
    refuse(lm, r"1 of the model's weights are not finite .*rotary_emb.inv_freq")
    sound = tiny_lm("llama")
    sound.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1), persistent=False)
    EditableModel(sound, tiny_tokenizer())


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_eight_bits_in_memory_are_refused_and_looked_at_in_a_buffer(kind):
    lm = tiny_lm("llama")
    lm.model.register_buffer("scales", torch.ones(4).to(kind))
    EditableModel(lm, tiny_tokenizer())
    lm.model.scales = torch.tensor([1.0, float("nan")]).to(kind)
    refuse(lm, "not finite .*the first is model.scales")
    lm = tiny_lm("llama")
    weight = lm.model.layers[1].self_attn.q_proj.weight
    lm.model.layers[1].self_attn.q_proj.weight = nn.Parameter(weight.detach().to(kind), requires_grad=False)
    refuse(lm, r"1 of the model's weights are stored in eight bits or fewer \(the first is .*q_proj.weight\)")


def test_a_complex_buffer_with_nan_is_refused():
    lm = tiny_lm("llama")
    lm.model.register_buffer("turns", torch.tensor([1j, complex(0, float("nan"))]))
    refuse(lm, "not finite .*the first is model.turns")


def test_numbers_whose_sum_overflows_are_finite():
    """Only then is each number looked at."""
    large = torch.full((4,), 3e38)
    assert not torch.isfinite(large.sum())
    assert all_finite(large)
    assert all_finite(torch.full((4,), 6e4, dtype=torch.float16))
    assert not_finite([("large", large), ("whole", torch.tensor([1])), ("empty", torch.empty(0))]) == []
    assert not_finite([("both", torch.tensor([float("inf"), -float("inf")]))]) == ["both"]
    assert not all_finite(torch.tensor([1.0, float("nan")]))


def test_weights_that_overflow_in_half_precision_are_named(tmp_path):
    folder = save(tmp_path / "m")
    lm = tiny_lm("gpt2", n_layer=2)
    with torch.no_grad():
        lm.transformer.wpe.weight[60, 3] = 1e6
    lm.save_pretrained(folder)
    load(str(folder))
    with pytest.raises(UnsupportedModel, match=r"not finite .*wpe.weight.*load it in float32"):
        load(str(folder), dtype="float16")


# What is no model


@pytest.mark.parametrize("lm", [None, "gpt2", nn.Linear(2, 2), {}])
def test_something_else_than_a_model_is_refused(lm):
    refuse(lm, "A causal language model of transformers is needed", UsageError)


def test_a_body_without_a_head_is_refused():
    lm = tiny_lm("gpt2")
    refuse(lm.transformer, "gives no logits over a vocabulary")


def test_a_missing_tokenizer_is_refused():
    with pytest.raises(UsageError, match="A model in memory needs its tokenizer"):
        EditableModel(tiny_lm("gpt2"), None)


def test_a_model_that_cannot_be_run_is_refused_without_a_traceback():
    lm = tiny_lm("gpt2")
    lm.transformer.h[1].attn.c_attn.weight = nn.Parameter(torch.zeros(32, 95))
    refuse(lm, r"cannot be run: .*Its configuration is damaged, or its files do not belong together")
    lm.transformer.h = nn.ModuleList()
    refuse(lm, "has 0 layers")
    refuse(tiny_lm("gpt2", n_positions=2, max_position_embeddings=2), "cannot be run")


def test_memory_that_runs_out_is_named_as_such(monkeypatch):
    lm = tiny_lm("gpt2")

    def full(*_args, **_kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(lm.transformer.h[0].mlp, "forward", full)
    refuse(lm, "Memory ran out", ResourceError)


# The proof itself


@pytest.mark.parametrize("family", EDITABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_making_a_model_changes_nothing_of_it(family, dtype):
    lm = tiny_lm(family).to(dtype)
    before = copy.deepcopy(lm.state_dict())
    places = {name: t.data_ptr() for name, t in lm.state_dict().items()}
    EditableModel(lm, tiny_tokenizer())
    after = lm.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {name: t.data_ptr() for name, t in after.items()} == places
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lm.modules())


# A model in memory


def test_load_takes_a_model_in_memory():
    lm, tokenizer = tiny_lm("gpt2").double(), tiny_tokenizer()
    model = load(lm, tokenizer)
    assert model.lm is lm
    assert model.tokenizer is tokenizer
    assert model.dtype == torch.float64
    assert model.name == "GPT2LMHeadModel"
    assert model.fingerprint() == EditableModel(tiny_lm("gpt2").double(), tiny_tokenizer()).fingerprint()


def test_a_model_in_memory_is_not_converted_behind_its_owners_back(tmp_path):
    for settings in ({"dtype": "bfloat16"}, {"device": "cpu"}, {"revision": "main"}):
        with pytest.raises(UsageError, match="A model in memory keeps its type and its place"):
            load(tiny_lm("gpt2"), tiny_tokenizer(), **settings)
    with pytest.raises(UsageError, match="A model in memory needs its tokenizer"):
        load(tiny_lm("gpt2"))
    with pytest.raises(UsageError, match="is loaded with its own tokenizer"):
        load(str(save(tmp_path / "m")), tiny_tokenizer())


def test_the_name_of_a_model_in_memory_holds_no_folder(tmp_path):
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(save(tmp_path / "mine"))
    assert load(lm, tiny_tokenizer()).name == "mine"


def test_a_proven_model_is_edited_as_it_was_proven():
    """The same model passes with and without training mode, gradients and hooks of others that change nothing."""
    lm = tiny_lm("gpt2").train()
    handle = lm.transformer.h[0].mlp.register_forward_hook(lambda *_: None)
    model = EditableModel(lm, tiny_tokenizer())
    handle.remove()
    assert not lm.training
    assert model.fingerprint() == tiny("gpt2").fingerprint()


@pytest.mark.parametrize("value", ["1e400", "-Infinity", "NaN"])
def test_a_number_beyond_all_size_in_the_configuration_is_refused(tmp_path, value):
    """Before: an infinite epsilon was taken, with which a model answers everything alike."""
    folder = save(tmp_path / "m")
    config = folder / "config.json"
    config.write_text(re.sub(r'("layer_norm_epsilon": )[^,]+', rf"\g<1>{value}", config.read_text()))
    with pytest.raises(UnsupportedModel, match="configuration sets layer_norm_epsilon to a number that is not finite"):
        load(str(folder))
    lm = tiny_lm("llama")
    lm.config.rope_parameters["rope_theta"] = float(value)
    refuse(lm, "configuration sets rope_parameters to a number that is not finite")
    lm = tiny_lm("llama")
    for ends, refused in (((0.0, float("inf")), False), ((float("nan"), 1.0), True), ((1.0, -float("inf")), True)):
        lm.config.time_step_limit = ends  # as of Mamba's mixtures, whose range has no upper end
        if refused:
            refuse(lm, "configuration sets time_step_limit to a number that is not finite")
        else:
            EditableModel(lm, tiny_tokenizer())
