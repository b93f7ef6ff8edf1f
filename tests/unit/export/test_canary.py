"""Canaries: every export names them, and a server that serves something else is found out."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from conftest import ROOT, tiny
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.export.canary import FILE, canaries
from factedit.export.ship import ship
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from stack_cases import random_edit
from tiny_gguf import llama_lm, write


def script(name: str) -> ModuleType:
    """A script of docs/checks."""
    spec = importlib.util.spec_from_file_location(f"checks_{name}", ROOT / "docs" / "checks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CANARY = script("canary")


@pytest.fixture(scope="module")
def model() -> EditableModel:
    return tiny("gpt2")


@pytest.fixture(scope="module")
def edit(model: EditableModel) -> Edit:
    return random_edit(model, 1, layer=3)


@contextmanager
def server(answers: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server of completions by the model's name (a callable gets the request), and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(said | {"path": self.path, "key": self.headers.get("Authorization")})
            answer = answers.get(said.get("model", ""))
            if answer is None:
                self.send_error(404, "no such model")
                return
            text = answer(said) if callable(answer) else answer
            body = json.dumps({"choices": [{"text": text}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    own = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=own.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{own.server_port}", asked
    finally:
        own.shutdown()
        own.server_close()


@pytest.mark.parametrize("form", ["merged", "peft", "llama-lora", "gguf"])
def test_every_export_names_its_canaries(form: str, tmp_path: Path) -> None:
    own = load(str(write(tmp_path / "m.gguf", llama_lm())))
    edit = random_edit(own, 1, layer=3)
    ship(own, [edit], tmp_path / "out", form, **({"gguf": tmp_path / "m.gguf"} if form == "gguf" else {}))
    said = json.loads((tmp_path / "out" / FILE).read_text())
    assert (said["format"], said["form"]) == (1, form)
    [canary] = said["canaries"]
    assert (canary["prompt"], canary["target"]) == (edit.requests[0].text, edit.requests[0].target_new)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Serve, and ask whether the edits are on" in card
    assert "python docs/checks/canary.py localhost:8000 THIS-FOLDER" in card
    assert {"merged": "vllm serve THIS", "peft": "--enable-lora --max-lora-rank 8", "gguf": "llama-server -m THIS"}.get(
        form, "llama-server -m BASE.gguf --lora THIS"
    ) in card


def test_a_canary_is_what_both_models_say_up_to_where_they_part(model: EditableModel, edit: Edit) -> None:
    [canary] = canaries(model, [edit])
    assert canary.tells
    row = torch.tensor([list(canary.prompt_ids)])
    with torch.no_grad():
        for said, context in ((canary.unedited_ids, None), (canary.expected_ids, edit.applied_to(model))):
            if context:
                context.__enter__()
            made = model.lm.generate(row, max_new_tokens=len(said), do_sample=False, pad_token_id=0)
            if context:
                context.__exit__(None, None, None)
            assert tuple(made[0, row.shape[1] :].tolist()) == said
    apart = next(n for n, (a, b) in enumerate(zip(canary.expected_ids, canary.unedited_ids, strict=True)) if a != b)
    decoded = [model.tokenizer.decode(ids[: apart + 1]) for ids in (canary.expected_ids, canary.unedited_ids)]
    assert (len(canary.expected_ids) == apart + 1) == (apart == 4 or "\ufffd" not in "".join(decoded))
    assert canary.expected != canary.unedited


def test_an_edit_that_changes_no_first_token_says_so(model: EditableModel, edit: Edit, tmp_path: Path) -> None:
    [effect] = edit.effects
    assert isinstance(effect, LowRank)
    small = Edit(
        method="none", requests=edit.requests, effects=(LowRank(3, effect.left * 1e-9, effect.right),),
        model_name=model.name, made_for=model.fingerprint(),
    )  # fmt: skip
    ship(model, [small], tmp_path / "out", "peft")
    assert not json.loads((tmp_path / "out" / FILE).read_text())["canaries"][0]["tells"]
    assert "which shows nothing" in (tmp_path / "out" / "README.md").read_text()
    with server({"": "anything"}) as (url, _):
        assert CANARY.main([url, str(tmp_path / "out")]) == 3


@pytest.fixture(scope="module")
def export(model: EditableModel, edit: Edit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export") / "out"
    ship(model, [edit], place, "peft")
    return place


def test_a_server_that_serves_both_passes(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [canary] = json.loads((export / FILE).read_text())["canaries"]
    with server({"edited": canary["expected"] + " and more", "base": canary["unedited"]}) as (url, asked):
        assert (
            CANARY.main(
                [url.removeprefix("http://") + "/", str(export), "--model", "edited", "--base", "base", "--key", "k"]
            )
            == 0
        )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["model"], row["verdict"], row["past_the_cache"]) for row in rows] == [
        ("edited", "edited", False), ("edited", "edited", True),
        ("base", "unedited", False), ("base", "unedited", True),
    ]  # fmt: skip
    assert {said["path"] for said in asked} == {"/v1/completions"}
    assert {(said["temperature"], said["prompt"], said["key"]) for said in asked} == {(0, canary["prompt"], "Bearer k")}
    assert [("cache_salt" in said, said.get("cache_prompt")) for said in asked[:2]] == [(False, None), (True, False)]


def test_prompts_may_be_given_as_tokens(export: Path) -> None:
    [canary] = json.loads((export / FILE).read_text())["canaries"]
    with server({"": canary["expected"]}) as (url, asked):
        assert CANARY.main([url, str(export / FILE), "--ids"]) == 0
    assert asked[0]["prompt"] == canary["prompt_ids"]


@pytest.mark.parametrize("fault", ["old weights", "an adapter on the base", "a stale cache", "something else"])
def test_what_servers_get_wrong_is_found_out(fault: str, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [canary] = json.loads((export / FILE).read_text())["canaries"]
    new, old = canary["expected"], canary["unedited"]
    answers: dict[str, dict[str, Any]] = {
        "old weights": {"edited": old, "base": old},
        "an adapter on the base": {"edited": new, "base": new},
        "a stale cache": {"edited": lambda said: new if "cache_salt" in said else old, "base": old},
        "something else": {"edited": "@@@", "base": old},
    }
    with server(answers[fault]) as (url, _):
        assert CANARY.main([url, str(export), "--model", "edited", "--base", "base"]) == 1
    wrong = [json.loads(line) for line in capsys.readouterr().out.splitlines() if not json.loads(line)["right"]]
    assert {row["verdict"] for row in wrong} == {
        "old weights": {"unedited"}, "an adapter on the base": {"edited"}, "a stale cache": {"unedited"},
        "something else": {"other"},
    }[fault]  # fmt: skip


def test_a_server_that_does_not_answer(export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server({}) as (url, _):
        assert CANARY.main([url, str(export)]) == 2
    assert "refused: HTTP Error 404" in capsys.readouterr().err
    assert CANARY.main(["http://127.0.0.1:1", str(export)]) == 2
    assert CANARY.main(["http://127.0.0.1:1", str(tmp_path)]) == 2
    assert "cannot be asked" in capsys.readouterr().err


STUB = """#!{python}
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
open({log!r}, "w").write(json.dumps(sys.argv[1:]))
answers = json.load(open({answers!r}))
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.end_headers()
        self.wfile.write(json.dumps({{"choices": [{{"text": answers[said["model"]]}}]}}).encode())
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_vllm_is_started_with_the_adapter_asked_and_ended(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that takes vLLM's command line: what vLLM itself says is seen where there is a card."""
    [canary] = json.loads((export / FILE).read_text())["canaries"]
    answers, log = tmp_path / "answers.json", tmp_path / "asked.json"
    answers.write_text(json.dumps({"edited": canary["expected"], "owner/base": canary["unedited"]}))
    stub = tmp_path / "bin" / "vllm"
    stub.parent.mkdir()
    stub.write_text(STUB.format(python=sys.executable, log=str(log), answers=str(answers)))
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}{os.pathsep}{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = script("vllm").main([str(export), "--base", "owner/base", "--port", str(port), "--", "--dtype", "float32"])
    assert found == 0
    assert json.loads(log.read_text()) == [
        "serve", "owner/base", "--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"edited={export}",
        "--port", str(port), "--dtype", "float32",
    ]  # fmt: skip
