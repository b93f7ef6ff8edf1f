"""History and null space apart, at equal reached share: `memit` and `alphaedit`, each with and without earlier keys.

    python docs/checks/two_by_two.py gemma3-270m --facts 300 --batch 100 --share 0.9 --out DIR

The first batch of every arm reaches the same share of its residuals in every layer (`share_of=batch`), by the weight
of what must stay (λ or L2); an arm with history keeps that weight, one without chooses it anew for every batch. The
same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from tell import asks, tell

from factedit.evaluate.benchmark import UNEDITED
from factedit.work.evaluate import Evaluated, evaluate_dataset
from factedit.work.inputs import ModelSource, load_model

ARMS = ("memit-no-history", "memit", "alphaedit-no-history", "alphaedit")
SCORES = ("S", "ES", "PS", "NS", "free", "perplexity", "panel", "moved")


def rows_of(evaluated: Evaluated) -> list[dict[str, Any]]:
    """A row per arm and checkpoint: scores, and per layer the shares that the batches reached, first and last."""
    rows = []
    for name, scores in evaluated.evaluation.summary.items():
        row: dict[str, Any] = {"arm": name, "n": max((scores[s].n for s in SCORES if s in scores), default=0)}
        row |= {score: scores[score].value for score in SCORES if score in scores}
        if name != UNEDITED:
            row |= shares(list(evaluated.evaluation.results[name].values()))
        rows.append(row)
    return rows


def shares(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Per layer the share that each batch reached, in the order of the batches, and the weights."""
    told: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        for layer, of in case.get("diagnostics", {}).get("layers", {}).items():
            seen = told.setdefault(layer, [])
            if (of["share_reached"], of["scale"]) not in seen:
                seen.append((of["share_reached"], of["scale"]))
    return {
        f"{what}, layer {layer}": ", ".join(f"{pair[n]:.4g}" for pair in pairs)
        for layer, pairs in sorted(told.items())
        for n, what in enumerate(("share reached", "weight"))
    }


def run(model: ModelSource, asked: argparse.Namespace) -> str:
    """Evaluate the four arms and tell."""
    settings = [f"share={asked.share}", "share_of=batch", *(asked.set or ())]
    if asked.layers:
        settings.append(f"layers={asked.layers}")
    evaluated = evaluate_dataset(
        model, asked.dataset, asked.out, methods=",".join(ARMS), sequence=asked.facts, batch=asked.batch,
        split=asked.split, seed=asked.seed, settings=settings, second_moment=asked.second_moment,
    )  # fmt: skip
    about = {"check": "two by two", **{k: v for k, v in vars(asked).items() if k not in ("out", "second_moment")}}
    return tell(asked.out, "two-by-two", about, rows_of(evaluated))


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What was asked on the command line."""
    parser = asks(__doc__)
    parser.add_argument("--facts", type=int, default=300)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--layers", default="", help="as 1,2,3; default: the preset's")
    parser.add_argument("--split", default="report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    chosen = parsed()
    run(lambda: load_model(chosen.model, threads=chosen.threads), chosen)
