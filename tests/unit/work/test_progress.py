"""Telling how far a job is, and what is kept where it is stopped."""

from __future__ import annotations

import pytest

from factedit.errors import EditError
from factedit.work.progress import advancing, keeping, silent


def test_advances_add_up() -> None:
    told: list[tuple[str, float, float]] = []
    advance = advancing(lambda *all_of_it: told.append(all_of_it), "x", 5)
    advance(2)
    advance(0.5)
    assert told == [("x", 0, 5), ("x", 2, 5), ("x", 2.5, 5)]
    silent("x", 1, 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_a_stop_is_told_what_is_kept(error: BaseException) -> None:
    asked: list[int] = []

    def kept() -> str:
        asked.append(1)
        return "3 of 5"

    with pytest.raises(type(error)) as stopped, keeping(kept):
        raise error
    assert stopped.value is error
    assert error.__notes__ == ["3 of 5"]
    with keeping(kept):
        pass
    with pytest.raises(EditError) as failed, keeping(kept):
        raise EditError("own words")
    assert not hasattr(failed.value, "__notes__")
    assert asked == [1]
