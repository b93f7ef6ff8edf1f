"""Many facts: the joint solve, a step of a sequence, and reading facts off one edited model, against the published way.

python benchmarks/many.py [--model gemma3-270m] [--jobs solve,step,read] [--facts 100] [--out FILE.json]
python benchmarks/many.py --random 2048,6400 --jobs solve,rounds --threads 1 --processor [--out FILE.json]

With --random the keys and C are random, of these widths, and no model is loaded; `rounds` is a sequence on a small
random model, round 2 against round 50. --processor counts the processor's seconds, for a machine that others use.

The published way, written plainly: per batch and layer LU of the whole λC + KKᵀ in float64; the history as a sum d × d
that is solved anew; every fact read under an edit of its own. Both ways are checked to agree; nothing asserts a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shapes import gpt2_xl, words_tokenizer

from factedit import Moments, __version__, load, load_dataset, select
from factedit.edit.artefact import Edit
from factedit.edit.effects.low_rank import LowRank
from factedit.edit.many.history import History
from factedit.edit.method_table import make_method
from factedit.evaluate.probability import Question, score
from factedit.evaluate.together import Together
from factedit.facts import EditRequest
from factedit.memory import ask_for_huge_pages
from factedit.models.adapter import EditableModel
from factedit.stats.penalty import MomentPenalty
from factedit.stats.second_moment import SecondMoment
from factedit.work.sequence import RunningSequence

LAMBDA = 100.0
ROUND = 4  # facts of a round
LONG = 1000  # facts before the late step of a sequence


CLOCK = [time.perf_counter]


def seconds(work: Callable[[], Any]) -> float:
    began = CLOCK[0]()
    work()
    return CLOCK[0]() - began


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Both alternately; the ratio of each pair."""
    rows = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratios = [slow / quick for quick, slow in rows]
    return {
        "ours_s": statistics.median(quick for quick, _ in rows),
        "theirs_s": statistics.median(slow for _, slow in rows),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def keys(count: int, moment: SecondMoment, seed: int) -> torch.Tensor:
    """Random keys with the covariance of real ones, `[count, d_mlp]`."""
    normal = torch.randn(count, len(moment.matrix), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal @ torch.linalg.cholesky(moment.matrix.double()).T


def solve_plainly(moment: SecondMoment, own: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
    """(λC + HHᵀ + KKᵀ)⁻¹K by LU in float64, `[n, d_mlp]`."""
    matrix = LAMBDA * moment.matrix.double() + earlier.T @ earlier + own.T @ own
    return torch.linalg.solve(matrix, own.T).T


def solve(moment: SecondMoment, facts: int, repeats: int) -> dict[str, Any]:
    """One batch's solve; C is factored once for all batches and layers' visits."""
    own, none = keys(facts, moment, 1), torch.zeros(0, len(moment.matrix), dtype=torch.float64)
    penalty = MomentPenalty(moment, LAMBDA)
    ours = lambda: History.of(penalty, none).write(own, penalty.solve(own))[0].directions  # noqa: E731
    theirs = lambda: solve_plainly(moment, own, none)  # noqa: E731
    gap = float((ours() - theirs()).norm() / theirs().norm())
    assert gap < 1e-6, f"the two ways differ by {gap}"
    return paired(ours, theirs, repeats) | {"facts": facts, "difference": gap}


def step(moment: SecondMoment, repeats: int) -> dict[str, Any]:
    """A further fact after `LONG` others, against the same after ten, and against the published solve anew."""
    penalty, own = MomentPenalty(moment, LAMBDA), keys(1, moment, 2)
    early, late = (History.of(penalty, keys(n, moment, 3)) for n in (10, LONG))
    base = penalty.solve(own)
    found, plainly = late.write(own, base)[0].directions, solve_plainly(moment, own, late.keys.double())
    gap = float((found - plainly).norm() / plainly.norm())
    assert gap < 1e-5, f"the two ways differ by {gap}"
    against = paired(lambda: late.write(own, base), lambda: solve_plainly(moment, own, late.keys.double()), repeats)
    growth = paired(lambda: late.write(own, base), lambda: early.write(own, base), repeats)
    return against | {"facts_before": LONG, "difference": gap, "at_ten_over_at_thousand": growth["ratio"]}


def read(model: EditableModel, facts: int, repeats: int) -> dict[str, Any]:
    """The facts' own prompts read off one jointly edited model, against as many differently edited ones."""
    requests = [record.request for record in select(load_dataset("worldfacts").records, limit=facts)]
    asked = [[Question(request.text, request.target_new)] for request in requests]
    d_in, d_out = model.weight(3).shape
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape, generator=random) * 0.01 for shape in ((d_in, facts), (facts, d_out)))
    made_for = model.fingerprint()
    whole = Edit(method="random", requests=tuple(requests), effects=(LowRank(3, left, right),), made_for=made_for)
    single = [
        Edit(method="random", requests=(request,), effects=(LowRank(3, left[:, [n]], right[[n]]),), made_for=made_for)
        for n, request in enumerate(requests)
    ]
    shared = Together(model).plus([whole])

    def ours() -> Any:
        with shared.on(model):
            return score(model, asked, [None])

    def theirs() -> Any:
        return [score(model, [own], [[edit]]) for own, edit in zip(asked, single, strict=True)]

    ours(), theirs()
    return paired(ours, theirs, repeats) | {"facts": facts}


def random_moment(size: int) -> SecondMoment:
    """C of random keys whose directions weigh from 1/1600 to 1, as of twice the width's tokens."""
    random = torch.Generator().manual_seed(0)
    texts = torch.randn(2 * size, size, generator=random) * torch.linspace(0.05, 2, size)
    return SecondMoment((texts.T @ texts / len(texts)).double())


def rounds(repeats: int) -> dict[str, Any]:
    """A round of four facts with saving and asking, the second against the fiftieth; one sequence runs ahead."""
    model, layer = gpt2_xl(tokenizer=words_tokenizer(), small=True), {"layers": (2,), "steps": 5, "share": 0.9}
    moment = random_moment(model.d_mlp)
    facts = [EditRequest(subject=f"w{n}", prompt="{} w390 w391", target_new=f"w{n + 1}") for n in range(380)]
    with tempfile.TemporaryDirectory() as place:
        running = {}
        for name, ahead in (("early", 1), ("late", 49)):
            method = make_method("memit", model, lambda _m, _n: moment, context_templates=("{}",), **layer)
            running[name] = RunningSequence.begin(model, method, ())
            for _ in range(ahead):
                one_round(running[name], facts, Path(place) / name)
        rows = [
            {name: seconds(partial(one_round, each, facts, Path(place) / name)) for name, each in running.items()}
            for _ in range(repeats)
        ]
    ratios = [row["late"] / row["early"] for row in rows]
    return {
        "ours_s": statistics.median(row["late"] for row in rows),
        "theirs_s": statistics.median(row["early"] for row in rows),
        "ratio": 1 / statistics.median(ratios), "late_over_early": ratios, "facts_of_a_round": ROUND,
        "facts_before": [ROUND, 49 * ROUND], "d_mlp": model.d_mlp,
    }  # fmt: skip


def one_round(running: RunningSequence, facts: list[EditRequest], folder: Path) -> None:
    begun = len(running.made) * ROUND
    running.batch(facts[begun : begun + ROUND], folder / f"{len(running.made):04d}")


def main() -> None:
    """Run the jobs and print, or write, what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gemma3-270m")
    parser.add_argument("--jobs", default="solve,step,read")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--random", default="", help="widths of random keys, with commas, in place of a model's")
    parser.add_argument("--processor", action="store_true", help="count the processor's seconds")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.processor:
        CLOCK[0] = time.process_time
    ask_for_huge_pages()
    torch.set_num_threads(chosen.threads)
    rows = dict(run(chosen))
    name = f"random keys of width {chosen.random}" if chosen.random else chosen.model
    about = {
        "model": name, "threads": chosen.threads, "machine": platform.processor() or platform.machine(),
        "versions": {"factedit": __version__, "torch": torch.__version__},
    }  # fmt: skip
    for name, row in rows.items():
        print(f"{name}: ours {row['ours_s']:.4f} s, plainly {row['theirs_s']:.4f} s, ratio {row['ratio']:.1f}")
    if chosen.out:
        chosen.out.write_text(json.dumps({**about, "jobs": rows}, indent=1) + "\n", encoding="utf-8")


def run(chosen: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the jobs that were asked for, by name, and what each took."""
    model = None if chosen.random else load(chosen.model)
    moments = {"": Moments()(model, 3)} if model else {f" {n}": random_moment(int(n)) for n in chosen.random.split(",")}
    for name in chosen.jobs.split(","):
        if name == "rounds":
            yield name, rounds(chosen.repeats)
        elif name == "read" and model is not None:
            yield name, read(model, chosen.facts, chosen.repeats)
        else:
            for width, moment in moments.items():
                of = {"solve": partial(solve, moment, chosen.facts), "step": partial(step, moment)}[name]
                yield f"{name}{width}", of(chosen.repeats)


if __name__ == "__main__":
    main()
