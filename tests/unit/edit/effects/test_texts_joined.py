"""Effects that are text: how they come together before a prompt, who is looked up, and what is refused."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit
from factedit.edit.asking import prompts_edited
from factedit.edit.effects import decomposed as decomposed_module
from factedit.edit.effects.asked import asked_under, join_effects
from factedit.edit.effects.decomposed import EXAMPLES, FINAL, Decomposed, written_line
from factedit.edit.effects.effect import Effect, WeightEffect
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.effects.prompt import Prompt
from factedit.edit.effects.retrieved import Retrieved, bm25
from factedit.edit.effects.table import EFFECTS, kind_named, on_rows
from factedit.errors import EditError, RequestError
from factedit.models.adapter import EditableModel


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


def edit_of(*effects: Effect) -> Edit:
    return Edit(method="by hand", requests=(), effects=effects, made_for="any")


def looked_up(*facts: str, cue: str = "Q: ", **how: object) -> Retrieved:
    return Retrieved(tuple(facts), cue, "bm25", **how)  # type: ignore[arg-type]


# -- texts before every prompt ----------------------------------------------------------------------


def test_texts_stand_in_the_edits_order_and_the_cue_once() -> None:
    [one] = join_effects([Prompt("A\n", "Prompt: "), Prompt("B\n", "Prompt: "), Prompt("C\n", "Prompt: ")])
    assert one.on_prompt("Who?") == "A\nB\nC\nPrompt: Who?"
    assert edit_of(Prompt("A\n", "Prompt: "), Prompt("B\n", "Prompt: ")).on_prompt("Who?") == "A\nB\nPrompt: Who?"


def test_texts_with_other_cues_nest() -> None:
    """The later edit acts on what the earlier one asks, as on the edited model."""
    effects = [Prompt("A\n", "P: "), Prompt("B\n", "Q: "), Prompt("C\n", "Q: ")]
    assert len(join_effects(effects)) == 2
    assert edit_of(*effects).on_prompt("Who?") == "B\nC\nQ: A\nP: Who?"
    alone = "Who?"
    for effect in effects[:2]:
        alone = effect.on_prompt(alone)
    assert alone == "B\nQ: A\nP: Who?"


def test_a_text_of_another_cue_between_two_keeps_them_apart() -> None:
    """Joined over the one between them, they would stand in another order."""
    effects = [Prompt("A\n", "P: "), Prompt("B\n", "Q: "), Prompt("C\n", "P: ")]
    assert len(join_effects(effects)) == 3
    assert edit_of(*effects).on_prompt("Who?") == "C\nP: B\nQ: A\nP: Who?"


def test_effects_of_other_kinds_do_not_come_between(model: EditableModel) -> None:
    change = LowRank(1, torch.zeros(model.d_mlp, 1), torch.zeros(1, model.d_model))
    found = join_effects([Prompt("A\n"), change, Prompt("B\n"), change])
    assert [type(effect) for effect in found] == [Prompt, LowRank, LowRank]
    assert found[0].on_prompt("x") == "A\nB\nx"
    assert found[1] is change, "an effect that joins nothing is handed on as it is"


def test_nothing_joins_to_nothing(model: EditableModel) -> None:
    assert join_effects([]) == []
    assert asked_under(model, [], ["a", "b"]) == ["a", "b"]
    assert asked_under(model, [Prompt("A\n")], []) == []


def test_a_text_acts_where_prompts_are_made_and_nowhere_else(model: EditableModel) -> None:
    ids = torch.tensor([[5, 17, 99]])
    with torch.no_grad():
        plain = model.lm(input_ids=ids).logits
        for effect in (Prompt("A\n"), looked_up("a fact"), Decomposed(looked_up("a fact"))):
            assert effect.first_layer() == 0
            assert not isinstance(effect, WeightEffect)
            with effect.on_batch(model), on_rows(model, [[effect]]), on_rows(model, [[effect], []]):
                assert torch.equal(model.lm(input_ids=ids).logits, plain)


def test_texts_and_looked_up_facts_come_in_order(model: EditableModel) -> None:
    """The text of the earlier edit is part of what the later one looks its facts up for."""
    facts = looked_up("Paris lies in Rome\n", "the moon is far\n")
    assert asked_under(model, [facts, Prompt("Said: ")], ["Paris"]) == ["Said: Paris lies in Rome\nQ: Paris"]
    assert asked_under(model, [Prompt("moon "), facts], ["and"]) == ["the moon is far\nQ: moon and"]
    assert edit_of(facts, Prompt("Said: ")).on_prompts(model, ["Paris", "nobody"]) == [
        "Said: Paris lies in Rome\nQ: Paris", "Said: nobody",
    ]  # fmt: skip


def test_every_text_is_asked_under_its_own_edit(model: EditableModel) -> None:
    one, other = edit_of(Prompt("A ")), edit_of(Prompt("B "))
    texts = ["1", "2", "3", "4", "5"]
    assert prompts_edited(model, texts, [one, None, other, one, None]) == ["A 1", "2", "B 3", "A 4", "5"]
    assert prompts_edited(model, [], []) == []


@pytest.mark.parametrize("kind", sorted(EFFECTS))
def test_the_table_names_each_kind_by_its_own_name(kind: str) -> None:
    """What `edit.json` calls a kind finds its class, and every kind says what an effect must."""
    found = kind_named(kind)
    assert found.kind == kind
    for part in ("first_layer", "on_prompt", "on_batch", "on_rows", "fields", "tensors", "shapes", "read"):
        assert callable(getattr(found, part)), part


# -- BM25 -------------------------------------------------------------------------------------------


def bm25_by_hand(facts: Sequence[str], query: str) -> list[float]:
    """Robertson and Zaragoza 2009, eq. 3.15, word after word; texts here are words and single spaces."""
    split = [fact.lower().split() for fact in facts]
    mean = sum(map(len, split)) / len(split)
    found = []
    for own in split:
        total = 0.0
        for word in set(query.lower().split()):
            n = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
            tf = own.count(word)
            total += idf * tf * (1.5 + 1) / (tf + 1.5 * (1 - 0.75 + 0.75 * len(own) / mean))
        found.append(total)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_bm25_is_its_formula(seed: int) -> None:
    drawn = random.Random(seed)
    texts = [" ".join(drawn.choice(["Paris", "is", "in", "rome", "far", "x"]) for _ in range(n)) for n in (1, 3, 5, 9)]
    query = " ".join(drawn.choice(["paris", "IS", "rome", "nothing"]) for _ in range(6))
    assert bm25(texts, query) == pytest.approx(bm25_by_hand(texts, query))
    assert min(bm25(texts, query)) >= 0, "this weight of a word is never negative"


def test_bm25_of_texts_without_words_is_nothing() -> None:
    """No word in any fact, or none in the prompt: no score, and no division by the mean length."""
    assert bm25(["", ""], "Paris") == [0.0, 0.0]
    assert bm25(["Paris"], "") == [0.0]


# -- looked up --------------------------------------------------------------------------------------


def test_of_facts_alike_the_earlier_comes_first() -> None:
    """Equal scores: the order of the facts decides, and so the same prompt asks the same on every machine."""
    facts = looked_up("Paris a\n", "Paris b\n", "Paris c\n", count=2)
    assert facts.on_prompt("Paris") == "Paris b\nParis a\nQ: Paris", "the nearest stands last"


def test_a_fact_at_the_threshold_is_not_said() -> None:
    facts = looked_up("Paris lies in Rome\n", "the moon\n")
    score = bm25(facts.facts, "Paris")[0]
    at, below = (looked_up(*facts.facts, threshold=own) for own in (score, score * (1 - 1e-9)))
    assert at.on_prompt("Paris") == "Paris", "more alike than the threshold is asked for"
    assert below.on_prompt("Paris") == "Paris lies in Rome\nQ: Paris"


def test_so_many_facts_at_most() -> None:
    facts = [f"Paris {word}\n" for word in ("a", "b", "c", "d")]
    for count in (1, 3, 9):
        said = looked_up(*facts, count=count).on_prompt("Paris")
        assert said.count("Paris") == min(count, 4) + 1


def test_facts_are_put_in_and_taken_out_without_the_others(model: EditableModel) -> None:
    first, second = looked_up("a x\n", "b y\n"), looked_up("c z\n")
    both = first.followed_by(second)
    assert both is not None
    assert both.facts == ("a x\n", "b y\n", "c z\n")
    assert first.facts == ("a x\n", "b y\n"), "the edit that was there stays what it was"
    assert both.without(0).facts == ("b y\n", "c z\n")
    states = torch.eye(3, 4)
    with_states = Retrieved(both.facts, "Q: ", "states", states=states)
    assert torch.equal(with_states.without(1).states, states[[0, 2]])
    for other in (
        looked_up("c", cue="R: "), looked_up("c", threshold=0.5), looked_up("c", count=2),
        Retrieved(("c",), "Q: ", "states", states=torch.ones(1, 4)),
    ):  # fmt: skip
        assert first.followed_by(other) is None, "looked up in another way"
    narrow = Retrieved(("c",), "Q: ", "states", states=torch.ones(1, 3))
    assert with_states.followed_by(narrow) is None, "states of another model"


def test_states_of_another_model_are_refused_in_words(model: EditableModel) -> None:
    """Before: torch's own error about shapes of matrices."""
    other = Retrieved(("a fact\n",), "Q: ", "states", states=torch.ones(1, 7))
    with pytest.raises(EditError, match=r"have 7 entries and those of tiny-gpt2 32: they are of another model"):
        other.on_prompts(model, ["Paris"])
    assert other.on_prompts(model, []) == [], "nothing was asked"


