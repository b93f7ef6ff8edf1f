"""The table of methods, and making one by its name.

Methods from outside register under the entry point group `factedit.methods`: a function that makes the method from a
model, a source of second moments and settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, cast

from factedit.edit.method import Method, MomentSource, check_is_method, check_takes
from factedit.edit.presets import PRESET_KINDS, presets_of
from factedit.edit.trained import NETWORK_KINDS
from factedit.errors import UnknownName, UsageError
from factedit.models.adapter import EditableModel
from factedit.plugins import outside

GROUP = "factedit.methods"
STOPPING = "+stop"  # behind a method's name: its targets end in the end-of-text token


@dataclass(frozen=True)
class MethodSpec:
    """A method that is not made yet: what another process needs to make it.

    Attributes:
        name: from the table or an entry point.
        settings: departures from the preset; None means the preset's value.
        moments: gives the second moment of a layer.
        preset: which presets are looked up; see `presets_of`.
    """

    name: str
    moments: MomentSource
    settings: Mapping[str, Any] = field(default_factory=dict)
    preset: str = PRESET_KINDS[0]

    def build(self, model: EditableModel) -> Method:
        """Return the method for a model; presets are looked up by the model's shape.

        Raises:
            UnknownName: no such method or kind of preset.
            UsageError: settings that do not hold.
            EditError: what was made is no method.
        """
        maker = check_method(self.name)
        check_takes(self.name, maker, self.settings)
        with model.unchanged(), presets_of(self.preset):
            return check_is_method(self.name, maker(model, self.moments, **self.settings))


class MethodRow(NamedTuple):
    """A line of the table of methods.

    Attributes:
        what: one sentence.
        paper: where it is from.
        maker: `module:function` that makes the method from a model, a source of second moments and settings.
        ends: targets can be trained to end: there is a form with `+stop`.
    """

    what: str
    paper: str
    maker: str
    ends: bool = False


METHODS: dict[str, MethodRow] = {
    "rome": MethodRow(
        "rank-one insertion, one mean key throughout (equal to r-ROME)",
        "arXiv 2202.05262, key as in arXiv 2403.07175",
        "factedit.edit.methods.rome:rome",
        ends=True,
    ),
    "rome-original": MethodRow(
        "rank-one insertion as the published program computes it (mean key over, bare key under the bar)",
        "arXiv 2202.05262",
        "factedit.edit.methods.rome:rome_original",
        ends=True,
    ),
    "rome-joint": MethodRow(
        "ROME's keys and values of all facts in one joint solve, beside those of earlier facts",
        "arXiv 2202.05262, solved jointly as in arXiv 2210.07229",
        "factedit.edit.methods.rome_joint:rome_joint",
        ends=True,
    ),
    "memit": MethodRow(
        "hidden values of all facts by least squares over several layers, beside the keys of earlier facts",
        "arXiv 2210.07229, history as in arXiv 2605.26670",
        "factedit.edit.methods.memit:memit",
        ends=True,
    ),
    "memit-no-history": MethodRow(
        "the same as published: in a sequence the keys of earlier facts are forgotten",
        "arXiv 2210.07229",
        "factedit.edit.methods.memit:memit_no_history",
        ends=True,
    ),
    "memit-rect": MethodRow(
        "memit, of whose update only the entries that change most are kept",
        "arXiv 2210.07229, arXiv 2401.04700",
        "factedit.edit.methods.memit:memit_rect",
        ends=True,
    ),
    "emmet": MethodRow(
        "hidden values of all facts written exactly, the past moved least",
        "arXiv 2403.14236",
        "factedit.edit.methods.emmet:emmet",
        ends=True,
    ),
    "alphaedit": MethodRow(
        "hidden values of all facts inside the null space of the past, beside the keys of earlier facts",
        "arXiv 2410.02355",
        "factedit.edit.methods.alphaedit:alphaedit",
        ends=True,
    ),
    "alphaedit-nas": MethodRow(
        "alphaedit with values of the norm that they have on average",
        "arXiv 2410.02355, arXiv 2602.02543",
        "factedit.edit.methods.alphaedit:alphaedit_nas",
        ends=True,
    ),
    "pmet": MethodRow(
        "values for the MLP and the attention, of which the MLP's are written over several layers",
        "arXiv 2308.08742",
        "factedit.edit.methods.pmet:pmet",
        ends=True,
    ),
    "encore": MethodRow(
        "memit with an early stop and a ridge",
        "arXiv 2502.01636",
        "factedit.edit.methods.encore:encore",
        ends=True,
    ),
    "ultraedit": MethodRow(
        "one normalised gradient of all facts and one ridge solve; no subject, no optimisation",
        "arXiv 2505.14679",
        "factedit.edit.methods.ultraedit:ultraedit",
    ),
    "locft-bf": MethodRow(
        "fine-tuning of one MLP matrix in epochs over all facts",
        "arXiv 2509.22072",
        "factedit.edit.methods.tuning:locft_bf",
        ends=True,
    ),
    "ft-m": MethodRow(
        "fine-tuning of one MLP matrix, fact after fact",
        "as compared in arXiv 2509.22072",
        "factedit.edit.methods.tuning:ft_m",
        ends=True,
    ),
    "ft": MethodRow("fine-tuning of one MLP matrix", "arXiv 2202.05262", "factedit.edit.methods.ft:ft", ends=True),
    "ft-l": MethodRow(
        "fine-tuning of one MLP matrix, every entry of the change bounded",
        "arXiv 2012.00363",
        "factedit.edit.methods.ft:ft_l",
        ends=True,
    ),
    "lora": MethodRow(
        "low-rank factors of several MLP matrices, tuned on the facts through peft and merged",
        "arXiv 2106.09685",
        "factedit.edit.methods.lora:lora",
        ends=True,
    ),
    "kn": MethodRow(
        "the value rows of the neurons that hold the answer, turned to the new one",
        "arXiv 2104.08696",
        "factedit.edit.methods.kn:kn",
    ),
    "ke": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on general text",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke",
    ),
    "ke-zsre": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on zsRE",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke_zsre",
    ),
    "ke-cf": MethodRow(
        "KnowledgeEditor: a trained network gates the gradient; trained on CounterFact",
        "arXiv 2104.08164",
        "factedit.edit.methods.ke:ke_cf",
    ),
    "mend": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on general text",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend",
    ),
    "mend-zsre": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on zsRE",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend_zsre",
    ),
    "mend-cf": MethodRow(
        "MEND: a trained network transforms the gradient's factors; trained on CounterFact",
        "arXiv 2110.11309",
        "factedit.edit.methods.mend:mend_cf",
    ),
    "memory": MethodRow(
        "no weight changes: ROME's value is added where a key is like the fact's own",
        "after NeuralDB (ICLR 2026), keys and values of arXiv 2202.05262",
        "factedit.edit.methods.memory:memory",
        ends=True,
    ),
    "grace": MethodRow(
        "no weight changes: a codebook replaces what a matrix gives near the keys of facts",
        "arXiv 2211.11031",
        "factedit.edit.methods.grace:grace",
        ends=True,
    ),
    "ice": MethodRow(
        "no weight changes: the new fact is said before every prompt",
        "arXiv 2305.12740",
        "factedit.edit.methods.ice:ice",
    ),
    "ike": MethodRow(
        "no weight changes: the same after 32 demonstrations of like facts",
        "arXiv 2305.12740",
        "factedit.edit.methods.ike:ike",
    ),
    "retrieval": MethodRow(
        "no weight changes: all facts are kept as text, and the nearest one is said before a prompt",
        "arXiv 2606.00570",
        "factedit.edit.methods.retrieval:retrieval",
    ),
    "mello": MethodRow(
        "no weight changes: questions are taken apart, each part checked against the facts kept as text",
        "arXiv 2305.14795",
        "factedit.edit.methods.mello:mello",
    ),
}


def _maker_that_ends(name: str) -> Callable[..., Any]:
    maker = check_method(name)
    if name in METHODS and not METHODS[name].ends:
        able = ", ".join(method for method, row in METHODS.items() if row.ends)
        raise UsageError(f"The method {name} trains no target, so none can be made to end. Those that do: {able}.")
    return maker


def _stopping(
    name: str, maker: Callable[..., Any], model: EditableModel, moments: MomentSource, /, **settings: Any
) -> Method:
    """Return a method whose targets end, under a name of its own."""
    check_takes(name, maker, settings)
    made: Any = maker(model, moments, **{"stop": "end"} | settings)
    return cast("Method", replace(made, name=name))


def make_method(
    name: str, model: EditableModel, moments: MomentSource, *, preset: str = PRESET_KINDS[0], **settings: Any
) -> Method:
    """Return the method of this name, set up for a model.

    Args:
        name: from the table or an entry point.
        model: presets are looked up by its shape.
        moments: gives the second moment of a layer.
        preset: `tuned`, `published` (without those that were tuned here) or `none`.
        settings: departures from the preset; None means the preset's value.

    Raises:
        UnknownName: no such method or kind of preset.
    """
    return MethodSpec(name, moments, settings, preset).build(model)


def check_method(name: str) -> Callable[..., Any]:
    """Return what makes the method of this name: of the table, of an entry point, of a network trained on a user's
    facts, or one of these with `+stop` behind it, whose targets end in the end-of-text token (`endings.py`).

    Raises:
        UnknownName: no such method.
        UsageError: `+stop` behind a method that trains no target.
    """
    plain, plus, option = name.partition(STOPPING)
    if plus and not option:
        return partial(_stopping, name, _maker_that_ends(plain))
    others = outside(GROUP)
    if name in METHODS:
        module, _, function = METHODS[name].maker.partition(":")
        maker: Callable[..., Any] = getattr(import_module(module), function)
        return maker
    if name in others:
        loaded: Callable[..., Any] = others[name].load()
        return loaded
    kind, _, own_data = name.partition("-")
    if kind in NETWORK_KINDS and own_data:
        home = import_module(METHODS[kind].maker.partition(":")[0])
        return cast("Callable[..., Any]", home.maker(name, home.PAPER))
    raise UnknownName("method", name, [*METHODS, *others])
