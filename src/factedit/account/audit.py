"""Compare two checkpoints: was the second one edited, how, and about what?

What differs, and of what rank, is certain. Differences of low rank in a few last matrices look like an edit of facts;
in many places, or in gate and up matrices, they look like merged LoRA training as much, and that is left undecided.
What it is about is an inference: an insertion at a key k* adds C⁻¹k* to
the rows that a matrix reads (ROME, arXiv 2202.05262, eq. 2), so the keys of candidate subjects are compared with the
difference's input space in the metric of C; the score is 1 for k* itself. What the edit makes the model say is read
off two ways: from the next token after the candidate's prompt, with and without the difference, and from what the
difference adds at the candidate's key, put through the final norm and head as if nothing came between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factedit.account.difference import SKETCH, Difference, compare_tensors
from factedit.account.excited import excited, read_space
from factedit.edit.effects.weights import changed
from factedit.engine.resume import read_out
from factedit.errors import EditError, shown
from factedit.export.read_peft import read_peft
from factedit.facts import EditRequest
from factedit.files.save import tensors_of
from factedit.models.adapter import EditableModel
from factedit.models.families import MATRICES, Place
from factedit.models.load import load
from factedit.models.positions import tokenize
from factedit.stack.check import log
from factedit.stack.folder import is_stack
from factedit.stats.provide import ready_moment
from factedit.stats.second_moment import SecondMoment
from factedit.stats.subjects import subject_keys

NAMED, TOKENS = 5, 5
MomentSource = Callable[[EditableModel, int], SecondMoment | None]
LOOKED_AT = 20  # candidates of the best keys, whose prompts are read
TIE = 0.1  # what a rise of 1 counts beside the key: it decides between prompts of one subject, whose keys are alike
MANY = 5  # layers, or a third of the model's: more than editing methods take
LOW = 1 / 4  # a difference is called low-rank up to this share of the matrix's smaller side


@dataclass(frozen=True)
class Suspicion:
    """A candidate, and how much the difference looks like an edit of it.

    Attributes:
        subject, prompt: the candidate.
        score: share of the candidate's key that lies in the difference's input space, 0 to 1.
        rise: by how much the token that gains most gains at the prompt, as a difference of probabilities.
        promoted: next tokens whose probability rises most: (token, base, suspect).
        through_head: tokens that the added value ranks first through norm and head alone.
    """

    subject: str
    prompt: str
    score: float
    rise: float
    promoted: tuple[tuple[str, float, float], ...]
    through_head: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """The outcome.

    Attributes:
        base, suspect: what was compared.
        differences: every tensor that differs.
        tensors: how many were compared.
        low_rank: the differences are of low rank and lie in MLP matrices only.
        candidates: how many subjects were looked at.
        suspicions: the likeliest, best first, by key and rise together.
        with_moment: keys were compared in the metric of C.
        spread: where the differences of low rank lie as training with LoRA would put them; empty where they do not.
        ledger: what the suspect's own folder says was done to it, one line each; nobody vouches for it.
    """

    base: str
    suspect: str
    differences: tuple[Difference, ...]
    tensors: int
    low_rank: bool
    candidates: int
    suspicions: tuple[Suspicion, ...]
    with_moment: bool
    spread: str = ""
    ledger: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`no difference`, `a low-rank edit`, `a low-rank edit or LoRA training`, or `not a low-rank edit`."""
        if not self.differences:
            return "no difference"
        if not self.low_rank:
            return "not a low-rank edit"
        return "a low-rank edit or LoRA training" if self.spread else "a low-rank edit"

    def statement(self) -> str:
        """What is certain and what is not, in plain words."""
        if not self.ledger:
            return self._compared()
        told = "; ".join(self.ledger[:NAMED]) + (" …" if len(self.ledger) > NAMED else "")
        return f"{self._compared()} The folder's own ledger, for which nobody vouches here, says: {told}."

    def _compared(self) -> str:
        if not self.differences:
            return f"Certain: no difference in {self.tensors} tensors, to the bit (rounding to a narrower type aside)."
        ranks = ", ".join(f"{d.tensor} ({_rank(d)})" for d in self.differences[:NAMED])
        more = f" and {len(self.differences) - NAMED} more" if len(self.differences) > NAMED else ""
        said = [f"Certain: {len(self.differences)} of {self.tensors} tensors differ: {ranks}{more}."]
        if not self.low_rank:
            return f"{said[0]} This is not a low-rank edit of MLPs; it looks like training or a change of another kind."
        said.append(
            f"Undecided: differences of low rank {self.spread} look like merged LoRA training as much as like an edit."
            if self.spread
            else "Likely: an edit of facts, since training seldom gives differences of such rank in so few places; "
            "LoRA training of these matrices alone would look alike."
        )
        if self.suspicions:
            first = self.suspicions[0]
            tokens = ", ".join(repr(token) for token, *_ in first.promoted)
            second = f", the next {self.suspicions[1].score:.2f}" if len(self.suspicions) > 1 else ""
            said.append(
                f"Not certain: of {self.candidates} candidates {first.subject!r} is excited most (score "
                f"{first.score:.2f} of 1{second}), and on {shown(first.prompt, 120)} these tokens rise most: {tokens}. "
                "The score is the share of the candidate's key that the difference reads, 1 for the edited key itself. "
                "A subject that is not among the candidates cannot be named, and a low best score means it is not."
            )
        else:
            said.append("What it is about was not looked into: no candidates were given.")
        return " ".join(said)

    def as_json(self) -> dict[str, Any]:
        """As JSON values, without the bases."""
        rows = [{k: v for k, v in vars(d).items() if k not in ("left", "right")} for d in self.differences]
        kept = ("base", "suspect", "tensors", "low_rank", "candidates", "with_moment", "spread", "ledger")
        found = {name: getattr(self, name) for name in kept}
        return found | {
            "verdict": self.verdict, "statement": self.statement(), "differences": rows,
            "suspicions": [asdict(suspicion) for suspicion in self.suspicions],
        }  # fmt: skip


