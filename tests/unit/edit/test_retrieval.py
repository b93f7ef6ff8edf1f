"""Facts as text that are looked up: which one stands before a prompt, by cosines and BM25 worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.asking import prompts_edited
from factedit.edit.effects import retrieved as module
from factedit.edit.effects.asked import join_effects
from factedit.edit.effects.retrieved import Retrieved, bm25
from factedit.edit.method_table import make_method
from factedit.engine.generate import start_token
from factedit.errors import EditError, UsageError
from factedit.evaluate.probability import Question, score
from factedit.evaluate.together import Together
from factedit.facts import EditRequest
from factedit.models.adapter import EditableModel

FACTS = [
    EditRequest(subject=subject, prompt=prompt, target_new=target)
    for subject, prompt, target in (
        ("Paris", "{} is in", "Seattle"),
        ("LeBron James", "{} plays the sport of", "football"),
        ("Danielle Darrieux", "The mother tongue of {} is", "Москва"),
    )
]
SAID = [
    "New Fact: Paris is in Seattle\n",
    "New Fact: LeBron James plays the sport of football\n",
    "New Fact: The mother tongue of Danielle Darrieux is Москва\n",
]


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_positions=256, max_position_embeddings=256)


def retrieved(model: EditableModel, **settings: object) -> list[Edit]:
    return list(make_method("retrieval", model, None, **settings).edit(FACTS).edits)  # type: ignore[arg-type]


def test_bm25_by_hand() -> None:
    """Three facts of 2, 2 and 4 words; "paris" is in two of them, "in" in one; k1 1.5, b 0.75, mean length 8/3."""
    facts = ("Paris in", "Paris Rome", "one two three four")
    idf_paris, idf_in = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    tf = 2.5 / (1 + 1.5 * (0.25 + 0.75 * 2 / (8 / 3)))
    assert bm25(facts, "paris IN in") == pytest.approx([(idf_paris + idf_in) * tf, idf_paris * tf, 0.0])


def test_the_nearest_of_all_edits_stands_before_a_prompt(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines by hand; edits of one fact each, put on one after the other."""
    places = {"Who?": (3.0, 4.0), "What?": (0.0, -2.0), "a": (1.0, 0.0), "b": (0.0, 5.0), "c": (-1.0, -1.0)}
    monkeypatch.setattr(module, "mean_states", lambda _m, texts: torch.tensor([places[text] for text in texts]))

    def fact(name: str, **how: object) -> Retrieved:
        state = module.directions(model, [name])
        return Retrieved((f"{name}\n",), "Q: ", states=state, **how)  # type: ignore[arg-type]

    [one] = join_effects([fact("a"), fact("b"), fact("c")])
    assert isinstance(one, Retrieved)
    assert one.on_prompts(model, ["Who?", "What?"]) == ["b\nQ: Who?", "c\nQ: What?"]  # .6 .8 −.99; 0 −1 .71
    [two] = join_effects([fact("a", count=2), fact("b", count=2), fact("c", count=2)])
    assert two.on_prompts(model, ["Who?", "What?"]) == ["a\nb\nQ: Who?", "c\nQ: What?"], "none below the threshold of 0"
    [far] = join_effects([fact("a", threshold=0.75), fact("b", threshold=0.75)])
    assert far.on_prompts(model, ["Who?", "What?"]) == ["b\nQ: Who?", "What?"]
    assert one.without(1).on_prompts(model, ["Who?"]) == ["a\nQ: Who?"]
    assert len(join_effects([fact("a"), fact("b", threshold=0.5)])) == 2, "looked up in another way"
    with pytest.raises(EditError, match=r"found by the model's own states: ask with the model, edit.on_prompts"):
        one.on_prompt("Who?")
    for wrong in (3, -1):
        with pytest.raises(EditError, match="give one, leave one"):
            one.without(wrong)


def test_states_are_the_models_own_means(model: EditableModel) -> None:
    [edit, *_] = retrieved(model)
    [effect] = edit.effects
    ids = [start_token(model), *model.tokenizer("Paris is in Seattle")["input_ids"]]
    with torch.no_grad():
        hidden: list[torch.Tensor] = []
        handle = model.lm.transformer.h[-1].register_forward_hook(lambda _m, _i, o: hidden.append(o))
        model.lm(input_ids=torch.tensor([ids]))
        handle.remove()
    last = hidden[0][0] if isinstance(hidden[0], tuple) else hidden[0]
    mean = last.reshape(len(ids), -1)[1:].mean(0)
    torch.testing.assert_close(effect.states[0], mean / mean.norm(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("encoder", ["states", "bm25"])
def test_every_fact_is_found_by_its_own_prompt(model: EditableModel, encoder: str) -> None:
    edits = retrieved(model, encoder=encoder)
    together = Together(model).plus(edits)
    [asked] = together.asked([[Question(fact.text, "x") for fact in FACTS]])
    assert [ask.prompt for ask in asked] == [
        f"{said}Prompt: {fact.text}" for said, fact in zip(SAID, FACTS, strict=True)
    ]
    assert len(together.others) == 1


def test_an_edited_model_is_the_model_asked_with_the_text_in_front(model: EditableModel) -> None:
    edits = retrieved(model, encoder="bm25")
    texts = ["Where is Paris?", "Paris is", "about nobody"]
    asked = prompts_edited(model, texts, [edits[0], None, edits[0]])
    assert asked == [f"{SAID[0]}Prompt: Where is Paris?", "Paris is", "about nobody"], "no word in common: nothing"
    cases = [[Question(text, "Paris")] for text in texts]
    [found] = score(model, cases, [[edits[0], None, edits[0]]])
    [by_hand] = score(model, [[Question(text, "Paris")] for text in asked], [None])
    for own, expected in zip(found, by_hand, strict=True):
        assert own[0].log_p == pytest.approx(expected[0].log_p, abs=1e-4)


@pytest.mark.parametrize("encoder", ["states", "bm25"])
def test_kept_read_and_refused_as_weights(model: EditableModel, tmp_path: Path, encoder: str) -> None:
    [edit, *_] = retrieved(model, encoder=encoder, threshold=0.25, count=2)
    edit.save(tmp_path / "edit")
    back = Edit.load(tmp_path / "edit")
    assert back == edit
    assert back.on_prompts(model, [FACTS[0].text]) == edit.on_prompts(model, [FACTS[0].text])
    with pytest.raises(EditError, match=r"'retrieved', which is no change of weights.*factedit\.load_edited"):
        weights_of([back])


def test_settings_and_lengths_are_checked(model: EditableModel) -> None:
    with pytest.raises(UsageError, match=r"settings of retrieval do not hold: encoder 'x'.*encoder, threshold, count"):
        make_method("retrieval", model, None, encoder="x")  # type: ignore[arg-type]
    with pytest.raises(EditError, match=r"reads 64\. Use a model with a longer context"):
        make_method("retrieval", tiny("gpt2"), None, encoder="bm25").edit(  # type: ignore[arg-type]
            [EditRequest(subject="Paris " * 40, prompt="{} is in", target_new="Rome")]
        )
