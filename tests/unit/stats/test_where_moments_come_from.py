"""Which second moment an edit takes: a file, a text, what ships, the model's own text; and what is refused."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from conftest import random_moment, tiny
from factedit.errors import DataError
from factedit.models.adapter import EditableModel
from factedit.stats import provide
from factedit.stats.experts_moment import ExpertsMoment
from factedit.stats.moment_places import corpus_of, moment_path
from factedit.stats.provide import (
    TOKENS_PER_KEY_ENTRY,
    Moments,
    Text,
    _tokens_for,
    own_text,
    ready_moment,
    shipped_moment,
    shipped_name,
)
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import write_moment
from factedit.stats.subjects import plain_name, subject_keys
from plain import token_at, value_at


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def moment(model: EditableModel, tokens: int, corpus: str = "a text") -> SecondMoment:
    own = random_moment(model.d_mlp)
    return SecondMoment(own.matrix * tokens, 1, tokens, model.fingerprint(), corpus)


def kept(model: EditableModel, own: SecondMoment) -> Path:
    return write_moment(moment_path(model, own.corpus, own.tokens, 1), own)


def test_a_users_file_comes_before_everything(model: EditableModel, tmp_path: Path) -> None:
    path = write_moment(tmp_path / "mine.safetensors", moment(model, 5, "mine"))
    text = Text("never read", lambda: pytest.fail("the text is read"))
    found = Moments(file=path, corpus=text)(model, 1)
    assert found.corpus == "mine"
    with pytest.raises(DataError, match="was made for layer 1; layer 2 was asked for"):
        Moments(file=path)(model, 2)
    with pytest.raises(DataError, match="made for weights"):
        Moments(file=path)(tiny("gpt2", seed=4), 1)
    with pytest.raises(DataError, match="is not a readable safetensors file"):
        Moments(file=tmp_path / "nothing.safetensors")(model, 1)
    with pytest.raises(DataError, match="it is a folder or a pipe"):
        Moments(file=tmp_path)(model, 1)


def test_a_file_of_another_form_says_what_it_should_be(model: EditableModel, tmp_path: Path) -> None:
    """Before, a width that nobody knew was said to be "[None, None]"."""
    from safetensors.torch import save_file

    from factedit.stats.store import read_moment

    save_file({"second_moment": torch.ones(3, 4)}, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"is \[3, 4\]; it must be square\. Compute it with 'factedit stats'\."):
        read_moment(tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"is \[3, 4\]; the model's keys need \[128, 128\]\."):
        Moments(file=tmp_path / "c.safetensors")(model, 1)


def test_a_named_text_is_read_to_the_number_of_tokens(model: EditableModel) -> None:
    told: list[tuple[str, int, int]] = []
    text = Text("words", lambda: ["Paris is the capital of France. " * 40])
    found = Moments(corpus=text, tokens=70, progress=lambda *own: told.append(own))(model, 1)
    assert (found.tokens, found.corpus, found.layer) == (70, "words", 1)
    assert told[-1] == ("words", 70, 70)
    several = Moments(corpus=text, tokens=70).compute(model, [1, 2])
    assert several[1].fingerprint == found.fingerprint, "one pass over the text for all layers"
    with pytest.raises(DataError, match="No text was read"):
        Moments(corpus=Text("nothing", list), tokens=5)(model, 1)


def test_a_text_is_asked_for_ten_tokens_per_entry_of_a_key(model: EditableModel) -> None:
    assert _tokens_for(model, 0) == TOKENS_PER_KEY_ENTRY * model.d_mlp == 1280
    experts = tiny("mixtral")  # 4 experts of width 48, of which a token gets two
    assert _tokens_for(experts, 0) == 10 * 4 * 48 // 2


def test_of_cache_and_package_the_one_of_most_tokens_is_ready(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For what asks without computing, e.g. how far apart two facts are."""
    monkeypatch.setattr(provide, "shipped_moment", lambda _fingerprint, _layer: None)
    assert ready_moment(model, 1) is None
    kept(model, moment(model, 40, "small"))
    kept(model, moment(model, 60, "larger"))
    found = ready_moment(model, 1)
    assert found is not None
    assert (found.tokens, found.corpus) == (60, "larger")
    monkeypatch.setattr(provide, "shipped_moment", lambda _fingerprint, _layer: moment(model, 90, "shipped"))
    shipped = ready_moment(model, 1)
    assert shipped is not None
    assert shipped.corpus == "shipped"
    assert ready_moment(tiny("mixtral"), 1) is None, "of experts none"


