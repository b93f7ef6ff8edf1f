"""The command line: what it writes, how it refuses, how fast it says --help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import tiny_lm, tiny_tokenizer
from factedit.edit.artefact import Edit
from factedit.evaluate.store import ResultStore
from factedit.models.load import load
from factedit.trace.state import read_state
from run_command import ok, refused

EDIT = ["--subject", "Paris", "--prompt", "{} is in", "--target", "Seattle"]
FAST = ["--steps", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 as a folder."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tiny_lm("gpt2").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTEDIT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def moment(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second moment for layer 1 of the tiny model."""
    import torch

    from factedit.stats.second_moment import SecondMoment
    from factedit.stats.store import write_moment

    return write_moment(tmp_path_factory.mktemp("c") / "c.safetensors", SecondMoment(torch.eye(128)))


def test_trace_writes_json_and_figures(folder: Path, tmp_path: Path) -> None:
    for suffix in (".png", ".svg"):
        ok("trace", folder, "Paris is the capital", "--subject", "Paris", "--noise", "0.5", "--samples", 2,
           "--json", tmp_path / "t.json", "--plot", tmp_path / f"t{suffix}", "--threads", 1)  # fmt: skip
        assert (tmp_path / f"t{suffix}").stat().st_size > 5000
    found = json.loads((tmp_path / "t.json").read_text())
    keys = "model prompt subject subject_range tokens answer clean corrupted window noise samples seed measure against"
    assert set(found) == {*keys.split(), "other_subject", "kinds", "hidden", "mlp", "attn"}
    assert len(found["mlp"]) == len(found["tokens"])
    ok(
        "trace",
        folder,
        "Paris is",
        "--subject",
        "Paris",
        "--noise",
        "0.5",
        "--kind",
        "mlp",
        "--json",
        tmp_path / "m.json",
    )
    assert {"kind", "scores"} <= set(json.loads((tmp_path / "m.json").read_text()))


def test_trace_reads_states_as_the_library_does(folder: Path, tmp_path: Path) -> None:
    said = ok("trace", folder, "Paris is the capital", "--subject", "Paris", "--noise", "0.5", "--samples", 1,
              "--kind", "mlp", "--read", "subject:0:attn", "--json", tmp_path / "s.json", "--threads", 1)  # fmt: skip
    own = read_state(load(str(folder)), "Paris is the capital", 1, 0, kind="attn")
    assert json.loads((tmp_path / "s.json").read_text())["states"] == [own.as_json()]
    assert f"{own.lens[0].probability:.3f}" in said
    assert "A Patchscope" in said


def test_edit_writes_an_edit_and_json(folder: Path, moment: Path, tmp_path: Path) -> None:
    said = ok("edit", folder, *EDIT, "--true-target", "France", "--layer", 1, "--second-moment", moment,
              "--out", tmp_path / "edit", "--json", tmp_path / "e.json", *FAST)  # fmt: skip
    assert "P(Seattle)" in said
    found = json.loads((tmp_path / "e.json").read_text())
    keys = "method layer request edit_dir key_norm denominator update_norm weight_norm losses before after"
    assert set(keys.split()) <= set(found)
    assert "direction" not in found
    edit = Edit.load(tmp_path / "edit")
    assert edit.requests[0].target_new == "Seattle"
    assert edit.made_for
    assert edit.notes[0].before.keys() == {"target_new", "target_true", "answers_target_new", "continuation"}


def test_brackets_are_printed_as_they_are(folder: Path, moment: Path) -> None:
    said = ok("edit", folder, "--subject", "[bold]Paris", "--prompt", "{} is in", "--target", "[red]Seattle",
              "--layer", 1, "--second-moment", moment, *FAST)  # fmt: skip
    assert "[bold]Paris" in said
    assert "P([red]Seattle)" in said


def test_edits_from_a_file(folder: Path, moment: Path, tmp_path: Path) -> None:
    facts = tmp_path / "f.jsonl"
    facts.write_text(
        "".join(
            json.dumps({"subject": s, "prompt": "{} is in", "target_new": "Seattle"}) + "\n"
            for s in ("Paris", "France")
        )
    )
    ok("edit", folder, "--requests", facts, "--layer", 1, "--second-moment", moment, "--out", tmp_path / "edits",
       "--json", tmp_path / "e.json", *FAST)  # fmt: skip
    found = json.loads((tmp_path / "e.json").read_text())["edits"]
    assert [row["request"]["subject"] for row in found] == ["Paris", "France"]
    assert {p.name for p in (tmp_path / "edits").iterdir()} == {"0000", "0001"}


