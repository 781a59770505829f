"""The ladder that `compress` climbs: networks in runtimes, each judged by its time and paired accuracy."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from resvision import exporting
from resvision.classifier import Classifier
from resvision.data.images import blank, to_input
from resvision.data.loader import EvaluationBatches, at_once
from resvision.data.pictures import Split, balanced, divide
from resvision.data.readable import BadPictures
from resvision.data.workers import default_workers
from resvision.deployed import open_file
from resvision.errors import ExportError, InputError, RecipeError
from resvision.evaluation.calibration import temperature
from resvision.evaluation.evaluate import collect
from resvision.measure import interleaved
from resvision.models import ResNet
from resvision.progress import Note
from resvision.runtime import Session, TorchSession, device
from resvision.target import Target
from resvision.training.ledger import Ledger

WAYS = (
    Target(format="openvino", precision="int8"),
    Target(format="openvino", precision="bf16"),
    Target(format="openvino"),
    Target(format="onnx", precision="int8"),
    Target(format="onnx"),
)
ALIKE = 0.9  # of the speed of the fastest: what is about as fast may be chosen by its accuracy
ONE_SIDED_95 = 1.64  # standard errors: a drop that is allowed looks larger than this in one of twenty samples
LOOKED_AT, LOOKED_AT_BATCH = 256, 32  # training pictures by which damage, gradients and norms are measured
ROUNDS = 40  # of a timing, which ends earlier after so many seconds
ROUND_SECONDS, RACE_SECONDS = 20.0, 3.0

TAUGHT = "taught"  # a folder of smaller networks beside the ledger


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is wanted.

    Args:
        speedup: times faster than the original as `predict` runs it, in float32 by PyTorch.
        max_drop: points of accuracy, in percent, that this may cost.
        minutes: of teaching smaller networks, if that is needed.
        batch_size: pictures at once whose time counts.
    """

    speedup: float
    max_drop: float
    minutes: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Pictures that teach, that choose, and that are reported, with the classifier's labels."""

    train: Split
    tuning: Split
    reported: Split

    @classmethod
    def of(cls, splits: Mapping[str, Split], name: str) -> Parts:
        """Parts of a data set of that name, with `train` and `val` or `test`; no picture is in two of them."""
        if "test" in splits and "val" in splits:
            return cls(train=splits["train"], tuning=splits["val"], reported=splits["test"])
        reported, tuning = divide(splits.get("val", splits.get("test", splits["train"])), 0.5, name)
        return cls(train=splits["train"], tuning=tuning, reported=reported)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A network in one runtime.

    Args:
        network: what was done to it.
        runtime: what runs it, and in which precision.
        classifier: with that network.
        target: of the export; None is PyTorch.
        file: of the export.
        seconds: of a batch, the median.
        speedup: against the original by PyTorch, from the same rounds.
        accuracy: on the tuning part, 0..1.
        drop: against the original on the same pictures, in points; below 0 it got better.
        error: standard error of the drop.
        promised: whether drop <= max_drop. Chance is allowed for where the best is reported, and not once more here.
    """

    network: str
    runtime: str
    classifier: Classifier
    target: Target | None
    file: Path | None
    seconds: float
    speedup: float
    accuracy: float
    drop: float
    error: float
    promised: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("network", "runtime", "speedup", "accuracy", "drop", "error", "promised")
        return {name: getattr(self, name) for name in names} | {"milliseconds": 1000 * self.seconds}


class Ladder:
    """What is known of the original, and the rungs so far.

    Args:
        classifier: the original.
        parts: pictures.
        goal: what is wanted.
        folder: an empty one, for exports.
        ledger: of what was taught; the networks lie beside it, so that a climb that was stopped goes on with them.
        note: told what happens.
    """

    def __init__(
        self, classifier: Classifier, parts: Parts, goal: Goal, folder: Path, ledger: Ledger, note: Note
    ) -> None:
        self.classifier, self.parts, self.goal, self.folder, self.note = classifier, parts, goal, folder, note
        self.ledger = ledger
        self.batches, self.reported = (
            EvaluationBatches(part, classifier.preprocess, default_workers()) for part in (parts.tuning, parts.reported)
        )
        self.reported.hold()  # a picture that cannot be decoded is named before anything is taught
        self.right = _right(*collect(classifier.session, self.batches))
        self.rungs: list[Rung] = []
        self.squares = blank(classifier.preprocess, goal.batch_size)  # whose time counts
        sample, bad = balanced(parts.train, LOOKED_AT), BadPictures(limit=LOOKED_AT)  # which training leaves out, too
        together = min(LOOKED_AT_BATCH, max(2, at_once(classifier.preprocess)))
        looked_at = EvaluationBatches(sample, classifier.preprocess, 0, bad, together)
        where = device()
        self.looked_at = [
            (to_input(b.squares.to(where), classifier.preprocess), b.labels.to(where))
            for b in looked_at
            if len(b.labels) > 1 or len(sample) == 1  # norms have no statistics of a single value
        ]

    def climb(self, name: str, classifier: Classifier) -> Rung:
        """Measures a network in every way to run it; returns the fastest of all rungs that keeps the promise."""
        sessions: dict[str, tuple[Session, Target | None, Path | None]] = {
            "torch fp32": (classifier.session, None, None)
        }
        for target in WAYS:
            file = self.folder / f"{len(self.rungs)}" / target.name
            try:
                exporting.convert(classifier, target, file, calibration=self.parts.train)
                sessions[str(target)] = (open_file(file).session, target, file)
            except (InputError, ExportError) as reason:
                self.note(f"{target} is left out: {reason}")
        ways = {runtime: session for runtime, (session, _, _) in sessions.items()}
        ways["original"] = self.classifier.session
        raced = interleaved(ways, [self.squares] * ROUNDS, warmup=2, limit=ROUND_SECONDS)
        times = {key: statistics.median(taken) for key, taken in raced.items()}
        for runtime, (session, way, exported) in sessions.items():
            known = way is None and classifier is self.classifier
            right = self.right if known else _right(*collect(session, self.batches))
            drop, error = paired_drop(self.right, right)
            rung = Rung(
                network=name,
                runtime=runtime,
                classifier=classifier,
                target=way,
                file=exported,
                seconds=times[runtime],
                speedup=times["original"] / times[runtime],
                accuracy=float(right.mean()),
                drop=drop,
                error=error,
                promised=drop <= self.goal.max_drop,
            )
            self.rungs.append(rung)
            self.note(
                f"{name}, {runtime}: {rung.speedup:.2f} times as fast, {1000 * rung.seconds:.2f} ms, accuracy "
                f"{rung.accuracy:.2%} ({0 - rung.drop:+.2f} points){'' if rung.promised else ', too much'}"
            )
        # By the speedup, which is against the original in the same rounds: other rounds are of another moment.
        return max(self._kept(), key=lambda rung: rung.speedup)

    def _kept(self) -> list[Rung]:
        return [rung for rung in self.rungs if rung.promised]

    def best(self) -> Rung:
        """The fastest rung that keeps the promise, or of those that are about as fast the most accurate."""
        kept = self._kept()
        fastest = max(rung.speedup for rung in kept)
        least = ALIKE * fastest if fastest < self.goal.speedup else max(ALIKE * fastest, self.goal.speedup)
        return max((r for r in kept if r.speedup >= least), key=lambda rung: (rung.accuracy, rung.speedup))

    def once(self, name: str, work: Callable[[], ResNet | None]) -> Classifier | None:
        """What `work` makes, now or before the climb was stopped, as a classifier calibrated on the tuning part.

        None if there is nothing, or if it is no use.
        """
        folder = self.ledger.path.parent / TAUGHT / name

        def make() -> bool:
            network = work()
            if network is None:
                return False
            if not network.is_finite():
                self.note("the teaching diverged: what came of it is left out")
                return False
            made = replace(self.classifier, network=network)
            made.temperature = temperature(*collect(made.session, self.batches))
            folder.mkdir(parents=True, exist_ok=True)
            made.save(folder)
            return True

        try:
            taught = self.ledger.once(f"taught {name}", make)
        except RecipeError as reason:  # no room in memory now; whoever goes on may have some
            self.note(f"that network is not taught: {reason}")
            return None
        return Classifier.load(folder) if taught else None

    def race(self, best: Rung) -> Callable[[ResNet], float]:
        """How many times as fast a network is as the one of a rung, in float32 in that rung's runtime."""

        def session(network: ResNet) -> Session:
            if best.target is None:
                return TorchSession(network, self.classifier.preprocess)
            target = Target(format=best.target.format)
            file = self.folder / "race" / f"model{target.suffix}"
            exporting.convert(replace(self.classifier, network=network), target, file)
            return open_file(file).session

        slower = session(best.classifier.network)

        def cheaper(network: ResNet) -> float:
            ways = {"slower": slower, "faster": session(network)}
            times = interleaved(ways, [self.squares] * ROUNDS, warmup=2, limit=RACE_SECONDS)
            return statistics.median(times["slower"]) / statistics.median(times["faster"])

        return cheaper

    def loss(self, network: ResNet) -> float:
        """Mean cross-entropy on the tuning part, in nats."""
        logits, labels = collect(TorchSession(network, self.classifier.preprocess), self.batches)
        return F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()

    def report(self, rung: Rung) -> dict[str, Any]:
        """The figures of a rung and of the original on pictures that chose nothing."""
        session = rung.classifier.session if rung.file is None else open_file(rung.file).session
        before, after = (_right(*collect(s, self.reported)) for s in (self.classifier.session, session))
        drop, error = paired_drop(before, after)
        return {
            "pictures": len(before),
            "accuracy": float(after.mean()),
            "original_accuracy": float(before.mean()),
            "drop": drop,
            "error": error,
            "kept": drop <= self.goal.max_drop + ONE_SIDED_95 * error,
        }


def paired_drop(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The loss of accuracy on the same pictures and its standard error, both in points.

    Args:
        before: whether the original is right, (N,).
        after: whether the other one is.
    """
    difference = before.astype(np.float64) - after
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    # Summed up and divided once, so that a loss of exactly the limit is not rounded to above it.
    return float(100 * difference.sum() / len(difference)), 100 * float(error)


def _right(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(logits.argmax(axis=1) == labels)
