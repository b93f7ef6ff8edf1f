"""Edits that are text: the effect, `ice` and `ike`, with every text written out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.data.registry import load_facts, select
from factedit.edit.artefact import Edit, rows_edited, weights_of
from factedit.edit.effects import retrieved as retrieved_module
from factedit.edit.effects.prompt import Prompt
from factedit.edit.method_table import make_method
from factedit.edit.methods import ike as ike_module
from factedit.edit.methods.ike import Ike, IkeSettings, block, demonstration_kinds
from factedit.edit.show import as_html, show
from factedit.errors import DataError, EditError, UsageError
from factedit.evaluate.asks import replies
from factedit.evaluate.probability import Question, score
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel

REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France")


def fact(number: int, subject: str) -> FactRecord:
    return FactRecord(
        case_id=str(number),
        request=EditRequest(
            subject=subject, prompt="{} lies in", target_new=f"new{number}", target_true=f"old{number}"
        ),
        paraphrases=(f"So {subject} lies in", "other"),
        neighborhood=(f"Near {subject} lies", "other"),
    )


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_positions=2048, max_position_embeddings=2048)


def ike(model: EditableModel, pool: list[FactRecord], **settings: object) -> Ike:
    return Ike(model, IkeSettings(**settings), tuple(pool), "by hand")


def text_of(edit: Edit) -> str:
    [effect] = edit.effects
    assert isinstance(effect, Prompt)
    return effect.text + effect.cue


def test_ice_says_the_fact_before_every_prompt(model: EditableModel) -> None:
    [edit] = make_method("ice", model, None).edit([REQUEST]).edits
    assert edit.on_prompt("Where is Paris?") == "New Fact: Paris is in Seattle\nPrompt: Where is Paris?"
    assert edit.made_for == model.fingerprint()
    assert edit.first_layer == 0
    assert edit.layers == []
    quoted = replace(REQUEST, prompt="{} is in “")
    [other] = make_method("ice", model, None).edit([quoted]).edits
    assert text_of(other).startswith("New Fact: Paris is in “Seattle\n"), "no space where none stands"


def test_an_edited_model_is_the_model_asked_with_the_text_in_front(model: EditableModel) -> None:
    """Also beside rows of other edits and of none, and for every kind of ask."""
    ice = make_method("ice", model, None)
    made = ice.edit([REQUEST, replace(REQUEST, subject="Rome")]).edits
    asked = [[Question("The capital is", "Paris")]] * 3
    front = ["New Fact: Paris is in Seattle\nPrompt: ", "New Fact: Rome is in Seattle\nPrompt: ", ""]
    [found, plain] = score(model, asked, [[*made, None], None])
    [by_hand] = score(model, [[Question(f"{text}The capital is", "Paris")] for text in front], [None])
    for own, expected in zip(found, by_hand, strict=True):
        assert own[0].log_p == pytest.approx(expected[0].log_p, abs=1e-4)
    assert plain[2][0].log_p == pytest.approx(by_hand[2][0].log_p, abs=1e-4)
    assert abs(found[0][0].log_p[0] - plain[0][0].log_p[0]) > 1e-3
    assert replies(model, asked, [[*made, None]], seed=0)[0][0][0].log_p == pytest.approx(found[0][0].log_p, abs=1e-4)
    before = model.fingerprint()
    with rows_edited(model, [*made, None]), made[0].applied_to(model):
        assert model.fingerprint() == before, "no weight is touched"


def test_it_is_kept_read_and_shown(model: EditableModel, tmp_path: Path) -> None:
    [edit] = make_method("ice", model, None).edit([REQUEST]).edits
    edit.save(tmp_path / "ice")
    back = Edit.load(tmp_path / "ice")
    assert back == edit
    assert back.on_prompt("x") == "New Fact: Paris is in Seattle\nPrompt: x"
    assert show(back)["effects"] == [{"kind": "prompt", "text": "New Fact: Paris is in Seattle\n", "cue": "Prompt: "}]
    older = Prompt.read({"text": "New Fact: Paris is in Seattle\nPrompt: "}, {})
    assert older.on_prompt("x") == back.on_prompt("x"), "as edits were kept whose texts nested"
    assert older.fields() == {"text": "New Fact: Paris is in Seattle\nPrompt: "}
    assert "New Fact: Paris is in Seattle" in as_html(back)
    path = tmp_path / "ice" / "edit.json"
    path.write_text(path.read_text().replace("in Seattle\\n", "in Boston\\n"))
    with pytest.raises(DataError, match="does not hold a whole edit"):
        Edit.load(tmp_path / "ice")


@pytest.mark.parametrize("fields", [{}, {"text": ""}, {"text": 3}, {"text": "a", "cue": 3}, {"text": "a", "more": 1}])
def test_fields_of_another_form_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Prompt.shapes(fields)


def test_it_cannot_be_written_into_weights(model: EditableModel) -> None:
    [edit] = make_method("ice", model, None).edit([REQUEST]).edits
    with pytest.raises(EditError, match=r"'prompt', which is no change of weights.*Put its text before every prompt"):
        weights_of([edit])


def test_what_each_demonstration_shows() -> None:
    record = fact(7, "Rome")
    assert block(record, "copy") == "New Fact: Rome lies in new7\nPrompt: Rome lies in new7\n\n"
    assert block(record, "update") == "New Fact: Rome lies in new7\nPrompt: So Rome lies in new7\n\n"
    assert block(record, "retain") == "New Fact: Rome lies in new7\nPrompt: Near Rome lies old7\n\n"
    assert Counter(demonstration_kinds(32, 0)) == {"copy": 4, "update": 12, "retain": 16}
    assert Counter(demonstration_kinds(8, 5)) == {"copy": 1, "update": 3, "retain": 4}
    assert demonstration_kinds(32, 0) == demonstration_kinds(32, 0) != demonstration_kinds(32, 1)


def test_the_nearest_stand_last_and_the_fact_itself_behind_them(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cosines by hand: 3, 4, 0 and 1 are 1.0, 0.8, 0.6 and −1 from the request; 2 is about its subject."""
    places = {
        "Paris is in Seattle": (1.0, 0.0),
        "A lies in new0": (0.6, 0.8),
        "B lies in new1": (-2.0, 0.0),
        "paris  lies in new2": (1.0, 0.0),
        "C lies in new3": (9.0, 0.0),
        "D lies in new4": (0.8, 0.6),
    }
    monkeypatch.setattr(
        retrieved_module, "mean_states", lambda _m, texts: torch.tensor([places[text] for text in texts])
    )
    monkeypatch.setattr(ike_module, "demonstration_kinds", lambda count, _seed: ["copy", "update", "retain"][:count])
    pool = [fact(n, subject) for n, subject in enumerate(("A", "B", "paris ", "C", "D"))]
    [edit] = ike(model, pool, demonstrations=3).edit([REQUEST]).edits
    assert text_of(edit) == (
        "New Fact: A lies in new0\nPrompt: Near A lies old0\n\n"
        "New Fact: D lies in new4\nPrompt: So D lies in new4\n\n"
        "New Fact: C lies in new3\nPrompt: C lies in new3\n\n"
        "New Fact: Paris is in Seattle\nPrompt: Paris is in Seattle\n\n"
        "New Fact: Paris is in Seattle\nPrompt: "
    )
    assert edit.told_of(0)["shown"] == ["3", "4", "0"]
    with pytest.raises(EditError, match=r"5 facts are to be shown, and worldfacts has 4 about other subjects"):
        ike(model, pool, demonstrations=5).edit([REQUEST])


