"""The methods for many facts, as a user makes them, give the updates and logits of the published programs."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from torch import Tensor

from factedit.edit.artefact import Edit
from factedit.edit.method import check_made
from factedit.edit.method_table import make_method
from factedit.edit.state import State
from factedit.models.adapter import EditableModel
from factedit.stats.second_moment import SecondMoment
from many_reference import Reference, distance, reference_model, second_moment

TENSORS = 1e-3  # relative Frobenius distance
PROGRAMS = {  # the method that computes what a program does, and the settings that are not the reference's own
    "memit": ("memit", {}),
    "memit-naive": ("memit-no-history", {}),
    "memit-history": ("memit", {}),
    "memit-rect": ("memit-rect", {}),
    "emmet": ("emmet", {}),
    "emmet-weight-1": ("emmet", {}),
    "emmet-one-fact": ("emmet", {"softness": 0.0}),
    "alphaedit": ("alphaedit", {}),
    "nas": ("alphaedit-nas", {}),
    "encore": ("encore", {}),
    "pmet": ("pmet", {}),
    "memit-published-weight": ("memit", {}),
    "nse": ("nse", {}),
}
NAMES = {
    "v_num_grad_steps": "steps",
    "v_lr": "learning_rate",
    "v_weight_decay": "decay",
    "clamp_norm_factor": "clamp",
    "kl_factor": "kl",
    "mom2_update_weight": "weight",
    "emmet_lambda": "softness",
    "nullspace_threshold": "threshold",
    "L2": "l2",
    "update_norm_lambda": "damping",
    "prob_cutoff": "stop_probability",
    "alpha": "near",
    "upper_bound": "far",
    "neuron_threshold": "strongest",
}
BESIDES = {"alphaedit": {"weight"}, "nas": {"weight"}, "emmet": {"damping"}}  # in the program's file, not used by it


def moments(_model: EditableModel, layer: int) -> SecondMoment:
    return second_moment(layer)


def settings(method: str) -> dict[str, Any]:
    reference = Reference(method)
    own = {ours: reference.settings[theirs] for theirs, ours in NAMES.items() if theirs in reference.settings}
    unused = BESIDES.get(method.removesuffix("-weight-1").removesuffix("-one-fact"), set())
    own = {name: value for name, value in own.items() if name not in unused}
    if method == "encore":
        own.pop("softness", None)
    if "anchor" in reference.json:
        own["anchor"] = reference.json["anchor"]
    contexts = Reference("memit").contexts if not reference.json.get("context_types") else reference.contexts
    return {"layers": tuple(reference.layers), "context_templates": [text for c in contexts for text in c], **own}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_sequence_of_edits(program: str) -> None:
    name, besides = PROGRAMS[program]
    reference, model = Reference(program), reference_model()
    before = model.fingerprint()
    method = make_method(name, model, moments, **settings(program) | besides)
    assert method.scope == "joint"
    state: State | None = None
    compared = 0
    with ExitStack() as stack:
        for batch, facts in enumerate(reference.batches):
            requests = [reference.requests[n] for n in facts]
            made = check_made(method, requests, method.edit(requests, state))
            [edit], state = made
            for layer, delta in deltas(edit).items():
                expected = program_update(reference, batch, layer)
                if len(expected):
                    compared += 1
                    assert distance(delta, expected) < TENSORS, (batch, layer)
            stack.enter_context(edit.applied_to(model))
            logits = reference.of(batch, "logits_post")
            if len(logits):
                assert distance(reference.logits(model), logits) < TENSORS
    assert compared, "some update of every program"
    assert model.fingerprint() == before


def deltas(edit: Edit) -> dict[int, Tensor]:
    return {effect.layer: effect.delta() for effect in edit.effects}


def program_update(reference: Reference, batch: int, layer: int) -> Tensor:
    """ΔW; of one batch of MEMIT it is told in two factors. Empty where it was not kept."""
    left = reference.of(batch, f"adj_k.{layer}")
    if len(left):
        return (left @ reference.of(batch, f"resid.{layer}").T).float()
    return reference.update(batch, layer)


def test_nse_writes_the_facts_and_neurons_that_the_program_writes() -> None:
    reference, model = Reference("nse"), reference_model()
    method = make_method("nse", model, moments, **settings("nse"))
    state: State | None = None
    with ExitStack() as stack:
        for batch, step in enumerate(reference.steps):
            made = method.edit([reference.requests[n] for n in reference.batches[batch]], state)
            [edit], state = made
            assert edit.diagnostics["written_in_round"] == step["writing"][:: len(reference.layers)]
            rows = {effect.layer: int((effect.delta() != 0).any(1).sum()) for effect in edit.effects}
            assert list(rows.values()) == step["rows_changed"]
            assert state is not None
            for layer in reference.layers:
                keys = state.tensors[f"keys.{layer}"][-len(step["facts"]) :]
                assert distance(keys, reference.of(batch, f"k_after.{layer}")) < TENSORS
            stack.enter_context(edit.applied_to(model))


def test_prune_leaves_the_programs_sum_after_the_last_batch() -> None:
    """Of two batches; the model after both is that of the program, which cuts the sum back once, at the end."""
    reference, program, model = Reference("prune"), Reference("memit-naive"), reference_model()
    method = make_method("prune", model, moments, **settings("memit-naive"))
    before, total, state = model.fingerprint(), dict[int, Tensor](), None
    with ExitStack() as stack:
        for facts in program.batches:
            requests = [program.requests[n] for n in facts]
            [edit], state = check_made(method, requests, method.edit(requests, state))
            for layer, delta in deltas(edit).items():
                total[layer] = total.get(layer, 0) + delta
            stack.enter_context(edit.applied_to(model))
        for layer in reference.layers:
            assert distance(total[layer], reference.update(0, layer)) < TENSORS
            above = reference.json["per_layer"][str(layer)]["above"]
            assert edit.diagnostics["restrained"][f"{layer}.out"] == above
        assert distance(reference.logits(model), reference.tensors["logits_post"]) < TENSORS
    assert model.fingerprint() == before
