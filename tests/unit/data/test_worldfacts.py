from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from factedit.data import worldfacts as module
from factedit.data.relations import Relation, parse_relations, slug
from factedit.data.worldfacts import build_records, names_for_moments, relations, worldfacts, worldfacts_known
from factedit.errors import DataError
from factedit.facts import FactRecord, fill


@pytest.fixture(scope="module")
def records() -> list[FactRecord]:
    return worldfacts()


@pytest.fixture(scope="module")
def by_id() -> dict[str, Relation]:
    return {relation.relation_id: relation for relation in relations()}


def templates_of(relation: Relation) -> list[str]:
    return [relation.prompt, *relation.paraphrases, *relation.neighborhood, *relation.generation]


def subjects_asked(relation: Relation, prompt: str) -> set[str]:
    """The subjects for which a neighborhood template of the relation gives exactly this prompt."""
    return {
        subject
        for subject, _ in relation.pairs
        if any(fill(template, subject) == prompt for template in relation.neighborhood)
    }


def says(subject: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text) is not None


def small(**changes: Any) -> dict[str, Any]:
    """A file with one relation of five objects and six subjects each, as parsed JSON."""
    entry = {
        "id": "P1",
        "name": "home",
        "prompt": "{} lives in",
        "paraphrases": ["The home of {} is in", "One finds {} in", "It rained. {} sleeps in"],
        "neighborhood": ["{} stays in", "{} was seen in"],
        "generation": ["{} likes", "{} said", "When {} came"],
        "objects": {f"Town{o}": [f"Person{o}{s}" for s in "abcdef"] for o in "ABCDE"},
    }
    return {"relations": [{**entry, **changes}]}


def refused(data: Any) -> str:
    text = data if isinstance(data, str) else json.dumps(data)
    with pytest.raises(DataError) as caught:
        parse_relations(text, "facts.json")
    assert "facts.json" in str(caught.value)
    return str(caught.value)


def test_there_is_enough_and_no_subject_has_two_objects(by_id: dict[str, Relation], records: list[FactRecord]) -> None:
    assert len(by_id) >= 13
    for relation in by_id.values():
        assert len(relation.pairs) >= 30
        assert len(relation.objects) >= 5
        assert min(len(subjects) for subjects in relation.objects.values()) >= 6
        assert len({subject for subject, _ in relation.pairs}) == len(relation.pairs)
    assert len(records) == sum(len(relation.pairs) for relation in by_id.values())


def test_templates_have_one_place_and_end_before_the_object(by_id: dict[str, Relation]) -> None:
    for relation in by_id.values():
        for template in templates_of(relation):
            assert template.count("{}") == 1, template
            assert template == template.strip(), template
        assert relation.prompt not in relation.paraphrases + relation.neighborhood
        assert sum(". " in template.partition("{}")[0] for template in relation.paraphrases) >= 2


def test_neither_the_subject_nor_a_template_gives_the_object_away(by_id: dict[str, Relation]) -> None:
    for relation in by_id.values():
        for subject, target in relation.pairs:
            assert not says(target.lower(), subject.lower()), (subject, target)
        for target in relation.objects:
            assert not any(says(target, template) for template in templates_of(relation)), target


def test_every_record_is_complete(records: list[FactRecord]) -> None:
    for record in records:
        for prompts, counts in ((record.paraphrases, {2}), (record.neighborhood, {6, 9, 10}), (record.attribute, {10})):
            assert len(prompts) == len(set(prompts)), record.case_id
            assert len(prompts) in counts, "at least two other subjects, each in three templates"
        assert len(record.generation) == 10
        assert len(set(record.generation)) >= 3
        assert all(record.request.subject in text for text in record.paraphrases + record.generation)
        assert record.request.text not in record.paraphrases


def test_ids_are_unique_and_mixed_from_the_start(records: list[FactRecord]) -> None:
    assert len({record.case_id for record in records}) == len(records)
    assert len({record.relation_id for record in records[:100]}) >= 13
    found = {record.case_id: record for record in records}["P276/eiffel-tower"]
    assert found.relation_id == "P276"
    assert found.request.subject == "The Eiffel Tower"
    assert found.request.target_true == "Paris"


