"""What methods' edits take, by their presets: the settings are looked up, nothing is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, Field

from factedit.edit.many.make import check_layers
from factedit.edit.many.presets import (
    ALPHAEDIT_PRESETS,
    EMMET_PRESETS,
    ENCORE_PRESETS,
    LOCFT_PRESETS,
    MEMIT_PRESETS,
    NSE_PRESETS,
    PMET_PRESETS,
)
from factedit.edit.many.settings import Layers, default_layers
from factedit.edit.method_table import STOPPING
from factedit.edit.methods.grace import GraceSettings
from factedit.edit.methods.lora import LoraSettings
from factedit.edit.methods.rome_joint import rome_joint_settings
from factedit.edit.presets import PRESET_KINDS, Preset, RomeSettings, presets_of, scaled_layer, settings_for
from factedit.edit.presets_baselines import FT_L_PRESETS, FT_PRESETS, NeuronSettings, checked, preset_values
from factedit.engine import budget
from factedit.engine.cost import ModelShape, ValueRow, Work, of_moment, solve_work, tuned_work, values_work
from factedit.facts import EditRequest, fill
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, locate

WRITTEN = (5, 11)  # contexts of methods of hidden values: five texts of ten tokens and the start token
COUNTED = "every evaluation of the loss is counted"
STOP = 2  # tokens that join a context to the prompt


class EditsTake(NamedTuple):
    """What the edits of some facts take.

    Attributes:
        work: of all of them.
        layers: whose second moments are needed.
        memory: bytes beside weights and activations.
        note: what was assumed, in words.
    """

    work: Work
    layers: tuple[int, ...] = ()
    memory: float = 0.0
    note: str = ""


def edits_take(
    name: str,
    model: EditableModel,
    requests: Sequence[EditRequest],
    settings: Mapping[str, Any] | None = None,
    *,
    preset: str = PRESET_KINDS[0],
) -> EditsTake:
    """Return what a method takes for facts, were every evaluation of every loss made.

    Args:
        name: of the method.
        model: whose shape and tokens count; may be an outline.
        requests: the facts.
        settings: departures from the preset.
        preset: see `presets_of`.
    """
    changes = dict(settings or {})
    with presets_of(preset):
        return _taker(name)(model, ModelShape.of(model), requests, changes)


Taker = Callable[[EditableModel, ModelShape, Sequence[EditRequest], dict[str, Any]], EditsTake]


def _memory(
    model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
) -> EditsTake:
    """ROME's values, which are kept beside the matrix: nothing is solved, and no second moment is needed."""
    return _rome(model, shape, requests, changes, inserted=False)


def _rome(
    model: EditableModel,
    shape: ModelShape,
    requests: Sequence[EditRequest],
    changes: dict[str, Any],
    *,
    inserted: bool = True,
) -> EditsTake:
    known = {k: v for k, v in changes.items() if k in ("layer", "steps", "contexts", "context_openings")}
    settings = settings_for(model, **known)
    layer = settings.layer or 0
    lengths = _context_lengths(settings, changes)
    return _values(model, shape, requests, lengths, layer, layer, settings.steps, (layer,) if inserted else ())


def _rome_joint(
    model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
) -> EditsTake:
    """ROME's values with an offset on each of its layers: from the lowest on at every step, and a solve on each."""
    settings = rome_joint_settings(model, {k: v for k, v in changes.items() if k != "context_templates"})
    layers = check_layers(model, settings.layers or ())
    taken = _values(
        model, shape, requests, _context_lengths(settings, changes), layers[0], layers[0], settings.steps, layers
    )
    keys = [_to_keys(shape, len(requests), n) for n in layers if len(layers) > 1]  # those below are written by then
    return taken._replace(work=sum(keys, taken.work))


def _to_keys(shape: ModelShape, facts: int, layer: int) -> Work:
    """The passes to the keys of a layer, where layers are read from disk; products are counted with the values."""
    return Work(0, 0, (_beginnings(facts) + 1) * (layer + 1) / shape.n_layer)


def _beginnings(facts: int) -> int:
    """Passes up to δ's token: what all facts begin with, and what they do not share."""
    return 1 if facts == 1 else 2


