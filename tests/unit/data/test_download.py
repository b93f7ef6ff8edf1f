from __future__ import annotations

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from factedit.data import download
from factedit.data.download import fetch
from factedit.errors import DataError, ResourceError, UsageError

BODY = b'[{"a": "' + b"x" * 100_000 + b'"}]\n'
SHA = hashlib.sha256(BODY).hexdigest()


class Site:
    """A server on this machine; `answers`: status, body and announced length, for each request in turn."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/data.json"
        self.answers: list[tuple[int, bytes, int | None]] = []
        self.asked = 0


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, length = here.answers[min(here.asked, len(here.answers) - 1)]
            here.asked += 1
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield here
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "datasets"


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_a_file_is_kept_with_its_checksum_and_not_asked_for_again(site: Site, cache: Path) -> None:
    site.answers = [(200, BODY, len(BODY))]
    path = fetch(site.url, sha256=None, name="data.json")
    assert path == cache / "data.json"
    assert path.read_bytes() == BODY
    assert (cache / "data.json.sha256").read_text() == f"{SHA}  data.json\n"
    assert fetch(site.url, sha256=None, name="data.json") == path
    assert fetch(site.url, sha256=SHA, name="data.json") == path
    assert site.asked == 1
    assert kept(cache) == ["data.json", "data.json.sha256"]


def test_a_transfer_that_breaks_off_is_tried_again_and_leaves_nothing(site: Site, cache: Path) -> None:
    site.answers = [(200, BODY[:5000], len(BODY))]
    with pytest.raises(ResourceError) as caught:
        fetch(site.url, sha256=None, name="data.json")
    assert "the transfer broke off 3 times" in str(caught.value)
    assert site.asked == download.ATTEMPTS == 3
    assert kept(cache) == []


def test_a_transfer_that_breaks_off_once_succeeds(site: Site, cache: Path) -> None:
    site.answers = [(200, BODY[:5000], len(BODY)), (200, BODY, len(BODY))]
    assert fetch(site.url, sha256=SHA, name="data.json").read_bytes() == BODY
    assert site.asked == 2


@pytest.mark.parametrize("body", [BODY[:-3], b"<html>Please log in</html>", b""])
def test_what_is_no_whole_list_is_not_kept_where_no_length_is_announced(site: Site, cache: Path, body: bytes) -> None:
    site.answers = [(200, body, None)]
    with pytest.raises(ResourceError, match="not a whole JSON list"):
        fetch(site.url, sha256=None, name="data.json")
    assert kept(cache) == []


def test_a_missing_page_names_address_folder_and_file(site: Site, cache: Path) -> None:
    site.answers = [(404, b"", 0)]
    with pytest.raises(ResourceError) as caught:
        fetch(site.url, sha256=None, name="data.json")
    for words in (site.url, "HTTP 404", "put it as data.json into a folder", "FACTEDIT_DATA"):
        assert words in str(caught.value)
    assert site.asked == 1
    assert kept(cache) == []


def test_a_refused_port_names_address_folder_and_file(cache: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/data.json"
        with pytest.raises(ResourceError) as caught:
            fetch(url, sha256=None, name="data.json")
    for words in (url, "refused", "data.json into a folder", "FACTEDIT_DATA"):
        assert words in str(caught.value)
    assert kept(cache) == []


def test_other_content_than_the_known_is_not_kept(site: Site, cache: Path) -> None:
    site.answers = [(200, BODY, len(BODY))]
    with pytest.raises(DataError) as caught:
        fetch(site.url, sha256="0" * 64, name="data.json")
    for words in (site.url, SHA, "0" * 64, "was not kept"):
        assert words in str(caught.value)
    assert kept(cache) == []


def test_content_that_changed_since_it_was_first_fetched_is_set_aside(
    site: Site, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site.answers = [(200, BODY, len(BODY)), (200, BODY, len(BODY)), (200, b"[]", 2)]
    path = fetch(site.url, sha256=None, name="data.json")
    path.write_bytes(b"[1]")
    assert fetch(site.url, sha256=None, name="data.json").read_bytes() == BODY
    assert "data.json is damaged" in caplog.text
    assert (cache / "data.json.damaged").read_bytes() == b"[1]"
    (cache / "data.json.damaged").unlink()
    assert site.asked == 2
    path.unlink()
    with pytest.raises(DataError, match=r"accept the new content by deleting .*data\.json\.sha256"):
        fetch(site.url, sha256=None, name="data.json")
    assert kept(cache) == ["data.json.sha256"]
    (cache / "data.json.sha256").unlink()
    assert fetch(site.url, sha256=None, name="data.json").read_bytes() == b"[]"


def test_a_file_put_there_by_hand_is_taken_and_recorded(cache: Path) -> None:
    cache.mkdir()
    (cache / "data.json").write_bytes(BODY)
    assert fetch("http://127.0.0.1:9/data.json", sha256=None, name="data.json").read_bytes() == BODY
    assert SHA in (cache / "data.json.sha256").read_text()


def test_a_cache_that_cannot_be_written_is_said(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "file"))
    site.answers = [(200, BODY, len(BODY))]
    with pytest.raises(ResourceError, match="FACTEDIT_CACHE"):
        fetch(site.url, sha256=None, name="data.json")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data.json"])
def test_other_kinds_of_address_are_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not an http or https address"):
        fetch(url, sha256=None, name="data.json")


@pytest.mark.parametrize("name", ["../data.json", "a/data.json", "/data.json", "", ".."])
def test_a_name_that_leaves_the_folder_is_refused(name: str, site: Site) -> None:
    site.answers = [(200, BODY, len(BODY))]
    with pytest.raises(UsageError, match="is not a plain file name"):
        fetch(site.url, sha256=None, name=name)
    assert site.asked == 0
