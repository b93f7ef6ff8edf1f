"""Questions about what an edit entails and what it must leave, as KnowEdit lists them (arXiv 2401.01286).

    portability: {Reasoning, Subject_Aliasing, Logical_Generalization}, locality: {Relation_Specificity, Forgetfulness},
    each a list of {prompt, ground_truth}; ground_truth is a text, a list, or lists of aliases.

KnowEdit's WikiData set is made of RippleEdits (arXiv 2307.12976) and has lost its conditions. They are found again from
RippleEdits' phrases, `ripple_phrases.json` beside the file: a reasoning probe whose wording is that of two relations is
composition I (the edited relation first; condition: the second relation of the new object) or II (the edited relation
last; condition: the other subject's first relation leads to the edited one). A probe of neither wording has no known
condition. What must stay is asked of the unedited model in the same words; an alias of the subject, for the old object.
Logical generalisation has no condition that could be found again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from factedit.data.lines import read_text
from factedit.data.records import Row
from factedit.errors import DataError
from factedit.facts import EditRequest, FactRecord
from factedit.safe import parse_json

PHRASES = "ripple_phrases.json"
COMPOSITION_1, COMPOSITION_2, ALIASING = "composition I", "composition II", "aliasing"
SPECIFICITY, FORGETTING, LOGIC, UNMAPPED = "specificity", "forgetting", "logic", "unmapped"
REASONING = (COMPOSITION_1, COMPOSITION_2, UNMAPPED)
_CODE = 2  # letters of the codes of languages and countries, which are words as well
_SLOT = "<subject>"


class Condition(NamedTuple):
    """What the unedited model must answer for a probe to count.

    Attributes:
        prompt: the text.
        answers: any of these.
    """

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A question beside an edit.

    Attributes:
        kind: what it tests, one of the words above.
        prompt: a complete text.
        answers: any of these is right after the edit; the first is its usual name.
        condition: None where none is needed, or (`unmapped`) none could be found.
    """

    kind: str
    prompt: str
    answers: tuple[str, ...]
    condition: Condition | None = None


@dataclass(frozen=True, kw_only=True)
class ProbedRecord(FactRecord):
    """A record with probes.

    Args:
        probes: in the order of the file.
    """

    probes: tuple[Probe, ...] = ()


def probes_of(record: FactRecord) -> tuple[Probe, ...]:
    """Return the probes of a record; none of one that brings none."""
    return record.probes if isinstance(record, ProbedRecord) else ()


@dataclass(frozen=True)
class Phrases:
    """How relations are said.

    Attributes:
        one: per relation its phrase.
        two: per pair of relations, `FIRST-SECOND`, theirs.
    """

    one: Mapping[str, str] = field(default_factory=dict)
    two: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def beside(cls, path: Path) -> Phrases:
        """Return those of the folder that a file lies in; none where it has none.

        Raises:
            DataError: the file of phrases is of another form.
        """
        file = path.parent / PHRASES
        if not file.is_file():
            return cls()
        try:
            content = parse_json(read_text(file))
            one = {name: str(row["phrase"]) for name, row in content["relations"].items()}
            two = {name: str(phrase) for name, phrase in content["two_hop"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file} does not hold phrases (relations, two_hop): {error!r}.") from error
        if any(phrase.count(_SLOT) != 1 for phrase in (*one.values(), *two.values())):
            raise DataError(f"{file} holds a phrase without exactly one {_SLOT}.")
        return cls(one, two)

    def of(self, prompt: str, subject: str) -> list[str]:
        """Return the relations that a prompt about a subject is worded as."""
        return [name for name, phrase in self.one.items() if _fill(phrase, subject) == prompt]

    def reasoning(self, prompt: str, answers: tuple[str, ...], request: EditRequest) -> Probe:
        """Return a reasoning probe with its condition, by its wording."""
        relations = self.of(request.text, request.subject)
        for names, phrase in self.two.items():
            first, _, second = names.partition("-")
            if first in relations and _fill(phrase, request.subject) == prompt and second in self.one:
                condition = Condition(_fill(self.one[second], request.target_new), answers)
                return Probe(kind=COMPOSITION_1, prompt=prompt, answers=answers, condition=condition)
        for names, phrase in self.two.items():
            first, _, second = names.partition("-")
            other = _subject_in(phrase, prompt) if second in relations and first in self.one else None
            if other is not None and other != request.subject:
                condition = Condition(_fill(self.one[first], other), (request.subject,))
                return Probe(kind=COMPOSITION_2, prompt=prompt, answers=answers, condition=condition)
        return Probe(kind=UNMAPPED, prompt=prompt, answers=answers)


def read_probes(row: Row, request: EditRequest, phrases: Phrases) -> tuple[Probe, ...]:
    """Return the probes of a row of KnowEdit's form.

    Args:
        row: the object.
        request: the edit that it asks.
        phrases: by which conditions are found.

    Raises:
        DataError: naming file, line and field.
    """
    probes = [
        phrases.reasoning(prompt, answers, request) for prompt, answers in _listed(row, "portability", "Reasoning")
    ]
    for prompt, answers in _listed(row, "portability", "Subject_Aliasing"):
        old = None if request.target_true is None else Condition(prompt, (request.target_true,))
        probes.append(Probe(kind=ALIASING if old else UNMAPPED, prompt=prompt, answers=answers, condition=old))
    for prompt, answers in _listed(row, "portability", "Logical_Generalization"):
        probes.append(Probe(kind=LOGIC, prompt=prompt, answers=answers))
    for name, kind in (("Relation_Specificity", SPECIFICITY), ("Forgetfulness", FORGETTING)):
        for prompt, answers in _listed(row, "locality", name):
            probes.append(Probe(kind=kind, prompt=prompt, answers=answers, condition=Condition(prompt, answers)))
    return tuple(probes)


def _listed(row: Row, group: str, name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Prompt and answers of every probe of a list that have both."""
    inside = row.fields.get(group)
    if not isinstance(inside, Mapping) or not isinstance(inside.get(name), list):
        return
    for entry in inside[name]:
        if not isinstance(entry, dict):
            raise row.error(f"{group}.{name} must be a list of objects with prompt and ground_truth.")
        probe = Row(row.where, entry, f"{group}.{name}.")
        prompt, answers = probe.text("prompt", empty=True), _answers(entry.get("ground_truth"))
        if prompt.strip() and answers:
            yield prompt, answers


def _answers(value: Any) -> tuple[str, ...]:
    """Return all aliases of all answers, each once; an alias that is a code of two small letters does not count."""
    groups = value if isinstance(value, list) else [value]
    answers: dict[str, None] = {}
    for group in groups:
        aliases = [alias.strip() for alias in (group if isinstance(group, list) else [group]) if isinstance(alias, str)]
        usable = [
            alias for n, alias in enumerate(aliases) if alias and not (n and len(alias) <= _CODE and alias.islower())
        ]
        answers.update(dict.fromkeys(usable))
    return tuple(answers)


def _fill(phrase: str, subject: str) -> str:
    return phrase.replace(_SLOT, subject)


def _subject_in(phrase: str, prompt: str) -> str | None:
    """Return the subject that a prompt in this wording is about; None where it is worded otherwise."""
    before, _, after = phrase.partition(_SLOT)
    match = re.fullmatch(re.escape(before) + "(.+)" + re.escape(after), prompt)
    return None if match is None else match[1]
