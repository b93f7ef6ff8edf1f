"""Five ways through the house: the files whose functions each calls, in the order of their first call.

    python docs/ways.py

Measured on a tiny random model, the second time round, so that nothing is counted that only an import runs. Figures
of `docs/decisions/0016-the-house-in-figures.md`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import factedit  # noqa: E402
from conftest import tiny_lm, tiny_tokenizer  # noqa: E402
from factedit.edit.key import sample_contexts  # noqa: E402
from factedit.edit.value_rows import RowBatch, own_rows, request_rows, stems_of  # noqa: E402
from factedit.engine.resume import Segment, align  # noqa: E402
from factedit.facts import EditRequest  # noqa: E402
from factedit.models.adapter import EditableModel  # noqa: E402
from factedit.stats.second_moment import SecondMoment  # noqa: E402
from factedit.stats.store import write_moment  # noqa: E402
from run_command import ok  # noqa: E402

PACKAGE = Path(factedit.__file__).parent


def files_of(work: Callable[[], object]) -> list[str]:
    """The package's files that a call passes."""
    found: dict[str, None] = {}

    def note(frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(PACKAGE)) and frame.f_code.co_name != "<module>":
            found[str(Path(path).relative_to(PACKAGE))] = None

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return list(found)


def ways(folder: Path, turn: int) -> dict[str, Callable[[], object]]:
    """The five, by name."""
    model = EditableModel(tiny_lm("gpt2"), tiny_tokenizer())
    request = EditRequest(subject="Paris", prompt="{} is in", target_new="football")
    hidden, mask = torch.randn(1, 4, model.d_model), align([[5, 9, 20, 41]]).mask
    moment, tiny = folder / "c.safetensors", folder / "tiny"

    def key() -> object:
        rows = request_rows(model, 0, request, sample_contexts(model, ((2, 3),), seed=0))
        return own_rows([RowBatch(model, 1, rows, stems_of(model, rows))], 0)[0].mean(0)

    return {
        "request → artefact": lambda: ok(
            "edit", tiny, "--subject", "Paris", "--prompt", "{} is in", "--target", "football", "--layer", 1,
            "--steps", 2, "--contexts", folder / "contexts.json", "--second-moment", moment, "--threads", 1,
            "--out", folder / f"edit {turn}",
        ),
        "record → row": lambda: ok(
            "evaluate", tiny, "--dataset", folder / "set.json", "--split", "all", "--method", "ft", "--threads", 1,
            "--out", folder / f"runs {turn}",
        ),
        "prompt → figure": lambda: ok(
            "trace", tiny, "Paris is in", "--subject", "Paris", "--kind", "hidden", "--samples", 2, "--noise", "0.5",
            "--threads", 1, "--plot", folder / "figure.png",
        ),
        "hidden state → resumed state": lambda: Segment(model, mask).run(hidden, range(2, model.n_layer)),
        "text → k*": key,
    }  # fmt: skip


def main() -> None:
    """Print the files of each way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FACTEDIT_CACHE"] = str(folder / "cache")
        tiny_lm("gpt2").save_pretrained(folder / "tiny")
        tiny_tokenizer().save_pretrained(folder / "tiny")
        write_moment(folder / "c.safetensors", SecondMoment(torch.eye(128)))
        (folder / "contexts.json").write_text(json.dumps(["{}", "So. {}"]))
        rewrite = {"prompt": "{} is in", "subject": "Paris", "target_new": {"str": "football"},
                   "target_true": {"str": "Seattle"}}  # fmt: skip
        record = {"case_id": 0, "requested_rewrite": rewrite, "paraphrase_prompts": ["So Paris is in"],
                  "neighborhood_prompts": ["Basketball is in"]}  # fmt: skip
        (folder / "set.json").write_text(json.dumps([record]))
        for work in ways(folder, 0).values():
            work()
        for way, work in ways(folder, 1).items():
            files = files_of(work)
            rooms = dict.fromkeys(file.split("/")[0].removesuffix(".py") for file in files)
            print(f"{way}: {len(files)} files in {len(rooms)} rooms\n    {', '.join(files)}")


if __name__ == "__main__":
    main()
