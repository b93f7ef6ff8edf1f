"""Plans before anything runs: what is counted, by which method's rule, what fits where; formulas written by hand."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import random_moment, tiny, tiny_lm, tiny_tokenizer
from factedit import memory
from factedit.edit.method_table import make_method
from factedit.engine.cost import ModelShape, Work
from factedit.errors import UsageError
from factedit.evaluate.asks import Ask
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.measures import Measures
from factedit.evaluate.metric import Metric
from factedit.evaluate.metrics.free import Free
from factedit.facts import EditRequest, FactRecord
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.outline import outline
from factedit.models.streamed import StreamedModel
from factedit.stats.collect import collect
from factedit.trace.sweep import trace_fact
from factedit.work import machines
from factedit.work.dry_asks import answers_take, counted_asks
from factedit.work.dry_evaluations import dry_evaluate
from factedit.work.dry_methods import EditsTake, edits_take
from factedit.work.dry_run import LAYERS_HELD, ROOM, Part, dry_edit, dry_stats, dry_trace, dry_train, told_costs
from factedit.work.machines import NAMED, Machine, this_machine
from plain import encode

HERE = Machine("here", 1e9, 1e6, 5e6)
REQUEST = EditRequest(subject="Paris", prompt="{} is in", target_new="Seattle", target_true="France")
OTHER = EditRequest(subject="LeBron James", prompt="{} plays the sport of", target_new="basketball")
ALIKE = EditRequest(subject="France", prompt="{} is in", target_new="Seattle", target_true="Paris")  # as long
RECORD = FactRecord(
    case_id="1", request=REQUEST, paraphrases=("Where is Paris? In",), neighborhood=("Café is in", "Zürich is in")
)


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def shape(model: EditableModel) -> ModelShape:
    return ModelShape.of(model)


def work_of(name: str, model: EditableModel, *requests: EditRequest, **settings: Any) -> EditsTake:
    return edits_take(name, model, requests or (REQUEST,), settings)


# -- machines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flops", "read", "seconds"), [(2e9, 1e6, 2.0), (1e9, 3e6, 3.0), (1e9, 1e6, 1.0), (0.0, 0.0, 0.0)]
)
def test_a_job_takes_the_longer_of_its_products_and_its_reading(flops: float, read: float, seconds: float) -> None:
    assert HERE.seconds(Work(flops, read)) == pytest.approx(seconds)


def test_named_machines_are_those_of_the_data_sheets_at_four_tenths_of_the_peak() -> None:
    found = {machine.name.split()[0]: machine for machine in NAMED}
    assert found["H100"].flops == pytest.approx(0.4 * 989e12)
    assert (found["H200"].bandwidth, found["H200"].memory) == (4.8e12, 141e9)
    assert found["A100"].seconds(Work(0.4 * 312e12, 0.0)) == pytest.approx(1.0)
    assert len(found) == len(NAMED) == 4


def test_this_machine_is_measured_and_has_memory(shape: ModelShape, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 1.5, 2.0, 4.0, 4.0, 6.0, 6.0, 8.0] * 2)  # the shortest of five takes half a second
    monkeypatch.setattr(machines.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machines, "available_memory", lambda: 7.0)
    found = this_machine(shape, torch.device("cpu"), torch.float32)
    rows, width = machines.ROWS, shape.d_mlp
    assert found.flops == pytest.approx(2 * rows * max(64, width) * shape.d_model / 0.5)
    assert found.bandwidth == pytest.approx(8 * (1 << 24) / 0.5), "each number read and written, four bytes"
    assert found.memory == 7.0
    assert "1 threads" in found.name


def test_memory_is_what_the_system_says_or_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.available_memory() > 0
    said = ["MemTotal: 99 kB\nMemAvailable:   42 kB\n", "MemTotal: 99 kB\n", "MemAvailable: many kB\n"]
    known = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory.os, "sysconf", known.__getitem__)
    for text, expected in zip(said, (42 * 1024, 40960, 40960), strict=True):
        with monkeypatch.context() as own:
            own.setattr("builtins.open", lambda *_, text=text, **__: io.StringIO(text))
            found = memory.available_memory()
        assert found == expected

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError("no such file")

    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr(memory.os, "sysconf_names", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 2})
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert memory.available_memory() == 40960
    monkeypatch.setattr(memory.os, "sysconf_names", {})
    assert memory.available_memory() == 0


# -- what is told ----------------------------------------------------------------------------------


def test_a_plan_adds_its_parts_and_says_where_it_fits(model: EditableModel, shape: ModelShape) -> None:
    parts = [Part("a", Work(3e9, 1e6)), Part("b", Work(1e9, 1e6))]
    found = told_costs("edit", model, parts, 1e6, disk=5.0, notes=("x", "", "y", "x"), here=HERE)
    assert (found.work, found.notes, found.disk) == (Work(4e9, 2e6), ("x", "y"), 5.0)
    assert found.weights == sum(p.numel() for p in model.lm.parameters()) * 4
    assert found.memory == pytest.approx(ROOM * (found.weights + 1e6))
    first, *others = found.times
    assert (first.machine, first.seconds, first.fits) == ("here", pytest.approx(4.0), True)
    assert [time.fits for time in others] == [True] * len(NAMED)
    told_small = told_costs("edit", model, parts, 5e6, here=HERE)
    assert told_small.times[0].fits is False, "with the weights and a tenth it is more than 5 MB"
    assert told_costs("edit", model, parts, 0, here=replace(HERE, memory=0.0)).times[0].fits is None, "not known"
    row = found.as_json()
    assert row["flops"] == 4e9
    assert row["parts"][1] == {"what": "b", "flops": 1e9, "read": 1e6}
    assert row["times"][0] == {"machine": "here", "seconds": pytest.approx(4.0), "fits": True}


def test_named_machines_read_half_the_bytes_of_float32(model: EditableModel) -> None:
    """They compute in bfloat16, whose numbers have two bytes for four."""
    found = told_costs("edit", model, [Part("a", Work(0.0, 8e12))], 0, here=HERE)
    by_name = {time.machine.split()[0]: time.seconds for time in found.times}
    assert by_name["A100"] == pytest.approx(8 / 2 / 2.0)
    assert by_name["here"] == pytest.approx(8e6)


# -- methods ---------------------------------------------------------------------------------------


def test_fine_tuning_is_counted_there_and_back_at_every_step(model: EditableModel, shape: ModelShape) -> None:
    """By hand: n tokens through the layers below once, above twice and the matrix's gradient, at every step."""
    ids = encode(model, "Paris is in Seattle")
    n, first = len(ids) - 1, len(encode(model, "Paris is in"))
    layer, steps, reads = 1, 7, len(ids) - first
    attention = 4 * shape.width * n
    head = 2 * reads * shape.vocab * shape.d_model
    forward = n * 3 * (2 * shape.layer + attention) + head
    backward = forward + 4 * n * 3 * shape.width * n
    gradient = 2 * n * shape.d_mlp * shape.d_model
    below = n * 1 * (2 * shape.layer + attention)
    found = work_of("ft", model, layer=layer, steps=steps)
    assert found.work.flops == pytest.approx(below + steps * (forward + backward + gradient))
    assert (found.layers, found.note) == ((), "every step is counted")
    assert work_of("ft-m", model, layer=layer, epochs=steps).work == found.work, "its steps are called epochs"