def test_stats_evaluate_report(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Paris is the capital of France. LeBron James plays. " * 60)
    said = ok(
        "stats",
        folder,
        "--layers",
        "1",
        "--corpus",
        tmp_path / "text.txt",
        "--tokens",
        300,
        "--json",
        tmp_path / "s.json",
    )
    assert "300" in said
    assert json.loads((tmp_path / "s.json").read_text())["layers"][0]["tokens"] == 300
    facts = tmp_path / "f.jsonl"
    row = {"prompt": "{} is in", "target_new": "Seattle", "target_true": "France"}
    facts.write_text("".join(json.dumps({"subject": s, **row}) + "\n" for s in ("Paris", "France", "Seattle")))
    arguments = ("evaluate", folder, "--dataset", facts, "--split", "all", "--out", tmp_path / "runs", "--threads", 1)
    ok(*arguments)
    summary = json.loads((tmp_path / "runs" / "summary.json").read_text())
    assert summary["rome"]["n"] == summary["unedited"]["n"] == 3
    assert {"ES", "EM"} <= summary["rome"]["ci"].keys()
    assert summary["rome"]["seconds_per_edit"] > 0
    assert summary["rome"]["peak_memory_mb"] > 50
    assert "| rome | 3 |" in (tmp_path / "runs" / "table.md").read_text()
    with ResultStore(tmp_path / "runs" / "results.sqlite") as store:
        assert sorted(method for method, _ in store.runs().values()) == ["rome", "unedited"]
    ok(*arguments, "--ids", "1")
    ok("report", tmp_path / "runs", "--json", tmp_path / "r.json")
    told = json.loads((tmp_path / "r.json").read_text())[str(tmp_path / "runs")]
    assert {name.split(",")[1]: row["n"] for name, row in told.items() if "rome" in name} == {
        " all split": 3,
        " ids": 1,
    }


def test_lists() -> None:
    assert "rome-original" in ok("methods")
    assert "gemma3-270m" in ok("models")
    assert "worldfacts" in ok("datasets")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--subject", "Paris", "--prompt", "", "--target", "x"], 2, "The prompt is empty"),
        (["--subject", "Paris", "--prompt", "Paris is in", "--target", "x"], 2, "holds 0 '{}'"),
        (["--subject", "Paris", "--prompt", "{} or {} is in", "--target", "x"], 2, "holds 2 '{}'"),
        (["--subject", "", "--prompt", "{} is in", "--target", "x"], 2, "The subject is empty"),
        (["--subject", "Paris", "--prompt", "{} is in", "--target", ""], 2, "The target is empty"),
        (["--subject", "Paris", "--prompt", "{} is in"], 2, "Missing --target"),
        ([*EDIT, "--layer", "99"], 2, "Layer 99 was asked for; tiny has layers 0 to 3"),
        ([*EDIT, "--method", "rom"], 2, "Unknown method 'rom'. Did you mean rome or rome-joint?"),
        ([*EDIT, "--clamp", "-1"], 2, "clamp"),
        ([*EDIT, "--dtype", "int3"], 2, "The type 'int3' is not one of float32"),
        ([*EDIT, "--second-moment", "nowhere.safetensors"], 1, "is not a readable safetensors file"),
        ([*EDIT, "--contexts", "nowhere.json"], 1, "The contexts cannot be read: nowhere.json: no such file"),
        (["--requests", "nowhere.jsonl"], 1, "nowhere.jsonl"),
        (["--subject", "Paris", "--prompt", "{} is " + "in " * 80, "--target", "x"], 2, "tiny reads 64"),
    ],
)
def test_bad_edits(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert message in refused(capsys, code, "edit", folder, *arguments)


@pytest.mark.parametrize(
    "beside", [["--true-target", "x"], ["--target", "x"], ["--subject", "x"], ["--prompt", "{} x"]]
)
@pytest.mark.parametrize("command", ["edit", "demo"])
def test_fields_of_a_fact_beside_a_file_of_facts_are_refused(
    capsys: pytest.CaptureFixture[str], command: str, beside: list[str]
) -> None:
    """Before: `--true-target` with `--requests` was ignored."""
    said = refused(capsys, 2, command, "no-model", "--requests", "facts.jsonl", *beside)
    assert "Give --requests or --subject, --prompt and --target, not both" in said


def test_bad_traces_and_evaluations(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "does not occur in the prompt" in refused(
        capsys, 2, "trace", folder, "Paris is", "--subject", "Rome", "--noise", "1"
    )
    assert "Give a PROMPT with --subject" in refused(capsys, 2, "trace", folder, "Paris is")
    paris = ("trace", folder, "Paris is", "--subject", "Paris", "--noise", "1")
    assert "not written like subject:5" in refused(capsys, 2, *paris, "--read", "soul")
    assert "has layers 0 to" in refused(capsys, 2, *paris, "--kind", "mlp", "--read", "0:99")
    assert "Cannot trace feelings" in refused(capsys, 2, *paris, "--kind", "feelings")
    assert "noise 'loud'" in refused(capsys, 2, "trace", folder, "Paris is", "--subject", "Paris", "--noise", "loud")
    assert ".png, .svg or .pdf" in refused(capsys, 2, *paris, "--plot", "x.bmp")
    assert "Did you mean counterfact" in refused(capsys, 2, "evaluate", folder, "--dataset", "counterfacts")
    for layers in ("x", "3-"):
        assert f"layers '{layers}' are not written like" in refused(capsys, 2, "stats", folder, "--layers", layers)
    assert "belong to a PROMPT" in refused(capsys, 2, "trace", folder, "--facts", "worldfacts-known", "--subject", "x")
    for option in ("--window", "--samples", "--threads"):
        said = refused(capsys, 2, *paris, option, "0")
        assert f"'{option}': Input should be greater than or equal to 1" in said
    for command in (paris, ("reproduce", "counterfact"), ("sweep-layers", folder)):
        assert "'--seed': Input should be greater than" in refused(capsys, 2, *command, "--seed", "-1")
        assert "'--seed': Input should be less than" in refused(capsys, 2, *command, "--seed", 2**32)
    assert "has no results.sqlite" in refused(capsys, 1, "report", tmp_path)
    broken = tmp_path / "f.jsonl"
    broken.write_text('{"subject": "Paris", "prompt": "{} is in", "target_new": "x"}\n{"subject": "Par')
    assert "line 2" in refused(capsys, 1, "edit", folder, "--requests", broken)
    broken.write_text('{"subject": "Paris", "prompt": "{} is in"}\n')
    assert "target_new" in refused(capsys, 1, "edit", folder, "--requests", broken)


def test_a_second_moment_of_another_size(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    from factedit.stats.second_moment import SecondMoment
    from factedit.stats.store import write_moment

    path = write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(16)))
    assert "is [16, 16]; the model's keys need [128, 128]" in refused(
        capsys, 1, "edit", folder, *EDIT, "--second-moment", path
    )
    path = write_moment(tmp_path / "c.safetensors", SecondMoment(torch.eye(128), model="f" * 64))
    assert "was made for weights" in refused(capsys, 1, "edit", folder, *EDIT, "--second-moment", path)


def test_nan_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lm = tiny_lm("gpt2")
    lm.transformer.h[2].mlp.c_fc.weight.data[0, 0] = float("nan")
    lm.save_pretrained(tmp_path / "nan")
    tiny_tokenizer().save_pretrained(tmp_path / "nan")
    assert "transformer.h.2.mlp.c_fc.weight" in refused(capsys, 1, "edit", tmp_path / "nan", *EDIT)


def _answered(folder: Path) -> tuple[str, str, str]:
    """(subject, prompt, answer) of a question whose likeliest next token is a word of its own."""
    import torch
    from transformers import GPT2LMHeadModel

    lm, tokenizer = GPT2LMHeadModel.from_pretrained(folder), tiny_tokenizer()
    for subject in ("Paris", "Seattle", "France", "LeBron James", "The Space Needle", "Danielle Darrieux"):
        for prompt in ("{} is in", "{} plays", "{} is the capital of", "The mother tongue of {} is", "Is {}"):
            ids = tokenizer(prompt.replace("{}", subject))["input_ids"]
            answer = tokenizer.decode(lm(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if answer.strip() and tokenizer(" " + answer.strip())["input_ids"] == tokenizer(answer)["input_ids"]:
                return subject, prompt, answer.strip()
    raise AssertionError("the random model answers no question with a word: ask it others")


def test_a_target_the_model_already_gives_is_a_warning(folder: Path, moment: Path) -> None:
    subject, prompt, answer = _answered(folder)
    said = ok("edit", folder, "--subject", subject, "--prompt", prompt, "--target", answer, "--layer", 1,
              "--second-moment", moment, *FAST)  # fmt: skip
    assert "the model already answers" in said


def test_an_unwritable_place(folder: Path, moment: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(
        capsys,
        1,
        "edit",
        folder,
        *EDIT,
        "--layer",
        1,
        "--second-moment",
        moment,
        "--out",
        tmp_path / "file" / "e",
        *FAST,
    )
    assert "cannot be written to" in said


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['factedit', '--help']\n"
        "from factedit.cli.main import app\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "trace" in done.stdout
