"""C is the mean of k kᵀ, whatever the way it was read; solving is exact; a ridge is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import TEXT, tiny
from factedit.errors import DataError, UsageError
from factedit.models.adapter import EditableModel
from factedit.stats.collect import collect, token_pieces
from factedit.stats.moment_places import moment_path
from factedit.stats.second_moment import RunningSecondMoment, SecondMoment, largest_eigenvalue
from factedit.stats.store import read_moment, second_moments, write_moment

TEXTS = [TEXT, "Paris. " * 30, "Москва 東京", TEXT[::-1]]


def direct(model: EditableModel, layer: int, rows: list[list[int]]) -> torch.Tensor:
    """The definition, by a hook on the whole model."""
    keys: list[torch.Tensor] = []
    with model.on_matrix(layer, lambda k, _v: keys.append(k[0].double())), torch.no_grad():
        for row in rows:
            model.lm(input_ids=torch.tensor([row]))
    stacked = torch.cat(keys)
    return stacked.T @ stacked / len(stacked)


@pytest.mark.parametrize(("columns", "gap"), [(1, 1e-7), (1024, 1e-6)])  # a row at a time; all together, padded
def test_one_pass_gives_the_definition(
    editable_family: EditableModel, columns: int, gap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", columns)
    model = editable_family
    rows = list(token_pieces(model, TEXTS, length=40))
    total = sum(map(len, rows))
    found = collect(model, [1, 2], rows, tokens=total)
    for layer in (1, 2):
        assert found[layer].tokens == total
        torch.testing.assert_close(found[layer].mean(), direct(model, layer, rows), rtol=1e-5, atol=gap)


def test_the_number_of_tokens_is_exact(tiny_gpt2: EditableModel) -> None:
    rows = list(token_pieces(tiny_gpt2, TEXTS, length=40))
    assert collect(tiny_gpt2, [0], rows, tokens=77)[0].tokens == 77


def test_rows_of_all_lengths_run_together_and_padding_counts_for_nothing(
    tiny_gpt2: EditableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [[5 + (7 * n + i) % 300 for i in range(1 + 5 * n % 17)] for n in range(40)]
    total = sum(map(len, rows))
    told: dict[int, list[tuple[int, int]]] = {1: [], 64: []}
    found = []
    for columns, notes in told.items():
        monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", columns)
        note = lambda sums, count, notes=notes: notes.append((count, sums[2].tokens))  # noqa: E731
        found.append(collect(tiny_gpt2, [2], rows, tokens=total, after_rows=note)[2])
    assert len(told[64]) < len(told[1]) / 4
    for notes in told.values():
        assert all(read == sum(map(len, rows[:count])) for count, read in notes), "whoever goes on there misses no row"
        assert notes[-1] == (len(rows), total)
    torch.testing.assert_close(found[1].mean(), found[0].mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].mean(), direct(tiny_gpt2, 2, rows), rtol=1e-5, atol=1e-6)


def test_layers_after_the_last_are_not_run(tiny_gpt2: EditableModel) -> None:
    ran: list[int] = []
    handles = [layer.register_forward_hook(lambda *_a, n=n: ran.append(n)) for n, layer in enumerate(tiny_gpt2.layers)]
    collect(tiny_gpt2, [1], [[5, 6, 7]], tokens=3)
    for handle in handles:
        handle.remove()
    assert 1 in ran
    assert not {2, 3} & set(ran[-2:])


def test_pieces_repeat_the_start_token() -> None:
    model = tiny("gpt2", start=True)
    rows = list(token_pieces(model, ["Paris is the capital of France. " * 9], length=10))
    assert len(rows) > 2
    assert all(row[0] == 1 and 1 not in row[1:] and len(row) <= 10 for row in rows)


def test_resumes_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr("factedit.stats.store.SAVE_EVERY", 50)
    monkeypatch.setattr("factedit.engine.budget.COLUMNS_READ", 16)  # rows of many batches before the interruption
    model, read = tiny("gpt2"), []

    def interrupted():
        for n, text in enumerate(TEXTS * 3):
            if n == 5:
                raise KeyboardInterrupt
            yield text

    def whole():
        for text in TEXTS * 3:
            read.append(text)
            yield text

    settings = {"corpus": "test", "tokens": 900}
    with pytest.raises(KeyboardInterrupt):
        second_moments(model, [1], interrupted, **settings)
    partial = list(moment_path(model, "test", 900, 1).parent.glob("unfinished*"))
    assert len(partial) == 1
    ran: list[int] = []
    resumed = second_moments(model, [1], whole, progress=ran.append, **settings)[1]
    assert ran[0] > 50, "went on instead of beginning again"
    assert not partial[0].exists()
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path / "other"))
    fresh = second_moments(model, [1], whole, **settings)[1]
    assert torch.equal(resumed.matrix, fresh.matrix)


def test_the_cache_is_keyed_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    model = tiny("gpt2")
    first = second_moments(model, [1], lambda: TEXTS, corpus="a", tokens=100)[1]
    weight = model.weight(0) * 1.5
    with model.with_weight(0, weight):
        other = second_moments(model, [1], lambda: TEXTS, corpus="a", tokens=100)[1]
    assert not torch.allclose(first.matrix, other.matrix), "an edited model has keys of its own"
    again = second_moments(model, [1], lambda: pytest.fail("read the text again"), corpus="a", tokens=100)[1]
    assert torch.equal(again.matrix, first.matrix)


def test_empty_text_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="No text was read"):
        second_moments(tiny("gpt2"), [1], lambda: [], corpus="empty", tokens=10)
    assert not list(tmp_path.rglob("*.safetensors"))


def spd(size: int, seed: int = 0) -> torch.Tensor:
    root = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / (2 * size)


def test_solve_is_the_inverse() -> None:
    moment, keys = SecondMoment(spd(12)), torch.randn(3, 12, dtype=torch.float64)
    torch.testing.assert_close(moment.solve(keys) @ moment.matrix, keys)
    assert moment.ridge_used == 0.0
    assert moment.condition == pytest.approx(float(torch.linalg.cond(moment.matrix)), rel=1e-6)


def test_the_condition_of_a_large_matrix_costs_no_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = SecondMoment(spd(300))
    expected = float(torch.linalg.cond(moment.matrix))
    sizes: list[int] = []
    whole = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: sizes.append(len(matrix)) or whole(matrix))
    assert moment.condition == pytest.approx(expected, rel=0.01)
    assert moment.condition <= expected * (1 + 1e-9)
    assert max(sizes) <= 64


@pytest.mark.parametrize("values", [[2.0] * 40, [1.0, 3.0] * 20, [5.0], [1e-9, 1.0, 7.0]])
def test_the_largest_eigenvalue_where_few_are_different(values: list[float]) -> None:
    drawn = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(3))
    turn, _ = torch.linalg.qr(drawn.double())
    matrix = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
    assert largest_eigenvalue(lambda x: matrix @ x, len(values)) == pytest.approx(max(values), rel=1e-9)


def test_solving_leaves_c_as_it_was() -> None:
    matrix = spd(12)
    before = matrix.clone()
    SecondMoment(matrix, ridge=0.5).solve(torch.ones(12))
    assert torch.equal(matrix, before)


def test_too_few_tokens_get_a_ridge_that_is_said() -> None:
    running = RunningSecondMoment(12)
    running.add(torch.randn(5, 12))
    moment = SecondMoment(running.mean(), tokens=5)
    assert moment.ridge_used > 0
    assert torch.isfinite(moment.solve(torch.randn(12))).all()
    assert SecondMoment(spd(12)).with_ridge(0.5).ridge_used == 0.5


def test_hopeless_moments_and_ridges_are_refused() -> None:
    with pytest.raises(DataError, match="a diagonal that is negative or all zero"):
        SecondMoment(-torch.eye(4), 3, 9).solve(torch.ones(4))
    with pytest.raises(UsageError, match="must not be negative"):
        SecondMoment(torch.eye(4)).with_ridge(-1)


def test_files_come_back_packed_and_whole(tmp_path: Path) -> None:
    moment = SecondMoment(spd(12).float(), 3, 77, "abc", "some text")
    for packed in (False, True):
        path = write_moment(tmp_path / f"{packed}.safetensors", moment, packed=packed)
        found = read_moment(path, d_mlp=12, model="abc", layer=3)
        torch.testing.assert_close(found.matrix, moment.matrix, rtol=0, atol=1e-7)
        assert (found.layer, found.tokens, found.model, found.corpus) == (3, 77, "abc", "some text")


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    path = write_moment(tmp_path / "c.safetensors", SecondMoment(spd(12), 3, 77, "abc" * 9, "text"))
    with pytest.raises(DataError, match=r"is \[12, 12\]; the model's keys need \[16, 16\]"):
        read_moment(path, d_mlp=16)
    with pytest.raises(DataError, match="made for weights"):
        read_moment(path, model="xyz" * 9)
    with pytest.raises(DataError, match="made for layer 3; layer 4"):
        read_moment(path, layer=4)
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable safetensors file"):
        read_moment(tmp_path / "broken.safetensors")
    from safetensors.torch import save_file

    save_file({"other": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"holds \['other'\], not the tensor 'second_moment'"):
        read_moment(tmp_path / "other.safetensors")


@pytest.mark.parametrize("width", [1, 3, 7, 16])
def test_sums_by_blocks_equal_the_product(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.stats.second_moment.KEYS_AT_ONCE", 10)
    keys = torch.randn(47, width, generator=torch.Generator().manual_seed(0))
    running = RunningSecondMoment(width)
    for part in keys.split([4, 20, 1, 9, 13]):
        running.add(part)
    torch.testing.assert_close(running.mean(), keys.double().T @ keys.double() / 47, rtol=1e-5, atol=1e-6)
    mean = running.mean()
    torch.testing.assert_close(mean, mean.T, rtol=1e-6, atol=1e-6)
    going_on = RunningSecondMoment(width, running.blocks, running.tokens)
    going_on.add(keys)
    torch.testing.assert_close(going_on.mean(), mean, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="have the shapes"):
        RunningSecondMoment(width + 1, running.blocks, running.tokens)
