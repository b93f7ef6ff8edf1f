"""What case studies, locating, panels, ability sets and the demo would take: the same facts and questions as theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from factedit.data.registry import load_facts, select_of
from factedit.edit.manifest import read_manifest
from factedit.edit.presets import settings_for
from factedit.engine import budget
from factedit.engine.cost import ModelShape, Work, held, solve_work
from factedit.errors import UsageError
from factedit.evaluate.ability.items import AbilityItem
from factedit.evaluate.asks import Ask
from factedit.evaluate.benchmarks.counterfact import COUNTERFACT
from factedit.evaluate.panel import asks_of
from factedit.evaluate.probability import Question
from factedit.evaluate.texts import Greedy
from factedit.facts import EditRequest, FactRecord, one_spelling, template_of
from factedit.models.adapter import EditableModel
from factedit.models.positions import locate
from factedit.stack.folder import is_stack
from factedit.trace.sweep import KINDS, default_window
from factedit.work.ability import ability_items
from factedit.work.case_study import case_prompts, studied
from factedit.work.demo import FREE_TOKENS, RECORD, TRACE_PROMPT, TRUE_TOKENS, saved_record, story_prompts
from factedit.work.dry_asks import answers_take, counted_asks
from factedit.work.dry_methods import at_layer, edits_take
from factedit.work.dry_run import DryRun, Part, told_costs, with_moments
from factedit.work.dry_traces import traces_take
from factedit.work.locate_asked import WINDOWS, asked_to_locate
from factedit.work.machines import Machine
from factedit.work.panel import NO_EDIT, panel_facts

SAMPLES = 10  # of the demo's trace
ONLY_ANSWERED = "facts that the model does not answer right are counted too, and take less"


def dry_case_study(
    model: EditableModel,
    dataset: str,
    *,
    ids: Sequence[str] | None = None,
    records: int = 3,
    methods: str = "ft,ft-l,kn,rome",
    tokens: int = 40,
    seed: int = 0,
    ready: bool = False,
    own_text: bool = True,
    here: Machine | None = None,
) -> DryRun:
    """Return what a case study would take; see `case_study` and `dry_edit`."""
    named, chosen = studied(dataset, ids=ids, records=records, methods=methods, tokens=tokens, seed=seed)
    shape, requests = ModelShape.of(model), [record.request for record in chosen]
    taken = {name: edits_take(name, model, requests) for name in named}
    memory, parts = with_moments(model, [n for take in taken.values() for n in take.layers], ready, own_text)
    texts = [[Greedy(prompt, tokens) for prompt in case_prompts(record)] for record in chosen]
    asks = counted_asks(model, texts * (1 + len(named)))
    together = sum(map(len, texts)) / len(texts) * (1 + len(named))  # of a record, by all methods
    parts += [Part(f"{name}: {len(chosen)} edits", take.work) for name, take in taken.items()]
    written = answers_take(shape, asks, shape.n_layer, max(1, round(together)))
    parts.append(Part(f"{tokens} tokens after every prompt, unedited and by {len(named)} methods", written))
    peak = max([memory, held(shape, together * 64, together), *(take.memory for take in taken.values())])
    notes = [take.note for take in taken.values()]
    return told_costs("case-study", model, parts, peak, notes=notes, here=here)


def dry_locate(
    model: EditableModel,
    facts: str,
    *,
    methods: str = "rome,ft",
    records: int = 50,
    layers: Sequence[int] | None = None,
    windows: Sequence[int] = WINDOWS,
    kind: str = "mlp",
    noise: str = "3s",
    samples: int = 10,
    seed: int = 0,
    settings: Sequence[str] = (),
    batch: int = 8,
    corpus: str | None = None,
    here: Machine | None = None,
) -> DryRun:
    """Return what locating would take, were all facts answered; see `locate_facts`."""
    plan = asked_to_locate(
        facts, methods=methods, records=records, layers=layers, windows=windows, kind=kind, noise=noise, seed=seed,
        settings=settings,
    )  # fmt: skip
    shape, requests = ModelShape.of(model), [record.request for record in plan.records]
    wanted, about = plan.layers_of(model), [(request.text, request.subject) for request in requests]
    traces = {width: traces_take(model, about, [kind], width, samples) for width in plan.windows}
    edits = {
        (name, n): edits_take(name, model, requests, {**plan.settings.get(name, {}), **at_layer(name, n)})
        for name in plan.methods
        for n in wanted
    }
    needs = any(take.layers for take in edits.values())  # then those of all layers are computed, in one pass
    memory, parts = with_moments(model, wanted if needs else (), False, corpus is None)
    asks = counted_asks(model, [[Question(request.text, request.target_new)] for request in requests])
    parts += [Part(f"{len(about)} traces, window {width}", take.work) for width, take in traces.items()]
    for name in plan.methods:
        work = sum((edits[name, n].work for n in wanted), Work())
        for layer in wanted:
            asked = (answers_take(shape, asks, through, batch) for through in (shape.n_layer, shape.n_layer - layer))
            work = sum(asked, work)
        parts.append(Part(f"{name}: {len(requests)} edits at {len(wanted)} layers, asked before and after", work))
    peak = max([memory, *(take.memory for take in traces.values()), *(take.memory for take in edits.values())])
    disk = 4000.0 * len(requests) * (len(traces) + len(edits))
    notes = [ONLY_ANSWERED, *(take.note for take in edits.values())]
    return told_costs("locate", model, parts, peak, disk=disk, notes=notes, here=here)


def dry_panel(
    model: EditableModel,
    edits: Sequence[Path] = (),
    *,
    source: str = "",
    facts: str | None = None,
    records: int | None = None,
    layer: int | None = None,
    panel: Path | None = None,
    limit: int | None = None,
    ready: bool = False,
    own_text: bool = True,
    here: Machine | None = None,
) -> DryRun:
    """Return what a panel would take, were all its facts answered.

    Args:
        model: its outline.
        edits, facts, records, layer, panel, limit: see `ask_panel` and `predict_panel`.
        source: what the outline is of; of a folder of edits, their facts are not looked at.
        ready, own_text: see `dry_edit`.

    Raises:
        UsageError, DataError: as there.
    """
    if facts is None and not (edits or is_stack(source)):
        raise UsageError(NO_EDIT)
    if facts is None:
        requests = [request for folder in edits for request in _requests(folder)]
    else:
        requests = [record.request for record in select_of(load_facts(facts), limit=records)]
    edited = {one_spelling(request.subject) for request in requests}
    known = [fact for fact in panel_facts(panel, limit) if one_spelling(fact.subject) not in edited]
    shape, at = ModelShape.of(model), model.check_layer(settings_for(model).layer or 0 if layer is None else layer)
    memory, parts = with_moments(model, (at,), ready, own_text)
    asks = counted_asks(model, [[Question(fact.prompt, fact.answer)] for fact in known])
    parts.append(Part(f"{len(known)} facts asked, unedited", answers_take(shape, asks, shape.n_layer, 1)))
    if facts is None:
        asks = counted_asks(model, [asks_of(fact) for fact in known])
        twice = answers_take(shape, asks, shape.n_layer, 1).times(2)
        parts.append(Part("those that are answered asked again, without and with the edits", twice))
    places = [(request.prompt, request.subject) for request in requests]
    places += [(template_of(fact.prompt, fact.subject), fact.subject) for fact in known]
    tokens = sum(len(locate(model, prompt, subject).ids) for prompt, subject in places)
    batches = max(1.0, len(places) / budget.NAMES_READ)
    keys = shape.forward(tokens, tokens / max(1, len(places)), at + 1, batches=batches)
    told = keys + solve_work(shape.d_mlp, len(requests)) + Work(2.0 * len(known) * len(requests) * shape.d_mlp)
    parts.append(Part(f"keys of {len(places)} facts at layer {at}, and what reaches them", told))
    peak = max(memory, held(shape, budget.columns_scored(model), budget.READS_SCORED))
    return told_costs("panel", model, parts, peak, notes=[ONLY_ANSWERED], here=here)


def dry_ability(
    model: EditableModel,
    *,
    source: str = "",
    edits: Sequence[Path] = (),
    data: Path | None = None,
    names: Sequence[str] = (),
    limit: int | None = None,
    batch: int = 16,
    here: Machine | None = None,
) -> DryRun:
    """Return what ability sets would take, asked once, or twice where there are edits.

    The harness is not asked: every answer is counted with its prompt, and the vocabulary at every token.

    Args:
        model: its outline.
        source: what it is of; a folder of edits has some.
        edits, data, names, limit, batch: see `ask_abilities`.
    """
    edited = bool(edits) or is_stack(source)
    tasks, items = ability_items(data, names, limit)
    shape, parts, longest = ModelShape.of(model), [], 1
    for task in tasks:
        lengths = [len(model.tokenizer(text)["input_ids"]) for item in items[task.name] for text in _texts(item)]
        tokens, longest = sum(lengths), max([longest, *lengths])
        batches = max(1.0, len(lengths) / batch)
        work = shape.forward(tokens, tokens / len(lengths), shape.n_layer, reads=tokens, batches=batches)
        what = f"{task.name}: {len(lengths)} texts" + ", without and with the edits" * edited
        parts.append(Part(what, work.times(1 + edited)))
    memory = held(shape, batch * longest, batch * longest)
    return told_costs("ability", model, parts, memory, here=here)


def _texts(item: AbilityItem) -> list[str]:
    """Every prompt of an item with every answer."""
    return [f"{prompt} {answer}".strip() for prompt in item.prompts for answer in item.answers]


def dry_demo(
    model: EditableModel,
    *,
    record: FactRecord | None = None,
    method: str = "rome",
    edit: Path | None = None,
    here: Machine | None = None,
) -> DryRun:
    """Return what the story of one fact would take; see `demonstrate`."""
    shape, written = ModelShape.of(model), Work()
    if edit is not None:
        record = saved_record(_requests(edit), record)
    fact, prompt = (RECORD, TRACE_PROMPT) if record is None else (record, record.request.text)
    if not fact.request.target_true:
        asks = counted_asks(model, [[Greedy(fact.request.text, TRUE_TOKENS)]])
        written = answers_take(shape, asks, shape.n_layer, 1)
    trace = traces_take(model, [(prompt, fact.request.subject)], KINDS, default_window(model.n_layer), SAMPLES)
    parts = [Part("a trace of three kinds", trace.work)]
    memory, notes = trace.memory, []
    if edit is None:
        taken = edits_take(method, model, [fact.request])
        of_moments, before = with_moments(model, taken.layers, False, True)
        memory, notes = max(memory, of_moments, taken.memory), [taken.note]
        parts += [*before, Part(f"{method}: the edit", taken.work)]
    request = replace(fact.request, target_true=fact.request.target_true or fact.request.target_new)  # as long
    asked: list[Ask] = [*COUNTERFACT.questions(replace(fact, request=request))]
    asked += [Greedy(text, FREE_TOKENS) for _, text in story_prompts(fact)]
    told = answers_take(shape, counted_asks(model, [asked]), shape.n_layer, 1)
    parts.append(Part("the fact asked and written about before and after", written + told.times(2)))
    return told_costs("demo", model, parts, memory, notes=notes, here=here)


def _requests(folder: Path) -> list[EditRequest]:
    """Those of a saved edit, without its tensors."""
    return [EditRequest(**row.model_dump()) for row in read_manifest(folder).requests]
