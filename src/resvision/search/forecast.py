"""Learning curves of all candidates together, from short trainings to the full one, with how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

DRAWS = 4000  # curves that agree with the trainings, of which everything that is said is made
# What is expected before any training, as (mean, standard deviation): the logarithm of the odds of an error at full
# length, the exponent with which they fall there, and how much more steeply they fell before. (Of Imagenette's public
# leaderboard at 128 px the exponent is 0.33 between 5 and 20 epochs and 0.21 between 20 and 80.)
INTERCEPT, EXPONENT, BEND = (-1.5, 2.0), (0.4, 0.4), (0.06, 0.06)
OWN_INTERCEPT = 0.7  # standard deviation of a candidate's own part of the intercept
SHARED = 0.7  # part of the variance of what is a candidate's own that it shares with one just like it
# Those of the candidates' own exponents and of trainings that differ in their seed alone: each pair is weighed by how
# well it agrees with the trainings.
OWN_EXPONENTS, SEEDS = (0.05, 0.1, 0.2, 0.4), (0.03, 0.06, 0.12, 0.25)
# Networks that have hardly begun (from odds of e^1.5 on: 26% right of ten classes) are worse than the law has it; how
# far they may be off it, as a standard deviation for each unit beyond.
BEGUN, OFF = 1.5, 1.0
COMMON = 3  # parameters that all candidates share


@dataclass(frozen=True, kw_only=True)
class Point:
    """A short training that ran to its end.

    Args:
        candidate: its index.
        part: of the full training's pictures that were presented, above 0 and at most 1.
        accuracy: 0..1, on pictures that did not train.
        judged: how many these were.
    """

    candidate: int
    part: float
    accuracy: float
    judged: int


class Forecast:
    """What the full trainings are expected to reach.

    The odds of an error, against those of guessing, fall about as a power of the length of the training, the less
    steeply the longer: e / (guessing - e) = exp(intercept + bend x^2) part^-exponent with x = -log(part). (Without the
    bend it is the curve of Morgan, Mercer and Flodin 1975, from guessing to no error, which fits learning curves well:
    Viering & Loog 2021.) In logarithms it is linear. Each candidate's intercept and exponent are what all have in
    common and a deviation of its own, which it shares with those that are like it; so one of which little is known, or
    nothing, is taken to be like its neighbours: a hierarchical linear model (Gelman et al. 2013, chapter 15).

    Args:
        points: of all trainings.
        alike: (candidates, candidates) correlations of what is their own, as `similarity` gives them.
        classes: of the set; guessing is wrong in (classes - 1) / classes.
    """

    def __init__(self, points: Sequence[Point], alike: FloatArray, classes: int) -> None:
        self.candidates = len(alike)
        self.guessing = 1 - 1 / classes
        odds, variances = zip(*(self._odds(point) for point in points), strict=True)
        rows = np.stack([self._row(point.candidate, point.part) for point in points])
        believed = [
            _posterior(rows, np.array(odds), np.array(variances) + seeds**2, *self._prior(exponents, alike))
            for exponents, seeds in product(OWN_EXPONENTS, SEEDS)
        ]
        evidence = np.array([log for log, _, _ in believed])
        weights = np.exp(evidence - evidence.max())
        random = np.random.default_rng(0)
        counts = random.multinomial(DRAWS, weights / weights.sum())
        self.draws = np.concatenate(
            [
                random.multivariate_normal(mean, covariance, count, method="eigh")
                for count, (_, mean, covariance) in zip(counts, believed, strict=True)
                if count
            ]
        )

    def accuracies(self, part: float = 1.0) -> FloatArray:
        """(DRAWS, candidates): what trainings of that part may reach, without the chance of a seed."""
        rows = np.stack([self._row(candidate, part) for candidate in range(self.candidates)])
        return 1 - self.guessing / (1 + np.exp(-self.draws @ rows.T))

    def _row(self, candidate: int, part: float) -> FloatArray:
        """What the parameters are multiplied by: the common ones, the own intercepts, the own exponents."""
        x = -math.log(part)
        row = np.zeros(COMMON + 2 * self.candidates)
        row[:COMMON] = 1.0, x, x * x
        row[COMMON + candidate] = 1.0
        row[COMMON + self.candidates + candidate] = x
        return row

    def _prior(self, exponents: float, alike: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and covariances of the parameters before any training."""
        means, deviations = zip(INTERCEPT, EXPONENT, BEND, strict=True)
        size = COMMON + 2 * self.candidates
        mean, covariance = np.zeros(size), np.zeros((size, size))
        mean[:COMMON] = means
        first = COMMON + self.candidates
        covariance[:COMMON, :COMMON] = np.diag(np.square(deviations))
        covariance[COMMON:first, COMMON:first] = OWN_INTERCEPT**2 * alike
        covariance[first:, first:] = exponents**2 * alike
        return mean, covariance

    def _odds(self, point: Point) -> tuple[float, float]:
        """The logarithm of a training's odds, and its variance: of the pictures that judged, and of a slow begin."""
        # What nobody got wrong, or no better than guessing, is taken to be half a standard deviation from there.
        error = 1 - point.accuracy
        least = 0.5 / point.judged
        most = self.guessing - 0.5 * math.sqrt(self.guessing * (1 - self.guessing) / point.judged)
        error = min(max(error, least), most)
        slope = self.guessing / (error * (self.guessing - error))
        odds = math.log(error / (self.guessing - error))
        off = OFF * max(0.0, odds - BEGUN)
        return odds, slope**2 * error * (1 - error) / point.judged + off**2


