"""Early exits, judged by what each of them says of the same pictures: calibration, thresholds, and what they give."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resvision.adaptive import AdaptiveSession, Segment, all_exits, joined, segment_seconds
from resvision.data.reading import Batch
from resvision.errors import InputError
from resvision.evaluation.calibration import temperature
from resvision.evaluation.evaluate import Evaluation, collect, figures
from resvision.evaluation.metrics import log_softmax
from resvision.evaluation.race import race, sampled
from resvision.exits import ExitRule
from resvision.measure import now, seconds
from resvision.runtime import Session

NEVER = 2.0  # a threshold that no confidence reaches
CANDIDATES = 64  # thresholds that are tried at an exit: quantiles of the confidences there
PRICES = np.geomspace(1e-3, 30, 48)  # of computing a picture in full, in errors
SWEEPS = 3
ROUNDS = 15  # in which segments are timed

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Times:
    """Seconds of one picture: in each segment, in its blocks alone, and in the whole network without its exits.

    The last two are None where exits cannot be left out.
    """

    segments: tuple[float, ...]
    trunk: tuple[float, ...] | None = None
    in_full: float | None = None

    def among(self, used: Sequence[bool]) -> Times:
        """The same of a network that has none but some of its exits, the end among them: segments become longer."""
        # What is left of a segment whose exit is not used.
        skipped = self.segments if self.trunk is None else tuple(map(min, self.trunk, self.segments))
        segments, trunk, before = [], [], 0.0
        for index, is_used in enumerate(used):
            if is_used:
                segments.append(before + self.segments[index])
                trunk.append(before + skipped[index])
            before = 0.0 if is_used else before + skipped[index]
        return Times(tuple(segments), None if self.trunk is None else tuple(trunk), self.in_full)


@dataclass(frozen=True)
class Judged:
    """What E exits, the network's end being the last, say of N pictures.

    Args:
        confidence: the largest probability at each exit, calibrated, (E, N).
        right: whether its class is the right one, (E, N).
        chance: the probability that its class is the right one, as is said at the end, (E, N). Where exit and end
            agree leaving costs nothing, and where they do not no luck with single labels is taken for skill.
        seconds: of one picture in each segment, (E,).
        trunk: the same without the exits, (E,); None where these cannot be left out.
        in_full: seconds of one picture in the whole network without its exits, measured as one; None likewise.
    """

    confidence: FloatArray
    right: BoolArray
    chance: FloatArray
    seconds: FloatArray
    trunk: FloatArray | None = None
    in_full: float | None = None

    @classmethod
    def of(
        cls,
        logits: Sequence[npt.NDArray[np.floating]],
        labels: IntArray,
        temperatures: Sequence[float],
        times: Times,
    ) -> Judged:
        """From the logits (N, K) of each exit."""
        scores = [log_softmax(rows / t) for rows, t in zip(logits, temperatures, strict=True)]
        said = np.stack([score.argmax(axis=1) for score in scores])
        return cls(
            confidence=np.exp(np.stack([score.max(axis=1) for score in scores])),
            right=said == labels,
            chance=np.exp(scores[-1])[np.arange(len(labels)), said].astype(np.float64),
            seconds=np.array(times.segments, dtype=np.float64),
            trunk=None if times.trunk is None else np.minimum(times.trunk, times.segments),
            in_full=times.in_full,
        )

    @property
    def own(self) -> FloatArray:
        """Seconds of each exit itself that are spared where nothing leaves there, (E,)."""
        return np.zeros_like(self.seconds) if self.trunk is None else self.seconds - self.trunk

    @property
    def until(self) -> FloatArray:
        """Seconds of a picture that leaves at each exit, (E,)."""
        return np.cumsum(self.seconds)

    def until_by(self, thresholds: Sequence[float]) -> FloatArray:
        """The same where exits at which nothing leaves are left out, as far as they can be, (E,)."""
        idle = np.array([*(threshold > 1 for threshold in thresholds), False])
        return np.cumsum(self.seconds - np.where(idle, self.own, 0.0))

    @property
    def whole(self) -> float:
        """Seconds of a picture that is computed in full."""
        return float(self.until[-1]) if self.in_full is None else self.in_full

    def leave(self, thresholds: Sequence[float]) -> IntArray:
        """The exit, counted from 0, at which each picture leaves."""
        sure = self.confidence >= np.array([*thresholds, 0.0])[:, None]  # the end answers whatever is left
        return np.asarray(sure.argmax(axis=0))

    def outcome(self, thresholds: Sequence[float]) -> Outcome:
        """What these thresholds give."""
        exits = self.leave(thresholds)
        pictures = np.arange(len(exits))
        return Outcome(
            thresholds=tuple(float(t) for t in thresholds),
            accuracy=float(self.right[exits, pictures].mean()),
            expected=float(self.chance[exits, pictures].mean()),
            seconds=float(self.until_by(thresholds)[exits].mean()),
        )

    def frontier(self) -> list[Outcome]:
        """The outcomes that no other beats in both expected accuracy and time, the fastest first.

        For each of many prices of time, thresholds are moved one at a time to where errors and time together cost the
        least, until nothing changes. Between what these prices find lies what is found by moving one threshold more.
        """
        exits = range(len(self.seconds) - 1)
        corners = {tuple(self._cheapest(price)) for price in PRICES} | {(NEVER,) * len(exits)}
        moved = {
            (*corner[:place], threshold, *corner[place + 1 :])
            for corner in corners
            for place in exits
            for threshold in self._candidates(place)
        }
        found = {self.outcome(thresholds) for thresholds in corners | moved}
        kept: list[Outcome] = []
        for outcome in sorted(found, key=lambda o: (o.seconds, -o.expected)):
            if not kept or outcome.expected > kept[-1].expected:
                kept.append(outcome)
        return kept

    def _cheapest(self, price: float) -> list[float]:
        """Thresholds at which errors, and the full time at `price` errors, cost the least."""
        exits = len(self.seconds) - 1
        costs = 1.0 - self.chance + price * (self.until / self.until[-1])[:, None]  # (E, N), of leaving there
        thresholds = np.full(exits, NEVER)
        own = price * self.own / self.until[-1]
        for _ in range(SWEEPS):
            before = thresholds.copy()
            for place in reversed(range(exits)):
                thresholds[place] = self._best_threshold(place, thresholds, costs, own[place])
            if (thresholds == before).all():
                break
        return [float(t) for t in thresholds]

    def _candidates(self, place: int) -> list[float]:
        """Thresholds that are tried at an exit, in rising order."""
        return [*np.quantile(self.confidence[place], np.linspace(0, 1, CANDIDATES)).tolist(), NEVER]

    def _best_threshold(self, place: int, thresholds: FloatArray, costs: FloatArray, own: float) -> float:
        """The threshold of one exit, the others staying as they are; `own` is what each picture costs that it sees."""
        others = thresholds.copy()
        others[place] = NEVER
        pictures = np.arange(self.confidence.shape[1])
        leaving = self.leave(others.tolist())
        reached = leaving > place  # those that left before are not concerned
        if not reached.any():
            return float(thresholds[place])
        confidence = self.confidence[place, reached]
        gain = (costs[place] - costs[leaving, pictures])[reached]
        candidates = self._candidates(place)
        totals = [gain[confidence >= t].sum() for t in candidates[:-1]]
        totals.append(-own * len(gain))  # where nothing leaves the exit is not computed
        # Of equal ones the highest: what is not needed is not risked.
        return candidates[len(totals) - 1 - int(np.argmin(totals[::-1]))]


@dataclass(frozen=True)
class Outcome:
    """What thresholds give: accuracy (0..1), the one that is expected by chance, and mean seconds of a picture."""

    thresholds: tuple[float, ...]
    accuracy: float
    expected: float
    seconds: float


def check_limit(**limits: float | None) -> None:
    """Refuses anything but one limit, as `choose` takes it.

    Raises:
        InputError: not exactly one limit is given, or it is out of range.
    """
    given = {name: value for name, value in limits.items() if value is not None}
    if len(given) != 1:
        raise InputError("give one of max_drop, budget and latency_ms")
    [(name, value)] = given.items()
    if name == "max_drop" and not 0 <= value <= 100:
        raise InputError(f"max_drop={value} must be points of accuracy, from 0 to 100")
    if name == "budget" and not 0 < value <= 1:
        raise InputError(f"budget={value} must be a part of the whole network's time, above 0 and at most 1")
    if name == "latency_ms" and not value > 0:
        raise InputError(f"latency_ms={value} must be a number above 0")


def choose(
    judged: Judged,
    *,
    max_drop: float | None = None,
    budget: float | None = None,
    latency_ms: float | None = None,
) -> Outcome:
    """The best outcome that keeps to one limit.

    Args:
        judged: pictures that chose nothing before.
        max_drop: points of accuracy, in percent, that may be lost against what is said at the end: the fastest that
            keeps to it, by what is expected.
        budget: the part of the full time that may be taken, in (0, 1]: the most accurate that keeps to it.
        latency_ms: milliseconds that a picture may take on average: likewise.

    Raises:
        InputError: not exactly one limit is given, it is out of range, or even leaving at the first exit takes longer.
    """
    check_limit(max_drop=max_drop, budget=budget, latency_ms=latency_ms)
    frontier = judged.frontier()
    if max_drop is not None:
        least = judged.outcome([NEVER] * (len(judged.seconds) - 1)).expected - max_drop / 100
        return next(o for o in frontier if o.expected >= least)  # the end itself is on it, or is beaten
    full = judged.whole
    most = budget * full if budget is not None else (latency_ms or 0.0) / 1000
    fitting = [o for o in frontier if o.seconds <= most]
    if not fitting:
        fastest = float(judged.until[0])
        what = f"budget={budget}" if budget is not None else f"latency_ms={latency_ms}"
        raise InputError(
            f"{what}: leaving at the first exit already takes {1000 * fastest:.2f} ms a picture, "
            f"{fastest / full:.0%} of the whole network's time"
        )
    return fitting[-1]


def tune(
    segments: Sequence[Segment],
    batches: Iterable[Batch],
    whole: Session | None = None,
    **limit: float | None,
) -> ExitRule:
    """Calibrates every exit, and chooses thresholds that keep to one limit, as `choose` takes it.

    Exits answer together where the labels surprise the mean of all less than the end alone. Those at which nothing is
    to leave are not asked, so that what the others say without them is calibrated and judged anew.

    Args:
        segments: of the network, shallow to deep.
        whole: runs the network without its exits; None where they cannot be left out.
        batches: pictures that did not train.
        **limit: max_drop, budget or latency_ms.

    Raises:
        InputError: the limit cannot be kept to.
    """
    sample: list[torch.Tensor] = []
    logits, labels = _of_all_exits(segments, sampled(batches, sample))
    times = _one_at_a_time(segments, whole, sample)
    used = (True,) * len(logits)
    together = _surprise(joined(logits, used)[-1], labels) < _surprise(logits[-1], labels)
    while True:
        said = joined(logits, used) if together else logits
        temperatures = tuple(temperature(rows, labels) for rows in said)
        asked = [index for index, is_used in enumerate(used) if is_used]
        judged = Judged.of(
            [said[index] for index in asked], labels, [temperatures[index] for index in asked], times.among(used)
        )
        thresholds = [NEVER] * (len(logits) - 1)
        for index, threshold in zip(asked[:-1], choose(judged, **limit).thresholds, strict=True):
            thresholds[index] = threshold
        rule = ExitRule(
            temperatures=temperatures, thresholds=tuple(thresholds), seconds=times.segments, together=together
        )
        if not together or rule.used == used:
            return rule
        used = rule.used


def _surprise(logits: npt.NDArray[np.float32], labels: IntArray) -> float:
    """The mean negative log-likelihood of the labels by calibrated logits (N, K), in nats."""
    scores = log_softmax(logits / np.float32(temperature(logits, labels)))
    return float(-scores[np.arange(len(labels)), labels].mean())


def evaluate(
    adaptive: AdaptiveSession, batches: Iterable[Batch], classes: tuple[str, ...]
) -> tuple[Evaluation, dict[str, Any]]:
    """Every figure of a network whose pictures leave early, and what its exits do with them.

    Args:
        adaptive: the network's segments, and when pictures leave.
        batches: squares and labels that index `classes`.
        classes: K names.
    """
    start, rule = now(), adaptive.rule
    sample: list[torch.Tensor] = []
    logits, labels = _of_all_exits(adaptive.segments, sampled(batches, sample))
    taken = now() - start
    times = _one_at_a_time(adaptive.segments, adaptive.whole, sample)
    said = joined(logits, rule.audible)
    judged = Judged.of(said, labels, rule.temperatures, times)
    leaving = judged.leave(rule.thresholds)
    scaled = np.stack([rows / np.float32(t) for rows, t in zip(said, rule.temperatures, strict=True)])
    told = figures(scaled[leaving, np.arange(len(labels))], labels, classes, seconds=taken)
    return told, {
        **report(judged, rule.thresholds, adaptive.macs),
        "together": rule.together,
        "accuracy_in_full": float((logits[-1].argmax(axis=1) == labels).mean()),
        "measured": race(adaptive, adaptive.in_full, sample),
    }


def _of_all_exits(
    segments: Sequence[Segment], batches: Iterable[Batch]
) -> tuple[list[npt.NDArray[np.float32]], IntArray]:
    """The logits (N, K) of every exit for all pictures, and their labels (N,)."""
    logits, labels = collect(lambda squares: np.stack(all_exits(segments, squares), axis=1), batches)
    return list(logits.swapaxes(0, 1)), labels


def _one_at_a_time(segments: Sequence[Segment], whole: Session | None, sample: Sequence[torch.Tensor]) -> Times:
    """How long a picture takes; in turn, so that what disturbs one moment disturbs all of it.

    Where there are gates it depends on what the picture shows: each round has another one of the sample.
    """
    rounds = []
    for square in islice(cycle(sample), ROUNDS):
        taken = segment_seconds(segments, square, repeats=1)
        if whole is not None:
            taken += segment_seconds(segments, square, repeats=1, answers=False)
            taken += tuple(seconds(partial(whole, square), repeats=1, warmup=0))
        rounds.append(taken)
    medians = tuple(statistics.median(taken) for taken in zip(*rounds, strict=True))
    count = len(segments)
    if whole is None:
        return Times(segments=medians)
    return Times(segments=medians[:count], trunk=medians[count:-1], in_full=medians[-1])


def report(judged: Judged, thresholds: Sequence[float], macs: Sequence[int]) -> dict[str, Any]:
    """What the exits do with pictures, for JSON.

    Args:
        judged: the pictures.
        thresholds: of the exits.
        macs: multiply-adds of a picture that leaves at each exit, if they are known.
    """
    leaving = judged.leave(thresholds)
    outcome = judged.outcome(thresholds)
    rows = []
    for place, until in enumerate(judged.until_by(thresholds)):
        mine = leaving == place
        rows.append(
            {
                "threshold": thresholds[place] if place < len(thresholds) else None,
                "share": float(mine.mean()),
                "accuracy_of_leaving": float(judged.right[place, mine].mean()) if mine.any() else None,
                "accuracy_of_all": float(judged.right[place].mean()),
                "milliseconds": 1000 * float(until),
                "macs": macs[place] if macs else None,
            }
        )
    return {
        "exits": rows,
        "accuracy": outcome.accuracy,
        "milliseconds": 1000 * outcome.seconds,
        "milliseconds_in_full": 1000 * judged.whole,
        "macs": float(np.array(macs)[leaving].mean()) if macs else None,
        "curve": [{"accuracy": o.accuracy, "milliseconds": 1000 * o.seconds} for o in judged.frontier()],
    }
