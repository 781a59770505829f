"""A run that several tests export."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from resvision import api
from resvision.exporting import Export
from resvision.target import Contract, Format


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned the digits well enough to tell right answers from wrong ones."""
    out = tmp_path_factory.mktemp("digits") / "run"
    options = {"model": "resnet14_cifar", "epochs": 4, "precision": "fp32", "compile": False, "workers": 0}
    made = api.train("digits", out=out, **options)
    assert made.result["accuracy"] > 0.9
    return out


@pytest.fixture(scope="session")
def exported(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Format, Contract], Export]:
    """Exports of that run in float32, compared on the digits, in a folder of their own each."""

    @functools.cache
    def make(kind: Format, contract: Contract) -> Export:
        return api.export(digits_run, kind, contract=contract, data="digits", out=tmp_path_factory.mktemp("exported"))

    return make
