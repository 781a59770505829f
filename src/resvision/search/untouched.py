"""The part of the pictures that chose nothing, which is looked at once, when everything is decided."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import numpy.typing as npt

from resvision.data.pictures import Split
from resvision.evaluation.metrics import wilson_interval
from resvision.search.compare import compare, variance_of_trainings
from resvision.search.judge import MOST_TESTS, PARTS, Judge
from resvision.search.remedies import Remedy
from resvision.search.trials import BASELINE, bits


def check(judge: Judge, winner: Remedy | None, part: Split, clean: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Looks at the untouched part once: the baseline with and without leaked pictures, and the recommendation."""
    arms = [BASELINE] if winner is None else [BASELINE, winner.arm]
    rows: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    seeds = 0
    for seed in range(MOST_TESTS):
        keys = [f"{judge.prefix}untouched: {arm.name} {seed}" for arm in arms]
        if seed and not set(keys) <= set(judge.ledger.done) and judge.clock.left() < judge.sizes.test:
            break
        for arm, key in zip(arms, keys, strict=True):
            tested = judge.ledger.once(key, lambda: judge.trials.test(arm, part, seed))  # noqa: B023
            rows[arm.name].append(tested)
        seeds += 1
    right = {name: np.stack([bits(row["right"]) for row in own]) for name, own in rows.items()}
    result: dict[str, Any] = {
        "pictures": len(part),
        "leaked": int((~clean).sum()),
        "with_leaked": float(right[BASELINE.name].mean()),
        "seeds": seeds,
        "train_accuracy": statistics.fmean(row["train_accuracy"] for row in rows[BASELINE.name]),
    }
    if not clean.any():
        return result | {"accuracy": None}
    for name, values in right.items():
        own = values[:, clean]
        place = "baseline" if name == BASELINE.name else "recommended"
        low, high = wilson_interval(round(float(own.mean()) * own.shape[1]), own.shape[1])
        result[place] = {"accuracy": float(own.mean()), "interval": [low, high], "seeds": own.mean(axis=1).tolist()}
    if winner is not None:
        differences = [a[clean] - b[clean] for a, b in zip(right[winner.name], right[BASELINE.name], strict=True)]
        variance, freedom = variance_of_trainings([judge.by_picture(name) for name in judge.rows if name not in PARTS])
        difference = compare(differences, variance, freedom, judged=[np.arange(int(clean.sum()))] * len(differences))
        result |= {"difference": difference.mean, "error": difference.error, "sure": difference.sure}
    return result
