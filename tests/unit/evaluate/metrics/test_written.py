"""Written answers by hand, and against greedy decoding spelled out on a whole model."""

from __future__ import annotations

import math

import pytest
import torch

import tiny_tokenizers
from conftest import tiny
from factedit.evaluate.measures import Measures
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metric import Answered, Outcome
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.written import QUESTION, WrittenAnswers, repeated
from factedit.evaluate.told import not_executed
from factedit.evaluate.writing import Writing, Written, can_be_matched, exact, first_sentence, sentence_ends, squad
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from plain import encode, logits
from stack_cases import random_edit

RECORD = FactRecord(
    case_id="1",
    request=EditRequest(subject="Paris", prompt="{} is in", target_new="the Netherlands", target_true="France"),
    neighborhood=("Seattle is in", "The sport of"),
)


def text(words: str, *ids: int, special: int = 0) -> Writing:
    return Writing(words, ids, special)


def scored(*replies: Writing | None, before: tuple[Writing | None, ...] = (), record: FactRecord = RECORD) -> Outcome:
    return WrittenAnswers().scored(Answered(record, replies, before or replies))


@pytest.mark.parametrize(
    ("written", "target", "same"),
    [
        (" The Netherlands. It is", "the Netherlands", True),  # article, case, what follows the stop
        (" Netherlands\nParis is", "the Netherlands", True),
        (" Netherlands", "the Netherlands.", True),
        (" the Netherlands, in Europe.", "the Netherlands", False),
        (" the nether lands.", "the Netherlands", False),
        ("\nthe Netherlands", "the Netherlands", False),  # the line ended before it
        (" “An” O'Hara  Airport", "ohara airport", False),  # typographic quotes are no ASCII punctuation
        (' "An" O\'Hara  Airport.', "ohara airport", True),
        ("", "the Netherlands", False),
        (" theatre", "atre", False),  # an article is a word
        # a sentence ends in the full stop of its script; accents are composed
        ("東京。日本の", "東京", True),
        ("दिल्ली। वह", "दिल्ली", True),
        ("ပါရီ။ ", "ပါရီ", True),
        ("لاہور۔", "لاہور", True),
        (" Cafe\u0301. ", "Café", True),
        ("東京", "東京。", True),
        ("東京都。", "東京", False),
    ],
)
def test_exact_match_after_squads_normalisation(written: str, target: str, same: bool) -> None:
    assert exact(written, target) is same


def test_normalisation_and_the_first_sentence() -> None:
    assert squad("  A  Man, the (Plan) an\tB ") == "man plan b"
    assert first_sentence(" New York. Then") == " New York"
    assert first_sentence("one line\r\nnext") == "one line"
    assert can_be_matched("Acme Inc.")
    assert not can_be_matched("St. Louis")
    assert not can_be_matched("東京。大阪")
    assert can_be_matched("東京。")
    assert not can_be_matched("The"), "nothing is left to compare"


def test_repetitions_by_hand() -> None:
    assert repeated("Lee Unkrich Lee Unkrich Lee Unkrich") == pytest.approx(2 / 4)  # LUL, ULU, LUL, ULU
    assert repeated("a b c d") == repeated("a a") == repeated("") == 0
    assert repeated("no no no no no") == pytest.approx(2 / 3)  # one trigram, three times


def test_scores_by_hand() -> None:
    bare = text(" the Netherlands, and the Netherlands, and the Netherlands.", 5, 2, 9, 1, special=1)
    found = scored(
        bare, text(" Netherlands."), None, text(" x", 7, 8), text(" y", 3),
        before=(bare, text(" France."), None, text(" x", 7, 8), text(" y", 3, 4)),
    )  # fmt: skip
    # words: the Netherlands , and the Netherlands , and the Netherlands . : 11, 9 trigrams, 4 of them new and "…."
    expected = {
        "bare_exact": 0.0, "bare_opens": 100.0, "qa_exact": 100.0, "qa_opens": 0.0, "written_stays": 50.0,
        "written_repeats": 100 * (1 - 5 / 9), "written_specials": 25.0,
    }  # fmt: skip
    assert {name: found.scores[name] for name in expected} == pytest.approx(expected)
    assert math.isnan(found.scores["chat_exact"])
    assert math.isnan(found.scores["chat_opens"])
    assert found.tests["chat_exact"] == found.tests["chat_opens"] == (0, 1)
    assert found.tests["written_stays"] == (2, 0)
    assert found.texts["written"]["chat"] == "the tokenizer has no chat template that works"


