"""How an export names its base model: by a name that others can use, never by a path of this machine."""

from __future__ import annotations

import re
from pathlib import Path

from factedit.errors import UsageError
from factedit.files.embedded import EMBEDDED
from factedit.models.adapter import EditableModel

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PATH = re.compile(r"[/~.\\]|[A-Za-z]:|.*\\|[^/]*/[^/]*/")  # what a name does not look like


def base_name(model: EditableModel, asked: str = "") -> str:
    """Return the name to publish: the one asked for, else the hub id or the folder's own name.

    Args:
        model: the base.
        asked: how others find it.

    Raises:
        UsageError: a path.
    """
    if asked and _PATH.match(asked):
        raise UsageError(
            f"The base {asked!r} is a path, which others do not have and which is not published. Give its hub id "
            "(owner/name) or a plain name."
        )
    return asked or _of_hub_cache(Path(str(getattr(model.lm, "name_or_path", "") or ""))) or model.name


def is_hub_id(name: str) -> bool:
    """Return whether a name is written like one of the hub, by which transformers and peft load a model."""
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and "--" not in name


def how_to_get(base: str, fingerprint: str) -> str:
    """Return one sentence on the base that an adapter has to be put on; empty where its name loads by itself."""
    if is_hub_id(base):
        return ""
    where = f"the model {base} of factedit, which comes with '{EMBEDDED[base].install}'" if base in EMBEDDED else base
    return (
        f"The base is {where} (weights {fingerprint[:16]}), and this name does not load by itself: put the hub id or "
        "the folder of a model with these weights into base_model_name_or_path of adapter_config.json, or load it and "
        "give it to peft.PeftModel.from_pretrained together with this folder."
    )


def _of_hub_cache(folder: Path) -> str:
    """The hub id of a model in the hub's own cache: `models--owner--name/snapshots/<commit>`."""
    repo = folder.parent.parent.name
    name = repo.removeprefix("models--").replace("--", "/")
    return name if folder.parent.name == "snapshots" and repo.startswith("models--") and is_hub_id(name) else ""
