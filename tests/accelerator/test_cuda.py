"""A CUDA device gives what the processor gives: every method, every measure, and the model is left as it was."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import EDITABLE, random_moment, tiny
from factedit.edit.method_table import make_method
from factedit.edit.presets import RomeSettings
from factedit.edit.value import find_values
from factedit.engine import budget
from factedit.engine.graphs import steps_captured
from factedit.engine.products import own_products
from factedit.evaluate.measures import Measures
from factedit.evaluate.probability import Question, score
from factedit.evaluate.run import evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.evaluate.texts import continue_texts
from factedit.facts import EditRequest, FactRecord
from factedit.memory import PeakMemory
from factedit.models.adapter import EditableModel
from factedit.stats.collect import collect
from factedit.trace.sweep import trace_fact
from run_command import ok
from tiny_training import train_tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

REQUESTS = [
    EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="football", target_true="Paris"),
    EditRequest(subject="Paris", prompt="{} is the capital of", target_new="Seattle", target_true="France"),
    EditRequest(subject="Danielle Darrieux", prompt="The mother tongue of {} is", target_new="Москва"),
]
CONTEXTS = ["{}", "The Space Needle. {}", "Café Zürich is in downtown. {}"]
ASKED = [[Question(request.text, request.target_new), Question("Paris is", "France")] for request in REQUESTS]
SETTINGS = {
    "rome": {"layer": 1, "steps": 8, "context_templates": CONTEXTS},
    "rome-original": {"layer": 1, "steps": 8, "context_templates": CONTEXTS},
    "ft": {"layer": 1, "steps": 6},
    "ft-l": {"layer": 1, "steps": 6, "epsilon": 1e-3},
    "kn": {"steps": 4},
}


def twins(family: str) -> tuple[EditableModel, EditableModel]:
    """One model on the processor and on the device."""
    here = tiny(family)
    return here, EditableModel(copy.deepcopy(here.lm).to("cuda"), here.tokenizer, name=here.name)


@pytest.fixture(scope="module")
def both() -> tuple[EditableModel, EditableModel]:
    return twins("gpt2")


@pytest.fixture(autouse=True)
def _unchanged(both: tuple[EditableModel, EditableModel]) -> Iterator[None]:
    before = [p.clone() for p in both[1].lm.parameters()]
    yield
    assert all(torch.equal(a, b) for a, b in zip(before, both[1].lm.parameters(), strict=True))


def moments(model: EditableModel, _layer: int):
    return random_moment(model.d_mlp)


@pytest.mark.parametrize("family", EDITABLE)
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_edits(family: str, name: str) -> None:
    here, there = twins(family)
    untouched = [p.clone() for p in there.lm.parameters()]
    ours, theirs = (make_method(name, m, moments, **SETTINGS[name]).edit(REQUESTS).edits for m in (here, there))
    for own, other in zip(ours, theirs, strict=True):
        for one, two in zip(own.effects, other.effects, strict=True):
            gap = (one.delta() - two.delta().cpu()).norm() / one.delta().norm()
            assert gap < (0.02 if name.startswith("rome") else 1e-3)  # Adam amplifies rounding
    assert all(torch.equal(a, b) for a, b in zip(untouched, there.lm.parameters(), strict=True))
    scores = [score(m, ASKED, [None, edits]) for m, edits in ((here, ours), (there, ours))]
    for one, two in zip(*([s.log_p for v in found for case in v for s in case] for found in scores), strict=True):
        assert one == pytest.approx(two, abs=2e-4)


def test_facts_keep_their_company_out_of_it(both: tuple[EditableModel, EditableModel]) -> None:
    settings = RomeSettings(layer=1, steps=8)
    together = find_values(both[1], 1, REQUESTS, CONTEXTS, settings)
    for request, value in zip(REQUESTS, together, strict=True):
        [alone] = find_values(both[1], 1, [request], CONTEXTS, settings)
        assert value.delta.is_cuda
        torch.testing.assert_close(value.delta, alone.delta, rtol=1e-3, atol=1e-5)


def test_a_captured_step_is_the_step(
    both: tuple[EditableModel, EditableModel], caplog: pytest.LogCaptureFixture
) -> None:
    settings = RomeSettings(layer=1, steps=8, stop_loss=0.0)
    plainly = find_values(both[1], 1, REQUESTS, CONTEXTS, settings)
    with caplog.at_level(logging.WARNING, "factedit"), steps_captured():
        replayed = find_values(both[1], 1, REQUESTS, CONTEXTS, settings)
    assert "could not be captured" not in caplog.text
    for ours, theirs in zip(plainly, replayed, strict=True):
        torch.testing.assert_close(theirs.delta, ours.delta, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["mend", "ke"])
def test_networks(both: tuple[EditableModel, EditableModel], kind: str, tmp_path: Path) -> None:
    """Trained on the device, they edit there as on the processor."""
    train_tiny(both[1], kind, tmp_path / kind)  # type: ignore[arg-type]
    for parameter in both[1].lm.parameters():
        assert parameter.grad is None
    deltas = []
    for model in both:
        method = make_method(f"{kind}-zsre", model, moments, trained=tmp_path / kind)
        deltas.append([change.delta().cpu() for edit in method.edit(REQUESTS).edits for change in edit.effects])
    for one, two in zip(*deltas, strict=True):
        assert one.norm() > 0
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_traces(both: tuple[EditableModel, EditableModel]) -> None:
    here, there = (trace_fact(m, "LeBron James plays the sport of", "LeBron James", noise=0.5, samples=4) for m in both)
    assert here.answer == there.answer
    assert here.corrupted == pytest.approx(there.corrupted, abs=1e-5)
    for kind, rows in here.scores.items():
        torch.testing.assert_close(torch.tensor(rows), torch.tensor(there.scores[kind]), rtol=0, atol=1e-5)


def test_second_moments(both: tuple[EditableModel, EditableModel]) -> None:
    rows = [[1 + (7 * n + i) % 300 for i in range(3 + n % 11)] for n in range(60)]
    counts: list[int] = []
    here, there = (
        collect(m, [0, 2], rows, tokens=301, after_rows=lambda _sums, n: counts.append(n) if m is both[1] else None)  # noqa: B023
        for m in both
    )
    assert len(counts) < len(rows) / 4, "rows run together on a device"
    for layer in (0, 2):
        assert here[layer].tokens == there[layer].tokens == 301
        torch.testing.assert_close(here[layer].mean(), there[layer].mean(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("top_k", [1, 5])
def test_texts(both: tuple[EditableModel, EditableModel], top_k: int) -> None:
    prompts = [request.text for request in REQUESTS]
    here, there = (continue_texts(m, prompts, [None] * 3, tokens=8, top_k=top_k, seeds=[0, 1, 2]) for m in both)
    assert here == there


def test_whole_evaluation(both: tuple[EditableModel, EditableModel], tmp_path: Path) -> None:
    records = [
        FactRecord(case_id=request.subject, request=request, paraphrases=("Where?",), neighborhood=("Seattle is", "So"))
        for request in REQUESTS[:2]
    ]
    found = []
    for model in both:
        methods = [make_method(name, model, moments, **SETTINGS[name]) for name in ("rome", "ft")]
        with ResultStore(tmp_path / f"{model.device.type}.sqlite") as store:
            found.append(evaluate_methods(model, records, methods, store, dataset="few", measures=Measures(chunk=2)))
    for method, own in found[0].summary.items():
        for name in ("ES", "EM", "PS", "PM", "NS", "NM", "free"):
            assert own[name].value == pytest.approx(found[1].summary[method][name].value, abs=0.05), (method, name)


def test_memory_that_runs_out_is_halved(
    both: tuple[EditableModel, EditableModel], caplog: pytest.LogCaptureFixture
) -> None:
    """A real refusal of the device's allocator, not one made up."""
    requests = REQUESTS * 400
    settings = RomeSettings(layer=1, steps=2)
    expected = find_values(both[1], 1, REQUESTS, CONTEXTS, settings)
    with PeakMemory(both[1].device) as peak:
        find_values(both[1], 1, requests, CONTEXTS, settings, tokens_at_once=1 << 30)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_allocated() / 1e6
    torch.cuda.set_per_process_memory_fraction((held + 0.6 * (peak.mb - held)) * 1e6 / total)
    try:
        with caplog.at_level(logging.WARNING, "factedit"):
            found = find_values(both[1], 1, requests, CONTEXTS, settings, tokens_at_once=1 << 30)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "1200 facts do not fit in memory at once; going on with 600" in caplog.text
    for n, value in enumerate(found):
        torch.testing.assert_close(value.delta, expected[n % 3].delta, rtol=1e-2, atol=1e-4)