def test_an_object_with_a_stop_inside_cannot_be_matched_and_is_counted() -> None:
    record = FactRecord(case_id="2", request=EditRequest(subject="a", prompt="{} is", target_new="St. Louis"))
    found = scored(text(" St. Louis. It"), text(" St."), text(" no"), record=record)
    for form in ("bare", "qa", "chat"):
        assert math.isnan(found.scores[f"{form}_exact"])
        assert found.tests[f"{form}_exact"] == (0, 1)
    assert [found.scores[f"{form}_opens"] for form in ("bare", "qa", "chat")] == [100.0, 0.0, 0.0]
    assert found.tests["written_stays"] == (0, 0), "no neighbours, no tests"


def greedy(model: EditableModel, prompt: str, stop: bool, tokens: int) -> list[int]:
    """The likeliest tokens one by one, each from a whole pass."""
    ids, added = encode(model, prompt), []
    while len(added) < min(tokens, model.context_length - len(ids)):
        token = int(logits(model, [*ids, *added])[-1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        added.append(token)
        if stop and any(mark in model.tokenizer.decode([token]) for mark in ".\n\r"):
            break
    return added


@torch.no_grad()
def test_what_is_asked_and_written_equals_decoding_spelled_out() -> None:
    model = tiny("gpt2")
    edit = random_edit(model, 3, layer=1)
    asks = WrittenAnswers(9).asks(RECORD)
    assert [ask.prompt for ask in asks] == [
        "Paris is in", "Please answer the question:\n\nQ: Paris is in\nA:", "Paris is in", *RECORD.neighborhood
    ]  # fmt: skip
    assert [ask.chat for ask in asks] == [False, False, True, False, False]
    [plain], [edited] = Written.read(model, [asks], [None, [edit]], seed=0)
    assert plain[2] is edited[2] is None, "the tokenizer has no chat template"
    for n in (0, 1, 3, 4):
        assert list(plain[n].ids) == greedy(model, asks[n].prompt, n != 0, 9)
    with edit.applied_to(model):
        for n in (0, 1, 3, 4):
            assert list(edited[n].ids) == greedy(model, asks[n].prompt, n != 0, 9)
    assert plain != edited
    assert plain[0].text == model.tokenizer.decode(plain[0].ids)


@pytest.mark.parametrize("tokenizer", [tiny_tokenizers.gemma_like, None])
def test_the_ends_of_sentences_are_all_tokens_with_a_stop_or_a_line_end(tokenizer: object) -> None:
    model = tiny("gpt2") if tokenizer is None else tiny_tokenizers.model_with(tokenizer())
    every = range(len(model.tokenizer))
    expected = {t for t in every if any(mark in model.tokenizer.decode([t]) for mark in ".\n\r。।")}
    assert sentence_ends(model) == expected
    assert expected


def test_a_full_stop_of_another_script_ends_a_sentence_in_a_vocabulary_of_bytes() -> None:
    """As GPT-2 spells them: "。" is three bytes, one token where it is merged."""
    model = tiny_tokenizers.model_with(tiny_tokenizers.spelling("。", "दिल्ली।", "東"))
    spelled = {model.tokenizer.decode([token]): token for token in range(len(model.tokenizer))}
    assert {spelled["。"], spelled["दिल्ली।"]} <= sentence_ends(model)
    assert spelled["東"] not in sentence_ends(model)


def test_a_sentence_ends_a_row_of_its_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that ends the sentence is kept; other rows go on, and so does the one that is to be whole."""
    model = tiny("gpt2")
    [[long, other]] = Written.read(model, [[Written("Paris", whole=True, tokens=6), Written("The", tokens=6)]],
                                   [None], seed=0)[0]  # fmt: skip
    monkeypatch.setattr("factedit.evaluate.writing.sentence_ends", lambda _model: frozenset([long.ids[2]]))
    asked = [[Written("Paris", tokens=6), Written("Paris", whole=True, tokens=6)]]
    [[stopped, whole]] = Written.read(model, asked, [None], seed=0)[0]
    assert stopped.ids == long.ids[: long.ids.index(long.ids[2]) + 1]
    assert whole == long
    assert len(other.ids) <= 6


def test_a_chat_template_goes_around_what_an_edit_says() -> None:
    model = tiny_tokenizers.model_with(tiny_tokenizers.gemma_like())
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n"
        "{% endfor %}{{ '<start_of_turn>model\\n' }}"
    )
    [[reply]] = Written.read(model, [[Written("Paris", chat=True, whole=True, tokens=4)]], [None], seed=0)[0]
    ids = model.tokenizer("<bos><start_of_turn>user\nParis<end_of_turn>\n<start_of_turn>model\n",
                          add_special_tokens=False)["input_ids"]  # fmt: skip
    expected: list[int] = []
    with torch.no_grad():
        while len(expected) < 4:
            expected.append(int(logits(model, [*ids, *expected])[-1].argmax()))
    assert list(reply.ids) == expected


def test_measured_under_edits_with_counts_and_company() -> None:
    model = tiny("gpt2")
    edit = random_edit(model, 3, layer=1)
    [[plain], [edited]] = measure(model, [RECORD], [WrittenAnswers(6)], [AS_IT_IS, Under([edit])], seed=0)
    assert plain.scores["written_stays"] == 100.0
    assert edited.scores["written_stays"] == 0.0
    assert edited.tests["chat_exact"] == (0, 1)
    assert not edited.left_out
    key = Measures(metrics=(Free(), WrittenAnswers(6))).as_key()["metric written"]
    assert key == {"tokens": 6, "question": QUESTION, "n_gram": 3}


def test_special_tokens_are_counted_in_what_was_written_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt's start token does not count, the turn's end that was written does, and it is no part of the text."""
    model = tiny_tokenizers.model_with(tiny_tokenizers.gemma_like())
    start, end, paris = model.tokenizer.convert_tokens_to_ids(["<bos>", "<end_of_turn>", "▁Paris"])
    rows = [((start, start, paris), [end, paris])]
    monkeypatch.setattr("factedit.evaluate.writing.continued", lambda *_a, **_k: rows)
    [[reply]] = Written.read(model, [[Written("Paris")]], [None], seed=0)[0]
    assert reply == Writing(" Paris", (end, paris), 1)


def test_what_was_not_executed_is_told_beside_a_metric_that_left_the_record_out() -> None:
    """Before: a record that any metric left out told nothing of the others' tests."""
    rows = {
        "1": {"tests": {"chat_exact": [0, 1], "GE": [0, 1], "ES": [1, 0]}, "left_out": {"generation-entropy": "why"}},
        "2": {"tests": {"chat_exact": [0, 1], "GE": [1, 0], "ES": [1, 0]}},
        "3": {"tests": {"chat_exact": [0, 1], "ES": [0, 1]}, "left_out": {"teacher-forced": "too long"}},
    }
    assert not_executed({"rome": rows}) == {"rome": {"chat_exact": [0, 2]}}


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('only system turns') }}", "TemplateError: only system turns"),
        ("{% for m in messages %}{{ m.content }", "TemplateSyntaxError: unexpected"),
        ({"tool_use": "{{ messages }}"}, "ValueError: "),
        ("{{ messages[1].content }}", "UndefinedError: "),
    ],
)
def test_a_template_that_fails_takes_the_chat_form_alone(
    template: object, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before: the record lost its other forms, too."""
    model = tiny("gpt2")
    model.name = f"a model whose template says {why}"
    model.tokenizer.chat_template = template
    [[found]] = measure(model, [RECORD], [WrittenAnswers(2)], [AS_IT_IS], seed=0)
    assert found.tests["chat_opens"] == found.tests["chat_exact"] == (0, 1)
    assert found.tests["bare_opens"] == found.tests["qa_opens"] == (1, 0)
    assert not found.left_out
    [said] = [record.message for record in caplog.records if "chat form" in record.message]
    assert f"the tokenizer's chat template fails, {why}" in said


def test_that_there_is_no_chat_template_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("gpt2")
    model.name = "a model of this test"
    for _ in range(2):
        Written.read(model, [[Written("Paris", chat=True, tokens=1)]], [None], seed=0)
    said = [record.message for record in caplog.records if "chat form" in record.message]
    assert said == [
        "The chat form of written answers is left out: the tokenizer has no chat template (a model of this test)."
    ]
