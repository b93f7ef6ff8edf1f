"""Layers of joint methods as one writes them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from factedit.edit.many.settings import MemitSettings, RomeJointSettings


@pytest.mark.parametrize("kind", [MemitSettings, RomeJointSettings])
def test_layers_may_be_a_number_a_list_or_ranges(kind: type[MemitSettings]) -> None:
    written = [3, "3", [3, 5], "3,5", "3,5-7", (1, 2), None]
    meant = [(3,), (3,), (3, 5), (3, 5), (3, 5, 6, 7), (1, 2), None]
    assert [kind(layers=value).layers for value in written] == meant
    for wrong in ("three", "7-5", "", True, 2.5, ["a"]):
        with pytest.raises(ValidationError, match="layers"):
            kind(layers=wrong)
