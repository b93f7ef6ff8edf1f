"""Relations of facts: the file that holds them, read and checked.

A relation has templates with one `{}` and, for every object, the subjects it is true of (`worldfacts.py`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from factedit.errors import DataError
from factedit.safe import parse_json, without_repeats

MIN_TEMPLATES = {"paraphrases": 3, "neighborhood": 2, "generation": 3}
MIN_OBJECTS, MIN_SUBJECTS = 5, 6
FILE = "worldfacts.json"
_KEYS = frozenset({"id", "name", "prompt", "objects", *MIN_TEMPLATES})
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "ı": "i", "ß": "ss", "æ": "ae", "đ": "d"})


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One relation: its templates, and the subjects each of its objects is true of.

    Args:
        relation_id: named after Wikidata's property, e.g. `"P17"`.
        name: the relation in words.
        prompt: the template of the request; the object comes right after it.
        paraphrases: other templates for the same question, some after an unrelated sentence.
        neighborhood: templates of the prompts about other subjects.
        generation: templates to be continued freely.
        objects: object -> its subjects; no subject stands under two objects.
    """

    relation_id: str
    name: str
    prompt: str
    paraphrases: tuple[str, ...]
    neighborhood: tuple[str, ...]
    generation: tuple[str, ...]
    objects: Mapping[str, tuple[str, ...]] = field(hash=False)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All (subject, object) pairs, in the order of the file."""
        return [(subject, target) for target, subjects in self.objects.items() for subject in subjects]

    def case_id(self, subject: str) -> str:
        """Return the name of the record about this subject, e.g. `"P276/eiffel-tower"`."""
        return f"{self.relation_id}/{slug(subject)}"


def slug(subject: str) -> str:
    """Return a name for file and case: plain lower-case letters and digits, no leading article.

    `"The Musée d'Orsay"` gives `"musee-d-orsay"`.
    """
    plain = unicodedata.normalize("NFKD", subject.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-").removeprefix("the-")


def parse_relations(text: str, source: str = FILE) -> list[Relation]:
    """Read and check the text of a facts file.

    Args:
        text: JSON, `{"relations": [{id, name, prompt, paraphrases, neighborhood, generation, objects}, …]}`.
        source: how to call the file in messages.

    Raises:
        DataError: saying which relation is wrong, what was found there and what belongs there.
    """
    try:
        data = parse_json(text, object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON (line {error.lineno}: {error.msg}): repair or reinstall it.") from error
    except ValueError as error:
        raise DataError(f"{source}: {error}.") from error
    entries = data.get("relations") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{source} holds no list named 'relations': put the relations there.")
    relations = [_relation(entry, f"{source}, relation {number}") for number, entry in enumerate(entries, start=1)]
    repeated = _repeated(relation.relation_id for relation in relations)
    if repeated:
        raise DataError(f"{source} holds the relation {repeated!r} twice: merge the two or rename one.")
    return relations


def _relation(entry: Any, where: str) -> Relation:
    """One checked relation; `where` begins every message."""
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        given = ", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where} must be an object with exactly {', '.join(sorted(_KEYS))}; found {given}.")
    for key in ("id", "name", "prompt"):
        if not isinstance(entry[key], str) or not entry[key].strip():
            raise DataError(f"{where}: {key!r} must be a text that is not empty; found {entry[key]!r}.")
    where = f"{where} ({entry['id']})"
    for key, least in MIN_TEMPLATES.items():
        _check_texts(entry[key], least, f"{where}: {key!r}")
    templates = [entry["prompt"], *(text for key in MIN_TEMPLATES for text in entry[key])]
    for template in templates:
        _check_template(template, where)
    repeated = _repeated(templates)
    if repeated:
        raise DataError(f"{where} holds the template {repeated!r} twice: write another.")
    return Relation(
        relation_id=entry["id"],
        name=entry["name"],
        prompt=entry["prompt"],
        paraphrases=tuple(entry["paraphrases"]),
        neighborhood=tuple(entry["neighborhood"]),
        generation=tuple(entry["generation"]),
        objects=_objects(entry["objects"], entry["prompt"], where),
    )


def _objects(entry: Any, prompt: str, where: str) -> Mapping[str, tuple[str, ...]]:
    """The checked objects of one relation."""
    if not isinstance(entry, dict) or len(entry) < MIN_OBJECTS:
        given = len(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where}: 'objects' must map at least {MIN_OBJECTS} objects to subjects; found {given}.")
    for target, subjects in entry.items():
        _check_texts([target], 1, f"{where}: an object of 'objects'")
        _check_texts(subjects, MIN_SUBJECTS, f"{where}: the subjects of {target!r}")
    subjects = [subject for group in entry.values() for subject in group]
    names = [slug(subject) for subject in subjects]
    if "" in names:
        raise DataError(f"{where}: {subjects[names.index('')]!r} has no letter to make a case name from: respell it.")
    repeated = _repeated(names)
    if repeated:
        raise DataError(f"{where} names the subject {repeated!r} twice: a subject has exactly one object.")
    before = prompt.partition("{}")[0]
    for subject in subjects:
        if subject in before:
            raise DataError(f"{where}: {subject!r} also stands in the prompt before its '{{}}': reword the prompt.")
    return MappingProxyType({target: tuple(group) for target, group in entry.items()})


def _check_texts(texts: Any, least: int, where: str) -> None:
    """Refuse what is not a list of at least `least` texts without outer spaces."""
    if not isinstance(texts, list) or len(texts) < least:
        seen = f"{len(texts)}" if isinstance(texts, list) else type(texts).__name__
        raise DataError(f"{where} must be a list of at least {least} texts; found {seen}.")
    for text in texts:
        if not isinstance(text, str) or not text or text != text.strip():
            raise DataError(f"{where} must hold texts without outer spaces; found {text!r}.")


def _check_template(template: str, where: str) -> None:
    """Refuse a template that has not exactly one `{}` or that begins or ends with a space."""
    if template.count("{}") != 1 or template != template.strip():
        raise DataError(
            f"{where}: a template must hold exactly one '{{}}' and no space at its ends; found {template!r}."
        )


def _repeated(items: Iterable[str]) -> str | None:
    """The first item that occurs a second time, or None."""
    seen: set[str] = set()
    for item in items:
        if item in seen:
            return item
        seen.add(item)
    return None
