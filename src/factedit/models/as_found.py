"""Whether a stranger's code leaves a model as it found it: its bits, its modules' modes, its hooks.

factedit's own contexts restore what they change. A method or a metric of another package may forget to; what is
computed afterwards would be of another model, and stand under the name of this one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from factedit.errors import EditError
from factedit.models.adapter import EditableModel
from factedit.models.fingerprint import Fingerprint


class AsFound(NamedTuple):
    """What a model was like.

    Attributes:
        strangers: whose code is run, by package; nobody's: nothing is looked at.
        weights: a quick hash of its weights.
        training: how many of its modules are in training mode.
        hooks: how many hooks there are on its modules.
    """

    strangers: Collection[str]
    weights: bytes = b""
    training: int = 0
    hooks: int = 0

    @classmethod
    def of(cls, model: EditableModel, strangers: Collection[str]) -> AsFound:
        """Return what a model is like now; weights that lie elsewhere, and are read anew, are not looked at."""
        if not strangers:
            return cls(strangers)
        modules = list(model.lm.modules())
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)
        weights = b"" if model.fetched else Fingerprint(model.lm).glance()
        return cls(strangers, weights, sum(module.training for module in modules), hooks)

    def check(self, model: EditableModel) -> None:
        """Refuse a model that is not what it was.

        Raises:
            EditError: naming the packages and what is not as it was.
        """
        now = AsFound.of(model, self.strangers)
        names = {"weights": "its weights", "training": "its mode (training)", "hooks": "its hooks"}
        changed = [said for name, said in names.items() if getattr(now, name) != getattr(self, name)]
        if changed:
            raise EditError(
                f"Code of {', '.join(self.strangers)} changed the model ({', '.join(changed)}) and did not give it "
                "back: what comes after would be of another model. Nothing of it is kept; its author must mend that."
            )
