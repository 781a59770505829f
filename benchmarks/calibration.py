"""Temperatures chosen by few pictures: the likelihood alone, and with an expectation of what temperatures are like.

    python benchmarks/calibration.py [--draws 20]

Answers are drawn: logits whose softmax is calibrated once divided by a temperature that is known (1; 2.5, an
overconfident network; 0.6), of networks that are right on 77% and 97% of the pictures. Prints one JSON document: for
each number of choosing pictures and each width of the expectation of log T the mean excess of the negative
log-likelihood on 4,000 other pictures over that of the true temperature, in nats, and the worst of the draws.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics

import numpy as np
import numpy.typing as npt

from resvision.evaluation import calibration
from resvision.evaluation.metrics import log_softmax, negative_log_likelihood

CLASSES, OTHERS = 10, 4000
MARGINS, TRUE, COUNTS = (2.0, 4.0), (1.0, 2.5, 0.6), (20, 50, 150, 500)
WIDTHS = (math.inf, 1.0, 0.5, 0.25)  # of the expectation; without end it is the likelihood alone


def main() -> None:
    parser = argparse.ArgumentParser(description="Temperatures chosen by few pictures.")
    parser.add_argument("--draws", type=int, default=20)
    draws = parser.parse_args().draws
    random = np.random.default_rng(0)

    def drawn(count: int, margin: float, true: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        logits = random.normal(size=(count, CLASSES))
        logits[:, 0] += margin
        chances = np.exp(log_softmax(3 * logits))
        return 3 * logits * true, np.array([random.choice(CLASSES, p=row) for row in chances])

    rows = []
    for margin in MARGINS:
        for true in TRUE:
            logits, labels = drawn(OTHERS, margin, true)

            def loss(chosen: float) -> float:
                return negative_log_likelihood(log_softmax(logits / chosen), labels)  # noqa: B023

            for count in COUNTS:
                excess: dict[float, list[float]] = {width: [] for width in WIDTHS}
                for _ in range(draws):
                    few, theirs = drawn(count, margin, true)
                    for width in WIDTHS:
                        calibration.USUAL = width
                        excess[width].append(loss(calibration.temperature(few, theirs)) - loss(true))
                told = {
                    str(width): {"mean": round(statistics.fmean(values), 4), "worst": round(max(values), 4)}
                    for width, values in excess.items()
                }
                accuracy = float((logits.argmax(axis=1) == labels).mean())
                rows.append({"accuracy": round(accuracy, 3), "temperature": true, "pictures": count, "excess": told})
    print(json.dumps({"benchmark": "calibration", "draws": draws, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