def _posterior(
    rows: FloatArray, y: FloatArray, variances: FloatArray, mean: FloatArray, prior: FloatArray
) -> tuple[float, FloatArray, FloatArray]:
    """Bayes' rule for a linear model: the logarithm of the evidence, and mean and covariance of the parameters.

    Args:
        rows: (N, P) what the parameters are multiplied by.
        y: (N,) measured.
        variances: (N,) of what was measured.
        mean: (P,) of the parameters, before.
        prior: (P, P) their covariance.
    """
    gain = prior @ rows.T
    covariance = rows @ gain + np.diag(variances)
    rest = y - rows @ mean
    solved = np.linalg.solve(covariance, rest)
    evidence = -0.5 * float(rest @ solved + np.linalg.slogdet(covariance)[1])
    return evidence, mean + gain @ solved, prior - gain @ np.linalg.solve(covariance, gain.T)


def similarity(features: FloatArray) -> FloatArray:
    """How alike candidates are: (N, N) correlations that fall with their distance.

    Args:
        features: (N, K), in which a step of 1 is a large one, such as logarithms to the base 2.
    """
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    alike: FloatArray = SHARED * np.exp(-distances / 2) + (1 - SHARED) * np.eye(len(features))
    return alike


def chances(accuracies: FloatArray, costs: Sequence[float] | None = None) -> FloatArray:
    """For each candidate the probability that none which costs as much or less is better.

    Args:
        accuracies: (draws, candidates).
        costs: of each candidate; None lets all cost the same, and gives the probability of being the best.
    """
    price = np.zeros(accuracies.shape[1]) if costs is None else np.array(costs)
    wanted = [
        accuracies[:, index] >= accuracies[:, price <= price[index]].max(axis=1) for index in range(accuracies.shape[1])
    ]
    probabilities: FloatArray = np.stack(wanted, axis=1).mean(axis=0)
    return probabilities


def near(accuracies: FloatArray, points: float) -> FloatArray:
    """For each candidate the probability that it is within `points` (of 0..1) of the best."""
    within: FloatArray = (accuracies >= accuracies.max(axis=1, keepdims=True) - points).mean(axis=0)
    return within


def interval(values: FloatArray) -> tuple[float, float]:
    """95% of the values lie between these."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def frontier(accuracies: Sequence[float], costs: Sequence[float]) -> list[int]:
    """The candidates, cheapest first, than which none that costs as much or less is more accurate (Pareto)."""
    found: list[int] = []
    for index in sorted(range(len(costs)), key=lambda i: (costs[i], -accuracies[i])):
        if not found or accuracies[index] > accuracies[found[-1]]:
            found.append(index)
    return found
