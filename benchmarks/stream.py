"""A model larger than memory, as far as one machine shows it: random weights on disk, streamed.

python benchmarks/stream.py --gigabytes 8 --folder /tmp/random8 [--jobs trace,edit,stats] [--out FILE.json]
python benchmarks/stream.py --small               a dry run on a model of 20 MB

Makes a Llama-like model of that size in float32 (kept for the next run), then runs every job in a process of its own:
a trace, one edit, 32 edits at once, second moments, and a made-up edit put on (`apply`) and shipped merged (`ship`).
Per job: seconds, the kernel's peak of resident memory (VmHWM), and bytes read over passes times weights of the layers,
the passes counted as the engine's layers are asked for. Overlap is the share of the reading's seconds that nobody
waited for, since a layer computed meanwhile. What was read leaves the system's cache of files at once, as it would of a
model that memory cannot hold: every pass comes from the disk. Edits need C: a random one, whose values do not matter.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

D_MODEL, VOCAB = 2048, 8192
MLP = 3  # times as wide
FACTS = 32
STEPS, SAMPLES = 3, 3  # of edits and traces: passes are what counts here, and do not get cheaper with fewer


def make(folder: Path, gigabytes: float) -> None:
    """Write a model of that size."""
    d_model = 256 if gigabytes < 1 else D_MODEL
    d_mlp, layer = MLP * d_model, (4 + 3 * MLP) * d_model**2
    n_layer = max(4, round(gigabytes * 1e9 / 4 / layer))
    write_llama(folder, d_model=d_model, d_mlp=d_mlp, n_layer=n_layer, heads=16, kv_heads=16)


def write_llama(folder: Path, *, d_model: int, d_mlp: int, n_layer: int, heads: int, kv_heads: int) -> None:
    """Write a Llama-like model of random weights, one layer a shard, each made and forgotten."""
    from shapes import words_tokenizer
    from transformers import LlamaConfig

    folder.mkdir(parents=True)
    config = LlamaConfig(
        hidden_size=d_model, intermediate_size=d_mlp, num_hidden_layers=n_layer, vocab_size=VOCAB,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=2048, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    index: dict[str, str] = {}
    draw = torch.Generator().manual_seed(0)

    def write(number: int, shapes: dict[str, tuple[int, ...]]) -> None:
        shard = f"model-{number:05d}-of-{n_layer + 1:05d}.safetensors"
        values = {
            name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=draw) / shape[1] ** 0.5
            for name, shape in shapes.items()
        }
        save_file(values, folder / shard, metadata={"format": "pt"})
        index.update(dict.fromkeys(shapes, shard))

    write(1, {"model.embed_tokens.weight": (VOCAB, d_model), "model.norm.weight": (d_model,)})
    narrow, wide, high = (d_model // heads * kv_heads, d_model), (d_mlp, d_model), (d_model, d_mlp)
    for n in range(n_layer):
        own = {f"self_attn.{which}_proj.weight": (d_model, d_model) if which in "qo" else narrow for which in "qkvo"}
        own |= {"mlp.gate_proj.weight": wide, "mlp.up_proj.weight": wide, "mlp.down_proj.weight": high}
        own |= {"input_layernorm.weight": (d_model,), "post_attention_layernorm.weight": (d_model,)}
        write(n + 2, {f"model.layers.{n}.{name}": shape for name, shape in own.items()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


class Clock:
    """Seconds of reading layers and of waiting for them, and the layers that were asked for.

    Args:
        model: a `StreamedModel`; what it reads leaves the cache of files.
        folder: of its files.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self.asked = 0
        self.reading = self.waited = 0.0
        self._shards = [os.open(path, os.O_RDONLY) for path in folder.glob("*.safetensors")]
        self._held, self._hold, self._layer = (lambda: model._held), model._hold, model._layer
        model._hold, model._layer = self.hold, self.layer
        self.cold()

    def cold(self) -> None:
        """Take the files out of the cache."""
        for shard in self._shards:
            os.posix_fadvise(shard, 0, 0, os.POSIX_FADV_DONTNEED)

    def hold(self, layer: int) -> None:
        self.asked += self._held() != layer
        began = time.perf_counter()
        self._hold(layer)
        self.waited += time.perf_counter() - began

    def layer(self, layer: int) -> Any:
        began = time.perf_counter()
        found = self._layer(layer)
        self.reading += time.perf_counter() - began
        self.cold()
        return found


