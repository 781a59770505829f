"""Forecasts of full trainings against curves that are known, and successive halving on synthetic ones."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resvision.recipe import Recipe
from resvision.search.candidates import Candidate
from resvision.search.clock import Clock
from resvision.search.costs import Costs
from resvision.search.forecast import Forecast, Point, chances, frontier, interval, near, similarity
from resvision.search.halving import FIRST, JUDGING, USED, Entrant, Halving, rung_sizes
from resvision.training.ledger import Ledger

CLASSES = 10


def law(part: float, end: float, exponent: float, bend: float = 0.0) -> float:
    """The error of a curve that falls from guessing to `end` at the full training, with that exponent there."""
    guessing, x = 1 - 1 / CLASSES, -math.log(part)
    odds = end / (guessing - end) * math.exp(exponent * x + bend * x * x)
    return guessing * odds / (1 + odds)


def measured(error: float, judged: int, seeds: float, random: np.random.Generator) -> float:
    """The accuracy of a training whose error scatters by its seed and by the pictures that judge."""
    error = float(np.clip(error * math.exp(random.normal(0, seeds)), 0.0, 0.95))
    return 1 - random.binomial(judged, error) / judged


@pytest.mark.parametrize(
    ("end", "exponent", "bend"),
    [(0.1, 0.6, 0.0), (0.2, 0.4, 0.0), (0.1, 0.4, 0.05), (0.05, 0.3, 0.12), (0.03, 0.6, 0.08), (0.3, 0.2, 0.05)],
)
def test_a_known_law_is_found_and_its_interval_covers(end: float, exponent: float, bend: float) -> None:
    covered, errors = 0, []
    for seed in range(20):
        random = np.random.default_rng(seed)
        parts = (0.02, 0.04, 0.08, 0.16)
        points = [
            Point(candidate=0, part=p, accuracy=measured(law(p, end, exponent, bend), 1000, 0.05, random), judged=1000)
            for p in parts
        ]
        accuracies = Forecast(points, np.eye(1), CLASSES).accuracies()[:, 0]
        low, high = interval(accuracies)
        covered += low <= 1 - end <= high
        errors.append(abs(accuracies.mean() - (1 - end)))
        assert high - low < 0.5
    assert covered >= 18
    assert np.mean(errors) < 0.6 * end


def test_more_and_longer_trainings_make_it_surer() -> None:
    random = np.random.default_rng(0)

    def width(parts: tuple[float, ...]) -> float:
        points = [
            Point(candidate=0, part=p, accuracy=measured(law(p, 0.1, 0.7), 2000, 0.03, random), judged=2000)
            for p in parts
        ]
        low, high = interval(Forecast(points, np.eye(1), CLASSES).accuracies()[:, 0])
        return high - low

    assert width((0.02, 0.04)) > width((0.02, 0.04, 0.16)) > width((0.02, 0.04, 0.16, 0.5))


def test_a_candidate_of_which_little_is_known_is_taken_to_be_like_the_others() -> None:
    points = [
        Point(candidate=c, part=p, accuracy=1 - law(p, 0.1, 0.7), judged=5000)
        for c in range(4)
        for p in (0.05, 0.1, 0.2)
    ]
    points.append(Point(candidate=4, part=0.05, accuracy=1 - law(0.05, 0.1, 0.7), judged=5000))
    found = Forecast(points, np.eye(5), CLASSES).accuracies()
    assert found[:, 4].mean() == pytest.approx(found[:, 0].mean(), abs=0.03)
    assert found[:, 4].std() > found[:, 0].std()


def test_a_candidate_that_was_not_trained_is_taken_to_be_like_its_neighbours() -> None:
    ends = [0.3, 0.2, 0.1, 0.2, 0.3]
    points = [
        Point(candidate=c, part=p, accuracy=1 - law(p, end, 0.5), judged=2000)
        for c, end in enumerate(ends)
        for p in (0.05, 0.2)
        if c not in (1, 3)
    ]
    alike = similarity(np.arange(5.0)[:, None] / 2)
    assert alike[0, 0] == pytest.approx(1)
    assert alike[0, 1] > alike[0, 2] > alike[0, 4]
    found = Forecast(points, alike, CLASSES).accuracies()
    means = found.mean(axis=0)
    assert means[0] < means[1] < means[2] > means[3] > means[4]
    assert found[:, 1].std() > found[:, 2].std()


@pytest.mark.parametrize(("size", "accuracies"), [(128, (0.8743, 0.9157, 0.9355)), (192, (0.8676, 0.9250, 0.9450))])
def test_a_public_learning_curve_is_continued(size: int, accuracies: tuple[float, ...]) -> None:
    """Imagenette's leaderboard: from 5 and 20 epochs what 80 reach."""
    points = [
        Point(candidate=0, part=epochs / 80, accuracy=accuracy, judged=3925)
        for epochs, accuracy in zip((5, 20), accuracies, strict=False)
    ]
    found = Forecast(points, np.eye(1), CLASSES).accuracies()[:, 0]
    low, high = interval(found)
    assert found.mean() == pytest.approx(accuracies[2], abs=0.01), size
    assert low < accuracies[2] < high


