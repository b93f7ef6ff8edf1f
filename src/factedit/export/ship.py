"""Ship edits: as a merged model, a LoRA adapter, or a patched GGUF file; each in a folder with its card and licence.

| form | what is written | exact |
|---|---|---|
| `merged` | a folder in the transformers format, sharded like the base | to the bit, unless stored narrower |
| `peft` | a PEFT LoRA adapter | to rounding in the forward pass; to the bit once merged, for rank-one edits |
| `llama-lora` | a LoRA adapter file of llama.cpp | the factors to the bit |
| `gguf` | the base's .gguf file with the edited tensors rewritten | as exact as the kind it is stored in |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from factedit.cache import locked, replace_files, settled, sha256_file
from factedit.edit.artefact import Edit, weights_of
from factedit.edit.effects.effect import WeightEffect
from factedit.edit.effects.weights import places_of, weights_changed
from factedit.errors import EditError, UsageError
from factedit.export.base_file import base_file, check_rest
from factedit.export.canary import canaries, write_canaries
from factedit.export.card import card, plain
from factedit.export.gguf_patch import Patched, patch_gguf
from factedit.export.licence import Licence, write_licence
from factedit.export.lora import read_llama_lora, write_llama_lora, write_peft
from factedit.export.naming import base_name, how_to_get
from factedit.export.notes import RECORD, on_type
from factedit.export.prove import ExportProof, compare_logits, next_logits, prompts_of
from factedit.export.serving import section
from factedit.files.checkpoint_checks import WEIGHTS
from factedit.files.save import bytes_of, shards_of, tensors_of, write_index, write_rest, write_shards
from factedit.models.adapter import EditableModel
from factedit.models.families import split_name
from factedit.models.load import load
from factedit.outputs import check_apart, check_writable, unchanged_files
from factedit.safe import parse_json, plain_json
from factedit.stack.stand import check_made_for

FORMS = {
    "merged": "a folder in the transformers format, sharded like the base",
    "peft": "a PEFT LoRA adapter, for transformers, vLLM and others",
    "llama-lora": "a LoRA adapter file of llama.cpp",
    "gguf": "the base's .gguf file with only the edited tensors rewritten",
}
ADAPTER, MODEL = "adapter.gguf", "model.gguf"
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Shipped:
    """An export.

    Attributes:
        folder: where it is.
        form: one of `FORMS`.
        proof: how it compares with the edited model in memory.
        stored: of tensors that were stored anew, how exactly they hold the change.
        licence: of the base, with its duties.
        bytes: of the whole folder.
        advice: of an adapter whose base does not load by its name: what to do.
        notes: what else is to be said.
    """

    folder: Path
    form: str
    proof: ExportProof
    stored: tuple[Patched, ...]
    licence: Licence
    bytes: int
    advice: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the machine's own paths."""
        proof = self.proof.as_json() | {"stored": [asdict(patched) for patched in self.stored]}
        return {"form": self.form, "bytes": self.bytes, "licence": self.licence.name, **proof}


def _check_holds(edits: Sequence[Edit]) -> None:
    """Refuse edits that no form holds, saying what does."""
    other = next((e for edit in edits for e in edit.effects if not isinstance(e, WeightEffect)), None)
    if other is not None:
        raise EditError(
            f"The edit acts by {other.kind!r}, which is no change of weights: none of {', '.join(FORMS)} holds it. "
            "Hand on the edit's own folder, which factedit.load_edited puts on a model of transformers."
        )


@dataclass(frozen=True)
class _Job:
    model: EditableModel
    edits: Sequence[Edit]
    base: str
    rank: int | None
    truncate: bool
    store_as: str | None
    gguf: str | Path | None
    prompts: list[tuple[int, ...]]
    requantise: bool = False


