"""The learning curve: error as a power law of the number of training pictures, with how sure its extrapolation is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

DRAWS = 2000  # laws that agree with the measurements, of which intervals are made
LEAST_ERROR = 1e-3  # above the floor; the logarithm wants something


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """error(n) = floor + exp(intercept) n^-exponent (Hestness et al. 2017, section 2; Cortes et al. 1993).

    Args:
        floor: the error that no number of pictures takes away, such as that of wrong labels.
        intercept: logarithm of the error above the floor, extended to one picture.
        exponent: how fast it falls.
        draws: (DRAWS, 2) intercepts and exponents that agree with the measurements as well as chance would have it.
    """

    floor: float
    intercept: float
    exponent: float
    draws: FloatArray

    def error(self, pictures: float) -> float:
        """At that many pictures."""
        return self.floor + math.exp(self.intercept - self.exponent * math.log(pictures))

    def interval(self, pictures: float) -> tuple[float, float]:
        """95% of the laws lie between these at that many pictures."""
        values = self.floor + np.exp(self.draws[:, 0] - self.draws[:, 1] * math.log(pictures))
        return _middle(values)

    def gain(self, pictures: float, times: float = 2.0) -> tuple[float, float, float]:
        """By how much the accuracy rises from that many pictures to `times` as many, and its 95% interval."""
        start, end = math.log(pictures), math.log(pictures * times)
        values = np.exp(self.draws[:, 0] - self.draws[:, 1] * start) - np.exp(self.draws[:, 0] - self.draws[:, 1] * end)
        return self.error(pictures) - self.error(pictures * times), *_middle(values)


def smoothed(error: float, judged: int) -> tuple[float, float]:
    """An error rate and its standard deviation, as of half an error more in one picture more.

    A network that happened to make no error on 20 pictures knows hardly more than one that made one; without this its
    deviation would be 0, and the line would be drawn through it alone.
    """
    rate = (error * judged + 0.5) / (judged + 1)
    return rate, (rate * (1 - rate) / (judged + 1)) ** 0.5


def fit(
    pictures: Sequence[float], errors: Sequence[float], deviations: Sequence[float], floor: float = 0.0
) -> PowerLaw:
    """The power law through measured errors: a straight line by weighted least squares, in logarithms.

    Where the measurements scatter more about it than their own deviations allow for, these are scaled up.

    Args:
        pictures: that trained, of each measurement; at least two different numbers.
        errors: 0..1.
        deviations: standard deviations of the errors.
        floor: see `PowerLaw`.
    """
    above = np.maximum(np.array(errors) - floor, LEAST_ERROR)
    y = np.log(above)
    weights = (above / np.array(deviations)) ** 2
    x = np.stack([np.ones(len(y)), -np.log(np.array(pictures, dtype=np.float64))], axis=1)
    information = x.T @ (weights[:, None] * x)
    covariance = np.linalg.inv(information)
    found = covariance @ (x.T @ (weights * y))
    freedom = len(y) - 2
    if freedom > 0:
        covariance = covariance * max(1.0, float((weights * (y - x @ found) ** 2).sum()) / freedom)
    middle = float(weights @ -x[:, 1] / weights.sum())  # of log n: there the line goes through what was measured
    lines = np.concatenate([found[None], np.random.default_rng(0).multivariate_normal(found, covariance, DRAWS)])
    # More pictures of the same kind do not hurt: a line that rises is laid flat about its middle.
    rising = lines[:, 1].clip(max=0)
    lines -= np.stack([rising * middle, rising], axis=1)
    return PowerLaw(floor=floor, intercept=float(lines[0, 0]), exponent=float(lines[0, 1]), draws=lines[1:])


def recorded(law: PowerLaw | None, pictures: int) -> dict[str, Any]:
    """The law for JSON, as of that many training pictures, with points of its curve."""
    if law is None:
        return {"exponent": None}
    gain, low, high = law.gain(pictures)
    return {
        "exponent": law.exponent,
        "intercept": law.intercept,
        "floor": law.floor,
        "gain": gain,
        "gain_interval": [low, high],
        "line": [
            [float(n), law.error(n), *law.interval(n)]
            for n in np.geomspace(max(2, pictures / 64), 2 * pictures, 40).tolist()
        ],
    }


def _middle(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
