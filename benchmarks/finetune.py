"""Fine-tuning against training from scratch, on a few pictures of new classes, with equal steps.

    python benchmarks/finetune.py DATA [--pictures 20 100] [--steps 100] [--seeds 3] [--minutes 3] [--source FOLDER]

Every second class of DATA pretrains a network; the others are then learned from a few pictures each, and the accuracy
on all their test pictures is told. A seed draws the pictures, the new weights and the order. Prints one JSON document;
`--source` keeps the pretrained network for a next time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from asked import same_question

from resvision import recipes
from resvision.classifier import Classifier
from resvision.data import sources
from resvision.data.pictures import DataSet, Split
from resvision.data.statistics import facts
from resvision.runtime import versions
from resvision.training import RunFolder, pretrained, train

VARIANTS: dict[str, dict[str, Any] | None] = {
    "from scratch": None,
    "fine-tuned": {},
    "--head-first 0.2 --lr-decay 0.5": {"head_first": 0.2, "lr_decay": 0.5},
    "--freeze-norms": {"freeze_norms": True},
    "--head-first 1": {"head_first": 1.0},
}


def part(dataset: DataSet, classes: tuple[str, ...], pictures: int | None = None, seed: int = 0) -> DataSet:
    """Some classes of a set, with at most so many training pictures each; what it evaluates on is its test split."""
    random = np.random.default_rng(seed)
    evaluated = dataset.splits.get("test") or dataset.splits["val"]
    splits = {}
    for name, split, most in (("train", dataset.splits["train"], pictures), ("test", evaluated, None)):
        chosen = []
        for number in map(dataset.classes.index, classes):
            chosen += random.permutation(np.flatnonzero(split.labels == number))[:most].tolist()
        taken = split.take(np.array(sorted(chosen)))
        labels = [classes.index(dataset.classes[label]) for label in taken.labels]
        splits[name] = Split(taken.pictures, np.array(labels, dtype=np.int64))
    return dataclasses.replace(dataset, classes=classes, splits=splits)


def accuracy(dataset: DataSet, fields: dict[str, Any], source: Path | None, out: Path) -> float:
    """Of a run on a set, begun with the weights of `source` or with none."""
    weights, usual = None, {}
    if source is not None:
        weights = pretrained.read(str(source))
        fields, usual = fields | weights.decided(), weights.usual()
    # The same recipe for all, so that they differ in their weights alone.
    recipe = recipes.choose("plain", facts(dataset), {"workers": 0, "holdout": 0.0} | fields, usual).recipe
    _, result, _ = train(dataset, recipe, RunFolder.create(out, "finetune"), weights=weights)
    return float(result["accuracy"])


def compared(
    dataset: DataSet, classes: tuple[str, ...], source: Path, fields: dict[str, Any], pictures: int, seeds: int
) -> list[dict[str, Any]]:
    """A row for each variant: the mean accuracy over the seeds, the least and the most."""
    rows = []
    for variant, changes in VARIANTS.items():
        found = []
        for seed in range(seeds):
            begin = None if changes is None else source
            with tempfile.TemporaryDirectory() as out:
                given = fields | {"seed": seed} | (changes or {})
                found.append(accuracy(part(dataset, classes, pictures, seed), given, begin, Path(out)))
        figures = {"accuracy": sum(found) / seeds, "least": min(found), "most": max(found)}
        figures = {name: round(value, 4) for name, value in figures.items()}
        rows.append({"pictures_a_class": pictures, "variant": variant, **figures})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tuning against training from scratch.")
    parser.add_argument("data")
    parser.add_argument("--pictures", type=int, nargs="*", default=[20, 100], help="of each class")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=3.0, help="of pretraining")
    parser.add_argument("--size", type=int, help="of the pictures, in pixels")
    parser.add_argument(
        "--source", type=Path, help="folder of the pretrained network, which is made if it is not there"
    )
    arguments = parser.parse_args()

    dataset = sources.prepare(sources.load(arguments.data))
    old, new = dataset.classes[::2], dataset.classes[1::2]
    with tempfile.TemporaryDirectory() as folder:
        source = (arguments.source or Path(folder) / "source").resolve()
        asked = {"data": dataset.name, "minutes": arguments.minutes, "size": arguments.size}
        same_question(source, source.with_name(f"{source.name}-asked.json"), asked)
        if not source.exists():
            size = {} if arguments.size is None else {"size": arguments.size}
            accuracy(part(dataset, old), {"minutes": arguments.minutes, "compile": False, **size}, None, source)
        first = Classifier.load(source)
        recorded = first.provenance["recipe"]
        computed = ("precision", "channels_last", "cuda_graph", "compile", "memory")
        same = {name: recorded[name] for name in ("model", "size", *computed)}
        fields = same | {"max_steps": arguments.steps}
        rows = [
            row
            for pictures in arguments.pictures
            for row in compared(dataset, new, source, fields, pictures, arguments.seeds)
        ]
    document = {
        "benchmark": "finetune",
        "data": dataset.name,
        "pretrained_on": list(old),
        "pretrained_accuracy": round(first.metrics["accuracy"], 4),
        "pretrained_steps": recorded["steps"],
        "learned": list(new),
        "test_pictures": len(part(dataset, new).splits["test"]),
        **same,
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "rows": rows,
        "versions": versions(),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
