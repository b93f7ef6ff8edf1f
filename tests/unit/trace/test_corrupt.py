"""The noise: the published program's stream, and how strong it is as written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from conftest import tiny
from factedit.errors import UsageError
from factedit.trace.corrupt import embedding_sigma, noise_level, noise_samples, parse_noise

SUBJECTS = ["Paris", "The Space Needle"]


def test_the_noise_is_numpys_old_stream() -> None:
    found = noise_samples(2, 3, 4, seed=1)
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), np.random.RandomState(1).randn(2, 3, 4))
    assert not torch.equal(found, noise_samples(2, 3, 4, seed=2))
    assert torch.equal(found[:1], noise_samples(1, 3, 4, seed=1)), "more samples go on with the same stream"


def test_sigma_is_of_all_entries_of_the_subjects_tokens() -> None:
    model = tiny("gpt2")
    ids = [i for subject in SUBJECTS for i in model.tokenizer(subject)["input_ids"]]
    expected = model.lm.transformer.wte.weight[ids].detach().numpy().std(ddof=1)
    assert embedding_sigma(model, SUBJECTS) == pytest.approx(float(expected), rel=1e-5)
    assert embedding_sigma(model, SUBJECTS[:1]) != pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("text", "expected"), [("3s", (3.0, True)), ("0.1", (0.1, False)), (0.25, (0.25, False)),
                                                ("0.5s", (0.5, True))])  # fmt: skip
def test_a_noise_as_written(text: str | float, expected: tuple[float, bool]) -> None:
    assert parse_noise(text) == expected


@pytest.mark.parametrize("text", ["", "s", "3 s", "-1", "0", "0s", "nan", "inf", "1e400", "three", "3ss", "1.2.3s"])
def test_another_noise_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a positive number nor one followed by 's'"):
        parse_noise(text)


def test_a_level_is_a_number_or_times_sigma() -> None:
    model = tiny("gpt2")
    assert noise_level(model, "2s", SUBJECTS) == pytest.approx(2 * embedding_sigma(model, SUBJECTS))
    assert noise_level(model, "0.3", []) == 0.3
    with pytest.raises(UsageError, match="needs subjects"):
        noise_level(model, "3s", [])
