"""The case study: the same prompts for every method, on a page."""

from __future__ import annotations

from pathlib import Path

from conftest import tiny
from factedit.edit.method import make_method
from factedit.facts import EditRequest, FactRecord
from factedit.report.case_study import write_study
from factedit.work.case_study import study

RECORD = FactRecord(
    case_id="1",
    request=EditRequest(subject="Paris", prompt="{} is in", target_new="Rome", target_true="France"),
    paraphrases=("Where is Paris? In", "never shown"),
    generation=("Paris is known for", "Paris is in", "Paris is near", "too many"),
)


def test_every_method_writes_about_the_same_prompts(tmp_path: Path) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    methods = [
        make_method(name, model, lambda *_: None, **settings)  # type: ignore[arg-type, return-value]
        for name, settings in (("ft", {"layer": 1, "steps": 8, "learning_rate": 0.01}), ("kn", {"steps": 4}))
    ]
    done: list[int] = []
    [case] = study(model, [RECORD], methods, tokens=6, step=done.append)
    assert done == [1]
    assert case.prompts == ("Paris is in", "Where is Paris? In", "Paris is known for", "Paris is near")
    assert list(case.texts) == ["unedited", "ft", "kn"]
    assert {len(texts) for texts in case.texts.values()} == {4}
    assert case.texts["ft"] != case.texts["unedited"]
    assert model.fingerprint() == before
    write_study([case], tmp_path / "page.html", model="tiny", tokens=6)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr>") == 4 * 3
    assert "Paris is in → Rome" in page
