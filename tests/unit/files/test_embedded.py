"""Embedded models: located without being imported, checked, converted once, mapped afterwards."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch

import tiny_gguf
from factedit import disk
from factedit.errors import ModelError, ResourceError, UnknownName
from factedit.files import embedded
from factedit.files.embedded import EMBEDDED, EmbeddedModel, load_embedded, packaged_file
from factedit.files.gguf_file import load_gguf

USERS_CACHE = os.environ.get("FACTEDIT_CACHE")
FORBIDDEN = "raise RuntimeError('the package was imported')\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["gemma3", "llama"])
def model(request, tmp_path, monkeypatch):
    """A tiny embedded model whose file lies in three installed packages that must not be imported."""
    lm = tiny_gguf.gemma3_lm() if request.param == "gemma3" else tiny_gguf.llama_lm()
    data = tiny_gguf.write(tmp_path / "whole.gguf", lm).read_bytes()
    third = len(data) // 3
    pieces = [data[:third], data[third : 2 * third], data[2 * third :]]
    for number, piece in enumerate(pieces):
        folder = tmp_path / "site" / f"tiny_{request.param}_{number}"
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").write_text(FORBIDDEN)
        (folder / "data" / "part").write_bytes(piece)
        (folder / "data" / "TERMS.txt").write_text("the terms")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = EmbeddedModel(
        name="tiny", package="tiny==1", install="pip install tiny==1", licence="mit", notice="The notice.",
        knows="nothing",
        sha256=hashlib.sha256(data).hexdigest(),
        parts=tuple((f"tiny_{request.param}_{number}", "data/part") for number in range(3)),
        documents=((f"tiny_{request.param}_0", "data/TERMS.txt"),),
    )  # fmt: skip
    monkeypatch.setitem(EMBEDDED, "tiny", found)
    return found


def test_the_registry_says_what_is_needed():
    assert list(EMBEDDED) == ["gemma3-270m", "smollm2-135m"]
    for name, row in EMBEDDED.items():
        assert row.name == name
        assert re.fullmatch("[0-9a-f]{64}", row.sha256)
        assert row.package in row.install
    gemma = EMBEDDED["gemma3-270m"]
    assert gemma.licence == "gemma"
    assert "Gemma Terms of Use found at ai.google.dev/gemma/terms" in gemma.notice
    assert "Apache License, Version 2.0" in EMBEDDED["smollm2-135m"].notice


def test_rows_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EMBEDDED["gemma3-270m"].sha256 = ""  # type: ignore[misc]


def test_the_converted_model_equals_the_file(model, tmp_path):
    direct, tokenizer = load_gguf(tmp_path / "whole.gguf")
    for _ in range(2):  # converted, then mapped
        found, its_tokenizer = load_embedded("tiny")
        assert tiny_gguf.same_tensors(found, direct)
        buffers = dict(direct.named_buffers())
        assert all(torch.equal(value, buffers[name]) for name, value in found.named_buffers())
        assert not found.training
        said, wanted = found.config.to_dict(), direct.config.to_dict()
        assert {key for key in {*said, *wanted} if said.get(key) != wanted.get(key)} <= {
            "_name_or_path",
            "architectures",
        }
        assert its_tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_the_package_is_needed_once_only_and_never_imported(model, tmp_path, monkeypatch):
    load_embedded("tiny")
    monkeypatch.setattr(embedded, "find_spec", lambda module: None)
    load_embedded("tiny")
    assert not {module for module, _ in model.parts} & set(sys.modules)


def test_the_licence_lies_beside_the_converted_model(model):
    folder = embedded.convert(model)
    assert (folder / "NOTICE.txt").read_text() == "The notice.\n"
    assert (folder / "TERMS.txt").read_text() == "the terms"
    assert folder.name.startswith(f"tiny-{model.sha256[:16]}")


def test_an_edit_in_place_does_not_reach_the_cache(model):
    found, _ = load_embedded("tiny")
    weight = found.model.layers[1].mlp.down_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    again, _ = load_embedded("tiny")
    assert torch.equal(again.model.layers[1].mlp.down_proj.weight, before)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5]),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "vocabulary.gguf").write_bytes(b"GGUF"),
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: flip(folder / "vocabulary.gguf"),
        lambda folder: flip(folder / "NOTICE.txt"),
        lambda folder: (folder / "checksums.json").unlink(),  # of an earlier version
    ],
)
def test_a_damaged_conversion_is_made_again(model, damage, tmp_path, caplog):
    before = {p.name: p.read_bytes() for p in embedded.convert(model).iterdir()}
    caplog.clear()
    damage(model.folder)
    found, _ = load_embedded("tiny")
    assert "is damaged, or of an earlier version, and is made again" in caplog.text
    assert tiny_gguf.same_tensors(found, load_gguf(tmp_path / "whole.gguf")[0])
    assert {p.name: p.read_bytes() for p in model.folder.iterdir()} == before
    caplog.clear()
    load_embedded("tiny")
    assert not caplog.text


def flip(path: Path) -> None:
    """Another bit in the last byte, in a new file: the old one may be mapped."""
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.unlink()
    path.write_bytes(raw)


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownName, match=r"Unknown embedded model 'gemma3'\. Did you mean gemma3-270m\?"):
        load_embedded("gemma3")


@pytest.mark.parametrize("name", ["gemma3-270m", "smollm2-135m"])
def test_a_package_that_is_not_installed_is_named_with_its_command(name, monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda module: None)
    with pytest.raises(ModelError, match="comes as a package that is not installed here") as found:
        load_embedded(name)
    assert str(found.value).endswith(f"Get it: {EMBEDDED[name].install}")


def test_a_missing_part_counts_as_not_installed(model, tmp_path):
    next((tmp_path / "site").glob("*_1/data/part")).unlink()
    with pytest.raises(ModelError, match="not installed here"):
        load_embedded("tiny")


def test_another_file_than_the_published_one_is_refused(model, tmp_path):
    part = next((tmp_path / "site").glob("*_2/data/part"))
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelError, match=r"has the sha256 .*, and the published one has .* --force-reinstall"):
        load_embedded("tiny")
    assert not model.folder.exists()


def test_a_full_disk_is_named_before_anything_is_written(model, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"is full: [\d,]+ bytes .* are needed, 1,000 bytes"):
        load_embedded("tiny")
    assert not model.folder.exists()


# The packages themselves


def installed(name: str, monkeypatch) -> EmbeddedModel:
    """The row of an embedded model whose package is here, with the user's own cache."""
    try:
        packaged_file(EMBEDDED[name])
    except ModelError as error:
        pytest.skip(str(error))
    if USERS_CACHE is None:
        monkeypatch.delenv("FACTEDIT_CACHE")
    else:
        monkeypatch.setenv("FACTEDIT_CACHE", USERS_CACHE)
    return EMBEDDED[name]


@pytest.mark.real
def test_the_real_gemma_is_the_published_file_and_answers(monkeypatch):
    row = installed("gemma3-270m", monkeypatch)
    lm, tokenizer = load_embedded(row.name)
    assert sum(parameter.numel() for parameter in lm.parameters()) == 268_098_176
    ids = tokenizer("The Eiffel Tower is in the city of", return_tensors="pt")
    assert ids["input_ids"][0, 0] == tokenizer.bos_token_id
    with torch.no_grad():
        assert tokenizer.decode(lm(**ids).logits[0, -1].argmax()) == " Paris"
    names = {path.name for path in Path(row.folder).iterdir()}
    assert {"GEMMA_TERMS.html", "NOTICE.txt", "model.safetensors"} <= names


@pytest.mark.real
def test_the_real_smollm_answers(monkeypatch):
    row = installed("smollm2-135m", monkeypatch)
    lm, tokenizer = load_embedded(row.name)
    ids = tokenizer("The capital of France is", return_tensors="pt")
    assert ids["input_ids"].shape == (1, 5)  # no start token
    with torch.no_grad():
        assert tokenizer.decode(lm(**ids).logits[0, -1].argmax()) == " Paris"
