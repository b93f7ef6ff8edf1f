"""A case study: what the model writes about the same facts after each method's edit (arXiv 2202.05262, figure 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from factedit import __version__
from factedit.cache import write_atomic
from factedit.edit.method import Method
from factedit.evaluate.chunk import UNEDITED
from factedit.evaluate.free import continue_texts
from factedit.evaluate.leak import refuse_trained_on
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel

PROMPTS = 4  # per record: the rewrite, a paraphrase, generation prompts
TOKENS = 40

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>factedit: case study on {{ model }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.2rem; } h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
table { border-collapse: collapse; width: 100%; } td { padding: .25rem .5rem; vertical-align: top;
border-top: 1px solid #ddd; } td:first-child { white-space: nowrap; color: #555; width: 9rem; }
.new { background: #e3f4e3; } .true { background: #fbe9e7; }
</style></head><body>
<h1>Case study on {{ model }}</h1>
<p>Every text is the model's greedy continuation ({{ tokens }} tokens) after one method's edit of one fact; each edit
starts from the unedited model. The new object is marked green, the old one red.</p>
{% for case in cases %}
<h2>{{ case.record.request.text }} → {{ case.record.request.target_new }}</h2>
{% for prompt in case.prompts %}
<h3>{{ prompt }}</h3>
<table>
{% for method, texts in case.texts.items() %}
<tr><td>{{ method }}</td><td>{% for kind, part in marked(texts[loop_of(case, prompt)], case.record) %}\
{% if kind %}<span class="{{ kind }}">{{ part }}</span>{% else %}{{ part }}{% endif %}{% endfor %}</td></tr>
{% endfor %}
</table>
{% endfor %}
{% endfor %}
<p>factedit {{ version }}</p>
</body></html>
"""


class Case(NamedTuple):
    """One fact and what was written about it.

    Attributes:
        record: the fact.
        prompts: what was continued.
        texts: per method the continuation of every prompt; the unedited model first.
    """

    record: FactRecord
    prompts: tuple[str, ...]
    texts: dict[str, tuple[str, ...]]


def study(
    model: EditableModel,
    records: Sequence[FactRecord],
    methods: Sequence[Method],
    *,
    tokens: int = TOKENS,
    step: Callable[[int], None] = lambda _done: None,
) -> list[Case]:
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
    found = []
    for record in records:
        prompts = tuple(dict.fromkeys((record.request.text, *record.paraphrases[:1], *record.generation)))[:PROMPTS]
        edits = [None, *(method.edit([record.request]).edits[0] for method in methods)]
        rows = [(prompt, edit) for edit in edits for prompt in prompts]
        texts = continue_texts(model, [prompt for prompt, _ in rows], [edit for _, edit in rows], tokens=tokens)
        names = [UNEDITED, *(method.name for method in methods)]
        parts = {name: tuple(texts[n * len(prompts) : (n + 1) * len(prompts)]) for n, name in enumerate(names)}
        found.append(Case(record, prompts, parts))
        step(1)
    return found


def render(cases: Sequence[Case], *, model: str, tokens: int = TOKENS) -> str:
    """The page as text."""
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)
    place = lambda case, prompt: case.prompts.index(prompt)  # noqa: E731
    return page.render(cases=cases, model=model, tokens=tokens, version=__version__, marked=marked, loop_of=place)


def marked(text: str, record: FactRecord) -> list[tuple[str, str]]:
    """The text in parts, each with `new` or `true` where it is the new or the old object, else with nothing."""
    names = {"new": record.request.target_new.strip(), "true": (record.request.target_true or "").strip()}
    parts: list[tuple[str, str]] = []
    rest = text
    while rest:
        places = {kind: at for kind, name in names.items() if name and (at := rest.find(name)) >= 0}
        if not places:
            return [*parts, ("", rest)]
        kind = min(places, key=lambda k: places[k])
        begin, end = places[kind], places[kind] + len(names[kind])
        parts += [("", rest[:begin])] if begin else []
        parts.append((kind, rest[begin:end]))
        rest = rest[end:]
    return parts


def write_study(cases: Sequence[Case], path: Path, *, model: str, tokens: int = TOKENS) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_atomic(path, render(cases, model=model, tokens=tokens))