def test_a_method_that_is_not_known_counts_as_one_pass(model: EditableModel, shape: ModelShape) -> None:
    ids = encode(model, "Paris is in Seattle")
    n, reads = len(ids), len(ids) - len(encode(model, "Paris is in"))
    forward = n * 4 * (2 * shape.layer + 4 * shape.width * n) + 2 * reads * shape.vocab * shape.d_model
    found = work_of("of-another-package", model)
    assert found.work.flops == pytest.approx(2 * forward + 4 * n * 4 * shape.width * n)
    assert found == work_of("mend", model) == work_of("ke-zsre", model)
    assert found.note == "counted as one pass there and back"
    assert work_of("romeo", model) == found, "a name that only begins like one of the table"


@pytest.mark.parametrize(
    ("form", "name"),
    [("rome+stop", "rome"), ("ft+stop", "ft"), ("rome-original", "rome"), ("memit-no-history", "memit"),
     ("alphaedit-nas+stop", "alphaedit"), ("prune", "memit"), ("nse", "memit"), ("locft-bf", "locft")],
)  # fmt: skip
def test_forms_of_a_method_are_counted_as_it_is(form: str, name: str, model: EditableModel) -> None:
    """`rome+stop` was counted as one pass, though it makes every evaluation that `rome` makes."""
    settings: dict[str, Any] = {"steps": 3} if name in ("rome", "ft") else {}
    assert work_of(form, model, **settings) == work_of(name, model, **settings)
    assert work_of(form, model, **settings).work != work_of("ice", model).work


