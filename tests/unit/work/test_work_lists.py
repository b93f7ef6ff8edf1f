"""The lists say what the registries hold."""

from __future__ import annotations

from factedit.data.registry import load_dataset
from factedit.edit.method_table import check_method
from factedit.models.family_table import FAMILIES
from factedit.models.refused import REFUSED
from factedit.work.lists import list_datasets, list_methods, list_models


def test_every_name_that_is_listed_can_be_used() -> None:
    methods = list_methods()
    assert {"rome", "rome-original", "ft", "mend-cf"} <= set(methods)
    for name, row in methods.items():
        check_method(name)
        assert row["what"]
        assert row["source"]
    assert {"worldfacts", "counterfact", "zsre", "known-facts"} <= set(list_datasets())
    assert load_dataset("worldfacts").records
    models = list_models()
    assert {*models.editable, *models.traceable} == set(FAMILIES)
    assert models.refused == REFUSED
    assert not {*models.editable} & {*models.traceable}
    assert "gpt2" in models.editable
    assert "mixtral" in models.editable, "at its experts"
    assert models.traceable == ("dbrx", "jetmoe")
    assert models.as_json()["embedded"] == ["gemma3-270m", "smollm2-135m"]