def test_a_network_that_has_hardly_begun_says_little_of_its_slope() -> None:
    """13.7% and then 44.4% of ten classes rise more steeply than any curve goes on."""
    points = [Point(candidate=0, part=p, accuracy=a, judged=1000) for p, a in ((0.016, 0.137), (0.063, 0.444))]
    late = Forecast(points[1:], np.eye(1), CLASSES).accuracies()[:, 0]
    both = Forecast(points, np.eye(1), CLASSES).accuracies()[:, 0]
    assert both.mean() == pytest.approx(late.mean(), abs=0.07)


@pytest.mark.parametrize("accuracy", [0.0, 0.05, 0.1, 1.0])
def test_trainings_that_learned_nothing_or_everything_give_finite_forecasts(accuracy: float) -> None:
    found = Forecast([Point(candidate=0, part=0.1, accuracy=accuracy, judged=100)], np.eye(1), CLASSES).accuracies()
    assert np.isfinite(found).all()
    assert ((found > 0) & (found < 1)).all()


def test_the_frontier_and_its_chances_by_hand() -> None:
    assert frontier([0.9, 0.8, 0.85, 0.95], [3, 1, 2, 3]) == [1, 2, 3]
    assert frontier([0.9, 0.8], [1, 2]) == [0]
    draws = np.array([[0.8, 0.9], [0.8, 0.7], [0.8, 0.795], [0.8, 0.6]])
    assert chances(draws).tolist() == [0.75, 0.25]
    assert chances(draws, [1.0, 2.0]).tolist() == [1.0, 0.25]
    assert near(draws, 0.01).tolist() == [0.75, 0.5]


# ---- successive halving ----


class Synthetic:
    """Stands in for the proxies: trainings of known curves, without a network."""

    def __init__(self, curves: dict[str, tuple[float, float]], seed: int, noise: float = 0.02) -> None:
        self.curves = curves
        self.random = np.random.default_rng(seed)
        self.noise = noise
        self.asked: list[tuple[str, float]] = []

    def train(self, candidate: Candidate, recipe: Recipe, pictures: float, seed: int) -> dict[str, Any]:
        part = pictures / PICTURES
        self.asked.append((candidate.name, part))
        error = law(part, *self.curves[candidate.name])
        return {
            "accuracy": measured(error, 1000, self.noise, self.random),
            "loss": 1.0,
            "judged": 1000,
            "pictures": round(pictures),
            "steps": 1,
            "seed": seed,
            "seconds": JUDGING * pictures * PACE,
        }


