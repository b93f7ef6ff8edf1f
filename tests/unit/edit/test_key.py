"""Contexts of k*: sampled by the model, kept by the caller, the bare prompt first."""

from __future__ import annotations

import pytest

from conftest import tiny
from factedit.edit.key import check_contexts, sample_contexts
from factedit.errors import UsageError


def test_there_are_as_many_as_asked_for() -> None:
    model = tiny("gpt2")
    bare, *others = sample_contexts(model, ((2, 4), (1, 7)), seed=3)
    assert bare == "{}"
    assert all(text.endswith(". {}") and text.count("{") == text.count("}") == 1 for text in others)
    assert len(others) == 3
    assert len({*others}) == 3, "each is a text of its own"


def test_each_opening_begins_its_own_texts() -> None:
    found = sample_contexts(tiny("gpt2"), ((2, 6),), seed=3, openings=("The", "Paris"))
    assert [text.startswith("The") for text in found[1:3]] == [True, True]
    assert [text.startswith("Paris") for text in found[3:]] == [True, True]
    assert len(found) == 5


def test_they_depend_on_the_model_and_the_seed_alone() -> None:
    model = tiny("gpt2")
    found = sample_contexts(model, ((3, 6),), seed=3)
    assert sample_contexts(tiny("gpt2"), ((3, 6),), seed=3) == found
    assert sample_contexts(model, ((3, 6),), seed=4) != found
    assert sample_contexts(tiny("gpt2", seed=1), ((3, 6),), seed=3) != found
    assert sample_contexts(model, (), seed=3) == ("{}",), "no texts are sampled where none are asked for"


def test_a_users_contexts_come_after_the_bare_one() -> None:
    assert check_contexts(["So {}", "{}", "And {}"]) == ("{}", "So {}", "And {}")
    assert check_contexts(["So {}"]) == ("{}", "So {}")


@pytest.mark.parametrize("template", ["nothing", "{} and {}", "", 3, None])
def test_a_template_without_one_place_is_refused(template: object) -> None:
    with pytest.raises(UsageError, match="must be a text with exactly one"):
        check_contexts(["{}", template])


@pytest.mark.parametrize("given", [5, "a {}", {"{}": 1}, True, 1.5])
def test_contexts_of_another_type_are_refused(given: object) -> None:
    """As `--set context_templates=5` gives them; a text would be read as its letters."""
    with pytest.raises(UsageError, match="must be a list of texts"):
        check_contexts(given)  # type: ignore[arg-type]
    assert check_contexts([]) == check_contexts(()) == ("{}",)