def audit(
    base: EditableModel,
    suspect: EditableModel | str | Path,
    candidates: Sequence[EditRequest] = (),
    *,
    moment: MomentSource | None = None,
) -> Audit:
    """Compare a model with what it is said to be.

    Args:
        base: the original; the same bits afterwards.
        suspect: another checkpoint of it, or the folder of a PEFT LoRA adapter.
        candidates: facts that may have been edited: subject and prompt are used.
        moment: gives C of a layer; default: what ships or lies in the cache. Where there is none, keys are compared
            as they are, which is weaker.

    Raises:
        EditError: the two have other tensors or shapes: they are not versions of one model.
        ModelError, UnsafeFile: the suspect cannot be loaded.
    """
    ours, theirs, name = tensors_of(base.lm), *_tensors(base, suspect)
    odd = sorted(n for n in ours.keys() | theirs.keys() if _shape(ours, n) != _shape(theirs, n))
    if odd:
        raise EditError(
            f"{base.name} and {name} are not versions of one model: {odd[0]} is {_shape(ours, odd[0])} in the first "
            f"and {_shape(theirs, odd[0])} in the second ({len(odd)} tensors in all)."
        )
    found = [compare_tensors(n, ours[n].float().cpu(), theirs[n].float().cpu()) for n in ours]
    differences = tuple(difference for difference in found if difference is not None)
    places = _places(base)
    low = bool(differences) and all(
        d.tensor in places and d.rank is not None and d.rank <= max(1, LOW * min(d.shape)) for d in differences
    )
    suspicions: tuple[Suspicion, ...] = ()
    moments: dict[str, SecondMoment | None] = {}
    if low and candidates:
        source = moment or ready_moment
        moments = {d.tensor: source(base, places[d.tensor][0]) for d in differences if places[d.tensor][1] == "out"}
        suspicions = _suspicions(base, differences, {n: theirs[n] for n in places if n in theirs}, candidates, moments)
    metric = bool(moments) and all(value is not None for value in moments.values())
    spread = _spread(base, [places[d.tensor] for d in differences]) if low else ""
    ledger = _ledger(suspect)
    return Audit(base.name, name, differences, len(ours), low, len(candidates), suspicions, metric, spread, ledger)


