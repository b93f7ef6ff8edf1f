"""Loading says nothing, and the settings of transformers are the user's again afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from huggingface_hub import utils as hub
from transformers.utils import logging

from factedit.files.quiet import quiet_transformers


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    level, bars, hub_off = logging.get_verbosity(), logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
    yield
    logging.set_verbosity(level)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    (hub.disable_progress_bars if hub_off else hub.enable_progress_bars)()


@pytest.mark.parametrize("bars", [True, False])
@pytest.mark.parametrize("hub_bars", [True, False])
@pytest.mark.parametrize("level", [logging.INFO, logging.ERROR])
def test_settings_come_back(bars: bool, hub_bars: bool, level: int) -> None:
    logging.set_verbosity(level)
    (logging.enable_progress_bar if bars else logging.disable_progress_bar)()
    (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
    with quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
        assert hub.are_progress_bars_disabled()
    found = (logging.get_verbosity(), logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled())
    assert found == (level, bars, hub_bars)


def test_warnings_are_heard_again_also_after_an_error() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="broken"):
            warn_and_fail()
        warnings.warn("outside", stacklevel=1)
    assert [str(warning.message) for warning in heard] == ["outside"]


def warn_and_fail() -> None:
    with quiet_transformers():
        warnings.warn("inside", stacklevel=1)
        raise ValueError("broken")
