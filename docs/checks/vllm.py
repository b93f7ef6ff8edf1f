"""Serve an export with vLLM and ask its canaries: needs vLLM, and a card for all but the smallest models.

    pip install vllm
    python docs/checks/vllm.py EXPORT [--base BASE] [--port 8000] [-- --gpu-memory-utilization 0.5 …]

A `peft` export is served as an adapter beside its base, and both are asked: the adapter must answer as edited, the base
as unedited. A `merged` one (or a folder of `factedit apply`, with the canary of an export of the same edits) is served
alone. What follows `--` goes to vLLM. The exit code is that of canary.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import canary

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes
WAIT = 900  # seconds for loading


def command(export: Path, base: str, port: int, further: list[str]) -> list[str]:
    """The command that serves an export under the name `edited`."""
    serve = ["vllm", "serve"]
    if (export / "adapter_config.json").is_file():
        said = json.loads((export / "adapter_config.json").read_text(encoding="utf-8"))
        rank = next((size for size in RANKS if size >= said["r"]), said["r"])
        own = base or said["base_model_name_or_path"]
        serve += [own, "--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"edited={export}"]
    else:
        serve += [str(export), "--served-model-name", "edited"]
    return [*serve, "--port", str(port), *further]


def wait(url: str, server: subprocess.Popen[bytes], seconds: float = WAIT) -> None:
    """Wait until a server answers; it may end before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise SystemExit(f"The server ended with {server.returncode} before it answered.")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"The server did not answer within {seconds:.0f} s.")


def main(arguments: list[str] | None = None) -> int:
    """See the top of the file."""
    given = sys.argv[1:] if arguments is None else arguments
    at = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--base", default="")
    parser.add_argument("--port", type=int, default=8000)
    own = parser.parse_args(given[:at])
    line, url = command(own.export, own.base, own.port, given[at + 1 :]), f"http://127.0.0.1:{own.port}"
    base = line[2] if "--enable-lora" in line else ""
    server = subprocess.Popen(line)
    try:
        wait(url, server)
        return canary.main([url, str(own.export), "--model", "edited", *(["--base", base] if base else [])])
    finally:
        server.terminate()
        server.wait(timeout=60)


if __name__ == "__main__":
    raise SystemExit(main())
