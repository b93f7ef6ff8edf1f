"""Which experts a traced prompt's tokens are sent to, and the subject's last token in other wordings of the fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from factedit.engine.routing import experts_as_json, layers_with_experts, named, routes, subject_routes
from factedit.facts import template_of
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult


def with_experts(
    model: EditableModel, trace: TraceResult, ids: Sequence[int], paraphrases: Sequence[str] = ()
) -> TraceResult:
    """Return a trace with the experts of every token of the prompt; as it is where the model has none.

    Args:
        model: the model; unchanged.
        trace: of the prompt.
        ids: the prompt's tokens; none where the trace has its experts already.
        paraphrases: other complete texts that hold the subject.

    Raises:
        RequestError: a paraphrase without the subject.
    """
    asked = [(template_of(text, trace.subject), trace.subject) for text in paraphrases]
    if not layers_with_experts(model):
        return trace
    experts: dict[str, Any] = dict(trace.experts)
    if ids:
        [tokens] = routes(model, [ids])
        experts["tokens"] = {str(layer): [named(routed[layer]) for routed in tokens] for layer in tokens[0]}
    if asked:
        others = zip(paraphrases, subject_routes(model, asked), strict=True)
        experts["paraphrases"] = {text: experts_as_json(routed) for text, routed in others}
    return replace(trace, experts=experts)
