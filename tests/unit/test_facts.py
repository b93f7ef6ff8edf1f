"""Requests are refused with what was found."""

from __future__ import annotations

import pytest

from factedit.errors import RequestError
from factedit.facts import EditRequest, KnownFact, fill, notes_on_prompt, notes_on_request, template_of, with_space


@pytest.mark.parametrize(
    ("subject", "prompt", "target", "message"),
    [
        ("", "{} is in", "Paris", "subject is empty"),
        ("  ", "{} is in", "Paris", "subject is empty"),
        ("Rome", "", "Paris", "prompt is empty"),
        ("Rome", "Rome is in", "Paris", r"holds 0 '\{\}'"),
        ("Rome", "{} and {} are in", "Paris", r"holds 2 '\{\}'"),
        ("Rome", "{} is in", " ", "target is empty"),
        ("\u200b", "{} is in", "Paris", "subject is empty"),
        ("Rome", "\ufeff", "Paris", "prompt is empty"),
        ("Rome", "{} is in", "\u200e\u2069", "target is empty"),
    ],
)
def test_bad_requests(subject: str, prompt: str, target: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        EditRequest(subject=subject, prompt=prompt, target_new=target)


def test_other_braces_stay() -> None:
    assert EditRequest(subject="a{b}", prompt="{} x {y}", target_new="z").text == "a{b} x {y}"
    assert fill("{}", "{}") == "{}"


def test_subject_must_be_in_the_prompt() -> None:
    with pytest.raises(RequestError, match="'Rome' does not occur in the prompt 'Paris is in'"):
        template_of("Paris is in", "Rome")
    with pytest.raises(RequestError, match="does not occur"):
        KnownFact(fact_id="1", prompt="Paris is in", subject="Rome", answer="France")
    assert template_of("Rome, Rome", "Rome") == "{}, Rome"
    with pytest.raises(RequestError, match="write it out, with the subject 'Paris' in it"):
        template_of("The set {} of Paris is", "Paris")


@pytest.mark.parametrize(("prompt", "expected"), [("in", " Paris"), ("in ", "Paris"), ("in\n", "Paris")])
def test_one_space_before_the_target(prompt: str, expected: str) -> None:
    assert with_space(prompt, "Paris") == with_space(prompt, "  Paris ") == expected


@pytest.mark.parametrize(
    ("prompt", "target", "expected"),
    [
        ("is\t", "Paris", "Paris"),
        ("It costs $", "5", "5"),
        ('He said "', "Paris", "Paris"),
        ('He said "', " Paris", " Paris"),
        ('the book "Emma"', "was", " was"),
        ("see (", "above", "above"),
        ("He is a Franco-", "German", "German"),
        ("He is a Franco-", " German", " German"),
        ("日本の首都は", "東京", "東京"),
        ("日本の首都は", " 東京", " 東京"),
        ("日本の首都は ", "東京", "東京"),
        ("The capital is", "東京", "東京"),
        ("答案是", "Paris", "Paris"),
        ("答案是？", "巴黎", "巴黎"),
        ("เมืองหลวงคือ", "กรุงเทพ", "กรุงเทพ"),
        ("수도는", "서울", " 서울"),
        ("العاصمة هي", "القاهرة", " القاهرة"),
        ("is", "👍", " 👍"),
    ],
)
def test_what_stands_before_the_target(prompt: str, target: str, expected: str) -> None:
    assert with_space(prompt, target) == expected


def test_whole_words_before_parts_of_words() -> None:
    assert template_of("Catherine has a Cat named", "Cat") == "Catherine has a {} named"
    assert template_of("Catherine is", "Cat") == "{}herine is"
    assert KnownFact(fact_id="1", prompt="Catherine is", subject="Cat", answer="x").subject == "Cat"


def request(prompt: str, target: str) -> EditRequest:
    return EditRequest(subject="Rome", prompt=prompt, target_new=target)


def test_notes_say_what_is_done_with_spaces() -> None:
    assert notes_on_request(request("{} is in", "Italy")) == ()
    assert notes_on_request(request("{}的首都是", "巴黎")) == ()
    [note] = notes_on_request(request("{} is in ", "Italy"))
    assert "ends in white space" in note
    [note] = notes_on_request(request('Of {} he said "', "Italy"))
    assert "No space is put between '\"' and 'Italy'" in note
    assert notes_on_request(request('Of {} he said "', " Italy")) == (), "the writer's own space stays"
    [note] = notes_on_request(request("{} is in", "東京"))
    assert "written without spaces" in note
    [note] = notes_on_request(request("{} is Franco-", "Italian"))
    assert "No space is put between '-' and 'Italian', since a word goes on" in note
    for sign in (", Italy", ")", "»", "% of it"):
        [note] = notes_on_request(request("{} is in", sign))
        assert f"A space is put between 'n' and {sign!r}" in note
        assert notes_on_request(request("{} is in", f" {sign}")) == (), "the writer's own space"
    assert notes_on_request(request("{} is in", "'s-Hertogenbosch")) == ()
    [note] = notes_on_request(request("{} is in\u200b", "Italy"))
    assert "a character that is not seen (U+200B)" in note
    [note] = notes_on_request(request("{} is a", "cafe\u0301"))
    assert "NFC" in note


def test_notes_on_a_prompt_to_trace() -> None:
    assert notes_on_prompt("Catherine has a Cat", "Cat") == ()
    white, part = notes_on_prompt("Catherine is ", "Cat")
    assert "ends in white space" in white
    assert "only as a part of another word" in part


@pytest.mark.parametrize("field", ["subject", "prompt", "target_new", "target_true"])
def test_half_a_character_is_refused_in_a_request(field: str) -> None:
    whole = {"subject": "Rome", "prompt": "{} is in", "target_new": "Paris", "target_true": "Italy"}
    EditRequest(**whole)
    with pytest.raises(RequestError, match=r"'.*\\ud83d.*' holds half a character"):
        EditRequest(**{**whole, field: whole[field] + "\ud83d"})


@pytest.mark.parametrize("field", ["prompt", "subject", "answer", "other_subject"])
def test_half_a_character_is_refused_in_a_fact_to_trace(field: str) -> None:
    whole = {"fact_id": "1", "prompt": "Rome is in", "subject": "Rome", "answer": "Italy", "other_subject": "Oslo"}
    with pytest.raises(RequestError, match="holds half a character"):
        KnownFact(**{**whole, field: "Rome\udce9"})


def test_a_subject_with_other_accents_than_the_prompt_is_told_why() -> None:
    """Before: that it does not occur, of what looks the same."""
    with pytest.raises(RequestError, match="write it as it stands there, where its accents are written otherwise"):
        template_of("Cafe\u0301 Flore is in", "Caf\u00e9 Flore")
    with pytest.raises(RequestError, match=r"write it as it stands there\.$"):
        template_of("Cafe\u0301 Flore is in", "Rome")
