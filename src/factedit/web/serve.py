"""Start the server: on this machine's own address, with a launch token, one process."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factedit.edit.artefact import Edit
from factedit.errors import ResourceError, UsageError
from factedit.models.adapter import EditableModel
from factedit.models.load import check_source
from factedit.stack.folder import is_stack
from factedit.web.first import FirstView
from factedit.web.guard import Guard, Keys, loopback_hosts
from factedit.web.jobs import Jobs
from factedit.web.session import Session, given_folder

LOOPBACK, PORT = "127.0.0.1", 8000
WARNING = (
    "This server can be reached from other machines. Whoever has the launch address can read and edit the model and "
    "write exports, and what is sent is not encrypted. Prefer a tunnel: ssh -L {port}:127.0.0.1:{port} HOST."
)


@dataclass(frozen=True)
class ServerSettings:
    """How the server is started.

    Attributes:
        name: of the model, as it was asked for.
        folders: that the page may read: edits, models, results.
        out: where exports go; None forbids them.
        host, port: where it listens; port 0 takes a free one.
        open_to_others: the user agreed to another host than loopback.
        browser: open the address.
    """

    name: str
    folders: tuple[Path, ...] = ()
    out: Path | None = None
    host: str = LOOPBACK
    port: int = PORT
    open_to_others: bool = False
    browser: bool = True


def check_settings(settings: ServerSettings) -> str:
    """Refuse what cannot be served, before anything is loaded.

    Returns:
        What is to be said about the host; empty for loopback.

    Raises:
        UsageError: another host than loopback, without agreement; the extra is not installed.
        DataError: a folder that holds nothing the page shows.
        FacteditError: no model of this name; see `check_source`.
    """
    if not is_stack(settings.name):
        check_source(settings.name)
    for folder in settings.folders:
        given_folder(folder)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError("The page needs fastapi and uvicorn: pip install 'factedit[web]'.") from error
    if settings.host == LOOPBACK:
        return ""
    if not settings.open_to_others:
        raise UsageError(
            f"--host {settings.host} would let other machines reach this page, the model and its exports. Prefer a "
            f"tunnel (ssh -L {settings.port}:127.0.0.1:{settings.port} HOST); if you know what you do, give "
            "--open-to-others too."
        )
    return WARNING.format(port=settings.port)


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ResourceError: the port is taken, or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(
            f"Port {settings.port} of {settings.host} cannot be used ({reason}). Name another with --port; 0 takes a "
            "free one."
        ) from error
    listener.listen()
    return listener


def serve(
    settings: ServerSettings,
    opener: Callable[[], tuple[EditableModel, Sequence[Edit]]],
    *,
    say: Callable[[str], None],
    unforeseen: Callable[[BaseException], str],
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        settings: see `check_settings`, which comes first.
        opener: gives the unedited model and the edits on it; called when a page has drawn its first view, or soon where
            none is opened.
        say: told the address.
        unforeseen: gives the message of an error that nobody foresaw.

    Raises:
        ResourceError: see `listen`.
    """
    import uvicorn

    from factedit.web.app import make_app

    with closing(listen(settings)) as listening:
        port = listening.getsockname()[1]
        session = Session(opener, settings.name, [given_folder(folder) for folder in settings.folders], settings.out)
        jobs, first, keys = Jobs(unforeseen), FirstView(), Keys(hosts_of(settings.host, port), port)
        server = uvicorn.Server(uvicorn.Config(Guard(make_app(session, jobs, first), keys), **_QUIET))
        address = _address(settings.host, keys)
        say(address)
        if settings.browser:  # beside the server: a browser of a terminal does not return before it is closed
            threading.Thread(target=_open, args=(address, first), daemon=True).start()
        jobs.add(f"loading {settings.name}", lambda _job: _load(session, first))
        try:
            server.run(sockets=[listening])
        finally:
            jobs.close()


def _open(address: str, first: FirstView) -> None:
    if webbrowser.open(address):
        first.opens()


def _load(session: Session, first: FirstView) -> None:
    first.wait()
    session.open()


_QUIET: dict[str, Any] = {
    "log_level": "critical", "access_log": False, "server_header": False, "lifespan": "off", "ws": "none",
    "timeout_graceful_shutdown": 1,
}  # fmt: skip


def hosts_of(host: str, port: int) -> frozenset[str]:
    """Return what a browser may call this machine, with the port, where it listens as `host`."""
    return loopback_hosts(port, [] if host == LOOPBACK else [_in_address(host), socket.gethostname()])


def _address(host: str, keys: Keys) -> str:
    """The launch address: of loopback where the server listens everywhere."""
    name = LOOPBACK if host in ("0.0.0.0", "::") else _in_address(host)
    return f"http://{name}:{keys.port}/?token={keys.token}"


def _in_address(host: str) -> str:
    """A host as it stands in an address: one of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
