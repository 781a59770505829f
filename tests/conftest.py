"""What several tests need to compare with other libraries."""

from collections.abc import Iterator

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
