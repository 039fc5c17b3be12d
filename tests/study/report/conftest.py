"""Fixtures of the tests of a run's page."""

import pytest

from mbrec.monitor import heat_map
from mbrec.study.report import plots


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time of a page, where its text is looked at."""
    monkeypatch.setattr(plots, "png", lambda figure: b"a picture")
    monkeypatch.setattr(heat_map, "draw", lambda values, names: (b"a picture", 100, 100))
