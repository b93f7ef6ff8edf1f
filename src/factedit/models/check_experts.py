"""Prove on the model at hand that a layer's experts are what `experts.py` takes them for.

Checked on every layer that has experts: what the block gives is the joined key times the joined matrix; it is so with
another matrix of one expert, too; and a value that takes another's place through the hooks reaches the block's output
as the same change of the matrix does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from factedit.errors import UnsupportedModel
from factedit.models.experts import Mixture, Routed
from factedit.models.families import matrix_name
from factedit.models.matrix import Noted, first_of
from factedit.models.statement import check_statement

if TYPE_CHECKING:
    from factedit.models.adapter import EditableModel


class ExpertsSeen(NamedTuple):
    """What a layer's experts did in one pass over one row.

    Attributes:
        mixture: the experts.
        noted: joined keys `[tokens, width]` and values `[tokens, d_model]`.
        routed: where the tokens went.
        states: what the block read.
    """

    mixture: Mixture
    noted: Noted
    routed: list[Routed]
    states: list[Tensor]


@contextmanager
def experts_seen(mixture: Mixture) -> Iterator[ExpertsSeen]:
    """Inside, what the experts do is kept."""
    routed, states = list[Routed](), list[Tensor]()
    with ExitStack() as stack:
        noted = stack.enter_context(mixture.noted((0, slice(None))))
        stack.enter_context(mixture.routed(lambda routing: routed.append(routing.at(0))))
        note = lambda _m, args, kwargs: states.append((args[0] if args else kwargs["hidden_states"]).clone())  # noqa: E731
        stack.callback(mixture.block.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield ExpertsSeen(mixture, noted, routed, states)


def check_experts(
    model: EditableModel, mixture: Mixture, noted: Noted, routed: list[Routed], states: list[Tensor]
) -> None:
    """Refuse experts that are not what they are taken for; see `ExpertsSeen`.

    Raises:
        UnsupportedModel: naming the layer and the statement that does not hold.
    """
    if not noted or not states:
        raise UnsupportedModel(
            f"{model.name} runs layer {mixture.layer} without calling the module of its experts: it is compiled, fused "
            "or wrapped, and an edit would pass it by. Give the plain model of transformers."
        )
    [(key, value)], layer = noted, mixture.layer
    wide = torch.promote_types(value.dtype, torch.float32)
    bias = mixture.bias(routed[0])
    given = mixture.product(key) + (0 if bias is None else bias.to(wide))
    check_statement(model, layer, "value = Σ weight · key · W over its experts", value, given.to(value.dtype))
    name = matrix_name("out", int(routed[0].experts[0, 0]))
    matrix = model.matrix(layer, name)
    weight = matrix.values
    other = value - 2 * (key[:, mixture.slices[name]] @ weight.to(wide)).to(value.dtype)

    def run() -> Tensor:
        return first_of(mixture.block(states[0])).view_as(value)

    with matrix.replaced(-weight):
        check_statement(model, layer, f"value = Σ weight · key · W of another W ({name})", run(), other)
    with matrix.watched(lambda keys, gives: gives - 2 * keys @ weight):
        check_statement(model, layer, f"a value put in place of the one of {name} reaches the block", run(), other)
