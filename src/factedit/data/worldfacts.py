"""The embedded data set `worldfacts`: everyday facts written for this project, in CounterFact form.

`worldfacts.json` holds relations (templates with one `{}`) and, for every object, the subjects it is
true of. The records are built from it, as CounterFact builds its own (Meng et al. 2022, appendix D): the
false object, the paraphrases and the prompts about other subjects are draws from the same relation.

Every draw is a ranking by `random.Random` values seeded with the seed, the record and the item drawn.
So a record depends on nothing but what it may draw from: a new subject leaves every `target_new` as it
was and touches only prompts that name the new subject.
"""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord, KnownFact, fill

N_PARAPHRASES, N_PROMPTS = 2, 10
MIN_TEMPLATES = {"paraphrases": 3, "neighborhood": 2, "generation": 3}
MIN_OBJECTS, MIN_SUBJECTS = 5, 6

_FILE = "worldfacts.json"
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
        """The name of the record about this subject, e.g. `"P276/eiffel-tower"`."""
        return f"{self.relation_id}/{slug(subject)}"


def relations() -> list[Relation]:
    """The relations of the embedded file, in its order.

    Raises:
        DataError: the installed file is missing or does not hold what it must.
    """
    return list(_embedded())


def worldfacts(seed: int = 0) -> list[FactRecord]:
    """One record per relation and subject: 2 paraphrases, 10 prompts of each other kind.

    The order mixes the relations and is the same for every seed, so the first n records are a fair
    sample of the whole.

    Args:
        seed: decides which false object, paraphrases and other subjects are drawn.

    Raises:
        DataError: the installed file is missing or does not hold what it must.
    """
    return build_records(_embedded(), seed)


def worldfacts_known() -> list[KnownFact]:
    """The same facts in the same order, for causal tracing: the filled prompt and the true object.

    Raises:
        DataError: the installed file is missing or does not hold what it must.
    """
    return [
        KnownFact(
            fact_id=relation.case_id(subject),
            prompt=fill(relation.prompt, subject),
            subject=subject,
            answer=target,
        )
        for relation, subject, target in _mixed(_embedded())
    ]


def build_records(found: Sequence[Relation], seed: int = 0) -> list[FactRecord]:
    """The records of these relations; see `worldfacts`."""
    held = _for_moments(found)
    return [_record(relation, subject, target, held, seed) for relation, subject, target in _mixed(found)]


def slug(subject: str) -> str:
    """A name for file and case: plain lower-case letters and digits, no leading article.

    `"The Musée d'Orsay"` gives `"musee-d-orsay"`.
    """
    plain = unicodedata.normalize("NFKD", subject.lower().translate(_LETTERS)).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-").removeprefix("the-")


def names_for_moments() -> list[str]:
    """The subjects' names that an edit may be told to leave alone (`stats/subjects.py`): less than half of them.

    The records' prompts about other subjects are about none of these, since how well a method leaves alone what it was
    told to leave alone says little of the rest (docs/decisions/0011-subjects-in-c.md).
    """
    slugs = _for_moments(_embedded())
    names = {subject for relation in _embedded() for subject, _ in relation.pairs if slug(subject) in slugs}
    return sorted(names, key=lambda name: (len(name), name))


