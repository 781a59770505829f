"""How much cheaper the same network answers, in 8 bits, smaller, with early exits, and what that costs in accuracy.

    python benchmarks/cheaper.py DATA FOLDER [--parts eight smaller exits added promises exports] [--minutes 20]
        [--seeds 0 1] [--exits-of resnet56_cifar] [--exits-at auto] [--exit-weight 0.3] [--exits-drop 0.7]

DATA is a folder with imagenette/ and cifar10-jpeg.tar.xz. The networks are trained in FOLDER, and stay there: resnet50
on Imagenette at 128 px, resnet56_cifar or resnet110_cifar on CIFAR-10, resnet20_cifar on Fashion-MNIST. Each part
leaves FOLDER/PART.json and is not run again while that is there and was asked for alike. Trainings and compressions
that were stopped go on, and what was made for another question is refused by name; a folder of runs that were trained
on another machine is taken, too. Where a part cannot be done the next one goes on. They run in processes of their own,
so that nothing of them is left in the one that measures. Prints one JSON document of all parts that are there.

Times are of real pictures, in groups that every way goes through in turn; a ratio is the median over the groups.
Accuracies are of pictures that chose nothing: of the test part, or of the half of the validation part that `compress`
and `exits` only report.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asked import same_question
from train_step import plain_network

import resvision
from resvision import deployed
from resvision.adaptive import AdaptiveSession, all_exits, joined, torch_segments
from resvision.classifier import Classifier, Predictor
from resvision.data import sources
from resvision.data.loader import EvaluationBatches
from resvision.data.pictures import FilePictures, Split
from resvision.data.workers import default_workers
from resvision.efficiency.ladder import Parts, paired_drop
from resvision.errors import ExportError, ResvisionError
from resvision.evaluation.exits import tune
from resvision.exporting.peers import PeerSession
from resvision.files import write_json
from resvision.measure import interleaved, now
from resvision.progress import ConsoleReporter
from resvision.runtime import versions
from resvision.training import RunFolder
from resvision.training.roles import assign

Fields = dict[str, Any]  # of a recipe

AGAIN: Fields = {"optimizer": "muon", "lr": 0.03, "rest_lr": 0.03, "first_size": None}  # half of `quick`'s rates
# network: its data, and its trainings, each of which begins with the weights of the one before
NETWORKS: dict[str, tuple[str, tuple[Fields, ...]]] = {
    "resnet50": ("imagenette", ({"size": 128, "epochs": 9}, {"epochs": 5} | AGAIN)),
    "resnet56_cifar": ("cifar10-jpeg.tar.xz", ({"epochs": 8, "seed": 0, "holdout": 0.04},)),
    "resnet110_cifar": ("cifar10-jpeg.tar.xz", ({"epochs": 20, "batch_size": 256, "seed": 0, "holdout": 0.04},)),
    "resnet20_cifar": ("fashion-mnist", ({"epochs": 8, "seed": 0},)),
}
PROMISED = ("resnet50", "resnet56_cifar", "resnet20_cifar")  # the networks that `promises` compresses
GROUPS = {1: (25, 12), 32: (128, 8)}  # batch: (pictures in a group, groups)
TURN = 50  # batches of a whole test part that one way takes in turn
CHUNKS = 10  # of a whole test part, which tell how much a ratio of times varies
PARITY = 1000  # pictures that go through exports

Way = Callable[[torch.Tensor], Any]


class Bench:
    """The networks, their data and what is asked for."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.root, self.folder = arguments.data, arguments.folder.resolve()
        self.arguments = arguments
        self.folder.mkdir(parents=True, exist_ok=True)

    def data(self, name: str) -> str:
        """Where a network's pictures are."""
        place = self.root / NETWORKS[name][0]
        return str(place) if place.exists() else NETWORKS[name][0]

    def network(self, name: str) -> Path:
        """The folder of a network that has been through all of its trainings."""
        *earlier, last = NETWORKS[name][1]
        begin: Fields = {"model": name}
        for number, fields in enumerate(earlier, start=1):
            begin = {"pretrained": str(self.run(name, f"{name}-{number}", begin | fields))}
        return self.run(name, name, begin | last)

    def run(self, name: str, label: str, fields: Fields) -> Path:
        """The folder of a training on a network's data, which is made, gone on with, or there."""
        folder: Path = self.folder / label
        self.same_question(label, fields)
        if (folder / "result.json").exists():
            return folder
        print(f"training: {folder.name}", file=sys.stderr)
        if (folder / "checkpoints" / "last.safetensors").exists():
            apart("train", resume=folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before there was anything to go on with
            apart("train", self.data(name), recipe="quick", out=folder, **fields)
        return folder

    def compressed(self, run: Path, name: str, label: str, **goal: Any) -> dict[str, Any]:
        """What compress.json holds of a compression, which is made, gone on with, or there."""
        folder = self.folder / label
        self.same_question(label, goal)
        if not (folder / "compress.json").exists():
            print(f"compressing: {folder.name}", file=sys.stderr)
            apart("compress", run, self.data(name), out=folder, **goal)
        numbers: dict[str, Any] = json.loads((folder / "compress.json").read_text())
        return numbers

    def same_question(self, label: str, asked: Fields) -> None:
        """Refuses to take what was made for another question, or notes the question."""
        same_question(self.folder / label, self.folder / f"{label}-asked.json", asked)


def apart(verb: str, *given: Any, **options: Any) -> None:
    """Runs a verb of the library in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(target=_run, args=(verb, given, options))
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"{verb} ended with {process.exitcode}")


def _run(verb: str, given: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        getattr(resvision, verb)(*given, reporter=ConsoleReporter(), **options)
    except ResvisionError as error:
        sys.exit(str(error))


def untouched(data: str) -> Split:
    """Pictures that chose nothing: those that `compress` and `exits` only report."""
    dataset = sources.prepare(sources.load(data))
    return Parts.of(dataset.splits, dataset.name).reported


def squares_of(split: Split, classifier: Predictor) -> tuple[torch.Tensor, np.ndarray]:
    """All pictures as uint8 squares (N, S, S, C), and their labels (N,)."""
    batches = list(EvaluationBatches(split, classifier.preprocess, default_workers()))
    return torch.cat([b.squares for b in batches]), torch.cat([b.labels for b in batches]).numpy()


def logits_of(session: Way, squares: torch.Tensor, batch: int = 64) -> np.ndarray:
    """The logits (N, K) of all squares; of a network with early exits those with which pictures leave."""
    found = [session(part) for part in squares.split(batch)]
    return np.concatenate([getattr(answer, "logits", answer) for answer in found])


def raced(ways: Mapping[str, Way], squares: torch.Tensor, batch: int) -> dict[str, list[float]]:
    """Seconds of each way for each group of pictures; all ways take a group in turn."""
    size, count = GROUPS[batch]

    def whole_group(way: Way, group: torch.Tensor) -> None:
        for part in group.split(batch):
            way(part)

    groups = squares[: size * count].split(size)
    return interleaved({name: partial(whole_group, way) for name, way in ways.items()}, groups)


def ratios(times: Mapping[str, list[float]], slower: str, faster: str) -> dict[str, float]:
    """How many times as fast one way is as another, by groups."""
    values = [a / b for a, b in zip(times[slower], times[faster], strict=True)]
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def compared(
    ways: Mapping[str, Way], reference: str, peers: tuple[str, ...], squares: torch.Tensor, labels: np.ndarray
) -> list[dict[str, Any]]:
    """A row for each way: accuracy, paired drop against `reference`, and speedups over the peers at batch 1 and 32."""
    times = {batch: raced(ways, squares, batch) for batch in (1, 32)}
    right = {name: logits_of(way, squares).argmax(1) == labels for name, way in ways.items()}
    rows = []
    for name in ways:
        drop, error = paired_drop(right[reference], right[name])
        row: dict[str, Any] = {"way": name}
        if name not in peers[:1]:  # the first has random weights
            row |= {
                "accuracy": round(float(right[name].mean()), 4),
                "drop": round(drop, 3),
                "error": round(error, 3),
            }
        for batch, taken in times.items():
            row[f"ms_a_picture_batch_{batch}"] = round(1000 * statistics.median(taken[name]) / GROUPS[batch][0], 3)
            row |= {f"over_{peer}_batch_{batch}": ratios(taken, peer, name) for peer in peers}
        rows.append(row)
    return rows


PEERS = ("torchvision eager fp32", "onnx fp32")


def usual_ways(run: Path, classifier: Classifier, data: str) -> dict[str, Way]:
    """The peer's network, PyTorch, and every export of a run, which are made if they are missing."""
    wanted = (("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("onnx", "int8"))
    there = deployed.in_run(run, classifier)
    for runtime, precision in wanted:
        if f"{runtime} {precision}" not in there:
            try:
                resvision.export(run, runtime, precision=precision, data=data)
            except ExportError as reason:  # it loses too much, and is no way to answer
                print(reason, file=sys.stderr)
    exported = {name: predictor.session for name, predictor in deployed.in_run(run, classifier).items()}
    peer = PeerSession(plain_network("resnet50"), classifier)
    return {PEERS[0]: peer, "torch fp32": classifier.session, **exported}


def eight(bench: Bench) -> dict[str, Any]:
    """resnet50 in 8 bits, as it is."""
    run = bench.network("resnet50")
    classifier = Classifier.load(run)
    squares, labels = squares_of(untouched(bench.data("resnet50")), classifier)
    rows = compared(usual_ways(run, classifier, bench.data("resnet50")), "torch fp32", PEERS, squares, labels)
    whole = json.loads((run / "result.json").read_text())
    return {"trained_to": whole["accuracy"], "pictures": len(labels), "rows": rows}


def smaller(bench: Bench) -> dict[str, Any]:
    """resnet50 pruned, taught, with early exits and in 8 bits."""
    name, data = "resnet50", bench.data("resnet50")
    run = bench.network(name)
    # Together they may lose a point: the smaller network 0.7, and pictures that leave it early 0.3 more.
    goal = {"speedup": bench.arguments.speedup, "max_drop": 0.7, "minutes": bench.arguments.minutes}
    numbers = bench.compressed(run, name, "resnet50-smaller", **goal)
    made = bench.run(
        name,
        "resnet50-smaller-exits",
        {
            "pretrained": str(bench.folder / "resnet50-smaller"),
            "exits": "auto",
            "freeze_trunk": True,
            "minutes": bench.arguments.minutes / 4,
        },
    )
    file = exported(made, numbers["best"]["runtime"], data)
    resvision.tune_exits(made, data, max_drop=0.3, runtime=file.split()[0])
    original, classifier = Classifier.load(run), Classifier.load(made)
    ways = usual_ways(run, original, data)
    kept = {way: ways[way] for way in (*PEERS, "torch fp32", "openvino int8") if way in ways}
    left = deployed.in_run(made, classifier)[file]
    assert left.adaptive is not None
    folder = bench.folder / "resnet50-smaller"
    kept |= {f"smaller, {way}": p.session for way, p in deployed.in_run(folder, Classifier.load(folder)).items()}
    kept |= {f"smaller, {file}, exits": left.adaptive}
    squares, labels = squares_of(untouched(data), original)
    rows = compared(kept, "torch fp32", PEERS, squares, labels)
    exits = np.concatenate([left.adaptive(s).exits for s in squares.split(64)])
    shares = np.bincount(exits, minlength=len(left.adaptive.segments))
    return {
        "compressed": {key: numbers[key] for key in ("best", "reported", "reached", "goal")},
        "left_at": (shares / len(labels)).round(4).tolist(),
        "pictures": len(labels),
        "rows": rows,
    }


def exported(run: Path, best: str, data: str) -> str:
    """Exports a network with early exits for the runtime that was best without, in as few bits as answer alike."""
    runtime, precision = ("openvino", "fp32") if best.startswith("torch") else best.split()
    for bits in [precision, *(b for b in ("bf16", "fp32") if b != precision)]:
        there = deployed.in_run(run, Classifier.load(run))
        if f"{runtime} {bits}" in there:
            return f"{runtime} {bits}"
        try:
            resvision.export(run, runtime, precision=bits, data=data)
        except ExportError as reason:
            print(reason, file=sys.stderr)
            continue
        return f"{runtime} {bits}"
    raise ExportError(f"{run}: no export answers as the original")


def exits(bench: Bench) -> dict[str, Any]:
    """A network with early exits against a twin without, trained alike, over the whole test part."""

    def together(name: str, seed: int, _: Path, alike: Fields) -> Path:
        return bench.run(name, f"{name}-exits-{seed}", alike | with_exits(bench))

    return against_twin(bench, together)


def added(bench: Bench) -> dict[str, Any]:
    """The twin itself, with early exits that were trained on top of it, against what it was."""

    def on_top(name: str, seed: int, twin: Path, alike: Fields) -> Path:
        fields = {"pretrained": str(twin), "freeze_trunk": True, "epochs": 6, "seed": seed}
        return bench.run(name, f"{name}-added-{seed}", fields | {"holdout": alike["holdout"]} | with_exits(bench))

    return against_twin(bench, on_top)


def with_exits(bench: Bench) -> Fields:
    """What a recipe needs for exits."""
    return {"exits": bench.arguments.exits_at, "exit_weight": bench.arguments.exit_weight}


def timed_here(folder: Path, data: str, max_drop: float) -> Classifier:
    """A run with early exits, whose thresholds are chosen by this machine's times, and the pictures it held back."""
    run, classifier = RunFolder(folder), Classifier.load(folder)
    held = assign(sources.load(data), run.read_recipe(), run.read_data()).watched
    assert held is not None
    segments = torch_segments(classifier.network, classifier.preprocess)
    batches = EvaluationBatches(held[1], classifier.preprocess, 0)
    return dataclasses.replace(classifier, exits=tune(segments, batches, classifier.session, max_drop=max_drop))


def at_the_end(adaptive: AdaptiveSession, squares: torch.Tensor) -> np.ndarray:
    """What is answered of pictures none of which leaves early, (N, K)."""
    return joined(all_exits(adaptive.segments, squares), adaptive.rule.audible)[-1]


def against_twin(bench: Bench, make: Callable[[str, int, Path, Fields], Path]) -> dict[str, Any]:
    """Networks with early exits, which `make` trains, against twins without, over the whole test part."""
    name = bench.arguments.exits_of
    rows = []
    for seed in bench.arguments.seeds:
        [fields] = NETWORKS[name][1]
        alike = {"model": name} | fields | {"seed": seed}
        is_there = seed == fields["seed"]
        folder = bench.network(name) if is_there else bench.run(name, f"{name}-twin-{seed}", alike)
        made = make(name, seed, folder, alike)
        twin, leaving = Classifier.load(folder), timed_here(made, bench.data(name), bench.arguments.exits_drop)
        assert leaving.adaptive is not None
        dataset = sources.prepare(sources.load(bench.data(name)))
        squares, labels = squares_of(dataset.splits["test" if "test" in dataset.splits else "val"], twin)
        ways = {"twin": twin.session, "exits": leaving.adaptive}
        answers = ways | {"at the end": partial(at_the_end, leaving.adaptive), "alone": leaving.adaptive.in_full}
        right = {way: logits_of(session, squares).argmax(1) == labels for way, session in answers.items()}
        left = np.concatenate([leaving.adaptive(part).exits for part in squares.split(64)])
        shares = np.bincount(left, minlength=len(leaving.adaptive.segments)) / len(labels)
        row: dict[str, Any] = {"seed": seed, "pictures": len(labels), "left_at": shares.round(4).tolist()}
        for batch in (1, 64):
            times = whole(ways, squares, batch)
            row[f"seconds_batch_{batch}"] = {way: round(sum(t), 2) for way, t in times.items()}
            row[f"times_as_fast_batch_{batch}"] = round(sum(times["twin"]) / sum(times["exits"]), 3)
            chunks = {way: [sum(part) for part in np.array_split(t, CHUNKS)] for way, t in times.items()}
            row[f"by_chunks_batch_{batch}"] = ratios(chunks, "twin", "exits")
            if batch == 1:
                row["p99_ms"] = {way: round(1000 * float(np.quantile(t, 0.99)), 3) for way, t in times.items()}
        row |= {
            "accuracy": {name: round(float(r.mean()), 4) for name, r in right.items()},
            "points_below_twin": round(100 * float(right["twin"].mean() - right["exits"].mean()), 3),
            "points_at_the_end_below_twin": round(100 * float(right["twin"].mean() - right["at the end"].mean()), 3),
        }
        rows.append(row)
    keys = ("times_as_fast_batch_1", "times_as_fast_batch_64", "points_below_twin", "points_at_the_end_below_twin")
    return {
        "network": name,
        "mean": {key: round(statistics.fmean(r[key] for r in rows), 3) for key in keys},
        "rows": rows,
    }


def whole(ways: Mapping[str, Way], squares: torch.Tensor, batch: int) -> dict[str, list[float]]:
    """Seconds of every batch of all pictures; the ways take turns, TURN batches each, as if each were alone."""
    times: dict[str, list[float]] = {name: [] for name in ways}

    def one_by_one(name: str, pictures: torch.Tensor) -> None:
        for part in pictures.split(batch):
            start = now()
            ways[name](part)
            times[name].append(now() - start)

    for way in ways.values():
        way(squares[:batch])
    turns = {name: partial(one_by_one, name) for name in ways}
    interleaved(turns, squares.split(TURN * batch), warmup=0, settle=False)
    return times


def promises(bench: Bench) -> dict[str, Any]:
    """Whether `compress --speedup 2 --max-drop 0.5` keeps its promise on pictures that chose nothing."""
    rows = []
    for name in PROMISED:
        goal = {"speedup": 2.0, "max_drop": 0.5, "minutes": bench.arguments.minutes / 4}
        numbers = bench.compressed(bench.network(name), name, f"{name}-promise", **goal)
        kept = ("speedup", "network", "runtime")
        rows.append({"run": name, "reached": numbers["reached"], **numbers["reported"]})
        rows[-1] |= {key: numbers["best"][key] for key in kept}
    return {"rows": rows}


def exports(bench: Bench) -> dict[str, Any]:
    """The answers of exports against those of the original, on many pictures."""
    run, data = bench.network("resnet50"), bench.data("resnet50")
    classifier = Classifier.load(run)
    split = sources.prepare(sources.load(data)).splits["val"]
    split = split.take(np.linspace(0, len(split) - 1, PARITY).astype(np.int64))
    assert isinstance(split.pictures, FilePictures)
    squares, labels = squares_of(split, classifier)
    before = logits_of(classifier.session, squares)
    paths = [file.path for file in split.pictures.files]
    said = [prediction.label for prediction in classifier.predict(paths, top=1)]
    rows = []
    for runtime, precision, contract in (
        *(("onnx", "fp32", "A"), ("openvino", "fp32", "A"), ("onnx", "fp32", "B"), ("openvino", "fp32", "B")),
        *(("onnx", "int8", "A"), ("openvino", "int8", "A"), ("onnx", "bf16", "A"), ("openvino", "bf16", "A")),
    ):
        out = bench.folder / "exports" / f"{runtime}-{precision}-{contract}"
        row: dict[str, Any] = {"runtime": runtime, "precision": precision, "contract": contract, "pictures": PARITY}
        rows.append(row)
        try:
            made = resvision.export(run, runtime, precision=precision, contract=contract, data=data, out=out)
        except ExportError as reason:  # which leaves no file
            row["refused"] = str(reason)
            continue
        opened = deployed.open_file(made.file)
        if contract == "A":
            after = logits_of(opened.session, squares)
            drop, error = paired_drop(before.argmax(1) == labels, after.argmax(1) == labels)
            row |= {
                "largest_difference": float(np.abs(before - after).max()),
                "same_top1": float((before.argmax(1) == after.argmax(1)).mean()),
                "drop": round(drop, 3),
                "error": round(error, 3),
            }
        else:
            there = [prediction.label for prediction in opened.predict(paths, top=1)]
            row["same_top1"] = float(np.mean([a == b for a, b in zip(said, there, strict=True)]))
    return {"rows": rows}


EXITS = ("seeds", "exits_of", "exits_at", "exit_weight", "exits_drop")
PARTS: dict[str, tuple[Callable[[Bench], dict[str, Any]], tuple[str, ...]]] = {  # with what each depends on
    "eight": (eight, ()),
    "smaller": (smaller, ("speedup", "minutes")),
    "exits": (exits, EXITS),
    "added": (added, EXITS),
    "promises": (promises, ("minutes",)),
    "exports": (exports, ()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="How much cheaper the same network answers.")
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=20.0, help="of teaching smaller networks")
    parser.add_argument("--speedup", type=float, default=10.0, help="that is asked of compress")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the networks with early exits")
    once = [name for name, (_, trainings) in NETWORKS.items() if len(trainings) == 1 and "holdout" in trainings[0]]
    parser.add_argument("--exits-of", choices=once, default="resnet56_cifar")
    parser.add_argument("--exits-at", default="auto", help="blocks, as --exits of train takes them")
    parser.add_argument("--exit-weight", type=float, default=0.3)
    parser.add_argument("--exits-drop", type=float, default=0.7, help="points that leaving early may cost")
    bench = Bench(parser.parse_args())
    failed = False
    for part in bench.arguments.parts:
        file, (measure, needed) = bench.folder / f"{part}.json", PARTS[part]
        asked = {key: getattr(bench.arguments, key) for key in needed}
        if not file.exists() or json.loads(file.read_text())["asked"] != asked:
            print(part, file=sys.stderr)
            try:
                write_json(file, measure(bench) | {"asked": asked, "versions": versions()})
            except (ResvisionError, SystemExit) as reason:
                failed = True
                print(f"{part}: {reason}", file=sys.stderr)
    found = {
        part: json.loads((bench.folder / f"{part}.json").read_text())
        for part in PARTS
        if (bench.folder / f"{part}.json").exists()
    }
    print(json.dumps({"benchmark": "cheaper", "threads": torch.get_num_threads(), "parts": found}, indent=2))
    sys.exit(failed)


if __name__ == "__main__":
    main()
