"""The page of a case study: what the model writes about the same facts after each method's edit.

ROME, arXiv 2202.05262, figure 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from factedit import __version__, markup
from factedit.cache import write_atomic
from factedit.facts import FactRecord

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="generator" content="factedit {{ version }}">
<title>factedit: case study on {{ model }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.2rem; } h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
table { border-collapse: collapse; width: 100%; } td { padding: .25rem .5rem; vertical-align: top;
border-top: 1px solid #ddd; } td:first-child { white-space: nowrap; color: #555; width: 9rem; }
.new, .true { font-weight: 600; } .new { color: {{ colours.NEW }}; } .true { color: {{ colours.OLD }}; }
</style></head><body>
<h1>Case study on {{ model }}</h1>
<p>Every text is the model's greedy continuation ({{ tokens }} tokens) after one method's edit of one fact; each edit
starts from the unedited model. The <span class="new">new object</span> and the <span
class="true">old one</span> are marked.</p>
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


class CaseTexts(NamedTuple):
    """One fact and what was written about it.

    Attributes:
        record: the fact.
        prompts: what was continued.
        texts: per method the continuation of every prompt; the unedited model first.
    """

    record: FactRecord
    prompts: tuple[str, ...]
    texts: dict[str, tuple[str, ...]]


def render(cases: Sequence[CaseTexts], *, model: str, tokens: int) -> str:
    """Return the page as text."""
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(PAGE)
    place = lambda case, prompt: case.prompts.index(prompt)  # noqa: E731
    return page.render(
        cases=cases, model=model, tokens=tokens, version=__version__, colours=markup, marked=marked, loop_of=place
    )


def marked(text: str, record: FactRecord) -> list[tuple[str, str]]:
    """Return the text in parts, each with `new` or `true` where it is the new or the old object, else with nothing."""
    names = {"new": record.request.target_new.strip(), "true": (record.request.target_true or "").strip()}
    parts: list[tuple[str, str]] = []
    rest = text
    while rest:
        places = {kind: at for kind, name in names.items() if name and (at := rest.find(name)) >= 0}
        if not places:
            return [*parts, ("", rest)]
        kind = min(places, key=lambda k: (places[k], -len(names[k])))  # of two that begin here the longer is meant
        begin, end = places[kind], places[kind] + len(names[kind])
        parts += [("", rest[:begin])] if begin else []
        parts.append((kind, rest[begin:end]))
        rest = rest[end:]
    return parts


def write_study(cases: Sequence[CaseTexts], path: Path, *, model: str, tokens: int) -> None:
    """Write the page; it appears whole or not at all.

    Raises:
        ResourceError: the file cannot be written.
    """
    write_atomic(path, render(cases, model=model, tokens=tokens))
