"""Accuracy of recipes on known sets, line by line: what is in the ledger is not run again.

    python benchmarks/accuracy.py DATA [--lines imagenette-5 ...] [--seeds 0 1 2] [--show]

DATA is a folder with imagenette/ (and its noisy_imagenette.csv) and cifar10-jpeg.tar.xz. A line is one (data, recipe,
network, epochs); it is run once a seed, and again where its recipe has changed. The ledger is accuracy.json beside this
file: one row a run, written when it ends. A stopped run lies in a temporary folder, and the script goes on with it, so
that a line must not run twice at once.
Prints one JSON document: mean, spread and number of seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import statistics
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

import resvision
from resvision.data.sources import DEFAULT_COLUMNS, Columns
from resvision.files import parse, read_json, write_json
from resvision.measure import timestamp
from resvision.progress import ConsoleReporter
from resvision.recipe import LENGTHS, Recipe
from resvision.recipes import RECIPES, WIDE
from resvision.runtime import device
from resvision.training import RunFolder
from resvision.training.optim import picture_size

LEDGER = Path(__file__).with_suffix(".json")
WORK = Path(tempfile.gettempdir()) / "resvision-accuracy"  # runs that are not done, and sets that were made for runs


@dataclass(frozen=True, kw_only=True)
class Line:
    """One experiment.

    Args:
        data: relative to DATA, or a built-in name.
        recipe: its name.
        fields: of the recipe, in place of its own.
        columns: of a manifest.
        goal: the accuracy that it is measured against, and where that comes from.
        gpu: whether it is run by default only where there is one.
    """

    data: str
    recipe: str
    fields: dict[str, Any]
    columns: Columns = DEFAULT_COLUMNS
    goal: tuple[float, str] | None = None
    gpu: bool = False


LEADERBOARD = "Imagenette leaderboard"
LEADERS = {  # (px, epochs): accuracy, without test-time augmentation, from random weights
    (128, 5): 0.8743,
    (128, 20): 0.9157,
    (128, 80): 0.9355,
    (128, 200): 0.9424,
    (192, 5): 0.8676,
    (192, 20): 0.9250,
    (192, 80): 0.9450,
    (192, 200): 0.9503,
}
NOISY_LEADERS = {  # (percent of wrong labels, epochs) at 128 px
    (5, 5): 0.8344,
    (5, 20): 0.8953,
    (5, 80): 0.8930,
    (5, 200): 0.9004,
    (50, 5): 0.6660,
    (50, 20): 0.7936,
    (50, 80): 0.5080,
    (50, 200): 0.5218,
}


def _long(epochs: int) -> str:
    return "quick" if epochs < 40 else "strong"


def _noise(percent: int) -> Columns:
    return Columns(path="path", label=f"noisy_labels_{percent}", split="is_valid")


NOISY_DATA = "imagenette/noisy_imagenette.csv"
CIFAR_DATA = "cifar10-jpeg.tar.xz"
# Made for the run: the first training pictures of each class, and all that are reported.
FEW = {"imagenette-50": ("imagenette", 50), "cifar10-250": (CIFAR_DATA, 250)}
COMMON = {  # what most training scripts for CIFAR-10 do
    "model": "resnet18",
    "spec": ("stem=cifar",),
    "batch_size": 128,
    "lr": 0.1,
    "warmup": 0.0,
    "shift": 4,
}

QUICK_NETWORK = {"model": "resnet14_cifar", "spec": WIDE, "batch_size": 128, "lr": 0.07, "rest_lr": 0.1}

LINES: dict[str, Line] = {
    **{
        f"imagenette-{epochs}" + ("" if size == 128 else f"-{size}px"): Line(
            data="imagenette",
            recipe=_long(epochs),
            fields={"size": size, "epochs": epochs},
            goal=(leader, LEADERBOARD),
            gpu=(size, epochs) != (128, 5),
        )
        for (size, epochs), leader in LEADERS.items()
    },
    **{
        f"imagenette-noise{percent}-{epochs}": Line(
            data=NOISY_DATA,
            columns=_noise(percent),
            recipe="noisy",
            # Long runs learn half of the labels being wrong by heart at the recipe's q.
            fields={"size": 128, "epochs": epochs} | ({"gce_q": 0.8} if percent == 50 and epochs > 5 else {}),
            goal=(leader, LEADERBOARD),
            gpu=epochs > 5,
        )
        for (percent, epochs), leader in NOISY_LEADERS.items()
    },
    "fashion-mnist-12min": Line(data="fashion-mnist", recipe="quick", fields={"minutes": 12.0}),
    "fashion-mnist-strong": Line(
        data="fashion-mnist",
        recipe="strong",
        fields={"model": "wrn40_4", "epochs": 200},
        goal=(0.967, "WRN-40-4, Zhong et al. 2017"),
        gpu=True,
    ),
    "cifar10-quick": Line(data=CIFAR_DATA, recipe="quick", fields={"epochs": 5}),
    **{
        f"cifar10-common-{epochs}": Line(data=CIFAR_DATA, recipe="plain", fields=COMMON | {"epochs": epochs})
        for epochs in (5, 10, 20, 30)
    },
    **{  # equal but for the optimiser and its usual rate
        f"cifar10-{optimizer}": Line(data=CIFAR_DATA, recipe="quick", fields={"optimizer": optimizer, "epochs": 2})
        for optimizer in ("muon", "sgd", "adamw", "lamb")
    },
    "small-50-plain": Line(data="imagenette-50", recipe="plain", fields={"size": 128, "minutes": 5.0}),
    "small-50-small": Line(data="imagenette-50", recipe="small", fields={"size": 128, "minutes": 5.0}),
    **{  # as many presentations of pictures: an epoch of all of them, or of a third of them, three times each
        f"strong-250-repeats-{repeats}": Line(
            data="cifar10-250", recipe="strong", fields=QUICK_NETWORK | {"epochs": 40, "repeats": repeats}
        )
        for repeats in (1, 3)
    },
}


def find(line: Line, root: Path) -> str:
    """The line's data: a built-in name or a path."""
    if line.data in FEW:
        source, count = FEW[line.data]
        return str(_few(root / source, WORK / line.data, count))
    place = root / line.data
    return str(place) if place.exists() else line.data


