"""Paired comparisons: the same pictures and seeds with one thing done otherwise, and how sure the difference is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resvision.data.pictures import Indices

FloatArray = npt.NDArray[np.float64]

MOST_FREEDOM = 1000.0  # from here on Student's t is the normal distribution


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better an arm is than the baseline, in accuracy.

    Args:
        mean: over all pictures and seeds.
        error: its standard error, from the pictures and from the trainings.
        sure: probability that the true difference is above 0.
        seeds: the mean of each seed.
    """

    mean: float
    error: float
    sure: float
    seeds: tuple[float, ...]


def variance_of_trainings(arms: Sequence[Sequence[FloatArray]]) -> tuple[float, int]:
    """How much the difference of two trainings varies beyond what the pictures explain, and its degrees of freedom.

    Two or three seeds of one arm tell little of it; all arms together tell more, and they vary about alike.

    Args:
        arms: for each arm and each seed the differences by picture.
    """
    variances, freedom = [], 0
    for seeds in arms:
        if len(seeds) < 2:
            continue
        means = statistics.variance([float(seed.mean()) for seed in seeds])
        pictures = statistics.fmean(float(seed.var()) / len(seed) for seed in seeds)
        variances.append(means - pictures)
        freedom += len(seeds) - 1
    # The mean is taken before what is below zero is cut off: cutting every arm would push it up.
    return max(0.0, statistics.fmean(variances)) if variances else 0.0, max(1, freedom)


def compare(
    seeds: Sequence[FloatArray], variance: float, freedom: int, *, judged: Sequence[Indices] | None = None
) -> Difference:
    """The mean difference with its standard error, and Student's probability that it is above 0.

    Args:
        seeds: for each seed the differences by picture: right (1) or wrong (0), less that of the baseline.
        variance: of trainings, as `variance_of_trainings` finds it.
        freedom: its degrees of freedom.
        judged: for each seed the numbers of its pictures, of which some may be in several; without it each seed was
            judged on pictures of its own.
    """
    means = tuple(float(seed.mean()) for seed in seeds)
    values = np.concatenate(seeds)
    if judged is None:
        pictures = values
    else:  # what several seeds say of a picture is one observation
        number = np.concatenate(judged)
        times = np.bincount(number)
        pictures = np.bincount(number, values)[times > 0] / times[times > 0]
    mean = float(pictures.mean())
    of_trainings = variance / len(seeds)
    error = math.sqrt(float(pictures.var()) / len(pictures) + of_trainings)
    # Only the trainings' part is uncertain in itself (Satterthwaite 1946).
    share = of_trainings / error**2 if error else 0.0
    known = min(MOST_FREEDOM, freedom / share**2) if share else MOST_FREEDOM
    sure = student(mean / error, known) if error else 0.5 + 0.5 * np.sign(mean)
    return Difference(mean=mean, error=error, sure=float(sure), seeds=means)


def shrunk(differences: Sequence[Difference]) -> list[Difference]:
    """The differences as they are believed when there are many: the best of many is best by luck, too.

    Their true values are taken to be normal about 0, as far apart as the measured ones are beyond their errors
    (empirical Bayes, Efron & Morris 1975; each counts by its precision, DerSimonian & Laird 1986); each is drawn
    towards 0 by how unsure it is.
    """
    if len(differences) < 2:
        return list(differences)
    unsure = [d for d in differences if d.error]
    weight = sum(1 / d.error**2 for d in unsure)
    apart = (sum((d.mean / d.error) ** 2 for d in unsure) - len(unsure)) / weight if unsure else 0.0
    believed = []
    for difference in differences:
        total = max(0.0, apart) + difference.error**2
        share = max(0.0, apart) / total if total else 0.0
        mean, error = share * difference.mean, math.sqrt(share) * difference.error
        sure = statistics.NormalDist().cdf(mean / error) if error else 0.5
        believed.append(Difference(mean=mean, error=error, sure=min(sure, difference.sure), seeds=difference.seeds))
    return believed


def student(t: float, freedom: float) -> float:
    """The distribution function of Student's t: the probability of a value below `t`."""
    # With t = sqrt(freedom) tan(angle) the density becomes a power of a cosine.
    angles = np.linspace(0.0, math.atan(t / math.sqrt(freedom)), 2001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    heights = np.cos(angles) ** (freedom - 1)
    area = float(((heights[1:] + heights[:-1]) / 2 * np.diff(angles)).sum())
    return 0.5 + scale * area
