"""Facts that get in each other's way: keys that are nearly one."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 0.99  # cosine above which two keys count as one


def near_keys(keys: Tensor, earlier: Tensor, *, bound: float = NEAR) -> tuple[list[list[int]], list[list[int]]]:
    """Return pairs of facts with nearly the same key, which a solve can only give the mean of what they ask for.

    Two facts about one subject at one place of the text are such a pair, whatever their relations.

    Args:
        keys: of a batch, `[n, d_mlp]`.
        earlier: of the facts before it, `[N, d_mlp]`.
        bound: the cosine above which a pair counts.

    Returns:
        Pairs within the batch, and pairs of a fact of the batch and one before it.
    """
    batch, before = (torch.nn.functional.normalize(k.double(), dim=1) for k in (keys, earlier.to(keys)))
    within = (batch @ batch.T).triu(diagonal=1) > bound
    across = batch @ before.T > bound
    return within.nonzero().tolist(), across.nonzero().tolist()
