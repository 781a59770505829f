"""Calibration: probabilities that are as often right as they say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resvision.evaluation.metrics import IntArray, log_softmax


def temperature(logits: npt.NDArray[np.floating], labels: IntArray) -> float:
    """The temperature at which logits (N, K) have the least negative log-likelihood (Guo et al. 2017, section 4.2).

    In 1 / temperature the likelihood is convex, so the root of its slope is found by halving; within 0.05 to 20.
    """
    values = logits.astype(np.float64)
    truth = values[np.arange(len(labels)), labels]
    low, high = 0.05, 20.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = (np.exp(log_softmax(values * middle)) * values).sum(axis=1)
        if (expected - truth).mean() > 0:
            high = middle
        else:
            low = middle
    return float(1 / middle)
