"""Canaries: prompts on which a server says something else with the edits than without, and what it must say.

Servers keep old weights, drop writes (captured graphs, repacked experts) and answer from caches of prompts, without a
word. So every export names prompts of its edits, how the edited model goes on greedily and how the unedited one does,
up to the first token that differs (and the end of its letter). `docs/checks/canary.py` asks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.weights import weights_changed
from factedit.export.prove import next_logits, proven_requests
from factedit.models.adapter import EditableModel
from factedit.models.positions import tokenize
from factedit.safe import plain_json

FILE = "factedit-canary.json"
FORMAT = 1
ASKED, MOST, TOKENS = 8, 3, 5  # requests that are tried, canaries that are kept, tokens that are looked at


@dataclass(frozen=True)
class Canary:
    """A prompt, and what is said after it.

    Attributes:
        prompt: of an edit.
        prompt_ids: its tokens, those that the tokenizer itself puts before it included.
        expected: the edited model's greedy continuation, up to the first token that differs from the unedited one's.
        expected_ids: its tokens.
        unedited: what the unedited model says in its place.
        unedited_ids: its tokens.
        target: the object that the edit is to give.
        tells: the two differ within `TOKENS` tokens; else the canary shows nothing.
    """

    prompt: str
    prompt_ids: tuple[int, ...]
    expected: str
    expected_ids: tuple[int, ...]
    unedited: str
    unedited_ids: tuple[int, ...]
    target: str
    tells: bool


def canaries(model: EditableModel, edits: Sequence[Edit]) -> list[Canary]:
    """Return the canaries of edits: those that tell them apart from the unedited model, or one that does not.

    Args:
        model: the base, unedited; the same bits afterwards.
        edits: in order.
    """
    requests = proven_requests(edits)[:ASKED]
    prompts = [tokenize(model, request.text).ids for request in requests]
    unedited = greedy(model, prompts)
    with weights_changed(model, weights_of(edits)):
        edited = greedy(model, prompts)
    tried = []
    for request, prompt, new, old in zip(requests, prompts, edited, unedited, strict=True):
        apart = next((n for n, (a, b) in enumerate(zip(new, old, strict=True)) if a != b), None)
        end = TOKENS if apart is None else _whole(model, prompt, (new, old), apart + 1)
        said = [_text(model, prompt, ids[:end]) for ids in (new, old)]
        tells = apart is not None and said[0] != said[1]
        tried.append(Canary(request.text, prompt, said[0], new[:end], said[1], old[:end], request.target_new, tells))
    return [canary for canary in tried if canary.tells][:MOST] or tried[:1]


def greedy(model: EditableModel, prompts: Sequence[Sequence[int]], count: int = TOKENS) -> list[tuple[int, ...]]:
    """Return the tokens that a model says first after prompts, each the likeliest."""
    rows = [tuple(prompt) for prompt in prompts]
    for _ in range(count if rows else 0):
        said = next_logits(model, rows).argmax(-1).tolist()
        rows = [(*row, token) for row, token in zip(rows, said, strict=True)]
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]


def _whole(model: EditableModel, prompt: Sequence[int], both: Sequence[Sequence[int]], least: int) -> int:
    """How many tokens, from so many on, end with a whole letter: servers hold back a part of one."""
    ends = range(least, TOKENS)
    return next((n for n in ends if not any("\ufffd" in _text(model, prompt, ids[:n]) for ids in both)), TOKENS)


def _text(model: EditableModel, prompt: Sequence[int], ids: Sequence[int]) -> str:
    """What tokens say after a prompt: some tokenizers drop the space before a text's first word."""
    before = model.tokenizer.decode([*prompt], skip_special_tokens=True)
    whole: str = model.tokenizer.decode([*prompt, *ids], skip_special_tokens=True)
    return whole.removeprefix(before)


def write_canaries(folder: Path, chosen: Sequence[Canary], form: str, base: str) -> None:
    """Write canaries as a JSON file of an export's folder.

    Args:
        folder: of the export.
        chosen: the canaries.
        form: of the export.
        base: the base model, as others find it.
    """
    said = {"format": FORMAT, "form": form, "base": base, "canaries": [asdict(canary) for canary in chosen]}
    (folder / FILE).write_text(plain_json(said) + "\n", encoding="utf-8")
