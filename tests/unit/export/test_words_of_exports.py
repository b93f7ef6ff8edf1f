"""What an export says: names that others can use, a card that obeys nobody, licences, the commands that serve it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from factedit.errors import ResourceError, UnsafeFile, UsageError
from factedit.export.card import plain
from factedit.export.licence import LICENCES, UNKNOWN, licence_of, texts_of, write_licence
from factedit.export.naming import base_name, how_to_get, is_hub_id
from factedit.export.notes import RECORD
from factedit.export.push import push
from factedit.export.serving import RANKS, commands, section
from factedit.files.embedded import EMBEDDED


def model(source: str | Path = "", family: str = "llama") -> Any:
    """As much of a model as a licence is told from."""
    return SimpleNamespace(
        lm=SimpleNamespace(name_or_path=str(source)), family=SimpleNamespace(name=family), name="short"
    )


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["owner/name", "O1/n.a-m_e", "a/b"])
def test_hub_ids(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "/b", "a/", "a/..", "a..b/c", "a--b/c", "a b/c", "-a/b", "a/b\n", "ä/b", "", "a/b?x=1"]
)
def test_other_names_are_no_hub_ids(name: str) -> None:
    assert not is_hub_id(name)


@pytest.mark.parametrize(
    "path", ["/home/me/m", "~/m", "./m", "../m", "C:\\m", "c:m", "a\\b", "a/b/c", "\\\\server\\m", "/"]
)
def test_a_path_is_not_published(path: str) -> None:
    with pytest.raises(UsageError, match="is a path, which others do not have and which is not published"):
        base_name(model(), path)


def test_a_base_is_named_as_asked_else_by_the_hub_else_by_its_own_name(tmp_path: Path) -> None:
    cached = tmp_path / "models--owner--na-me" / "snapshots" / "0f"
    assert base_name(model(cached), "mine") == "mine"
    assert base_name(model(cached)) == "owner/na-me"
    assert base_name(model(tmp_path / "models--owner--a--b" / "snapshots" / "c")) == "short", "of three parts"
    assert base_name(model(tmp_path / "models--owner--name" / "other" / "c")) == "short"
    assert base_name(model(tmp_path)) == base_name(model("")) == "short", "never its path"


def test_a_name_that_does_not_load_by_itself_says_what_to_do() -> None:
    assert how_to_get("owner/name", "f" * 64) == ""
    said = how_to_get("gemma3-270m", "0123456789abcdef" * 4)
    assert EMBEDDED["gemma3-270m"].install in said
    assert "(weights 0123456789abcdef)" in said
    assert how_to_get("mine", "f" * 64).startswith("The base is mine (weights ffffffffffffffff)")


# -- the card --------------------------------------------------------------------------------------

TEXTS = [
    "<img src=x onerror=alert(1)>", "[a](javascript:b)", "![x](http://evil/y.png)", "a | b", "`code`", "# head",
    "* list",    "see www.evil.example or ftp://x", "\x1b[2J\u202eevil", "a\nb\r\n  c", "back\\slash",
    "&lt;b&gt;", "@somebody", "東京 é 😀",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_text_of_others_obeys_nobody_and_reads_as_it_was(text: str) -> None:
    shown = plain(text)
    assert not re.search(r"[<>|`*\[\]!\\@\x00-\x1f\u202a-\u202e]|://|www\.|(?<!&)#", shown), shown
    back = re.sub(r"&#(\d+);", lambda found: chr(int(found[1])), shown)
    readable = " ".join(text.split()).replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert back == readable, "every reader shows the sign itself"


def test_plain_words_stay_as_they_are() -> None:
    assert plain("The Space Needle is in Paris, (1962); 100 %.") == "The Space Needle is in Paris, (1962); 100 %."


# -- licences --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("---\nlicense: mit\n---\n", "mit"), ("---\nlicense: 'Apache-2.0'\n---\n", "apache-2.0"),
        ('---\ntags: [x]\nlicense: "gemma"\n---\n', "gemma"), ("---\nlicense: llama3.2\n---\n", "llama"),
        ("---\nlicense: cc-by-4.0\n---\n", "unknown"), ("---\nlicense:\n---\n", "unknown"), ("", "unknown"),
        ("---\nx: 1\n---\nlicense: mit\n", "unknown"), ("no head\nlicense: mit", "mit"), ("\xff\xfe", "unknown"),
        ("---\n  license: mit\n---\n", "unknown"),
    ],
)  # fmt: skip
def test_the_licence_is_what_the_head_of_the_card_says(card: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="latin-1")
    assert licence_of(model(tmp_path)).name == name


def test_a_family_implies_its_licence_only_where_the_card_says_none(tmp_path: Path) -> None:
    assert licence_of(model(tmp_path, "gemma3_text")).name == "gemma"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_of(model(tmp_path, "gemma3_text")).name == "mit"
    assert licence_of(model("", "llama")) is UNKNOWN
    assert licence_of(model("gemma3-270m")).name == EMBEDDED["gemma3-270m"].licence
    assert "look it up before you pass the edited model on" in UNKNOWN.duties[0]


def test_every_licence_has_duties_and_a_name_of_a_card() -> None:
    for name, licence in LICENCES.items():
        assert licence.name == name
        assert licence.duties
        assert all(duty[0].islower() and not duty.endswith(".") for duty in licence.duties), "lines of a list"


def test_texts_beside_the_model_go_with_it_and_nothing_else(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    there = ["LICENSE", "License.txt", "NOTICE.md", "USE_POLICY.md", "COPYING", "Terms-of-Use.html", "licence.pdf"]
    for name in (*there, "config.json", "my license.json", "tokens.txt", "notice.py"):
        (base / name).write_text(name)
    (base / "licenses").mkdir()
    assert [path.name for path in texts_of(model(base))] == sorted(there)
    assert texts_of(model("")) == texts_of(model(tmp_path / "gone")) == []
    (base / "README.md").write_text("---\nlicense: gemma\n---\n")
    write_licence(model(base), out)
    assert sorted(path.name for path in out.iterdir()) == sorted(there), "a NOTICE is there already"
    assert (out / "LICENSE").read_text() == "LICENSE"


def test_a_notice_is_written_where_a_licence_asks_for_one_and_none_is_there(tmp_path: Path) -> None:
    for name, written in (("gemma", True), ("llama2", True), ("mit", False), ("apache-2.0", False)):
        base, out = tmp_path / f"{name}-base", tmp_path / name
        base.mkdir()
        out.mkdir()
        (base / "README.md").write_text(f"---\nlicense: {name}\n---\n")
        licence = write_licence(model(base), out)
        assert (out / "NOTICE").exists() == written
        assert not written or (out / "NOTICE").read_text() == licence.notice + "\n"


# -- serving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "asked"), [(1, 8), (8, 8), (9, 16), (257, 320), (512, 512), (513, 513)])
def test_a_server_is_asked_for_a_rank_that_it_takes(rank: int, asked: int, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    serve, ask = commands("peft", "owner/name", tmp_path)
    assert f"--max-lora-rank {asked} " in serve
    assert asked in RANKS or rank > RANKS[-1]
    assert ask.endswith("THIS-FOLDER --model edited --base owner/name")


def test_what_is_no_hub_id_is_not_put_into_a_shell(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8}))
    for base in ("mine; rm -rf ~", "$(x)", "gemma3-270m"):
        assert all(base not in line and " BASE" in line for line in commands("peft", base, tmp_path))


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("merged", "vllm serve THIS-FOLDER "),
        ("gguf", "-m THIS-FOLDER/model.gguf"),
        ("lora-gguf", "-m BASE.gguf --lora"),
    ],
)
def test_every_form_is_served_and_asked(form: str, words: str, tmp_path: Path) -> None:
    serve, ask = commands(form, "owner/name", tmp_path)
    assert words in serve
    assert ask.startswith("python docs/checks/canary.py localhost:8000 THIS-FOLDER")


def test_canaries_that_tell_nothing_apart_say_so(tmp_path: Path) -> None:
    rows = [("Paris is in", "Rome", "France")]
    apart, same = (
        "\n".join(section("merged", "b", tmp_path, [SimpleNamespace(tells=tells)], rows))  # type: ignore[list-item]
        for tells in (True, False)
    )
    assert "Ask these prompts after loading (temperature 0)" in apart
    assert "are the same with the edits and without, which shows nothing" in same
    assert "| Paris is in | Rome | France |" in apart


# -- sending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("repo", ["name", "a/b/c", "/name", "owner/", "", "/"])
def test_a_repository_is_written_owner_name(repo: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(UsageError, match=r"The repository .* is not written owner/name"):
        push(tmp_path, repo)


@pytest.mark.parametrize("name", ["weights.bin", "a/b/optimizer.pt", "x.pkl", "m.ckpt"])
def test_no_pickle_is_sent_however_deep_it_lies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: pytest.fail("the hub is asked"))
    (tmp_path / RECORD).write_text("{}")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UnsafeFile, match="is a pickle; it is not sent"):
        push(tmp_path, "owner/name")


def test_why_the_hub_refused_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / RECORD).write_text("{}")
    for error, said in (
        (ValueError("403\n\n  Forbidden: no right"), "403 Forbidden: no right"),
        (KeyError(), "KeyError"),
    ):

        def refuse(error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr("huggingface_hub.HfApi", refuse)
        with pytest.raises(ResourceError) as found:
            push(tmp_path, "owner/name")
        assert f"could not be sent to owner/name ({said}). Check the connection" in str(found.value)
