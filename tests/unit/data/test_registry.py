from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from factedit.data import registry
from factedit.data.records import RecordSet
from factedit.data.registry import DATASETS, load_dataset, load_facts, load_known, select
from factedit.errors import DataError, ResourceError, UnknownName, UsageError
from factedit.facts import EditRequest, FactRecord, KnownFact

COUNTERFACT: dict[str, Any] = {
    "case_id": 0,
    "requested_rewrite": {
        "subject": "Old Mill", "prompt": "{} lies in", "target_new": {"str": "Bergen"},
        "target_true": {"str": "Turku"},
    },
    "paraphrase_prompts": [],
    "neighborhood_prompts": [],
}  # fmt: skip
ZSRE = {
    "subject": "Old Mill",
    "src": "Old Mill?",
    "rephrase": "b",
    "answers": ["c"],
    "loc": "d",
    "loc_ans": "e",
}
KNOWN = {"known_id": 0, "subject": "Old Mill", "attribute": "Turku", "prompt": "Old Mill lies in"}
REQUEST = {"subject": "Old Mill", "prompt": "{} lies in", "target_new": "Bergen"}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, no data folder, and addresses where nothing answers."""
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("FACTEDIT_DATA", raising=False)
    for row in DATASETS.values():
        url = row.url and "http://127.0.0.1:9/" + row.url.rsplit("/", 1)[-1]
        monkeypatch.setitem(DATASETS, row.name, dataclasses.replace(row, url=url))


def put(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = ("[" + ",\n".join(map(json.dumps, records)) + "]").encode()
    if ".jsonl" in path.name:
        raw = "\n".join(map(json.dumps, records)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


CONFLICT = {
    "edits": [
        {"relation": {"id": "P26", "prompt": "The spouse of {} is"}, "subject": {"label": a}, "object": {"label": b},
         "new_object": {"label": c}}
        for a, b, c in (("Ann", "Ben", "Carl"), ("Carl", "Ann", "Dora"))
    ]
}  # fmt: skip
MQUAKE = {
    "case_id": 1,
    "requested_rewrite": [
        {"prompt": "{} is in", "subject": "Paris", "question": "Where is Paris?", "relation_id": "P17",
         "target_new": {"str": "Italy"}, "target_true": {"str": "France"}},
    ],
    "questions": ["What is the capital of the country of Paris?"], "answer": "Paris", "new_answer": "Rome",
    "new_single_hops": [{"cloze": "Paris is in", "answer": "Italy"}, {"cloze": "The capital of Italy is",
                                                                      "answer": "Rome", "answer_alias": ["Roma"]}],
    "orig": {"new_triples": [["Q90", "P17", "Q38"], ["Q38", "P36", "Q220"]], "edit_triples": [["Q90", "P17", "Q38"]]},
}  # fmt: skip
FLAT = {"subject": "Paris", "prompt": "Paris is in", "target_new": "Rome"}
EXAMPLES = {
    "counterfact": COUNTERFACT, "counterfact-reconstructed": COUNTERFACT, "zsre": ZSRE, "zsre-train": ZSRE,
    "known-facts": KNOWN, **dict.fromkeys(("counterfact-flat", "wikibigedit", "qaedit", "knowedit"), FLAT),
    **dict.fromkeys(("mquake", "mquake-unbroken"), MQUAKE),
    **dict.fromkeys(("conflicts-reverse", "conflicts-composite"), CONFLICT),
    "known-panel": {"subject": "Paris", "prompt": "{} is in", "target": "France"},
}  # fmt: skip


def test_the_table_is_complete() -> None:
    assert list(DATASETS) == [
        "worldfacts", "counterfact", "counterfact-reconstructed", "zsre", "zsre-train", "counterfact-flat",
        "wikibigedit", "qaedit", "knowedit", "mquake", "mquake-unbroken", "conflicts-reverse", "conflicts-composite",
        "known-facts", "known-panel", "worldfacts-known",
    ]  # fmt: skip
    for name, row in DATASETS.items():
        assert row.name == name
        assert row.what
        assert row.source
        assert (row.embedded is None) == (row.reader is not None) == bool(row.files)
        assert row.kind == ("known" if "known" in name else "facts")
    assert set(EXAMPLES) == {name for name, row in DATASETS.items() if row.files}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_local_name_is_found_in_the_data_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, file in enumerate(DATASETS[name].files):
        folder = tmp_path / f"data{number}"
        path = put(folder / file, EXAMPLES[name])
        monkeypatch.setenv("FACTEDIT_DATA", str(folder))
        found = load_dataset(name)
        assert (found.name, len(found.records), found.source) == (name, 1, str(path))


def test_the_data_folder_goes_before_the_cache_and_the_cache_before_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = put(tmp_path / "cache" / "datasets" / "known_1000.json", KNOWN, {**KNOWN, "known_id": 1})
    assert load_dataset("known-facts").source == str(cached)
    monkeypatch.setenv("FACTEDIT_DATA", str(tmp_path))
    assert load_dataset("known-facts").source == str(cached)
    named = put(tmp_path / "known_1000.json", KNOWN)
    assert load_dataset("known-facts").source == str(named)


def test_the_complete_published_file_goes_before_a_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "counterfact" / "counterfact_original.json", COUNTERFACT)
    whole = put(tmp_path / "counterfact.json", COUNTERFACT)
    monkeypatch.setenv("FACTEDIT_DATA", str(tmp_path))
    assert load_dataset("counterfact").source == str(whole)


def test_without_a_file_or_network_the_message_says_where_to_put_it() -> None:
    with pytest.raises(ResourceError, match=r"counterfact\.json could not be downloaded .* FACTEDIT_DATA"):
        load_dataset("counterfact")
    with pytest.raises(
        ResourceError, match=r"local file only .* Put counterfact_reconstructed\.jsonl\.gz .*FACTEDIT_DATA"
    ):
        load_dataset("counterfact-reconstructed")


def test_a_data_folder_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_DATA", str(tmp_path / "gone"))
    with pytest.raises(UsageError, match=r"FACTEDIT_DATA names .*gone, which is not a folder"):
        load_dataset("zsre")


@pytest.mark.parametrize("name", ["worldfacts", "worldfacts-known"])
def test_embedded_sets_need_no_file_and_are_known_by_their_content(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_dataset(name)
    assert len(found.records) > 100
    assert found == load_dataset(name)
    row = DATASETS[name]
    assert row.embedded is not None
    records = list(row.embedded())
    fewer = dataclasses.replace(row, embedded=lambda: records[1:])
    monkeypatch.setitem(DATASETS, name, fewer)
    other = load_dataset(name)
    assert (found.records[1:], len(found.sha256)) == (other.records, 64)
    assert found.sha256 != other.sha256


def test_the_checksum_of_an_embedded_set_covers_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = []
    for target in ("Bergen", "Oslo"):
        record = FactRecord(case_id="0", request=EditRequest(**{**REQUEST, "target_new": target}))
        row = dataclasses.replace(DATASETS["worldfacts"], embedded=lambda record=record: [record])
        monkeypatch.setitem(DATASETS, "worldfacts", row)
        prints.append(load_dataset("worldfacts").sha256)
    assert prints[0] != prints[1]


def test_a_row_without_records_or_reader_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    row = registry.Dataset(name="hollow", kind="facts", what="-", source="-")
    monkeypatch.setitem(DATASETS, "hollow", row)
    with pytest.raises(DataError, match="'hollow' has neither records of its own nor a reader"):
        load_dataset("hollow")


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"Unknown data set 'conterfact'.*counterfact.*Or give a file: \.json"):
        load_dataset("conterfact")


@pytest.mark.parametrize(
    ("record", "kind"),
    [(COUNTERFACT, FactRecord), (ZSRE, FactRecord), (KNOWN, KnownFact), (REQUEST, FactRecord)],
)
@pytest.mark.parametrize("name", ["own.json", "own.jsonl", "own.jsonl.gz"])
def test_the_format_of_a_file_is_told_by_its_fields(
    tmp_path: Path, record: dict[str, Any], kind: type, name: str
) -> None:
    path = put(tmp_path / name, record)
    found = load_dataset(path)
    assert (found.name, found.source) == (name, str(path))
    assert isinstance(found.records[0], kind)
    assert load_dataset(str(path)) == found


@pytest.mark.parametrize("fields", [{"subject": "a", "text": "b"}, {**KNOWN, **REQUEST}, {}])
def test_a_file_of_unclear_format_is_refused_with_the_formats_known(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(put(tmp_path / "own.jsonl", fields))
    assert "own.jsonl, line 1" in str(caught.value)
    assert "do not tell one format. Known: CounterFact: requested_rewrite; zsRE" in str(caught.value)
    for field in fields:
        assert repr(field) in str(caught.value)


def test_files_without_records_or_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no records"):
        load_dataset(put(tmp_path / "own.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        load_dataset("gone.jsonl")
    with pytest.raises(DataError, match="not a kind of file"):
        load_dataset(tmp_path)


def test_facts_to_edit_and_to_trace_are_kept_apart(tmp_path: Path) -> None:
    own = put(tmp_path / "own.jsonl", REQUEST)
    assert isinstance(load_facts("worldfacts"), RecordSet)
    assert load_facts(own).records[0].request == EditRequest(**REQUEST)
    assert load_known("worldfacts-known").records[0].answer
    for name in ("known-facts", "worldfacts-known"):
        with pytest.raises(UsageError, match=f"{name} does not hold facts to edit. Choose one of worldfacts, "):
            load_facts(name)
    for wrong in ("zsre", own):
        with pytest.raises(
            UsageError, match=r"does not hold facts to trace\. Choose one of known-facts, known-panel, world"
        ):
            load_known(wrong)
    with pytest.raises(UnknownName):
        load_known("zzz")


def facts(*ids: str) -> list[KnownFact]:
    return [KnownFact(fact_id=one, prompt="Rome is", subject="Rome", answer="a") for one in ids]


def names(found: tuple[KnownFact, ...]) -> list[str]:
    return [fact.fact_id for fact in found]


HUNDRED = facts(*map(str, range(100)))


def test_all_records_by_default() -> None:
    assert select(HUNDRED) == tuple(HUNDRED)


def test_tune_is_every_id_divisible_by_four_and_report_the_others() -> None:
    tune, report = select(HUNDRED, split="tune"), select(HUNDRED, split="report")
    assert names(tune) == [str(number) for number in range(0, 100, 4)]
    assert sorted(names(tune + report), key=int) == names(tuple(HUNDRED))


def test_ids_that_are_no_numbers_are_split_by_a_hash_that_stays() -> None:
    words = facts(*(f"P1/town{number}" for number in range(400)), "²", "-4")
    tune = names(select(words, split="tune"))
    assert 70 < len(tune) < 130
    assert tune[:4] == ["P1/town9", "P1/town10", "P1/town11", "P1/town12"]
    assert len(tune) + len(select(words, split="report")) == 402


def test_a_draw_keeps_the_order_and_depends_on_ids_and_seed_alone() -> None:
    drawn = names(select(HUNDRED, limit=10, seed=3))
    assert drawn == sorted(set(drawn), key=int)
    assert len(drawn) == 10
    assert set(names(select(HUNDRED[::-1], limit=10, seed=3))) == set(drawn)
    assert set(names(select(HUNDRED, limit=10, seed=4))) != set(drawn)
    assert set(drawn) < set(names(select(HUNDRED, limit=20, seed=3)))
    assert select(HUNDRED, limit=100, seed=3) == tuple(HUNDRED)


def test_every_record_is_as_likely_to_be_drawn() -> None:
    counts = dict.fromkeys(names(tuple(HUNDRED)), 0)
    for seed in range(400):
        for name in names(select(HUNDRED, limit=25, seed=seed)):
            counts[name] += 1
    assert min(counts.values()) > 65  # 100 expected, standard deviation 8.7
    assert max(counts.values()) < 135


def test_a_draw_stays_within_the_split() -> None:
    drawn = names(select(HUNDRED, limit=5, seed=0, split="tune"))
    assert all(int(name) % 4 == 0 for name in drawn)


def test_ids_give_those_records_in_the_order_of_the_file() -> None:
    assert names(select(HUNDRED, ids=["40", "7", "40"])) == ["7", "40"]
    assert len(select(HUNDRED, ids=["40", "7", "3"], limit=2)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": ["7", "x", "200"]}, "No record 200, x among the 100 of the split 'all'"),
        ({"ids": ["7"], "split": "tune"}, "No record 7 among the 25 of the split 'tune'"),
        ({"ids": []}, "No record is left of 100"),
        ({"limit": 101}, "101 records were asked for; give a number from 1 to 100"),
        ({"limit": 26, "split": "tune"}, "26 records were asked for; give a number from 1 to 25"),
        ({"limit": 0}, "0 records were asked for"),
        ({"limit": -1}, "-1 records were asked for"),
        ({"split": "train"}, "Unknown split 'train'"),
    ],
)
def test_what_cannot_be_selected_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(HUNDRED, **arguments)
    assert message in str(caught.value)


def test_a_split_without_records_is_refused() -> None:
    with pytest.raises(UsageError, match="No record is left of 2: the split 'tune'"):
        select(facts("1", "2"), split="tune")


@pytest.mark.data
def test_the_data_folder_gives_all_published_sets(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_DATA", str(data_dir))
    counts = {
        "counterfact": 404,
        "zsre": 800,
        "zsre-train": 1000,
        "known-facts": 1000,
        "knowedit": 839,
        "known-panel": 10266,
    }
    for name, count in counts.items():
        if not any((data_dir / file).is_file() for file in DATASETS[name].files):
            pytest.skip(f"{name} is not in the data folder")
        found = load_dataset(name)
        assert (len(found.records), found.skipped) == (count, 0)


@pytest.mark.parametrize(
    ("row", "benchmark"),
    [(MQUAKE, "mquake"), (CONFLICT, "conflicts"), (FLAT | {"portability": {}}, "knowedit"), (FLAT, "zsre")],
)
def test_a_users_file_is_known_by_its_fields(row: dict[str, object], benchmark: str, tmp_path: Path) -> None:
    assert load_facts(put(tmp_path / "own.jsonl", row)).benchmark == benchmark
