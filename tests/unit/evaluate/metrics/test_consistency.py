"""RS: TF-IDF by hand, and which texts are about what."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from factedit.errors import DataError, UsageError
from factedit.evaluate.metrics.consistency import (
    OWN_SOURCE,
    Consistency,
    References,
    TfIdf,
    own_references,
    read_references,
)
from factedit.facts import EditRequest, FactRecord


def record(case_id: str = "1", new: str = "Paris", true: str = "Rome") -> FactRecord:
    return FactRecord(
        case_id=case_id,
        request=EditRequest(subject="The tower", prompt="{} is in", target_new=new, target_true=true),
        neighborhood=("The forum is in",),
        attribute=("The Louvre is in", "Notre-Dame stands in"),
    )


def test_the_weights_by_hand() -> None:
    """Two documents: a word of both has weight ln(3/3) + 1 = 1, a word of one ln(3/2) + 1."""
    tfidf = TfIdf(["The river, the bridge", "The mountain I saw"])
    rare = math.log(3 / 2) + 1
    found = tfidf.vector("the the RIVER unknown a")
    assert sorted(found[found > 0]) == pytest.approx(sorted([2 * 1.0, rare]))
    one, other = "the bridge", "the mountain"
    assert tfidf.cosine(one, other) == pytest.approx(1 / (1 + rare**2))
    assert tfidf.cosine(one, one) == pytest.approx(1)
    assert tfidf.cosine(one, "nothing known") == 0.0


def test_texts_about_the_new_object_score_higher() -> None:
    found = Consistency(own_references([record(), record("2", new="Rome", true="Lima")]))
    assert found.references.source == OWN_SOURCE
    french = ["The tower is in Paris near the Louvre and Notre-Dame"]
    assert found.compare(record(), french) > found.compare(record(), ["The tower is beside the forum of Rome"]) + 10
    assert found.compare(record(), ["The Louvre is in Paris. Notre-Dame stands in Paris."]) == pytest.approx(100)


def test_references_are_the_data_sets_own_facts() -> None:
    texts = own_references([record(), record("2", new="Rome", true="Paris")]).texts
    assert texts["paris"] == ("The Louvre is in Paris.", "Notre-Dame stands in Paris.", "The forum is in Paris.")
    assert set(texts["rome"]) == {"The forum is in Rome.", "The Louvre is in Rome.", "Notre-Dame stands in Rome."}


def test_nothing_to_compare_is_not_a_zero() -> None:
    found = Consistency(References("file", {"lima": ("Lima is large.",)}))
    assert math.isnan(found.compare(record(), ["some text"]))
    assert math.isnan(found.compare(record(new="Lima"), []))
    assert found.compare(record(new=" lima "), ["large Lima"]) > 50


def test_a_users_file(tmp_path: Path) -> None:
    path = tmp_path / "snippets.json"
    path.write_text(json.dumps({"Paris": ["Paris is the capital of France."]}))
    found = read_references(path)
    assert found.source == "snippets.json"
    assert found.texts == {"paris": ("Paris is the capital of France.",)}
    with pytest.raises(DataError, match="no such file"):
        read_references(tmp_path / "none.json")
    deep = "[" * 100_000 + "]" * 100_000
    wrong = {
        "{": "not JSON",
        deep: "nested too deep",
        '{"Paris": "text"}': "must be a JSON object like",
        "{}": "must be",
    }
    for content, said in wrong.items():
        path.write_text(content)
        with pytest.raises(DataError, match=said):
            read_references(path)


def test_texts_without_words_are_refused() -> None:
    with pytest.raises(UsageError, match="hold no word"):
        TfIdf(["a b", "!"])
    with pytest.raises(UsageError, match="no attribute or neighborhood facts"):
        own_references([FactRecord(case_id="1", request=record().request)])