def test_targets_are_objects_of_the_relation(records: list[FactRecord], by_id: dict[str, Relation]) -> None:
    for record in records:
        relation = by_id[str(record.relation_id)]
        assert record.request.target_new != record.request.target_true
        assert record.request.target_new in relation.objects
        assert record.request.subject in relation.objects[str(record.request.target_true)]


def test_every_false_object_is_drawn_somewhere(records: list[FactRecord], by_id: dict[str, Relation]) -> None:
    drawn = {(record.relation_id, record.request.target_new) for record in records}
    assert drawn == {(key, target) for key, relation in by_id.items() for target in relation.objects}


def test_neighbors_share_the_true_object_and_are_others(records: list[FactRecord], by_id: dict[str, Relation]) -> None:
    for record in random.Random(0).sample(records, 150):
        relation, request = by_id[str(record.relation_id)], record.request
        same = set(relation.objects[str(request.target_true)])
        for prompt in record.neighborhood:
            asked = subjects_asked(relation, prompt)
            assert len(asked) == 1, prompt
            assert asked <= same
            assert request.subject not in asked


def test_no_neighbor_prompt_speaks_of_the_subject(records: list[FactRecord]) -> None:
    for record in records:
        for prompt in record.neighborhood + record.attribute:
            assert not says(record.request.subject, prompt), (record.case_id, prompt)


def test_no_neighbor_is_a_name_that_an_edit_is_told_to_leave_alone(
    records: list[FactRecord], by_id: dict[str, Relation]
) -> None:
    """Nothing that is scored is in C: the names there and the subjects of neighbourhood prompts do not meet."""
    told, every = set(names_for_moments()), {s for relation in by_id.values() for s, _ in relation.pairs}
    assert 0.45 < len(told) / len(every) < 0.5
    prompts = {(key, fill(t, s)): s for key, r in by_id.items() for t in r.neighborhood for s, _ in r.pairs}
    asked = {prompts[str(record.relation_id), prompt] for record in records for prompt in record.neighborhood}
    assert len(asked) > 1000
    assert {slug(name) for name in told}.isdisjoint(map(slug, asked))
    assert {record.request.subject for record in records} >= told, "they are edited, without their own name in C"


def test_attribute_prompts_are_about_subjects_of_the_new_object(
    records: list[FactRecord], by_id: dict[str, Relation]
) -> None:
    for record in random.Random(1).sample(records, 150):
        relation = by_id[str(record.relation_id)]
        for prompt in record.attribute:
            asked = subjects_asked(relation, prompt)
            assert len(asked) == 1
            assert asked <= set(relation.objects[record.request.target_new])


def test_the_seed_decides_everything(records: list[FactRecord]) -> None:
    assert worldfacts(0) == records
    found = parse_relations(json.dumps(small()))
    first, second = build_records(found, 0), build_records(found, 1)
    assert [record.case_id for record in first] == [record.case_id for record in second]
    assert any(a.request.target_new != b.request.target_new for a, b in zip(first, second, strict=True))
    assert any(a.paraphrases != b.paraphrases for a, b in zip(first, second, strict=True))


def test_a_new_subject_leaves_the_other_records_alone() -> None:
    data = small()
    before = {record.case_id: record for record in build_records(parse_relations(json.dumps(data)))}
    data["relations"][0]["objects"]["TownA"].insert(0, "Newcomer")
    after = {record.case_id: record for record in build_records(parse_relations(json.dumps(data)))}
    assert [case_id for case_id in after if case_id != "P1/newcomer"] == list(before)
    for case_id, old in before.items():
        new = after[case_id]
        assert (new.request, new.paraphrases, new.generation) == (
            old.request,
            old.paraphrases,
            old.generation,
        )
        if "TownA" not in (old.request.target_true, old.request.target_new):
            assert new == old


def test_a_new_object_changes_only_the_records_that_draw_it() -> None:
    data = small()
    before = {record.case_id: record for record in build_records(parse_relations(json.dumps(data)))}
    data["relations"][0]["objects"]["TownF"] = [f"PersonF{s}" for s in "abcdef"]
    after = {record.case_id: record for record in build_records(parse_relations(json.dumps(data)))}
    kept = [key for key in before if after[key].request.target_new != "TownF"]
    assert 0 < len(kept) < len(before)
    assert all(after[key] == before[key] for key in kept)