def _few(source: Path, target: Path, count: int) -> Path:
    """The first `count` training pictures of each class, and all that are reported."""
    if not source.is_dir():
        whole, part = target.with_suffix(".whole"), target.with_suffix(".part")
        if not whole.exists():
            with tarfile.open(source) as archive:
                archive.extractall(part, filter="data")
            part.rename(whole)  # what was stopped is not taken for all of it
        source = whole
    for split in sorted(path.name for path in source.iterdir() if path.is_dir()):
        most = count if split == "train" else None
        for folder in sorted((source / split).iterdir()):
            (target / split / folder.name).mkdir(parents=True, exist_ok=True)
            for picture in sorted(folder.iterdir())[:most]:
                link = target / split / folder.name / picture.name
                if not link.exists():
                    link.symlink_to(picture.resolve())
    return target


def place(name: str, seed: int) -> Path:
    """Where a run of a line as it is now lies until its row is written."""
    line = LINES[name]
    question = repr((line.recipe, RECIPES[line.recipe](128), line.fields))
    return WORK / f"{name}-{seed}-{hashlib.sha256(question.encode()).hexdigest()[:8]}"


def run(name: str, seed: int, root: Path) -> dict[str, Any]:
    """One run of a line: what the ledger keeps of it."""
    line, folder, reporter = LINES[name], place(name, seed), ConsoleReporter()
    begun = RunFolder(folder)
    if not begun.result_file.exists():  # else its row alone is missing
        if begun.last_checkpoint.exists():
            resvision.train(resume=folder, reporter=reporter)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            fields = {**line.fields, "seed": seed}
            data = find(line, root)
            resvision.train(data, recipe=line.recipe, columns=line.columns, out=folder, reporter=reporter, **fields)
    result = read_json(begun.result_file)
    kept = ("model", "split", "accuracy", "accuracy_ci95", "loss", "ece", "epochs", "steps", "seconds")
    more = ("images_per_second", "params", "macs", "device", "precision", "versions")
    recipe = resvision.Classifier.load(folder).provenance["recipe"]
    return {
        "line": name,
        "data": line.data,
        "recipe": line.recipe,
        "fields": line.fields,
        "seed": seed,
        **{key: result[key] for key in (*kept, *more)},
        "whole_recipe": {key: value for key, value in recipe.items() if value is not None},
        "created": timestamp(),
    }


def done(row: dict[str, Any], name: str, seed: int) -> bool:
    """Whether a row of the ledger is of this line as it is now, with that seed, on this kind of device."""
    line = LINES[name]
    fields = json.loads(json.dumps(line.fields))
    asked = (row["line"], row["recipe"], row["seed"], row["fields"], kind(row))
    return asked == (name, line.recipe, seed, fields, device().type) and not changed(row, line)


# What another field of a line takes along.
TAKES_ALONG = {
    "model": ("spec", "drop_path"),
    "batch_size": ("lr", "rest_lr"),
    "optimizer": ("lr", "rest_lr", "momentum", "weight_decay"),
    "shift": ("crop_scale", "first_size"),
}


