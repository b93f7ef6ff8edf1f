"""Items of ability sets in a user's folder, worded as lm-evaluation-harness words its tasks of these names.

An item is one prompt with several answers, several prompts with one answer (WinoGrande: the blank filled either way),
one prompt with the word that follows (LAMBADA), or a whole text (perplexity). BoolQ is asked without its passage and
Social IQa without its context's own field, since the files that are read have none; their figures compare with
themselves alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from factedit.data.records import Row, read_records
from factedit.errors import DataError, UnknownName, UsageError
from factedit.paths import user_path

ItemKind = Literal["choice", "filled", "word", "text"]


class AbilityItem(NamedTuple):
    """One item.

    Attributes:
        prompts: one, or one per answer that could be meant.
        answers: one per choice, or the one that follows every prompt; of a text the text.
        gold: the right one.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    gold: int = 0


class AbilityTask(NamedTuple):
    """A set of items.

    Attributes:
        name: what users call it.
        file: in the folder.
        kind: how its items are asked.
        item: makes one of a row.
        what: one sentence.
    """

    name: str
    file: str
    kind: ItemKind
    item: Callable[[Row], AbilityItem]
    what: str


def sets_folder(named: Path | None) -> Path | None:
    """Return the folder of the sets: as named, else `ability` in that of FACTEDIT_DATA; None where neither is told."""
    data = os.environ.get("FACTEDIT_DATA")
    return named or (user_path(data) / "ability" if data else None)


def _choice(form: str, answers: tuple[str, ...] | None = None) -> Callable[[Row], AbilityItem]:
    """Items with `question`, `choices` and `gold`, asked in these words."""

    def item(row: Row) -> AbilityItem:
        choices = answers or row.texts("choices")
        return AbilityItem((form.format(row.text("question")),), choices, _gold(row, "gold", choices))

    return item


def _labelled(form: str, answers: tuple[str, ...], *fields: str) -> Callable[[Row], AbilityItem]:
    """Items with these fields and a `label`, asked in these words."""

    def item(row: Row) -> AbilityItem:
        return AbilityItem(
            (form.format(*(row.text(name).strip() for name in fields)),), answers, _gold(row, "label", answers)
        )

    return item


def _gold(row: Row, field: str, answers: tuple[str, ...]) -> int:
    label = row.value(field, int, str)
    names = {"entailment": 0, "not_entailment": 1}
    number = names[label] if label in names else int(label) if str(label).isdecimal() else -1
    if not 0 <= number < len(answers):
        raise row.error(f"the field {field!r} is {label!r} and there are {len(answers)} answers.")
    return number


def _filled(row: Row) -> AbilityItem:
    before, blank, after = row.text("question").partition("_")
    if not blank:
        raise row.error("the question has no blank (_).")
    choices = row.texts("choices")
    return AbilityItem(tuple(before + choice for choice in choices), (after.strip(),), _gold(row, "gold", choices))


def _word(row: Row) -> AbilityItem:
    before, _, word = row.text("text").rstrip().rpartition(" ")
    return AbilityItem((before,), (word,))


def _mmlu(row: Row) -> AbilityItem:
    choices = row.texts("choices")
    letters = tuple("ABCDEFGH"[: len(choices)])
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, choices, strict=True))
    subject = row.text("subject").replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return AbilityItem(
        (f"{head}{row.text('question').strip()}\n{listed}\nAnswer:",), letters, _gold(row, "answer", choices)
    )


def _blimp(row: Row) -> AbilityItem:
    return AbilityItem(("",), (row.text("sentence_good"), row.text("sentence_bad")))