def test_known_facts_are_the_same_facts_to_trace(records: list[FactRecord]) -> None:
    known = worldfacts_known()
    assert [fact.fact_id for fact in known] == [record.case_id for record in records]
    for fact, record in zip(known, records, strict=True):
        assert fact.prompt == record.request.text
        assert fact.answer == record.request.target_true
        place = record.request.prompt.index("{}")
        assert fact.prompt.index(fact.subject) == place, fact.fact_id


def test_relations_cannot_be_changed_by_their_reader(by_id: dict[str, Relation]) -> None:
    relation = by_id["P17"]
    with pytest.raises(AttributeError):
        relation.prompt = "x"  # type: ignore[misc]
    with pytest.raises(TypeError):
        relation.objects["Atlantis"] = ()  # type: ignore[index]
    relations().clear()
    assert relations()


@pytest.mark.parametrize(
    ("subject", "name"),
    [("The Musée d'Orsay", "musee-d-orsay"), ("M*A*S*H", "m-a-s-h"), ("Łódź", "lodz"), ("Tromsø", "tromso")],
)
def test_slug(subject: str, name: str) -> None:
    assert slug(subject) == name


def test_text_that_is_not_json_is_refused() -> None:
    assert "is not JSON (line 2" in refused('{\n"relations": [}')


@pytest.mark.parametrize("data", [[], {}, {"relations": {}}, {"relations": []}, "3"])
def test_a_file_without_relations_is_refused(data: Any) -> None:
    assert "no list named 'relations'" in refused(data)


def test_what_stands_twice_is_refused() -> None:
    assert "'P1' twice" in refused({"relations": small()["relations"] * 2})
    assert "'TownA' stands twice" in refused(json.dumps(small()).replace("TownB", "TownA"))


def test_missing_and_unknown_keys_are_refused() -> None:
    data = small(colour="red")
    del data["relations"][0]["name"]
    message = refused(data)
    assert "relation 1 must be an object with exactly generation, id, name" in message
    assert "colour" in message
    assert "found str" in refused({"relations": ["P1"]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": " "}, "'name' must be a text"),
        ({"prompt": 3}, "'prompt' must be a text"),
        ({"prompt": "lives in"}, "exactly one '{}'"),
        ({"prompt": "{} and {} live in"}, "exactly one '{}'"),
        ({"prompt": "{} lives in "}, "no space at its ends"),
        ({"paraphrases": ["{} is in", "{} sits in"]}, "at least 3 texts; found 2"),
        ({"neighborhood": "{} is in"}, "at least 2 texts; found str"),
        ({"neighborhood": ["{} is in", 4]}, "without outer spaces; found 4"),
        ({"generation": ["{} a", "{} b", "c"]}, "exactly one '{}'"),
        ({"neighborhood": ["{} is in", "{} lives in"]}, "the template '{} lives in' twice"),
        ({"objects": {"Rome": list("abcdef")}}, "at least 5 objects to subjects; found 1"),
        ({"objects": ["Rome"]}, "at least 5 objects to subjects; found list"),
        ({"prompt": "With PersonAa and others, {} lives in"}, "'PersonAa' also stands in the prompt"),
    ],
)
def test_a_malformed_relation_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refused(small(**changes))


@pytest.mark.parametrize(
    ("target", "subjects", "message"),
    [
        ("TownA", list("abcde"), "the subjects of 'TownA' must be a list of at least 6 texts; found 5"),
        ("TownA", [*"abcde", " f"], "without outer spaces; found ' f'"),
        ("TownA", [*"abcde", "PersonBa"], "names the subject 'personba' twice"),
        ("TownA", [*"abcde", "???"], "'???' has no letter"),
        (" TownF", list("abcdef"), "without outer spaces; found ' TownF'"),
    ],
)
def test_malformed_objects_are_refused(target: str, subjects: list[str], message: str) -> None:
    data = small()
    data["relations"][0]["objects"][target] = subjects
    assert message in refused(data)


def test_a_missing_file_is_a_data_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    module._embedded.cache_clear()
    try:
        with pytest.raises(DataError, match=r"worldfacts\.json cannot be read .*reinstall factedit"):
            relations()
    finally:
        module._embedded.cache_clear()
