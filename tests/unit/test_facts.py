"""Requests are refused with what was found."""

from __future__ import annotations

import pytest

from factedit.errors import RequestError
from factedit.facts import EditRequest, KnownFact, fill, template_of, with_space


@pytest.mark.parametrize(
    ("subject", "prompt", "target", "message"),
    [
        ("", "{} is in", "Paris", "subject is empty"),
        ("  ", "{} is in", "Paris", "subject is empty"),
        ("Rome", "", "Paris", "prompt is empty"),
        ("Rome", "Rome is in", "Paris", r"holds 0 '\{\}'"),
        ("Rome", "{} and {} are in", "Paris", r"holds 2 '\{\}'"),
        ("Rome", "{} is in", " ", "target is empty"),
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
