"""Starting the server: this machine alone, one port, folders that hold something."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from factedit.errors import DataError, ModelError, ResourceError, UnknownName, UsageError
from factedit.stack.ledger import LEDGER
from factedit.stack.names import OWN
from factedit.web.guard import Keys
from factedit.web.serve import ServerSettings, _address, check_settings, hosts_of, listen
from processes import PATIENCE
from run_command import refused
from tiny_folder import save


def test_loopback_is_the_default_and_needs_no_word() -> None:
    assert check_settings(ServerSettings("owner/name")) == ""
    with listen(ServerSettings("tiny", port=0)) as found:
        assert found.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "localhost.example"])
def test_another_host_is_refused_without_agreement_and_warned_of_with_it(host: str) -> None:
    with pytest.raises(UsageError, match="--open-to-others"):
        check_settings(ServerSettings("owner/name", host=host))
    assert "not encrypted" in check_settings(ServerSettings("owner/name", host=host, open_to_others=True))


@pytest.mark.parametrize(("host", "name"), [("fe80::7", "[fe80::7]"), ("::", "127.0.0.1"), ("box.lan", "box.lan")])
def test_the_address_is_one_that_a_browser_takes(host: str, name: str) -> None:
    """A browser writes a host of IPv6 in brackets, in the address and in what it sends."""
    keys = Keys(hosts_of(host, 8000), 8000)
    assert _address(host, keys) == f"http://{name}:8000/?token={keys.token}"
    assert f"{name}:8000" in keys.hosts
    assert "127.0.0.1:8000" in keys.hosts


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ResourceError, match="Name another with --port"):
            listen(ServerSettings("tiny", port=other.getsockname()[1]))


def test_a_folder_that_holds_nothing_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds nothing that the page shows"):
        check_settings(ServerSettings("owner/name", folders=(tmp_path,)))


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("missing", UnknownName, "Unknown model 'missing'"),
        ("./missing", ModelError, r"There is no folder \./missing"),
        ("missing.gguf", ModelError, r"There is no file missing\.gguf"),
        ("", UsageError, "'' is no name that a file or a folder can have"),
    ],
)
def test_a_model_that_is_not_there_is_refused_before_a_port_is_taken(
    name: str, kind: type[Exception], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: the page was opened, and said so there."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=said):
        check_settings(ServerSettings(name))


def test_a_folder_of_edits_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "edited" / OWN).mkdir(parents=True)
    (tmp_path / "edited" / OWN / LEDGER).write_text("")
    assert check_settings(ServerSettings(str(tmp_path / "edited"))) == ""


def test_the_command_refuses_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Unknown model 'missing'" in refused(capsys, 2, "serve", "missing", "--no-open", "--port", "0")


def test_the_command_prints_an_address_that_opens_and_ends_on_a_signal(tmp_path: Path) -> None:
    arguments = ["serve", str(save(tmp_path / "model")), "--no-open", "--port", "0", "--threads", "1"]
    command = [sys.executable, "-m", "factedit", *arguments]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert started.stdout is not None
        address = urlsplit(started.stdout.readline().strip())
        assert address.hostname == "127.0.0.1"
        talk = HTTPConnection(address.netloc, timeout=PATIENCE)
        talk.request("GET", f"/?{address.query}")
        let_in = talk.getresponse()
        let_in.read()
        cookie = (let_in.getheader("set-cookie") or "").split(";")[0]
        talk.request("GET", "/api/state", headers={"cookie": cookie})
        state = json.loads(talk.getresponse().read())
        assert Path(state["name"]).name == "model"
        talk.close()
    finally:
        started.send_signal(signal.SIGTERM)
        _, said = started.communicate(timeout=PATIENCE)
    assert started.returncode == 143, said
    assert "Traceback" not in said
