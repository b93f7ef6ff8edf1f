"""The right token: start tokens, spaces, places, repeats, scripts, merges at the border."""

from __future__ import annotations

import pytest

from conftest import tiny
from factedit.errors import RequestError
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, locate, strings, tokenize

PLAIN, STARTED = tiny("gpt2"), tiny("gpt2", start=True)
BOTH = pytest.mark.parametrize("model", [PLAIN, STARTED], ids=["plain", "start token"])


def subject_text(model: EditableModel, template: str, subject: str, **kwargs: str) -> str:
    found = locate(model, template, subject, **kwargs)
    begin, end = found.subject_range
    return model.tokenizer.decode(found.ids[begin:end])


@BOTH
@pytest.mark.parametrize(
    ("template", "subject"),
    [
        ("{} is in downtown", "The Space Needle"),
        ("The mother tongue of {} is", "Danielle Darrieux"),
        ("Who is {}", "LeBron James"),
        ("{}", "Paris"),
        ("In {}, the", "東京"),
        ("{}: Москва", "Café Zürich"),
        ("say ({})", "Москва"),
    ],
)
def test_subject_is_found(model: EditableModel, template: str, subject: str) -> None:
    assert subject_text(model, template, subject).strip() == subject


@BOTH
def test_subject_last_is_its_last_token(model: EditableModel) -> None:
    found = locate(model, "{} is in downtown", "The Space Needle")
    assert strings(model, found.ids)[found.subject_last].endswith("e")
    assert strings(model, found.ids)[found.subject_last + 1] == " is"


def test_the_start_token_is_not_the_subject() -> None:
    assert locate(STARTED, "{} is", "Paris").subject_range[0] == locate(PLAIN, "{} is", "Paris").subject_range[0] + 1


@BOTH
def test_braces_say_which_occurrence(model: EditableModel) -> None:
    first = locate(model, "{} plays, says Paris", "Paris").subject_range
    second = locate(model, "Paris plays, says {}", "Paris").subject_range
    assert first[0] < second[0]


@BOTH
def test_a_suffix_does_not_move_the_subject(model: EditableModel) -> None:
    alone = locate(model, "The capital of {} is", "France")
    longer = locate(model, "The capital of {} is", "France", suffix=" Paris")
    assert alone.subject_range == longer.subject_range
    assert longer.ids[: len(alone.ids)] == alone.ids


def test_a_token_shared_with_a_neighbour_counts_as_the_subjects() -> None:
    """' basketball' is one token here: the subject 'basket' shares it with what follows."""
    found = locate(PLAIN, "sport of {}ball.", "basket")
    assert subject_text(PLAIN, "sport of {}ball.", "basket").strip().startswith("basket")
    assert found.text[found.spans[found.subject_last][0] : found.spans[found.subject_last][1]].strip() in "basketball"


@BOTH
def test_one_token_subject(model: EditableModel) -> None:
    begin, end = locate(model, "{} is in", "The").subject_range
    assert end - begin == 1


@BOTH
@pytest.mark.parametrize(("prompt", "target"), [("Paris is", "the capital"), ("Paris is ", "the capital")])
def test_continuation_splits_at_the_target(model: EditableModel, prompt: str, target: str) -> None:
    ids, first = continuation(model, prompt, target)
    assert model.tokenizer.decode(ids[first:]).strip() == target
    assert model.tokenizer.decode(ids[:first], skip_special_tokens=True).strip() == "Paris is"


def test_an_end_token_is_dropped() -> None:
    from tokenizers.processors import TemplateProcessing

    model = tiny("gpt2")
    model.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert tokenize(model, "Paris is").ids[0] == 1
    assert tokenize(model, "Paris is").ids[-1] != 2


def test_too_long_and_empty_texts_are_refused() -> None:
    with pytest.raises(RequestError, match=r"tokens; tiny-gpt2 reads 64\. Shorten it"):
        tokenize(PLAIN, "Paris is " * 60)
    with pytest.raises(RequestError, match="has no tokens"):
        tokenize(PLAIN, "")
    with pytest.raises(RequestError, match="No token"):
        tokenize(PLAIN, "Paris is").tokens_of(3, 3)
