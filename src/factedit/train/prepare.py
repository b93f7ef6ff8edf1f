"""From the name of a training set to examples, without a record that an evaluation may ask.

`counterfact` is the reconstructed set less every record of the published one, by id and by wording; `zsre` is its
training part less every question of its evaluation part; a file of facts must not overlap with either, as far as they
are at hand: for a user's own file nothing is downloaded.
"""

from __future__ import annotations

import logging
import re
from itertools import islice
from pathlib import Path
from typing import Any

from factedit.data.registry import load_facts, load_here
from factedit.edit.trained import SUFFIX
from factedit.errors import UnknownName, UsageError
from factedit.facts import FactRecord
from factedit.models.adapter import EditableModel
from factedit.stats.provide import Text, own_text
from factedit.train.examples import Pieces, RecordExamples, Source, pieces_of, usable
from factedit.train.overlap import overlapping, refuse_overlap

# training set: where its records are from, and the set that is evaluated
SETS = {"counterfact": ("counterfact-reconstructed", "counterfact"), "zsre": ("zsre-train", "zsre")}
logger = logging.getLogger("factedit")
LIMIT = 10_000  # records, as published
OWN_PIECES = 512  # of text that the model has to write first


def check_data(data: str) -> None:
    """Refuse what is neither the name of a training set nor a file.

    Raises:
        UnknownName: offering the names.
        UsageError: a file whose name is taken.
    """
    if data == "general" or data in SETS:
        return
    if not Path(data).is_file():
        raise UnknownName("training set", data, ("general", *SETS), "Or give a file of facts.")
    own_name(data)


def prepare(model: EditableModel, data: str, text: Text | None, *, pieces: int) -> tuple[Source, dict[str, Any]]:
    """Return what to train on, and what to record about it.

    Args:
        model: whose tokenizer counts; writes text where none is given.
        data: `general`, `zsre`, `counterfact`, or a file of facts.
        text: general text, or None for text the model writes.
        pieces: how many pieces of it to take.

    Raises:
        DataError: records that can be evaluated, or too little text.
        ResourceError: a data set that is not there.
    """
    if data == "general":
        taken, about = _pieces(model, text, pieces)
        return Pieces(taken), {"name": data, **about}
    records, left_out, about = _records(data)
    kept = usable(model, records)
    about |= {"left_out": left_out, "unusable": len(records) - len(kept)}
    if all(record.answered_neighbor is not None for record in kept):
        return RecordExamples(kept), about
    taken, text_about = _pieces(model, text, pieces)
    return RecordExamples(kept, taken), about | text_about


def _records(data: str) -> tuple[tuple[FactRecord, ...], int, dict[str, Any]]:
    """Return the records of a set that may be trained on, how many were left out, and what to record."""
    if data not in SETS:
        facts = load_facts(data)
        facts.say_skipped()
        for _, evaluated in SETS.values():
            asked_here = load_here(evaluated)  # a user's file is no reason to download somebody else's
            if asked_here is None:
                logger.warning(
                    "Whether records of %s can be asked in an evaluation was not checked against %s, which is not "
                    "here. 'factedit evaluate' checks it when it asks them.", data, evaluated,
                )  # fmt: skip
                continue
            refuse_overlap(facts.records, asked_here.records, name=evaluated, same_ids=False)
        return facts.records[:LIMIT], 0, {"name": own_name(data), "sha256": facts.sha256}
    training, evaluated = SETS[data]
    facts, asked = load_facts(training), load_facts(evaluated).records
    facts.say_skipped()
    same_ids = data == "counterfact"  # zsRE's ids are places in a file
    out = {record.case_id for record in overlapping(facts.records, asked, same_ids=same_ids)}
    kept = tuple(record for record in facts.records if record.case_id not in out)[:LIMIT]
    return kept, len(out), {"name": data, "sha256": facts.sha256}


def own_name(file: str) -> str:
    """Return what a user's file of facts is called in the name of the method trained on it.

    Raises:
        UsageError: it would pass for a published set, or cannot stand in a list with commas.
    """
    name = Path(file).name.split(".")[0]
    taken = {*SUFFIX, *(suffix.removeprefix("-") for suffix in SUFFIX.values())}
    if name in taken or not re.fullmatch(r"[\w-]+", name):
        raise UsageError(
            f"A method trained on {file} would be called {name!r}: name the file otherwise than the published sets, "
            "with letters, digits, - and _ only."
        )
    return name


def _pieces(model: EditableModel, text: Text | None, count: int) -> tuple[tuple[tuple[int, ...], ...], dict[str, Any]]:
    named = text or own_text(model)
    texts = named.texts() if text is not None else islice(named.texts(), OWN_PIECES)
    return pieces_of(model, texts, count), {"text": named.name}
