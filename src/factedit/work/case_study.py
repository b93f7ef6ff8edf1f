"""A case study: what the model writes about the same facts after each method's edit (arXiv 2202.05262, figure 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.data.registry import load_facts, select_of
from factedit.edit.method import Method, check_made
from factedit.errors import UsageError
from factedit.evaluate.benchmark import UNEDITED
from factedit.evaluate.leak import refuse_trained_on
from factedit.evaluate.texts import continue_texts
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.report.case_study import CaseTexts
from factedit.work.inputs import ModelSource, moments_from, opened
from factedit.work.methods import make_methods, named_methods
from factedit.work.progress import Progress, advancing, silent

PROMPTS = 4  # per record: the rewrite, a paraphrase, generation prompts
TOKENS = 40


@dataclass(frozen=True)
class CaseStudy:
    """What was written.

    Attributes:
        model: its name.
        tokens: how many were written at most.
        cases: a fact each.
    """

    model: str
    tokens: int
    cases: tuple[CaseTexts, ...]

    def as_json(self) -> list[dict[str, Any]]:
        """Return per fact its id, the prompts, and per method the texts."""
        return [{"case_id": c.record.case_id, "prompts": c.prompts, "texts": c.texts} for c in self.cases]


def case_study(
    model: ModelSource,
    dataset: str,
    *,
    ids: Sequence[str] | None = None,
    records: int = 3,
    methods: str = "ft,ft-l,kn,rome",
    trained: Path | None = None,
    tokens: int = TOKENS,
    seed: int = 0,
    second_moment: Path | None = None,
    corpus: str | None = None,
    progress: Progress = silent,
) -> CaseStudy:
    """Edit a few facts of a data set with every method and let the model write.

    Args:
        model: the model, unchanged, or what gives it.
        dataset: its name, or a file of facts.
        ids: case ids; None draws some.
        records: how many to draw.
        methods: names with commas.
        trained: folder with the networks of KE and MEND.
        tokens: how many to write at most.
        seed: of the draw.
        second_moment, corpus: see `moments_from`.
        progress: told the records done.

    Raises:
        UsageError: no such records or methods, or no tokens; refused before the model is loaded.
        DataError: the facts cannot be read, or a method's network was trained on some of them.
    """
    named, chosen = studied(dataset, ids=ids, records=records, methods=methods, tokens=tokens, seed=seed)
    model = opened(model)
    made, _ = make_methods(model, named, trained, moments_from(second_moment, corpus, progress=progress))
    step = advancing(progress, "editing and writing (records)", len(chosen))
    return CaseStudy(model.name, tokens, tuple(study(model, chosen, made, tokens=tokens, step=step)))


def studied(
    dataset: str, *, ids: Sequence[str] | None, records: int, methods: str, tokens: int, seed: int
) -> tuple[list[str], Sequence[FactRecord]]:
    """Return the methods' names and the records of a case study; see `case_study`.

    Raises:
        UsageError, DataError: see there.
    """
    if tokens < 1:
        raise UsageError(f"{tokens} tokens were asked for: give at least 1.")
    named = named_methods(methods)
    data = load_facts(dataset)
    data.say_skipped()
    drawn = {"limit": records, "seed": seed} if ids is None else {"ids": ids, "split": "all"}
    return named, select_of(data, **drawn)


def case_prompts(record: FactRecord) -> tuple[str, ...]:
    """Return what is shown of a record: its own prompt, a paraphrase, generation prompts."""
    return tuple(dict.fromkeys((record.request.text, *record.paraphrases[:1], *record.generation)))[:PROMPTS]


def study(
    model: EditableModel,
    records: Sequence[FactRecord],
    methods: Sequence[Method],
    *,
    tokens: int = TOKENS,
    step: Callable[[int], None] = lambda _done: None,
) -> list[CaseTexts]:
    """Edit every record with every method and let the model write.

    Args:
        model: the model; not changed.
        records: the facts.
        methods: what to compare.
        tokens: how many to write at most.
        step: called after each record.

    Raises:
        DataError: a method's network was trained on some of the records.
    """
    refuse_trained_on(methods, records)
    cases = []
    with model.unchanged():
        for record in records:
            cases.append(_case(model, record, methods, tokens))
            step(1)
    return cases


def _case(model: EditableModel, record: FactRecord, methods: Sequence[Method], tokens: int) -> CaseTexts:
    prompts = case_prompts(record)
    asked = [record.request]
    edits = [None, *(check_made(method, asked, method.edit(asked), model).edits[0] for method in methods)]
    rows = [(prompt, edit) for edit in edits for prompt in prompts]
    texts = continue_texts(model, [prompt for prompt, _ in rows], [edit for _, edit in rows], tokens=tokens)
    names = [UNEDITED, *(method.name for method in methods)]
    parts = {name: tuple(texts[n * len(prompts) : (n + 1) * len(prompts)]) for n, name in enumerate(names)}
    return CaseTexts(record, prompts, parts)
