"""The doctor's trials of arms against the baseline, as far as the time goes, and what they are taken for."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resvision.measure import spread
from resvision.progress import Note
from resvision.search import findings
from resvision.search.clock import Clock
from resvision.search.compare import Difference, compare, shrunk, variance_of_trainings
from resvision.search.pool import FOLDS
from resvision.search.trials import BASELINE, Arm, Trials, bits
from resvision.training.ledger import Ledger

PARTS = {"a quarter": 0.25, "half": 0.5}  # of the training pictures, for the learning curve
MOST_TESTS = 3  # trainings of each network for the untouched part, where time is left
MOST_TURNS = 8  # times that all pictures judge, where time is left ...
PROMISING = (6, 4, 3, 2)  # ... and how many arms are tried in the second turn, the third and so on


@dataclass(frozen=True)
class Sizes:
    """Seconds that one training takes, and that two networks for the untouched part take, with looking at it."""

    training: float
    test: float


class Judge:
    """Tries arms against the baseline while there is time."""

    def __init__(
        self,
        trials: Trials,
        baseline: list[dict[str, Any]],
        ledger: Ledger,
        note: Note,
        clock: Clock,
        sizes: Sizes,
        prefix: str,
    ) -> None:
        self.trials, self.baseline, self.ledger = trials, list(baseline), ledger
        self.note, self.clock, self.sizes, self.prefix = note, clock, sizes, prefix
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def tries(self, arm: Arm, seeds: int) -> bool:
        """Trains an arm with each seed, unless the time does not suffice; whether it is done."""
        rows = []
        for seed in range(seeds):
            key = f"{self.prefix}{arm.name} {seed}"
            needed = self.sizes.training * arm.length * (seeds - seed)
            if key not in self.ledger.done and self.clock.left() - self.sizes.test < needed:
                self.note(f"{arm.name}: not tried, the time does not suffice")
                return False
            is_new = seed >= len(self.rows.get(arm.name, []))
            rows.append(self.ledger.once(key, lambda: self.trials.judge(arm, seed)))  # noqa: B023
            if is_new:
                self.note(say(arm.name, seed, rows[-1]))
        self.rows[arm.name] = rows
        return True

    def repeat(self, arms: Sequence[Arm]) -> None:
        """Makes the differences of the best arms surer, with pictures divided anew, as long as there is time.

        Of a small set hundreds of pictures judge, and one turn tells little: the second turn still has many arms, and
        each further one only the best of those before.
        """
        arms = [arm for arm in arms if len(self.rows[arm.name]) == FOLDS]
        for turn in range(1, MOST_TURNS):
            seeds = range(turn * FOLDS, (turn + 1) * FOLDS)
            arms = self._affordable(arms, PROMISING[min(turn, len(PROMISING)) - 1], seeds)
            if not arms:
                return
            for arm, rows in [(BASELINE, self.baseline), *((arm, self.rows[arm.name]) for arm in arms)]:
                for seed in seeds:
                    key = f"{self.prefix}{arm.name} {seed}"
                    rows.append(self.ledger.once(key, lambda: self.trials.judge(arm, seed)))  # noqa: B023
            found = self.differences()
            said = ", ".join(
                f"{a.name} {100 * found[a.name].mean:+.1f} ({100 * found[a.name].error:.1f})" for a in arms
            )
            self.note(
                f"with pictures divided anew, turn {turn + 1}: points against the baseline (standard error): {said}"
            )

    def _affordable(self, arms: Sequence[Arm], most: int, seeds: Sequence[int]) -> list[Arm]:
        """At most so many of the best arms, as many as there is time for, or as were tried before a stop."""
        ranked = {name: place for place, name in enumerate(self.best([arm.name for arm in arms], most))}
        arms = sorted((arm for arm in arms if arm.name in ranked), key=lambda arm: ranked[arm.name])
        while arms:
            keys = {f"{self.prefix}{arm.name} {seed}" for arm in (BASELINE, *arms) for seed in seeds}
            needed = self.sizes.training * len(seeds) * (1 + sum(arm.length for arm in arms))
            if keys <= set(self.ledger.done) or self.clock.left() - MOST_TESTS * self.sizes.test >= needed:
                break
            arms.pop()
        return arms

    def best(self, names: Sequence[str], count: int) -> list[str]:
        """The arms with the greatest differences."""
        found = self.differences()
        return sorted(names, key=lambda name: -found[name].mean)[:count]

    def by_picture(self, name: str) -> list[npt.NDArray[np.float64]]:
        """The differences to the baseline, for each seed."""
        return [
            bits(row["right"]) - bits(own["right"]) for row, own in zip(self.rows[name], self.baseline, strict=False)
        ]

    def differences(self) -> dict[str, Difference]:
        """Of all arms that train on all pictures."""
        names = [name for name in self.rows if name not in PARTS]
        arms = [self.by_picture(name) for name in names]
        variance, freedom = variance_of_trainings(arms)
        judged = [[self.trials.judging(seed) for seed in range(len(arm))] for arm in arms]
        return {
            name: compare(arm, variance, freedom, judged=pictures)
            for name, arm, pictures in zip(names, arms, judged, strict=True)
        }

    def believed(self) -> dict[str, Difference]:
        """The same, in view of how many there are."""
        found = self.differences()
        return dict(zip(found, shrunk(list(found.values())), strict=True))

    def row(self, name: str) -> dict[str, Any]:
        """An arm for numbers.json."""
        difference, rows = self.differences()[name], self.rows[name]
        return {
            "name": name,
            "difference": difference.mean,
            "error": difference.error,
            "sure": difference.sure,
            "sure_of_many": self.believed()[name].sure,
            "seeds": list(difference.seeds),
            "accuracy": spread([row["accuracy"] for row in rows]),
            "baseline_accuracy": statistics.fmean(row["accuracy"] for row in self.baseline[: len(rows)]),
            "loss": spread([row["loss"] for row in rows]),
            "gap": findings.gap(rows)["gap"],
            "seconds": sum(row["seconds"] for row in rows),
        }


def say(name: str, seed: int, row: dict[str, Any]) -> str:
    """A trial that is done, in words."""
    return (
        f"{name}, seed {seed}: {row['train_accuracy']:.1%} on training pictures, {row['accuracy']:.1%} held out "
        f"({row['seconds']:.0f} s)"
    )
