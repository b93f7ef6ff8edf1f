"""Where an edit's second moment comes from, in this order:

a file the user names; text the user names; the moment that ships with the package; and, where there is none of these,
text that the model writes itself. Which it was is recorded with the edit. The cache only saves computing: what lies
there of other texts is told and never taken, since a command must give the same numbers whatever went before.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from factedit.engine.generate import sample_texts
from factedit.errors import DataError
from factedit.models.adapter import EditableModel
from factedit.stats.experts_store import read_experts
from factedit.stats.moment_places import corpus_of, stored_moments
from factedit.stats.second_moment import SecondMoment
from factedit.stats.store import Moment, SumsElsewhere, cached_moment, read_moment, second_moments

logger = logging.getLogger("factedit")
TOKENS_PER_KEY_ENTRY = 10  # FastMEMIT: 2 to 10 tokens per key entry give nearly all of the score
OWN_TEXT_TOKENS = 128
OWN_TEXT_BATCH = 64
MomentProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Text:
    """Text to read keys from.

    Attributes:
        name: in words and by content; part of the cache's key.
        texts: called to read it from the beginning.
    """

    name: str
    texts: Callable[[], Iterable[str]]


def own_text(model: EditableModel, *, seed: int = 0) -> Text:
    """Return text that the model writes from its start token, at temperature 1: the fallback without any corpus."""

    def texts() -> Iterator[str]:
        number = random.Random(seed).randrange(1 << 30)
        while True:
            yield from sample_texts(model, [OWN_TEXT_TOKENS] * OWN_TEXT_BATCH, top_k=model.vocab, seed=number)
            number += OWN_TEXT_BATCH

    return Text(f"text sampled from the model itself (seed {seed})", texts)


@dataclass(frozen=True)
class Moments:
    """Gives the second moment of a layer; call it with a model and a layer.

    Attributes:
        file: a file the user named, or None.
        corpus: text the user named, or None.
        tokens: how many tokens to read where it must be computed; None is 10 per entry of a key.
        progress: told what is being read, tokens read and tokens to read.
        elsewhere: see `second_moments`.
    """

    file: Path | None = None
    corpus: Text | None = None
    tokens: int | None = None
    progress: MomentProgress | None = None
    elsewhere: SumsElsewhere | None = None

    def __call__(self, model: EditableModel, layer: int) -> Moment:
        """Return C of a layer.

        Raises:
            DataError: the user's file does not fit, or the text is empty.
        """
        mixture = model.mixture(layer)
        if self.file is not None and mixture is not None:
            return read_experts(self.file, mixture, model=model.fingerprint())
        if self.file is not None:
            return read_moment(self.file, d_mlp=model.mlp(layer).width, model=model.fingerprint(), layer=layer)
        if self.corpus is None and mixture is None:
            shipped = shipped_moment(model.fingerprint(), layer)
            if shipped is not None:
                return shipped
        moment = self.compute(model, [layer])[layer]
        others = self.others_in_cache(model, layer, moment)
        if others:
            logger.info(
                "C of layer %d is of %s; the cache has others, taken only with --corpus: %s",
                layer,
                moment.corpus,
                others,
            )
        return moment

    def others_in_cache(self, model: EditableModel, layer: int, taken: Moment) -> str:
        """Say of which other texts the cache holds C of a layer, in words; nothing where a text was named."""
        if self.corpus is not None:
            return ""
        texts = (corpus_of(path) for path in stored_moments(model, layer))
        return "; ".join(text for text in texts if text and text != taken.corpus)

    def compute(self, model: EditableModel, layers: list[int]) -> dict[int, Moment]:
        """Return C of several layers from one pass over the text, or from the cache where it was computed before.

        Raises:
            DataError: the text is empty, or the keys are not finite.
        """
        text = self.corpus or own_text(model)
        tokens = self.tokens or max(_tokens_for(model, layer) for layer in layers)
        told = None if self.progress is None else lambda read: self.progress(text.name, read, tokens)  # type: ignore[misc]
        return second_moments(
            model, layers, text.texts, corpus=text.name, tokens=tokens, progress=told, elsewhere=self.elsewhere
        )


def _tokens_for(model: EditableModel, layer: int) -> int:
    """How many tokens give an estimate of C of a layer: of experts so many that each gets enough, were all alike."""
    mixture, tokens = model.mixture(layer), TOKENS_PER_KEY_ENTRY * model.mlp(layer).width
    used = 1 if mixture is None else int(getattr(model.lm.config.get_text_config(), "num_experts_per_tok", 1) or 1)
    return -(-tokens // used)


def ready_moment(model: EditableModel, layer: int) -> SecondMoment | None:
    """Return C of a layer without computing it: of the cache and the package, the one of most tokens, if any; of
    experts none.
    """
    if model.mixture(layer) is not None:
        return None
    fingerprint = model.fingerprint()
    stored = (
        cached_moment(path, d_mlp=model.mlp(layer).width, model=fingerprint, layer=layer)
        for path in stored_moments(model, layer)
    )
    cached = next((moment for moment in stored if moment is not None), None)
    ready = [moment for moment in (cached, shipped_moment(fingerprint, layer)) if moment is not None]
    return max(ready, key=lambda moment: moment.tokens, default=None)


def shipped_name(fingerprint: str, layer: int) -> str:
    """Return the file name of a moment that ships with the package."""
    return f"{fingerprint[:16]}-layer{layer}.safetensors"


def shipped_moment(fingerprint: str, layer: int) -> SecondMoment | None:
    """Return the moment that ships with the package for these weights and layer, if there is one."""
    resource = files("factedit.stats") / "shipped" / shipped_name(fingerprint, layer)
    if not resource.is_file():
        return None
    with as_file(resource) as path:
        moment = read_moment(path, model=fingerprint, layer=layer)
    if moment.model != fingerprint:
        raise DataError(f"The shipped second moment {path.name} is not for these weights; install factedit again.")
    return moment
