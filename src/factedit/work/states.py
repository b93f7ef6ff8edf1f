"""Read states of a traced prompt: what the logit lens and a Patchscope make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factedit.errors import UsageError, shown
from factedit.models.adapter import EditableModel
from factedit.trace.effects import TraceResult
from factedit.trace.state import KINDS, StateReading, read_state

SUBJECT, LAST = "subject", "last"  # tokens by name: the subject's last, the prompt's last


class StateAsked(NamedTuple):
    """A state as it is asked for.

    Attributes:
        token: a position, or `subject` or `last`.
        layer: the layer.
        kind: `hidden`, `mlp` or `attn`.
    """

    token: str
    layer: int
    kind: str = KINDS[0]


def named_states(texts: Sequence[str]) -> list[StateAsked]:
    """Return states as written: `TOKEN:LAYER` or `TOKEN:LAYER:KIND`.

    Raises:
        UsageError: saying how one is written.
    """
    return [_named(text) for text in texts]


def _named(text: str) -> StateAsked:
    token, *rest = text.strip().split(":")
    known = token in (SUBJECT, LAST) or token.isdecimal()
    if not known or len(rest) not in (1, 2) or not rest[0].isdecimal() or rest[1:] not in ([], *([k] for k in KINDS)):
        raise UsageError(
            f"The state {shown(text)} is not written like {SUBJECT}:5 or 3:5:mlp: a token (its number, {SUBJECT} for "
            f"the subject's last one, {LAST}), a layer, and perhaps one of {', '.join(KINDS)}."
        )
    return StateAsked(token, int(rest[0]), *rest[1:])


def read_states(model: EditableModel, trace: TraceResult, states: Sequence[StateAsked]) -> list[StateReading]:
    """Read states of a trace's clean run.

    Args:
        model: that was traced; unchanged.
        trace: whose prompt and tokens count.
        states: which, in order.

    Raises:
        UsageError: a token or a layer that there is not.
    """
    places = {SUBJECT: trace.subject_range[1] - 1, LAST: len(trace.tokens) - 1}
    tokens = [places[state.token] if state.token in places else int(state.token) for state in states]
    return [
        read_state(model, trace.prompt, token, state.layer, kind=state.kind)
        for token, state in zip(tokens, states, strict=True)
    ]
