"""Load a model in the transformers format, from a folder or from the hub, without trusting it.

Only safetensors weights are read and no code of the model's own is run; `checkpoint_checks.py` says what is refused.
From the hub, the configuration comes first and is checked before gigabytes of weights are fetched.
"""

from __future__ import annotations

import logging
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factedit.cache import disk_errors
from factedit.errors import (
    LINE,
    FacteditError,
    ModelError,
    ResourceError,
    UnknownName,
    UnsafeFile,
    UnsupportedModel,
    UsageError,
)
from factedit.files.checkpoint_checks import PICKLES, check_config, hub_blobs
from factedit.files.checkpoint_places import check_tensor_places
from factedit.files.checkpoint_weights import (
    StoredTensor,
    check_counts,
    check_sizes,
    check_weights,
    numbers_in,
    stored_dtype,
)
from factedit.files.classes import class_of
from factedit.files.quantised.table import SAID, Quantised, quantised
from factedit.files.quiet import quiet_transformers
from factedit.files.tokenizer_check import checked_tokenizer
from factedit.memory import require_memory
from factedit.paths import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("factedit")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_SMALL = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "*.model.v3"]
_LARGE = ["*.safetensors"]
SMALLER = "Read it from disk (--stream), load it in half of that (--dtype bfloat16), or take a smaller model."
_ELSEWHERE = ["*/*", "consolidated*.safetensors", "adapter_model*"]  # folders, and second copies of the weights


