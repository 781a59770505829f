"""Calibration: probabilities that are as often right as they say."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from resvision.evaluation.metrics import IntArray, log_softmax

USUAL = 0.5  # standard deviation of log T before anything was seen


def temperature(logits: npt.NDArray[np.floating], labels: IntArray) -> float:
    """The most probable temperature T of logits (N, K) (Guo et al. 2017, section 4.2), within 0.05 to 20.

    Few pictures that are all right would want T = 0. So log T is expected at 0 +- USUAL, which pictures soon outweigh:
    at what is returned the slope of negative log-likelihood and that expectation, by log 1 / T, is 0.
    """
    values = logits.astype(np.float64)
    truth = values[np.arange(len(labels)), labels]
    low, high = 0.05, 20.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = (np.exp(log_softmax(values * middle)) * values).sum(axis=1)
        if middle * (expected - truth).sum() + math.log(middle) / USUAL**2 > 0:
            high = middle
        else:
            low = middle
    return float(1 / middle)
