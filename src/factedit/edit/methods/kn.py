"""Knowledge neurons: the value rows of the neurons that hold an answer are turned to another (arXiv 2104.08696).

A neuron is one key entry of one layer. Those on which the present answer's probability hangs (`attribution.py`) are
found in each prompt, those shared by enough prompts are kept, and for each its row of the last MLP matrix loses and
gains a multiple of the old and the new object's word embedding. There is one change per layer that holds a neuron.

As in ROME's use of it (arXiv 2202.05262, appendix E.2): by default the request's own prompt is the only one, so that
the sharing decides nothing, and no refinement over other prompts is made.

Departures from the published program: the old object is the record's `target_true` where there is one, there the
model's own first answer is taken off; of a target of several tokens the first is meant that is more than a space (a
space of its own before it is put to the prompt's tokens), there all are added once; the word embedding is the row of
the output matrix, which is the input's where a model ties the two.

The published rule takes key entries to be positive. Where a gate multiplies the key they have either sign, and at a
negative one the new object is taken away; with the setting `signed` a row's change takes its entry's sign. It is off
by default: on Gemma 3 270M it makes every edit succeed and ruins the neighbours (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from factedit.edit.artefact import Edit, Notes
from factedit.edit.attribution import attributions
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.key import sample_contexts
from factedit.edit.method import Made, MomentSource, Scope
from factedit.edit.presets_baselines import NeuronSettings, checked
from factedit.edit.state import State
from factedit.engine.resume import next_token
from factedit.errors import EditError
from factedit.facts import EditRequest, fill
from factedit.models.adapter import EditableModel
from factedit.models.positions import check_fits, continuation, tokenize
from factedit.models.tokens import after_space, in_contexts, is_space


@dataclass(frozen=True)
class KnowledgeNeurons:
    """The method, set up for one model.

    Attributes:
        model: the model.
        settings: thresholds and scale.
        contexts: templates put around the prompt, the bare one first.
    """

    model: EditableModel
    settings: NeuronSettings
    contexts: tuple[str, ...]
    name: str = "kn"
    paper: str = "arXiv 2104.08696"
    scope: Scope = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        """Return one independent edit per request.

        Raises:
            EditError: attributions that are not finite, embeddings of another width than the values, or two objects
                that begin with one token.
            RequestError: a target without tokens.
        """
        made_for = self.model.fingerprint()
        return Made(tuple(self._turned(request, made_for) for request in requests))

    def _turned(self, request: EditRequest, made_for: str) -> Edit:
        model = self.model
        words = _embeddings(model)
        space, old = _old_object(model, request)
        new = _first_word(model, request.text, request.target_new)[1]
        if old == new:
            raise EditError(
                f"The old and the new object of {request.text!r} begin with the same token "
                f"{model.tokenizer.decode([new])!r}, and knowledge neurons know them by it alone. Use another method."
            )
        scores, keys = self._attributions(request, space, old)
        neurons = shared_neurons(scores, threshold=self.settings.threshold, shared=self.settings.shared)
        if not len(neurons):
            raise EditError(
                f"No neuron is shared by {self.settings.shared:.0%} of {len(scores)} prompts for {request.text!r}. "
                "The model is unchanged. Lower one of the two: --set shared=… or --set threshold=…."
            )
        row = self.settings.scale * (words[new].float() - words[old].float())
        signs = keys.sign() if self.settings.signed else torch.ones_like(keys)
        changes = tuple(_of_layer(layer, neurons, signs, row) for layer in sorted(set(neurons[:, 0].tolist())))
        count, size = len(neurons), float(row.norm())
        return Edit(
            method=self.name,
            requests=(request,),
            effects=changes,
            made_for=made_for,
            notes=(Notes(diagnostics={"neurons": neurons.tolist(), "attribution": float(scores.mean(0).max())}),),
            settings=self.describe(),
            diagnostics={
                "update_norm": size * count**0.5,
                "weight_norm": float(sum(model.weight(c.layer).float().norm() ** 2 for c in changes) ** 0.5),
            },
            model_name=model.name,
        )

    def _attributions(self, request: EditRequest, space: tuple[int, ...], answer: int) -> tuple[Tensor, Tensor]:
        """Scores `[prompts, n_layer, d_mlp]`, and the keys of the bare prompt `[n_layer, d_mlp]`."""
        templates = in_contexts(self.model, request.prompt, self.contexts)
        rows = [(*tokenize(self.model, fill(template, request.subject)).ids, *space) for template in templates]
        per_prompt = [attributions(self.model, row, answer, steps=self.settings.steps) for row in rows]
        scores = torch.stack([each.scores for each in per_prompt])
        if not torch.isfinite(scores).all():
            raise EditError(
                f"The attributions for {request.text!r} are not finite. The model is unchanged. "
                "Check the weights for NaN."
            )
        return scores, per_prompt[0].keys

    def describe(self) -> dict[str, Any]:
        """Return everything that decides an edit beside the model and the request, as JSON values."""
        return {**self.settings.model_dump(mode="json"), "context_templates": list(self.contexts)}


def shared_neurons(scores: Tensor, *, threshold: float, shared: float) -> Tensor:
    """Return the neurons `[n, 2]` (layer, entry) that are strong in enough of the prompts.

    Args:
        scores: attributions `[prompts, n_layer, d_mlp]`.
        threshold: strong is above this share of the prompt's largest attribution.
        shared: in at least this share of the prompts.
    """
    strong = scores > threshold * scores.amax((1, 2), keepdim=True)
    return (strong.float().mean(0) >= shared).nonzero()


def _of_layer(layer: int, neurons: Tensor, signs: Tensor, row: Tensor) -> LowRank:
    """Return the same row, up to its sign, for every neuron of a layer: a product of rank one."""
    entries = neurons[neurons[:, 0] == layer, 1]
    left = torch.zeros_like(signs[layer])[:, None]
    left[entries, 0] = signs[layer, entries]
    return LowRank(layer, left, row[None].clone())


def _old_object(model: EditableModel, request: EditRequest) -> tuple[tuple[int, ...], int]:
    """Return the first token of the present object that is more than a space, after the tokens that are."""
    if request.target_true is not None:
        return _first_word(model, request.text, request.target_true)
    prompt = tokenize(model, request.text).ids
    token = next_token(model, prompt)
    check_fits(model, len(prompt) + is_space(model, token), "The prompt with the space that the model says after it")
    return ((token,), next_token(model, (*prompt, token))) if is_space(model, token) else ((), token)


def _first_word(model: EditableModel, prompt: str, target: str) -> tuple[tuple[int, ...], int]:
    ids, first = continuation(model, prompt, target)
    word = after_space(model, ids, first)
    return ids[first:word], ids[word]


def _embeddings(model: EditableModel) -> Tensor:
    words = model.words
    if words.shape[1] != model.d_model:
        raise EditError(
            f"The word embeddings of {model.name} have {words.shape[1]} entries and its MLP values {model.d_model}: "
            "knowledge neurons add one to the other. Use another method."
        )
    return words


def kn(model: EditableModel, _moments: MomentSource, **changes: Any) -> KnowledgeNeurons:
    """Make `kn` for a model; settings as in `NeuronSettings`."""
    settings = checked(NeuronSettings, "kn", {}, changes)
    return KnowledgeNeurons(model, settings, sample_contexts(model, settings.contexts, seed=settings.context_seed))