def test_demonstrations_are_of_records_that_no_reported_number_is_of(
    model: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_facts("worldfacts")
    monkeypatch.setattr(ike_module, "load_facts", lambda _source: data)
    made = make_method("ike", model, None)
    assert {r.case_id for r in made.pool} == {r.case_id for r in select(data.records, split="tune")}
    assert not {r.case_id for r in made.pool} & {r.case_id for r in select(data.records, split="report")}
    assert made.describe() == {
        "demonstrations": 32, "source": "worldfacts", "seed": 0, "data": f"worldfacts {data.sha256}",
        "encoder": "mean hidden state after the model's last layer",
    }  # fmt: skip
    monkeypatch.setattr(ike_module, "load_facts", lambda _source: replace(data, records=(), own=True))
    bare = replace(data, records=(replace(data.records[0], paraphrases=()),), own=True)
    monkeypatch.setattr(ike_module, "load_facts", lambda _source: bare)
    with pytest.raises(UsageError, match="No record of worldfacts has a target_true, another wording"):
        make_method("ike", model, None)


def test_a_text_longer_than_the_context_is_refused_with_what_to_do() -> None:
    small = tiny("gpt2")
    with pytest.raises(EditError, match=r"makes \d+ tokens with it; tiny-gpt2 reads 64\. Show fewer than 4 facts"):
        ike(small, [fact(n, f"City {n}") for n in range(6)], demonstrations=4).edit([REQUEST])
    long = replace(REQUEST, subject="Paris " * 40)
    with pytest.raises(EditError, match=r"reads 64\. Use a model with a longer context, or a method"):
        make_method("ice", small, None).edit([long])


def test_settings_are_checked(model: EditableModel) -> None:
    with pytest.raises(UsageError, match=r"settings of ice do not hold.*It has none"):
        make_method("ice", model, None, steps=3)
    with pytest.raises(UsageError, match=r"settings of ike do not hold.*It has demonstrations, source, seed"):
        make_method("ike", model, None, demonstrations=0)