def test_other_texts_in_the_cache_are_told_in_words(model: EditableModel) -> None:
    taken = moment(model, 50, "taken")
    for own in (taken, moment(model, 40, "other"), moment(model, 30, "third")):
        kept(model, own)
    assert Moments().others_in_cache(model, 1, taken) == "other; third"
    assert Moments().others_in_cache(model, 2, taken) == "", "of another layer"
    named = Moments(corpus=Text("x", list))
    assert named.others_in_cache(model, 1, taken) == "", "who names a text knows which"


def test_a_file_that_does_not_say_its_text_says_nothing(tmp_path: Path) -> None:
    assert corpus_of(tmp_path / "nothing") == ""
    (tmp_path / "broken").write_bytes(b"no such thing")
    assert corpus_of(tmp_path / "broken") == ""


def test_what_ships_is_for_the_weights_its_name_says(
    model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = model.fingerprint()
    assert shipped_name(fingerprint, 3) == f"{fingerprint[:16]}-layer3.safetensors"
    assert shipped_moment(fingerprint, 1) is None
    monkeypatch.setattr(provide, "files", lambda _package: tmp_path)
    (tmp_path / "shipped").mkdir()
    write_moment(tmp_path / "shipped" / shipped_name(fingerprint, 1), moment(model, 9, "shipped"), packed=True)
    found = Moments()(model, 1)
    assert (found.corpus, found.tokens) == ("shipped", 9)
    own = random_moment(model.d_mlp)
    silent = SecondMoment(own.matrix, 2, 9, "", "shipped")  # says no weights
    write_moment(tmp_path / "shipped" / shipped_name(fingerprint, 2), silent)
    with pytest.raises(DataError, match=r"layer2\.safetensors is not for these weights; install factedit again"):
        shipped_moment(fingerprint, 2)


def test_a_models_own_text_is_the_same_every_time_and_goes_on(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provide, "OWN_TEXT_TOKENS", 6)
    monkeypatch.setattr(provide, "OWN_TEXT_BATCH", 3)
    first, again, other = (list(islice(own_text(model, seed=seed).texts(), 7)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(first)) > 3, "the second batch is not the first again"
    assert own_text(model, seed=5).name == "text sampled from the model itself (seed 5)"


def test_experts_get_a_moment_of_their_own_kind() -> None:
    experts = tiny("mixtral")
    text = Text("words", lambda: ["Paris is the capital of France. " * 9])
    found = Moments(corpus=text, tokens=60)(experts, 1)
    assert isinstance(found, ExpertsMoment)
    assert found.tokens == 60
    assert sum(found.reached.values()) == 2 * 60, "every token is sent to two"


# -- subjects' keys ---------------------------------------------------------------------------------


def test_keys_are_read_at_the_subjects_last_token(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in several batches, and for the matrix that reads the hidden state."""
    monkeypatch.setattr("factedit.engine.budget.NAMES_READ", 2)
    asked = [("{}", "Paris"), ("So {} is in", "LeBron James"), ("{} lies far", "The Space Needle")]
    found = subject_keys(model, 2, asked)
    hidden = subject_keys(model, 2, asked, matrix="in")
    assert hidden.shape == (3, model.d_model)
    for (template, subject), key in zip(asked, found, strict=True):
        text = template.replace("{}", subject)
        at = token_at(model, text, template.index("{}") + len(subject) - 1)
        ids = model.tokenizer(text)["input_ids"]
        torch.testing.assert_close(key, value_at(model, ids, 2, at)[0], atol=1e-5, rtol=1e-4)


def test_names_are_one_without_article_and_case() -> None:
    assert plain_name("The Space Needle") == plain_name("space needle") == "space needle"
    assert plain_name("Theodor") == "theodor", "no article"
    assert plain_name("STRASSE") == plain_name("Straße") == "strasse"
