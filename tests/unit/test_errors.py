"""Messages say what was asked, what was found and what to do."""

from __future__ import annotations

import pytest

from factedit.errors import DataError, UnknownName, first_line


def test_unknown_name_offers_the_nearest() -> None:
    assert (
        str(UnknownName("method", "rom", ["rome", "rome-original", "ft"])) == "Unknown method 'rom'. Did you mean rome?"
    )


def test_unknown_name_lists_all_where_nothing_is_near() -> None:
    assert (
        str(UnknownName("method", "zzz", ["ft", "rome"], "Look it up."))
        == "Unknown method 'zzz'. Known: ft, rome. Look it up."
    )


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "it's " * 10_000, 'say "no" ' * 9_000, "a'b\"c\\" * 5_000, "\\" * 70_000, "\n" * 50_000]
)
def test_what_a_message_quotes_is_a_line_at_most(text: str) -> None:
    said = str(DataError(f"The prompt {text!r} holds no {{}}. Write 'it' with one, and do not {text[:20]!r}."))
    assert len(said) < 400
    assert said.startswith("The prompt ")
    assert "holds no {}. Write 'it' with one" in said
    short = f"The prompt {text[:50]!r} and {text[:9]!r} are short; don't cut."
    assert str(DataError(short)) == short


def test_a_line_that_only_announces_the_cause_is_joined_with_it() -> None:
    cause = ValueError("Error in loading the state:\n\n\tsize mismatch for lm_head\nand more")
    assert first_line(cause) == "Error in loading the state: size mismatch for lm_head"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
