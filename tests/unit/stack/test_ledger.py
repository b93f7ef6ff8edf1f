"""The ledger as a file: a chain of hashes by hand, older entries, and every way in which it can be false."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from factedit.errors import DataError
from factedit.stack.ledger import (
    Entry,
    LedgerFact,
    LedgerMatrix,
    Standing,
    TakenBack,
    next_entry,
    read_ledger,
)
from factedit.stack.names import edit_folder, edited_file, kept_config, original_file
from factedit.stack.stand import conflicts

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
BASE: dict[str, Any] = {
    "kind": "base", "edits": (), "standing": (), "conflicts": (), "forced": False, "model_name": "tiny",
    "model_fingerprint": C, "dtype": "float32", "matrices": (), "shards": {"model.safetensors": A},
}  # fmt: skip


def standing(identity: str, *facts: tuple[str, str, str], **more: Any) -> Standing:
    own = tuple(LedgerFact(subject=s, prompt=p, target=t) for s, p, t in facts)
    return Standing(identity=identity, method="rome", facts=own, **more)


def entries() -> list[Entry]:
    one = next_entry(None, **BASE)
    on = standing(A, ("Café 東京", "{} is in", "Rome"))
    two = next_entry(one, kind="apply", edits=(A,), standing=(on,), shards={"model.safetensors": B})
    return [one, two, next_entry(two, kind="revert", standing=())]


def written(folder: Path, found: list[Entry]) -> Path:
    path = folder / "ledger.jsonl"
    path.write_text("".join(entry.line() for entry in found), encoding="utf-8")
    return path


def test_every_entry_holds_the_hash_of_the_one_before_and_of_itself(tmp_path: Path) -> None:
    made = entries()
    lines = written(tmp_path, made).read_text(encoding="utf-8").splitlines()
    before = ""
    for number, line in enumerate(lines):
        fields = json.loads(line)
        own = {key: value for key, value in fields.items() if key != "hash"}
        text = json.dumps(own, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        assert fields["hash"] == hashlib.sha256(text.encode()).hexdigest()
        assert (fields["number"], fields["previous"]) == (number, before)
        before = fields["hash"]
    found = read_ledger(tmp_path / "ledger.jsonl", before)
    assert [entry.model_dump() for entry in found] == [entry.model_dump() for entry in made]
    assert [entry.line() for entry in found] == [f"{line}\n" for line in lines], "as it was written"
    assert "東京" in lines[1], "as people read it"


def test_what_is_not_given_stays_as_it_was() -> None:
    one, two, three = entries()
    assert (two.model_name, two.dtype, two.model_fingerprint) == (one.model_name, one.dtype, one.model_fingerprint)
    assert (three.shards, three.standing) == (two.shards, ())
    assert (one.kind, two.kind, three.kind) == ("base", "apply", "revert")


def change(number: int, **values: Any) -> Callable[[list[str]], list[str]]:
    def changed(lines: list[str]) -> list[str]:
        fields = {**json.loads(lines[number]), **values}
        lines[number] = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return lines

    return changed


def consistent(lines: list[str]) -> list[str]:
    """An entry that was changed with its own hash, but not with those after it."""
    fields = {**json.loads(lines[1]), "model_name": "another"}
    own = {key: value for key, value in fields.items() if key != "hash"}
    text = json.dumps(own, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    fields["hash"] = hashlib.sha256(text.encode()).hexdigest()
    lines[1] = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return lines


FALSE: list[tuple[Callable[[list[str]], list[str]], str]] = [
    (change(1, model_name="another"), "Entry 1 of the ledger .* was changed after it was written"),
    (change(2, forced=True), "Entry 2 of the ledger .* was changed after it was written"),
    (change(0, hash=A), "Entry 0 of the ledger .* was changed after it was written"),
    (consistent, "Entry 2 of the ledger .* does not follow the one before it: it says it is entry 2"),
    (lambda lines: [lines[0], lines[2]], "Entry 1 of the ledger .* it says it is entry 2"),
    (lambda lines: [lines[1], lines[0], lines[2]], "Entry 0 of the ledger .* it says it is entry 1"),
    (lambda lines: [*lines, lines[2]], "Entry 3 of the ledger .* it says it is entry 2"),
    (lambda lines: lines[:2], "was cut off or belongs to other weights: it ends with entry 1"),
    (lambda lines: [], "Entry 0 of the ledger .* is no entry"),
    (lambda lines: [lines[0], "", *lines[1:]], "Entry 1 of the ledger .* is no entry"),
    (lambda lines: [lines[0] + " ", *lines[1:]], "Entry 0 of the ledger .* was changed after it was written"),
    (lambda lines: [lines[0], "[1]", *lines[1:]], "Entry 1 of the ledger .* is no entry"),
    (lambda lines: [lines[0], "[" * 100_000, *lines[1:]], "Entry 1 of the ledger .* is no entry"),
    (change(1, further=1), "Entry 1 of the ledger .* is no entry"),
    (change(1, kind="undo"), "Entry 1 of the ledger .* is no entry"),
    (change(1, edits=["x"]), "Entry 1 of the ledger .* is no entry"),
]


@pytest.mark.parametrize(("lie", "said"), FALSE, ids=range(len(FALSE)))
def test_a_ledger_that_is_false_is_refused_with_the_entry(
    lie: Callable[[list[str]], list[str]], said: str, tmp_path: Path
) -> None:
    made = entries()
    path = written(tmp_path, made)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line}\n" for line in lie(lines)), encoding="utf-8")
    with pytest.raises(DataError, match=said) as found:
        read_ledger(path, made[-1].hash)
    assert "get the folder again, or make it anew" in str(found.value).replace("Get", "get")


def test_a_ledger_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "ledger.jsonl", tmp_path / "gone.jsonl", tmp_path):
        with pytest.raises(DataError, match=r"The ledger .* cannot be read"):
            read_ledger(path, A)


def test_entries_of_the_first_ledgers_told_one_fact_in_fields_of_their_own() -> None:
    old = {"identity": A, "method": "rome", "subject": "Paris", "prompt": "{} is in", "target": "Rome"}
    assert Standing(**old) == standing(A, ("Paris", "{} is in", "Rome"))
    assert Standing(**{**old, "subject": ""}).facts == ()
    assert Standing(**old).text == f"{A[:12]} (rome: Paris is in → Rome)"


def test_an_edit_in_a_few_words() -> None:
    fact = ("Paris", "{} is in", "Rome")
    assert standing(A, fact, fact, fact).text.endswith("Paris is in → Rome and 2 more)")
    assert standing(A).text.endswith("(rome: no request)")
    back = [TakenBack(edit=B, fact=n) for n in range(2)]
    assert standing(A, takes_back=back[:1]).text.endswith("takes back 1 fact)")
    assert standing(A, takes_back=back).text.endswith("takes back 2 facts)")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(TakenBack, {"edit": "x", "fact": 0}), (TakenBack, {"edit": A, "fact": -1}),
     (TakenBack, {"edit": A + "\n", "fact": 0}),
     (LedgerMatrix, {"tensor": "w", "layer": 0, "matrix": "up", "stored_in_out": False, "original": A}),
     (LedgerMatrix, {"tensor": "w", "layer": 0, "matrix": "out", "stored_in_out": False, "original": "x"}),
     (LedgerMatrix, {"tensor": "w", "layer": 0, "matrix": "out", "stored_in_out": False, "original": A, "form": "x"})],
)  # fmt: skip
def test_fields_that_no_ledger_holds(kind: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**fields)


def test_files_are_named_by_what_they_hold() -> None:
    matrix = LedgerMatrix(tensor="w", layer=7, matrix="out.3", stored_in_out=False, original="")
    assert edited_file(matrix) == "edited-layer7-out.3.safetensors"
    assert original_file(matrix) == "factedit/originals/layer7-out.3.safetensors"
    assert edit_folder(A) == f"factedit/edits/{'a' * 16}"
    assert kept_config(Path("m")) == Path("m/factedit/originals/config.json")


# -- what was said of the same fact twice ----------------------------------------------------------

ONE, OTHER = ("Paris", "{} is in", "Rome"), ("Lyon", "{} is in", "Rome")


def test_the_same_fact_in_two_edits_is_told_whatever_it_was_given() -> None:
    same = ("PARIS ", "{}  is in", "Oslo")
    assert standing(A, ONE).facts[0].asked == standing(B, same).facts[0].asked, "one spelling"
    [said] = conflicts((standing(A, ONE), standing(B, same)), 1)
    assert said == (
        f"{B[:12]} (rome: {'{}  is in'.replace('{}', 'PARIS ')} → Oslo) is about the same fact as "
        f"{A[:12]} (rome: Paris is in → Rome)"
    )
    assert conflicts((standing(A, ONE), standing(B, OTHER)), 1) == ()
    assert conflicts((standing(A, ONE), standing(B, ONE), standing(C, OTHER)), 1) == (), "of the new ones alone"


def test_several_of_the_same_facts_are_counted_and_one_is_named() -> None:
    [said] = conflicts((standing(A, ONE, OTHER), standing(B, OTHER, ONE)), 1)
    assert "is about 2 of the same facts as" in said
    assert said.endswith(", among others Paris is in → Rome")


def test_a_fact_that_was_taken_back_is_no_conflict() -> None:
    back = standing(B, takes_back=(TakenBack(edit=A, fact=0),))
    assert conflicts((standing(A, ONE), back, standing(C, ONE)), 1) == ()
    other = standing(B, takes_back=(TakenBack(edit=A, fact=1),))
    assert len(conflicts((standing(A, ONE, OTHER), other, standing(C, ONE)), 1)) == 1
