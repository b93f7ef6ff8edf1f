"""Second moments in numbers: sums that are added, matrices that are solved, experts as blocks; no model is run."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from factedit.errors import DataError, EditError, UsageError
from factedit.stats import second_moment as module
from factedit.stats.collect import _alike, _parts
from factedit.stats.experts_moment import ExpertsMoment, RunningExperts
from factedit.stats.experts_store import cached_experts, read_experts, write_experts
from factedit.stats.second_moment import RunningSecondMoment, SecondMoment, largest_eigenvalue
from factedit.stats.sound_moment import check_matrix, negative_by_rounding


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(size: int = 6, *, seed: int = 1, **more: Any) -> SecondMoment:
    root = drawn(size, 4 * size, seed=seed)
    return SecondMoment(root @ root.T / (4 * size), **{"tokens": 4 * size, "corpus": "drawn", **more})


# -- sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 4, 7, 16])
@pytest.mark.parametrize("at_once", [1, 5, 1024])
def test_the_mean_is_that_of_all_keys_however_they_came(
    width: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of rows from the diagonal on; widths that four does not divide, and fewer keys than one product takes."""
    monkeypatch.setattr(module, "KEYS_AT_ONCE", at_once)
    keys = drawn(23, width, seed=width)
    running = RunningSecondMoment(width)
    for part in keys.split([1, 0, 9, 2, 11]):
        running.add(part)
    assert running.tokens == 23
    torch.testing.assert_close(running.mean(), keys.T @ keys / 23)
    torch.testing.assert_close(running.mean(), running.mean().T, rtol=1e-12, atol=1e-14)


def test_sums_of_parts_are_the_sums_of_all() -> None:
    keys = drawn(40, 5)
    parts = []
    for part in keys.split(9):
        parts.append(RunningSecondMoment(5))
        parts[-1].add(part)
    whole = RunningSecondMoment(5)
    for own in parts:
        whole.plus(own)
    assert whole.tokens == 40
    torch.testing.assert_close(whole.mean(), keys.T @ keys / 40)
    whole.add(keys[:3])
    torch.testing.assert_close(whole.mean(), (keys.T @ keys + keys[:3].T @ keys[:3]) / 43)
    before = whole.mean()
    whole.plus(RunningSecondMoment(5))
    assert torch.equal(whole.mean(), before), "sums of no keys add nothing"


def test_sums_go_on_from_their_blocks() -> None:
    first, rest = drawn(10, 6), drawn(7, 6, seed=1)
    begun = RunningSecondMoment(6)
    begun.add(first)
    gone_on = RunningSecondMoment(6, begun.blocks, begun.tokens)
    gone_on.add(rest)
    both = torch.cat([first, rest])
    torch.testing.assert_close(gone_on.mean(), both.T @ both / 17)
    assert RunningSecondMoment(6).blocks == [], "empty before the first key"
    with pytest.raises(ValueError, match="sums for keys of width 7 have the shapes"):
        RunningSecondMoment(7, begun.blocks, 10)


def test_keys_are_forgotten_and_half_precision_is_summed_in_float32() -> None:
    keys = torch.full((1, 2), 1 / 3, dtype=torch.bfloat16)
    running = RunningSecondMoment(2)
    running.add(keys)
    keys.zero_()
    expected = float(torch.tensor(1 / 3, dtype=torch.bfloat16)) ** 2
    assert running.mean().flatten().tolist() == pytest.approx([expected] * 4, rel=1e-6)
    assert running.mean().dtype == torch.float64


def test_no_keys_and_broken_keys_have_no_mean() -> None:
    running = RunningSecondMoment(2)
    with pytest.raises(DataError, match="No text was read"):
        running.mean()
    running.add(torch.tensor([[1.0, math.inf]]))
    with pytest.raises(DataError, match="The keys are not finite: the model's weights hold NaN or infinity"):
        running.mean()


