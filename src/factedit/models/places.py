"""Where one layer keeps what its family's row speaks of: the row's alternatives, looked up in the layer itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from factedit.errors import UnsupportedModel
from factedit.models.families import CONTRIBUTIONS, MATRICES, Contribution, Family, MatrixKind, alternatives, terms
from factedit.models.matrix import ValueHook, first_of, shape_of_calls
from factedit.models.sound import has_submodule

Terms = tuple[tuple[nn.Module, float], ...]  # modules whose outputs are added, each times a number


@dataclass(frozen=True)
class LayerPlaces:
    """What one layer has of its family's row.

    Attributes:
        contributions: the modules whose outputs add up to a contribution, and what each is multiplied by.
        matrices: the paths inside the layer of its one MLP's matrices; empty where it has experts.
        giver: the module whose output is the value, or holds it; None where nothing can be edited.
        norm: the norm between the giver and the residual; None where there is none.
        whole: the giver gives the value and no experts stand beside it, in the giver or before the norm.
        mlp_gain: what the giver's output, or the norm's, is multiplied by on its way into the state after the layer.
        gain: what the layer multiplies its sum by.
        state: the module that goes on from a state; None where the layer has none.
    """

    contributions: dict[Contribution, Terms]
    matrices: dict[MatrixKind, str]
    giver: nn.Module | None
    norm: nn.Module | None
    whole: bool
    mlp_gain: float
    gain: float
    state: nn.Module | None


def places_in(family: Family, layer: nn.Module) -> LayerPlaces:
    """Look a row's alternatives up in a layer.

    Raises:
        UnsupportedModel: the layer has none of the modules that give a contribution, or a last matrix and none that
            it reads by.
    """
    wanted = {"attn": family.attn_out, "mlp": family.mlp_out}
    parts = {kind: _terms(family, layer, wanted[kind], kind) for kind in CONTRIBUTIONS}
    gain = _number(layer, family.gain)
    mixed = _has(layer, family.experts)
    matrices = {} if mixed or family.refused else _matrices(family, layer)
    giver, norm, factor = None, None, parts["mlp"][-1][1]
    value = family.experts.rpartition(".")[0] if mixed else matrices.get("out", "")
    if value:
        path = value.split(".")
        around = [layer.get_submodule(".".join(path[:n])) for n in range(1, len(path) + 1)]
        within = [(module, times) for module, times in parts["mlp"] if any(module is m for m in around)]
        giver, factor = within[0] if within else (around[0], factor)
        norm = None if within or isinstance(parts["mlp"][-1][0], nn.Identity) else parts["mlp"][-1][0]
    near = giver if norm is None else layer  # what stands behind one norm with the matrix
    whole = near is not None and (mixed or not any(_stores_experts(module) for module in near.modules()))
    states = [path for path in alternatives(family.state) if _has(layer, path)]
    state = layer.get_submodule(states[0].rpartition(".")[0]) if states else None
    return LayerPlaces(parts, matrices, giver, norm, whole, factor * gain, gain, state)


def _stores_experts(module: nn.Module) -> bool:
    """Whether parameters of three dimensions are multiplied by: one matrix for each expert."""
    return any(p.ndim == 3 for p in module.parameters(recurse=False)) and not isinstance(module, nn.Conv1d)


def _matrices(family: Family, layer: nn.Module) -> dict[MatrixKind, str]:
    asked = {"out": family.matrix, "in": family.matrix_in, "gate": family.matrix_gate}
    paths: dict[MatrixKind, str] = {}
    for which in MATRICES:
        path = next((p for p in alternatives(asked[which]) if _has(layer, p)), "")
        if path:
            paths[which] = path
    if "out" in paths and "in" not in paths:
        raise UnsupportedModel(
            f"A layer of {family.name} has {paths['out']!r}, and none of {asked['in']!r}: it is wrapped, or of another "
            "class than AutoModelForCausalLM gives."
        )
    return paths if "out" in paths else {}


def _terms(family: Family, layer: nn.Module, wanted: str, kind: Contribution) -> Terms:
    for choice in alternatives(wanted):
        parts = terms(choice)
        if all(_has(layer, path) for path, _ in parts):
            return tuple((layer.get_submodule(path), _number(layer, factor)) for path, factor in parts)
    raise UnsupportedModel(
        f"A layer of {family.name} has no {wanted}, which gives what {kind} adds: the model is wrapped, or of another "
        "class than AutoModelForCausalLM gives."
    )


def _number(layer: nn.Module, name: str) -> float:
    number = getattr(layer, name) if name else 1.0
    return 1.0 if getattr(number, "is_meta", False) else float(number)  # an outline has no numbers


def _has(layer: nn.Module, path: str) -> bool:
    return bool(path) and has_submodule(layer, path)


@contextmanager
def watched_terms(layer: nn.Module, parts: Terms, hook: ValueHook) -> Iterator[None]:
    """See, or replace, a contribution as its modules give it.

    Args:
        layer: whose present call tells the rows and tokens of a batch.
        parts: in the order in which they are called; what replaces their sum is put into the last one's output.
        hook: gets the contribution `[batch, tokens, d_model]`; a tensor it returns takes its place.
    """
    with ExitStack() as stack:
        shape = stack.enter_context(shape_of_calls(layer))
        before: list[Tensor] = []

        def part(factor: float) -> Callable[..., None]:
            def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
                before.append(first_of(output).view(*shape, -1) * factor)

            return keep

        def call(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            first, factor = first_of(output), parts[-1][1]
            last = first.view(*shape, -1)
            others = [before.pop() for _ in range(len(before))]
            new = hook(sum(others, last if factor == 1.0 else last * factor))
            if new is None:
                return None
            new = sum((-other for other in others), new)
            new = (new if factor == 1.0 else new / factor).view_as(first)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        for module, factor in parts[:-1]:
            stack.callback(module.register_forward_hook(part(factor)).remove)
        stack.callback(parts[-1][0].register_forward_hook(call).remove)
        yield
