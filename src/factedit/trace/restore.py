"""Restored runs: the corrupted run with one state put back to its clean value (ROME, arXiv 2202.05262, section 2.1).

A restored run equals the corrupted one in every layer before the restoration and at every token before it.
So for each token all restored runs share one batch that grows as it climbs: a run joins at the layer where it
first differs, and only tokens from the restored one on are computed. Tokens before the subject, and layers
after which a token can no longer reach the last one, have no effect at all and are not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from factedit.engine import budget
from factedit.engine.resume import Past, Segment, align, embed, read_out
from factedit.engine.streaming import Walk, in_step
from factedit.models.adapter import CONTRIBUTIONS, Contribution, EditableModel
from factedit.models.matrix import ValueHook
from factedit.trace.asked import Readout
from factedit.trace.corrupt import Corruption


@dataclass(frozen=True)
class Restoration:
    """What is put back, at one token.

    Attributes:
        start: the first layer that runs differently.
        hidden: the layer whose output h[l] is put back to clean, or None.
        held: the contribution that is held over `window`, or None.
        window: layers over which it is held.
        clean: hold it at its clean value; otherwise at its corrupted one (a severed path).
    """

    start: int
    hidden: int | None = None
    held: Contribution | None = None
    window: range = range(0)
    clean: bool = True


def hidden_state(layer: int) -> Restoration:
    """Put h[layer] back."""
    return Restoration(layer + 1, hidden=layer)


def window_of(layer: int, window: int, n_layer: int) -> range:
    """Return layers [l − ⌊w/2⌋, l + ⌈w/2⌉ − 1], clipped to the model.

    So does the published program; the paper's text (ROME appendix B.2) has l − 4 to l + 5 for the window of 10.
    """
    return range(max(0, layer - window // 2), min(n_layer, layer + (window + 1) // 2))


def contribution(kind: Contribution, layer: int, window: int, n_layer: int) -> Restoration:
    """Return the contributions of an interval of layers, centred on `layer`, put back."""
    layers = window_of(layer, window, n_layer)
    return Restoration(layers.start, held=kind, window=layers)


def severed(kind: Contribution, layer: int, n_layer: int) -> Restoration:
    """Put h[layer] back while all contributions of a kind stay corrupted at that token (ROME section 2.2, figure 3)."""
    return Restoration(layer + 1, hidden=layer, held=kind, window=range(layer + 1, n_layer), clean=False)


@dataclass(frozen=True)
class _Run:
    """States of a run.

    Attributes:
        hidden: `[layers + 1][rows, tokens, d_model]`, h[-1] first.
        out: per contribution `[layers][rows, tokens, d_model]`.
        past: keys and values of all its tokens.
    """

    hidden: list[Tensor]
    out: dict[Contribution, list[Tensor]]
    past: Past


class CorruptedFact:
    """Clean and corrupted runs of one prompt, from which restored ones start.

    Args:
        model: the model.
        ids: the prompt's tokens.
        subject_range: the subject's tokens `[b, e)`.
        corrupt: makes the corrupted embeddings of the subject's tokens, a row per sample.
        readout: what is read; None: the probability of the token the clean run ranks first.

    Attributes:
        readout: what is read.
        clean, corrupted: what is read of the two runs (mean over the samples).
    """

    @torch.no_grad()
    def __init__(
        self,
        model: EditableModel,
        ids: Sequence[int],
        subject_range: tuple[int, int],
        *,
        corrupt: Corruption,
        readout: Readout | None = None,
    ) -> None:
        self.model, self.tokens = model, len(ids)
        self.begin, end = subject_range
        batch = align([ids], device=model.device)
        embeddings = embed(model, batch.ids)
        self._clean = self._climb(Segment(model, batch.mask, embeddings=embeddings))
        last = self._clean.hidden[-1][:, -1]
        self.readout = readout or Readout((len(ids) - 1,), (int(read_out(model, last).argmax()),))
        at = list(self.readout.at)
        self.clean = float(self.readout.value(model, self._clean.hidden[-1][:, at]))
        changed = corrupt(embeddings[:, self.begin : end])
        self.samples = len(changed)
        rest = embeddings[:, end:].expand(self.samples, -1, -1)
        rows = torch.zeros(self.samples, dtype=torch.long, device=model.device)
        mask = batch.mask.expand(self.samples, -1)
        past = self._clean.past.until(self.begin).select(rows) if self.begin else None
        self._noisy = self._climb(Segment(model, mask, past=past, embeddings=torch.cat([changed, rest], 1)))
        values = self.readout.value(model, self._noisy.hidden[-1][:, [n - self.begin for n in at]])
        self.corrupted = float(values.mean())

    def _climb(self, segment: Segment) -> _Run:
        hidden = [segment.start]
        out: dict[Contribution, list[Tensor]] = {"attn": [], "mlp": []}
        for layer in range(self.model.n_layer):
            with ExitStack() as stack:
                stack.enter_context(self.model.present(layer, layer + 1 if layer + 1 < self.model.n_layer else None))
                for kind in CONTRIBUTIONS:
                    keep = lambda tensor, kept=out[kind]: kept.append(tensor.clone())  # noqa: E731
                    stack.enter_context(self.model.on_output(kind, layer, keep))
                hidden.append(segment.run(hidden[-1], range(layer, layer + 1), keep=True))
        return _Run(hidden, out, segment.past())

    @torch.no_grad()
    def restored(self, token: int, restorations: Sequence[Restoration]) -> list[float]:
        """Return what is read of restored runs, the mean over the samples, for restorations at one token.

        Args:
            token: one of the prompt's; the positions that are read do not come before it.
            restorations: what is put back there.
        """
        return self.restored_at([token], restorations)[0]

    @torch.no_grad()
    def restored_at(self, tokens: Sequence[int], restorations: Sequence[Restoration]) -> list[list[float]]:
        """Return `restored` at several tokens; of a model that is read from disk every layer comes once for all of
        them.
        """
        restored = [[self.corrupted] * len(restorations) for _ in tokens]
        parts: list[tuple[int, list[int]]] = []
        for n, token in enumerate(tokens):
            runs = [i for i, r in enumerate(restorations) if self._has_effect(token, r)]
            at_once = budget.rows_restored(self.samples * (self.tokens - token))
            parts += [(n, runs[begin : begin + at_once]) for begin in range(0, len(runs), at_once)]
        walks = [self._together(tokens[n], [restorations[i] for i in part]) for n, part in parts]
        for (n, part), final in zip(parts, in_step(self.model, walks), strict=True):
            values = self.readout.value(self.model, final).view(len(part), self.samples).mean(1)
            for i, p in zip(part, values.tolist(), strict=True):
                restored[n][i] = p
        return restored

    def _has_effect(self, token: int, restoration: Restoration) -> bool:
        """Return whether a later layer of a later token can see the restored state, or it is read itself."""
        if token < self.begin:
            return False
        changed = restoration.start - 1 if restoration.hidden is not None else restoration.start
        return token in self.readout.at or changed < self.model.n_layer - 1

    def _together(self, token: int, restorations: Sequence[Restoration]) -> Walk:
        """Final hidden states where they are read `[restorations * samples, reads, d_model]`, in the given order."""
        order = sorted(range(len(restorations)), key=lambda i: restorations[i].start)
        joined: list[int] = []
        hidden = self._noisy.hidden[0].new_zeros(0, self.tokens - token, self.model.d_model)
        for layer in range(restorations[order[0]].start, self.model.n_layer + 1):
            new = [i for i in order if restorations[i].start == layer]
            hidden = torch.cat([hidden, *(self._entry(token, restorations[i]) for i in new)])
            joined += new
            if layer < self.model.n_layer:
                yield layer
                hidden = self._one_layer(layer, token, hidden, [restorations[i] for i in joined])
        back = torch.tensor(joined).argsort()
        read = hidden[:, [n - token for n in self.readout.at]]
        return read.view(len(joined), self.samples, *read.shape[1:])[back].flatten(0, 1)

    def _entry(self, token: int, restoration: Restoration) -> Tensor:
        """Return what a run's first own layer receives, tokens from `token` on."""
        entry = self._noisy.hidden[restoration.start][:, token - self.begin :]
        if restoration.hidden is not None:
            entry = entry.clone()
            entry[:, 0] = self._clean.hidden[restoration.hidden + 1][:, token]
        return entry

    def _one_layer(self, layer: int, token: int, hidden: Tensor, joined: Sequence[Restoration]) -> Tensor:
        rows = torch.arange(self.samples, device=hidden.device).repeat(len(joined))
        past = self._past(layer, token, rows) if token else None
        mask = torch.ones(len(rows), self.tokens, dtype=torch.bool, device=hidden.device)
        segment = Segment(self.model, mask, past=past)
        with ExitStack() as stack:
            for kind, places, values in self._held(layer, token, joined):
                stack.enter_context(self.model.on_output(kind, layer, _putting(places, values)))
            return segment.run(hidden, range(layer, layer + 1))

    def _held(
        self, layer: int, token: int, joined: Sequence[Restoration]
    ) -> Iterator[tuple[Contribution, Tensor, Tensor]]:
        """Contributions held at this layer: kind, rows, and the values `[rows, d_model]` they are held at."""
        for kind in CONTRIBUTIONS:
            clean = self._clean.out[kind][layer][:, token].expand(self.samples, -1)
            noisy = self._noisy.out[kind][layer][:, token - self.begin]
            held = [(n, r) for n, r in enumerate(joined) if r.held == kind and layer in r.window]
            if held:
                places = torch.cat([torch.arange(n * self.samples, (n + 1) * self.samples) for n, _ in held])
                yield kind, places, torch.cat([clean if r.clean else noisy for _, r in held])

    def _past(self, layer: int, token: int, rows: Tensor) -> Past:
        """Return keys and values of the tokens before, of this layer only."""
        return self._noisy.past.of_layers((layer,)).until(token).select(rows)


def _putting(places: Tensor, values: Tensor) -> ValueHook:
    """Return a hook that puts values `[n, d_model]` at rows `places` of the segment's first token."""

    def hook(out: Tensor) -> Tensor:
        out = out.clone()
        out[places, 0] = values
        return out

    return hook
