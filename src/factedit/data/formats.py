"""The formats of users' files, told by the fields of their first record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from factedit.data.cases import read_conflicts, read_mquake
from factedit.data.counterfact import read_counterfact
from factedit.data.field_files import is_edit_list, is_probed, read_edit_list, read_tracing
from factedit.data.known_facts import FIELDS, read_known_facts, read_own_facts
from factedit.data.records import RecordSet, read_records
from factedit.data.requests import read_request_records
from factedit.data.zsre import read_zsre
from factedit.errors import DataError


class Format(NamedTuple):
    """A format.

    Attributes:
        name: for people.
        fields: of a record, by which it is known.
        reader: reads a file of it.
        benchmark: whose questions its facts are asked; empty for facts to trace.
        known: tells more than the fields do.
    """

    name: str
    fields: frozenset[str]
    reader: Callable[[Path, str], RecordSet[Any]]
    benchmark: str
    known: Callable[[dict[str, Any]], bool] = lambda _fields: True

    def fits(self, record: dict[str, Any]) -> bool:
        """Return whether a record is of this format."""
        return self.fields <= record.keys() and self.known(record)


FORMATS = (
    Format(
        "CounterFact", frozenset({"requested_rewrite"}), read_counterfact, "counterfact",
        lambda fields: "questions" not in fields,
    ),
    Format("zsRE (MEND)", frozenset({"subject", "src", "answers"}), read_zsre, "zsre"),
    Format("known facts", frozenset({"subject", "prompt", "attribute"}), read_known_facts, ""),
    Format(
        "facts to trace", frozenset({"subject", "prompt"}), read_own_facts, "",
        lambda fields: fields.keys() <= set(FIELDS) and "{}" not in str(fields["prompt"]),
    ),
    Format(
        "counterfact-tracing", frozenset({"subject", "prompt", "target_true", "target_false"}), read_tracing,
        "counterfact",
    ),
    Format(
        "EasyEdit", frozenset({"subject", "prompt"}), read_edit_list, "zsre",
        lambda fields: is_edit_list(fields) and not is_probed(fields),
    ),
    Format("KnowEdit", frozenset({"subject", "prompt"}), read_edit_list, "knowedit", is_probed),
    Format(
        "requests", frozenset({"subject", "prompt", "target_new"}), read_request_records, "counterfact",
        lambda fields: not is_edit_list(fields),
    ),
    Format("MQuAKE", frozenset({"requested_rewrite", "questions", "new_single_hops"}), read_mquake, "mquake"),
    Format("ConflictEdit", frozenset({"edits"}), read_conflicts, "conflicts"),
)  # fmt: skip


def format_of(path: Path) -> Format:
    """Return the format of a file.

    Raises:
        DataError: no records, or fields that do not tell one format.
    """
    line, record = next(read_records(path), (0, None))
    if record is None:
        raise DataError(f"{path} holds no records.")
    fits = [form for form in FORMATS if form.fits(record)]
    if len(fits) != 1:
        fields = ", ".join(map(repr, record)) or "nothing"
        known = "; ".join(f"{form.name}: {', '.join(sorted(form.fields))}" for form in FORMATS)
        raise DataError(f"{path}, line {line}: the fields {fields} do not tell one format. Known: {known}.")
    return fits[0]
