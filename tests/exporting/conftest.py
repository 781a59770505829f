"""A run that several tests export."""

from pathlib import Path

import pytest

from resvision import api


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the digits well enough to tell right answers from wrong ones."""
    out = tmp_path_factory.mktemp("digits") / "run"
    options = {"model": "resnet14_cifar", "epochs": 4, "precision": "fp32", "compile": False, "workers": 0}
    made = api.train("digits", out=out, **options)
    assert made.result["accuracy"] > 0.9
    return out
