"""A model whose layers come from disk gives the bits of the one in memory, with two layers of it in memory."""

from __future__ import annotations

import gc
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind

from conftest import random_moment, tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.edit.method_table import make_method
from factedit.errors import DataError, ModelError, NotStreamed, ResourceError, UnsupportedModel, UsageError
from factedit.evaluate.run import evaluate_methods
from factedit.evaluate.store import ResultStore
from factedit.facts import EditRequest, FactRecord
from factedit.files.gguf_reader import open_gguf
from factedit.files.gguf_stream import GgufOnDisk
from factedit.files.tensors_on_disk import TensorsOnDisk
from factedit.memory import CACHES_OF_SHAPES, SHAPES_IN_MEMORY, SHAPES_KEPT
from factedit.models.adapter import EditableModel
from factedit.models.load import load
from factedit.models.streamed import StreamedModel
from factedit.stats.collect import collect, token_pieces
from factedit.trace.sweep import trace_fact
from run_command import ok, refused
from tiny_folder import save_sharded
from tiny_gguf import gemma3_lm, llama_lm, write

CONTEXTS = ["So it was. {}", "Then there is this: {}"]
FACTS = (("Seattle", "{} is in", "France"), ("LeBron James", "{} plays", "French"), ("Paris", "{} is", "football"))
REQUESTS = [EditRequest(subject=s, prompt=p, target_new=t, target_true="Seattle") for s, p, t in FACTS]


def gguf_file(path: Path, kind: Kind = Kind.Q8_0) -> Path:
    """A tiny Llama or Gemma 3 by the name of the file, whose wide matrices are quantised."""
    lm = llama_lm(intermediate_size=64) if "llama" in path.name else gemma3_lm(intermediate_size=64)
    return write(path, lm, kind=kind)