def ship(
    model: EditableModel,
    edits: Sequence[Edit],
    folder: str | Path,
    form: str,
    *,
    base: str = "",
    rank: int | None = None,
    truncate: bool = False,
    store_as: str | None = None,
    gguf: str | Path | None = None,
    requantise: bool = False,
    prompts: Sequence[str] = (),
    force: bool = False,
    overwrite: bool = False,
) -> Shipped:
    """Write edits in a form that others can use, load it back, and say how it compares.

    Args:
        model: the base, unedited; the same bits afterwards.
        edits: in order.
        folder: where to: a new or empty folder.
        form: one of `FORMS`.
        base: how others find the base model, by hub id or name; default: its hub id, or its folder's name.
        rank: `peft`: of every change, padded with zeros.
        truncate: `peft`: cut the edits down to that rank, and say what is lost.
        store_as: `merged`: the type of all weights (F32, F16, BF16); `gguf`: of the edited tensors (also Q8_0).
        gguf: `gguf`: the base's file; default: an embedded model's own.
        requantise: `gguf`: quantise edited tensors anew in the kind they are stored in.
        prompts: further prompts to compare on.
        force: also edits that were made for other weights.
        overwrite: also in place of an older export; of its files those that are as they were written.

    Raises:
        UsageError: an unknown form or option, no edits, a folder inside the model's own.
        EditError: the form cannot hold the change; the folder holds something else; the export is not what it must be.
        ResourceError: the disk is full or not writable; nothing was changed.
    """
    if form not in FORMS:
        raise UsageError(f"The form {form!r} is not one of {', '.join(FORMS)}.")
    if not edits:
        raise UsageError("There is nothing to ship: name at least one edit.")
    if requantise and form != "gguf":
        raise UsageError(f"Quantising anew is for 'gguf'; {form!r} has no kind of its own ('factedit apply' has).")
    _check_holds(edits)
    target = settled(Path(folder))
    read = [Path(str(name)) for name in (gguf, getattr(model.lm, "name_or_path", "")) if name]
    check_apart([target], read)
    _check_target(target, overwrite)
    check_writable(target)
    notes = check_made_for(model, edits, force=force)
    base = base_name(model, base)
    job = _Job(model, edits, base, rank, truncate, store_as, gguf, prompts_of(model, edits, prompts), requantise)
    made: list[Shipped] = []

    def build(place: Path) -> None:
        shipped = _written(job, place, target, form)
        chosen = canaries(model, edits)
        write_canaries(place, chosen, form, base)
        shown = [[plain(canary.prompt), plain(canary.expected), plain(canary.unedited)] for canary in chosen]
        text = card(
            base, model.fingerprint(), edits, form, shipped.proof, shipped.licence, advice=shipped.advice,
            serving=section(form, base, place, chosen, shown),
        )  # fmt: skip
        (place / "README.md").write_text(text, encoding="utf-8")
        files = {p.relative_to(place).as_posix(): sha256_file(p) for p in sorted(place.rglob("*")) if p.is_file()}
        record = {**shipped.as_json(), "base": base, "edits": [edit.identity for edit in edits], "files": files}
        (place / RECORD).write_text(plain_json(record) + "\n", encoding="utf-8")
        made.append(replace(shipped, notes=(*notes, *on_type(model, form, narrowed=bool(shipped.stored)))))

    with locked(target):
        old = {*_check_target(settled(target), overwrite), RECORD}
        needed = bytes_of(tensors_of(model.lm)) if form == "merged" else 0
        replace_files(build, target, old=old, last=RECORD, needed=needed)
    return made[0]


