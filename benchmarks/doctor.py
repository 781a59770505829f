"""The overfit doctor on sets that overfit for a known reason, and whether what it recommends is better where it counts.

    python benchmarks/doctor.py FOLDER [--minutes 15] [--seeds 3] [--pictures 1500] [--sets clean labels copies few]

Makes four sets of Fashion-MNIST in FOLDER: a clean one, one with 20% wrong training labels, one of whose test pictures
30% are also in train (as they are, re-encoded as JPEG, or slightly resized), and one of 30 pictures a class. Each is
examined by `resvision overfit`; then the recommended command and the baseline's are run with several seeds and compared
on 4,000 pictures that neither has seen. Prints one JSON document. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from asked import same_question
from PIL import Image

import resvision
from resvision.data import sources
from resvision.data.pictures import DataSet
from resvision.runtime import versions
from resvision.search.compare import compare
from resvision.training import RunFolder

WRONG, LEAKED, FEW = 0.2, 0.3, 30
TESTED, JUDGED = 1500, 4000  # pictures of the sets' own test part, and those that only this comparison sees
OPTIONS = ["--recipe", "plain", "--model", "resnet14_cifar", "--size", "14"]  # half the size, for many trainings
EPOCHS = {"few": "60"}  # of 300 pictures; of the other sets 15
CAUSE = {"labels": "labels", "copies": "copies", "few": "few"}


def save(pixels: np.ndarray, path: Path, changed: int = 0) -> None:
    """A picture as PNG; with `changed` re-encoded as JPEG, or resized as well."""
    picture = Image.fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    if changed == 2:
        picture = picture.resize((26, 26), Image.Resampling.BICUBIC)
    if changed:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=85)
        path.with_suffix(".jpg").write_bytes(stream.getvalue())
    else:
        picture.save(path)


def make(folder: Path, kind: str, source: DataSet, pictures: int) -> None:
    """Writes a set: train and test; the same pictures each time."""
    random = np.random.default_rng(0)
    train, test = source.splits["train"], source.splits["test"]
    a_class = FEW if kind == "few" else pictures // len(source.classes)
    names = [name.replace("/", " or ") for name in source.classes]
    rows: list[tuple[int, int]] = []
    for label in range(len(names)):
        members = random.permutation(np.flatnonzero(train.labels == label))[:a_class]
        rows += [(int(index), label) for index in members]
    tested = random.permutation(len(test))[:TESTED]
    if kind == "copies":
        copied = tested[: round(LEAKED * TESTED)]
        rows = [rows[place] for place in random.permutation(len(rows))[: len(rows) - len(copied)]]
        for place, index in enumerate(copied.tolist()):
            name = names[test.labels[index]]
            save(test.pictures.array[index], folder / "train" / name / f"more{index:05d}.png", place % 3)
    wrong = []
    for index, label in rows:
        if kind == "labels" and random.random() < WRONG:
            label = (label + int(random.integers(1, len(names)))) % len(names)
            wrong.append(f"train/{names[label]}/{index:05d}.png")
        save(train.pictures.array[index], folder / "train" / names[label] / f"{index:05d}.png")
    for index in tested.tolist():
        save(test.pictures.array[index], folder / "test" / names[test.labels[index]] / f"{index:05d}.png")
    (folder.parent / f"{kind}-wrong.json").write_text(json.dumps(wrong))


def make_judge(folder: Path, source: DataSet) -> None:
    """Writes the pictures that only the comparison sees: others of the test part."""
    random = np.random.default_rng(0)
    test = source.splits["test"]
    for label in range(len(source.classes)):  # what `make` draws before it draws the test pictures
        random.permutation(np.flatnonzero(source.splits["train"].labels == label))
    for index in random.permutation(len(test))[TESTED : TESTED + JUDGED].tolist():
        name = source.classes[test.labels[index]].replace("/", " or ")
        save(test.pictures.array[index], folder / name / f"{index:05d}.png")


def trained(command: str, seed: int, out: Path, judge: Path, computed: tuple[str, ...] = ()) -> np.ndarray:
    """Right (1) or wrong (0) for each picture of the judge, by a run of the command, computed as the options say."""
    found = out / "right.json"
    if not found.exists():
        shutil.rmtree(out, ignore_errors=True)
        words = [*shlex.split(command)[1:], "--seed", str(seed), "--no-compile", *computed, "--out", str(out)]
        subprocess.run([sys.executable, "-m", "resvision", *words, "--json"], check=True, stdout=subprocess.DEVNULL)
        files = sorted(judge.rglob("*.png"))
        said = resvision.predict(out, files, top=1)
        right = [int(row.label == file.parent.name) for row, file in zip(said, files, strict=True)]
        found.write_text(json.dumps(right))
    return np.array(json.loads(found.read_text()), dtype=np.float64)


def examined(folder: Path, kind: str, minutes: float, epochs: str) -> dict[str, Any]:
    """What `resvision overfit` says of a set."""
    out = folder / f"{kind}-doctor"
    if not (out / "numbers.json").exists():
        options = [*OPTIONS, "--epochs", epochs, "--minutes", str(minutes), "--out", str(out), "--json"]
        command = [sys.executable, "-m", "resvision", "overfit", str(folder / kind), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    numbers: dict[str, Any] = json.loads((out / "numbers.json").read_text())
    return numbers


def row(folder: Path, kind: str, minutes: float, seeds: int) -> dict[str, Any]:
    """A set's examination, and both commands on the pictures that neither has seen."""
    numbers = examined(folder, kind, minutes, EPOCHS.get(kind, "15"))
    commands, judge = numbers["commands"], folder / "judge"
    arms: dict[str, list[np.ndarray]] = {"baseline": [], "recommended": []}
    for seed in range(seeds):
        out = folder / f"{kind}-baseline-{seed}"
        arms["baseline"].append(trained(commands["baseline"], seed, out, judge))
        if commands["recommended"] == commands["baseline"]:
            arms["recommended"].append(arms["baseline"][-1])
            continue
        recipe = RunFolder(out).read_recipe()  # what is measured at the start of a run must not tell the arms apart
        memory = "--channels-last" if recipe.channels_last else "--no-channels-last"
        graph = "--cuda-graph" if recipe.cuda_graph else "--no-cuda-graph"
        computed = ("--precision", str(recipe.precision), memory, graph)
        out = folder / f"{kind}-recommended-{seed}"
        arms["recommended"].append(trained(commands["recommended"], seed, out, judge, computed))
    by_seed = [a - b for a, b in zip(arms["recommended"], arms["baseline"], strict=True)]
    variance = float(np.var([d.mean() for d in by_seed], ddof=1)) if seeds > 1 else 0.0
    difference = compare(by_seed, variance, max(1, seeds - 1), judged=[np.arange(len(by_seed[0]))] * seeds)
    wrong = set(json.loads((folder / f"{kind}-wrong.json").read_text()))
    suspects = [suspect["picture"] for suspect in numbers["labels"]["suspects"]]
    found = {f["cause"]: f for f in numbers["findings"]}
    return {
        "set": kind,
        "first_finding": numbers["findings"][0]["cause"] if numbers["findings"][0]["found"] == "yes" else None,
        "right_cause": found[CAUSE[kind]]["found"] == "yes" if kind in CAUSE else None,
        "accused": [f["cause"] for f in numbers["findings"] if f["found"] == "yes"],
        "says": [f["says"] for f in numbers["findings"]],
        "gap": round(numbers["gap"]["gap"], 4),
        "noise_rate": round(numbers["labels"]["rate"], 4),
        "joint_rate": round(numbers["labels"]["joint_rate"], 4),
        "suspects": len(suspects),
        "suspects_wrong": round(sum(s in wrong for s in suspects) / max(1, len(suspects)), 4),
        "leaked_part": round(numbers["copies"]["leaked_part"], 4),
        "minutes": round(numbers["seconds"] / 60, 2),
        "recommended": numbers["recommended"]["name"],
        "command": numbers["commands"]["recommended"].replace(str(folder), "FOLDER"),
        "doctor_check": {key: numbers["check"].get(key) for key in ("difference", "error", "sure")},
        "baseline_accuracy": round(float(np.mean(arms["baseline"])), 4),
        "recommended_accuracy": round(float(np.mean(arms["recommended"])), 4),
        "difference": round(difference.mean, 4),
        "error": round(difference.error, 4),
        "seeds": [round(s, 4) for s in difference.seeds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="The overfit doctor on sets that overfit for a known reason.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0, help="of each examination")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=1500, help="that train, but for the set of few")
    parser.add_argument("--sets", nargs="*", default=["clean", "labels", "copies", "few"])
    arguments = parser.parse_args()

    folder = arguments.folder.resolve()
    same_question(folder, folder / "asked.json", {"minutes": arguments.minutes, "pictures": arguments.pictures})
    source = sources.load("fashion-mnist")
    for kind in [*arguments.sets, "judge"]:
        if not (folder / f"{kind}.made").exists():
            shutil.rmtree(folder / kind, ignore_errors=True)
            if kind == "judge":
                make_judge(folder / kind, source)
            else:
                make(folder / kind, kind, source, arguments.pictures)
            (folder / f"{kind}.made").touch()
    rows = [row(folder, kind, arguments.minutes, arguments.seeds) for kind in arguments.sets]
    document = {
        "benchmark": "doctor",
        "data": "fashion-mnist",
        "pictures": arguments.pictures,
        "minutes": arguments.minutes,
        "seeds": arguments.seeds,
        "judged": JUDGED,
        "rows": rows,
        "versions": versions(),
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
