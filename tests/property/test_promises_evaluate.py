"""What a row of a table promises: which texts GE is of, what a run's key holds, whose seconds count."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny, tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.method import Made
from factedit.edit.state import State
from factedit.errors import EditError
from factedit.evaluate.measures import Measures
from factedit.evaluate.metrics.consistency import Consistency, References
from factedit.evaluate.metrics.free import Free, free_match
from factedit.evaluate.metrics.generation_entropy import GenerationEntropy
from factedit.evaluate.run import Evaluation, evaluate_methods, summary_of
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord, KnownFact
from factedit.models.adapter import EditableModel
from factedit.work.stored_traces import stored_traces
from plain import encode

SUBJECTS = ("Paris", "Seattle", "LeBron James")
RECORDS = [
    FactRecord(
        case_id=str(n),
        request=EditRequest(subject=s, prompt="{} is in", target_new="France", target_true="the capital"),
        paraphrases=(f"{s} plays",),
        neighborhood=("The sport of",),
        generation=(f"{s} is", f"The mother tongue of {s} is the"),
    )
    for n, s in enumerate(SUBJECTS)
]


def evaluated(
    model: EditableModel, path: Path, methods: Sequence[Any] = (), *, dataset: str = "test", **measured: Any
) -> Evaluation:
    with ResultStore(path) as store:
        measures = Measures(**{"metrics": (), **measured})
        return evaluate_methods(model, RECORDS, list(methods), store, dataset=dataset, measures=measures)


def runs(path: Path) -> int:
    with ResultStore(path) as store:
        return len(store.runs())


# -- GE --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
def test_ge_is_of_one_text_per_prompt_so_many_tokens_long_prompt_included_and_seeded(seed: int, tmp_path: Path) -> None:
    """The text of a record's i-th prompt is drawn from the five likeliest with `seed + i`, whatever the record."""
    model = tiny("gpt2")
    found = evaluated(model, tmp_path / "r.sqlite", metrics=(GenerationEntropy(30),), seed=seed).results["unedited"]
    for record in RECORDS:
        texts = [written(model, prompt, 30, seed + i) for i, prompt in enumerate(record.generation)]
        assert found[record.case_id]["generations"] == texts
        by_hand = [(2 / 3 * entropy(text, 2) + 4 / 3 * entropy(text, 3)) / 2 for text in texts]
        assert found[record.case_id]["scores"]["GE"] == pytest.approx(100 * sum(by_hand) / 2)


@torch.no_grad()
def written(model: EditableModel, prompt: str, tokens: int, seed: int) -> str:
    """A prompt continued to so many tokens in all, or to the end token."""
    random, ids = torch.Generator().manual_seed(seed), encode(model, prompt)
    count = len(ids)
    while len(ids) < tokens:
        best = model.lm(input_ids=torch.tensor([ids])).logits[0, -1].topk(5)
        token = int(best.indices[int(torch.multinomial(best.values.softmax(-1), 1, generator=random))])
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return prompt + str(model.tokenizer.decode(ids[count:], skip_special_tokens=True))


def entropy(text: str, n: int) -> float:
    """Of a text's n-grams, in bits; words and marks count one each."""
    words: list[str] = []
    for character in text:
        if character.isalnum() or character == "_":
            words[-1:] = [words[-1] + character] if words and words[-1] else [character]
        else:
            words += ["" if character.isspace() else character, ""]
    words = [word for word in words if word]
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(counts.values())
    return sum(c / total * math.log2(total / c) for c in counts.values())


def test_rs_takes_all_texts_of_a_record_as_one() -> None:
    """Two documents and two texts: the cosine of the sums of their words, not the mean of two cosines."""
    found = Consistency(References("by hand", {"france": ("river bridge",), "spain": ("mountain",)}))
    idf = math.log(3 / 2) + 1  # every word stands in one document of two
    of_one_text = {"river": 2 * idf, "mountain": idf}
    expected = of_one_text["river"] * idf / (math.hypot(*of_one_text.values()) * math.hypot(idf, idf))
    assert found.compare(RECORDS[0], ["river river", "mountain"]) == pytest.approx(100 * expected)
    assert abs(expected - (1 / math.sqrt(2) + 0) / 2) > 0.1, "the mean of the two cosines is another number"


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [(" It is Paris", "Paris", False), (" Rome, not Paris", "Paris", False), ("Paris: it is", "Paris", True)],
)
def test_a_free_answer_must_open_with_the_target(text: str, target: str, expected: bool) -> None:
    assert free_match(text, target) is expected


# -- the key of a run ------------------------------------------------------------------------------


def eager(model: EditableModel) -> EditableModel:
    model.lm.set_attn_implementation("eager")
    return model


def other_epsilon() -> EditableModel:
    return tiny("gpt2", layer_norm_epsilon=0.1)


def other_tokenizer() -> EditableModel:
    return EditableModel(tiny_lm("gpt2"), tiny_tokenizer(start=True), name="tiny-gpt2")


def in_half() -> EditableModel:
    return EditableModel(tiny_lm("gpt2").to(torch.bfloat16), tiny_tokenizer(), name="tiny-gpt2")


OTHER_MODELS: dict[str, Callable[[], EditableModel]] = {
    "weights": lambda: tiny("gpt2", seed=1),
    "configuration": other_epsilon,
    "tokenizer": other_tokenizer,
    "attention": lambda: eager(tiny("gpt2")),
    "type": in_half,
}


