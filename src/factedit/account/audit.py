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
from pathlib import Path

import torch
from torch import Tensor

from factedit.account.difference import Difference, compare_tensors
from factedit.account.excited import excited, read_space
from factedit.account.outcome import EXCITED, NAMED, Audit, Suspicion
from factedit.edit.effects.weights import changed
from factedit.engine.resume import read_out
from factedit.errors import EditError
from factedit.export.read_peft import read_peft
from factedit.facts import EditRequest
from factedit.files.save import tensors_of
from factedit.models.adapter import EditableModel
from factedit.models.families import Place, split_name
from factedit.models.load import load
from factedit.models.positions import tokenize
from factedit.stack.check import log
from factedit.stack.folder import is_stack
from factedit.stats.provide import ready_moment
from factedit.stats.second_moment import SecondMoment
from factedit.stats.subjects import subject_keys

TOKENS = 5
DEEPER = 16  # where no more tensors differ than these, ranks are found however large
CandidateMoment = Callable[[EditableModel, int], SecondMoment | None]
LOOKED_AT = 20  # candidates of the best keys, whose prompts are read
TIE = 0.1  # what a rise of 1 counts beside the key: it decides between prompts of one subject, whose keys are alike
MANY = 5  # layers, or a third of the model's: more than editing methods take
LOW = 1 / 4  # a difference is called low-rank up to this share of the matrix's smaller side


def audit(
    base: EditableModel,
    suspect: EditableModel | str | Path,
    candidates: Sequence[EditRequest] = (),
    *,
    moment: CandidateMoment | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Audit:
    """Compare a model with what it is said to be.

    Args:
        base: the original; the same bits afterwards.
        suspect: another checkpoint of it, or the folder of a PEFT LoRA adapter.
        candidates: facts that may have been edited: subject and prompt are used.
        moment: gives C of a layer; default: what ships or lies in the cache. Where there is none, keys are compared
            as they are, which is weaker.
        progress: told the tensors compared, and how many there are.

    Raises:
        EditError: the two have other tensors or shapes: they are not versions of one model.
        ModelError, UnsafeFile: the suspect cannot be loaded.
    """
    ours, theirs, name = tensors_of(base.lm), *_tensors(base, suspect)
    _check_alike(base.name, ours, name, theirs)
    differences = _differences(ours, theirs, progress)
    places = _places(base)
    low = bool(differences) and all(
        d.tensor in places and d.rank is not None and d.rank <= max(1, LOW * min(d.shape)) for d in differences
    )
    suspicions: tuple[Suspicion, ...] = ()
    named: tuple[tuple[str, str, float], ...] = ()
    moments: dict[str, SecondMoment | None] = {}
    if low and candidates:
        source = moment or ready_moment
        moments = {d.tensor: source(base, places[d.tensor][0]) for d in differences if places[d.tensor][1] == "out"}
        weights = {n: theirs[n] for n in places if n in theirs}
        scores, suspicions = _suspicions(base, differences, weights, candidates, moments)
        named = _named(candidates, scores)
    metric = bool(moments) and all(value is not None for value in moments.values())
    spread = _spread(base, [places[d.tensor] for d in differences]) if low else ""
    ledger = _ledger(suspect)
    return Audit(
        base.name,
        name,
        differences,
        len(ours),
        low,
        len(candidates),
        suspicions,
        metric,
        spread,
        ledger,
        named if metric else (),
    )


def _check_alike(base: str, ours: dict[str, Tensor], suspect: str, theirs: dict[str, Tensor]) -> None:
    """Refuse tensors of two models that are not versions of one."""
    odd = sorted(n for n in ours.keys() | theirs.keys() if _shape(ours, n) != _shape(theirs, n))
    if odd:
        raise EditError(
            f"{base} and {suspect} are not versions of one model: {odd[0]} is {_shape(ours, odd[0])} in the first "
            f"and {_shape(theirs, odd[0])} in the second ({len(odd)} tensors in all)."
        )


def _differences(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], progress: Callable[[int, int], None]
) -> tuple[Difference, ...]:
    """Return the tensors that differ; where they are few, with their rank however large it is."""
    compared = []
    for done, n in enumerate(ours):
        progress(done, len(ours))
        compared.append(compare_tensors(n, ours[n].float().cpu(), theirs[n].float().cpu()))
    differences = tuple(difference for difference in compared if difference is not None)
    if len(differences) > DEEPER:
        return differences
    return tuple(_of_any_rank(d, ours[d.tensor], theirs[d.tensor]) for d in differences)


def _of_any_rank(difference: Difference, ours: Tensor, theirs: Tensor) -> Difference:
    """Return the difference with its rank, also where it is more than a quick look finds."""
    if difference.rank is not None or len(difference.shape) != 2:
        return difference
    most = int(LOW * min(difference.shape)) + 2
    thorough = compare_tensors(difference.tensor, ours.float().cpu(), theirs.float().cpu(), sketch=most)
    return thorough or difference


def _named(candidates: Sequence[EditRequest], scores: Tensor) -> tuple[tuple[str, str, float], ...]:
    """Return the candidates whose keys are read as those of edited facts, best first."""
    order = [n for n in scores.argsort(descending=True).tolist() if float(scores[n]) >= EXCITED]
    return tuple((candidates[n].subject, candidates[n].text, float(scores[n])) for n in order)


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
    """Return the matrices by the name of their tensor; of stacked experts, that share one, none."""
    every = (matrix for layer in range(model.n_layer) for matrix in model.matrices_of(layer))
    return {matrix.name: matrix.place for matrix in every if not split_name(matrix.place[1])[1].isdecimal()}


@torch.no_grad()
def _suspicions(
    model: EditableModel,
    differences: Sequence[Difference],
    weights: dict[str, Tensor],
    candidates: Sequence[EditRequest],
    moments: dict[str, SecondMoment | None],
) -> tuple[Tensor, tuple[Suspicion, ...]]:
    """Return every candidate's score, and what there is to say of the best."""
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
    suspicions = (
        _suspicion(
            model, candidates[n], float(scores[n]), {t: weights[t] for t in changed_places}, changed_places,
            [values[n] for values in added.values()],
        )
        for n in order
    )  # fmt: skip
    return scores, tuple(sorted(suspicions, key=lambda s: s.score + TIE * s.rise, reverse=True)[:NAMED])


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
