"""Second moments on disk: what a file says, what it must be of, and a collection that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conftest import random_moment, tiny, tiny_tokenizer
from factedit.cache import cache_dir
from factedit.errors import DataError
from factedit.models.adapter import EditableModel
from factedit.stats import store, subjects
from factedit.stats.moment_places import moment_path, stored_moments
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import read_moment, second_moments, write_moment

TEXTS = [f"Paris is the capital of France, number {n}. LeBron James plays the sport of basketball." for n in range(8)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


def plain_moment(model: EditableModel, layer: int, texts: list[str]) -> torch.Tensor:
    """Σ k kᵀ / n over all tokens, each text a plain forward pass."""
    total, count = torch.zeros(model.d_mlp, model.d_mlp, dtype=torch.float64), 0
    for text in texts:
        seen: list[torch.Tensor] = []
        ids = torch.tensor([model.tokenizer(text)["input_ids"]])
        with model.on_matrix(layer, lambda key, _value, seen=seen: seen.append(key[0].double())), torch.no_grad():
            model.lm(input_ids=ids)
        total, count = total + seen[0].T @ seen[0], count + ids.shape[1]
    return total / count


def moment() -> SecondMoment:
    own = random_moment(12)
    return SecondMoment(own.matrix, layer=3, tokens=24, model="abcdef0123456789", corpus="a text")


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_says_where_it_is_from(packed: bool, tmp_path: Path) -> None:
    found = read_moment(write_moment(tmp_path / "c.safetensors", moment(), packed=packed))
    assert (found.layer, found.tokens, found.model, found.corpus) == (3, 24, "abcdef0123456789", "a text")
    torch.testing.assert_close(found.matrix, moment().matrix.float())
    assert found.fingerprint == moment().fingerprint


def test_a_users_file_needs_the_tensor_alone(tmp_path: Path) -> None:
    save_file({"second_moment": torch.eye(5)}, tmp_path / "mine.safetensors")
    found = read_moment(tmp_path / "mine.safetensors", d_mlp=5, model="anything", layer=7)
    assert (found.layer, found.tokens, found.model, found.corpus) == (7, 0, "", "unknown")


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"d_mlp": 13}, r"is \[12, 12\]; the model's keys need \[13, 13\]"),
        ({"model": "another model's"}, "made for weights abcdef012345…; this model has another mode…"),
        ({"layer": 4}, "was made for layer 3; layer 4 was asked for"),
    ],
)
def test_one_of_something_else_is_refused(asked: dict[str, object], match: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        read_moment(write_moment(tmp_path / "c.safetensors", moment()), **asked)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"other": torch.eye(3)}, r"holds \['other'\], not the tensor 'second_moment'"),
        ({"second_moment": torch.zeros(3, 4)}, r"is \[3, 4\]"),
        ({"second_moment": torch.zeros(7)}, "has 7 numbers, which is no triangle"),
        ({"second_moment": torch.zeros(2, 2, 2)}, r"is \[2, 2, 2\]"),
    ],
)
def test_a_file_of_something_else_is_refused(tensors: dict[str, torch.Tensor], match: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=match):
        read_moment(tmp_path / "c.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no such thing")
    with pytest.raises(DataError, match="is not a readable safetensors file"):
        read_moment(tmp_path / "broken.safetensors")


def test_c_is_the_mean_over_all_tokens_read(tiny_gpt2: EditableModel) -> None:
    found = second_moments(tiny_gpt2, [1, 2], lambda: TEXTS, corpus="texts", tokens=10_000)
    for layer in (1, 2):
        expected = plain_moment(tiny_gpt2, layer, TEXTS)
        torch.testing.assert_close(found[layer].matrix.double(), expected, rtol=1e-4, atol=1e-6)
        assert found[layer].model == tiny_gpt2.fingerprint()
    count = sum(len(tiny_gpt2.tokenizer(text)["input_ids"]) for text in TEXTS)
    assert found[1].tokens == count, "a short text is read to its end"


def test_what_the_cache_holds_is_not_computed_again(tiny_gpt2: EditableModel) -> None:
    first = second_moments(tiny_gpt2, [1], lambda: TEXTS, corpus="texts", tokens=50)

    def never() -> Iterator[str]:
        raise AssertionError("the text is read again")

    assert second_moments(tiny_gpt2, [1], never, corpus="texts", tokens=50)[1].fingerprint == first[1].fingerprint
    for other in ({"corpus": "other texts", "tokens": 50}, {"corpus": "texts", "tokens": 51}):
        with pytest.raises(AssertionError, match="read again"):
            second_moments(tiny_gpt2, [1], never, **other)
    with pytest.raises(AssertionError, match="read again"):
        second_moments(tiny("gpt2", seed=1), [1], never, corpus="texts", tokens=50)


def test_an_interrupted_collection_goes_on_to_the_same_numbers(
    tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = second_moments(tiny_gpt2, [1], lambda: TEXTS, corpus="whole", tokens=200)
    monkeypatch.setattr(store, "SAVE_EVERY", 20)
    monkeypatch.setattr("factedit.engine.budget.tokens_summed", lambda: 64)
    read: list[int] = []

    def stop(tokens: int) -> None:
        read.append(tokens)
        if len(read) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        second_moments(tiny_gpt2, [1], lambda: TEXTS, corpus="parts", tokens=200, progress=stop)
    later: list[int] = []
    found = second_moments(tiny_gpt2, [1], lambda: TEXTS, corpus="parts", tokens=200, progress=later.append)
    assert 0 < read[0] < later[0] <= 200
    assert later[0] > read[0], "what was saved is not read again"
    assert (found[1].tokens, later[-1]) == (200, 200)
    torch.testing.assert_close(found[1].matrix, whole[1].matrix, rtol=1e-5, atol=1e-7)


def test_of_several_the_one_of_most_tokens_comes_first(tiny_gpt2: EditableModel) -> None:
    for corpus, asked, held in (("a", 100, 40), ("b", 50, 50), ("c", 60, 30)):
        own = SecondMoment(torch.eye(3), layer=1, tokens=held, model="m" * 16, corpus=corpus)
        write_moment(moment_path(tiny_gpt2, corpus, asked, 1), own)
    found = [read_moment(path).corpus for path in stored_moments(tiny_gpt2, 1)]
    assert found == ["b", "a", "c"]
    assert stored_moments(tiny_gpt2, 2) == stored_moments(tiny("gpt2", seed=1), 1) == []


# -- another tokenizer over the same weights ------------------------------------------------------


def retold(model: EditableModel) -> EditableModel:
    """The same weights read by another tokenizer: it puts `<s>` before every text."""
    return EditableModel(model.lm, tiny_tokenizer(start=True), name="retold")


def test_another_tokenizer_reads_the_text_anew_and_both_are_kept(tiny_gpt2: EditableModel) -> None:
    """Before: C was found by the weights alone, so that the second tokenizer took the first one's in silence."""
    other = retold(tiny_gpt2)
    assert other.fingerprint() == tiny_gpt2.fingerprint()
    found = {m.name: second_moments(m, [1], lambda: TEXTS, corpus="texts", tokens=10_000) for m in (tiny_gpt2, other)}
    for model in (tiny_gpt2, other):
        torch.testing.assert_close(
            found[model.name][1].matrix.double(), plain_moment(model, 1, TEXTS), rtol=1e-4, atol=1e-6
        )
        again = second_moments(model, [1], lambda: pytest.fail("read again"), corpus="texts", tokens=10_000)
        assert torch.equal(again[1].matrix, found[model.name][1].matrix)
        assert [read_moment(p).tokens for p in stored_moments(model, 1)] == [found[model.name][1].tokens]
    assert found["retold"][1].tokens == found[tiny_gpt2.name][1].tokens + len(TEXTS), "one start token more for each"