def _context_lengths(settings: RomeSettings, changes: Mapping[str, Any]) -> list[int]:
    """Tokens of the contexts that values are found after, none of the bare prompt's."""
    if changes.get("context_templates") is not None:
        return [0, *[8] * len(changes["context_templates"])]
    return [0, *[length for count, length in settings.contexts for _ in range(count)] * len(settings.context_openings)]


class _Hidden(BaseModel):
    """What of the settings of methods of hidden values decides what they take."""

    layers: Layers = None
    steps: int = Field(ge=1)


def _hidden(name: str, presets: tuple[Preset, ...], steps: int = 20, *, one_layer: bool = False) -> Taker:
    def taker(
        model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
    ) -> EditsTake:
        layers = default_layers(model)[-1:] if one_layer else default_layers(model)
        settings = checked(_Hidden, name, {"layers": layers, "steps": steps, **preset_values(presets, model)}, changes)
        layers = check_layers(model, settings.layers or ())
        count, length = WRITTEN
        lengths = [0, *[length] * count]
        taken = _values(model, shape, requests, lengths, layers[-1], layers[-1] + 1, settings.steps, layers)
        keys = Work(0, 0, 1 + (layers[-1] + 1) / shape.n_layer)  # and what contexts begin with, through all layers
        return taken._replace(work=taken.work + keys)

    return taker


def _values(
    model: EditableModel,
    shape: ModelShape,
    requests: Sequence[EditRequest],
    lengths: Sequence[int],
    layer: int,
    resumed: int,
    steps: int,
    layers: tuple[int, ...],
) -> EditsTake:
    """Values of facts after contexts of so many tokens, and a solve per edited layer."""
    rows = [row for request in requests for row in _rows(model, request, lengths)]
    tokens = sum(row.after + budget.share_of_past(model, layer) * row.before for row in rows)
    batches = max(1.0, tokens / max(1, budget.tokens_optimised(model, layer)))
    work = values_work(
        shape, rows, min(resumed, shape.n_layer), steps, stems=sum(lengths), batches=batches,
        beginnings=_beginnings(len(requests)),
    )  # fmt: skip
    for _ in layers:
        work += solve_work(shape.d_mlp, len(requests))
    return EditsTake(work, layers, len(layers) * of_moment(shape.d_mlp), COUNTED)


def _rows(model: EditableModel, request: EditRequest, lengths: Sequence[int]) -> list[ValueRow]:
    """The rows of a fact: after every context, and its essence."""
    located = locate(model, request.prompt, request.subject)
    ids, first = continuation(model, fill(request.prompt, request.subject), request.target_new)
    at, reads = located.subject_last, len(ids) - first
    contexts = [ValueRow(at + (length + STOP if length else 0), len(ids) - 1 - at, reads) for length in lengths]
    return [*contexts, ValueRow(at, 1, 1)]


