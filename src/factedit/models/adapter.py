"""A causal language model and its tokenizer in the field's terms.

`EditableModel` is what the rest of factedit sees of a model: layers, keys, values, contributions and the
edited matrix `W [d_mlp -> d_model]`, whatever the architecture calls them and however it stores them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from factedit.errors import UsageError
from factedit.models.changes import Changes
from factedit.models.check import prove_family
from factedit.models.expert_matrix import ExpertMatrix, check_expert
from factedit.models.experts import Mixture
from factedit.models.families import CONTRIBUTIONS as CONTRIBUTIONS
from factedit.models.families import MATRICES, SHARED, Family, MatrixName, matrix_name, no_matrix, split_name
from factedit.models.families import Contribution as Contribution
from factedit.models.family_table import family_of, model_types_of
from factedit.models.fingerprint import Fingerprint, setup_of
from factedit.models.matrix import Matrix, MatrixHook, ValueHook
from factedit.models.places import LayerPlaces, places_in, watched_terms
from factedit.models.sound import has_submodule, layers_at, refuse_settings, refuse_unknown_storage, refuse_unsound


class EditableModel:
    """A causal language model, its tokenizer, and where its facts can be read and changed.

    Making one proves that it is read rightly and that an edit would act (`sound.py`, `check.py`): two forward passes
    of three tokens, and one pass over the weights.

    Hooks are context managers and are gone when the `with` block ends, also after an exception.
    One `EditableModel` serves one thread at a time.

    Args:
        model: a `transformers` causal language model; used as it is, switched to evaluation mode.
        tokenizer: its fast tokenizer (character offsets are needed).
        name: how to call it in results.
        family: the row to read it by, where the table has none for it; it is proven like any other.

    Attributes:
        n_layer, d_model, d_mlp, vocab: the sizes.
        family: the row of `family_table.py`.
        places: per layer what it has of the row.
        body: the module that owns the list of layers.
        changes: what `with_weight` has put on now.

    Raises:
        UsageError: something else than a model and its tokenizer.
        UnknownName: the architecture has no row.
        UnsupportedModel: weights that are not finite, offloaded, quantised, computed from others, or shared between
            layers; a compiled or wrapped model; a slow tokenizer; or a model that does not fit its row.
        ResourceError: memory ran out.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str = "model", family: Family | None = None) -> None:
        self.lm, self.tokenizer, self.name = model, tokenizer, name
        self._refuse(model, tokenizer)
        self.family: Family = family or family_of(*model_types_of(model.config.to_dict()))
        refuse_settings(model.config, self.family)
        self.body, self.layers = layers_at(model.eval(), self.family.layers)
        self.n_layer = len(self.layers)
        self.places: list[LayerPlaces] = [places_in(self.family, layer) for layer in self.layers]
        self._mixtures = {n: self._mixture(n) for n in range(self.n_layer) if self._has_experts(n)}
        self.d_model = int(model.config.get_text_config().hidden_size)
        self.vocab: int = model.get_output_embeddings().weight.shape[0]
        self._weights = Fingerprint(model, self._all_tensors if self.fetched else None)
        self._known: str | None = None  # the fingerprint inside `unchanged` ("" until it is asked for)
        self.changes = Changes()
        self._check()

    def _refuse(self, model: Any, tokenizer: Any) -> None:
        refuse_unsound(model, tokenizer, self._all_tensors if self.fetched else None)

    def _check(self) -> None:
        """Refuse what does not fit its family."""
        refuse_unknown_storage(self.lm, [m for layer in range(self.n_layer) for m in self.matrices_of(layer)])
        prove_family(self)

    # -- sizes, places -----------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the token embeddings live."""
        return self.lm.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the token embeddings."""
        return self.lm.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    @property
    def d_mlp(self) -> int:
        """The width of the keys of the lowest layer that can be edited; see `MLP.width` of other layers where they
        differ.

        Raises:
            UnsupportedModel: none can.
        """
        there = (n for n, places in enumerate(self.places) if places.matrices or n in self._mixtures)
        return self.mlp(next(there, 0)).width

    @property
    def context_length(self) -> int:
        """How many tokens the model was made for."""
        return int(getattr(self.lm.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)

    def check_layer(self, layer: int) -> int:
        """Return the layer, if the model has it.

        Raises:
            UsageError: naming the layers there are.
        """
        if not 0 <= layer < self.n_layer:
            raise UsageError(f"Layer {layer} was asked for; {self.name} has layers 0 to {self.n_layer - 1}.")
        return layer

    def mlp(self, layer: int) -> Matrix | Mixture:
        """Return what stores a layer's facts: the last matrix of its MLP, or all its experts as one.

        Raises:
            UnsupportedModel: it cannot be edited.
        """
        return self.mixture(layer) or self.matrix(layer)

    def mixture(self, layer: int) -> Mixture | None:
        """Return a layer's experts; None where it has one MLP."""
        return self._mixtures.get(self.check_layer(layer))

    def _has_experts(self, layer: int) -> bool:
        return bool(self.family.experts) and has_submodule(self.layers[layer], self.family.experts)

    def _mixture(self, layer: int) -> Mixture:
        return Mixture(layer, self.layers[layer], self.family, f"{self.family.layers}.{layer}")

    def matrix(self, layer: int, which: MatrixName = "out") -> Matrix:
        """Return one of the MLP's matrices in a layer: the edited one, unless another is asked for.

        Args:
            layer: which layer.
            which: `out`, the last matrix; `in`, the one that reads the hidden state; `gate`. Of an expert with its
                number, `out.5`; of the one that gets every token `out.shared`.

        Raises:
            UsageError: no such name, or none of an expert where the layer has experts.
            UnsupportedModel: the layer's MLP cannot be edited, or has no such matrix.
        """
        self.family.check_edited(self.name)
        owner, (kind, expert), mixture = self.layers[self.check_layer(layer)], split_name(which), self.mixture(layer)
        prefix, paths = f"{self.family.layers}.{layer}", self.family.paths(kind)
        check_expert(self.name, self.family, layer, which, mixture)
        if mixture is not None and expert != SHARED:
            return ExpertMatrix.of(mixture, which, f"{prefix}.{self.family.experts}")
        if expert == SHARED:
            path = f"{self.family.shared}.{paths[0].rpartition('.')[2]}"
        else:
            path = next((p for p in paths if p in self.places[layer].matrices.values()), "")
        if not path or not has_submodule(owner, path):
            raise no_matrix(self.family, layer, which)
        name = f"{prefix}.{path}.weight"
        in_out = self.family.stored_in_out and expert != SHARED  # a shared expert is an MLP of plain matrices
        return Matrix((layer, which), owner.get_submodule(path), name, in_out, owner)

    def matrices_of(self, layer: int) -> list[Matrix]:
        """Return the matrices of a layer's MLP that an edit may touch, those of all its experts."""
        if self.family.refused:
            return []
        kinds = [w for w in MATRICES if w != "gate" or self.family.matrix_gate]
        mixture = self.mixture(layer)
        if mixture is None:
            return [self.matrix(layer, which) for which in self.places[layer].matrices]
        routed = [matrix_name(kind, e) for kind in kinds if kind != "gate" for e in range(mixture.count)]
        shared = [matrix_name(kind, SHARED) for kind in kinds if mixture.shared]
        return [self.matrix(layer, which) for which in (*routed, *shared)]

    def weight(self, layer: int, which: MatrixName = "out") -> Tensor:
        """Return the edited matrix W `[d_mlp, d_model]` (`in`, `gate`: `[d_model, d_mlp]`): a view of the model's
        memory.
        """
        return self.matrix(layer, which).values

    @property
    def words(self) -> Tensor:
        """The output matrix `[vocab, d_model]`: a view of the model's memory."""
        return self.lm.get_output_embeddings().weight.detach()  # type: ignore[no-any-return]

    def tensor(self, name: str) -> Tensor:
        """Return a parameter or buffer by its name in the model's `state_dict`: a view of the model's memory."""
        owner, _, key = name.rpartition(".")
        return getattr(self.lm.get_submodule(owner), key).detach()  # type: ignore[no-any-return]

    def _all_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name in sorted(self.lm.state_dict(keep_vars=True)):
            yield name, self.tensor(name)

    # -- hooks -------------------------------------------------------------------------------------

    fetched = False  # weights lie elsewhere, or in parts, until they are asked for (`tensor`)
    streamed = False  # layers are read from disk when they are run (`streamed.py`)

    @contextmanager
    def present(self, layer: int, then: int | None = None) -> Iterator[None]:
        """Inside, a layer's weights are in memory, where they always are; `then` is the layer that comes next."""
        yield

    def let_go(self) -> None:
        """Give back the memory of a layer that was read from disk and is not needed for now, if there is one."""

    @contextmanager
    def on_output(self, kind: Contribution, layer: int, hook: ValueHook) -> Iterator[None]:
        """See, or replace, what the residual receives from attention or MLP.

        Args:
            kind: `"attn"` or `"mlp"`.
            layer: which layer.
            hook: gets the contribution `[batch, tokens, d_model]`; a tensor it returns takes its place.
        """
        self.check_layer(layer)
        with watched_terms(self.layers[layer], self.places[layer].contributions[kind], hook):
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
        with self.matrix(layer, which).watched(hook):
            yield

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no parameter ask for a gradient inside; on leaving each is as it was."""
        asking = [name for name, p in self.lm.named_parameters() if p.requires_grad]
        for name in asking:
            self.lm.get_parameter(name).requires_grad_(False)
        try:
            yield
        finally:
            for name in asking:  # another object may stand there by now (`placed.py`)
                self.lm.get_parameter(name).requires_grad_(True)

    # -- change and identity -----------------------------------------------------------------------

    @contextmanager
    def with_weight(self, layer: int, weight: Tensor, which: MatrixName = "out") -> Iterator[None]:
        """Yield the model with another matrix `[d_in, d_out]` at a layer; the same bits as before on leaving.

        Raises:
            EditError: the new matrix holds values that are not finite, or has another shape.
        """
        with self._knowing(self._known and ""), self.changes.plus(self.matrix(layer, which), weight):
            yield

    @contextmanager
    def with_first_changes(self, count: int) -> Iterator[None]:
        """Yield the model as it was when it had so many changes; the later ones are on again on leaving."""
        with self._knowing(self._known and ""), self.changes.first(count):
            yield

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let nobody but factedit's own contexts change a weight inside, so that the fingerprint is taken once."""
        with self._knowing(""):
            yield

    @contextmanager
    def _knowing(self, fingerprint: str | None) -> Iterator[None]:
        """Inside, the fingerprint is this one; "" until it is asked for, None never without asking."""
        before, self._known = self._known, fingerprint
        try:
            yield
        finally:
            self._known = before

    def fingerprint(self) -> str:
        """Return a hash of all weights (names, types, shapes, bits): sha256, 64 hexadecimal digits."""
        if self._known:
            return self._known
        now = self._weights.now()
        if self._known is not None:
            self._known = now
        return now

    def type_with(self, fingerprint: str) -> str:
        """Return another type in which these weights have a fingerprint; empty where there is none."""
        return self._weights.type_with(fingerprint, self.dtype)

    def setup_fingerprint(self) -> str:
        """Return a hash of what decides the numbers beside the weights; see `setup_of`."""
        return setup_of(self.lm.config, self.tokenizer)