def test_values_take_every_evaluation_and_a_solve_per_layer(model: EditableModel, shape: ModelShape) -> None:
    few, many = (work_of("rome", model, layer=1, steps=steps, context_templates=["{}"]) for steps in (1, 11))
    ids, at = encode(model, "Paris is in Seattle"), len(encode(model, "Paris")) - 1
    after, reads = len(ids) - 1 - at, len(ids) - len(encode(model, "Paris is in"))
    contexts, essence = (after, at + after, reads), (1, at + 1, 1)
    per_step = 0.0
    for rows, (tokens, keys, read) in ((2, contexts), (1, essence)):  # the bare prompt and the one template of 8
        for row in range(rows):
            seen = keys + (8 + 2 if row else 0)
            there = tokens * 3 * (2 * shape.layer + 4 * shape.width * seen) + 2 * read * shape.vocab * shape.d_model
            per_step += 2 * there + 4 * tokens * 3 * shape.width * seen
    assert many.work.flops - few.work.flops == pytest.approx(10 * per_step)
    assert many.layers == few.layers == (1,)
    assert few.memory == 20 * shape.d_mlp**2, "C in float32, a factor and a copy in float64"
    two = work_of("memit", model, layers=(1, 2), steps=1)
    one = work_of("memit", model, layers=(2,), steps=1)
    assert two.work.flops - one.work.flops == pytest.approx(shape.d_mlp**3 / 3 + 2 * shape.d_mlp**2)
    assert two.layers == (1, 2)


def test_a_memory_takes_romes_values_and_no_second_moment(model: EditableModel, shape: ModelShape) -> None:
    rome, beside = (work_of(name, model, layer=2, steps=4) for name in ("rome", "memory"))
    assert (beside.layers, beside.memory) == ((), 0)
    assert rome.work.flops - beside.work.flops == pytest.approx(shape.d_mlp**3 / 3 + 2 * shape.d_mlp**2)


def test_rome_joint_is_counted_on_all_its_layers(model: EditableModel, shape: ModelShape) -> None:
    """It was counted as `rome`, on one layer, of which C and the solve are a part only."""
    rome, several = work_of("rome", model, layer=1, steps=4), work_of("rome-joint", model, layers="1-3", steps=4)
    assert (several.layers, several.memory) == ((1, 2, 3), 3 * rome.memory)
    assert several.work.flops - rome.work.flops == pytest.approx(2 * (shape.d_mlp**3 / 3 + 2 * shape.d_mlp**2))
    assert work_of("rome-joint", model, layer=1, steps=4) == rome
    templates = {"context_templates": ["{}", "Well. {}"]}
    assert work_of("rome-joint", model, layer=1, **templates) == work_of("rome", model, layer=1, **templates)


def test_layers_of_a_plan_are_read_as_those_of_an_edit(model: EditableModel) -> None:
    """Text such as `1-2` was taken for three layers: 1, - and 2."""
    assert work_of("memit", model, layers="1-2") == work_of("memit", model, layers=[1, 2])
    assert work_of("pmet", model, layers=2).layers == (2,)
    for name, layers in (("memit", "two"), ("emmet", "3-1"), ("rome-joint", "x"), ("alphaedit", [2, 1]), ("pmet", 99)):
        with pytest.raises(UsageError, match=r"The settings of (memit|emmet|rome-joint)|must ascend|Layer 99"):
            work_of(name, model, layers=layers)


