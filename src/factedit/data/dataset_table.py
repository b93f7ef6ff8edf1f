"""The table of data sets: what each is, where it comes from, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from factedit.data.cases import read_conflicts, read_mquake
from factedit.data.counterfact import read_counterfact
from factedit.data.field_files import read_edit_list
from factedit.data.known_facts import read_known_facts
from factedit.data.panel import read_panel
from factedit.data.records import RecordSet
from factedit.data.zsre import read_zsre
from factedit.facts import FactRecord, KnownFact

Reader = Callable[[Path, str], RecordSet[Any]]
WORLDFACTS_SEED = 0
_PUBLISHED = "https://rome.baulab.info/data/dsets/"
_ROME = "Meng et al. 2022, arXiv 2202.05262"
_MQUAKE = "MQuAKE-CF, arXiv 2305.14795; a local file only"
_PITFALLS = "ConflictEdit, arXiv 2310.02129; a local file only"
_LOCFT = "LocFT-BF, arXiv 2509.22072; a local file only"
_MEND = "Mitchell et al. 2022, arXiv 2110.11309, after Levy et al. 2017"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One data set.

    Args:
        name: what users call it.
        kind: `facts` to edit or `known` facts to trace.
        what: what it is, for people.
        source: where it comes from, for people.
        files: names it may have in the folder `FACTEDIT_DATA`; the first is also the name in the cache.
        reader: reads such a file.
        url: where the file is published.
        embedded: makes the records of a set that comes with factedit, which then needs no file.
        benchmark: whose questions its facts are asked, a name in `evaluate/benchmarks`.
    """

    name: str
    kind: Literal["facts", "known"]
    what: str
    source: str
    files: tuple[str, ...] = ()
    reader: Reader | None = None
    url: str | None = None
    embedded: Callable[[], Sequence[FactRecord] | Sequence[KnownFact]] | None = None
    benchmark: str = ""


def _worldfacts() -> Sequence[FactRecord]:
    from factedit.data.worldfacts import worldfacts

    return worldfacts(WORLDFACTS_SEED)


def _worldfacts_known() -> Sequence[KnownFact]:
    from factedit.data.worldfacts import worldfacts_known

    return worldfacts_known()


_ROWS = (
    Dataset(
        name="worldfacts", kind="facts", benchmark="counterfact", embedded=_worldfacts,
        source="written for factedit, embedded",
        what="edits of common facts, with paraphrases and neighbours",
    ),
    Dataset(
        name="counterfact", kind="facts", benchmark="counterfact", reader=read_counterfact, source=_ROME,
        url=_PUBLISHED + "counterfact.json", what="counterfactual edits, with paraphrases and neighbours",
        files=("counterfact.json", "counterfact/counterfact.json", "counterfact/counterfact_original.json"),
    ),
    Dataset(
        name="counterfact-reconstructed", kind="facts", benchmark="counterfact", reader=read_counterfact,
        source=f"{_ROME}, partly rebuilt; a local file only",
        what="nearly all of CounterFact with re-paired test prompts, for training and large runs",
        files=("counterfact_reconstructed.jsonl.gz", "counterfact/counterfact_reconstructed.jsonl.gz"),
    ),
    Dataset(
        name="zsre", kind="facts", benchmark="zsre", reader=read_zsre, source=_MEND,
        url=_PUBLISHED + "zsre_mend_eval.json",
        what="questions to answer anew, with a rephrased and an unrelated question",
        files=("zsre_mend_eval.json", "zsre/zsre_mend_eval.json"),
    ),
    Dataset(
        name="zsre-train", kind="facts", benchmark="zsre", reader=read_zsre, source=_MEND,
        url=_PUBLISHED + "zsre_mend_train.json", what="the same, for training",
        files=("zsre_mend_train.json", "zsre/zsre_mend_train.json"),
    ),
    Dataset(
        name="counterfact-flat", kind="facts", benchmark="zsre", reader=read_edit_list, source=_LOCFT,
        what="CounterFact's edits with one other wording and one neighbour, to be answered in writing",
        files=("counterfact_flat.jsonl.gz", "written_answers/counterfact_flat.jsonl.gz"),
    ),
    Dataset(
        name="wikibigedit", kind="facts", benchmark="zsre", reader=read_edit_list, source=_LOCFT,
        what="questions from changes of Wikidata, to be answered in writing",
        files=("wikibigedit.jsonl.gz", "written_answers/wikibigedit.jsonl.gz"),
    ),
    Dataset(
        name="qaedit", kind="facts", benchmark="zsre", reader=read_edit_list,
        source="Yang et al. 2025, arXiv 2502.11177; a local file only",
        what="questions that six models did not answer, to be answered in writing",
        files=("qaedit.jsonl.gz", "written_answers/qaedit.jsonl.gz"),
    ),
    Dataset(
        name="knowedit", kind="facts", benchmark="knowedit", reader=read_edit_list,
        source="KnowEdit, arXiv 2401.01286, of RippleEdits, arXiv 2307.12976; a local file only",
        what="counterfactual edits with what they entail and what must stay",
        files=(
            "knowedit_wiki_counterfact_test_839.json", "multihop_ripple/knowedit_wiki_counterfact_test_839.json",
        ),
    ),
    Dataset(
        name="mquake", kind="facts", benchmark="mquake", reader=read_mquake, source=_MQUAKE,
        what="cases of one to four edits, with questions whose answer follows from several facts",
        files=("mquake_cf_2700.jsonl.gz", "multihop_ripple/mquake_cf_2700.jsonl.gz"),
    ),
    Dataset(
        name="mquake-unbroken", kind="facts", benchmark="mquake", reader=partial(read_mquake, unbroken=True),
        source=_MQUAKE, what="the same without cases whose path another case's edit changes, to be edited at once",
        files=("mquake_cf_2700.jsonl.gz", "multihop_ripple/mquake_cf_2700.jsonl.gz"),
    ),
    Dataset(
        name="conflicts-reverse", kind="facts", benchmark="conflicts", reader=read_conflicts, source=_PITFALLS,
        what="pairs of edits, the second of which reverses the first",
        files=("gpt2xl_reverse_edit.jsonl.gz", "conflicts/gpt2xl_reverse_edit.jsonl.gz"),
    ),
    Dataset(
        name="conflicts-composite", kind="facts", benchmark="conflicts", reader=read_conflicts, source=_PITFALLS,
        what="pairs of edits, the second of which contradicts what follows from the first and a known fact",
        files=("gpt2xl_composite_edit.jsonl.gz", "conflicts/gpt2xl_composite_edit.jsonl.gz"),
    ),
    Dataset(
        name="known-facts", kind="known", reader=read_known_facts, source=_ROME,
        url=_PUBLISHED + "known_1000.json", what="facts GPT-2 XL knows, to trace",
        files=("known_1000.json", "known_facts/known_1000.json", "known_facts/known_facts.json"),
    ),
    Dataset(
        name="known-panel", kind="known", reader=read_panel,
        source="CLaRE, arXiv 2603.19297; a local file only", what="true facts that an edit must leave alone",
        files=("clare_facts.jsonl.gz", "panel/clare_facts.jsonl.gz"),
    ),
    Dataset(
        name="worldfacts-known", kind="known", embedded=_worldfacts_known,
        source="written for factedit, embedded", what="common facts, to trace",
    ),
)  # fmt: skip
DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}
