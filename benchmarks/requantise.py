"""What quantising anew keeps of a change, by kind and by the size of the change; no model is needed.

    PYTHONPATH=src:tests python benchmarks/requantise.py

For every kind a matrix of normal numbers `[64, 512]` (standard deviation 0.02) is quantised, a change of rank one (keys
of a heavy tail, values normal) of 1, 3 and 10 % of its norm is added, and the sum quantised anew on what is stored.
Printed are, in percent, the share of the change that is kept, the distance of what is stored from it, and that
distance after the key itself; means of five seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

import quantised_cases
from factedit.files.checkpoint_weights import StoredTensor
from factedit.files.gguf_quants import encode
from factedit.files.quantised.table import kind_of
from factedit.files.save import KINDS

SIZES, SEEDS, SHAPE = (0.01, 0.03, 0.1), 5, (64, 512)
FOLDERS = (
    "bitsandbytes-int8", "bitsandbytes-nf4", "gptq-4", "gptq-3", "awq", "fp8", "compressed-int4", "compressed-nvfp4",
    "compressed-mxfp4",
)  # fmt: skip
FILES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_NL", "MXFP4")
Again = Callable[[torch.Tensor], torch.Tensor]


def change(weight: torch.Tensor, size: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A change of rank one of a size, and its key."""
    key = torch.randn(weight.shape[1]) * torch.exp(0.8 * torch.randn(weight.shape[1]))
    delta = torch.outer(torch.randn(weight.shape[0]), key)
    return delta * (size * weight.norm() / delta.norm()), key / key.norm()


def of_folder(case: str, weight: torch.Tensor) -> tuple[torch.Tensor, Again]:
    """The values of a quantised matrix, and what another one becomes in its place."""
    quantise, said = quantised_cases.CASES[case]
    tensors = {f"m.{end}": own for end, own in quantise(weight)[0].items()}
    headers = {name: StoredTensor("f", KINDS[own.dtype], tuple(own.shape)) for name, own in tensors.items()}
    kind = kind_of(said, case)
    [packed] = kind.find(said, headers, tensors.__getitem__).values()
    parts = {role: tensors[name] for role, name in packed.parts.items()}
    return kind.read(packed, parts), lambda new: kind.read(packed, kind.write(packed, parts, new))


def of_file(name: str, weight: torch.Tensor) -> tuple[torch.Tensor, Again]:
    """The same for a kind of .gguf files."""
    kind = GGMLQuantizationType[name]
    count, size = GGML_QUANT_SIZES[kind]
    blocks = encode(name, np.zeros((weight.numel() // count, size), dtype=np.uint8), weight.numpy().reshape(-1, count))

    def values(stored: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(dequantize(stored.reshape(1, -1), kind).reshape(weight.shape).copy())

    return values(blocks), lambda new: values(encode(name, blocks, new.numpy().reshape(-1, count)))


def main() -> None:
    """See the top of the file."""
    quantised_cases.GROUP = 128
    print("| kind | " + " | ".join(f"{100 * size:.0f} %" for size in SIZES) + " |")
    print("|---" * (1 + len(SIZES)) + "|")
    for name in (*FOLDERS, *FILES):
        cells = []
        for size in SIZES:
            found = []
            for seed in range(SEEDS):
                torch.manual_seed(seed)
                make = of_folder if name in FOLDERS else of_file
                before, again = make(name, 0.02 * torch.randn(*SHAPE))
                delta, key = change(before, size)
                stored = again(before + delta) - before
                off = stored - delta
                kept = (stored * delta).sum() / delta.square().sum()
                found.append([kept, off.norm() / delta.norm(), (off @ key).norm() / (delta @ key).norm()])
            cells.append(", ".join(f"{100 * value:.0f}" for value in torch.tensor(found).mean(0)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
