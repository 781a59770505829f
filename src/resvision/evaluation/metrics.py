"""Metrics as pure functions of counts, logits and labels: counts are added up and divided once."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ECE_BINS = 15  # Guo et al. 2017, section 4


def log_softmax(logits: npt.NDArray[np.floating]) -> FloatArray:
    """Log-probabilities of logits (N, K), in float64."""
    values = logits.astype(np.float64)
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))  # type: ignore[no-any-return]


def confusion(labels: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Counts (K, K): rows are true classes, columns predicted ones."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), 95% by default; it holds near 0 and 1, too."""
    p = correct / total
    centre = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def precision_and_recall(counts: IntArray) -> tuple[list[float | None], list[float | None]]:
    """Precision and recall of each class from a confusion matrix; None where there is nothing to divide by."""
    right = np.diag(counts)

    def share(totals: IntArray) -> list[float | None]:
        return [int(r) / int(t) if t else None for r, t in zip(right, totals, strict=True)]

    return share(counts.sum(axis=0)), share(counts.sum(axis=1))


def negative_log_likelihood(log_probabilities: FloatArray, labels: IntArray) -> float:
    """Mean of -log p(true class), in nats."""
    return float(-log_probabilities[np.arange(len(labels)), labels].mean())


def expected_calibration_error(log_probabilities: FloatArray, labels: IntArray, bins: int = ECE_BINS) -> float:
    """How far confidence and accuracy lie apart on average, over equally wide bins (Guo et al. 2017, equation 3)."""
    confidence = np.exp(log_probabilities.max(axis=1))
    right = log_probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