def test_facts_add_up(model: EditableModel) -> None:
    for name, settings in (("ft", {"layer": 1}), ("mend", {})):
        both = work_of(name, model, REQUEST, OTHER, **settings).work
        alone = [work_of(name, model, own, **settings).work for own in (REQUEST, OTHER)]
        assert both.flops == pytest.approx(alone[0].flops + alone[1].flops)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("grace", {"layer": 1, "steps": 5, "stop_loss": 0.0}), ("kn", {"steps": 4}),
     ("lora", {"rank": 1, "steps": 5, "stop_loss": 0.0}), ("ft", {"layer": 1, "steps": 5})],
)  # fmt: skip
def test_what_methods_take_is_what_torch_counts(
    name: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`grace`, `kn` and `lora` were counted as one pass there and back."""
    if name == "lora":
        pytest.importorskip("peft")
    monkeypatch.setattr("factedit.engine.head.has_onednn", lambda _weight: False)  # whose product torch does not count
    eager = tiny("gpt2", attn_implementation="eager")
    method = make_method(name, eager, lambda m, _l: random_moment(m.d_mlp), **settings)
    with FlopCounterMode(display=False) as counter:
        method.edit([REQUEST, ALIKE])
    taken = work_of(name, eager, REQUEST, ALIKE, **settings)
    assert taken.work.flops == pytest.approx(counter.get_total_flops(), rel=0.12)
    assert taken.layers == ()
    assert "one pass" not in taken.note


@pytest.mark.parametrize("stream", [False, True])
def test_an_outline_counts_shared_matrices_once(stream: bool, tmp_path: Path) -> None:
    """A third of Gemma 3 270M was counted twice: its output matrix is that of its embeddings."""
    lm = tiny_lm("gemma3_text")
    assert lm.config.tie_word_embeddings
    lm.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    numbers = sum({id(p): p.numel() for p in lm.parameters()}.values())
    assert ModelShape.of(outline(str(tmp_path), stream=stream)).weights == 4 * numbers


# -- from disk -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plans")
    tiny_lm("llama", num_hidden_layers=9).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def streamed(folder: Path) -> StreamedModel:
    model = load(str(folder), stream=True)
    assert isinstance(model, StreamedModel)
    model.fingerprint()  # a pass of its own, once
    return model


def passes(model: StreamedModel, work: Callable[[], object]) -> float:
    """How often the bytes of all layers were read."""
    before = model.files.bytes_read
    work()
    return (model.files.bytes_read - before) / model.pass_bytes


CONTEXTS = {"context_templates": ["So it was. {}", "Well. {}"]}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("rome", {"layer": 3, "stop_loss": 0.0, **CONTEXTS}), ("memit", {"layers": (1, 2), "stop_loss": 0.0, **CONTEXTS}),
     ("rome-joint", {"layers": (2, 4), "stop_loss": 0.0, **CONTEXTS}), ("grace", {"layer": 3, "stop_loss": 0.0}),
     ("ft", {"layer": 3}), ("kn", {})],
    ids=lambda own: own if isinstance(own, str) else "",
)  # fmt: skip
def test_an_edit_reads_what_was_planned(
    name: str, settings: dict[str, Any], folder: Path, streamed: StreamedModel
) -> None:
    settings = {"steps": 4, **settings}
    method = make_method(name, streamed, lambda m, _l: random_moment(m.d_mlp), **settings)
    for requests in ([REQUEST], [REQUEST, ALIKE]):
        planned = edits_take(name, outline(str(folder), stream=True), requests, settings).work.passes
        assert passes(streamed, lambda facts=requests: method.edit(facts)) == pytest.approx(planned, rel=0.1)


def test_more_facts_in_more_batches_read_no_more(streamed: StreamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch of rows was taken up to the edited layer by itself."""
    monkeypatch.setattr("factedit.edit.value_rows.TOKENS_PER_FETCH", -1)  # none joins a wider one
    method = make_method("rome", streamed, lambda m, _l: random_moment(m.d_mlp), layer=5, steps=2, **CONTEXTS)
    ends = ("football", "the sport of basketball", "France", "Seattle and the city of Paris and France")
    facts = [EditRequest(subject="Paris", prompt="{} is in" + " the" * n, target_new=t) for n, t in enumerate(ends)]
    few, many = (passes(streamed, lambda own=own: method.edit(own)) for own in (facts[:2], facts))
    assert many == few


def test_a_trace_and_second_moments_read_what_was_planned(folder: Path, streamed: StreamedModel) -> None:
    plan = outline(str(folder), stream=True)
    told = dry_trace(plan, "Paris is in France", "Paris", samples=2, here=HERE)
    assert told.streamed is not None
    read = passes(streamed, lambda: trace_fact(streamed, "Paris is in France", "Paris", noise=0.5, samples=2))
    assert told.streamed.passes == pytest.approx(read)
    rows = [[5 + (7 * n + i) % 300 for i in range(30)] for n in range(12)]
    told = dry_stats(plan, layers=[1, 4], corpus="x", tokens=300, here=HERE)
    assert told.streamed is not None
    assert told.streamed.passes == pytest.approx(passes(streamed, lambda: collect(streamed, [1, 4], rows, tokens=300)))


def test_a_streamed_plan_holds_some_layers_and_takes_as_long_as_reading(folder: Path) -> None:
    plan, whole = (outline(str(folder), stream=stream) for stream in (True, False))
    fast = replace(HERE, flops=1e18, bandwidth=1e18)
    told, loaded = (dry_trace(own, "Paris is in", "Paris", here=fast) for own in (plan, whole))
    shape = ModelShape.of(whole)
    layer = shape.stored * shape.bytes_each
    assert loaded.memory - told.memory == pytest.approx(ROOM * (9 - LAYERS_HELD) * layer)
    assert loaded.streamed is None
    assert told.streamed is not None
    assert told.streamed.bytes == pytest.approx(3 * 9 * layer + shape.weights), "three passes, and everything once"
    assert told.times[0].seconds == told.streamed.seconds > loaded.times[0].seconds
    assert told.as_json()["streamed"] == told.streamed._asdict()
    assert "streamed" not in loaded.as_json()


# -- commands --------------------------------------------------------------------------------------


def test_an_edit_needs_second_moments_unless_they_are_in_a_file(model: EditableModel, shape: ModelShape) -> None:
    settings = {"layer": 1, "steps": 2}
    parts = [
        [part.what for part in dry_edit(model, "rome", [REQUEST], settings, here=HERE, **how).parts]
        for how in ({}, {"own_text": False}, {"ready": True})
    ]
    count = 10 * shape.d_mlp
    text, moments = f"{count} tokens of text that the model writes itself", (
        f"second moments of 1 layers from {count} tokens"
    )  # fmt: skip
    own = ["rome: 1 facts", "the facts asked before and after"]
    assert parts == [[text, moments, *own], [moments, *own], own]
    assert [p.what for p in dry_edit(model, "ft", [REQUEST], {"layer": 1}, here=HERE).parts] == ["ft: 1 facts", own[1]]
    found = dry_edit(model, "rome", [REQUEST, OTHER], settings, here=HERE)
    assert found.disk == 8 * 2 * (shape.d_mlp + shape.d_model), "a vector on either side, for each fact"
    assert found.notes == ("every evaluation of the loss is counted",)


def test_second_moments_by_hand(model: EditableModel, shape: ModelShape) -> None:
    """1000 tokens through two layers, and half of k kᵀ and an eighth for either layer."""
    found = dry_stats(model, layers=[0, 1], corpus="a file", tokens=1000, here=HERE)
    through = 1000 * 2 * (2 * shape.layer + 4 * shape.width * model.context_length)
    assert found.work.flops == pytest.approx(through + 2 * 2 * 5 / 8 * 1000 * shape.d_mlp**2)
    assert found.disk == 2 * 4 * shape.d_mlp**2
    with pytest.raises(UsageError, match="Layer 9 was asked for"):
        dry_stats(model, layers=[9], here=HERE)


def test_traces_by_their_kinds_and_samples(model: EditableModel) -> None:
    asked = {"prompt": "The Space Needle is in", "subject": "Space Needle", "here": HERE}
    one = dry_trace(model, kinds="mlp", samples=1, **asked)  # type: ignore[arg-type]
    ten = dry_trace(model, kinds="mlp", samples=10, **asked)  # type: ignore[arg-type]
    both = dry_trace(model, kinds="mlp,attn", samples=1, **asked)  # type: ignore[arg-type]
    clean = one.work.flops - (ten.work.flops - one.work.flops) / 9
    assert clean > 0, "the clean run is made once whatever the samples"
    assert both.work.flops - clean > 1.5 * (one.work.flops - clean)
    assert "1 traces" in one.parts[0].what
    assert one.notes == ()
    with pytest.raises(UsageError, match="mpl"):
        dry_trace(model, kinds="mpl", **asked)  # type: ignore[arg-type]


def test_a_training_is_its_steps_and_its_validations(model: EditableModel) -> None:
    few, many = (dry_train(model, "mend", steps=steps, batch=2, here=HERE) for steps in (100, 300))
    assert many.work.flops == pytest.approx(3 * few.work.flops)
    assert few.parts[0].what == "100 steps of 2 examples"
    assert few.notes == ("the network of mend itself is not counted",)
    assert dry_train(model, "ke", here=HERE).parts[0].what.split()[0].isdigit(), "as many as are made by default"


def asks_by(metrics: Sequence[Metric], record: FactRecord) -> list[list[Ask]]:
    return [[ask for metric in metrics if not metric.lacks(record) for ask in metric.asks(record)]]


def test_what_is_asked_of_records_is_counted_by_hand(model: EditableModel) -> None:
    """CounterFact asks each prompt for two objects, the free text writes from one prompt."""
    metrics = Measures(metrics=(Free(tokens=6),)).with_benchmark(COUNTERFACT)
    found = counted_asks(model, asks_by(metrics, RECORD))
    prompts = [REQUEST.text, *RECORD.paraphrases, *RECORD.neighborhood]
    size = lambda text: len(encode(model, text))  # noqa: E731
    lengths = {p: max(size(f"{p} {o}") for o in ("Seattle", "France")) - 1 for p in prompts}
    own = size(REQUEST.text)
    assert found.tokens == sum(lengths.values()) + own, "what is asked twice is read once, what is written anew"
    assert found.reads == sum(size(f"{p} {o}") - size(p) for p in prompts for o in ("Seattle", "France"))
    assert (found.written, found.per_record) == (6, 6)
    assert found.keys == pytest.approx(found.tokens / (len(prompts) + 1))
    twice = counted_asks(model, [*asks_by(metrics, RECORD), *asks_by(metrics, replace(RECORD, case_id="2"))])
    assert (twice.tokens, twice.written, twice.per_record) == (2 * found.tokens, 12, 6)
    lacking = FactRecord(case_id="3", request=OTHER)
    assert counted_asks(model, asks_by(metrics[:1], lacking)).tokens == 0, "a record that cannot be asked is not"


def test_answers_are_prompts_through_some_layers_and_written_tokens_through_all(
    model: EditableModel, shape: ModelShape
) -> None:
    metrics = Measures(metrics=()).with_benchmark(COUNTERFACT)
    asks = counted_asks(model, asks_by(metrics, RECORD))
    found = answers_take(shape, asks, 2, 32)
    expected = asks.tokens * 2 * (2 * shape.layer + 4 * shape.width * asks.keys)
    assert found.flops == pytest.approx(expected + 2 * asks.reads * shape.vocab * shape.d_model)


def test_an_evaluation_asks_the_unedited_model_once_and_every_method_above_its_layer(model: EditableModel) -> None:
    metrics = Measures(metrics=()).with_benchmark(COUNTERFACT)
    given: dict[str, Any] = {"ft": {"layer": 0}, "rome": {"layer": 3, "steps": 2}}
    found = dry_evaluate("evaluate", model, [RECORD], ["ft", "rome"], metrics, given, ready=True, here=HERE)
    names = [part.what for part in found.parts]
    assert names == ["1 records asked, unedited", "ft: 1 edits", "ft: 1 records asked", "rome: 1 edits",
                     "rome: 1 records asked"]  # fmt: skip
    by_name = {part.what: part.work.flops for part in found.parts}
    assert by_name["rome: 1 records asked"] < by_name["ft: 1 records asked"] == by_name["1 records asked, unedited"], (
        "an edit at the last layer leaves what is below as it was; of one that needs no C the layer is not known"
    )
    assert found.disk == 4000 * 1 * 3
    assert len(found.notes) == 2
    with pytest.raises(UsageError, match="There are no records to evaluate"):
        dry_evaluate("evaluate", model, [], ["ft"], metrics, here=HERE)


def test_a_plan_writes_nothing(model: EditableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    before = model.fingerprint()
    dry_edit(model, "memit", [REQUEST], {"layers": (1,)}, here=HERE)
    assert model.fingerprint() == before
    assert list(tmp_path.iterdir()) == []
