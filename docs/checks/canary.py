"""Ask a server whether the edits of an export are on: the export's canaries, against an OpenAI-compatible endpoint.

    python docs/checks/canary.py localhost:8000 EXPORT [--model edited] [--base BASE] [--ids] [--key KEY]

Every canary is asked twice, the second time past the server's cache of prompts. Printed is one line of JSON per answer,
with a verdict: `edited`, `unedited` (old weights, an adapter that is not on), `other`, `silent` (the canary tells
nothing). The exit code is 0 where every answer is as it must be: edited of the model, unedited of the base.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

FILE = "factedit-canary.json"


def ask(url: str, model: str, canary: dict[str, Any], *, ids: bool, fresh: bool, key: str = "") -> str:
    """What a server says after a canary's prompt, greedily."""
    asked: dict[str, Any] = {
        "prompt": canary["prompt_ids"] if ids else canary["prompt"],
        "max_tokens": max(len(canary["expected_ids"]), len(canary["unedited_ids"])),
        "temperature": 0,
        "top_p": 1,
        "seed": 0,
    }
    if model:
        asked["model"] = model
    if fresh:  # vLLM's way past its cache of prompts, and llama.cpp's
        asked |= {"cache_salt": uuid.uuid4().hex, "cache_prompt": False}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return str(json.loads(reply.read())["choices"][0]["text"])


def verdict(canary: dict[str, Any], said: str) -> str:
    """Whose answer it is."""
    if not canary["tells"]:
        return "silent"
    text = said.lstrip()
    fits = {name: text.startswith(canary[name].lstrip()) for name in ("expected", "unedited")}
    if fits["expected"] and fits["unedited"]:  # one begins with the other
        longer = max(("expected", "unedited"), key=lambda name: len(canary[name]))
        return "edited" if longer == "expected" else "unedited"
    return "edited" if fits["expected"] else "unedited" if fits["unedited"] else "other"


def check(url: str, export: Path, *, model: str = "", base: str = "", ids: bool = False, key: str = "") -> list[dict]:
    """Every answer with its verdict and whether it is the right one.

    Args:
        url: of the server.
        export: a folder that `factedit ship` wrote, or its file of canaries.
        model: how the server names the edited model; empty where it serves one alone.
        base: how it names the unedited one, where it serves that too.
        ids: give the prompts as tokens.
        key: for the server.
    """
    url = url if "://" in url else f"http://{url}"
    file = export / FILE if export.is_dir() else export
    rows = []
    for canary in json.loads(file.read_text(encoding="utf-8"))["canaries"]:
        for name, right in ((model, "edited"), *(((base, "unedited"),) if base else ())):
            for fresh in (False, True):
                said = ask(url, name, canary, ids=ids, fresh=fresh, key=key)
                found = verdict(canary, said)
                row = {"model": name, "prompt": canary["prompt"], "said": said, "past_the_cache": fresh}
                rows.append(row | {"verdict": found, "right": found in (right, "silent")})
    return rows


def main(arguments: list[str] | None = None) -> int:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("export", type=Path)
    parser.add_argument("--model", default="")
    parser.add_argument("--base", default="")
    parser.add_argument("--ids", action="store_true")
    parser.add_argument("--key", default="")
    own = parser.parse_args(arguments)
    try:
        rows = check(own.url, own.export, model=own.model, base=own.base, ids=own.ids, key=own.key)
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"{own.url} refused: {error} {error.read().decode('utf-8', 'replace')[:300]}\n")
        return 2
    except (OSError, ValueError, KeyError, IndexError) as error:
        sys.stderr.write(f"{own.url} with {own.export} cannot be asked: {type(error).__name__}: {error}\n")
        return 2
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    if all(row["verdict"] == "silent" for row in rows):
        sys.stderr.write("No canary tells the edited model from the unedited one; ask something else.\n")
        return 3
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
