"""What the jobs start from: a model, the text and the second moments of its keys, the noise of a trace."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from factedit.data.corpus import open_corpus
from factedit.data.registry import load_known
from factedit.edit.artefact import Edit
from factedit.memory import ask_for_huge_pages
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.outline import Outline, outline
from factedit.stack.folder import is_stack
from factedit.stack.opened import open_edits
from factedit.stack.stand import check_made_for
from factedit.stats.provide import Moments, Text
from factedit.trace.corrupt import noise_level
from factedit.work.progress import Progress, silent
from factedit.work.team import Team

# a model, or what gives one: then what was asked is checked before the model is loaded
ModelSource = EditableModel | Callable[[], EditableModel]
Opener = Callable[[], tuple[EditableModel, Sequence[Edit]]]  # gives the unedited model and the edits on it
logger = logging.getLogger("factedit")
NOISE_SUBJECTS = "worldfacts-known"  # whose subjects' embeddings the noise of a single trace is measured on


def opened(source: ModelSource) -> EditableModel:
    """Return the model itself."""
    return source if isinstance(source, EditableModel) else source()


def load_model(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu", stream: bool | None = False
) -> EditableModel:
    """Load a model, and set up the process for computing with it.

    Args:
        source: an embedded name, a folder, a .gguf file, or a hub id.
        threads: of the processor; None is as many as the cores this process may use.
        dtype, device, stream: see `factedit.load`.

    Raises:
        UsageError, ModelError: see `factedit.load`.
    """
    _set_up(threads)
    return load(source, dtype=dtype, device=device, stream=stream)


def outline_model(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu", stream: bool = False
) -> Outline:
    """Return the outline of a model, to plan with; the process is set up as for computing. See `load_model`."""
    _set_up(threads)
    return outline(source, dtype=dtype, device=device, stream=stream)


def open_source(
    source: str, *, threads: int | None = None, dtype: str = "float32", device: str = "cpu", stream: bool | None = False
) -> tuple[EditableModel, tuple[Edit, ...]]:
    """Return the unedited model and the edits on it, in order: of a folder of edits what it began as and holds.

    Args:
        source, threads, dtype, device, stream: see `load_model`; a folder of edits has its own type.

    Raises:
        UsageError, ModelError: see `factedit.load`.
        DataError: a damaged folder of edits.
    """
    if not is_stack(source):
        return load_model(source, threads=threads, dtype=dtype, device=device, stream=stream), ()
    _set_up(threads)
    return open_edits(source, device=device, stream=stream)


def with_edits(source: Opener, folders: Sequence[Path]) -> tuple[EditableModel, tuple[Edit, ...]]:
    """Return the unedited model and all edits on it: those that came with it, then those of folders.

    Args:
        source: see `open_source`; called when the folders were read.
        folders: which `factedit edit` wrote, in order.

    Raises:
        DataError: a folder does not hold a whole edit.
        EditError: an edit that was made neither for the model nor for it with the edits before.
    """
    further = [Edit.load(folder) for folder in folders]
    base, edits = source()
    if further:
        for said in check_made_for(base, [*edits, *further]):
            logger.info("%s", said)
    return base, (*edits, *further)


def _set_up(threads: int | None) -> None:
    import torch

    ask_for_huge_pages()
    # torch tells it as a surprise where the first product of its backward thread is one of ours
    warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
    torch.set_num_threads(threads or _cores())


def _cores() -> int:
    """Return how many cores this process may use; two threads on one core wait for each other at every step."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_text(corpus: str | None) -> Text | None:
    """Return the text a user named, its documents mixed with seed 0, or None.

    Raises:
        UsageError, DataError: see `open_corpus`.
    """
    if corpus is None:
        return None
    source = open_corpus(corpus, order_seed=0)
    return Text(f"{source.name} ({source.fingerprint[:12]})", source.texts)


def moments_from(
    file: Path | None = None,
    corpus: str | None = None,
    *,
    tokens: int | None = None,
    progress: Progress = silent,
    team: Team | None = None,
) -> Moments:
    """Return where second moments come from.

    Args:
        file: one that the user names.
        corpus: text that the user names, for moments that must be computed.
        tokens: how many to read; None is 10 per entry of a key.
        progress: told what is read and how far.
        team: workers that sum parts of the text; None sums them here.

    Raises:
        UsageError, DataError: see `open_corpus`.
    """
    tell = lambda name, read, total: progress(f"second moment from {name} (tokens)", read, total)  # noqa: E731
    elsewhere = None if team is None else team.shards
    return Moments(file=file, corpus=open_text(corpus), tokens=tokens, progress=tell, elsewhere=elsewhere)


def noise_for(model: EditableModel, noise: str) -> float:
    """Return ν for a single trace: a number as written, or `3s`, three standard deviations of embedded facts' subjects.

    Raises:
        UsageError: neither.
    """
    return noise_level(model, noise, [fact.subject for fact in load_known(NOISE_SUBJECTS).records])