def test_half_precision_is_the_devices_own(both: tuple[EditableModel, EditableModel]) -> None:
    model = EditableModel(copy.deepcopy(both[1].lm).to(torch.bfloat16), both[1].tokenizer, name="half")
    with own_products(model, range(4)):
        assert all("forward" not in module.__dict__ for module in model.lm.modules())
    edits = make_method("rome", model, moments, **SETTINGS["rome"]).edit(REQUESTS).edits
    assert all(change.left.dtype == torch.float32 for edit in edits for change in edit.effects)
    before, after = score(model, ASKED, [None, edits])
    assert all(sum(a[0].log_p) > sum(b[0].log_p) for b, a in zip(before, after, strict=True))


def test_how_many_at_once() -> None:
    free = torch.cuda.mem_get_info()[0]
    found = budget._at_once(torch.device("cuda"), 1e6, 3, share=0.5)
    assert 0.4 * free / 1e6 < found < 0.7 * torch.cuda.mem_get_info()[1] / 1e6
    assert budget._at_once(torch.device("cpu"), 1e6, 3, share=0.5) == 3


def test_a_model_on_the_device_from_the_command_line(golden_dir: Path, tmp_path: Path) -> None:
    request = ["--subject", "LeBron James", "--prompt", "{} plays the sport of", "--target", "football"]
    given = ["--second-moment", str(golden_dir / "second_moment.safetensors"), "--layer", "2"]
    found = []
    for device in ("cpu", "cuda"):
        made = tmp_path / f"{device}.json"
        ok("edit", str(golden_dir), *request, *given, "--full", "--json", str(made), "--device", device)
        found.append(json.loads(made.read_text()))
    assert found[0]["losses"][-1] == pytest.approx(found[1]["losses"][-1], rel=1e-2, abs=1e-3)
