"""Which of torch's attention kernels to take on a CUDA device, for rows of a few tokens after a short past.

Its kernels work in tiles of 64 or 128 queries, and a resumed row has two to twenty. For 2 800 rows of 6 after 20 on an
H200, forward and back: 6.7 ms by the memory-efficient kernel and 3.0 by plain products in float32; 4.3 by cuDNN's,
which torch prefers, and 2.9 by the memory-efficient one in bfloat16. Models with an attention of their own are not
concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

FEW = 64 * 64  # queries x keys of a row, up to which the order is ours
_ENABLED: dict[SDPBackend, Callable[[], bool]] = {
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
}


@contextmanager
def short_attention(device: torch.device, dtype: torch.dtype, queries: int, keys: int) -> Iterator[None]:
    """Inside, `scaled_dot_product_attention` tries the kernels in the order that suits such rows.

    Args:
        device: on another than CUDA nothing changes, nor for rows of more than `FEW` queries times keys.
        dtype: of the hidden states.
        queries, keys: tokens of a row.
    """
    in_float32, others = SDPBackend.MATH, [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    wanted = [SDPBackend.EFFICIENT_ATTENTION, *others, SDPBackend.MATH]
    if dtype == torch.float32:
        wanted.sort(key=lambda kernel: kernel != in_float32)
    order = [kernel for kernel in wanted if _ENABLED[kernel]()]  # what the user switched off stays off
    if device.type != "cuda" or queries * keys > FEW or not order:
        yield
        return
    with sdpa_kernel(order, set_priority=True):
        yield
