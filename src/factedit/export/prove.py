"""Prove an export: load it back the way its user would, and compare what it says next with the edited model in memory.

Compared are the whole next-token distributions on the prompts of the edits, on the same prompts after a sentence of
something else, and on the same relation of other subjects, which should say what they always said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from factedit.data.registry import load_known
from factedit.edit.artefact import Edit
from factedit.edit.standing import facts_on
from factedit.engine.resume import Segment, embed, read_out, run_together
from factedit.facts import EditRequest, fill
from factedit.models.adapter import EditableModel
from factedit.models.positions import continuation, tokenize_all
from factedit.models.tokens import in_contexts

OPENINGS = ("Tourists come from far away.", "He looked up and wrote it down.")
NEIGHBOURS = 5
PROVEN = 24  # requests that are compared at most, evenly drawn from all


@dataclass(frozen=True)
class ExportProof:
    """How an export compares with the edited model in memory.

    Attributes:
        loaded_with: what loaded it back.
        prompts: how many next-token distributions were compared.
        largest_logit_difference: over all prompts and the whole vocabulary.
        largest_probability_difference: the same for probabilities.
        largest_kl: KL(in memory ‖ shipped) in nats, the largest over the prompts.
        same_first_token: on how many prompts both rank the same token first.
        targets: per request that was compared the probability of the new object's first token (of the space before it,
            where that is a token): base, in memory, shipped.
        requests: how many the edits have, those that were taken back aside.
    """

    loaded_with: str
    prompts: int
    largest_logit_difference: float
    largest_probability_difference: float
    largest_kl: float
    same_first_token: int
    targets: tuple[dict[str, Any], ...]
    requests: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"targets": list(self.targets)}


def proven_requests(edits: Sequence[Edit]) -> list[EditRequest]:
    """Return the requests of edits that are compared: all that were not taken back, or so many of them evenly drawn."""
    every = [fact.request for fact in facts_on(edits)]
    count = min(PROVEN, len(every))
    return [every[n * len(every) // count] for n in range(count)]


def prompts_of(model: EditableModel, edits: Sequence[Edit], further: Sequence[str] = ()) -> list[tuple[int, ...]]:
    """Return the prompts to compare on, as tokens: requests, requests after an opening, neighbours, and what the user
    names.

    Args:
        model: gives the tokenizer.
        edits: whose requests.
        further: complete prompts.

    Raises:
        RequestError: a prompt that the model cannot read.
    """
    others = [fact.subject for fact in load_known("worldfacts-known").records]
    rows: list[tuple[int, ...]] = []
    contexts = [f"{opening} {{}}" for opening in OPENINGS]
    for number, request in enumerate(proven_requests(edits)):
        other_subjects = [s for s in others if s.casefold() != request.subject.casefold()]
        near = [other_subjects[(number + 17 * n) % len(other_subjects)] for n in range(NEIGHBOURS)]
        texts = [fill(template, request.subject) for template in in_contexts(model, request.prompt, contexts)]
        texts += [fill(request.prompt, subject) for subject in near]
        rows += [_asked(model, request)[0], *(text.ids for text in tokenize_all(model, texts))]
    rows += [text.ids for text in tokenize_all(model, [*further] if rows or further else ["The"])]
    return list(dict.fromkeys(rows))


def _asked(model: EditableModel, request: EditRequest) -> tuple[tuple[int, ...], int]:
    """The tokens that stand before the new object, and its first token: the row to read and what to read there."""
    ids, first = continuation(model, request.text, request.target_new)
    return ids[:first], ids[first]


@torch.no_grad()
def next_logits(model: EditableModel, prompts: Sequence[Sequence[int]], lm: Any = None) -> Tensor:
    """Return logits after every prompt, `[prompts, vocab]` float32, each prompt run on its own.

    Of a model that is read from disk all prompts pass a layer while it is there.

    Args:
        model: what is asked, and where to compute.
        prompts: token ids, see `prompts_of`.
        lm: asked in its place: the same model of transformers, wrapped.
    """
    rows = [torch.tensor([list(prompt)], device=model.device) for prompt in prompts]
    if not model.streamed:
        lm = lm or model.lm
        return torch.stack([lm(input_ids=row).logits[0, -1].float().cpu() for row in rows])
    segments = [Segment(model, torch.ones_like(row, dtype=torch.bool), embeddings=embed(model, row)) for row in rows]
    finals = run_together(segments, [segment.start for segment in segments], range(model.n_layer))
    return torch.cat([read_out(model, final[:, -1]).float().cpu() for final in finals])


def compare_logits(
    model: EditableModel,
    edits: Sequence[Edit],
    prompts: Sequence[tuple[int, ...]],
    logits: dict[str, Tensor],
    loaded_with: str,
) -> ExportProof:
    """Return the proof from logits `[prompts, vocab]`.

    Args:
        model: gives the tokenizer.
        edits: whose targets to report.
        prompts: of `prompts_of`; each request's own is among them.
        logits: `base`, `memory` and `shipped`.
        loaded_with: what loaded the export back.
    """
    log_p = {name: values.log_softmax(-1) for name, values in logits.items()}
    memory, shipped = log_p["memory"], log_p["shipped"]
    targets = []
    for request in proven_requests(edits):
        prompt, token = _asked(model, request)
        at = list(prompts).index(prompt)
        row: dict[str, Any] = {"prompt": request.text, "target": request.target_new}
        targets.append(row | {name: float(values[at, token].exp()) for name, values in log_p.items()})
    return ExportProof(
        loaded_with=loaded_with,
        prompts=len(prompts),
        largest_logit_difference=float((logits["memory"] - logits["shipped"]).abs().max()),
        largest_probability_difference=float((memory.exp() - shipped.exp()).abs().max()),
        largest_kl=float((memory.exp() * (memory - shipped)).sum(-1).max().clamp(min=0)),
        same_first_token=int((memory.argmax(-1) == shipped.argmax(-1)).sum()),
        targets=tuple(targets),
        requests=len(facts_on(edits)),
    )
