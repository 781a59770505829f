"""Whether `depth` recommends well: its recommendation against all candidates within the limits, each trained in full.

    python benchmarks/depth.py DATA FOLDER [--minutes 15] [--train-minutes 10] [--latency-ms X] [--memory-gb G]
        [--epochs E] [--models ...] [--sizes ...] [--widths ...] [--seeds 1] [--show]

First `resvision depth DATA` searches, in FOLDER/search; then every candidate that is within the limits is trained in
full with each seed, also those that the search did not try. Both go on where they were stopped: the search by its own
ledger, the sweep by FOLDER/sweep.jsonl, one row a training. Prints one JSON document, also of a part of the sweep.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from asked import same_question

import resvision
from resvision.progress import ConsoleReporter
from resvision.runtime import versions
from resvision.training.ledger import Ledger

NEAR = 0.01  # of accuracy: the recommendation should be so near to the best


def searched(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `depth` finds, now or earlier."""
    found = arguments.folder / "search" / "numbers.json"
    if found.exists():
        numbers: dict[str, Any] = json.loads(found.read_text())
        return numbers
    numbers, _ = resvision.depth(
        arguments.data,
        minutes=arguments.minutes,
        latency_ms=arguments.latency_ms,
        train_minutes=arguments.train_minutes,
        memory_gb=arguments.memory_gb,
        models=arguments.models,
        sizes=arguments.sizes,
        widths=arguments.widths,
        out=arguments.folder / "search",
        reporter=ConsoleReporter(),
        **length(arguments, search=True),
    )
    return numbers


def length(arguments: argparse.Namespace, *, search: bool = False) -> dict[str, Any]:
    """How long each network trains, as fields of a recipe; the search has an option of its own for minutes."""
    if arguments.train_minutes is not None:
        return {} if search else {"minutes": arguments.train_minutes}
    return {} if arguments.epochs is None else {"epochs": arguments.epochs}


def trained(candidate: dict[str, Any], recipe: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A full training: what the ledger keeps of it."""
    print(f"{candidate['name']}, seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        made = resvision.train(
            arguments.data,
            recipe=recipe,  # that the search has followed
            model=candidate["model"],
            spec=tuple(candidate["spec"]),
            size=candidate["size"],
            seed=seed,
            compile=False,  # as the search measures
            out=Path(folder) / "run",
            reporter=ConsoleReporter(),
            **length(arguments),
        )
    kept = (
        "split",
        "accuracy",
        "accuracy_ci95",
        "loss",
        "steps",
        "epochs",
        "seconds",
        "images_per_second",
        "precision",
    )
    return {key: made.result[key] for key in kept}


def row(candidate: dict[str, Any], trainings: list[dict[str, Any]]) -> dict[str, Any]:
    """A candidate: what was expected of it, and what it reached."""
    accuracies = [training["accuracy"] for training in trainings]
    mean = statistics.fmean(accuracies)
    expected = {"expected": None}
    if candidate["trained"]:
        low, high = candidate["interval"]
        expected = {"expected": candidate["accuracy"], "interval": [low, high], "covers": low <= mean <= high}
    return {
        "name": candidate["name"],
        "latency_ms": candidate["costs"]["latency_ms"],
        "epochs": candidate["epochs"],
        "seeds": len(accuracies),
        "accuracy": mean,
        "accuracies": accuracies,
        "minutes": statistics.fmean(training["seconds"] for training in trainings) / 60,
        "tried": candidate["trained"],
        **expected,
    }


def summary(numbers: dict[str, Any], done: dict[str, Any], seeds: int) -> dict[str, Any]:
    """How far the recommendation is from the best of the sweep."""
    rows = []
    for candidate in numbers["candidates"]:
        keys = [f"{candidate['name']}, seed {seed}" for seed in range(seeds)]
        if trainings := [done[key] for key in keys if key in done]:
            rows.append(row(candidate, trainings))
    rows.sort(key=lambda r: -r["accuracy"])
    name = numbers["recommended"]["name"]
    place = next((index for index, r in enumerate(rows) if r["name"] == name), None)
    found: dict[str, Any] = {"recommended": name, "trained": len(rows), "rows": rows}
    if place is not None:
        behind = rows[0]["accuracy"] - rows[place]["accuracy"]
        found |= {"best": rows[0]["name"], "place": place + 1, "behind": behind, "within_a_point": behind <= NEAR}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The recommendation of `depth` against an exhaustive sweep.")
    parser.add_argument("data")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0, help="of the search")
    parser.add_argument("--train-minutes", type=float, help="of each training")
    parser.add_argument("--latency-ms", type=float)
    parser.add_argument("--memory-gb", type=float)
    parser.add_argument("--epochs", type=int, help="of each training, without --train-minutes")
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--widths", nargs="+", type=float)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="only print what is in the ledger")
    arguments = parser.parse_args()
    if arguments.show and not (arguments.folder / "sweep.jsonl").exists():
        parser.error(f"--show: there is no sweep in {arguments.folder}")
    if not arguments.show:
        asked = {name: value for name, value in vars(arguments).items() if name not in ("folder", "seeds", "show")}
        same_question(arguments.folder, arguments.folder / "asked.json", asked)
    numbers = searched(arguments)
    ledger = Ledger(arguments.folder / "sweep.jsonl", numbers["settings"], "a sweep")
    within = [candidate for candidate in numbers["candidates"] if not candidate["breaks"]]
    for seed in range(arguments.seeds if not arguments.show else 0):
        for candidate in within:
            make = partial(trained, candidate, numbers["base"], seed, arguments)
            ledger.once(f"{candidate['name']}, seed {seed}", make)
    document = {
        "benchmark": "depth",
        "command": numbers["commands"]["depth"],
        "candidates": len(numbers["candidates"]),
        "within": len(within),
        "search_minutes": numbers["seconds"] / 60,
        **summary(numbers, ledger.done, arguments.seeds),
        "versions": versions(),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
