"""The published program's numbers on a tiny random GPT-2, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from factedit.cli.main import app


def run(*arguments: str) -> None:
    result = CliRunner().invoke(app, [*arguments, "--threads", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def expected(golden_dir: Path) -> dict[str, Any]:
    return json.loads((golden_dir / "expected.json").read_text())


@pytest.mark.parametrize("number", range(3))
def test_trace(golden_dir: Path, expected: dict[str, Any], number: int, tmp_path: Path) -> None:
    fact = expected["facts"][number]
    prompt = fact["prompt"].replace("{}", fact["subject"])
    run("trace", str(golden_dir), prompt, "--subject", fact["subject"], "--kind", "all", "--window", "4",
        "--noise", "0.5", "--json", str(tmp_path / "t.json"))  # fmt: skip
    found = json.loads((tmp_path / "t.json").read_text())
    tensors = load_file(golden_dir / "expected.safetensors")
    for kind in ("hidden", "mlp", "attn"):
        reference = fact["trace"][kind]
        np.testing.assert_allclose(found[kind], tensors[f"{number}.trace.{kind}"], atol=1e-6)
        assert found["clean"] == pytest.approx(reference["high_score"], abs=1e-6)
        assert found["corrupted"] == pytest.approx(reference["low_score"], abs=1e-6)
        assert found["subject_range"] == reference["subject_range"]
        assert found["answer"] == reference["answer"]
        assert found["tokens"] == reference["tokens"]


@pytest.mark.parametrize("number", range(3))
def test_rome_original(golden_dir: Path, expected: dict[str, Any], number: int, tmp_path: Path) -> None:
    fact = expected["facts"][number]
    contexts = tmp_path / "contexts.json"
    contexts.write_text(json.dumps(expected["context_templates"]))
    request = ["--subject", fact["subject"], "--prompt", fact["prompt"], "--target", fact["target_new"]]
    given = ["--contexts", str(contexts), "--second-moment", str(golden_dir / "second_moment.safetensors")]
    method = ["--method", "rome-original", "--layer", "2", "--true-target", fact["target_true"]]
    run("edit", str(golden_dir), *request, *given, *method, "--full", "--json", str(tmp_path / "e.json"))
    found = json.loads((tmp_path / "e.json").read_text())
    tensors = load_file(golden_dir / "expected.safetensors")
    u, right = np.array(found["direction"]), np.array(found["residual"]) / found["denominator"]
    assert np.linalg.norm(u - tensors[f"{number}.u"]) < 1e-5
    assert np.linalg.norm(right - tensors[f"{number}.right"]) < 1e-5 * np.linalg.norm(right)
    np.testing.assert_allclose(found["losses"], fact["losses"], atol=6e-4)  # the reference prints three digits
    for when, row in (("before", fact["pre"][0]), ("after", fact["post"][0])):
        for target in ("target_new", "target_true"):
            assert found[when][target] == pytest.approx(np.exp(-row[target]), rel=1e-4)
