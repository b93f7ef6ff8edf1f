"""A causal language model and its tokenizer in the field's terms.

`EditableModel` is what the rest of factedit sees of a model: layers, keys, values, contributions and the
edited matrix `W [d_mlp -> d_model]`, whatever the architecture calls them and however it stores them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from factedit.errors import EditError, UnsupportedModel, UsageError
from factedit.files.tokenizer_check import refuse_sampling
from factedit.models.families import Family, MatrixName, family_of

Contribution = Literal["attn", "mlp"]
CONTRIBUTIONS: tuple[Contribution, ...] = ("attn", "mlp")
OutputHook = Callable[[Tensor], Tensor | None]
MatrixHook = Callable[[Tensor, Tensor], Tensor | None]
TOKEN_RULES = 2  # of positions.py; raised when the same text and tokenizer give other positions than before


class EditableModel:
    """A causal language model, its tokenizer, and where its facts can be read and changed.

    Hooks are context managers and are gone when the `with` block ends, also after an exception.
    One `EditableModel` serves one thread at a time.

    Args:
        model: a `transformers` causal language model; used as it is, switched to evaluation mode.
        tokenizer: its fast tokenizer (character offsets are needed).
        name: how to call it in results.

    Attributes:
        n_layer, d_model, d_mlp, vocab: the sizes.
        family: the row of `families.py`.
        body: the module that owns the list of layers.

    Raises:
        UnknownName: the architecture has no row.
        UnsupportedModel: offloaded or quantised weights; a slow tokenizer, or one that cuts texts at random.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model") -> None:
        self.lm, self.tokenizer, self.name = model.eval(), tokenizer, name
        self.family: Family = family_of(model.config.model_type)
        _refuse_unsound(model, tokenizer)
        self.body: nn.Module = model.get_submodule(self.family.layers.rpartition(".")[0])
        self.layers: list[nn.Module] = list(model.get_submodule(self.family.layers))
        self.n_layer = len(self.layers)
        self.d_model = int(model.config.get_text_config().hidden_size)
        self.vocab: int = model.get_output_embeddings().weight.shape[0]

    # -- sizes, places -----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the token embeddings live."""
        return self.lm.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the token embeddings."""
        return self.lm.get_input_embeddings().weight.dtype

    @property
    def d_mlp(self) -> int:
        """The width of the keys."""
        return self.weight(0).shape[0]

    @property
    def context_length(self) -> int:
        """How many tokens the model was made for."""
        return int(getattr(self.lm.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)

    def check_layer(self, layer: int) -> int:
        """The layer, if the model has it.

        Raises:
            UsageError: naming the layers there are.
        """
        if not 0 <= layer < self.n_layer:
            raise UsageError(f"Layer {layer} was asked for; {self.name} has layers 0 to {self.n_layer - 1}.")
        return layer

    def matrix(self, layer: int, which: MatrixName = "out") -> nn.Module:
        """The module of one of the MLP's matrices in a layer: the edited one, unless another is asked for.

        Args:
            layer: which layer.
            which: `out`, the last matrix; `in`, the one that reads the hidden state; `gate`.

        Raises:
            UnsupportedModel: the layer's MLP is a mixture of stacked experts, or has no such matrix.
        """
        if self.family.experts:
            raise UnsupportedModel(
                f"{self.name} ({self.family.name}) cannot be edited: {self.family.experts}. "
                "It can be traced; for an edit choose a model with one MLP per layer."
            )
        return self.layers[self.check_layer(layer)].get_submodule(self.family.path(which))

    def parameter(self, layer: int, which: MatrixName = "out") -> nn.Parameter:
        """The parameter that stores the edited matrix, in the model's own orientation."""
        return self.matrix(layer, which).weight  # type: ignore[return-value]

    def parameter_name(self, layer: int, which: MatrixName = "out") -> str:
        """The name of that parameter, as the model's `state_dict` has it."""
        self.parameter(layer, which)
        return f"{self.family.layers}.{layer}.{self.family.path(which)}.weight"

    def weight(self, layer: int, which: MatrixName = "out") -> Tensor:
        """The edited matrix W `[d_mlp, d_model]` (`in`, `gate`: `[d_model, d_mlp]`): a view of the model's memory."""
        stored = self.parameter(layer, which).detach()
        return stored if self.family.stored_in_out else stored.T

    def stored(self, weight: Tensor) -> Tensor:
        """A `[d_in, d_out]` tensor in the orientation in which the model stores it."""
        return weight if self.family.stored_in_out else weight.T

    # -- hooks -------------------------------------------------------------------------------------

    @contextmanager
    def on_output(self, kind: Contribution, layer: int, hook: OutputHook) -> Iterator[None]:
        """See, or replace, what the residual receives from attention or MLP.

        Args:
            kind: `"attn"` or `"mlp"`.
            layer: which layer.
            hook: gets the contribution `[batch, tokens, d_model]`; a tensor it returns takes its place.
        """
        path = self.family.attn_out if kind == "attn" else self.family.mlp_out
        module = self.layers[self.check_layer(layer)].get_submodule(path)
        with ExitStack() as stack:
            shape = stack.enter_context(self._shape_of(layer))

            def call(_module: nn.Module, _inputs: Any, output: Any) -> Any:
                first = output[0] if isinstance(output, tuple) else output
                new = hook(first.view(*shape, -1))
                if new is None:
                    return None
                new = new.view_as(first)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = module.register_forward_hook(call)
            stack.callback(handle.remove)
            yield

    @contextmanager
    def on_matrix(self, layer: int, hook: MatrixHook, which: MatrixName = "out") -> Iterator[None]:
        """See keys and values of a layer's edited matrix, or replace the values.

        Args:
            layer: which layer.
            hook: gets key `[batch, tokens, d_mlp]` and value `[batch, tokens, d_model]` (before any norm
                that follows); a tensor it returns takes the value's place.
            which: another matrix of the MLP; key and value are then its input and output.
        """
        matrix = self.matrix(layer, which)
        with ExitStack() as stack:
            shape = stack.enter_context(self._shape_of(layer))

            def call(_module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
                new = hook(inputs[0].view(*shape, -1), output.view(*shape, -1))
                return None if new is None else new.view_as(output)

            handle = matrix.register_forward_hook(call)
            stack.callback(handle.remove)
            yield

    @contextmanager
    def _shape_of(self, layer: int) -> Iterator[list[int]]:
        """`[batch, tokens]` of the layer's present call: some families flatten tokens inside a layer."""
        shape: list[int] = []

        def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            shape[:] = hidden.shape[:2]

        handle = self.layers[layer].register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield shape
        finally:
            handle.remove()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No parameter asks for a gradient inside; on leaving each is as it was."""
        asking = [p for p in self.lm.parameters() if p.requires_grad]
        for parameter in asking:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)

    # -- change and identity -----------------------------------------------------------------------

    @contextmanager
    def with_weight(self, layer: int, weight: Tensor, which: MatrixName = "out") -> Iterator[None]:
        """The model with another matrix `[d_in, d_out]` at a layer; the same bits as before on leaving.

        Raises:
            EditError: the new matrix holds values that are not finite, or has another shape.
        """
        parameter = self.parameter(layer, which)
        new = self.stored(weight).to(parameter.dtype)
        if new.shape != parameter.shape:
            raise EditError(
                f"The new matrix is {tuple(weight.shape)}; "
                f"layer {layer} needs {tuple(self.weight(layer, which).shape)}."
            )
        if not torch.isfinite(new).all():
            raise EditError(
                f"The new matrix of layer {layer} holds values that are not finite; the model is unchanged."
            )
        kept = parameter.data
        parameter.data = new.to(parameter.device).contiguous()
        try:
            yield
        finally:
            parameter.data = kept

    def fingerprint(self) -> str:
        """A hash of all weights (names, types, shapes, bits): sha256, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.lm.state_dict(keep_vars=True).items()):
            flat = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
            digest.update(memoryview(flat.view(-1).view(torch.uint8).numpy()) if flat.numel() else b"")
        return digest.hexdigest()

    def setup_fingerprint(self) -> str:
        """A hash of what decides the numbers beside the weights: configuration, tokenizer and the rules of reading it.

        64 hexadecimal digits.
        """
        config = {k: v for k, v in self.lm.config.to_dict().items() if not k.startswith("_") and k not in _OF_NO_EFFECT}
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        digest.update(f"{TOKEN_RULES} {self.tokenizer.backend_tokenizer.to_str()}".encode())
        return digest.hexdigest()


_OF_NO_EFFECT = ("transformers_version", "architectures")


def _refuse_unsound(model: Any, tokenizer: Any) -> None:
    """Refuse what would be traced or edited wrongly without a word."""
    if getattr(model.config, "quantization_config", None) is not None or getattr(model, "is_quantized", False):
        raise UnsupportedModel(
            "The model's weights are quantised in place, so an edit cannot be written into them exactly. "
            "Load it in float32, bfloat16 or float16."
        )
    away = [name for name, p in model.named_parameters() if p.device.type == "meta"]
    if away:
        raise UnsupportedModel(
            f"{len(away)} weights are offloaded (the first is {away[0]}), where an edit would silently do nothing. "
            "Load the whole model into memory, in a smaller type if need be."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModel(
            f"{type(tokenizer).__name__} gives no character offsets, which finding the subject needs. "
            "Use the model's fast tokenizer (tokenizer.json)."
        )
    refuse_sampling(tokenizer.backend_tokenizer)