def _check_target(target: Path, overwrite: bool) -> set[str]:
    """The files of an older export that may be replaced; refused is a folder of anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    if not (target / RECORD).is_file():
        raise EditError(f"{target} exists and is not an export; name another folder.")
    if not overwrite:
        raise EditError(
            f"{target} holds an export, which is not replaced unasked. Name another folder, or replace it with --force."
        )
    try:
        said = parse_json((target / RECORD).read_text(encoding="utf-8"))["files"]
        return unchanged_files(target, dict(said))
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _written(job: _Job, place: Path, target: Path, form: str) -> Shipped:
    logits = {"base": next_logits(job.model, job.prompts)}
    with weights_changed(job.model, weights_of(job.edits)):
        logits["memory"] = next_logits(job.model, job.prompts)
    job.model.let_go()
    stored, logits["shipped"], loaded_with = _WRITERS[form](job, place)
    proof = compare_logits(job.model, job.edits, job.prompts, logits, loaded_with)
    licence = write_licence(job.model, place)
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    told = how_to_get(job.base, job.model.fingerprint()) if form == "peft" else ""
    return Shipped(target, form, proof, tuple(stored), licence, size, told)


def _merged(job: _Job, place: Path) -> tuple[list[Patched], Tensor, str]:
    if job.store_as not in (None, *_TYPES):
        raise UsageError(f"A merged model cannot be stored as {job.store_as!r}. Known: {', '.join(_TYPES)}.")
    model, dtype = job.model, _TYPES.get(job.store_as or "", job.model.dtype)
    changes, shards = weights_of(job.edits), shards_of(model.lm)
    narrowed = places_of(changes) if dtype != model.dtype else ()
    before, report = {at: model.weight(*at).float().clone() for at in narrowed}, list[Patched]()
    with weights_changed(model, changes):
        tensors = {name: _as(tensor.to("meta"), dtype) for name, tensor in tensors_of(model.lm).items()}
        write_rest(model.lm, model.tokenizer, place, dtype=dtype)
        write_shards(tensors, shards, place, lambda name: _as(model.tensor(name), dtype))
        for where, old in before.items():
            name, new = f"{model.matrix(*where).name} {split_name(where[1])[1]}".strip(), model.weight(*where)
            delta, kept = new.float() - old, new.to(dtype).float() - old
            error = float((kept - delta).norm() / delta.norm().clamp(min=1e-30))
            report.append(Patched(name, _short(model.dtype), _short(dtype), error))
    if set(shards.values()) != {WEIGHTS}:
        write_index(place, shards, bytes_of(tensors))
    again = load(str(place), dtype=str(dtype).removeprefix("torch."), stream=model.streamed)
    logits = next_logits(again, job.prompts)
    if dtype == model.dtype:
        with weights_changed(model, changes):
            if again.fingerprint() != model.fingerprint():
                raise EditError("The merged model read back is not the edited one, to the bit; please report this.")
    return report, logits, f"transformers {version('transformers')}"


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _peft(job: _Job, place: Path) -> tuple[list[Patched], Tensor, str]:
    lost = write_peft(job.model, job.edits, place, base=job.base, rank=job.rank, truncate=job.truncate)
    cut = [Patched("all matrices", "the edits' rank", f"rank {job.rank}", lost)] if lost else []
    if job.model.streamed or find_spec("peft") is None:
        from factedit.export.read_peft import read_peft

        with weights_changed(job.model, read_peft(job.model, place)):
            logits = next_logits(job.model, job.prompts)
        why = "peft would load the whole model" if job.model.streamed else "peft is not installed"
        return cut, logits, f"factedit's own reader ({why})"
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(job.model.lm, place)
    try:
        logits = next_logits(job.model, job.prompts, wrapped.eval())
    finally:
        wrapped.unload()
    return cut, logits, f"peft {version('peft')}"


def _llama_lora(job: _Job, place: Path) -> tuple[list[Patched], Tensor, str]:
    write_llama_lora(job.model, job.edits, place / ADAPTER)
    with weights_changed(job.model, read_llama_lora(place / ADAPTER)):
        logits = next_logits(job.model, job.prompts)
    return [], logits, "factedit's GGUF reader"


def _gguf(job: _Job, place: Path) -> tuple[list[Patched], Tensor, str]:
    report = patch_gguf(
        base_file(job.model, job.gguf),
        job.model,
        job.edits,
        place / MODEL,
        store_as=job.store_as,
        requantise=job.requantise,
    )
    again = load(str(place / MODEL), device=str(job.model.device), stream=job.model.streamed)
    if not again.fetched and not job.model.fetched:
        check_rest(job.model, again, job.edits)
    return report, next_logits(again, job.prompts), "factedit's GGUF reader"


_WRITERS = {"merged": _merged, "peft": _peft, "llama-lora": _llama_lora, "gguf": _gguf}


def _short(dtype: torch.dtype) -> str:
    return next((name for name, known in _TYPES.items() if known == dtype), str(dtype))
