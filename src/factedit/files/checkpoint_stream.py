"""Open files to read their tensors when they are asked for: a model on `meta`, its tokenizer, and where its tensors
lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from factedit.errors import ModelError, NotStreamed
from factedit.files.checkpoint import checked_files, outline_checkpoint
from factedit.files.checkpoint_places import check_tensor_places
from factedit.files.checkpoint_weights import StoredTensor, check_sizes, check_weights, stored_dtype
from factedit.files.classes import class_of
from factedit.files.embedded import EMBEDDED, convert, outline_embedded
from factedit.files.gguf_stream import open_gguf_streamed
from factedit.files.tensors_on_disk import OnDisk, TensorsOnDisk
from factedit.paths import user_path

Streamed = tuple[Any, Any, OnDisk]  # the model, its fast tokenizer, its tensors


def open_streamed(
    source: str, *, dtype: str, revision: str | None = None, instead: Mapping[str, str] | None = None
) -> Streamed:
    """Return a causal language model with its buffers and without its weights, its fast tokenizer, and its tensors.

    Args:
        source: an embedded name, a folder, a .gguf file, or a hub id.
        dtype: of the weights once read, as torch names it, or `stored`.
        revision: of a hub id.
        instead: of a folder: tensors, by their names in its files, that are read from another file in it.

    Raises:
        ModelError, UnsafeFile: as `load_checkpoint` and `load_gguf` do.
        NotStreamed: weights that are stored quantised in a folder, or in another form than the model has them.
    """
    import torch

    if source.lower().endswith(".gguf"):
        config, tokenizer, files = open_gguf_streamed(user_path(source))
        lm = without_weights(config).to(torch.float32 if dtype == "stored" else getattr(torch, dtype)).eval()
        lm.config._name_or_path = lm.name_or_path = ""  # there is no folder to name
        return lm, tokenizer, files
    return _open_folder(source, dtype, revision, instead or {})


def _open_folder(source: str, dtype: str, revision: str | None, instead: Mapping[str, str]) -> Streamed:
    """`open_streamed` of safetensors."""
    import torch

    if source in EMBEDDED:  # whose folder has a vocabulary in place of a tokenizer
        folder, what = convert(EMBEDDED[source]), source
        stored = check_weights(folder, what=what)
        config, tokenizer = outline_embedded(source)
    else:
        folder, what, checked = checked_files(source, revision)
        if checked.quantised:
            raise NotStreamed(f"{what} is stored quantised and not streamed. Load it whole, without --stream.")
        stored = checked.stored
        config, tokenizer = outline_checkpoint(str(folder))
    check_sizes(config, stored, what=what)
    dtype = stored_dtype(stored) if dtype == "stored" else dtype
    lm = without_weights(config).to(getattr(torch, dtype)).eval()
    lm.config._name_or_path = lm.name_or_path = source if source in EMBEDDED else str(folder)
    names = _names(lm, stored, what)
    tied = set(getattr(lm, "all_tied_weights_keys", ()))
    missing = [name for name, _ in lm.named_parameters() if name not in tied and name not in names]
    if missing:
        raise NotStreamed(
            f"{what} has {len(missing)} tensors in none of its files by their names, e.g. {missing[0]!r}: they are "
            "stored in another form. Load the whole model, without --stream."
        )
    check_tensor_places(lm, set(stored) - set(names.values()), stored, folder, what)
    stored |= {name: StoredTensor(file, stored[name].kind, stored[name].shape) for name, file in instead.items()}
    return lm, tokenizer, TensorsOnDisk(folder, {place: stored[name] for place, name in names.items()}, names)


def _names(lm: Any, stored: dict[str, StoredTensor], what: str) -> dict[str, str]:
    """The names in the files by those in the model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    model_tensors, prefix, names = lm.state_dict(keep_vars=True), f"{lm.base_model_prefix}.", dict[str, str]()
    renamed = [change for change in get_model_conversion_mapping(lm) if isinstance(change, WeightRenaming)]
    for name, tensor in stored.items():
        new, _ = rename_source_key(name, renamed, [], lm.base_model_prefix, model_tensors)
        place = next((n for n in (name, prefix + name, name.removeprefix(prefix), new) if n in model_tensors), None)
        if place is None:
            continue
        if tuple(model_tensors[place].shape) != tensor.shape:
            raise ModelError(
                f"{what} has {name!r} as {list(tensor.shape)}, and its config.json asks for "
                f"{list(model_tensors[place].shape)}. They do not belong together; get them again."
            )
        names[place] = name
    return names


def without_weights(config: Any) -> Any:
    """Return the causal language model of a configuration, its buffers computed, its parameters on `meta`."""
    from transformers.initialization import no_init_weights

    with _parameters_on_meta(), no_init_weights():
        return class_of(config)(config)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Inside, a parameter that a module is given goes to `meta` at once; memory that nobody touches is not taken."""
    from torch import nn

    register = nn.Module.register_parameter

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)

    nn.Module.register_parameter = to_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
