"""Questions taken apart: the whole chain by hand with a scripted writer, and what is left as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects import decomposed as module
from factedit.edit.effects.decomposed import EXAMPLES, Decomposed, question_of, written_line
from factedit.edit.effects.retrieved import Retrieved
from factedit.edit.method_table import make_method
from factedit.errors import EditError, UsageError
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.measuring import AS_IT_IS, Under, measure
from factedit.evaluate.metrics.free import Free
from factedit.evaluate.metrics.teacher_forced import TeacherForced
from factedit.evaluate.together import Together
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel

FACTS = [
    EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle"),
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football"),
]
ASKED = "Q: Who was it? A: Nobody\nQ: Where is the sport of LeBron James at home? A:"


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2", n_positions=1024, max_position_embeddings=1024)


class Script:
    """Writes given lines, one a call, and notes what it was given beside the examples."""

    def __init__(self, *lines: str) -> None:
        self.lines, self.given = list(lines), list[str]()

    def __call__(self, _model: object, text: str) -> str:
        assert text.startswith(EXAMPLES)
        self.given.append(text[len(EXAMPLES) :])
        return self.lines.pop(0)


@pytest.mark.parametrize(("text", "question"), [
    (ASKED, "Where is the sport of LeBron James at home?"), ("Q: Who? A: ", "Who?"), ("Who is it?", None),
    ("Q: Who?", None), ("A:", None), ("Q: A:", None), ("Q: Who? A: Me", None),
])  # fmt: skip
def test_which_prompts_end_in_a_question(text: str, question: str | None) -> None:
    assert question_of(text) == question


def test_a_chain_by_hand(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts; the second round's part is the line that was written when the end was asked for."""
    script = Script(
        "What sport does LeBron James play?", "Basketball.", "football", "Part: Where is Paris at home?",
        "In France.", "Seattle", "Final answer: Seattle",
    )  # fmt: skip
    monkeypatch.setattr(module, "written_line", script)
    edits = make_method("mello", model, None, encoder="bm25").edit(FACTS).edits  # type: ignore[arg-type]
    together = Together(model).plus(edits)
    assert len(together.others) == 1
    [effect] = together.others
    assert isinstance(effect, Decomposed)
    [chain, plain] = effect.on_prompts(model, [ASKED, "Paris is in"])
    assert plain == "Paris is in", "no question"
    first = (
        "Question: Where is the sport of LeBron James at home?\nPart: What sport does LeBron James play?\n"
        "Own answer: Basketball.\nKnown fact: LeBron James plays the sport of football\nAnswer so far: football\n"
    )
    second = (
        "Part: Where is Paris at home?\nOwn answer: In France.\nKnown fact: Paris is in Seattle\n"
        "Answer so far: Seattle\n"
    )
    assert chain == f"{EXAMPLES}{first}{second}Final answer:"
    assert script.lines == []
    assert script.given[0] == first.split("\n")[0] + "\nPart:"
    assert script.given[3] == first
    assert script.given[-1] == first + second


def test_there_are_so_many_rounds_at_most(model: EditableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "written_line", Script(*["Part: nothing alike"] * 8))
    facts = Retrieved(("Paris is in Seattle",), "", "bm25")
    [chain] = Decomposed(facts, 2).on_prompts(model, ["Q: Who? A:"])
    own = chain[len(EXAMPLES) :]
    assert own.count("\nPart:") == 2
    assert "Known fact" not in own, "no word in common"
    assert own.endswith("Final answer:")


def test_the_line_is_what_the_model_writes_greedily(model: EditableModel) -> None:
    text = "Paris is in"
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        for _ in range(module.LINE):
            new = model.lm(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, new[None, None]], 1)
            if int(new) == model.tokenizer.eos_token_id or "\n" in model.tokenizer.decode(ids[0]):
                break
    whole = model.tokenizer.decode(ids[0], skip_special_tokens=True)[len(text) :]
    assert written_line(model, text) == whole.strip(" ").partition("\n")[0].strip()


def test_kept_read_and_refused(model: EditableModel, tmp_path: Path) -> None:
    [edit, other] = make_method("mello", model, None, rounds=3).edit(FACTS).edits  # type: ignore[arg-type]
    assert (edit.method, edit.settings["rounds"]) == ("mello", 3)
    edit.save(tmp_path / "mello")
    back = Edit.load(tmp_path / "mello")
    assert back == edit
    assert back.effects[0].rounds == 3  # type: ignore[attr-defined]
    assert back.on_prompt("Paris is in") == "Paris is in"
    with pytest.raises(EditError, match="The model itself takes a question apart"):
        back.on_prompt(ASKED)
    with pytest.raises(EditError, match=r"'decomposed', which is no change of weights"):
        weights_of([other])
    with pytest.raises(UsageError, match=r"settings of mello do not hold: rounds 0"):
        make_method("mello", model, None, rounds=0)  # type: ignore[arg-type]
    for wrong in (0, "4", True):
        with pytest.raises(ValueError, match="rounds"):
            Decomposed.shapes({**edit.effects[0].fields(), "rounds": wrong})


def test_a_chain_longer_than_the_context_leaves_its_record_out_and_the_run_goes_on() -> None:
    """Before: it ended the run. Where no question is asked there is no chain, and the record is scored."""
    short = tiny("gpt2")
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France")
    asking = EditRequest(subject="Paris", prompt="Q: Where is {}? A:", target_new="Seattle", target_true="France")
    records = [FactRecord(case_id=str(n), request=each) for n, each in enumerate((request, asking))]
    edits = make_method("mello", short, None, encoder="bm25").edit([request, asking]).edits  # type: ignore[arg-type]
    metrics = (TeacherForced(COUNTERFACT), Free(2))
    plain, under = measure(short, records, metrics, [AS_IT_IS, Under(list(edits))], seed=0)
    assert not any(one.left_out for one in plain)
    assert not under[0].left_out
    assert under[1].left_out.keys() == {"teacher-forced", "free"}
    assert "tokens so far; tiny-gpt2 reads 64" in under[1].left_out["teacher-forced"]
    assert (under[1].tests["ES"], under[0].tests["ES"]) == ((0, 1), (1, 0))
