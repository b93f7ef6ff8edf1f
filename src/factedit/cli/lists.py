"""`factedit methods`, `models`, `datasets`, `benchmarks`, `metrics`: what there is, from the registries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table

from factedit.cli.common import Json, examples, out, write_json


@examples("factedit methods", "factedit methods --json -")
def methods(json: Json = None) -> None:
    """List the editing methods."""
    from factedit.work.lists import list_methods

    rows = list_methods()
    out.print(_table(("method", "what it does", "source"), rows))
    write_json(json, rows)


@examples("factedit models", "factedit models --probe ./my-model")
def models(
    probe: Annotated[
        str, typer.Option("--probe", help="prove this model's row, or find one", metavar="FOLDER", show_default=False)
    ] = "",
    json: Json = None,
) -> None:
    """List the embedded models, the architectures, and the presets.

    With --probe: the row by which one model is read. Where the table has none, one is proposed by shape and probing.
    Every statement that loading proves is proven, and that the model can be resumed; what fails is said with figures.
    """
    if probe:
        write_json(json, _probed(probe))
        return
    from factedit.work.lists import list_models

    listing = list_models()
    table = Table("embedded model", "package", "licence")
    for model in listing.embedded:
        table.add_row(model.name, model.package, model.licence)
    out.print(table)
    out.print(f"architectures that can be edited: {', '.join(listing.editable)}", soft_wrap=False)
    out.print(f"architectures that can be traced: {', '.join(listing.traceable)}", soft_wrap=False)
    refused = Table("cannot be traced or edited", "why")
    for why in dict.fromkeys(listing.refused.values()):
        refused.add_row(", ".join(name for name, reason in listing.refused.items() if reason == why), why)
    out.print(refused)
    presets = Table("preset for", "layer", "settings", "source")
    for preset in listing.presets:
        rest = ", ".join(f"{k} {v}" for k, v in preset.settings.items() if k != "layer")
        presets.add_row(preset.model, str(preset.settings["layer"]), rest or "published defaults", preset.source)
    out.print(presets)
    write_json(json, listing.as_json())


def _probed(source: str) -> dict[str, Any]:
    from factedit.work.probe import probe, row_text

    probed = probe(source)
    where = "is in the table" if probed.is_known else "was found by shape and probing, and can be added to the table"
    out.print(f"This row {where}:", soft_wrap=True)
    out.print(row_text(probed.row), soft_wrap=True)
    out.print(
        f"Proven on {probed.layers} layers: what layers add, values, edits, causality. {probed.dense} can be edited at "
        f"one MLP, {probed.experts} at experts. Resumed at any layer, logits differ by {probed.resumed_off:.1e} "
        "at most.",
        soft_wrap=True,
    )
    return probed.as_json()


@examples("factedit datasets")
def datasets(json: Json = None) -> None:
    """List the data sets and where they come from."""
    from factedit.work.lists import list_datasets

    rows = list_datasets()
    out.print(_table(("data set", "what", "source"), rows))
    write_json(json, rows)


@examples("factedit benchmarks")
def benchmarks(json: Json = None) -> None:
    """List what methods are judged on, and every score of it."""
    from factedit.work.lists import list_benchmarks

    rows = list_benchmarks()
    out.print(_table(("benchmark", "what it asks", "source"), rows))
    out.print(_scores(rows))
    write_json(json, rows)


@examples("factedit metrics", "factedit metrics ripple")
def metrics(
    name: Annotated[str | None, typer.Argument(help="of one, for its protocol", show_default=False)] = None,
    json: Json = None,
) -> None:
    """List what can be measured beside a benchmark's own scores."""
    from factedit.work.lists import list_metric, list_metric_words, list_metrics

    if name is not None:
        one = list_metric(name)
        out.print(one["protocol"])
        out.print(f"source: {one['source']}")
        out.print(_scores({name: one}))
        write_json(json, {name: one})
        return
    rows = list_metrics()
    out.print(_table(("metric", "what it asks", "source"), rows))
    words = "; ".join(f"{word} ({what})" for word, what in list_metric_words().items())
    out.print(f"words for several: {words}", soft_wrap=False)
    out.print(_scores(rows))
    write_json(json, rows)


def _scores(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("score", "what it is", "better", "from", "to", title="their scores")
    for row in rows.values():
        for score in row["scores"]:
            low, high = ("no end" if end is None else f"{end:g}" for end in score["range"])
            table.add_row(score["name"], score["what"], score["better"], low, high)
    return table


def _table(head: tuple[str, str, str], rows: Mapping[str, Mapping[str, str]]) -> Table:
    table = Table(*head)
    for name, row in rows.items():
        table.add_row(name, row["what"], row["source"])
    return table


COMMANDS = {
    "methods": methods, "models": models, "datasets": datasets, "benchmarks": benchmarks, "metrics": metrics,
}  # fmt: skip