def test_another_configuration_over_the_same_weights_has_keys_of_its_own() -> None:
    plain, other = tiny("llama"), tiny("llama", rms_norm_eps=0.5)
    assert plain.fingerprint() == other.fingerprint()
    first = second_moments(plain, [1], lambda: TEXTS, corpus="texts", tokens=50)[1]
    second = second_moments(other, [1], lambda: TEXTS, corpus="texts", tokens=50)[1]
    assert not torch.allclose(first.matrix, second.matrix)


def test_what_earlier_versions_kept_is_still_found(tiny_gpt2: EditableModel) -> None:
    width = tiny_gpt2.d_mlp
    own = SecondMoment(torch.eye(width), layer=1, tokens=50, model=tiny_gpt2.fingerprint(), corpus="texts")
    earlier = write_moment(moment_path(tiny_gpt2, "texts", 50, 1, setup=False), own)
    found = second_moments(tiny_gpt2, [1], lambda: pytest.fail("read again"), corpus="texts", tokens=50)
    assert torch.equal(found[1].matrix, torch.eye(width))
    assert stored_moments(tiny_gpt2, 1) == [earlier]
    earlier.write_bytes(b"damaged")
    anew = second_moments(tiny_gpt2, [1], lambda: TEXTS, corpus="texts", tokens=50)
    assert moment_path(tiny_gpt2, "texts", 50, 1).is_file(), "what is made again has the model's whole name"
    assert not torch.equal(anew[1].matrix, torch.eye(width))


def test_names_are_read_anew_by_another_tokenizer_and_found_where_earlier_versions_kept_them(
    tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "subject_names", lambda: {"paris": "Paris", "seattle": "Seattle"})
    first, other = subjects.subject_moment(tiny_gpt2, 1), subjects.subject_moment(retold(tiny_gpt2), 1)
    assert not torch.allclose(first.matrix, other.matrix)
    place = next(cache_dir().rglob(f"*-{tiny_gpt2.setup_fingerprint()[:16]}/layer_1.safetensors"))
    place.parent.rename(place.parent.with_name(place.parent.name.partition("-")[0]))
    monkeypatch.setattr(subjects, "subject_keys", lambda *_: pytest.fail("asked again"))
    assert torch.equal(subjects.subject_moment(tiny_gpt2, 1).matrix, first.matrix)