_TRUE_FALSE, _NO_YES, _RTE = ("True", "False"), ("no", "yes"), "{}\nQuestion: {} True or False?\nAnswer:"
_PAIR = "Sentence 1: {}\nSentence 2: {}\nQuestion: Do both sentences mean the same thing?\nAnswer:"
_SENTIMENT = "{}\nQuestion: Is this sentence positive or negative?\nAnswer:"
_QA, _TWO = "Question: {}\nAnswer:", ("sentence1", "sentence2")
TASKS: dict[str, AbilityTask] = {
    task.name: task
    for task in (
        AbilityTask("lambada", "lambada_test.jsonl.gz", "word", _word, "the last word of a passage"),
        AbilityTask("arc-easy", "arc-easy.jsonl.gz", "choice", _choice(_QA), "science questions"),
        AbilityTask("arc-challenge", "arc-challenge.jsonl.gz", "choice", _choice(_QA), "harder science questions"),
        AbilityTask("piqa", "piqa.jsonl.gz", "choice", _choice(_QA), "how things are done"),
        AbilityTask("openbookqa", "openbookqa.jsonl.gz", "choice", _choice("{}"), "elementary science"),
        AbilityTask("social-iqa", "social_i_qa.jsonl.gz", "choice", _choice("Q: {}\nA:"), "what people do and feel"),
        AbilityTask("boolq", "boolq.jsonl.gz", "choice", _choice(_QA, _NO_YES), "yes or no, without the passage"),
        AbilityTask("winogrande", "winogrande.jsonl.gz", "filled", _filled, "what a pronoun means"),
        AbilityTask("blimp", "blimp_67x200.jsonl.gz", "choice", _blimp, "which of two sentences is grammatical"),
        AbilityTask("mmlu", "alphaedit_mmlu.jsonl.gz", "choice", _mmlu, "school and professional knowledge, a part"),
        AbilityTask("sst2", "alphaedit_sst2.jsonl.gz", "choice",
                    _labelled(_SENTIMENT, ("negative", "positive"), "sentence"), "is a sentence positive"),
        AbilityTask("mrpc", "alphaedit_mrpc.jsonl.gz", "choice", _labelled(_PAIR, _NO_YES, *_TWO), "paraphrases"),
        AbilityTask("rte", "alphaedit_rte.jsonl.gz", "choice", _labelled(_RTE, _TRUE_FALSE, *_TWO), "entailment"),
        AbilityTask("nli", "alphaedit_nli.jsonl.gz", "choice", _labelled(_RTE, _TRUE_FALSE, *_TWO), "entailment"),
        AbilityTask("cola", "alphaedit_cola.jsonl.gz", "choice",
                    _labelled("{}\nQuestion: Does this sentence make sense?\nAnswer:", _NO_YES, "sentence"),
                    "is a sentence grammatical"),
        AbilityTask("perplexity", "me_ppl_1k.json", "text", lambda row: AbilityItem(("",), (row.text("Text").strip(),)),
                    "short texts of seven corpora"),
    )
}  # fmt: skip


def tasks_in(folder: Path, names: list[str] | None = None) -> list[AbilityTask]:
    """Return the tasks of these names whose files lie in a folder; None is all that are there.

    Raises:
        UnknownName: no such task.
        UsageError: no such folder.
        DataError: the file of a task that was asked for is not there, or the folder holds none.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder; name one with ability sets (--data), e.g. {TASKS['lambada'].file}."
        )
    for name in names or ():
        if name not in TASKS:
            raise UnknownName("ability task", name, TASKS)
    tasks = [task for task in TASKS.values() if (not names or task.name in names) and (folder / task.file).is_file()]
    missing = [TASKS[name].file for name in names or () if not (folder / TASKS[name].file).is_file()]
    if missing or not tasks:
        raise DataError(f"{folder} does not hold {', '.join(missing) or 'any of ' + _files()}.")
    return tasks


def _files() -> str:
    return ", ".join(task.file for task in TASKS.values())


def items_of(task: AbilityTask, folder: Path, limit: int | None = None) -> list[AbilityItem]:
    """Return a task's items, evenly drawn where there is a limit.

    Args:
        task: the task.
        folder: where its file lies.
        limit: so many at most; None is all.

    Raises:
        DataError: naming file, line and field.
    """
    path = folder / task.file
    items = [task.item(Row(f"{path}, line {line}", fields)) for line, fields in read_records(path)]
    if not items:
        raise DataError(f"{path} holds no items.")
    count = len(items) if limit is None else min(limit, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def as_fields(item: AbilityItem, kind: ItemKind) -> dict[str, Any]:
    """Return an item as the fields of a task of lm-evaluation-harness; see `harness.py`."""
    if kind == "filled":
        return {"prompts": list(item.prompts), "answer": item.answers[0], "gold": item.gold}
    if kind == "choice":
        return {"prompt": item.prompts[0], "answers": list(item.answers), "gold": item.gold}
    if kind == "word":
        return {"prompt": item.prompts[0], "answer": " " + item.answers[0]}
    return {"text": item.answers[0]}
