"""Training is looked at here, and its plots in one test."""

from pathlib import Path

import pytest

from resvision.report import plots


@pytest.fixture
def drawn() -> None:
    """For a test whose plots are drawn."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others leave empty ones: to draw them takes as long as to train."""
    if "drawn" not in request.fixturenames:
        for name in ("curves", "confusion"):
            monkeypatch.setattr(plots, name, lambda path, *_: Path(path).touch())