def _spread(model: EditableModel, places: Sequence[Place]) -> str:
    """Where the differences lie as LoRA training would put them, in words; nothing where they lie as edits do."""
    layers = {layer for layer, _ in places}
    names = sorted({which for _, which in places} - {"out"})
    said = [f"in {len(layers)} of {model.n_layer} layers"] if len(layers) > max(MANY, model.n_layer // 3) else []
    said += [f"in {' and '.join({'in': 'up', 'gate': 'gate'}[n] for n in names)} matrices"] if names else []
    return " and ".join(said)


def _ledger(suspect: EditableModel | str | Path) -> tuple[str, ...]:
    """What the ledger in a suspect's folder says, one line for each edit that is on it."""
    if isinstance(suspect, EditableModel) or not is_stack(suspect):
        return ()
    entries = log(suspect)
    standing = entries[-1].standing if entries else ()
    return tuple(edit.text for edit in standing) or ("no edit is on it",)


def _tensors(base: EditableModel, suspect: EditableModel | str | Path) -> tuple[dict[str, Tensor], str]:
    if not isinstance(suspect, EditableModel):
        if (Path(suspect) / "adapter_config.json").is_file():
            tensors = dict(tensors_of(base.lm))
            for change in read_peft(base, Path(suspect)):
                new = changed(base.weight(change.layer, change.matrix), change)
                matrix = base.matrix(*change.place)
                tensors[matrix.name] = matrix.turned(new)
            return tensors, Path(suspect).name
        suspect = load(str(suspect))
    return tensors_of(suspect.lm), suspect.name


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _places(model: EditableModel) -> dict[str, Place]:
    if model.family.experts:
        return {}
    names = [which for which in MATRICES if which != "gate" or model.family.matrix_gate]
    return {model.matrix(layer, w).name: (layer, w) for layer in range(model.n_layer) for w in names}


def _rank(difference: Difference) -> str:
    if len(difference.shape) != 2:
        return "no matrix"
    return f"rank {difference.rank}" if difference.rank is not None else f"rank {SKETCH} or more"


@torch.no_grad()
def _suspicions(
    model: EditableModel,
    differences: Sequence[Difference],
    weights: dict[str, Tensor],
    candidates: Sequence[EditRequest],
    moments: dict[str, SecondMoment | None],
) -> tuple[Suspicion, ...]:
    places = _places(model)
    asked = [(candidate.prompt, candidate.subject) for candidate in candidates]
    scores, added = torch.zeros(len(candidates)), {}
    for difference in differences:
        layer, which = places[difference.tensor]
        keys = subject_keys(model, layer, asked, matrix=which).float().cpu()
        scores = torch.maximum(scores, excited(keys, read_space(model, difference), moments.get(difference.tensor)))
        if which == "out":
            matrix = model.matrix(layer, which)
            added[layer] = keys @ matrix.turned(weights[difference.tensor].float() - matrix.parameter.float())
    order = scores.argsort(descending=True)[:LOOKED_AT].tolist()
    changed_places = {d.tensor: places[d.tensor] for d in differences}
    found = (
        _suspicion(
            model, candidates[n], float(scores[n]), {t: weights[t] for t in changed_places}, changed_places,
            [values[n] for values in added.values()],
        )
        for n in order
    )  # fmt: skip
    return tuple(sorted(found, key=lambda s: s.score + TIE * s.rise, reverse=True)[:NAMED])


@contextmanager
def _as_suspected(model: EditableModel, weights: dict[str, Tensor], places: dict[str, Place]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, (layer, which) in places.items():
            stack.enter_context(model.with_weight(layer, model.matrix(layer, which).turned(weights[name]), which))
        yield


def _suspicion(
    model: EditableModel,
    candidate: EditRequest,
    score: float,
    weights: dict[str, Tensor],
    places: dict[str, Place],
    added: Sequence[Tensor],
) -> Suspicion:
    row = torch.tensor([tokenize(model, candidate.text).ids], device=model.device)
    before = model.lm(input_ids=row).logits[0, -1].float().softmax(-1)
    with _as_suspected(model, weights, places):
        after = model.lm(input_ids=row).logits[0, -1].float().softmax(-1)
    best = (after - before).argsort(descending=True)[:TOKENS].tolist()
    promoted = tuple((model.tokenizer.decode([t]), float(before[t]), float(after[t])) for t in best)
    head: tuple[str, ...] = ()
    if added:
        logits = read_out(model, torch.stack(list(added)).sum(0)[None].to(model.device, model.dtype))[0]
        head = tuple(model.tokenizer.decode([t]) for t in logits.argsort(descending=True)[:TOKENS].tolist())
    rise = max((now - was for _, was, now in promoted), default=0.0)
    return Suspicion(candidate.subject, candidate.text, score, rise, promoted, head)
