from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from factedit.data import corpus as module
from factedit.data.corpus import Corpus, open_corpus
from factedit.errors import DataError, ResourceError, UsageError


def put(path: Path, *documents: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"title": "t", "text": text}) + "\n" for text in documents)
    raw = (lines if ".jsonl" in path.name else "".join(documents)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files of text and one that is none."""
    put(tmp_path / "text" / "b.jsonl", "b one", "b two")
    put(tmp_path / "text" / "a.txt", "a line\n", "another é\n")
    put(tmp_path / "text" / "c" / "d.jsonl.gz", "d one")
    put(tmp_path / "text" / "c" / "e.txt.gz", "e")
    put(tmp_path / "text" / "SOURCE.md", "not text")
    return tmp_path / "text"


def test_a_folder_gives_its_files_by_name_again_and_again(folder: Path) -> None:
    found = open_corpus(folder)
    expected = ["a line\nanother é\n", "b one", "b two", "d one", "e"]
    assert list(found.texts()) == list(found.texts()) == expected
    assert found.name == "text"


@pytest.mark.parametrize(
    ("file", "expected"),
    [("a.txt", ["a line\nanother é\n"]), ("b.jsonl", ["b one", "b two"]), ("c/d.jsonl.gz", ["d one"])],
)
def test_a_single_file_is_a_corpus(folder: Path, file: str, expected: list[str]) -> None:
    assert list(open_corpus(str(folder / file)).texts()) == expected


def test_blank_documents_are_passed_over(tmp_path: Path) -> None:
    assert list(open_corpus(put(tmp_path / "a.jsonl", "", "x", " \n")).texts()) == ["x"]


def test_a_long_text_is_cut_at_line_ends_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 10)
    text = "one two\nthree four five\nsix\nseven"
    found = list(open_corpus(put(tmp_path / "a.txt", text)).texts())
    assert found == ["one two\nthree four five\n", "six\nseven"]


def test_the_fingerprint_is_of_content_and_order_not_of_place(folder: Path, tmp_path: Path) -> None:
    first = open_corpus(folder).fingerprint
    assert len(first) == 64
    moved = folder.rename(tmp_path / "elsewhere")
    assert open_corpus(moved).fingerprint == first
    mixed = open_corpus(moved, order_seed=0).fingerprint
    assert len({first, mixed, open_corpus(moved, order_seed=1).fingerprint}) == 3
    put(moved / "b.jsonl", "b one", "b 2")
    assert open_corpus(moved).fingerprint != first
    put(moved / "b.jsonl", "b one", "b two")
    assert open_corpus(moved).fingerprint == first
    (moved / "b.jsonl").rename(moved / "z.jsonl")
    assert open_corpus(moved).fingerprint != first  # another order of the documents


def test_the_same_bytes_read_as_text_are_another_corpus(tmp_path: Path) -> None:
    as_lines = put(tmp_path / "a.jsonl", "x")
    (tmp_path / "a.txt").write_bytes(as_lines.read_bytes())
    assert open_corpus(as_lines).fingerprint != open_corpus(tmp_path / "a.txt").fingerprint


@pytest.mark.parametrize("held", [1, 7, 1000])
def test_a_seed_mixes_files_and_documents_the_same_way_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(module, "HELD", held)
    for name in "abcd":
        put(tmp_path / f"{name}.jsonl", *(f"{name}{number}" for number in range(10)))
    plain = list(open_corpus(tmp_path).texts())
    mixed = open_corpus(tmp_path, order_seed=5)
    state = random.getstate()
    order = list(mixed.texts())
    assert random.getstate() == state
    assert order == list(mixed.texts())
    assert sorted(order) == plain
    assert order != plain
    assert order != list(open_corpus(tmp_path, order_seed=6).texts())
    assert mixed.name == f"{tmp_path.name}, order 5"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"body": "b"}\n', "line 2: the field 'text' is missing; found 'body'"),
        ("a.jsonl", '{"text": "a"}\n{"text": 4}\n', "line 2: the field 'text' must be text, not a number"),
        ("a.jsonl", '{"text": "a"}\nno json\n', "line 2: not JSON"),
        ("a.txt", b"a\n\xff", "line 2: not UTF-8 text"),
        ("a.txt.gz", b"no gzip", "line 1: the gzip stream is broken"),
        ("a.jsonl", "", "holds no text"),
        ("a.txt", " \n", "holds no text"),
        ("a.json", "[]", "not a kind of file that text is read from: .txt, .jsonl"),
    ],
)
def test_a_file_that_is_no_text_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        list(open_corpus(path).texts())
    assert message in str(caught.value)


def test_what_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone: no such file or folder of text"):
        open_corpus(tmp_path / "gone")
    with pytest.raises(DataError, match=r"The folder .* holds no file that text is read from: \.txt"):
        open_corpus(tmp_path)


def test_an_empty_corpus_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", "", " ")
    with pytest.raises(DataError, match=r"The corpus a\.jsonl holds no text"):
        open_corpus(path)
    with pytest.raises(DataError, match="The corpus none holds no text"):
        list(Corpus("none", "0" * 64, lambda: []).texts())


class Stream(list[dict[str, Any]]):
    """Stands in for a streamed data set."""

    def shuffle(self, *, seed: int, buffer_size: int) -> Stream:
        return Stream(self[::-1])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """A stand-in for the package `datasets` and for the hub's answer to "which commit"."""
    asked: list[Any] = []
    state = types.SimpleNamespace(
        asked=asked, rows=Stream([{"text": "one"}, {"text": " "}, {"text": "two"}]), commit="c" * 40
    )

    def load_dataset(*arguments: Any, **options: Any) -> Stream:
        asked.append((arguments, options))
        return state.rows

    package = types.SimpleNamespace(__version__="4.1.0", load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", package)
    monkeypatch.setattr(module, "_commit", lambda repository, revision: revision or state.commit)
    state.package = package
    return state


def test_a_hub_data_set_is_streamed_at_the_commit_found(hub: types.SimpleNamespace) -> None:
    found = open_corpus("hf:wikimedia/wikipedia:20231101.en")
    assert hub.asked == []
    assert list(found.texts()) == ["one", "two"]
    arguments, options = hub.asked[0]
    assert arguments == ("wikimedia/wikipedia", "20231101.en")
    assert options == {"split": "train", "streaming": True, "revision": "c" * 40}
    assert found.name == "hf:wikimedia/wikipedia:20231101.en at cccccccccccc"


def test_revision_config_and_split_of_a_hub_data_set(hub: types.SimpleNamespace) -> None:
    list(open_corpus("hf:a/b@v1::test").texts())
    assert hub.asked[0] == (("a/b", None), {"split": "test", "streaming": True, "revision": "v1"})


def test_the_fingerprint_of_a_hub_data_set_follows_what_will_be_read(hub: types.SimpleNamespace) -> None:
    specs = ["hf:a/b", "hf:a/c", "hf:a/b:x", "hf:a/b::test", "hf:a/b@v1"]
    prints = [open_corpus(spec).fingerprint for spec in specs] + [open_corpus("hf:a/b", order_seed=0).fingerprint]
    assert open_corpus("hf:a/b::train").fingerprint == prints[0]
    hub.commit = "d" * 40
    prints.append(open_corpus("hf:a/b").fingerprint)
    assert len(set(prints)) == len(prints)


def test_a_seed_mixes_a_hub_data_set(hub: types.SimpleNamespace) -> None:
    assert list(open_corpus("hf:a/b", order_seed=3).texts()) == ["two", "one"]


def test_rows_without_text_and_empty_hub_data_sets_are_refused(hub: types.SimpleNamespace) -> None:
    hub.rows = Stream([{"text": "a"}, {"body": "b"}])
    with pytest.raises(DataError, match="hf:a/b, row 2: the field 'text' is missing; found 'body'"):
        list(open_corpus("hf:a/b").texts())
    hub.rows = Stream([])
    with pytest.raises(DataError, match="hf:a/b at cccccccccccc holds no text"):
        list(open_corpus("hf:a/b").texts())


def test_what_the_hub_refuses_is_said(hub: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("BuilderConfig 'x' not found")

    hub.package.load_dataset = refuse
    with pytest.raises(ResourceError, match=r"hf:a/b:x could not be read from the hub .*BuilderConfig 'x' not found"):
        list(open_corpus("hf:a/b:x").texts())
    monkeypatch.setattr(module, "_commit", refuse)
    with pytest.raises(ResourceError, match="Check name and network, or give a file or folder of text"):
        open_corpus("hf:a/b")


def test_a_hub_that_cannot_be_reached_is_said(hub: types.SimpleNamespace) -> None:
    script = (
        "import sys, types; sys.modules['datasets'] = types.SimpleNamespace(__version__='4.0.0')\n"
        "from factedit.data.corpus import open_corpus\n"
        "from factedit.errors import ResourceError\n"
        "try: open_corpus('hf:a/b')\n"
        "except ResourceError as error: print(error)\n"
    )
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "PATH": "",
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("hf:a/b could not be read from the hub (ConnectError"), done.stderr


@pytest.mark.parametrize("spec", ["hf:", "hf::config", "hf:a/b:c:d:e"])
def test_a_hub_address_of_another_form_is_refused(spec: str, hub: types.SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="is not of the form hf:REPOSITORY"):
        open_corpus(spec)


def test_without_the_package_or_with_an_old_one_the_message_says_what_to_install(
    hub: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.package.__version__ = "3.6.0"
    with pytest.raises(UsageError, match=r"'datasets' is 3\.6\.0; 4 is needed: pip install 'datasets>=4'"):
        open_corpus("hf:a/b")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="is not installed: pip install 'datasets>=4', or give a file or folder"):
        open_corpus("hf:a/b")


def test_the_readers_do_not_load_torch() -> None:
    script = (
        "import sys, factedit.data.registry, factedit.data.corpus, factedit.data.requests\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'huggingface_hub'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.data
def test_the_encyclopedic_text(data_dir: Path) -> None:
    if not (data_dir / "wiki_text").is_dir():
        pytest.skip("wiki_text is not in the data folder")
    texts = list(open_corpus(data_dir / "wiki_text").texts())
    assert len(texts) == 16693
    assert list(open_corpus(data_dir / "wiki_text", order_seed=0).texts()) != texts
