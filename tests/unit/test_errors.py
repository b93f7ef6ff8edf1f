"""Messages say what was asked, what was found and what to do."""

from __future__ import annotations

from factedit.errors import UnknownName


def test_unknown_name_offers_the_nearest() -> None:
    assert (
        str(UnknownName("method", "rom", ["rome", "rome-original", "ft"])) == "Unknown method 'rom'. Did you mean rome?"
    )


def test_unknown_name_lists_all_where_nothing_is_near() -> None:
    assert (
        str(UnknownName("method", "zzz", ["ft", "rome"], "Look it up."))
        == "Unknown method 'zzz'. Known: ft, rome. Look it up."
    )
