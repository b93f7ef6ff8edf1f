"""What may be called a model: refused by its name alone, without reading, fetching or loading anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factedit.errors import FacteditError, ModelError, UnknownName, UnsafeFile, UnsupportedModel, UsageError
from factedit.files import embedded
from factedit.files.checkpoint import outline_checkpoint
from factedit.models.load import check_source, load
from factedit.models.outline import outline
from factedit.paths import user_path
from factedit.stack.folder import is_stack
from factedit.work.team import team_of
from tiny_folder import save

LONG = "x" * 300
NAMES: list[tuple[str, type[FacteditError], str]] = [
    ("gemma3-270", UnknownName, "Unknown model 'gemma3-270'. Did you mean gemma3-270m?"),
    ("nothing.gguf", ModelError, "There is no file nothing.gguf. Give the path of a .gguf file."),
    ("Nothing.GGUF", ModelError, "There is no file Nothing.GGUF."),
    ("./nothing", ModelError, "There is no folder ./nothing. Give a folder, a .gguf file, a hub id (owner/name)"),
    ("/nothing", ModelError, "There is no folder /nothing."),
    ("a/b/c", ModelError, "There is no folder a/b/c."),
    ("owner/../name", ModelError, "There is no folder owner/../name."),
    ("owner--x/name", ModelError, "There is no folder owner--x/name."),
    ("-owner/name", ModelError, "There is no folder -owner/name."),
    ("own er/name", ModelError, "There is no folder own er/name."),
    ("notes.txt", UnsupportedModel, "notes.txt is a single file. Give the model's folder, or a .gguf file."),
    ("w.bin", UnsafeFile, "w.bin is a pickle, and loading one can run code."),
    ("", UsageError, "'' is no name that a file or a folder can have. Name one that is there."),
    (LONG, UsageError, "is no name that a file or a folder can have."),
    (f"{LONG}.gguf", UsageError, "is no name that a file or a folder can have."),
    ("a/" * 2100, UsageError, "is no name that a file or a folder can have."),
    ("a\0b", UsageError, r"'a\x00b' is no name that a file or a folder can have."),
    ("\ud800", UsageError, r"'\ud800' is no name that a file or a folder can have."),
    ("~nobody-of-this-name/x", UsageError, "The home folder in '~nobody-of-this-name/x' is not known here."),
    ("~nobody-of-this-name/x.gguf", UsageError, "is not known here. Write the whole path."),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    for name in ("notes.txt", "w.bin"):
        (tmp_path / name).write_text("mine")


def of_a_worker(source: str) -> None:
    """As for a worker, which is told a path or leaves the name to who loads it."""
    team_of(1, source)
    load(source)


@pytest.mark.parametrize("ask", [check_source, load, outline, of_a_worker], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize(("name", "kind", "said"), NAMES, ids=[repr(name)[:20] for name, _, _ in NAMES])
def test_what_can_be_no_model_is_refused_with_the_same_words_wherever_it_is_asked(
    name: str, kind: type[FacteditError], said: str, ask: Callable[[str], Any]
) -> None:
    with pytest.raises(FacteditError) as found:
        ask(name)
    assert type(found.value) is kind
    assert said in str(found.value)


@pytest.mark.parametrize("name", ["owner/name", "o/n", "Owner1/na.me_x-2"])
def test_a_hub_id_is_left_to_the_hub(name: str) -> None:
    check_source(name)


def test_a_folder_and_a_file_that_are_there_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.gguf").write_bytes(b"")
    for name in ("empty", "empty.gguf", str(tmp_path / "empty"), "."):
        check_source(name)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load("empty")


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "model")
    check_source("~/model")
    assert outline_checkpoint("~/model")[0].model_type == "gpt2"
    assert user_path("~/model") == tmp_path / "model"
    assert user_path("a~/b") == Path("a~/b")


def test_an_embedded_name_needs_its_package_or_what_was_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = embedded.EMBEDDED["smollm2-135m"]
    monkeypatch.setattr(embedded, "find_spec", lambda _module: None)
    with pytest.raises(ModelError, match=re.escape(f"is not installed here. Get it: {model.install}")):
        check_source(model.name)
    model.folder.mkdir(parents=True)
    check_source(model.name)


@pytest.mark.parametrize("name", [LONG, "a\0b", "\ud800", "~nobody-of-this-name/x", "", "nothing"])
def test_no_name_is_a_folder_of_edits_by_accident(name: str) -> None:
    """Before: a long name, or one with a byte 0, ended in a traceback."""
    assert not is_stack(name)


@pytest.mark.parametrize("variable", ["FACTEDIT_CACHE", "FACTEDIT_DATA"])
def test_folders_of_the_environment_are_users_paths_too(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from factedit.cache import cache_dir
    from factedit.data.registry import load_facts

    monkeypatch.setenv(variable, "~nobody-of-this-name/x")
    with pytest.raises(UsageError, match=r"The home folder in .* is not known here"):
        cache_dir() if variable == "FACTEDIT_CACHE" else load_facts("counterfact")
