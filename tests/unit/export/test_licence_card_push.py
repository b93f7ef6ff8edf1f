"""What goes with an export: licence texts and duties, the card, and the way to the hub."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from transformers import GPT2LMHeadModel

from conftest import tiny, tiny_tokenizer
from factedit.errors import ResourceError, UnsafeFile, UsageError
from factedit.export.licence import licence_of
from factedit.export.push import push
from factedit.export.ship import ship
from factedit.files.save import PROCESSORS, copy_rest
from factedit.models.load import load
from factedit.stack.work import apply
from stack_cases import random_edit
from tiny_folder import save


@pytest.mark.parametrize(
    ("said", "name", "duty"),
    [
        ("gemma", "gemma", "pass on a copy of the Gemma Terms of Use"),
        ("llama3.2", "llama", "Built with Llama"),
        ("apache-2.0", "apache-2.0", "the files were changed"),
        ("mit", "mit", "copyright notice"),
        ("made-up", "unknown", "was not found: look it up"),
    ],
)
def test_the_card_of_the_base_says_its_licence(tmp_path: Path, said: str, name: str, duty: str) -> None:
    base = save(tmp_path / "base")
    (base / "README.md").write_text(f"---\nlanguage: en\nlicense: {said}\n---\n\nlicense: other things\n")
    (base / "LICENSE").write_text("the text")
    model = load(str(base))
    assert licence_of(model).name == name
    shipped = ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    assert any(duty in line for line in shipped.licence.duties)
    assert (tmp_path / "out" / "LICENSE").read_text() == "the text"
    notice = tmp_path / "out" / "NOTICE"
    assert notice.is_file() == (name in ("gemma", "llama"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(line in card for line in shipped.licence.duties)


@pytest.mark.parametrize("form", ["peft", "merged", "llama-lora"])
@pytest.mark.parametrize("name", ["LICENSE", "NOTICE.md", "terms.html", "COPYING", "README.md"])
def test_a_linked_text_does_not_bring_a_secret_into_the_export(tmp_path: Path, form: str, name: str) -> None:
    """What it points to would be uploaded by `push`."""
    base = save(tmp_path / "base")
    (tmp_path / "secret").write_text("---\nlicense: secret\n---\n")
    model = load(str(base))
    (base / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFile, match=rf"{name} is a link to .*secret, outside its folder, and is not followed"):
        ship(model, [random_edit(model, 1)], tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_a_folder_link_a_pipe_and_a_huge_text_are_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    model = load(str(base))
    (tmp_path / "secrets").mkdir()
    for make in (
        lambda path: path.symlink_to(tmp_path / "secrets"),
        os.mkfifo,
        lambda path: path.touch() or os.truncate(path, 1 << 40),
    ):
        make(base / "LICENSE")
        with pytest.raises(UnsafeFile, match=r"LICENSE (is a link|is a named pipe|has more than)"):
            ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
        (base / "LICENSE").unlink()


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_goes_beside_the_tokenizer_is_not_followed_out_of_the_folder_either(tmp_path: Path, name: str) -> None:
    """Of a model that transformers loaded, whose folder factedit never looked through."""
    base = save(tmp_path / "base")
    (tmp_path / "secret").write_text("{}")
    model = load(GPT2LMHeadModel.from_pretrained(base), tiny_tokenizer())
    (base / name).symlink_to(tmp_path / "secret")
    for write in (lambda out: ship(model, [random_edit(model, 1)], out, "merged"),
                  lambda out: apply(model, [random_edit(model, 1)], out)):  # fmt: skip
        with pytest.raises(UnsafeFile, match=rf"{name} is a link to .*secret, outside its folder, and is not followed"):
            write(tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_link_that_came_after_loading_is_not_copied(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "mine.jinja").write_text("mine")
    made = tmp_path / "made"
    made.mkdir()
    copy_rest(base, made)
    assert (made / "additional_chat_templates" / "mine.jinja").read_text() == "mine"
    assert (made / "config.json").read_bytes() == (base / "config.json").read_bytes()
    (tmp_path / "secret").write_text("{}")
    for link in ("generation_config.json", "additional_chat_templates/other.jinja"):
        (base / link).unlink(missing_ok=True)
        (base / link).symlink_to(tmp_path / "secret")
        with pytest.raises(UnsafeFile, match="outside its folder"):
            copy_rest(base, made)
        (base / link).unlink()


def test_a_text_that_is_a_link_inside_the_folder_goes_with_the_export(tmp_path: Path) -> None:
    base = save(tmp_path / "base")
    (base / "texts").mkdir()
    (base / "texts" / "apache").write_text("the text")
    (base / "LICENSE").symlink_to("texts/apache")
    model = load(str(base))
    ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    assert (tmp_path / "out" / "LICENSE").read_text() == "the text"
    assert not (tmp_path / "out" / "LICENSE").is_symlink()


def test_the_links_of_the_hubs_own_cache_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of it is a link into `blobs`, which lies beside the folder; into another model's it is not."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    base = save(tmp_path / "models--a--b" / "snapshots" / "0")
    for repo in ("models--a--b", "models--c--d"):
        (tmp_path / repo / "blobs").mkdir(parents=True)
        (tmp_path / repo / "blobs" / "1").write_text(f"the text of {repo}")
    model = load(str(base))
    (base / "LICENSE").symlink_to("../../blobs/1")
    ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    assert (tmp_path / "out" / "LICENSE").read_text() == "the text of models--a--b"
    (base / "LICENSE").unlink()
    (base / "LICENSE").symlink_to("../../../models--c--d/blobs/1")
    with pytest.raises(UnsafeFile, match="outside its folder"):
        ship(model, [random_edit(model, 1)], tmp_path / "out2", "peft")


def test_a_family_can_imply_the_licence() -> None:
    assert licence_of(tiny("gemma3_text")).name == "gemma"
    assert licence_of(tiny("gpt2")).name == "unknown"


def test_the_card_names_base_and_edits(tmp_path: Path) -> None:
    model = tiny("gpt2")
    edit = random_edit(model, 1)
    ship(model, [edit], tmp_path / "out", "peft", base="someone/tiny")
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("base_model: someone/tiny", "# someone/tiny, edited", "Subject 1 is in", edit.identity[:16],
                 model.fingerprint()[:16], "**changed**", "Loaded back with"):  # fmt: skip
        assert part in card
    assert str(tmp_path) not in card


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    """Stands in for the network: what the hub was asked."""
    asked: list[tuple[str, dict[str, object]]] = []

    def create(_self: object, repo: str, **settings: object) -> None:
        asked.append((f"create {repo}", settings))

    def upload(_self: object, **settings: object) -> SimpleNamespace:
        asked.append(("upload", settings))
        return SimpleNamespace(commit_url="https://hub/commit/1")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    return asked


def test_push_sends_exports_and_stacks(tmp_path: Path, hub: list[tuple[str, dict[str, object]]]) -> None:
    model = tiny("gpt2")
    ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    apply(model, [random_edit(model, 1)], tmp_path / "stack")
    assert push(tmp_path / "out", "me/edited") == "https://hub/commit/1"
    push(tmp_path / "stack", "me/stack", private=False, message="hello")
    assert [what for what, _ in hub] == ["create me/edited", "upload", "create me/stack", "upload"]
    assert hub[0][1] == {"private": True, "exist_ok": True}
    assert hub[1][1] == {
        "repo_id": "me/edited",
        "folder_path": tmp_path / "out",
        "commit_message": "Upload edited model",
    }
    assert hub[2][1]["private"] is False
    assert hub[3][1]["commit_message"] == "hello"


def test_push_refuses_before_anything_is_sent(tmp_path: Path, hub: list[tuple[str, dict[str, object]]]) -> None:
    model = tiny("gpt2")
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="is not a folder that 'factedit ship'"):
        push(tmp_path, "me/edited")
    ship(model, [random_edit(model, 1)], out, "peft")
    with pytest.raises(UsageError, match="is not written owner/name"):
        push(out, "edited")
    (out / "link.txt").symlink_to(tmp_path)
    with pytest.raises(UnsafeFile, match="is not sent"):
        push(out, "me/edited")
    (out / "link.txt").unlink()
    (out / "state.pkl").write_bytes(b"")
    with pytest.raises(UnsafeFile, match=r"state\.pkl is a pickle"):
        push(out, "me/edited")
    assert hub == []


def test_a_hub_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object, _repo: str, **_settings: object) -> None:
        raise ConnectionError("403 Client Error.\n\nForbidden: no right to write")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    model = tiny("gpt2")
    ship(model, [random_edit(model, 1)], tmp_path / "out", "peft")
    with pytest.raises(ResourceError, match=r"could not be sent to me/edited \(403 .* Forbidden: no right to write\)"):
        push(tmp_path / "out", "me/edited")
