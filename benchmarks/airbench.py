"""Accuracy and seconds on CIFAR-10, side by side with cifar10-airbench, the fastest published trainings, on one GPU.

    python benchmarks/airbench.py DATA AIRBENCH [--runs 3] [--peers airbench94_muon.py airbench96_faster.py]
        [--lines resnet18-8 ...] [--minutes 8]

DATA is a folder with cifar10-jpeg.tar.xz. AIRBENCH is a checkout of github.com/KellerJordan/cifar10-airbench at COMMIT,
or a folder with the scripts of it that are asked for. They need a CUDA GPU, and run as they are but for how often they
train. The pictures are decoded once, and both sides learn from the same pixels. Every script and every line of LINES
has a process of its own, in which its runs follow each other. Prints one JSON document, and each run on stderr as it
ends; what fails leaves its reason and the runs before it.

`accuracy` is of one view a picture, after the last epoch; theirs is published with six views a picture (flipped and
shifted), which is `accuracy_tta`. `training_seconds` are of all steps, with their augmentation: theirs, by CUDA events,
with the whitening of the first layer and, of airbench96, the small network that picks pictures; ours, as metrics.jsonl
has them, from the first step to the last. Neither holds compiling and choosing kernels, decoding, or evaluations
between epochs. `seconds_with_tta` is what they publish: with the evaluation of six views at the end. `whole_seconds` of
ours hold everything from the pixels to the saved report. Of theirs a first run, which compiles, is left out;
`first_seconds` is the wait until it has ended. `over` is our training time over theirs, without and with that
evaluation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import resvision
from resvision.data import sources
from resvision.data.pictures import Split
from resvision.measure import now
from resvision.preprocess import Preprocess
from resvision.progress import ConsoleReporter
from resvision.runtime import device_name, versions
from resvision.training import RunFolder

DATA = "cifar10-jpeg.tar.xz"
SIZE = 32  # px
COMMIT = "f1c599c4af24aca803e3e65a6a7e52a502e09d0e"  # of 2025-03-02
LOOP = "for run in range(200)])"  # in their scripts, where they say how often they train
FOLDER = "cifar10"  # where they look for train.pt and test.pt before they download
LOG_LINES = 15  # of what a script that failed has said last

Fields = dict[str, Any]  # of a recipe
Figures = dict[str, float]  # of a run


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One of their scripts.

    Args:
        blob: git's id of the file at COMMIT.
        warms_up: whether it makes a run beside those of its loop, which compiles; else the first of the loop does.
    """

    blob: str
    warms_up: bool


PEERS = {
    "airbench94_muon.py": Peer(blob="e056a094d4675a57b64b92c01880d760a0155b6d", warms_up=True),
    "airbench96_faster.py": Peer(blob="a4f622aad4a2a108dd3a260477de98649fa72a35", warms_up=False),
}

RECIPE = "quick"
COMMON: Fields = {"keep": "last"}  # as theirs: nothing is held back, and nothing chosen
# Given, so that nothing is tried.
GIVEN: Fields = {"precision": "bf16", "channels_last": True, "cuda_graph": True, "compile": False}
RESNET18: Fields = {"model": "resnet18", "spec": ("stem=cifar",)}
LINES: dict[str, Fields] = {
    "resnet14-wide-10": GIVEN | {"batch_size": 512, "epochs": 10},
    "resnet18-8": GIVEN | RESNET18 | {"batch_size": 512, "epochs": 8},
    "resnet18-16": GIVEN | RESNET18 | {"batch_size": 512, "epochs": 16},
}


# ---- the pictures, as both sides read them ----


def write_pictures(data: Path, folder: Path) -> None:
    """Decodes a set into train.pt and test.pt as their loaders cache what they download."""
    dataset = sources.prepare(sources.load(data))
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        split = shuffled(dataset.splits[name])
        values = {"images": decoded(split), "labels": torch.from_numpy(split.labels)}
        torch.save(values | {"classes": list(dataset.classes)}, folder / f"{name}.pt")


def shuffled(split: Split) -> Split:
    """In an order without meaning, as the original has: their first layer is made of the first 5,000 pictures."""
    return split.take(np.random.default_rng(0).permutation(len(split)))


def decoded(split: Split) -> torch.Tensor:
    """All pictures, uint8 (N, S, S, 3)."""
    preprocess = Preprocess(size=SIZE)
    return torch.from_numpy(np.stack([split.pictures.pixels(index, preprocess) for index in range(len(split))]))


# ---- theirs ----


def limited(name: str, code: bytes, runs: int) -> bytes:
    """A script that makes so many runs that count, and one before them that compiles."""
    blob = hashlib.sha1(b"blob %d\0" % len(code) + code).hexdigest()
    if blob != PEERS[name].blob:
        sys.exit(f"{name} is not that of commit {COMMIT}: git checkout {COMMIT}")
    loop = LOOP.encode()
    assert code.count(loop) == 1
    return code.replace(loop, LOOP.replace("200", str(runs + (not PEERS[name].warms_up))).encode())