@pytest.mark.parametrize("seed", range(4))
def test_a_text_is_cut_after_so_many_tokens(seed: int) -> None:
    """Parts hold whole rows until they are full; only the very last row is cut, and no token is lost or read twice."""
    lengths = random.Random(seed).choices(range(1, 9), k=30)
    rows = [[100 * n + i for i in range(length)] for n, length in enumerate(lengths)]
    flat = [token for row in rows for token in row]
    for tokens in (1, 17, sum(lengths), 10_000):
        for size in (1, 10, 10_000):
            parts = list(_parts(iter(rows), tokens, size))
            assert [token for part in parts for row in part for token in row] == flat[:tokens]
            assert all(sum(map(len, part)) >= size for part in parts[:-1])
            assert all(sum(map(len, part[:-1])) < size for part in parts)
    assert list(_parts(rows, 0, 5)) == []
    assert list(_parts([], 5, 5)) == []


def test_no_more_of_a_text_is_read_than_is_asked_for() -> None:
    read: list[int] = []

    def rows() -> Any:
        for n in range(100):
            read.append(n)
            yield [n, n]

    assert list(_parts(rows(), 5, 1000)) == [[[0, 0], [1, 1], [2]]]
    assert read == [0, 1, 2]


@pytest.mark.parametrize("columns", [1, 8, 20, 1000])
def test_rows_of_like_length_run_together(columns: int) -> None:
    rows = [[0] * length for length in random.Random(1).choices(range(1, 9), k=25)]
    batches = list(_alike(rows, columns))
    assert sorted(len(row) for batch in batches for row in batch) == sorted(map(len, rows))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= columns, "padding counted"
        assert [len(row) for row in batch] == sorted(len(row) for row in batch)
    assert list(_alike([], columns)) == []


# -- one matrix -------------------------------------------------------------------------------------


def test_solutions_are_those_of_the_matrix_with_its_ridge() -> None:
    own = moment(ridge=0.25)
    whole = own.matrix + 0.25 * own.matrix.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    for shape in ((6,), (2, 6), (2, 3, 6), (0, 6)):
        keys = drawn(*shape, seed=len(shape))
        expected = torch.linalg.solve(whole, keys.reshape(-1, 6).T).T.reshape(shape)
        torch.testing.assert_close(own.solve(keys), expected)
        assert own.solve(keys.float()).dtype == torch.float64
    assert own.condition == pytest.approx(float(torch.linalg.cond(whole)), rel=1e-6)
    assert own.ridge_used == 0.25


def test_each_key_may_leave_out_a_part_of_its_own() -> None:
    own, keys, parts = moment(), drawn(3, 6, seed=2), 0.2 * drawn(3, 6, seed=3)
    parts[1] = 0
    expected = [
        torch.linalg.solve(own.matrix - torch.outer(part, part), key) for key, part in zip(keys, parts, strict=True)
    ]
    torch.testing.assert_close(own.solve_without(keys, parts), torch.stack(expected))
    torch.testing.assert_close(own.solve_without(keys, parts)[1], own.solve(keys[1]), msg="nothing was left out")


@pytest.mark.parametrize("wrong", [-1e-9, -1.0, math.nan, math.inf])
def test_a_ridge_or_weight_that_is_no_number_is_refused(wrong: float) -> None:
    """Before, NaN went through, and what was said later was of negative eigenvalues."""
    with pytest.raises(UsageError, match=r"The ridge is .*; it must be a number and must not be negative"):
        moment().with_ridge(wrong)
    with pytest.raises(UsageError, match=r"The weight of a second moment is .*; it must be a number"):
        moment().plus(moment(), wrong)
    assert moment().with_ridge(0.0).ridge == 0.0
    assert torch.equal(moment().plus(moment(seed=2), 0.0).matrix, moment().matrix)


def test_a_fingerprint_is_of_the_numbers_in_float32() -> None:
    own = moment()
    assert len(own.fingerprint) == 16
    assert replace(own, matrix=own.matrix.float()).fingerprint == own.fingerprint
    assert replace(own, matrix=own.matrix * (1 + 1e-6)).fingerprint != own.fingerprint
    assert replace(own, corpus="other", tokens=3, layer=2).fingerprint == own.fingerprint
    both = own.plus(moment(seed=2), 0.5)
    assert len({own.fingerprint, both.fingerprint, own.plus(moment(seed=3), 0.5).fingerprint}) == 3
    assert both.corpus == "drawn; and 0.5 times drawn"