@pytest.fixture(scope="module", params=["gpt2", "gemma3_text", "gpt_neox", "llama.gguf", "gemma3.gguf"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[EditableModel, Any]:
    """A model in memory and the same on disk."""
    source = tmp_path_factory.mktemp("both") / request.param
    if source.suffix == ".gguf":
        gguf_file(source)
    else:
        tiny_lm(request.param).save_pretrained(source)
        tiny_tokenizer().save_pretrained(source)
    return load(str(source)), load(str(source), stream=True)


def save_deep(folder: Path) -> Path:
    """A tiny GPT-2 of four layers."""
    tiny_lm("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> StreamedModel:
    model = load(str(save_deep(tmp_path_factory.mktemp("alone"))), stream=True)
    assert isinstance(model, StreamedModel)
    return model


def test_fewer_shapes_of_products_are_kept_of_a_streamed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.memory._set_here", {})
    for name in CACHES_OF_SHAPES:
        monkeypatch.setenv(name, "")  # so that what is set here goes afterwards
        monkeypatch.delenv(name)
    save_deep(tmp_path)
    load(str(tmp_path))
    assert {os.environ[name] for name in CACHES_OF_SHAPES} == {str(SHAPES_IN_MEMORY)}
    load(str(tmp_path), stream=True)
    assert {os.environ[name] for name in CACHES_OF_SHAPES} == {str(SHAPES_KEPT)}


def edits(model: EditableModel, name: str, **settings: Any) -> tuple[Edit, ...]:
    moments = lambda m, _l: random_moment(m.d_mlp)  # noqa: E731
    method = make_method(name, model, moments, steps=4, context_templates=CONTEXTS, **settings)
    return method.edit(REQUESTS).edits


def same(left: tuple[Edit, ...], right: tuple[Edit, ...]) -> bool:
    pairs = [
        (a.tensors(), b.tensors())
        for x, y in zip(left, right, strict=True)
        for a, b in zip(x.effects, y.effects, strict=True)
    ]
    assert pairs
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)


def test_it_is_the_same_model(both: tuple[EditableModel, Any]) -> None:
    memory, disk = both
    assert disk.fingerprint() == memory.fingerprint()
    assert disk.setup_fingerprint() == memory.setup_fingerprint()
    for layer in (3, 0):
        assert torch.equal(disk.weight(layer), memory.weight(layer))
        assert disk.matrix(layer).shape == memory.matrix(layer).shape
    changed = memory.weight(1) * 1.5
    with memory.with_weight(1, changed), disk.with_weight(1, changed):
        assert disk.fingerprint() == memory.fingerprint()
        assert torch.equal(disk.weight(1), changed)
    assert disk.fingerprint() == memory.fingerprint()


def test_a_trace(both: tuple[EditableModel, Any]) -> None:
    asked: dict[str, Any] = {"noise": 0.5, "samples": 2}
    found = [trace_fact(m, "The Space Needle is in downtown", "The Space Needle", **asked) for m in both]
    assert found[0].scores == found[1].scores
    assert found[0].clean == found[1].clean


def test_edits_of_single_facts_and_of_many(both: tuple[EditableModel, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.engine.budget.LEAST_TOKENS", 4096)  # all facts run together in memory, too
    memory, disk = both
    assert same(edits(memory, "rome", layer=1), edits(disk, "rome", layer=1))
    assert same(edits(memory, "memit", layers=(1, 2)), edits(disk, "memit", layers=(1, 2)))
    assert same(edits(memory, "rome-joint", layers=(1, 2)), edits(disk, "rome-joint", layers=(1, 2)))


def test_second_moments(both: tuple[EditableModel, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", 64)  # many batches of a part
    rows = list(token_pieces(both[0], ["Paris is the capital of France. " * 5, "Seattle. " * 9] * 4, length=30))
    memory, disk = (collect(model, [1, 2], rows, tokens=300) for model in both)
    assert all(torch.equal(memory[n].mean(), disk[n].mean()) for n in (1, 2))  # type: ignore[union-attr]


def test_an_evaluation(both: tuple[EditableModel, Any], tmp_path: Path) -> None:
    records = [
        FactRecord(case_id=str(n), request=r, paraphrases=(f"So {r.text}",), neighborhood=("Basketball is in",))
        for n, r in enumerate(REQUESTS)
    ]
    found = []
    for name, model in zip(("memory", "disk"), both, strict=True):
        method = make_method("ft", model, lambda m, _l: random_moment(m.d_mlp), steps=2)
        with ResultStore(tmp_path / f"{name}.sqlite") as store:
            results = evaluate_methods(model, records, [method], store, dataset="d").results
        found.append({(m, case): row["scores"] for m, own in results.items() for case, row in own.items()})
    assert found[0] == found[1]


# -- what it takes ---------------------------------------------------------------------------------


def watched(model: StreamedModel, work: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Layers in memory at most, and passes, while work is done."""
    layer = model.pass_bytes / model.n_layer
    alive: dict[int, int] = {}
    most = [0]
    read = TensorsOnDisk.read
    lock = threading.Lock()

    def counted(self: TensorsOnDisk, name: str, dtype: torch.dtype) -> torch.Tensor:
        found = read(self, name, dtype)
        with lock:
            number = len(alive)
            alive[number] = found.numel() * 4
            weakref.finalize(found.untyped_storage(), alive.__setitem__, number, 0)
            most[0] = max(most[0], sum(alive.values()))
        return found

    monkeypatch.setattr(TensorsOnDisk, "read", counted)
    gc.collect()
    before = model.files.bytes_read
    work()
    return most[0] / layer, (model.files.bytes_read - before) / model.pass_bytes


def test_two_layers_are_in_memory_and_each_comes_once_for_all(
    gpt2: StreamedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lambda: trace_fact(gpt2, "The Space Needle is in downtown", "The Space Needle", noise=0.5)  # noqa: E731
    held, passes = watched(gpt2, run, monkeypatch)
    assert held <= 2.01
    assert passes <= 3 * 1.05, "clean, corrupted, and all restorations"


def test_gradients_read_a_layer_once_more(gpt2: StreamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    gpt2.fingerprint()
    held, passes = watched(gpt2, lambda: edits(gpt2, "rome", layer=1, stop_loss=0.0), monkeypatch)
    assert held <= 3.6, "beside two layers the edited one's matrices wait for the gradients"
    # stems, up to the layer, keys; then four times there and three times back through layers 1 to 3 of 4
    assert passes <= 3 + (4 + 3) * 3 / 4


def test_the_next_layer_is_read_while_this_one_computes(gpt2: StreamedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[str] = []
    read = TensorsOnDisk.read

    def noted(self: TensorsOnDisk, name: str, dtype: torch.dtype) -> torch.Tensor:
        readers.append(threading.current_thread().name)
        return read(self, name, dtype)

    with gpt2.present(0):
        pass
    monkeypatch.setattr(TensorsOnDisk, "read", noted)
    trace_fact(gpt2, "Paris is in", "Paris", noise=0.5, samples=1)
    ahead = sum(name.startswith("factedit-layers") for name in readers)
    assert ahead >= 0.6 * len(readers)


# -- bad input -------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4000)


def touched(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("damage", [cut, touched, replaced, Path.unlink])
def test_weights_that_change_meanwhile_are_one_error(damage: Callable[[Path], object], tmp_path: Path) -> None:
    for source, file in (
        (save_sharded(tmp_path / "model"), tmp_path / "model" / "model-2.safetensors"),
        (gguf_file(tmp_path / "llama.gguf"), tmp_path / "llama.gguf"),
    ):
        model = load(str(source), stream=True)
        damage(file)
        with pytest.raises(DataError, match=f"{file.name} were changed while the model was read from them"):
            model.fingerprint()


def test_a_gguf_file_that_is_replaced_before_its_tensors_are_read_is_told(tmp_path: Path) -> None:
    """Its header was read, then it was opened again: places of one file in another's bytes."""
    path = gguf_file(tmp_path / "llama.gguf")
    header = open_gguf(path)
    gguf_file(tmp_path / "other.llama.gguf", Kind.F32).replace(path)
    with pytest.raises(DataError, match=r"llama\.gguf were changed .*its header is another"):
        GgufOnDisk(path, header)
    GgufOnDisk(path, open_gguf(path))


def test_a_shard_that_is_missing_is_named_before_anything_is_read(tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "model")
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match=r"The weights model-2\.safetensors are missing from"):
        load(str(folder), stream=True)
    cut(gguf_file(tmp_path / "llama.gguf"))
    with pytest.raises(DataError, match=r"would lie at bytes .* and the file has"):
        load(str(tmp_path / "llama.gguf"), stream=True)


@pytest.fixture
def unreadable(gpt2: StreamedModel, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Inside, no tensor can be read."""

    def fail(name: str, _dtype: torch.dtype) -> torch.Tensor:
        raise DataError(f"{name} cannot be read")

    @contextmanager
    def failing() -> Iterator[None]:
        with monkeypatch.context() as patched:
            patched.setattr(gpt2.files, "read", fail)
            yield

    return failing


@torch.no_grad()
def test_a_matrix_that_cannot_be_put_back_at_once_is_not_left_in_its_layer(
    gpt2: StreamedModel, unreadable: Callable[[], AbstractContextManager[None]]
) -> None:
    ids = torch.tensor([[5, 9, 200]])
    plain, weight = gpt2.lm(input_ids=ids).logits, gpt2.weight(3).clone()
    with ExitStack() as stack:
        stack.enter_context(gpt2.with_weight(3, 2 * weight))
        assert not torch.equal(gpt2.lm(input_ids=ids).logits, plain)  # layer 3 is the last, and stays
        with unreadable(), pytest.raises(DataError, match="cannot be read"):
            stack.close()
    assert torch.equal(gpt2.weight(3), weight)
    assert torch.equal(gpt2.lm(input_ids=ids).logits, plain)


def test_a_layer_whose_reading_ahead_failed_is_read_again(
    gpt2: StreamedModel, unreadable: Callable[[], AbstractContextManager[None]]
) -> None:
    with gpt2.present(0):
        pass
    with unreadable(), gpt2.present(0, 1), pytest.raises(DataError, match="cannot be read"), gpt2.present(1):
        pass
    with gpt2.present(1):
        assert not gpt2.layers[1].mlp.c_proj.weight.is_meta


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_files_are_closed_when_the_model_is_gone(tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "model")

    def opened() -> int:
        return sum(str(folder) in str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())

    model = load(str(folder), stream=True)
    assert opened() > 1
    del model
    gc.collect()
    assert opened() == 0


def test_what_cannot_be_streamed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="A model in memory"):
        load(tiny_lm("gpt2"), tiny_tokenizer(), stream=True)
    tiny_lm("mixtral").save_pretrained(tmp_path / "mixtral")
    tiny_tokenizer().save_pretrained(tmp_path / "mixtral")
    with pytest.raises(NotStreamed, match=r"Load (the whole model|it whole)"):
        load(str(tmp_path / "mixtral"), stream=True)
    assert not load(str(tmp_path / "mixtral"), stream=None).streamed, "where it can be is not needed"
    with pytest.raises(UsageError, match=r"lora tunes a copy of the whole model.*without --stream"):
        make_method("lora", load(str(save_sharded(tmp_path / "whole")), stream=True), random_moment)  # type: ignore[arg-type]
    said = refused(capsys, 2, "stats", save_sharded(tmp_path / "model"), "--workers", "2", "--stream")
    assert "Workers hold the model" in said


def test_too_little_memory_is_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole model needs its numbers; a streamed one what stays and two of its four layers."""
    folder, file = save_deep(tmp_path / "model"), gguf_file(tmp_path / "llama.gguf")
    lm = tiny_lm("gpt2")
    whole = 4 * sum(p.numel() for p in lm.parameters())
    least = whole - 2 * 4 * sum(p.numel() for p in lm.transformer.h[0].parameters())
    free = [0.0]
    monkeypatch.setattr("factedit.memory.available_memory", lambda: free[0])
    for free[0], stream in ((whole, False), (least, True)):
        load(str(folder), stream=stream)
    monkeypatch.setattr(TensorsOnDisk, "read", lambda *_: pytest.fail("something was read"))
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.from_pretrained", lambda *_: pytest.fail("read"))
    for free[0], stream, advice in ((whole - 1, False, "--stream"), (least - 1, True, "--dtype bfloat16")):
        with pytest.raises(ResourceError, match=rf"takes 0\.00 GB, and 0\.00 GB are free\. .*{advice}"):
            load(str(folder), stream=stream)
    with pytest.raises(ResourceError, match=r"llama\.gguf takes .*--stream"):
        load(str(file))


def test_weights_that_are_not_finite_are_refused_where_they_are_read(tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    with torch.no_grad():
        lm.transformer.h[3].mlp.c_fc.weight[0, 0] = float("nan")
    lm.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = load(str(tmp_path), stream=True)
    with pytest.raises(UnsupportedModel, match=r"h\.3\.mlp\.c_fc\.weight holds values that are not finite"):
        trace_fact(model, "Paris is in", "Paris", noise=0.5)


def test_the_command_says_beforehand_what_it_will_read(tmp_path: Path) -> None:
    folder = save_sharded(tmp_path / "model")
    shown = ok("trace", folder, "Paris is in France", "--subject", "Paris", "--samples", "2", "--stream", "-v")
    assert "for every pass through its layers" in " ".join(shown.split())


def test_a_plan_of_a_streamed_command_says_what_it_will_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_sharded(tmp_path / "model")
    asked = ("trace", folder, "Paris is in France", "--subject", "Paris", "--samples", "2", "--dry-run")
    shown = " ".join(ok(*asked, "--stream", "--json", tmp_path / "plan.json").split())
    assert "in 3 passes through the layers: about" in shown
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["streamed"]["passes"] == 3
    monkeypatch.setattr("factedit.work.machines.available_memory", lambda: plan["memory"] * 1.01)
    assert "too little" in ok(*asked)
    assert "fits" in ok(*asked, "--stream").partition("this machine")[2].partition("RTX")[0]
    next(iter(sorted(folder.glob("*.safetensors")))).unlink()
    assert "are missing from" in refused(capsys, 1, *asked, "--stream")
