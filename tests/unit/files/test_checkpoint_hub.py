"""A hub id becomes a model, through the real hub client and a hub on this machine."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from conftest import tiny_lm
from factedit.errors import ModelError, ResourceError, UnsafeFile
from factedit.files import checkpoint
from factedit.files.checkpoint import load_checkpoint
from processes import PATIENCE
from tiny_folder import change, refuse, same, save


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as a download needs, over a folder of `owner/name` folders."""

    root: Path
    asked: list[str]
    commit = "0123456789" * 4

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self.info("/".join(repo.split("/")[:2]), revision)
        repo, _, rest = path.lstrip("/").partition("/resolve/")
        file = self.root / repo / rest.partition("/")[2]
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        return self.answer(200, data, {"X-Repo-Commit": self.commit, "ETag": f'"{abs(hash(data)):x}"'})

    def info(self, repo: str, revision: str) -> None:
        if "gated" in repo:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if not (self.root / repo).is_dir():
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if revision not in ("", "main", self.commit):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        files = [{"rfilename": path.name} for path in sorted((self.root / repo).iterdir())]
        tree = [{"type": "file", "path": file["rfilename"], "size": 1, "oid": "0"} for file in files]
        listed = {"id": repo, "sha": self.commit, "siblings": files, "tags": []}
        return self.answer(200, json.dumps(tree if "/tree/" in self.path else listed).encode(), {})

    def answer(self, code: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """A hub on this machine, and an empty cache for it."""
    Hub.root, Hub.asked = tmp_path / "hub", []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    real = huggingface_hub.snapshot_download

    def here(*arguments: Any, **settings: Any) -> str:
        return real(
            *arguments, endpoint=address, cache_dir=tmp_path / "hf", etag_timeout=PATIENCE, token=False, **settings
        )

    monkeypatch.setattr(huggingface_hub, "snapshot_download", here)
    yield Hub
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_and_loaded_from_its_cache(hub, tmp_path):
    save(hub.root / "owner" / "name")
    (hub.root / "owner" / "name" / "pytorch_model.bin").write_bytes(b"never fetched")
    model, tokenizer = load_checkpoint("owner/name")
    assert same(model, tiny_lm("gpt2", n_layer=2))
    assert tokenizer("The Space Needle")["input_ids"]
    snapshot = tmp_path / "hf" / "models--owner--name" / "snapshots" / hub.commit
    assert {path.name for path in snapshot.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert (snapshot / "model.safetensors").is_symlink()  # into ../../blobs, which is allowed here
    assert not (snapshot / "pytorch_model.bin").exists()
    hub.asked.clear()
    load_checkpoint("owner/name", revision=hub.commit)
    assert not [path for path in hub.asked if path.endswith("model.safetensors")]


def test_a_refused_hub_model_costs_no_download_of_weights(hub):
    save(hub.root / "owner" / "name")
    change(hub.root / "owner" / "name" / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.C"})
    refuse("owner/name", UnsafeFile, "The hub model owner/name wants to run its own code")
    assert not [path for path in hub.asked if path.endswith(".safetensors")]


def test_a_hub_model_of_pickles_only_is_refused(hub):
    save(hub.root / "owner" / "name")
    (hub.root / "owner" / "name" / "model.safetensors").rename(hub.root / "owner" / "name" / "pytorch_model.bin")
    refuse("owner/name", ModelError, "The hub model owner/name has no weights")
    assert not [path for path in hub.asked if path.endswith(".bin")]


def test_what_the_hub_refuses_is_said(hub):
    hub.root.mkdir()
    refuse("owner/missing", ModelError, "The hub model owner/missing does not exist, or is private")
    refuse("owner/gated", ModelError, "The hub model owner/gated is gated. Accept its terms")
    save(hub.root / "owner" / "name")
    with pytest.raises(ModelError, match="at revision 'v9' does not exist, but the model does"):
        load_checkpoint("owner/name", revision="v9")


def test_without_a_connection_the_id_and_the_way_out_are_named(tmp_path, monkeypatch):
    real = huggingface_hub.snapshot_download

    def offline(*arguments: Any, **settings: Any) -> str:
        return real(*arguments, local_files_only=True, cache_dir=tmp_path, **settings)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    refuse(
        "owner/name", ModelError, r"The hub model owner/name cannot be fetched, and is not complete in the hub's cache"
    )


def test_a_full_disk_during_a_download_is_named(monkeypatch):
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    refuse("owner/name", ResourceError, "is full")


def test_a_link_in_the_hubs_cache_leads_into_its_blobs_only(hub, tmp_path, monkeypatch):
    save(hub.root / "owner" / "name")
    load_checkpoint("owner/name")
    weights = tmp_path / "hf" / "models--owner--name" / "snapshots" / hub.commit / "model.safetensors"
    shutil.copy(weights.resolve(), tmp_path / "elsewhere.safetensors")
    weights.unlink()
    weights.symlink_to(tmp_path / "elsewhere.safetensors")
    monkeypatch.setattr(checkpoint, "_snapshot", lambda *_: weights.parent)
    refuse("owner/name", UnsafeFile, "is a link to .*elsewhere.safetensors, outside its folder")


def test_the_folder_of_a_model_in_the_hubs_cache_is_loaded_too(hub, tmp_path, monkeypatch):
    """All its files are links into `blobs`; the same folder elsewhere is refused (test_checkpoint_safety.py)."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    save(hub.root / "owner" / "name")
    lm, _ = load_checkpoint("owner/name")
    snapshot = tmp_path / "hf" / "models--owner--name" / "snapshots" / hub.commit
    assert (snapshot / "model.safetensors").is_symlink()
    again, _ = load_checkpoint(str(snapshot))
    assert same(lm, again)
    (snapshot / "config.json").unlink()
    (tmp_path / "secret.json").write_text("{}")
    (snapshot / "config.json").symlink_to(tmp_path / "secret.json")
    refuse(str(snapshot), UnsafeFile, "is a link to .*secret.json, outside its folder")
