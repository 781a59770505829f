"""The search for depth, width and picture size: measures costs, trains proxies by successive halving, extrapolates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from resvision.cost import cost
from resvision.data.pictures import DataSet, Split, divide
from resvision.data.sources import prepare
from resvision.data.statistics import facts
from resvision.errors import DataError, InputError
from resvision.measure import available_memory_bytes, now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.progress import Note
from resvision.recipe import Precision, Recipe
from resvision.runtime import device
from resvision.search import costs as measured
from resvision.search import plan
from resvision.search.candidates import Candidate
from resvision.search.clock import Clock
from resvision.search.costs import Costs, Limits
from resvision.search.forecast import Forecast, chances, frontier, interval, near
from resvision.search.halving import Entrant, Halving, first_rung
from resvision.search.pool import evenly, kept_side, preprocess_of, read
from resvision.search.proxies import LEAST_PICTURES, Proxies
from resvision.training import engine as engines
from resvision.training import losses
from resvision.training.ledger import Ledger

HELD = 0.15  # part of the pool that judges ...
MOST_HELD = 2000  # ... unless that is more pictures than a comparison needs
POOL_BYTES = 2e9  # that the pool may take, and of what is at hand at most a quarter
READING, MEASURING = 0.1, 0.15  # parts of the time that reading the pool and measuring the costs may take
PROBED = 24  # pictures that are read to tell how long that takes
OVERRUN = 1.1  # from which part of its minutes on a search says that it took longer
AS_GOOD = 0.01  # of accuracy, within which a candidate is as good as the best
LINE = 24  # places along a learning curve for the plot

RecipeOf = Callable[[Candidate], Recipe]


def run(
    dataset: DataSet,
    candidates: Sequence[Candidate],
    recipe_of: RecipeOf,
    limits: Limits,
    minutes: float,
    ledger: Ledger,
    note: Note,
) -> dict[str, Any]:
    """Searches the candidates for the most accurate one within limits, or for the frontier where there are none.

    Args:
        dataset: divided into training and validation here where it comes without splits.
        candidates: at least one.
        recipe_of: the complete recipe of a candidate's full training.
        limits: what it may cost.
        minutes: that the search may take.
        ledger: of what is done.
        note: told about the progress.

    Returns:
        What numbers.json holds: the plan, the costs, the trainings, the forecasts and the recommendation.

    Raises:
        DataError: a class has too few pictures, or too many of them cannot be read.
        InputError: no candidate is within the limits.
    """
    clock = Clock(60 * minutes, ledger)
    recipes = {candidate.name: recipe_of(candidate) for candidate in candidates}
    pictures = _pictures(dataset, recipes, ledger, clock, note)
    preprocess, classes = pictures.preprocess, len(dataset.classes)

    # ---- costs, and who is within the limits ----
    precision = ledger.once("plan precision", lambda: _precision(candidates, recipes, classes))
    seconds = MEASURING * 60 * minutes / len(candidates)

    def cost_of(candidate: Candidate) -> dict[str, Any]:
        recipe = replace(recipes[candidate.name], precision=precision)
        seen = replace(preprocess, size=candidate.size, crop=recipe.crop)
        return measured.measure(candidate.network(classes, seen.channels), recipe, seen, limits, seconds)

    found = [
        (candidate, measured.restored(ledger.once(f"costs of {candidate.name}", lambda: cost_of(candidate))))  # noqa: B023
        for candidate in candidates
    ]
    within = [(candidate, costs) for candidate, costs in found if not costs.broken(limits)]
    if not within:
        raise InputError(measured.nearest([(candidate.name, costs) for candidate, costs in found], limits))
    note(f"{len(within)} of {len(found)} candidates are within the limits")
    entrants = [
        Entrant.of(candidate, recipes[candidate.name], costs, pictures.available) for candidate, costs in within
    ]

    # ---- successive halving ----
    first = first_rung(entrants, clock.left(), ledger)
    if len(first) < len(entrants):
        note(f"{len(first)} of them are trained at first, evenly by what they cost: more --minutes train more")
    axis = _axis(limits)
    limited = any(value is not None for value in asdict(limits).values())
    prices = [_price(entrant.costs, axis) for entrant in entrants]
    halving = Halving(entrants, None if limited else prices, classes, ledger, note, clock)
    halving.run(Proxies(pictures.fitted, pictures.held, precision, classes, preprocess), first)

    # ---- what the full trainings would reach ----
    forecast = halving.forecast()
    trained = halving.trained
    means = forecast.accuracies().mean(axis=0)[trained].tolist()
    paid = [prices[index] for index in trained]
    best = _recommended(means, None if limited else paid)
    return {
        "plan": {
            "fitted": len(pictures.fitted),
            "available": pictures.available,
            "side": pictures.side,
            "held": len(pictures.held),
            "precision": precision,
            "rungs": halving.rungs,
        },
        "axis": axis,
        "limited": limited,
        "candidates": [
            _row(candidate, costs, limits, pictures.available, halving, forecast) for candidate, costs in found
        ],
        "frontier": [entrants[trained[place]].name for place in frontier(means, paid)],
        "recommended": {"name": entrants[trained[best]].name},
        "seconds": clock.seconds - clock.left(),
    }


# ---- before the trainings ----


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """Training pictures in memory; the reported split chooses nothing.

    Args:
        fitted: those that train the proxies.
        held: those that judge them.
        preprocess: of the smallest candidate.
        side: height and width at which they are kept, in pixels.
        available: how many training pictures there are in all.
    """

    fitted: Split
    held: Split
    preprocess: Preprocess
    side: int
    available: int


def _pictures(dataset: DataSet, recipes: Mapping[str, Recipe], ledger: Ledger, clock: Clock, note: Note) -> _Pictures:
    """Reads as many training pictures as the time and the memory hold, and divides off those that judge.

    Raises:
        DataError: a class has too few pictures, or too many of them cannot be read.
    """
    largest = max(recipes.values(), key=lambda recipe: recipe.size)
    train = prepare(dataset).splits["train"]
    side = min(kept_side(largest), max(largest.size, facts(dataset).side))
    count = ledger.once("plan pool", lambda: _pool_size(train, largest, side, READING * clock.left()))
    assert largest.channels is not None
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    if counts.min() < 2:
        name = dataset.classes[int(counts.argmin())]
        raise DataError(
            f"{dataset.name}: the class {name} has one training picture; a second one must judge: add pictures"
        )
    pool, _ = read(train.take(evenly(train.labels, count)), side, largest.channels, largest.max_bad)
    try:
        fitted, held = divide(pool, HELD, dataset.name)
    except DataError:
        raise DataError(
            f"{dataset.name}: a class has fewer than two different training pictures that can be read; one must judge"
        ) from None
    held = held.take(evenly(held.labels, MOST_HELD, 1))
    note(
        f"{len(fitted):,} of {len(train):,} training pictures train the proxies and {len(held):,} judge them, "
        f"at {side} px"
    )
    preprocess = preprocess_of(fitted, min(recipes.values(), key=lambda recipe: recipe.size))
    return _Pictures(fitted=fitted, held=held, preprocess=preprocess, side=side, available=len(train))


def _pool_size(train: Split, recipe: Recipe, side: int, seconds: float) -> int:
    """How many pictures are read: as many as the time for it and the memory hold."""
    channels = recipe.channels or 3
    probe = evenly(train.labels, PROBED, 1)
    start = now()
    read(train.take(probe), side, channels, 1.0)
    pace = (now() - start) / len(probe)
    at_hand = available_memory_bytes() or 4 * POOL_BYTES
    room = min(POOL_BYTES, at_hand / 4) / (side * side * channels)
    return min(len(train), max(len(probe), int(room), 1), max(LEAST_PICTURES, int(seconds / pace)))


def _precision(candidates: Sequence[Candidate], recipes: dict[str, Recipe], classes: int) -> Precision:
    """The faster precision of training, measured on a candidate of middle size for all: it goes by the processor."""

    def macs(candidate: Candidate) -> int:
        return cost(candidate.network(classes, 3), candidate.size).macs

    candidate = sorted(candidates, key=macs)[len(candidates) // 2]
    recipe = recipes[candidate.name]
    if recipe.precision is not None:
        return recipe.precision
    trial = plan.proxy(recipe, candidate.model, candidate.size, candidate.spec)
    network = ResNet(candidate.network(classes, recipe.channels or 3)).to(device())
    preprocess = Preprocess.plain(recipe.size, recipe.channels or 3)
    torch.manual_seed(0)
    chosen, _ = engines.choose(network, trial, losses.build(trial, [1] * classes), preprocess, lambda seconds: 0.0)
    assert chosen.precision is not None
    return chosen.precision


# ---- records ----


def _axis(limits: Limits) -> str:
    """The cost that the frontier is drawn against."""
    only_memory = limits.memory_gb is not None and limits.latency_ms is None and limits.train_minutes is None
    return "memory_gb" if only_memory else "latency_ms"


def _price(costs: Costs, axis: str) -> float:
    return costs.memory_gb if axis == "memory_gb" else costs.latency_ms


def _recommended(means: list[float], prices: list[float] | None) -> int:
    """The most accurate one; where nothing limits it, the cheapest that is as good."""
    best = max(means)
    if prices is None:
        return means.index(best)
    return min((i for i, mean in enumerate(means) if mean >= best - AS_GOOD), key=lambda i: prices[i])


def _row(
    candidate: Candidate,
    costs: Costs,
    limits: Limits,
    available: int,
    halving: Halving,
    forecast: Forecast,
) -> dict[str, Any]:
    """A candidate for numbers.json, with what is known of it."""
    row: dict[str, Any] = {
        "name": candidate.name,
        **asdict(candidate),
        "costs": asdict(costs),
        "breaks": costs.broken(limits),
        "trained": False,
    }
    for entrant in halving.entrants:
        if entrant.candidate == candidate:
            row |= {"epochs": entrant.pictures / available, "train_minutes": entrant.seconds / 60}
    for index in halving.trained:
        if halving.entrants[index].candidate == candidate:
            row |= {"trained": True, **_expected(index, halving, forecast)}
    return row


def _expected(index: int, halving: Halving, forecast: Forecast) -> dict[str, Any]:
    """What is expected of a candidate that was trained, its trainings, and its curve for the plot."""
    accuracies = forecast.accuracies()[:, halving.trained]
    place = halving.trained.index(index)
    kept = ("part", "accuracy", "loss", "judged", "pictures", "steps", "seed", "seconds")
    trainings = [{key: row[key] for key in kept} for row in halving.rows if row["index"] == index]
    parts = np.geomspace(min(training["part"] for training in trainings), 1.0, LINE).tolist()
    lines = [(part, forecast.accuracies(part)[:, index]) for part in parts]
    return {
        "accuracy": float(accuracies[:, place].mean()),
        "interval": list(interval(accuracies[:, place])),
        "sure": float(chances(accuracies)[place]),
        "near": float(near(accuracies, AS_GOOD)[place]),
        "trainings": trainings,
        "line": [[part, float(values.mean()), *interval(values)] for part, values in lines],
    }


# ---- words ----


def describe(numbers: dict[str, Any]) -> list[str]:
    """What was found, in sentences, from the numbers alone."""
    rows = {row["name"]: row for row in numbers["candidates"]}
    out = [row for row in rows.values() if row["breaks"]]
    trained = [row for row in rows.values() if row["trained"]]
    best = rows[numbers["recommended"]["name"]]
    low, high = best["interval"]
    lines = [
        f"{len(rows)} candidates: {len(out)} cost more than is allowed, {len(trained)} were trained as proxies.",
        f"Recommended: {best['name']}. Trained in full ({best['epochs']:.1f} epochs, about "
        f"{best['train_minutes']:.1f} minutes) it should reach {best['accuracy']:.1%} (95% interval {low:.1%} to "
        f"{high:.1%}); with a probability of {best['near']:.0%} that is within {100 * AS_GOOD:.0f} point of the best "
        f"of those that were trained, with {best['sure']:.0%} it is the best.",
        f"An answer takes {best['costs']['latency_ms']:.1f} ms ({best['costs']['batch_ms']:.0f} ms for "
        f"{measured.AT_ONCE} pictures), a training step about {best['costs']['memory_gb']:.3g} GB.",
    ]
    minutes = numbers["settings"]["minutes"]
    if numbers["seconds"] > OVERRUN * 60 * minutes:
        lines.append(
            f"The search took {numbers['seconds'] / 60:.1f} minutes in place of {minutes:g}: every candidate is "
            "measured once, and the first trainings are done, however long that takes."
        )
    if not numbers["limited"]:
        lines.append(
            f"Nothing limits it, so the cheapest is recommended that is expected within {100 * AS_GOOD:.0f} point of "
            "the most accurate."
        )
    runner = max((row for row in trained if row is not best), key=lambda row: row["accuracy"], default=None)
    if runner is not None:
        lines.append(f"Next: {runner['name']}, {runner['accuracy']:.1%}.")
    longest = max(training["part"] for row in trained for training in row["trainings"])
    lines.append(
        f"The longest proxies saw {100 * longest:.3g}% of a full training's pictures; what lies beyond is "
        "extrapolated, and the accuracy is for held-back training pictures: the reported split chose nothing."
    )
    return lines
