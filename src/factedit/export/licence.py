"""What the base model's licence asks of whoever passes on an edited copy, and the texts that must go with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from factedit.files.checkpoint_checks import hub_blobs
from factedit.files.embedded import EMBEDDED
from factedit.models.adapter import EditableModel
from factedit.paths import inside, read_inside


@dataclass(frozen=True)
class Licence:
    """A licence and its duties.

    Attributes:
        name: as model cards write it.
        notice: the line that has to stand in a NOTICE file; empty where none is prescribed.
        duties: what to do when the edited model is passed on.
    """

    name: str
    notice: str
    duties: tuple[str, ...]


_CHANGED = "say that the files were changed (the model card written here says which)"
LICENCES = {
    "gemma": Licence(
        "gemma",
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        (
            "pass on a copy of the Gemma Terms of Use",
            "keep the NOTICE file with its line",
            _CHANGED,
            "pass on the use restrictions (Gemma Prohibited Use Policy) as a binding condition",
        ),
    ),
    "llama": Licence(
        "llama",
        "Llama is licensed under the Llama Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
        (
            "pass on a copy of the Llama Community License of the base's version",
            "keep the NOTICE file with its line, the version filled in",
            "show 'Built with Llama' and begin the model's name with 'Llama'",
            "keep to the Acceptable Use Policy and pass it on",
        ),
    ),
    "apache-2.0": Licence(
        "apache-2.0",
        "",
        (
            "pass on a copy of the Apache License 2.0",
            _CHANGED,
            "keep all copyright notices, and the base's NOTICE file if there is one",
        ),
    ),
    "mit": Licence("mit", "", ("pass on the copyright notice and the text of the MIT licence",)),
}
UNKNOWN = Licence(
    "unknown", "", ("the base model's licence was not found: look it up before you pass the edited model on",)
)
_TEXTS = re.compile(r"(licen[cs]e|notice|terms|use[_-]?policy|copying)", re.IGNORECASE)
_LONGEST = 1 << 24  # bytes
_READ = {"", ".txt", ".md", ".html", ".pdf", ".rst"}


def licence_of(model: EditableModel) -> Licence:
    """Return a model's licence: of an embedded one as listed; else as its card says; else as its family implies."""
    source = str(getattr(model.lm, "name_or_path", "") or "")
    said = EMBEDDED[source].licence if source in EMBEDDED else _said_by_card(Path(source))
    if not said and model.family.name.startswith("gemma"):
        said = "gemma"
    said = "llama" if said.startswith("llama") else said
    return LICENCES.get(said, UNKNOWN)


def texts_of(model: EditableModel) -> list[Path]:
    """Return the licence texts that lie beside the base model.

    Raises:
        UnsafeFile: one is a link that leaves the model's folder, or no file.
    """
    source = str(getattr(model.lm, "name_or_path", "") or "")
    folder = EMBEDDED[source].folder if source in EMBEDDED else Path(source)
    if not source or not folder.is_dir():
        return []
    names = [p.name for p in folder.iterdir() if _TEXTS.search(p.stem) and p.suffix.lower() in _READ]
    licences = [name for name in sorted(names) if not (folder / name).is_dir() or (folder / name).is_symlink()]
    return [inside(folder, name, also=hub_blobs(folder)) for name in licences]


def write_licence(model: EditableModel, folder: Path) -> Licence:
    """Copy the licence texts, and write the notice line where there is none; the licence, to be printed.

    Raises:
        UnsafeFile: a text is a link that leaves the model's folder, or larger than any licence.
    """
    licence, texts = licence_of(model), texts_of(model)
    for text in texts:
        content = read_inside(text.parent, text.name, most=_LONGEST, also=hub_blobs(text.parent))
        (folder / text.name).write_bytes(content)
    if licence.notice and not any(text.stem.upper() == "NOTICE" for text in texts):
        (folder / "NOTICE").write_text(licence.notice + "\n", encoding="utf-8")
    return licence


def _said_by_card(folder: Path) -> str:
    card = folder / "README.md"
    if not folder.name or not card.exists():
        return ""
    content = read_inside(folder, card.name, most=_LONGEST, also=hub_blobs(folder))
    head = content.decode("utf-8", errors="replace").partition("\n---")[0]
    match = re.search(r"^license:\s*['\"]?([\w.+-]+)", head, re.MULTILINE)
    return match.group(1).lower() if match else ""
