"""Seeded, batched sampling: contexts for k*, generations for GE and free-running match.

Rows are padded left; each new token is one resumed segment of width one. Hooks that are active on the model
(a row-wise edit, say) act on every step. Where the caller can put them on for some of the rows alone (`under`), rows
that are finished leave a greedy batch as soon as they are half of it; sampled batches keep theirs, so that a draw's
numbers are the same to the bit whoever is finished beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor

from factedit.engine.resume import Segment, align, embed, read_out
from factedit.errors import NotFinite
from factedit.models.adapter import EditableModel
from factedit.models.positions import check_fits
from factedit.models.tokens import text_after


@torch.no_grad()
def generate(
    model: EditableModel,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: Sequence[int],
    top_k: int = 1,
    seeds: Sequence[int] | None = None,
    stop: frozenset[int] = frozenset(),
    last: Sequence[frozenset[int]] | None = None,
    under: Callable[[Sequence[int]], AbstractContextManager[None]] | None = None,
) -> list[list[int]]:
    """Continue rows of token ids.

    Args:
        model: the model, with whatever hooks are active.
        prompts: token ids, start token included; at least one each.
        tokens: how many to add to each row at most; the context's end stops a row too.
        top_k: sample among the k likeliest; 1 is greedy.
        seeds: one per row, of its own stream of random numbers, so that a row does not depend on the others;
            None is 0, 1, 2, …
        stop: tokens that end a row; they are not part of the result.
        last: per row tokens that end it too and are part of the result.
        under: puts on what acts on rows of these numbers, for a batch of them in this order; None: nothing of the
            kind, or hooks that are active now and count on every row.

    Returns:
        Per row the added token ids.

    Raises:
        NotFinite: the logits of a row that is not finished are NaN or infinite.
        RequestError: a row is longer than the context.
    """
    if not prompts:
        return []
    check_fits(model, max(map(len, prompts)), "A text to go on with")
    tokens = [min(limit, model.context_length - len(row)) for limit, row in zip(tokens, prompts, strict=True)]
    batch = align(prompts, [len(p) for p in prompts], device=model.device)
    seeds = range(len(prompts)) if seeds is None else seeds
    random = [torch.Generator().manual_seed(seed) for seed in seeds]
    added: list[list[int]] = [[] for _ in prompts]
    live = [limit > 0 for limit in tokens]
    mask, ids = batch.mask, batch.ids
    segment = Segment(model, mask, embeddings=embed(model, ids))
    here = list(range(len(prompts)))  # the rows of the batch
    with ExitStack() as stack:
        stack.enter_context(under(here) if under else nullcontext())
        for _ in range(max(tokens, default=0)):
            hidden = segment.run(segment.start, range(model.n_layer), keep=True)
            of_batch = [random[row] for row in here], [live[row] for row in here]
            chosen = _sample(read_out(model, hidden[:, -1]), top_k, *of_batch)
            for row, token in zip(here, chosen.tolist(), strict=True):
                live[row] = live[row] and token not in stop
                if live[row]:
                    added[row].append(token)
                    live[row] = len(added[row]) < tokens[row] and (last is None or token not in last[row])
            if not any(live):
                break
            past = segment.past()
            if under and top_k == 1 and 2 * sum(live) <= len(here):
                kept = torch.tensor([at for at, row in enumerate(here) if live[row]], device=mask.device)
                here = [row for row in here if live[row]]
                mask, past, chosen = mask[kept], past.select(kept), chosen[kept]
                stack.close()
                stack.enter_context(under(here))
            # a finished row goes on unseen, without a position of its own: past the context's end there is none
            mask = torch.cat([mask, torch.tensor([live[row] for row in here], device=mask.device)[:, None]], dim=1)
            segment = Segment(model, mask, past=past, embeddings=embed(model, chosen[:, None]))
    return added


def _sample(logits: Tensor, top_k: int, random: Sequence[torch.Generator], live: Sequence[bool]) -> Tensor:
    """Return one token per row `[rows]` among the k likeliest, by their probabilities; of rows that are not live
    any.
    """
    best = logits.float().topk(min(top_k, logits.shape[-1]), dim=-1) if top_k > 1 else logits.max(-1, keepdim=True)
    finite = torch.isfinite(best.values).all(-1).cpu()
    if not (finite | ~torch.tensor(live)).all():
        raise NotFinite(
            "The model's numbers are not finite (NaN or infinity), so it writes nothing: an edit has broken it, or its "
            "type holds too small numbers (--dtype float32)."
        )
    if top_k == 1:
        return best.indices[:, 0]
    shares = best.values.softmax(-1).cpu()
    shares[~finite] = 1 / shares.shape[-1]
    choice = torch.stack([torch.multinomial(p, 1, generator=source) for p, source in zip(shares, random, strict=True)])
    return best.indices.gather(1, choice.to(logits.device))[:, 0]


def start_token(model: EditableModel) -> int:
    """Return the token a text begins with: the tokenizer's start token, else its end token, else token 0."""
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def sample_texts(
    model: EditableModel, lengths: Sequence[int], *, top_k: int, seed: int, openings: Sequence[str] = ("",)
) -> list[str]:
    """Return texts the model writes from its start token and an opening, in one batch.

    Args:
        model: the model.
        lengths: of each text in tokens, start token and opening counted; each opening gets all of them.
        top_k: see `generate`.
        seed: of the first text; each further one adds one.
        openings: what the texts begin with.
    """
    begun = [[start_token(model), *model.tokenizer(o, add_special_tokens=False)["input_ids"]] for o in openings]
    wanted = [(opening, row, length) for opening, row in zip(openings, begun, strict=True) for length in lengths]
    added = generate(
        model,
        [row for _, row, _ in wanted],
        tokens=[max(0, length - len(row)) for _, row, length in wanted],
        top_k=top_k,
        seeds=range(seed, seed + len(wanted)),
    )
    return [opening + text_after(model, row, ids) for (opening, row, _), ids in zip(wanted, added, strict=True)]