def told(lines: Iterable[str]) -> Iterator[Figures]:
    """The runs in the table that a script prints, each as soon as it has ended.

    A row has an epoch, or "eval" at the end of a run; its cells are empty where there is nothing to say yet.
    """
    columns: list[str] = []
    trained = 0.0
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if cells[0] == "run":
            columns = ["seconds" if cell.endswith("time_seconds") else cell for cell in cells]
        elif columns and len(cells) == len(columns):
            row = dict(zip(columns, cells, strict=True))
            if row["epoch"] == "eval":
                yield {
                    "accuracy": float(row["val_acc"]),
                    "accuracy_tta": float(row["tta_val_acc"]),
                    "training_seconds": trained,
                    "seconds_with_tta": float(row["seconds"]),
                }
            else:
                trained = float(row["seconds"])


def peer(name: str, folder: Path, minutes: float) -> dict[str, Any]:
    """Runs a script that lies in a folder with the pictures; where it fails or takes too long, what came before."""
    print(f"{name} begins", file=sys.stderr)
    begin, first, runs = now(), 0.0, []
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, name],
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # the compiler's processes end with it
        )
        timer = threading.Timer(60 * minutes, end, (process,))
        timer.start()
        try:
            assert process.stdout is not None
            for figures in told(process.stdout):
                print(f"{name} after {now() - begin:.0f} s: {json.dumps(figures)}", file=sys.stderr)
                if first:
                    runs.append(figures)
                else:
                    first = now() - begin
            code = process.wait()
        finally:
            timer.cancel()
            end(process)
    row = {"name": name, "commit": COMMIT, "first_seconds": round(first, 1), **summary(runs)}
    if code:
        said = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        row["failed"] = [f"ended with {code} after {now() - begin:.0f} s", *said]
    return row


def end(process: subprocess.Popen[str]) -> None:
    """Ends a process and all that it has begun, also where it has ended itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# ---- ours ----


def our_run(name: str, folder: Path, seed: int) -> tuple[Figures, Fields]:
    """One run of a line: its figures, and how it was computed."""
    train, test = (torch.load(folder / f"{part}.pt") for part in ("train", "test"))
    pairs = [(part["images"].numpy(), part["labels"].numpy()) for part in (train, test)]
    with tempfile.TemporaryDirectory() as place:
        run = RunFolder(Path(place) / "run")
        result = resvision.train(
            pairs[0],
            validation=pairs[1],
            classes=train["classes"],
            recipe=RECIPE,
            out=run.path,
            reporter=ConsoleReporter(),
            seed=seed,
            **COMMON | LINES[name],
        ).result
        recipe, epochs = run.read_recipe(), run.read_metrics()
    figures = {
        "accuracy": result["accuracy"],
        "training_seconds": sum(epoch["train_seconds"] for epoch in epochs),
        "whole_seconds": result["seconds"],
    }
    kept = ("model", "spec", "epochs", "steps", "batch_size", "lr", "rest_lr")
    computed = ("precision", "channels_last", "cuda_graph", "compile")
    return figures, {field: getattr(recipe, field) for field in (*kept, *computed)}


def ours(name: str, folder: Path, runs: int) -> dict[str, Any]:
    """Runs a line with one seed after the other, in a process of its own; where one fails, what came before."""
    print(f"{name} begins", file=sys.stderr)
    row: dict[str, Any] = {"name": name, "recipe": RECIPE, "fields": COMMON | LINES[name]}
    made: list[Figures] = []
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        for seed in range(runs):
            try:
                figures, row["as_run"] = pool.submit(our_run, name, folder, seed).result()
            except Exception as error:  # the peers' figures must not be lost with it
                row["failed"] = [f"seed {seed}: {type(error).__name__}: {error}"]
                break
            print(f"{name}: {json.dumps(figures)}", file=sys.stderr)
            made.append(figures)
    return row | summary(made)


# ---- both ----


def summary(runs: list[Figures]) -> dict[str, Any]:
    """How many runs there are, and mean, least and most of each of their figures."""
    found: dict[str, Any] = {"runs": len(runs)}
    for name in runs[0] if runs else ():
        values = [run[name] for run in runs]
        spread = {"mean": statistics.fmean(values), "least": min(values), "most": max(values)}
        found[name] = {key: round(value, 4) for key, value in spread.items()}
    return found


def over(line: dict[str, Any], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """A line's mean training time over each peer's, without and with their last evaluation."""
    if not line["runs"]:
        return {}
    seconds = line["training_seconds"]["mean"]
    keys = ("training_seconds", "seconds_with_tta")
    return {row["name"]: {key: round(seconds / row[key]["mean"], 3) for key in keys} for row in peers if row["runs"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="CIFAR-10 side by side with cifar10-airbench.")
    parser.add_argument("data", type=Path)
    parser.add_argument("airbench", type=Path)
    parser.add_argument("--runs", type=int, default=3, help="of each script and line, beside those that compile")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--lines", nargs="*", choices=list(LINES), default=list(LINES))
    parser.add_argument("--minutes", type=float, default=8.0, help="after which a script of theirs is ended")
    arguments = parser.parse_args()
    codes = {name: limited(name, (arguments.airbench / name).read_bytes(), arguments.runs) for name in arguments.peers}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pictures(arguments.data / DATA, folder / FOLDER)
        for name, code in codes.items():
            (folder / name).write_bytes(code)
        peers = [peer(name, folder, arguments.minutes) for name in arguments.peers]
        lines = [ours(name, folder / FOLDER, arguments.runs) for name in arguments.lines]
    document = {
        "benchmark": "airbench",
        "device": device_name(),
        "versions": versions(),
        "peers": peers,
        "lines": [line | {"over": over(line, peers)} for line in lines],
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