@pytest.mark.parametrize(
    "change",
    [{"facts": []}, {"facts": "ab"}, {"facts": [1]}, {"count": 0}, {"count": 1.5}, {"encoder": "other"}, {"width": -1},
     {"threshold": "much"}, {"cue": None}, {"more": 1}],
)  # fmt: skip
def test_fields_of_another_form_are_refused(change: dict[str, object]) -> None:
    fields = {"facts": ["a", "b"], "cue": "", "encoder": "states", "threshold": 0.0, "count": 1, "width": 4}
    assert Retrieved.shapes(fields) == {"states": (2, 4)}
    assert Retrieved.shapes({**fields, "encoder": "bm25"}) == {}
    with pytest.raises(ValueError):
        Retrieved.shapes(fields | change)
    with pytest.raises((ValueError, KeyError)):
        Decomposed.shapes(fields)  # without rounds
    assert Decomposed.shapes({**fields, "rounds": 2}) == {"states": (2, 4)}


def test_facts_come_back_as_they_were() -> None:
    own = Retrieved(("a\n", "b\n"), "Q: ", "states", 0.25, 2, torch.eye(2, 3, dtype=torch.float64))
    assert own.tensors()["states"].dtype == torch.float32
    back = Retrieved.read(own.fields(), own.tensors())
    assert (back.facts, back.cue, back.encoder, back.threshold, back.count) == (
        ("a\n", "b\n"),
        "Q: ",
        "states",
        0.25,
        2,
    )
    assert torch.equal(back.states, own.states.float())
    chain = Decomposed.read(Decomposed(own, 3).fields(), own.tensors())
    assert (chain.rounds, chain.facts.facts) == (3, ("a\n", "b\n"))