def load_checkpoint(
    source: str, *, dtype: str = "float32", revision: str | None = None, placement: str = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a causal language model on the CPU, in eval mode, and its fast tokenizer.

    Args:
        source: a folder, or a hub id `owner/name`; a folder of that name is preferred.
        dtype: of the weights once loaded, as torch names it; `stored`: as they are in the files. Quantised weights are
            read as the values they stand for, `stored` as float32.
        revision: branch, tag or commit of a hub id.
        placement: how accelerate is to place it instead (its `device_map`); what must be converted on its way to the
            disk lies in a temporary folder as long as the model does.

    Raises:
        UsageError: an unknown dtype, a revision of a folder, or no name that a folder can have.
        UnknownName: neither a folder nor shaped like a hub id.
        ModelError: not found, or something is missing or damaged.
        UnsafeFile: the model would run code or leave its folder.
        UnsupportedModel: an adapter, an unknown kind of model or of quantised weights.
        ResourceError: memory or disk ran out.
    """
    import torch

    if dtype != "stored" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UsageError(f"The type {dtype!r} is not one of torch's. Use float32, bfloat16 or float16.")
    folder, what, checked = checked_files(source, revision)
    if dtype == "stored":
        dtype = stored_dtype({} if checked.quantised else checked.stored)
    return _load_folder(folder, what, checked, getattr(torch, dtype), placement)


def checked_files(source: str, revision: str | None = None) -> tuple[Path, str, CheckedTensors]:
    """Return the folder of a model whose files have been checked, how to name it, and its tensors; see
    `load_checkpoint`.
    """
    path = user_path(source)
    if path.is_dir():
        if revision is not None:
            raise UsageError(f"{source} is a folder, which has no revision {revision!r}. Leave the revision out.")
        what = str(source)
        return path, what, _checked(path, what, hub_blobs(path))
    refuse_other(source, path)
    what = f"The hub model {source}"
    folder, checked = _download(source, revision, what)
    return folder, what, checked


def outline_checkpoint(source: str, *, revision: str | None = None) -> tuple[Any, Any]:
    """Return the configuration and the tokenizer of a folder or hub id; from the hub only these are fetched.

    Raises:
        UnknownName, ModelError, UnsafeFile, UnsupportedModel: see `load_checkpoint`.
    """
    import transformers

    auto: Any = transformers
    path = user_path(source)
    if path.is_dir():
        folder, what, blobs = path, str(source), hub_blobs(path)
    else:
        refuse_other(source, path)
        what, folder = f"The hub model {source}", _snapshot(source, revision, _SMALL)
        blobs = folder.parent.parent / "blobs"
    check_config(folder, what=what, blobs=blobs)
    local = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet_transformers():
            config = _config(folder, local)
            tokenizer = auto.AutoTokenizer.from_pretrained(folder, **local)
    except Exception as error:  # files of others, read by several libraries: anything may be raised
        raise ModelError(
            f"{what} cannot be planned with: {_cause(error)}. Its files are damaged or do not belong together."
        ) from error
    return config, checked_tokenizer(tokenizer, folder, what, blobs=blobs)


class CheckedTensors(NamedTuple):
    """The tensors of a folder, as they are read; and what is quantised of them."""

    stored: dict[str, StoredTensor]
    quantised: Quantised | None


def _checked(folder: Path, what: str, blobs: Path | None = None) -> CheckedTensors:
    """The tensors of a folder whose files have been checked."""
    config = check_config(folder, what=what, blobs=blobs)
    stored = check_weights(folder, what=what, blobs=blobs)
    packed = quantised(folder, config, stored, what)
    stored = packed.as_read() if packed else stored
    check_counts({key: value for key, value in config.items() if key not in SAID}, stored, what=what)
    if config.get("auto_map"):
        logger.warning("%s brings code of its own (auto_map), which is not run: transformers' own is used.", what)
    return CheckedTensors(stored, packed)


def refuse_other(source: str, path: Path) -> None:
    """Refuse what is no folder and is not shaped like a hub id.

    Args:
        source: as it was asked for.
        path: of that name; no folder.

    Raises:
        UnsafeFile, UnsupportedModel: a single file.
        ModelError, UnknownName: nothing of that name.
    """
    if path.is_file():
        if path.suffix in PICKLES:
            raise UnsafeFile(
                f"{source} is a pickle, and loading one can run code. Give a folder with safetensors weights."
            )
        raise UnsupportedModel(f"{source} is a single file. Give the model's folder, or a .gguf file.")
    if _HUB_ID.fullmatch(source) and ".." not in source and "--" not in source:
        return
    if path.is_absolute() or "/" in source or "\\" in source or source.startswith((".", "~")):
        raise ModelError(
            f"There is no folder {source}. Give a folder, a .gguf file, a hub id (owner/name) or a known name."
        )
    from factedit.files.embedded import EMBEDDED

    raise UnknownName("model", source, EMBEDDED, "A folder must exist, and a hub model is written owner/name.")


def _download(repo: str, revision: str | None, what: str) -> tuple[Path, CheckedTensors]:
    """The folder of a hub model in the hub's own cache, fetched where it is not there yet, and its tensors."""
    folder = _snapshot(repo, revision, _SMALL)
    blobs = folder.parent.parent / "blobs"
    check_config(folder, what=what, blobs=blobs)
    folder = _snapshot(repo, folder.name, _SMALL + _LARGE)
    return folder, _checked(folder, what, blobs)


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    asked = f"The hub model {repo}" + (f" at revision {revision!r}" if revision else "")
    try:
        with disk_errors(Path(huggingface_hub.constants.HF_HUB_CACHE), only_full=True):
            folder = huggingface_hub.snapshot_download(
                repo, revision=revision, allow_patterns=patterns, ignore_patterns=_ELSEWHERE
            )
    except FacteditError:
        raise
    except errors.GatedRepoError as error:
        raise ModelError(f"{asked} is gated. Accept its terms on its page, and log in with 'hf auth login'.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{asked} does not exist, or is private. Check its spelling, or log in: 'hf auth login'."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{asked} does not exist, but the model does. Check the branch, tag or commit.") from error
    except Exception as error:  # offline, cut off, refused: each layer of the network raises its own types
        raise ModelError(
            f"{asked} cannot be fetched, and is not complete in the hub's cache ({_cause(error)}). "
            "Try again with a connection to the hub, or give a folder or an embedded model."
        ) from error
    return Path(folder)


def _load_folder(
    folder: Path, what: str, checked: CheckedTensors, dtype: Any, placement: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a checked folder."""
    import transformers

    auto: Any = transformers
    local = {"trust_remote_code": False, "local_files_only": True}
    try:
        with quiet_transformers():
            config = _config(folder, local)
            check_sizes(config, checked.stored, what=what)
            if not placement:
                require_memory(what, dtype.itemsize * numbers_in(checked.stored), SMALLER)
            tokenizer = auto.AutoTokenizer.from_pretrained(folder, **local)
            model, report = _built(folder, config, checked, dtype, local, placement)
    except FacteditError:
        raise
    except MemoryError as error:
        raise ResourceError(f"{what} does not fit into memory. Load it as bfloat16, or use a smaller model.") from error
    except Exception as error:  # files of others, read by several libraries: anything may be raised
        raise ModelError(
            f"{what} cannot be loaded: {_cause(error)}. "
            "Its files are damaged or do not belong together; get them again."
        ) from error
    lacking = sorted({*report["missing_keys"], *(str(key[0]) for key in report["mismatched_keys"])})
    if lacking:
        raise ModelError(
            f"{what} lacks {len(lacking)} of its tensors, e.g. {lacking[0]!r}, or has them in another shape. "
            "Its weights and its config.json do not belong together; get them again."
        )
    check_tensor_places(model, set(report["unexpected_keys"]), checked.stored, folder, what)
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None  # of the hub's cache
    return model.eval(), checked_tokenizer(tokenizer, folder, what, blobs=blobs)


def _config(folder: Path, local: dict[str, bool]) -> Any:
    """The configuration, without what it says of quantised weights: they are read as plain ones."""
    import transformers

    auto: Any = transformers
    config = auto.AutoConfig.from_pretrained(folder, **local)
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for key in SAID:
            part.__dict__.pop(key, None)
    return config


def _built(
    folder: Path, config: Any, checked: CheckedTensors, dtype: Any, local: dict[str, bool], placement: str
) -> tuple[Any, dict[str, Any]]:
    """The model, and what `transformers` reports of its weights."""
    import transformers

    auto: Any = transformers
    asked = {"config": config, "dtype": dtype, "output_loading_info": True}
    if checked.quantised and placement:
        raise UnsupportedModel(f"{checked.quantised.what} is stored quantised, and not placed. Give one --device.")
    aside = tempfile.TemporaryDirectory(prefix="factedit-", ignore_cleanup_errors=True) if placement else None
    if aside is not None:
        asked |= {"device_map": placement, "offload_folder": aside.name}
    if not checked.quantised:
        built: tuple[Any, dict[str, Any]] = class_of(config).from_pretrained(
            folder, use_safetensors=True, **asked, **local
        )
        built[0].__dict__["_factedit_aside"] = aside  # removed when the model is gone
        return built
    packed = checked.quantised
    logger.warning("%s is quantised (%s): %d weights are read as dequantised values.", packed.what, *packed.in_short())
    model, report = class_of(config).from_pretrained(None, state_dict=packed.weights(dtype), **asked)
    model.config._name_or_path = model.name_or_path = str(folder)
    if (folder / "generation_config.json").is_file():
        model.generation_config = auto.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model, report


def _cause(error: Exception) -> str:
    """What went wrong, by its kind and in one line: libraries give the cause in a later one."""
    said = " ".join(str(error).split())[:LINE].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