def test_a_c_of_hardly_any_keys_is_refused() -> None:
    """Of 160 entries, 2 keys: the ridge that makes it invertible is all there would be."""
    keys = drawn(2, 160)
    few = SecondMoment(keys.T @ keys / 2, tokens=2, corpus="two words", layer=4)
    with pytest.raises(
        EditError, match=r"layer 4 \(2 tokens, two words\) is of rank \d or so of 160: so few keys tell"
    ):
        few.solve(drawn(1, 160))
    more = drawn(60, 160)
    enough = SecondMoment(more.T @ more / 60, tokens=60)
    assert enough.ridge_used > 0
    assert torch.isfinite(enough.solve(drawn(1, 160))).all()
    own = few.with_ridge(0.1)
    assert own.ridge_used == 0.1, "a ridge that was asked for is the user's own word"


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (torch.eye(3, dtype=torch.int64), "holds torch.int64; a second moment holds real numbers"),
        (torch.eye(3, dtype=torch.complex64), "holds torch.complex64"),
        ([[1.0]], "holds list"),
        (torch.ones(3), r"is \[3\]; a second moment is square"),
        (torch.ones(2, 3), r"is \[2, 3\]; a second moment is square"),
        (torch.ones(0, 0), r"is \[0, 0\]; a second moment is square"),
        (torch.full((2, 2), math.nan), "holds values that are not finite"),
        (torch.zeros(2, 2), "has a diagonal that is negative or all zero"),
        (torch.diag(torch.tensor([1.0, -1.0])), "has a diagonal that is negative or all zero"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "is not symmetric, which"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "has negative eigenvalues, which"),
    ],
)
def test_what_is_no_second_moment_is_refused_with_what_it_is(matrix: Any, said: str) -> None:
    with pytest.raises(DataError, match=rf"^C of mine {said}.*Compute it again with 'factedit stats'"):
        check_matrix(matrix, "C of mine")


def test_entries_that_vanish_are_sound() -> None:
    """A key entry that is never used has a row of zeros; rounding of the others is let through."""
    own = torch.diag(torch.tensor([4.0, 0.0, 1.0]))
    check_matrix(own, "C")
    own[0, 2], own[2, 0] = 1.0, 1.0 + 1e-4
    check_matrix(own, "C")
    own[2, 0] = 1.2
    with pytest.raises(DataError, match="not symmetric"):
        check_matrix(own, "C")


def test_how_far_below_zero_rounding_may_put_an_eigenvalue() -> None:
    eye = torch.eye(4)
    assert negative_by_rounding(eye) == pytest.approx(64 * 2.0**-23 * 2.0)  # ‖I‖ is 2, the mean 1
    assert negative_by_rounding(eye.double()) == pytest.approx(64 * 2.0**-23 * 2.0), "float64 was float32 on disk"
    assert negative_by_rounding(eye.bfloat16()) == pytest.approx(64 * 2.0**-7 * 2.0)
    assert negative_by_rounding(100 * eye) == pytest.approx(negative_by_rounding(eye)), "a share of the mean"


@pytest.mark.parametrize("size", [1, 2, 9, 64, 90])
def test_the_largest_eigenvalue_is_exact_for_small_matrices_and_from_below_for_others(size: int) -> None:
    root = drawn(size, size, seed=size)
    matrix = root @ root.T
    exact = float(np.linalg.eigvalsh(matrix.numpy())[-1])
    assert largest_eigenvalue(lambda x: matrix @ x, size) == pytest.approx(exact, rel=1e-9)
    few = largest_eigenvalue(lambda x: matrix @ x, size, steps=3)
    assert few <= exact * (1 + 1e-9)
    assert largest_eigenvalue(lambda x: 0 * x, size) == 0.0, "before, an error of the linear algebra's own"


