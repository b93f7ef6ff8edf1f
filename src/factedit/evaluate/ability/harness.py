"""Abilities through lm-evaluation-harness, on a model in memory with whatever edits are on it.

The items of a user's folder (`items.py`) become tasks of the harness: a JSON file of items and a task file each, in a
folder that its own command line takes too (`--include_path`), so that an exported model can be asked the very same. No
hub is asked for anything. The package is an extra, since it brings some 500 MB along.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from factedit.errors import ResourceError, UsageError, first_line
from factedit.evaluate.ability.items import AbilityItem, AbilityTask, ItemKind, as_fields
from factedit.models.adapter import EditableModel

PREFIX = "factedit-"  # of the tasks' names, so that none is taken for the harness's own
_ACC = {"aggregation": "mean", "higher_is_better": True}
_PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
_FORMS: Mapping[ItemKind, Mapping[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice", "doc_to_text": "prompt", "doc_to_choice": "answers", "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", **_ACC}, {"metric": "acc_norm", **_ACC}],
    },
    "filled": {
        "output_type": "multiple_choice", "doc_to_text": "gold", "doc_to_choice": "prompts", "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", **_ACC}],
    },
    "word": {
        "output_type": "loglikelihood", "doc_to_text": "prompt", "doc_to_target": "answer",
        "metric_list": [_PERPLEXITY, {"metric": "acc", **_ACC}],
    },
    "text": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "text",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
}  # fmt: skip


class ItemAnswer(NamedTuple):
    """What a model gave for an item.

    Attributes:
        right: 1 or 0; of a text NaN.
        answer: the place of its answer among the choices; of a word whether it is the likeliest; of a text 0; -1 where
            the model's numbers are not finite, which is no answer and not right.
        log_p: of the right answer or the text, in nats.
    """

    right: float
    answer: int
    log_p: float


class TaskAnswers(NamedTuple):
    """What the harness found of a task.

    Attributes:
        scores: by the harness's own names, as its command line prints them.
        given: per item.
    """

    scores: Mapping[str, float]
    given: tuple[ItemAnswer, ...]


def lm_eval() -> Any:
    """Return the package.

    Raises:
        UsageError: it is not installed, or breaks as it is loaded.
    """
    try:
        import lm_eval as package
        import lm_eval.models.huggingface
        import lm_eval.tasks
    except ImportError as error:
        raise UsageError(
            "Abilities are measured with lm-evaluation-harness, which is not installed here "
            f"({error}). Install it: pip install 'factedit[ability]' (some 500 MB)."
        ) from error
    except Exception as error:  # of whatever it loads in its turn
        raise UsageError(
            f"lm-evaluation-harness is installed and cannot be loaded ({type(error).__name__}: {first_line(error)}). "
            "Install it again: pip install --force-reinstall 'factedit[ability]'."
        ) from error
    return package


def write_tasks(tasks: Sequence[AbilityTask], items: Mapping[str, Sequence[AbilityItem]], folder: Path) -> list[str]:
    """Write tasks for the harness into a folder; return their names there.

    Args:
        tasks: the tasks.
        items: by the task's name.
        folder: made if it is not there; files of these names are written over.

    Raises:
        ResourceError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            name, rows = PREFIX + task.name, items[task.name]
            lines = "".join(json.dumps(as_fields(item, task.kind)) + "\n" for item in rows)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
            form = {
                "task": name, "dataset_path": "json", "test_split": "test", "num_fewshot": 0,
                "dataset_kwargs": {
                    "data_files": {"test": str(folder.resolve() / f"{name}.jsonl")},
                    "cache_dir": str(folder.resolve() / "cache"),
                },
                **_FORMS[task.kind], "metadata": {"version": 1.0},
            }  # fmt: skip
            (folder / f"{name}.yaml").write_text(json.dumps(form, indent=1), encoding="utf-8")  # JSON is YAML
    except OSError as error:
        raise ResourceError(f"The tasks cannot be written to {folder}: {error.strerror}.") from error
    return [PREFIX + task.name for task in tasks]


def ask_tasks(
    model: EditableModel,
    tasks: Sequence[AbilityTask],
    items: Mapping[str, Sequence[AbilityItem]],
    *,
    on_prompt: Callable[[str], str] = lambda text: text,
    batch: int = 16,
) -> dict[str, TaskAnswers]:
    """Return what a model as it is now gives for tasks, by the tasks' names.

    Args:
        model: with whatever is on it; not changed.
        tasks, items: see `write_tasks`.
        on_prompt: what an edit of prompts makes of one.
        batch: texts at a time.

    Raises:
        UsageError: the harness is not installed.
    """
    package = lm_eval()
    with TemporaryDirectory(prefix="factedit-ability-") as place:
        names = write_tasks(tasks, items, Path(place))
        manager = package.tasks.TaskManager(include_path=place, include_defaults=False)
        report = package.simple_evaluate(
            model=adapter(model, on_prompt=on_prompt, batch=batch), tasks=names, task_manager=manager,
            bootstrap_iters=0, log_samples=True,
        )  # fmt: skip
    return {
        task.name: TaskAnswers(_scores(report["results"][name]), tuple(map(_given, _in_order(report["samples"][name]))))
        for task, name in zip(tasks, names, strict=True)
    }


def adapter(model: EditableModel, *, on_prompt: Callable[[str], str] = lambda text: text, batch: int = 16) -> Any:
    """Return a model in memory as the harness takes one.

    Args:
        model: with whatever is on it while it is asked.
        on_prompt: what an edit of prompts makes of one.
        batch: texts at a time.

    Raises:
        UsageError: the harness is not installed.
    """
    package = lm_eval()

    class InMemory(package.models.huggingface.HFLM):  # type: ignore[misc,name-defined]
        """The harness's own class, on our model; edits of prompts see every context."""

        def _encode_pair(self, context: str, continuation: str) -> Any:
            return super()._encode_pair(on_prompt(context), continuation)

    return InMemory(pretrained=model.lm, tokenizer=model.tokenizer, batch_size=batch)


def _scores(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the harness's scores without the names of its filters."""
    return {
        name.partition(",")[0]: float(value)
        for name, value in results.items()
        if "," in name and "stderr" not in name and isinstance(value, int | float)
    }


def _in_order(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(samples, key=lambda sample: int(sample["doc_id"]))


def _given(sample: Mapping[str, Any]) -> ItemAnswer:
    """Return what was given for an item, from what the harness keeps of it."""
    replies = sample["filtered_resps"]
    if not isinstance(replies[0], list | tuple):
        return ItemAnswer(math.nan, 0, float(replies[0]))
    log_p = [float(reply[0]) for reply in replies]
    if not all(map(math.isfinite, log_p)):
        return ItemAnswer(0.0, -1, math.nan)
    if len(log_p) == 1:
        is_first = str(replies[0][1]) == "True"
        return ItemAnswer(float(is_first), int(is_first), log_p[0])
    answer = max(range(len(log_p)), key=lambda n: log_p[n])
    return ItemAnswer(float(sample["acc"]), answer, log_p[int(sample["doc"]["gold"])])
