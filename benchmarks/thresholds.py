"""How much more than asked is lost on pictures that did not choose, by what the thresholds of early exits are chosen.

    python benchmarks/thresholds.py RUN DATA [--split test] [--choosing 500 2000] [--max-drop 0.2 0.5 1] [--draws 8]

RUN is a classifier with early exits, DATA what it knows and has not trained on. Again and again some pictures of the
split choose and all others judge. Thresholds are chosen by what the network's end expects of each exit's answer, as
`train` and `exits` do it, and beside it by the labels themselves; each exit answers alone. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from itertools import product
from typing import Any

import numpy as np

from resvision import inputs
from resvision.adaptive import all_exits
from resvision.classifier import Classifier
from resvision.data.loader import EvaluationBatches
from resvision.data.sources import DEFAULT_COLUMNS
from resvision.data.workers import default_workers
from resvision.evaluation.evaluate import collect
from resvision.evaluation.exits import Judged, Times, choose, temperature
from resvision.progress import ConsoleReporter
from resvision.runtime import versions


def figures(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": round(statistics.fmean(values), 3), "sd": round(statistics.pstdev(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Thresholds of early exits, chosen and judged by other pictures.")
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split")
    parser.add_argument("--choosing", nargs="+", type=int, default=[500, 2000], help="pictures")
    parser.add_argument("--max-drop", nargs="+", type=float, default=[0.2, 0.5, 1.0], help="points that may be lost")
    parser.add_argument("--draws", type=int, default=8)
    arguments = parser.parse_args()
    classifier = Classifier.load(arguments.run)
    assert classifier.adaptive is not None
    assert classifier.exits is not None
    segments, seconds = classifier.adaptive.segments, classifier.exits.seconds
    measured = inputs.measured_split(classifier, arguments.data, arguments.split, DEFAULT_COLUMNS, ConsoleReporter())
    part = measured.split
    if max(arguments.choosing) >= len(part):
        parser.error(f"--choosing {max(arguments.choosing)}: leaves none of {len(part)} pictures to judge by")
    batches = EvaluationBatches(part, classifier.preprocess, default_workers())
    logits, labels = collect(lambda squares: np.stack(all_exits(segments, squares), axis=1), batches)

    def drawn(draw: int, choosing: int) -> list[Judged]:
        order = np.random.default_rng(draw).permutation(len(labels))
        chooses, judges = order[:choosing], order[choosing:]
        temperatures = [temperature(rows[chooses], labels[chooses]) for rows in logits.swapaxes(0, 1)]
        parts = ((logits[which].swapaxes(0, 1), labels[which]) for which in (chooses, judges))
        return [Judged.of(list(rows), truth, temperatures, Times(segments=seconds)) for rows, truth in parts]

    rows: list[dict[str, Any]] = []
    for choosing, max_drop in product(arguments.choosing, arguments.max_drop):
        found: dict[str, tuple[list[float], list[float]]] = {"the network's end": ([], []), "labels": ([], [])}
        for draw in range(arguments.draws):
            chooses, judges = drawn(draw, choosing)
            by_labels = dataclasses.replace(chooses, chance=chooses.right.astype(np.float64))
            for (lost, times), by in zip(found.values(), (chooses, by_labels), strict=True):
                outcome = judges.outcome(choose(by, max_drop=max_drop).thresholds)
                lost.append(100 * float(judges.right[-1].mean() - outcome.accuracy))
                times.append(float(judges.until[-1]) / outcome.seconds)
        rows += [
            {"pictures": choosing, "max_drop": max_drop, "by": by}
            | {"lost": figures(lost), "times_as_fast": figures(times)}
            for by, (lost, times) in found.items()
        ]
    document = {"benchmark": "thresholds", "data": measured.source, "split": measured.name, "draws": arguments.draws}
    print(json.dumps(document | {"rows": rows, "versions": versions()}, indent=2))


if __name__ == "__main__":
    main()