def changed(row: dict[str, Any], line: Line) -> list[str]:
    """The fields of a line's recipe that are not what they were when a run was made."""
    then = row["whole_recipe"]
    now = RECIPES[line.recipe](then["size"]) | line.fields
    every = {key for recipe in RECIPES.values() for key in recipe(then["size"])} | line.fields.keys()
    free = {key for field in line.fields for key in TAKES_ALONG.get(field, ())} - line.fields.keys()
    usual = {field.name: field.default for field in dataclasses.fields(Recipe)}

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return [
        key
        for key in sorted(every - free - set(LENGTHS))
        if plain(now.get(key, usual[key])) != plain(then.get(key, usual[key]))
    ]


def kind(row: dict[str, Any]) -> str:
    """Of device: "cpu", or "cuda", whose devices have names of their own."""
    return "cpu" if row["device"].startswith("cpu") else "cuda"


def alike(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs of a line had the same recipe, but for what a machine measures, on the same kind of device."""
    measured = ("seed", "steps", "workers", "precision", "channels_last", "cuda_graph", "compile", "memory")
    usual = {field.name: field.default for field in dataclasses.fields(Recipe)}  # of fields that came later
    recipes = [
        {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in (usual | one["whole_recipe"]).items()
        }
        for one in (row, other)
    ]
    for recipe in recipes:
        for key in measured:
            recipe.pop(key, None)
    return recipes[0] == recipes[1] and kind(row) == kind(other)


def training_macs(row: dict[str, Any]) -> float:
    """Multiply-adds of a run, which grow with the area of its pictures; backward costs twice forward.

    (Kaplan et al. 2020, section 2.1)
    """
    recipe = parse(Recipe, row["whole_recipe"], row["line"])
    an_epoch = max(1, round(row["steps"] / row["epochs"]))
    sizes = [picture_size(recipe, step - step % an_epoch, an_epoch) for step in range(row["steps"])]
    area = statistics.fmean((size / recipe.size) ** 2 for size in sizes)
    return 3.0 * area * float(row["macs"] * row["steps"] * recipe.batch_size)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """For each line, and kind of device, mean, least and most of the accuracies, and minutes a run."""
    found = {}
    for (name, line), where in product(LINES.items(), ("cpu", "cuda")):
        mine = [row for row in rows if row["line"] == name and kind(row) == where]
        if mine:
            newest = max(mine, key=lambda row: row["created"])
            others = [row for row in mine if not alike(row, newest)]  # of an earlier recipe
            mine = [row for row in mine if alike(row, newest)]
            accuracies = [row["accuracy"] for row in mine]
            found[name if where == "cpu" else f"{name} ({where})"] = {
                "recipe": line.recipe,
                "model": mine[-1]["model"],
                "fields": newest["fields"],
                "seeds": len(mine),
                **({"left_out": len(others)} if others else {}),
                "mean": round(statistics.fmean(accuracies), 6),
                "least": min(accuracies),
                "most": max(accuracies),
                "sd": round(statistics.stdev(accuracies), 5) if len(mine) > 1 else None,
                "minutes": round(statistics.fmean(row["seconds"] for row in mine) / 60, 2),
                "training_teramacs": round(training_macs(mine[-1]) / 1e12, 1),
                **({"goal": line.goal[0], "goal_of": line.goal[1]} if line.goal else {}),
            }
    return found


def ledger() -> list[dict[str, Any]]:
    """All rows so far."""
    rows: list[dict[str, Any]] = json.loads(LEDGER.read_text()) if LEDGER.exists() else []
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of recipes on known sets.")
    parser.add_argument("data", type=Path, nargs="?", default=Path())
    parser.add_argument("--lines", nargs="+", choices=list(LINES), help="without it all that suit this machine")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--show", action="store_true", help="only print what is in the ledger")
    arguments = parser.parse_args()
    rows = ledger()
    wanted = arguments.lines or [name for name, line in LINES.items() if line.gpu <= torch.cuda.is_available()]
    for seed in arguments.seeds if not arguments.show else []:
        for name in wanted:
            if any(done(row, name, seed) for row in rows):
                continue
            print(f"{name}, seed {seed}", file=sys.stderr)
            made = run(name, seed, arguments.data)
            rows = [*ledger(), made]  # which may have got others meanwhile
            write_json(LEDGER, rows)
            shutil.rmtree(place(name, seed))
    print(json.dumps({"benchmark": "accuracy", "lines": summary(rows)}, indent=2))


if __name__ == "__main__":
    main()