@pytest.mark.parametrize("what", sorted(OTHER_MODELS))
def test_a_run_is_of_one_model_with_its_setup_and_its_attention(what: str, tmp_path: Path) -> None:
    """Rows of a model that differs in anything that decides a number are never taken for this model's."""
    path = tmp_path / "r.sqlite"
    first = evaluated(tiny("gpt2"), path)
    assert evaluated(tiny("gpt2"), path).results == first.results
    assert runs(path) == 1
    other = OTHER_MODELS[what]()
    found, alone = evaluated(other, path), evaluated(other, tmp_path / "alone.sqlite")
    assert runs(path) == 2
    assert scores_of(found) == scores_of(alone)


def scores_of(found: Evaluation) -> dict[str, Any]:
    """The rows without what a clock or the memory tells."""
    return {case: row["scores"] for case, row in found.results["unedited"].items()}


@pytest.mark.parametrize(
    "change",
    [{"dataset": "another"}, {"seed": 1}, {"metrics": (Free(2),)}, {"metrics": (GenerationEntropy(12),)}],
)
def test_a_run_is_of_one_data_set_and_protocol(change: dict[str, Any], tmp_path: Path) -> None:
    path, model = tmp_path / "r.sqlite", tiny("gpt2")
    evaluated(model, path)
    evaluated(model, path, **change)
    assert runs(path) == 2


@pytest.mark.parametrize("what", sorted(OTHER_MODELS))
def test_stored_traces_are_of_one_model_with_its_setup_and_its_attention(what: str, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    fact = KnownFact(fact_id="1", prompt="Paris is", subject="Paris", answer="no token of it")
    settings: dict[str, Any] = {"noise": 1.0, "kinds": ["hidden"], "window": 1, "samples": 1, "seed": 1}
    for model in (tiny("gpt2"), tiny("gpt2"), OTHER_MODELS[what]()):
        with ResultStore(path) as store:
            stored_traces(model, [fact], store, dataset="test", **settings)
    assert runs(path) == 2


# -- seconds ---------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that only the method moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def nothing_changed(method: str, request: EditRequest) -> Edit:
    """An edit of the tiny GPT-2 that adds zero."""
    change = LowRank(1, torch.zeros(128, 1), torch.zeros(1, 32))
    return Edit(method=method, requests=(request,), effects=(change,), made_for="any")


@dataclass
class Slow:
    """A method that takes four seconds a fact and cannot edit Seattle; it finds that out before it takes any."""

    clock: Clock
    name: str = "slow"
    paper: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)

    scope: str = "each"

    def edit(self, requests: Sequence[EditRequest], state: State | None = None) -> Made:
        if any(request.subject == "Seattle" for request in requests):
            raise EditError("No Seattle.")
        self.clock.now += 4.0 * len(requests)
        return Made(tuple(nothing_changed(self.name, request) for request in requests))

    def describe(self) -> dict[str, Any]:
        return self.settings


def test_seconds_per_edit_are_of_the_edits_that_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three facts are edited, four seconds each: four seconds an edit, not eight thirds."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    found = evaluated(tiny("gpt2"), tmp_path / "r.sqlite", [Slow(clock)], chunk=3)
    rows = found.results["slow"]
    assert {case: row.get("seconds_per_edit") for case, row in rows.items()} == {"0": 4.0, "1": None, "2": 4.0}
    assert rows["1"]["failed"] == "No Seattle."
    assert found.as_json()["slow"]["seconds_per_edit"] == 4.0


@dataclass
class InTwoSteps(Slow):
    """Two methods of this kind share what takes three seconds a fact; a further second is each one's own."""

    preparation: str = "shared"

    def prepare(self, requests: Sequence[EditRequest]) -> list[None]:
        self.clock.now += 3.0 * len(requests)
        return [None] * len(requests)

    def finish(self, requests: Sequence[EditRequest], prepared: Sequence[None]) -> Made:
        self.clock.now += 1.0 * len(requests)
        return Made(tuple(nothing_changed(self.name, request) for request in requests))


def test_what_methods_prepare_together_counts_for_each_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    methods = [InTwoSteps(clock, name="one"), InTwoSteps(clock, name="two")]
    found = evaluated(tiny("gpt2"), tmp_path / "r.sqlite", methods, chunk=3)
    assert clock.now == 3 * 3.0 + 2 * 3 * 1.0, "prepared once"
    for name in ("one", "two"):
        assert [row["seconds_per_edit"] for row in found.results[name].values()] == [4.0] * 3


def test_a_tables_seconds_are_the_mean_over_edits_and_its_memory_the_most_of_any_record() -> None:
    rows = [
        {"scores": {"ES": 100.0}, "seconds_per_edit": seconds, "peak_memory_mb": peak}
        for seconds, peak in ((1.0, 10.0), (2.0, 400.0), (9.0, 30.0))
    ]
    rows.append({"scores": {"ES": 0.0}, "failed": "why", "peak_memory_mb": 20.0})
    found = summary_of(rows)
    assert (found["seconds_per_edit"].value, found["seconds_per_edit"].n) == (4.0, 3)
    assert (found["peak_memory_mb"].value, found["ES"].value, found["ES"].n) == (400.0, 75.0, 4)
