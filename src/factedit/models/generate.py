"""Seeded, batched sampling: contexts for k*, generations for GE and free-running match.

Rows are padded left; each new token is one resumed segment of width one. Hooks that are active on the model
(a row-wise edit, say) act on every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factedit.models.adapter import EditableModel
from factedit.models.resume import Segment, align, embed, read_out


@torch.no_grad()
def generate(
    model: EditableModel,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    top_k: int = 1,
    seed: int = 0,
    stop: frozenset[int] = frozenset(),
) -> list[list[int]]:
    """Continue rows of token ids.

    Args:
        model: the model, with whatever hooks are active.
        prompts: token ids, start token included; at least one each.
        tokens: how many to add at most.
        top_k: sample among the k likeliest; 1 is greedy.
        seed: of the sampling; row i of a batch depends on the batch's size and order.
        stop: tokens that end a row; they are not part of the result.

    Returns:
        Per row the added token ids.
    """
    batch = align(prompts, [len(p) for p in prompts], device=model.device)
    random = torch.Generator().manual_seed(seed)
    added: list[list[int]] = [[] for _ in prompts]
    live = [True] * len(prompts)
    mask, ids = batch.mask, batch.ids
    segment = Segment(model, mask, embeddings=embed(model, ids))
    for _ in range(tokens):
        hidden = segment.run(segment.start, range(model.n_layer), keep=True)
        chosen = _sample(read_out(model, hidden[:, -1]), top_k, random)
        for row, token in enumerate(chosen.tolist()):
            live[row] = live[row] and token not in stop
            if live[row]:
                added[row].append(token)
        if not any(live):
            break
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        segment = Segment(model, mask, past=segment.past(), embeddings=embed(model, chosen[:, None]))
    return added


def _sample(logits: Tensor, top_k: int, random: torch.Generator) -> Tensor:
    """One token per row `[rows]` among the k likeliest, by their probabilities."""
    if top_k == 1:
        return logits.argmax(-1)
    best = logits.float().topk(top_k, dim=-1)
    choice = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=random).to(logits.device)
    return best.indices.gather(1, choice)[:, 0]


def start_token(model: EditableModel) -> int:
    """The token a text begins with: the tokenizer's start token, else its end token, else token 0."""
    for token in (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def sample_texts(
    model: EditableModel,
    *,
    count: int,
    tokens: int,
    top_k: int,
    seed: int,
    opening: str = "",
    batch_size: int = 64,
) -> list[str]:
    """Texts the model writes from its start token, or from an opening.

    Args:
        model: the model.
        count: how many.
        tokens: length of each, start token and opening counted.
        top_k: see `generate`.
        seed: of the first batch; each further batch adds one.
        opening: what the texts begin with.
        batch_size: rows at a time.
    """
    start = [start_token(model), *model.tokenizer(opening, add_special_tokens=False)["input_ids"]]
    texts: list[str] = []
    for number, done in enumerate(range(0, count, batch_size)):
        rows = [start] * min(batch_size, count - done)
        added = generate(model, rows, tokens=max(0, tokens - len(start)), top_k=top_k, seed=seed + number)
        texts += [opening + text for text in model.tokenizer.batch_decode(added, skip_special_tokens=True)]
    return texts