# -- experts as blocks ------------------------------------------------------------------------------

NAMES = ("out.0", "out.1", "out.2", "out.shared")
SLICES = {name: slice(3 * n, 3 * n + 3) for n, name in enumerate(NAMES)}
MIXTURE: Any = SimpleNamespace(slices=SLICES, layer=2)


def blocks(*names: str, seed: int = 0, **more: Any) -> ExpertsMoment:
    """C of experts that got tokens, 10 and the number of the expert each."""
    own = {name: moment(3, seed=seed + 5 * NAMES.index(name), tokens=10 + NAMES.index(name), layer=2) for name in names}
    return ExpertsMoment(own, SLICES, **{"layer": 2, "tokens": 100, "model": "m" * 64, "corpus": "text", **more})


def test_what_is_known_of_experts() -> None:
    own = blocks("out.0", "out.2")
    assert own.size == 12
    assert own.reached == {"out.0": 10, "out.1": 0, "out.2": 12, "out.shared": 0}
    assert own.unreached == ("out.1", "out.shared")
    assert (own.ridge_used, own.condition) == (0.0, 0.0), "none was solved for yet"


def test_only_experts_whose_keys_are_not_zero_are_looked_at() -> None:
    own, keys = blocks("out.0", "out.2"), torch.zeros(2, 2, 12, dtype=torch.float64)
    keys[0, 0, :3], keys[1, 1, 6:9] = drawn(3), drawn(3, seed=1)
    found = own.solve(keys)
    assert found.shape == keys.shape
    torch.testing.assert_close(found[0, 0, :3], torch.linalg.solve(own.blocks["out.0"].matrix, drawn(3)))
    torch.testing.assert_close(found[1, 1, 6:9], torch.linalg.solve(own.blocks["out.2"].matrix, drawn(3, seed=1)))
    found[0, 0, :3] = found[1, 1, 6:9] = 0
    assert not found.any(), "of the others nothing"
    worst = max(float(torch.linalg.cond(block.matrix)) for block in own.blocks.values())
    assert own.condition == pytest.approx(worst, rel=1e-6)


def test_an_expert_without_tokens_is_named_with_the_others() -> None:
    own, keys = blocks("out.0"), torch.zeros(1, 12)
    keys[0, 4] = 1.0
    with pytest.raises(EditError, match=r"text\) is sent to the expert 'out\.1' of layer 2 \(nor to out\.2, out"):
        own.solve(keys)
    with pytest.raises(EditError, match="Compute the second moment from more text"):
        _ = own.matrix
    alone = ExpertsMoment({}, {"out.0": slice(0, 3)}, 1, 5, "", "a")
    with pytest.raises(EditError, match=r"is sent to the expert 'out\.0' of layer 1, so nothing"):
        alone.block("out.0")
    many = ExpertsMoment({}, {f"out.{n}": slice(n, n + 1) for n in range(20)}, 1, 5, "", "a")
    with pytest.raises(EditError, match=r"nor to out\.1, out\.2, .*out\.8 …\)"):
        many.block("out.0")


def test_the_whole_matrix_is_zero_between_two_experts() -> None:
    own = blocks(*NAMES)
    whole = own.matrix
    assert whole.shape == (12, 12)
    for name, part in SLICES.items():
        torch.testing.assert_close(whole[part, part], own.blocks[name].matrix)
        whole[part, part] = 0
    assert not whole.any()


def test_sums_take_what_either_knows() -> None:
    one, other = blocks("out.0", "out.1"), blocks("out.1", "out.2", seed=2)
    both = one.plus(other, 0.5)
    assert set(both.blocks) == {"out.0", "out.1", "out.2"}
    torch.testing.assert_close(both.blocks["out.0"].matrix, one.blocks["out.0"].matrix)
    torch.testing.assert_close(
        both.blocks["out.1"].matrix, one.blocks["out.1"].matrix + 0.5 * other.blocks["out.1"].matrix
    )
    torch.testing.assert_close(both.blocks["out.2"].matrix, 0.5 * other.blocks["out.2"].matrix)
    assert both.corpus == "text; and 0.5 times text"
    assert len({one.fingerprint, other.fingerprint, both.fingerprint}) == 3


