"""How an export is served, and asked whether the edits are on: the card's lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from factedit.export.canary import FILE, Canary
from factedit.export.lora import CONFIG
from factedit.export.naming import is_hub_id

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM's --max-lora-rank takes
CHECK = "docs/checks/canary.py"


def commands(form: str, base: str, folder: Path) -> list[str]:
    """Return the command that serves an export, and the one that asks its canaries.

    Args:
        form: of the export.
        base: the base model, as others find it.
        folder: with the export's files.
    """
    source = shlex.quote(base) if is_hub_id(base) else "BASE"
    port, ask = 8000, f"python {CHECK} localhost:8000"
    if form == "peft":
        r = int(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["r"])
        rank = next((size for size in RANKS if size >= r), r)
        serve = f"vllm serve {source} --enable-lora --max-lora-rank {rank} --lora-modules edited=THIS-FOLDER"
        return [serve, f"{ask} THIS-FOLDER --model edited --base {source}"]
    if form == "merged":
        return ["vllm serve THIS-FOLDER --served-model-name edited", f"{ask} THIS-FOLDER --model edited"]
    given = "-m THIS-FOLDER/model.gguf" if form == "gguf" else "-m BASE.gguf --lora THIS-FOLDER/adapter.gguf"
    return [f"llama-server {given} --port {port}", f"{ask} THIS-FOLDER"]


def commands_told(card: str) -> list[str]:
    """Return the commands that stand in a card's section on serving."""
    _, _, rest = card.partition("## Serve")
    return rest.partition("```bash")[2].partition("```")[0].strip().splitlines()


def section(form: str, base: str, folder: Path, chosen: Sequence[Canary], plain: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a card on serving.

    Args:
        form: of the export.
        base: the base model, as others find it.
        folder: with the export's files.
        chosen: the canaries.
        plain: prompt, edited and unedited continuation of each, as the card may show them.
    """
    apart = any(canary.tells for canary in chosen)
    ask = (
        "Servers may keep old weights or answers without a word. Ask these prompts after loading (temperature 0)"
        if apart
        else "The first tokens after the edited prompt are the same with the edits and without, which shows nothing"
    )
    return [
        "## Serve, and ask whether the edits are on",
        "",
        "```bash",
        *commands(form, base, folder),
        "```",
        "",
        f"{ask}. `{FILE}` holds them, with their tokens.",
        "",
        "| prompt | edited | unedited |",
        "|---|---|---|",
        *(f"| {prompt} | {edited} | {unedited} |" for prompt, edited, unedited in plain),
        "",
    ]