class Told(Clock):
    """A clock that follows what trainings say that they took."""

    def left(self) -> float:
        return self.seconds - sum(v["seconds"] for k, v in self.ledger.done.items() if not k.startswith("plan"))

    def __init__(self, seconds: float, ledger: Ledger) -> None:
        self.seconds, self.ledger = seconds, ledger


PICTURES, PACE = 1e5, 0.01
DEEP = "resnet110_cifar at 1 px"  # all so unlike that nothing is learnt of one from another


def halved(
    curves: dict[str, tuple[float, float]], seed: int, folder: Path, budget: float = 3.0
) -> tuple[Synthetic, Halving]:
    recipe = Recipe(model="resnet8_cifar", size=32, epochs=1)
    costs = Costs(params=1, macs=1, memory_gb=1, answer_gb=1, latency_ms=1, picture_seconds=PACE)
    entrants = [
        Entrant(
            candidate=Candidate(model=name.split(" ")[0], spec=(), width=1, size=int(name.split(" ")[2])),
            recipe=recipe,
            costs=costs,
            pictures=PICTURES,
        )
        for name in curves
    ]
    ledger = Ledger(folder / f"{seed}.jsonl", {})
    halving = Halving(entrants, None, CLASSES, ledger, lambda text: None, Told(budget * PICTURES * PACE, ledger))
    proxies = Synthetic(curves, seed)
    halving.run(proxies, list(range(len(entrants))))  # type: ignore[arg-type]
    return proxies, halving


def test_halving_keeps_a_known_best_that_starts_slowly(tmp_path: Path) -> None:
    """The deep one is the best at the end (4% against 7%), and not among the better half after the first rung."""
    curves = {f"resnet8_cifar at {16**n} px": (0.07 + 0.01 * n, 0.6) for n in range(11)} | {DEEP: (0.04, 1.05)}
    assert law(0.05, *curves[DEEP]) > law(0.05, *curves[f"resnet8_cifar at {16**6} px"])
    kept = right = 0
    for seed in range(6):
        proxies, halving = halved(curves, seed, tmp_path)
        last = halving.rungs[-1]["candidates"]
        assert [len(rung["candidates"]) for rung in halving.rungs] == [12, 6, 3]
        kept += DEEP in last
        means = halving.forecast().accuracies().mean(axis=0)
        right += halving.entrants[int(means.argmax())].name == DEEP
        spent = sum(part for _, part in proxies.asked)
        assert spent * JUDGING == pytest.approx(3.0 * USED, rel=0.1)  # full trainings
    assert kept >= 5
    assert right >= 5


def test_a_rung_names_those_that_it_trained(tmp_path: Path) -> None:
    curves = {f"resnet8_cifar at {16**n} px": (0.05 + 0.02 * n, 0.7) for n in range(12)}
    _, halving = halved(curves, 0, tmp_path, budget=0.02)  # it ends on the first rung
    names = {halving.entrants[row["index"]].name for row in halving.rows}
    assert set().union(*(rung["candidates"] for rung in halving.rungs)) == names
    for rung in halving.rungs:
        assert rung["says"].startswith(f"{len(rung['candidates'])} candidates for ")


def test_halving_trains_longer_on_each_rung_and_with_other_seeds(tmp_path: Path) -> None:
    curves = {f"resnet8_cifar at {16**n} px": (0.05 + 0.02 * n, 0.7) for n in range(6)}
    _, halving = halved(curves, 0, tmp_path)
    lengths = [max(rung["parts"]) for rung in halving.rungs]
    assert lengths == sorted(lengths)
    best = [row for row in halving.rows if row["index"] == 0]
    assert [row["seed"] for row in best] == list(range(len(best)))
    assert best[1]["part"] == pytest.approx(best[0]["part"] / FIRST, rel=0.01)


def test_how_many_each_rung_trains() -> None:
    assert rung_sizes(24) == [24, 12, 6, 3]
    assert rung_sizes(9) == [9, 5, 3]
    assert rung_sizes(3) == [3, 3]
    assert rung_sizes(1) == [1, 1]