def _tuned(presets: tuple[Preset, ...], steps: int, key: str) -> Taker:
    def taker(
        model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
    ) -> EditsTake:
        settings = {"layer": scaled_layer(model, 17, 48), key: steps, **preset_values(presets, model), **changes}
        work, alone, together = Work(), Work(), min(len(requests), budget.changes_tuned(model, 0))
        for request in requests:
            ids, first = continuation(model, request.text, request.target_new)
            alone = tuned_work(shape, len(ids) - 1, int(settings["layer"]), int(settings[key]), reads=len(ids) - first)
            work += alone
        memory = 6 * 4.0 * shape.d_mlp * shape.d_model * together
        passes = alone.passes * -(-len(requests) // max(1, together))  # side by side, layers come once for all
        return EditsTake(work._replace(passes=passes), (), memory, "every step is counted")

    return taker


def _grace(
    model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
) -> EditsTake:
    """A value at the prompt's last token, found from its layer on; nothing is solved."""
    settings = checked(GraceSettings, "grace", {"layer": scaled_layer(model, 35, 48)}, changes)
    rows = []
    for request in requests:
        ids, first = continuation(model, request.text, request.target_new)
        rows.append(ValueRow(first - 1, len(ids) - first, len(ids) - first))
    before = sum(row.before for row in rows)
    work = values_work(shape, rows, model.check_layer(settings.layer or 0), settings.steps, stems=before)
    return EditsTake(work, (), 0.0, COUNTED)


def _lora(
    model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
) -> EditsTake:
    """Factors tuned on batches of facts through all layers, on a copy of the model."""
    settings = checked(LoraSettings, "lora", {}, changes)
    asked = [continuation(model, request.text, request.target_new) for request in requests]
    tokens, reads = (
        sum(counts) / len(asked) for counts in zip(*((len(i) - 1, len(i) - n) for i, n in asked), strict=True)
    )
    facts, layers = min(settings.batch, len(asked)), shape.n_layer
    step = shape.forward(facts * tokens, tokens, layers, reads=facts * reads)
    step += shape.backward(facts * tokens, tokens, layers, reads=facts * reads)
    return EditsTake(step.times(settings.steps), (), float(shape.weights), COUNTED)


def _neurons(
    model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], changes: dict[str, Any]
) -> EditsTake:
    """The prompt once, and for every layer its last token, scaled so many times, from there on and back."""
    settings = checked(NeuronSettings, "kn", {}, changes)
    lengths = [0, *[length + STOP for count, length in settings.contexts for _ in range(count)]]
    work = Work()
    for tokens in (len(model.tokenizer(request.text)["input_ids"]) + more for request in requests for more in lengths):
        work += shape.forward(tokens, tokens, shape.n_layer)
        for above in range(1, shape.n_layer + 1):
            work += shape.forward(settings.steps, tokens, above, reads=settings.steps)
            work += shape.backward(settings.steps, tokens, above, reads=settings.steps)
    return EditsTake(work, (), 0.0, "the attributions are counted")


def _once(
    model: EditableModel, shape: ModelShape, requests: Sequence[EditRequest], _changes: dict[str, Any]
) -> EditsTake:
    """A method that asks the model once, there and back."""
    work = Work()
    for request in requests:
        ids, first = continuation(model, request.text, request.target_new)
        work += shape.forward(len(ids), len(ids), shape.n_layer, reads=len(ids) - first)
        work += shape.backward(len(ids), len(ids), shape.n_layer, reads=len(ids) - first)
    return EditsTake(work, (), 0.0, "counted as one pass there and back")


def _taker(name: str) -> Taker:
    """What counts a method: the longest beginning of its name that the table has; others count as one pass.

    A form whose targets end (`+stop`) counts as the method itself: a token more.
    """
    plain = name.removesuffix(STOPPING)
    beginnings = [known for known in _TAKERS if plain == known or plain.startswith(f"{known}-")]
    return _TAKERS[max(beginnings, key=len)] if beginnings else _once


def at_layer(name: str, layer: int) -> dict[str, Any]:
    """Return the setting that puts a method at one layer: methods of hidden values have `layers`."""
    return {"layers": [layer]} if _taker(name) in _OF_HIDDEN_VALUES.values() else {"layer": layer}


_OF_HIDDEN_VALUES: dict[str, Taker] = {
    "memit": _hidden("memit", MEMIT_PRESETS),
    "emmet": _hidden("emmet", EMMET_PRESETS, one_layer=True),
    "alphaedit": _hidden("alphaedit", ALPHAEDIT_PRESETS),
    "pmet": _hidden("pmet", PMET_PRESETS, 30),
    "encore": _hidden("encore", ENCORE_PRESETS),
    "prune": _hidden("prune", MEMIT_PRESETS),
    "nse": _hidden("nse", NSE_PRESETS),
}
_TAKERS: dict[str, Taker] = {
    **_OF_HIDDEN_VALUES,
    "rome": _rome,
    "rome-joint": _rome_joint,
    "memory": _memory,
    "ft": _tuned(FT_PRESETS, 25, "steps"),
    "ft-l": _tuned(FT_L_PRESETS, 25, "steps"),
    "grace": _grace,
    "lora": _lora,
    "kn": _neurons,
    "ft-m": _tuned((), 25, "epochs"),
    "locft": _tuned(LOCFT_PRESETS, 25, "epochs"),
}
