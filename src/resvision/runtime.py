"""Sessions that turn squares into logits; today by PyTorch."""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt
import torch

from resvision.data.images import to_input
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Precision


def device() -> torch.device:
    """Where networks run: the first NVIDIA GPU, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Convolutions and matrix products in bfloat16 within the block, or nothing for fp32."""
    return torch.autocast(where.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


class TorchSession:
    """Runs a network on squares; `session(squares)` gives logits.

    Args:
        network: put into evaluation mode at every call.
        preprocess: whose normalisation is applied.
        precision: of the forward pass.
    """

    def __init__(self, network: ResNet, preprocess: Preprocess, precision: Precision = "fp32") -> None:
        self.network = network
        self.preprocess = preprocess
        self.precision: Precision = precision

    def __call__(self, squares: torch.Tensor) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, num_classes)."""
        where = next(self.network.parameters()).device
        self.network.eval()
        with torch.inference_mode(), autocast(where, self.precision):
            logits = self.network(to_input(squares.to(where), self.preprocess))
        return logits.float().cpu().numpy()  # type: ignore[no-any-return]
