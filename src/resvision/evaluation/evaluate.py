"""One pass over a split: logits, and every figure that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resvision.data.reading import Batch
from resvision.errors import DivergedError
from resvision.evaluation import metrics
from resvision.measure import now


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a classifier did on one split. Accuracies, precision and recall lie in 0..1; None is "not defined"."""

    classes: tuple[str, ...]
    pictures: int
    correct: int
    accuracy: float
    accuracy_ci95: tuple[float, float]
    nll: float
    ece: float
    precision: list[float | None]
    recall: list[float | None]
    confusion: list[list[int]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON: precision, recall and support by class name."""
        per_class = {
            name: {"precision": p, "recall": r, "pictures": sum(row)}
            for name, p, r, row in zip(self.classes, self.precision, self.recall, self.confusion, strict=True)
        }
        return {
            "pictures": self.pictures,
            "accuracy": self.accuracy,
            "accuracy_ci95": list(self.accuracy_ci95),
            "nll": self.nll,
            "ece": self.ece,
            "per_class": per_class,
            "confusion": self.confusion,
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    session: Callable[[Any], npt.NDArray[np.float32]],
    batches: Iterable[Batch],
    classes: tuple[str, ...],
    temperature: float = 1.0,
) -> Evaluation:
    """Runs `session` over `batches`; probabilities are softmax(logits / temperature).

    Args:
        session: uint8 squares (N, S, S, C) to logits (N, K).
        batches: squares and labels that index `classes`.
        classes: K names.
        temperature: of the calibration (Guo et al. 2017, section 4.2).

    Raises:
        DivergedError: a logit is not finite.
    """
    start = now()
    logits, labels = collect(session, batches)
    return figures(logits, labels, classes, temperature, seconds=now() - start)


def collect(
    session: Callable[[Any], npt.NDArray[np.float32]], batches: Iterable[Batch]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """What `session` gives for all batches, one behind the other, and their labels (N,).

    Raises:
        DivergedError: a logit is not finite.
    """
    rows, truth = [], []
    for batch in batches:
        rows.append(session(batch.squares))
        truth.append(batch.labels.numpy())
    logits, labels = np.concatenate(rows), np.concatenate(truth)
    if not np.isfinite(logits).all():
        raise DivergedError("the network gives logits that are not finite")
    return logits, labels


def figures(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    classes: tuple[str, ...],
    temperature: float = 1.0,
    *,
    seconds: float,
) -> Evaluation:
    """Every figure of logits (N, K) and labels (N,)."""
    log_probabilities = metrics.log_softmax(logits / temperature)
    counts = metrics.confusion(labels, log_probabilities.argmax(axis=1), len(classes))
    correct, pictures = int(np.trace(counts)), len(labels)
    precision, recall = metrics.precision_and_recall(counts)
    return Evaluation(
        classes=classes,
        pictures=pictures,
        correct=correct,
        accuracy=correct / pictures,
        accuracy_ci95=metrics.wilson_interval(correct, pictures),
        nll=metrics.negative_log_likelihood(log_probabilities, labels),
        ece=metrics.expected_calibration_error(log_probabilities, labels),
        precision=precision,
        recall=recall,
        confusion=counts.tolist(),
        seconds=seconds,
    )