def run(job: str, folder: Path) -> dict[str, Any]:
    """Run one job on the streamed model, and tell what it took."""
    from shapes import records

    from factedit.edit.artefact import Edit
    from factedit.edit.effects.low_rank import LowRank
    from factedit.edit.method_table import make_method
    from factedit.export.ship import ship
    from factedit.memory import PeakMemory
    from factedit.models.load import load
    from factedit.models.streamed import StreamedModel
    from factedit.stack.work import apply
    from factedit.stats.collect import collect
    from factedit.stats.second_moment import SecondMoment
    from factedit.trace.sweep import trace_fact

    model = load(str(folder), stream=True)
    assert isinstance(model, StreamedModel)
    aside = Path(tempfile.mkdtemp(dir=folder.parent))
    facts = [record.request for record in records(FACTS)]
    eye = lambda m, _l: SecondMoment(torch.eye(m.d_mlp))  # noqa: E731
    contexts = ["w1 w2 w3 w4 . {}", "w5 w6 w7 w8 w9 w10 . {}"]

    def edits(count: int) -> None:
        name = "rome" if count == 1 else "rome-joint"
        settings = {"steps": STEPS, "stop_loss": 0.0, "layer": model.n_layer // 3, "context_templates": contexts}
        make_method(name, model, eye, **settings).edit(facts[:count])

    rows = [[5 + (7 * n + i) % 300 for i in range(256)] for n in range(16)]
    jobs = {
        "trace": lambda: trace_fact(model, facts[0].text, facts[0].subject, noise=0.1, samples=SAMPLES),
        "edit": lambda: edits(1),
        "edits": lambda: edits(FACTS),
        "stats": lambda: collect(model, [model.n_layer // 3], rows, tokens=4096),
    }
    fingerprint = model.fingerprint()  # which edits name; a pass of its own
    change = LowRank(model.n_layer // 3, torch.randn(model.d_mlp, 1), torch.randn(1, model.d_model))
    made = [Edit(method="random", requests=tuple(facts[:1]), effects=(change,), model_name="", made_for=fingerprint)]
    jobs |= {
        "apply": lambda: apply(model, made, aside / "apply"),
        "ship": lambda: ship(model, made, aside / "ship", "merged"),
    }
    clock = Clock(model, folder)
    before, began = model.files.bytes_read, time.perf_counter()
    with PeakMemory() as peak:
        jobs[job]()
    took, read = time.perf_counter() - began, model.files.bytes_read - before
    shutil.rmtree(aside)
    visits = clock.asked * model.pass_bytes / model.n_layer
    return {
        "job": job, "seconds": took, "peak_mb": peak.mb, "bytes_read": read, "passes": clock.asked / model.n_layer,
        "read_over_weights": read / model.pass_bytes, "read_over_passes": read / visits if visits else None,
        "reading_seconds": clock.reading, "waited_seconds": clock.waited,
        "overlap": 1 - clock.waited / clock.reading if clock.reading else None,
        "gigabytes": model.pass_bytes / 1e9, "layers": model.n_layer, "d_model": model.d_model, "d_mlp": model.d_mlp,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/factedit-stream"))
    parser.add_argument("--jobs", default="trace,edit,edits,stats,apply,ship")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    folder = asked.folder / ("small" if asked.small else f"{asked.gigabytes:g}GB")
    if asked.one:
        print(json.dumps(run(asked.one, folder)))
        return
    if not folder.exists():
        make(folder, 0.02 if asked.small else asked.gigabytes)
    rows = []
    for job in asked.jobs.split(","):
        command = [sys.executable, __file__, "--one", job, "--folder", str(asked.folder)]
        command += ["--threads", str(asked.threads), "--gigabytes", str(asked.gigabytes)]
        done = subprocess.run(command + ["--small"] * asked.small, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
        if asked.out:  # after every job: an interrupted run keeps what it measured
            asked.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
