"""Which experts a fact is written into, in plain numbers; values that were kept; names of trained networks."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from factedit.edit.experts import chosen_key, expert_shares, experts_of, usual
from factedit.edit.kept_values import forget_values, keeping_values, kept
from factedit.edit.manifest import canonical, sealed
from factedit.edit.objective import Losses
from factedit.edit.trained import (
    SUFFIX,
    TrainedRecord,
    default_folder,
    find_folder,
    method_name,
    read_network_tensors,
    read_record,
    text_hashes,
    train_command,
)
from factedit.edit.value import Value
from factedit.errors import DataError, EditError, UsageError
from factedit.facts import EditRequest

FACT = EditRequest(subject="Paris", prompt="{} is in", target_new="Rome")
SLICES = {"out.0": slice(0, 2), "out.1": slice(2, 4), "out.2": slice(4, 6)}


class Experts:
    """Three experts of width two at layer 1; layer 0 has one MLP."""

    name = "tiny"

    def mixture(self, layer: int) -> Any:
        if layer == 0:
            return None
        parts = lambda joined: {name: joined[own] for name, own in SLICES.items() if bool(joined[own].any())}  # noqa: E731
        return SimpleNamespace(slices=SLICES, parts=parts)


MODEL: Any = Experts()
MEAN = torch.tensor([1.0, 2.0, 0.5, 0.0, 0.0, 0.0])  # after other texts the second expert gets the token, too
BARE = torch.tensor([2.0, 4.0, 0.0, 0.0, 0.0, 0.0])


def chosen(choice: Any, mean: Tensor = MEAN, bare: Tensor = BARE, layer: int = 1) -> Tensor:
    return chosen_key(MODEL, layer, FACT, mean, bare, choice)


# -- experts ----------------------------------------------------------------------------------------


def test_each_expert_has_its_share_of_the_key() -> None:
    assert torch.equal(chosen("each"), MEAN)
    assert usual("each")
    assert not usual("bare")


def test_of_the_bare_prompts_experts_the_parts_of_the_mean_are_kept() -> None:
    assert chosen("bare").tolist() == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert MEAN.tolist() == [1.0, 2.0, 0.5, 0.0, 0.0, 0.0], "the key that was found stays"


def test_contexts_that_go_elsewhere_are_refused_where_that_is_asked_for() -> None:
    with pytest.raises(
        EditError, match=r"^'Paris is in': at layer 1 .* is sent to out\.0 in the bare prompt and after ot"
    ) as e:
        chosen("refuse")
    assert "to out.1, too. Edit each of them (experts=each)" in str(e.value)
    assert torch.equal(chosen("refuse", mean=BARE), BARE), "where all contexts agree there is nothing to refuse"


@pytest.mark.parametrize(("choice", "said"), [("each", "each by its share"), ("bare", "those of the bare prompt")])
def test_which_experts_are_edited_is_told(choice: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "factedit"):
        chosen(choice)
        chosen(choice, mean=BARE)
    assert [own.getMessage() for own in caplog.records] == [
        f"'Paris is in': at layer 1 out.0 in the bare prompt, in other contexts out.1, too; edited: {said}"
    ]


@pytest.mark.parametrize("choice", ["each", "bare", "refuse"])
def test_a_layer_with_one_mlp_has_nothing_to_choose(choice: str) -> None:
    assert chosen(choice, layer=0) is MEAN


def test_the_shares_of_a_change_are_of_what_it_is_at_the_key() -> None:
    """key · direction expert by expert: 1·3 + 2·1 and 0.5·4 of seven."""
    direction = torch.tensor([3.0, 1.0, 4.0, 9.0, 9.0, 9.0])
    assert expert_shares(MODEL, 1, MEAN, direction) == pytest.approx({"out.0": 5 / 7, "out.1": 2 / 7})
    assert expert_shares(MODEL, 0, MEAN, direction) == {}
    assert expert_shares(MODEL, 1, MEAN, 0 * direction) == {"out.0": 0.0, "out.1": 0.0}, "nothing is divided by nothing"
    assert experts_of(MODEL, [(0, MEAN, direction)]) == {}
    found = experts_of(MODEL, [(0, MEAN, direction), (1, MEAN, direction)])
    assert found == {"experts": {"1": pytest.approx({"out.0": 5 / 7, "out.1": 2 / 7})}}


# -- values that are kept ---------------------------------------------------------------------------


def value(number: float) -> Value:
    own = [torch.full((n,), number) for n in (2, 2, 3, 3)]
    return Value(*own, (Losses(number, 1.0, 2.0, 3.0), Losses(0.0, 0.5, 0.25, 0.125)))


def find(number: float, found: list[float]) -> list[Value]:
    found.append(number)
    return [value(number), value(number + 1)]


def test_values_come_back_to_the_bit_in_their_order_and_type(tmp_path: Path) -> None:
    found: list[float] = []
    with keeping_values(tmp_path):
        for _ in range(2):
            own = kept(lambda: find(1 / 3, found), Value, 2, lambda: ["a", 1], torch.device("cpu"))
            other = kept(lambda: find(7.0, found), Value, 2, lambda: ["a", 2], torch.device("cpu"))
    assert found == [1 / 3, 7.0]
    for mine, expected in zip([*own, *other], [value(1 / 3), value(1 / 3 + 1), value(7.0), value(8.0)], strict=True):
        for name in ("key", "bare_key", "initial", "delta"):
            assert torch.equal(getattr(mine, name), getattr(expected, name))
        assert mine.losses == expected.losses


def test_without_a_folder_progress_is_told_and_nothing_kept(tmp_path: Path) -> None:
    told, found = list[int](), list[float]()
    with keeping_values(None, told.append):
        for _ in range(2):
            kept(lambda: find(1.0, found), Value, 2, lambda: pytest.fail("no key is needed"), torch.device("cpu"))
    assert (told, found) == ([2, 2], [1.0, 1.0])
    kept(lambda: find(1.0, found), Value, 2, lambda: pytest.fail("no key is needed"), torch.device("cpu"))
    assert told == [2, 2], "outside nobody is told"


def test_an_inner_block_is_its_own_and_the_outer_one_goes_on(tmp_path: Path) -> None:
    found: list[float] = []
    work = lambda: kept(lambda: find(1.0, found), Value, 2, lambda: "key", torch.device("cpu"))  # noqa: E731
    with keeping_values(tmp_path / "outer"):
        work()
        with keeping_values(tmp_path / "inner"):
            work()
        work()
    assert found == [1.0, 1.0], "found once in either"
    assert {path.parent.name for path in tmp_path.rglob("*.values")} == {"outer", "inner"}


def test_values_are_forgotten_and_what_else_lies_there_is_not(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with keeping_values(tmp_path / name):
            kept(lambda: find(1.0, []), Value, 2, lambda: "key", torch.device("cpu"))
    (tmp_path / "two" / "notes.txt").write_text("mine")
    for name in ("one", "two", "nothing"):
        forget_values(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["notes.txt"]


# -- names of trained networks ----------------------------------------------------------------------


def named(name: str = "some/model", fingerprint: str = "f" * 64) -> Any:
    return SimpleNamespace(name=name, fingerprint=lambda: fingerprint)


@pytest.mark.parametrize(
    ("kind", "data", "name"),
    [
        ("mend", "general", "mend"),
        ("mend", "zsre", "mend-zsre"),
        ("ke", "counterfact", "ke-cf"),
        ("ke", "my-own", "ke-my-own"),
    ],
)
def test_a_network_serves_the_method_of_its_data_and_its_command_names_them(kind: str, data: str, name: str) -> None:
    assert method_name(kind, data) == name
    assert train_command(named(), name) == f"factedit train {kind} some/model --data {data}"
    assert train_command(named(), name, Path("here")).endswith(f"--data {data} --out here")
    assert len(set(SUFFIX.values())) == len(SUFFIX), "no two sets serve one method"


def test_a_network_is_looked_for_where_it_was_named_and_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "cache"))
    own = default_folder(named(), "mend")
    assert own == tmp_path / "cache" / "trained" / ("f" * 16) / "mend"
    with pytest.raises(
        UsageError, match=r"mend needs a network trained for some/model, and there is none in .*trained"
    ):
        find_folder(named(), "mend", None)
    with pytest.raises(
        UsageError, match=r"Train it: factedit train mend some/model --data general --out .*mine/mend\."
    ):
        find_folder(named(), "mend", tmp_path / "mine")
    for folder in (own, tmp_path / "mine", tmp_path / "mine" / "mend"):
        folder.mkdir(parents=True)
        (folder / "network.json").write_text("{}")
        asked = None if folder == own else tmp_path / "mine"
        assert find_folder(named(), "mend", asked) == folder, "the one inside comes before the one itself"


def record(**changes: Any) -> dict[str, Any]:
    return TrainedRecord(
        **{
            "kind": "mend", "name": "mend", "model_name": "m", "model_fingerprint": "f", "blocks": 2, "network": {},
            "training": {}, "data": {}, "records": 3, "records_sha256": "x", **changes,
        }
    ).model_dump(mode="json")  # fmt: skip


def test_a_pedigree_is_read_as_it_was_sealed(tmp_path: Path) -> None:
    path = tmp_path / "network.json"
    path.write_bytes(canonical(sealed(record(step=7, validation=((1.0, 2.0),)))))
    found = read_record(tmp_path)
    assert (found.step, found.validation, found.finished) == (7, ((1.0, 2.0),), False)
    path.write_bytes(canonical(record(format=1)))
    assert read_record(tmp_path).format == 1, "of before there were seals"
    whole = canonical(sealed(record()))
    for broken in (
        b"", b"[]", b"3", whole[:-9], whole.replace(b'"records": 3', b'"records": 4'),
        canonical(sealed(record() | {"more": 1})), canonical(record()), canonical(sealed(record() | {"kind": "ft"})),
        b"[" * 100_000, b"\xff\xfe",
    ):  # fmt: skip
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"network\.json is not the record of a trained network .*Train it again"):
            read_record(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"does not hold a whole edit \(network\.json"):
        read_record(tmp_path)


def test_tensors_beside_a_pedigree_are_those_it_names(tmp_path: Path) -> None:
    from safetensors.torch import save

    raw = save({"w": torch.arange(3.0)})
    path = tmp_path / "network.safetensors"
    path.write_bytes(raw)
    own = TrainedRecord(**record(files={"network.safetensors": hashlib.sha256(raw).hexdigest()}))
    assert read_network_tensors(tmp_path, own, "network.safetensors")["w"].tolist() == [0.0, 1.0, 2.0]
    path.write_bytes(raw[:-1] + b"x")
    with pytest.raises(
        DataError, match=r"is not the file that network\.json names: changed or cut off\. Train it again"
    ):
        read_network_tensors(tmp_path, own, "network.safetensors")
    path.write_bytes(b"no tensors")
    odd = TrainedRecord(**record(files={"network.safetensors": hashlib.sha256(b"no tensors").hexdigest()}))
    with pytest.raises(DataError, match=r"network\.safetensors cannot be read"):
        read_network_tensors(tmp_path, odd, "network.safetensors")


def test_texts_are_known_again_by_a_number_each() -> None:
    texts = ["Paris is in", "Rome", " Rome \n", "東京"]
    by_hand = {int.from_bytes(hashlib.sha256(text.strip().encode()).digest()[:8], "big", signed=True) for text in texts}
    found = text_hashes(texts)
    assert found.dtype == torch.int64
    assert found.tolist() == sorted(by_hand)
    assert len(found) == 3, "white space around a text is no other text"
    assert text_hashes([]).tolist() == []
