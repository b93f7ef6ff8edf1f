"""Every command's JSON: printed alone, in the shape that docs/formats promises, whatever was asked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel
from typer.main import get_command
from typer.testing import CliRunner

from conftest import ROOT, random_moment, tiny_lm, tiny_tokenizer
from factedit.cli import main
from factedit.models.load import load
from factedit.stats.store import write_moment
from run_command import ok
from site_pages import module

jsonschema = pytest.importorskip("jsonschema")
FORMATS = ROOT / "docs" / "formats"
PROGRAM = get_command(main.app)
WITH_JSON = sorted(
    name
    for name, command in PROGRAM.commands.items()  # type: ignore[attr-defined]
    if any("--json" in param.opts for param in command.params)
)
FACTS = [("LeBron James", "football"), ("Paris", "Seattle"), ("France", "Москва")]
STEPS = ("--steps", "2", "--layer", "1")
JOINT = ("--together", "--set", "steps=2", "--set", "layer=1", "--set", 'context_templates=["{}"]')


def answered(folder: Path) -> list[tuple[str, str, str]]:
    """Three questions whose likeliest next token is a word of its own: subject, prompt, answer."""
    lm, tokenizer = GPT2LMHeadModel.from_pretrained(folder).eval(), tiny_tokenizer()
    found = []
    for subject in ("Paris", "Seattle", "France", "LeBron James", "The Space Needle", "Danielle Darrieux", "Zürich"):
        for prompt in (
            "{} is in",
            "{} plays",
            "{} is the capital of",
            "The mother tongue of {} is",
            "Is {}",
            "So {} is",
        ):
            ids = tokenizer(prompt.replace("{}", subject))["input_ids"]
            answer = tokenizer.decode(lm(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if answer.strip() and tokenizer(" " + answer.strip())["input_ids"] == tokenizer(answer)["input_ids"]:
                found.append((subject, prompt.replace("{}", subject), answer.strip()))
    assert len(found) >= 3, "the random model answers no question with a word: ask it others"
    return found[:3]


class House:
    """A folder with a tiny model, facts, a second moment and an edit."""

    def __init__(self, place: Path) -> None:
        self.place, self.made = place, 0
        self.model = place / "tiny"
        tiny_lm("gpt2", n_layer=2, n_positions=512, max_position_embeddings=512).save_pretrained(self.model)
        tiny_tokenizer().save_pretrained(self.model)
        write_moment(place / "c.safetensors", random_moment(load(str(self.model)).d_mlp))
        rows = [{"subject": s, "prompt": "{} is in", "target_new": new, "target_true": "France"} for s, new in FACTS]
        (place / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        known = [{"subject": s, "prompt": f"{s} is in"} for s, _ in FACTS]
        (place / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known))
        true = answered(self.model)
        (place / "sets").mkdir()
        item = {"question": "Where is Paris?", "choices": ["France", "Seattle"], "gold": 0}
        (place / "sets" / "arc-easy.jsonl.gz").write_bytes(gzip.compress(json.dumps(item).encode()))
        panel = [{"prompt": prompt, "subject": subject, "target": answer} for subject, prompt, answer in true]
        (place / "panel.jsonl").write_text("".join(json.dumps(row) + "\n" for row in panel))
        rows = [
            {"subject": s, "prompt": prompt.replace(s, "{}"), "target_new": "Seattle", "target_true": answer}
            for s, prompt, answer in true
        ]
        (place / "true.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        cases = [
            {
                "case_id": n, "requested_rewrite": {"prompt": "{} is in", "subject": s, "target_new": {"str": new},
                                                    "target_true": {"str": "France"}},
                "paraphrase_prompts": [f"So {s} is in"], "neighborhood_prompts": ["Café is in"],
                "generation_prompts": [f"{s} is known for"],
            }
            for n, (s, new) in enumerate(FACTS)
        ]  # fmt: skip
        (place / "cases.json").write_text(json.dumps(cases))
        texts = [f"In {n} Paris was the capital. " + "LeBron James plays football. " * 6 for n in range(20)]
        (place / "text.txt").write_text("\n\n".join(texts))
        (place / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        self.moment = ("--second-moment", str(place / "c.safetensors"))
        ok("edit", *self.fact, "--out", place / "edit")

    @property
    def fact(self) -> tuple[Any, ...]:
        said = ("--subject", "Paris", "--prompt", "{} is in", "--target", "Seattle")
        return (self.model, *said, *STEPS, *self.moment)

    def new(self) -> Path:
        """A place that nothing was written to."""
        self.made += 1
        return self.place / f"new-{self.made}"

    def applied(self) -> Path:
        folder = self.new()
        ok("apply", self.model, self.place / "edit", "--out", folder)
        return folder

    def results(self) -> Path:
        if not (self.place / "runs").exists():
            ok("evaluate", *self.evaluated, "--method", "ft", "--out", self.place / "runs")
        return self.place / "runs"

    @property
    def evaluated(self) -> tuple[Any, ...]:
        return (self.model, "--dataset", self.place / "cases.json")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("house")
        patch.setenv("FACTEDIT_CACHE", str(place / "cache"))
        yield House(place)


def asked(house: House, name: str) -> list[tuple[Any, ...]]:
    """How a command is called: every way that might give another shape."""
    place, model, new = house.place, house.model, house.new
    trace = (model, "Paris is in", "--subject", "Paris", "--noise", "1", "--samples", "1")
    facts = ("--facts", place / "known.jsonl", "--noise", "1", "--samples", "1")
    many = (model, "--requests", place / "facts.jsonl", *house.moment)
    cases = ("--dataset", place / "cases.json", "--records", "2")
    joint = ("--method", "rome-joint", "--sequence", "2", *house.moment, *JOINT[1:])
    locate = ("--methods", "ft", "--records", "3", "--layers", "0-1", "--windows", "1")
    train = ("--data", place / "facts.jsonl", "--updates", "1", "--validation", "1", "--batch", "1", "--rank", "2")
    calls: dict[str, Callable[[], list[tuple[Any, ...]]]] = {
        "ask": lambda: [(model, "Paris is", "--tokens", "1"), (model, "A", "--edit", place / "edit", "--tokens", "1")],
        "demo": lambda: [("--model", model, "--edit", place / "edit", "--true-target", "France", "--subject", "Paris",
                          "--prompt", "{} is in", "--target", "Seattle", "--out", new())],
        "locate": lambda: [
            (model, "--facts", place / "true.jsonl", *locate, "--noise", "1", "--samples", "1", "--out", new())
        ],
        "panel": lambda: [(model, place / "edit", "--panel", place / "panel.jsonl")],
        "damage": lambda: [(model, place / "edit", "--facts", "2")],
        "prove": lambda: [(model, place / "edit")],
        "verdict": lambda: [(house.results(), "--out", new())],
        "ability": lambda: [(model, "--data", place / "sets"), (model, place / "edit", "--data", place / "sets")],
        "apply": lambda: [(model, place / "edit", "--out", new())],
        "audit": lambda: [(model, house.applied(), "--candidates", place / "facts.jsonl")],
        "benchmarks": lambda: [()],
        "case-study": lambda: [(model, "--methods", "ft", "--tokens", "2", *cases, "--out", new())],
        "check": lambda: [(house.applied(),), (place / "edit", "--model", model)],
        "datasets": lambda: [()],
        "edit": lambda: [house.fact, (*house.fact, "--full"), (*many, *STEPS), (*many, *JOINT)],
        "evaluate": lambda: [
            (*house.evaluated, "--method", "ft", "--out", new()), (*house.evaluated, *joint, "--out", new()),
        ],
        "log": lambda: [(house.applied(),)],
        "methods": lambda: [()],
        "metrics": lambda: [(), ("ripple",)],
        "models": lambda: [()],
        "push": lambda: [(house.applied(), "owner/name")],
        "report": lambda: [(house.results(),)],
        "reproduce": lambda: [
            ("counterfact", "--model", model, "--methods", "ft", "--no-fluency", *cases, "--out", new())
        ],
        "revert": lambda: [(house.applied(),)],
        "ship": lambda: [(model, place / "edit", "--as", "peft", "--out", new())],
        "show": lambda: [(place / "edit", "--settings"), (place / "edit",), (place / "edit", "--model", model)],
        "stats": lambda: [(model, "--layers", "1", "--corpus", place / "text.txt", "--tokens", "200")],
        "sweep-layers": lambda: [(model, "--layers", "0", "--tokens", "subject_last", *cases, "--out", new())],
        "trace": lambda: [
            trace, (*trace, "--kind", "mlp"), (*trace, "--read", "subject:0", "--read", "0:1:mlp"),
            (*trace, "--fall", "1,2"),
            (model, *facts, "--out", new()),
        ],
        "train": lambda: [("mend", model, *train, "--corpus", place / "texts.jsonl", "--out", new())],
        "verify": lambda: [(house.applied(),), (place / "edit",)],
    }  # fmt: skip
    return calls[name]()


def printed(name: str, *arguments: Any) -> Any:
    """What a command prints on standard output with `--json -`, as JSON: anything else there would not be."""
    said = CliRunner().invoke(main.app, [name, *map(str, arguments), "--json", "-"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)


@pytest.mark.parametrize("name", WITH_JSON)
def test_shape(house: House, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factedit.export.push.push", lambda *_args, **_how: "https://hub/owner/name/commit/1")
    if name == "ability":
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness is an extra")
    schema = json.loads((FORMATS / f"{name}.schema.json").read_text("utf-8"))
    for arguments in asked(house, name):
        jsonschema.validate(printed(name, *arguments), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", ["trace", "edit", "stats"])
def test_shape_of_a_dry_run(house: House, name: str) -> None:
    schema = json.loads((FORMATS / "dry-run.schema.json").read_text("utf-8"))
    jsonschema.validate(printed(name, *asked(house, name)[0], "--dry-run"), schema, jsonschema.Draft202012Validator)


def test_files(house: House) -> None:
    pages = module("pages")
    edit, folder = json.loads((house.place / "edit" / "edit.json").read_text()), house.applied()
    jsonschema.validate(edit, pages.schemas()["edit-folder"])
    for line in (folder / "factedit" / "ledger.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), pages.schemas()["ledger"])
    for name, file in (("evaluate", house.results() / "summary.json"),):
        jsonschema.validate(json.loads(file.read_text()), pages.schemas()[name])
    for name, file in (("requests", "facts.jsonl"), ("known-facts", "known.jsonl")):
        for line in (house.place / file).read_text().splitlines():
            jsonschema.validate(json.loads(line), pages.schemas()[name])


@pytest.mark.parametrize("path", sorted(FORMATS.glob("*.json")), ids=lambda path: path.name)
def test_a_schema_is_one_and_refuses_something(path: Path) -> None:
    schema = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"]
    assert not jsonschema.Draft202012Validator(schema).is_valid("text"), "a schema that allows all promises nothing"
