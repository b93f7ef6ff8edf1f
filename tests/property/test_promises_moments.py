"""What C promises (ROME, arXiv 2202.05262, appendix E.5): the least ridge, whose text, what is left out, packing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from conftest import tiny
from factedit.errors import DataError, EditError
from factedit.stats.provide import own_text
from factedit.stats.second_moment import RunningSecondMoment, SecondMoment
from factedit.stats.store import read_moment, write_moment


def with_eigenvalues(largest: float, smallest: float) -> torch.Tensor:
    """A matrix of these two eigenvalues, whose entries alone do not tell them."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]]).double()
    return turn @ torch.diag(torch.tensor([largest, smallest]).double()) @ turn.T


@pytest.mark.parametrize(("smallest", "ridge"), [(1e-9, 0.0), (0.0, 1e-6), (-1e-6, 1e-5)])
def test_a_singular_c_gets_the_least_power_of_ten_that_makes_it_definite(smallest: float, ridge: float) -> None:
    """Eigenvalues 1 and `smallest`, of mean ½: the ridge must lift the smaller one above zero, and no further."""
    moment = SecondMoment(with_eigenvalues(1.0, smallest))
    assert moment.ridge_used == pytest.approx(ridge)
    lifted = moment.matrix + ridge * (1 + smallest) / 2 * torch.eye(2)
    key = torch.tensor([1.0, 2.0]).double()
    torch.testing.assert_close(moment.solve(key), torch.linalg.solve(lifted, key), rtol=1e-4, atol=0)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_a_c_that_is_negative_beyond_rounding_is_refused_whatever_the_ridge(ridge: float) -> None:
    for smallest in (-1e-4, -1e-2):
        with pytest.raises((DataError, EditError), match="negative eigenvalues"):
            SecondMoment(with_eigenvalues(1.0, smallest)).with_ridge(ridge).solve(torch.ones(2))


@torch.no_grad()
def test_a_models_own_text_is_drawn_from_its_whole_vocabulary() -> None:
    """Of a model to which all words are alike it holds all sorts of them, and not the same few."""
    model = tiny("gpt2")
    model.lm.transformer.wte.weight.zero_()
    texts = list(islice(own_text(model).texts(), 65))
    assert all(len(set(text)) > 20 for text in texts)
    assert len(set(texts)) == 65, "each text is drawn anew, in the second batch too"
    assert texts[0] == next(iter(own_text(model).texts())), "and the same in the same place"
    assert texts[0] != next(iter(own_text(model, seed=1).texts()))


def test_a_part_left_out_of_c_is_taken_off_before_solving() -> None:
    """(C − a aᵀ) x = k, for each key with its own part; a part of zero leaves C."""
    root = torch.randn(6, 20, generator=torch.Generator().manual_seed(4)).double()
    c, keys = root @ root.T / 20, root[:, [5, 1, 2]].T
    parts = torch.stack([root[:, 5], torch.zeros(6).double(), root[:, 9]]) / 20**0.5  # of one of the twenty each
    found = SecondMoment(c).solve_without(keys, parts)
    for key, part, own in zip(keys, parts, found, strict=True):
        torch.testing.assert_close((c - torch.outer(part, part)) @ own, key)
    assert (found[0] - torch.linalg.solve(c, keys[0])).norm() > 0.01 * found[0].norm(), "leaving it out matters"


def test_a_packed_moment_is_the_upper_triangle_row_by_row(tmp_path: Path) -> None:
    """So another program can read it: [[9, 2, 3], [2, 8, 5], [3, 5, 7]] is stored as 9, 2, 3, 8, 5, 7."""
    from safetensors.torch import load_file, save_file

    matrix = torch.tensor([[9.0, 2.0, 3.0], [2.0, 8.0, 5.0], [3.0, 5.0, 7.0]])
    path = write_moment(tmp_path / "c.safetensors", SecondMoment(matrix, 1, 9, "m", "t"), packed=True)
    assert load_file(path)["second_moment"].tolist() == [9.0, 2.0, 3.0, 8.0, 5.0, 7.0]
    save_file({"second_moment": torch.tensor([9.0, 2.0, 3.0, 8.0, 5.0, 7.0])}, tmp_path / "theirs.safetensors")
    assert torch.equal(read_moment(tmp_path / "theirs.safetensors", d_mlp=3).matrix, matrix)


def test_c_is_the_uncentred_mean_over_all_keys() -> None:
    """Of the keys (1, 0), (1, 2) and (4, 0): the mean of k kᵀ, with nothing taken off and none divided by n − 1."""
    sums = RunningSecondMoment(2)
    sums.add(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    sums.add(torch.tensor([[4.0, 0.0]]))
    assert sums.tokens == 3
    torch.testing.assert_close(sums.mean(), torch.tensor([[18.0, 2.0], [2.0, 4.0]]).double() / 3)
