"""The wheel in an environment of its own: everything is in it, nothing of the checkout is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from conftest import ROOT
from factedit import __version__

pytest.importorskip("hatchling")
CODE = """
import importlib, pkgutil, sys
import factedit
for name in factedit.__all__:
    getattr(factedit, name)
for module in pkgutil.walk_packages(factedit.__path__, "factedit."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from importlib.resources import files
for path in sys.argv[1:]:  # what is no Python is there too
    assert files("factedit").joinpath(path).is_file(), path
print(factedit.__file__, len(factedit.__all__))
"""
DATA = [
    str(path.relative_to(ROOT / "src" / "factedit"))
    for path in (ROOT / "src" / "factedit").rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
]


def run(*command: object, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=clean, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with the wheel in it; libraries are those of the one that tests run in."""
    place = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    run(*pip, "wheel", ROOT, "--no-deps", "--no-build-isolation", "--wheel-dir", place, cwd=place)
    [wheel] = place.glob("factedit-*.whl")
    venv.create(place / "env", with_pip=False)
    found = place / "env" / "bin" / "python"
    run(*pip, "--python", found, "install", "--no-deps", "--no-index", wheel, cwd=place)
    [site] = (place / "env" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")  # its own .pth files are not read
    return found


def test_the_command(python: Path, tmp_path: Path) -> None:
    said = run(python.parent / "factedit", "--version", cwd=tmp_path)
    assert said == f"factedit {__version__}\n"
    assert run(python, "-m", "factedit", "--version", cwd=tmp_path) == said
    assert "rome" in run(python.parent / "factedit", "methods", cwd=tmp_path)


def test_every_module_can_be_imported(python: Path, tmp_path: Path) -> None:
    where, count = run(python, "-c", CODE, *DATA, cwd=tmp_path).split()
    assert Path(where).is_relative_to(python.parent.parent)
    assert int(count) > 20
    assert "report/page.html.j2" in DATA
