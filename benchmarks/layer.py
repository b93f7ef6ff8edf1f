"""A plan of a model that no machine here holds, checked against one real layer of it: Llama's 70 B shape.

python benchmarks/layer.py [--tokens 128] [--threads 1] [--folder /tmp/layer] [--out FILE.json]
python benchmarks/layer.py --small                the same with a layer of 3 MB

What `--dry-run` counts for tokens through one of 80 layers, there and back, stands beside what one layer of random
weights (float32, 3.4 GB) takes: multiply-adds by torch's own counter (which leaves out attention's on a processor),
bytes as they are read from disk, and seconds, of the layer and at the rates that the plan measures on this machine. The
plan of a whole trace and edit is told, too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stream import write_llama
from torch.utils.flop_counter import FlopCounterMode

from factedit.engine import head, products
from factedit.engine.cost import ModelShape
from factedit.engine.products import own_products
from factedit.engine.resume import Segment
from factedit.facts import EditRequest
from factedit.memory import PeakMemory, require_memory
from factedit.models.load import load
from factedit.models.outline import outline
from factedit.models.streamed import StreamedModel
from factedit.work.dry_run import dry_edit, dry_trace
from factedit.work.machines import this_machine

SHAPE = {"d_model": 8192, "d_mlp": 28_672, "heads": 64, "kv_heads": 8}
SMALL = {"d_model": 256, "d_mlp": 896, "heads": 8, "kv_heads": 1}
LAYERS, REPEATS = 80, 3


class Layer:
    """One layer in memory, and tokens that pass it.

    Args:
        model: streamed, of that layer.
        tokens: how many.
    """

    def __init__(self, model: StreamedModel, tokens: int) -> None:
        self.model = model
        self.segment = Segment(model, torch.ones(1, tokens, dtype=torch.bool))
        self.hidden = torch.randn(1, tokens, model.d_model, generator=torch.Generator().manual_seed(0))

    def there(self, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """What comes out of the layer."""
        with self.model.present(0), own_products(self.model, range(1)):
            return self.segment.one(0, self.hidden if hidden is None else hidden, keep=False)

    def there_and_back(self) -> None:
        """The same, and the gradient by what goes in."""
        self.there(self.hidden.clone().requires_grad_()).sum().backward()


def seconds(work: Callable[[], object]) -> float:
    """The shortest of some times, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def counted(work: Callable[[], object]) -> int:
    """Multiply-adds, times two, by torch's counter, which does not know oneDNN's products."""
    kept = head.has_onednn, products.has_onednn
    head.has_onednn = products.has_onednn = lambda _weight: False
    try:
        with FlopCounterMode(display=False) as counter:
            work()
        return int(counter.get_total_flops())
    finally:
        head.has_onednn, products.has_onednn = kept


def measure(folder: Path, shape: dict[str, int], tokens: int) -> dict[str, Any]:
    """The plan's share of a layer beside the layer."""
    write_llama(folder / "one", n_layer=1, **shape)
    write_outline(folder / "whole")
    whole = outline(str(folder / "whole"))
    sizes = ModelShape.of(whole)
    planned = {"there": sizes.forward(tokens, tokens, 1), "back": sizes.backward(tokens, tokens, 1)}
    machine = this_machine(sizes, torch.device("cpu"), torch.float32)
    with PeakMemory() as peak:
        model = load(str(folder / "one"), stream=True)
        assert isinstance(model, StreamedModel)
        model.let_go()
        before, began = model.files.bytes_read, time.perf_counter()
        with model.present(0):
            read = {"bytes": model.files.bytes_read - before, "seconds": time.perf_counter() - began}
        layer = Layer(model, tokens)
        with torch.no_grad():
            there = {"flops": counted(layer.there), "seconds": seconds(layer.there)}
        both = {"flops": counted(layer.there_and_back), "seconds": seconds(layer.there_and_back)}
    real = {"there": there, "back": {name: both[name] - there[name] for name in there}}
    rows = {}
    for way, work in planned.items():
        plan = {"flops": work.flops, "seconds": machine.seconds(work)}
        over = {f"{name}_over_plan": real[way][name] / plan[name] for name in plan}
        rows[way] = {**{f"planned_{name}": value for name, value in plan.items()}, **real[way], **over}
    size = sizes.stored * sizes.bytes_each
    edit = EditRequest(subject="w1 w2", prompt="{} w3 w4", target_new="w5")
    plans = (dry_trace(whole, "w1 w2 w3 w4 w5", "w1 w2", here=machine),
             dry_edit(whole, "rome", [edit], {}, ready=True, here=machine))  # fmt: skip
    return {
        "tokens": tokens, "threads": torch.get_num_threads(), **shape, "peak_mb": peak.mb, **rows,
        "read": {"planned_bytes": size, **read, "bytes_over_plan": read["bytes"] / size},
        "machine": {"gflops": machine.flops / 1e9, "gb_s": machine.bandwidth / 1e9},
        "whole": {plan.command: {"tflop": plan.work.flops / 1e12, "weights_gb": plan.weights / 1e9,
                                 "hours_here": plan.times[0].seconds / 3600} for plan in plans},
    }  # fmt: skip


def write_outline(folder: Path) -> None:
    """The whole model's configuration and tokenizer, which is all that a plan reads."""
    shutil.copytree(folder.parent / "one", folder, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    config = folder / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "num_hidden_layers": LAYERS, "vocab_size": 128_256})
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the layer is written meanwhile")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    shape = SMALL if asked.small else SHAPE
    if not asked.small:
        require_memory("A layer of 3.4 GB, and room beside it,", 9e9, "Free some, or take --small.")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        result = measure(Path(name), shape, asked.tokens)
    print(json.dumps(result, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
