"""What keeping, undoing and shipping an edit costs, and how exactly each form holds it.

    python benchmarks/keep.py EDIT --model gemma3-270m --json FILE

EDIT is a folder that `factedit edit` wrote for that model. Times are after loading; nothing is asserted.
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

from factedit.edit.artefact import Edit
from factedit.export.gguf_patch import patch_gguf
from factedit.export.ship import ship
from factedit.files.embedded import EMBEDDED, packaged_file
from factedit.models.load import load
from factedit.stack.check import verify
from factedit.stack.work import apply, revert


def timed(rows: dict[str, Any], name: str, action: Callable[[], object]) -> None:
    """Run, and note seconds and seconds of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    rows[name] = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - cpu}
    print(name, rows[name], flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edit", type=Path)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    torch.set_num_threads(said.threads)
    edit, model, rows = Edit.load(said.edit), load(said.model), {}
    model.fingerprint()  # the weights are mapped from the disk: read them once
    place = Path(tempfile.mkdtemp())
    try:
        timed(rows, "apply to a new folder", lambda: apply(model, [edit], place / "m"))
        timed(rows, "verify", lambda: verify(place / "m"))
        timed(rows, "revert", lambda: revert(place / "m", edit))
        timed(rows, "apply in place", lambda: apply(place / "m", [edit]))
        revert(place / "m")
        rows["undone to the bit"] = load(str(place / "m")).fingerprint() == model.fingerprint()
        if said.model in EMBEDDED:
            file = packaged_file(EMBEDDED[said.model])
            timed(rows, "GGUF copy", lambda: (place / "copy").write_bytes(file.data))
            timed(rows, "GGUF patch, F16", lambda: patch_gguf(file, model, [edit], place / "p", store_as="F16"))
        forms = [("merged", None), ("peft", None), ("llama-lora", None)]
        forms += [("gguf", kind) for kind in ("F32", "F16", "BF16", "Q8_0")] if said.model in EMBEDDED else []
        for form, kind in forms:
            shipped = ship(model, [edit], place / "out", form, store_as=kind, overwrite=True)
            rows[f"{form} {kind or ''}".strip()] = shipped.as_json()
            print(form, kind, json.dumps(shipped.as_json()), flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    rows["bytes of the artefact"] = sum(path.stat().st_size for path in said.edit.iterdir())
    if said.json:
        said.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
