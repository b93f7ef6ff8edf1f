"""Which of torch's attention kernels to take on a CUDA device, for rows of a few tokens after a short past.

Its kernels work in tiles of 64 or 128 queries, and a resumed row has two to twenty. For 2 800 rows of 6 after 20 on an
H200, forward and back: 6.7 ms by the memory-efficient kernel and 3.0 by plain products in float32; 4.3 by cuDNN's,
which torch prefers, and 2.9 by the memory-efficient one in bfloat16. Models with an attention of their own are not
concerned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

FEW = 64 * 64  # queries x keys of a row, up to which plain products are taken in float32


@contextmanager
def short_attention(device: torch.device, dtype: torch.dtype, queries: int, keys: int) -> Iterator[None]:
    """Inside, `scaled_dot_product_attention` tries the kernels in the order that suits such rows.

    Args:
        device: on another than CUDA nothing changes.
        dtype: of the hidden states.
        queries, keys: tokens of a row.
    """
    if device.type != "cuda":
        yield
        return
    order = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
    if dtype == torch.float32 and queries * keys <= FEW:
        order = [SDPBackend.MATH]
    with sdpa_kernel(order, set_priority=True):
        yield
