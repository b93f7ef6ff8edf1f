"""Published files into the cache: whole and with the content expected, or not at all.

A file is written when its transfer is complete and its sha256 is the one known. Where none is known, the one
of the first transfer is written beside the file (`NAME.sha256`) and holds from then on. A broken transfer
starts again from the beginning, a few times. A file that is not what came is set aside, and downloaded again.
"""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from factedit.cache import cache_dir, set_aside, sha256_file, write_atomic
from factedit.errors import DataError, ResourceError, UsageError

ATTEMPTS = 3
TIMEOUT = 30.0  # seconds without a byte


def fetch(url: str, *, sha256: str | None, name: str) -> Path:
    """Return the file at an address, from the cache or downloaded into it.

    Args:
        url: an `http` or `https` address.
        sha256: what the file must have, 64 hexadecimal digits; None where nobody has said.
        name: the file's name in the cache, and in the folder `FACTEDIT_DATA`.

    Returns:
        Its path in the cache.

    Raises:
        ResourceError: no network, no such address, a broken transfer, or no place to write to.
        DataError: the content that came is not the expected one.
        UsageError: another kind of address, or a name that is not a plain file name.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UsageError(f"{url} is not an http or https address.")
    if Path(name).name != name or not name.strip("."):
        raise UsageError(f"{name!r} is not a plain file name.")
    path = cache_dir() / "datasets" / name
    record = path.with_name(f"{name}.sha256")
    expected = sha256 or _recorded(record)
    digest = sha256_file(path) if path.is_file() else ""
    if digest and expected not in (None, digest):
        set_aside(path, f"it has sha256 {digest}, and {expected} is expected")
        digest = ""
    if not digest:
        content = _download(url, name)
        digest = hashlib.sha256(content).hexdigest()
        if expected not in (None, digest):
            raise DataError(
                f"{url} has sha256 {digest}, but {expected} is expected; it was not kept. Get the expected "
                f"file elsewhere, or accept the new content by deleting {record}, if there is one."
            )
        write_atomic(path, content)
    if not record.is_file():
        write_atomic(record, f"{digest}  {name}\n")
    return path


def downloaded(name: str) -> Path | None:
    """Return a file that was downloaded before and is still what came; None where it is not, without asking anybody."""
    path = cache_dir() / "datasets" / name
    if not path.is_file():
        return None
    return path if _recorded(path.with_name(f"{name}.sha256")) in (None, sha256_file(path)) else None


def _recorded(record: Path) -> str | None:
    words = record.read_text(errors="replace").split() if record.is_file() else []
    return words[0] if words else None


def _download(url: str, name: str) -> bytes:
    for _ in range(ATTEMPTS):
        try:
            content = _receive(url)
            break
        except urllib.error.HTTPError as error:
            error.close()
            raise _unreachable(url, name, f"HTTP {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise _unreachable(url, name, error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            broken = error
    else:
        raise _unreachable(url, name, f"the transfer broke off {ATTEMPTS} times: {broken}") from broken
    if name.endswith(".json") and not (content.lstrip().startswith(b"[") and content.rstrip().endswith(b"]")):
        raise _unreachable(url, name, "what came is not a whole JSON list, perhaps a page to log in")
    return content


def _receive(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "factedit"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return bytes(response.read())  # raises IncompleteRead where less comes than was announced


def _unreachable(url: str, name: str, reason: object) -> ResourceError:
    return ResourceError(
        f"{url} could not be downloaded ({reason}). Without it, get the file elsewhere, put it as {name} "
        "into a folder, and name that folder in FACTEDIT_DATA."
    )