def _for_moments(found: Iterable[Relation]) -> frozenset[str]:
    """Names, as slugs, that are in the first half of every object that they stand under; the rest is for prompts."""
    first, rest = set(), set()
    for relation in found:
        for subjects in relation.objects.values():
            ranked = _ranked(map(slug, subjects), "moments")
            first |= set(ranked[: len(ranked) // 2])
            rest |= set(ranked[len(ranked) // 2 :])
    return frozenset(first - rest)


def parse_relations(text: str, source: str = _FILE) -> list[Relation]:
    """Read and check the text of a facts file.

    Args:
        text: JSON, `{"relations": [{id, name, prompt, paraphrases, neighborhood, generation, objects}, …]}`.
        source: how to call the file in messages.

    Raises:
        DataError: saying which relation is wrong, what was found there and what belongs there.
    """
    try:
        data = json.loads(text, object_pairs_hook=_no_repeats)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is not JSON (line {error.lineno}: {error.msg}): repair or reinstall it.") from error
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    entries = data.get("relations") if isinstance(data, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{source} holds no list named 'relations': put the relations there.")
    found = [_relation(entry, f"{source}, relation {number}") for number, entry in enumerate(entries, start=1)]
    repeated = _repeated(relation.relation_id for relation in found)
    if repeated:
        raise DataError(f"{source} holds the relation {repeated!r} twice: merge the two or rename one.")
    return found


@lru_cache(maxsize=1)
def _embedded() -> tuple[Relation, ...]:
    """The checked relations of the file that is installed with the package."""
    try:
        text = (resources.files("factedit") / "data" / _FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The embedded {_FILE} cannot be read ({error}): reinstall factedit.") from error
    return tuple(parse_relations(text))


def _mixed(found: Iterable[Relation]) -> list[tuple[Relation, str, str]]:
    """All (relation, subject, object), in an order that mixes the relations and never depends on a seed."""
    facts = {
        relation.case_id(subject): (relation, subject, target)
        for relation in found
        for subject, target in relation.pairs
    }
    return [facts[case_id] for case_id in _ranked(facts, "order")]


def _record(relation: Relation, subject: str, target: str, held: frozenset[str], seed: int) -> FactRecord:
    """The record about one subject; `target` is its true object, `held` the names that no prompt is to be about."""
    case_id = relation.case_id(subject)
    key = f"{seed}/{case_id}"
    new = _ranked((other for other in relation.objects if other != target), key)[0]
    neighbors = _ranked((o for o in relation.objects[target] if o != subject and slug(o) not in held), key)
    strangers = _ranked(relation.objects[new], key)
    generation = relation.generation
    return FactRecord(
        case_id=case_id,
        request=EditRequest(subject=subject, prompt=relation.prompt, target_new=new, target_true=target),
        paraphrases=tuple(fill(text, subject) for text in _ranked(relation.paraphrases, key)[:N_PARAPHRASES]),
        neighborhood=_spread(relation.neighborhood, neighbors),
        attribute=_spread(relation.neighborhood, strangers),
        generation=tuple(fill(generation[i % len(generation)], subject) for i in range(N_PROMPTS)),
        relation_id=relation.relation_id,
    )


def _ranked(items: Iterable[str], key: str) -> list[str]:
    """The items in a random order in which any two keep their places when others come or go."""
    return sorted(items, key=lambda item: random.Random(f"{key}/{item}").random())


def _spread(templates: Sequence[str], subjects: Sequence[str]) -> tuple[str, ...]:
    """Ten different prompts: every subject once, the templates in turn; then again, one template further."""
    prompts = [
        fill(templates[(place + turn) % len(templates)], subject)
        for turn in range(len(templates))
        for place, subject in enumerate(subjects)
    ]
    return tuple(prompts[:N_PROMPTS])


def _relation(entry: Any, where: str) -> Relation:
    """One checked relation; `where` begins every message."""
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        found = ", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where} must be an object with exactly {', '.join(sorted(_KEYS))}; found {found}.")
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
        found = len(entry) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{where}: 'objects' must map at least {MIN_OBJECTS} objects to subjects; found {found}.")
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


def _check_texts(found: Any, least: int, where: str) -> None:
    """Refuse what is not a list of at least `least` texts without outer spaces."""
    if not isinstance(found, list) or len(found) < least:
        seen = f"{len(found)}" if isinstance(found, list) else type(found).__name__
        raise DataError(f"{where} must be a list of at least {least} texts; found {seen}.")
    for text in found:
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


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; JSON itself would let the second of two equal keys win silently."""
    repeated = _repeated(key for key, _ in pairs)
    if repeated is not None:
        raise DataError(f"the key {repeated!r} stands twice in one object: merge the two.")
    return dict(pairs)
