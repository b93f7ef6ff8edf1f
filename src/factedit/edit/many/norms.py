"""NAS: values of a fixed norm (arXiv 2602.02543).

In a long sequence z and the weights feed each other and their norms grow. Here the value v* = m0 + δ, m0 being the
MLP's contribution, is given the norm that values of the unedited model have on average; one that is twice as long is
not trusted and its δ is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factedit.edit.many.hidden_value import HiddenValue, find_hidden_values
from factedit.edit.objective import MakeRule, ValueSettings
from factedit.errors import UsageError
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

LEFT_OUT = 0.05  # the largest of the norms, which do not count in the mean
TOO_LONG = 2.0  # times the anchor


def value_norms(
    model: EditableModel,
    layer: int,
    requests: Sequence[EditRequest],
    settings: ValueSettings,
    rule: MakeRule | None = None,
) -> Tensor:
    """Return ‖v*‖ of facts, each optimised in its bare prompt alone, `[n]`: a sample of the unedited model's values.

    Args:
        model: the unedited model.
        layer: the last edited layer.
        requests: the sample.
        settings, rule: of z, as for the edits.
    """
    values = find_hidden_values(model, layer, requests, ["{}"], settings, rule=rule)
    norms: Tensor = torch.stack([value.mlp + value.delta for value in values]).norm(dim=1)
    return norms


def anchor(norms: Tensor, *, left_out: float = LEFT_OUT) -> float:
    """Return the mean norm without the largest.

    Args:
        norms: of a sample, `[n]`.
        left_out: the share of the largest that does not count.

    Raises:
        UsageError: no norms, or a share outside [0, 1).
    """
    if not len(norms) or not 0 <= left_out < 1:
        raise UsageError(
            f"An anchor needs some norms and a share below 1 to leave out; given {len(norms)}, {left_out}."
        )
    norms = norms.double()
    return float(norms[norms <= torch.quantile(norms, 1 - left_out)].mean())


def with_norm(values: Sequence[HiddenValue], norm: float) -> tuple[Tensor, Tensor]:
    """Return the targets z with values of a norm, `[n, d_model]`, and which of them lost their δ, `[n]`.

    Args:
        values: what was found.
        norm: the anchor.
    """
    initial, mlp, delta = (torch.stack([getattr(v, name) for v in values]) for name in ("initial", "mlp", "delta"))
    value = mlp + delta
    length = value.norm(dim=1, keepdim=True)
    dropped = length > TOO_LONG * norm
    value = torch.where(dropped, mlp, norm * value / length.clamp(min=torch.finfo(length.dtype).tiny))  # of 0 it is 0
    return initial - mlp + value, dropped[:, 0]
