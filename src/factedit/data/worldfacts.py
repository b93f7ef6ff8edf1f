"""The embedded data set `worldfacts`: everyday facts written for this project, in CounterFact form.

`worldfacts.json` holds relations (templates with one `{}`) and, for every object, the subjects it is
true of. The records are built from it, as CounterFact builds its own (Meng et al. 2022, appendix D): the
false object, the paraphrases and the prompts about other subjects are draws from the same relation.

Every draw is a ranking by `random.Random` values seeded with the seed, the record and the item drawn.
So a record depends on nothing but what it may draw from: a new subject leaves every `target_new` as it
was and touches only prompts that name the new subject.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib import resources

from factedit.data.relations import FILE, Relation, parse_relations, slug
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord, KnownFact, fill

N_PARAPHRASES, N_PROMPTS = 2, 10


def relations() -> list[Relation]:
    """Return the relations of the embedded file, in its order.

    Raises:
        DataError: the installed file is missing or does not hold what it must.
    """
    return list(_embedded())


def worldfacts(seed: int = 0) -> list[FactRecord]:
    """Return one record per relation and subject: 2 paraphrases, 10 prompts of each other kind.

    The order mixes the relations and is the same for every seed, so the first n records are a fair
    sample of the whole.

    Args:
        seed: decides which false object, paraphrases and other subjects are drawn.

    Raises:
        DataError: the installed file is missing or does not hold what it must.
    """
    return build_records(_embedded(), seed)


def worldfacts_known() -> list[KnownFact]:
    """Return the same facts in the same order, for causal tracing: the filled prompt and the true object.

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


def build_records(relations_given: Sequence[Relation], seed: int = 0) -> list[FactRecord]:
    """Return the records of these relations; see `worldfacts`."""
    held = _for_moments(relations_given)
    return [_record(relation, subject, target, held, seed) for relation, subject, target in _mixed(relations_given)]


def names_for_moments() -> list[str]:
    """Return the subjects' names that an edit may be told to leave alone (`stats/subjects.py`): less than half of them.

    The records' prompts about other subjects are about none of these, since how well a method leaves alone what it was
    told to leave alone says little of the rest (docs/decisions/0011-subjects-in-c.md).
    """
    slugs = _for_moments(_embedded())
    names = {subject for relation in _embedded() for subject, _ in relation.pairs if slug(subject) in slugs}
    return sorted(names, key=lambda name: (len(name), name))


def _for_moments(relations_given: Iterable[Relation]) -> frozenset[str]:
    """Names, as slugs, that are in the first half of every object that they stand under; the rest is for prompts."""
    first, rest = set(), set()
    for relation in relations_given:
        for subjects in relation.objects.values():
            ranked = _ranked(map(slug, subjects), "moments")
            first |= set(ranked[: len(ranked) // 2])
            rest |= set(ranked[len(ranked) // 2 :])
    return frozenset(first - rest)


@lru_cache(maxsize=1)
def _embedded() -> tuple[Relation, ...]:
    """The checked relations of the file that is installed with the package."""
    try:
        text = (resources.files("factedit") / "data" / FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The embedded {FILE} cannot be read ({error}): reinstall factedit.") from error
    return tuple(parse_relations(text))


def _mixed(relations_given: Iterable[Relation]) -> list[tuple[Relation, str, str]]:
    """All (relation, subject, object), in an order that mixes the relations and never depends on a seed."""
    facts = {
        relation.case_id(subject): (relation, subject, target)
        for relation in relations_given
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
