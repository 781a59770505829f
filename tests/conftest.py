"""What several tests need to compare with other libraries."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def torchvision_operators() -> Iterator[None]:
    """Lets torchvision be imported where its compiled operators do not load, beside a CPU build of torch."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
            library.define(operator)
    except RuntimeError:  # they load
        library = None
    yield
    del library  # until here it had to live


@pytest.fixture(scope="session", autouse=True)
def picture_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tests, and the programs that they start, leave a person's picture cache alone."""
    folder = tmp_path_factory.mktemp("pictures")
    os.environ["RESVISION_CACHE"] = str(folder)
    yield folder
    del os.environ["RESVISION_CACHE"]