def test_a_ridge_is_each_experts_own_share() -> None:
    own = blocks("out.0", "out.1").with_ridge(0.3)
    assert {block.ridge for block in own.blocks.values()} == {0.3}
    keys = torch.zeros(1, 12)
    keys[0, :3] = 1
    own.solve(keys)
    assert own.ridge_used == 0.3


def test_an_unsound_block_is_found() -> None:
    own = blocks("out.0", "out.1")
    assert own.checked() is own
    broken = {**own.blocks, "out.1": replace(own.blocks["out.1"], matrix=torch.zeros(3, 3))}
    with pytest.raises(DataError, match="negative or all zero"):
        replace(own, blocks=broken).checked()


def test_joined_keys_are_summed_expert_by_expert_over_all_tokens() -> None:
    """A token that an expert does not get has zeros there, and counts in what the mean is taken over."""
    keys = drawn(7, 12)
    keys[:4, 3:6] = 0  # out.1 gets three
    keys[:, 6:9] = 0  # out.2 gets none
    running = RunningExperts(MIXTURE)
    running.add_joined(keys[:5])
    other = RunningExperts(MIXTURE)
    other.add_joined(keys[5:])
    running.plus(other)
    found = running.moment(2, "m", "text")
    assert found.reached == {"out.0": 7, "out.1": 3, "out.2": 0, "out.shared": 7}
    assert found.tokens == 7
    for name, block in found.blocks.items():
        part = keys[:, SLICES[name]]
        torch.testing.assert_close(block.matrix, part.T @ part / 7)
        assert block.corpus == f"text, {name}"
    with pytest.raises(DataError, match="No text was read"):
        RunningExperts(MIXTURE).moment(2, "m", "text")


def test_experts_on_disk_come_back_and_others_are_refused(tmp_path: Path) -> None:
    own, path = blocks("out.0", "out.shared"), tmp_path / "c.safetensors"
    write_experts(path, own)
    again = read_experts(path, MIXTURE, model="m" * 64)
    assert (again.fingerprint, again.reached, again.tokens) == (own.fingerprint, own.reached, 100)
    assert (again.layer, again.model, again.corpus) == (2, "m" * 64, "text")
    with pytest.raises(DataError, match="is not of the experts of layer 2 of this model"):
        read_experts(path, MIXTURE, model="n" * 64)
    with pytest.raises(DataError, match=r"is not of the experts of layer 3 of this model \(layer 2"):
        read_experts(path, SimpleNamespace(slices=SLICES, layer=3))  # type: ignore[arg-type]
    narrow: Any = SimpleNamespace(slices={"out.0": slice(0, 2), "out.shared": slice(2, 5)}, layer=2)
    with pytest.raises(DataError, match=r"odd: out\.0"):
        read_experts(path, narrow)
    fewer: Any = SimpleNamespace(slices={"out.0": slice(0, 3)}, layer=2)
    with pytest.raises(DataError, match=r"odd: out\.shared"):
        read_experts(path, fewer)
    with pytest.raises(DataError, match=r"is not a readable safetensors file .*Compute it with 'factedit stats'"):
        read_experts(tmp_path / "nothing.safetensors", MIXTURE)


@pytest.mark.parametrize("damage", ["cut", "changed", "other layer"])
def test_a_damaged_entry_of_the_cache_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    assert cached_experts(path, MIXTURE, model="") is None, "there is none"
    write_experts(path, blocks("out.0", layer=3 if damage == "other layer" else 2))
    raw = path.read_bytes()
    if damage == "cut":
        path.write_bytes(raw[:-5])
    if damage == "changed":
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert cached_experts(path, MIXTURE, model="") is None
    assert not path.exists()
    assert [own.name for own in tmp_path.iterdir()] == ["c.safetensors.damaged"]