# -- questions --------------------------------------------------------------------------------------


def test_chains_join_where_they_are_as_long() -> None:
    one, other = Decomposed(looked_up("a\n"), 2), Decomposed(looked_up("b\n"), 2)
    both = one.followed_by(other)
    assert both is not None
    assert (both.facts.facts, both.rounds) == (("a\n", "b\n"), 2)
    assert one.followed_by(Decomposed(looked_up("b\n"), 3)) is None
    assert one.followed_by(Decomposed(looked_up("b\n", cue="x"), 2)) is None


def test_an_empty_part_is_written_by_the_model_and_one_that_is_given_is_not(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a bare "Part:" the next round asks the model for the part's words; it does not ask about nothing."""
    asked: list[str] = []
    lines = ["first part", "own", "taken", "Part:", "second part", "own", "taken", "the end"]

    def write(_model: EditableModel, text: str) -> str:
        asked.append(text[len(EXAMPLES) :])
        return lines[len(asked) - 1]

    monkeypatch.setattr(decomposed_module, "written_line", write)
    [chain] = Decomposed(looked_up("x\n"), 4).on_prompts(model, ["Q: Who? A:"])
    assert asked[4].endswith("Answer so far: taken\nPart:")
    assert chain.count("\nPart: ") - EXAMPLES.count("\nPart: ") == 2
    assert chain.endswith(f"\n{FINAL}")


def test_a_context_too_short_for_the_examples_is_refused_in_words(model: EditableModel) -> None:
    """Before: torch's own error about an index that is out of range."""
    chain = Decomposed(looked_up("Paris is in Rome\n"))
    with pytest.raises(
        RequestError, match=r"\d{3,} tokens so far; tiny-gpt2 reads 64\. Use a model with a longer context"
    ):
        chain.on_prompts(model, ["Q: Where is Paris? A:"])
    assert chain.on_prompts(model, ["no question"]) == ["no question"]


def test_a_line_ends_where_the_context_does(model: EditableModel) -> None:
    """With three tokens of room three are written, and none with none."""
    words = "Paris is in " * 40
    ids = model.tokenizer(words)["input_ids"][:61]
    text = model.tokenizer.decode(ids)
    room = model.context_length - len(model.tokenizer(text)["input_ids"])
    assert 0 < room < 10
    with torch.no_grad():
        row = torch.tensor([model.tokenizer(text)["input_ids"]])
        begun = row.shape[1]
        for _ in range(room):
            new = model.lm(input_ids=row).logits[0, -1].argmax()
            row = torch.cat([row, new[None, None]], 1)
    expected = model.tokenizer.decode(row[0, begun:], skip_special_tokens=True).strip(" ").partition("\n")[0].strip()
    assert written_line(model, text) == expected
    with pytest.raises(RequestError, match="reads 64"):
        written_line(model, words)
