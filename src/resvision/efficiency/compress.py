"""Compress: a trained network made several times cheaper, rung by rung, each judged by its time and paired accuracy.

The first rungs leave the network as it is and change what runs it: other runtimes, which fold the norms into the
convolutions, and 8-bit integers. The next ones take out blocks and channels and teach what is left by the original.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from resvision import exporting, recipes
from resvision.classifier import Classifier
from resvision.data.images import to_input
from resvision.data.loader import EvaluationBatches, TrainingBatches, default_workers, screen
from resvision.data.pictures import Split
from resvision.deployed import open_file
from resvision.efficiency import prune
from resvision.errors import ExportError, MissingExtraError
from resvision.evaluation.evaluate import collect
from resvision.evaluation.exits import temperature
from resvision.files import parse
from resvision.measure import interleaved, median, now
from resvision.models import ResNet
from resvision.recipe import Recipe, make
from resvision.runtime import Session, TorchSession
from resvision.target import Target
from resvision.training import engine as engines
from resvision.training import losses
from resvision.training.bench import Note, balanced
from resvision.training.bench import train as train_steps

WAYS = (
    Target(format="openvino", precision="int8"),
    Target(format="openvino", precision="bf16"),
    Target(format="openvino"),
    Target(format="onnx", precision="int8"),
    Target(format="onnx"),
)
ONE_SIDED_95 = 1.64  # standard errors: a drop that is allowed looks larger than this in one of twenty samples
MOST_AT_ONCE = 2.0  # times cheaper in one rung; what is left must still be able to learn it again
MARGIN = 1.05  # cheaper than is asked for, since a network's time in 8 bits is not quite in proportion to that in float
LOOKED_AT = 256  # training pictures by which damage, gradients and norm statistics are measured
GRADIENT_BATCH, GRADIENT_BATCHES = 32, 2
BISECTIONS = 5
ROUNDS = 40  # of a timing, which ends earlier after so many seconds
ROUND_SECONDS, RACE_SECONDS = 20.0, 3.0
DISTILLED = 0.8  # the part of the loss that is the distance to the original
PROBE_STEPS = 4

Logits = npt.NDArray[np.float32]


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
        promised: whether drop <= max_drop + 1.64 error.
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


def run(
    classifier: Classifier, parts: Parts, goal: Goal, folder: Path, note: Note
) -> tuple[Rung, list[Rung], dict[str, Any]]:
    """Climbs the ladder until the goal is reached or a rung breaks the promise.

    Args:
        classifier: the original.
        parts: pictures.
        goal: what is wanted.
        folder: an empty one for exports.
        note: told what happens.

    Returns:
        The best rung, all of them, and the best one's figures on the reported part.

    Raises:
        SpecError: more is wanted than runtimes give, and the network cannot be pruned.
    """
    ladder = _Ladder(classifier, parts, goal, folder, note)
    best = ladder.climb("as it is", classifier)
    if best.speedup < goal.speedup:
        prune.check(classifier.network)
        levels = math.ceil(math.log(goal.speedup * MARGIN / best.speedup, MOST_AT_ONCE) - 1e-9)
        for level in range(levels):
            wanted = (goal.speedup * MARGIN / best.speedup) ** (1 / (levels - level))
            smaller = _smaller(ladder, best, wanted)
            if smaller is None:
                note(f"nothing that can be taken out makes the network {wanted:.2f} times cheaper")
                break
            said = prune.said(classifier.network, smaller)
            note(f"{said}: taught by the original for {goal.minutes / levels:.1f} minutes")
            taught = _taught(smaller, ladder, 60 * goal.minutes / levels)
            found = ladder.climb(said, replace(classifier, network=taught))
            if found.speedup <= best.speedup:
                note("this rung does not keep the promise; the one before it is the best")
                break
            best = found
    return best, ladder.rungs, ladder.report(best)


class _Ladder:
    """What is known of the original, and the rungs so far."""

    def __init__(self, classifier: Classifier, parts: Parts, goal: Goal, folder: Path, note: Note) -> None:
        self.classifier, self.parts, self.goal, self.folder, self.note = classifier, parts, goal, folder, note
        self.batches = EvaluationBatches(parts.tuning, classifier.preprocess, default_workers())
        self.right = _right(*collect(classifier.session, self.batches))
        self.rungs: list[Rung] = []
        looked_at = EvaluationBatches(balanced(parts.train, LOOKED_AT), classifier.preprocess, 0, None, GRADIENT_BATCH)
        self.looked_at = [(to_input(b.squares, classifier.preprocess), b.labels) for b in looked_at]

    def climb(self, name: str, classifier: Classifier) -> Rung:
        """Measures a network in every way to run it; returns the fastest of all rungs that keeps the promise."""
        sessions: dict[str, tuple[Session, Target | None, Path | None]] = {
            "torch fp32": (classifier.session, None, None)
        }
        for target in WAYS:
            file = self.folder / f"{len(self.rungs)}" / target.name
            try:
                exporting.write(
                    classifier, target, file, calibration=self.parts.train, checked=self.parts.tuning, judged=False
                )
            except (ExportError, MissingExtraError) as reason:
                self.note(f"{target} is left out: {reason}")
            else:
                sessions[str(target)] = (open_file(file).session, target, file)
        calls = {runtime: self._call(session) for runtime, (session, _, _) in sessions.items()}
        calls["original"] = self._call(self.classifier.session)
        times = {key: median(t) for key, t in interleaved(calls, rounds=ROUNDS, warmup=2, limit=ROUND_SECONDS).items()}
        for runtime, (session, way, exported) in sessions.items():
            right = _right(*collect(session, self.batches))
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
                promised=drop <= self.goal.max_drop + ONE_SIDED_95 * error,
            )
            self.rungs.append(rung)
            self.note(
                f"{name}, {runtime}: {rung.speedup:.2f} times as fast, {1000 * rung.seconds:.2f} ms, accuracy "
                f"{rung.accuracy:.2%} ({0 - rung.drop:+.2f} points){'' if rung.promised else ', too much'}"
            )
        # By the speedup, which is against the original in the same rounds: other rounds are of another moment.
        return max((rung for rung in self.rungs if rung.promised), key=lambda rung: rung.speedup)

    def _call(self, session: Session) -> Callable[[], object]:
        return lambda: session(self.squares())

    def squares(self) -> torch.Tensor:
        """A batch of the size whose time counts; what it shows does not matter."""
        size, channels = self.classifier.preprocess.size, self.classifier.preprocess.channels
        return torch.zeros(self.goal.batch_size, size, size, channels, dtype=torch.uint8)

    def race(self, best: Rung) -> Callable[[ResNet], float]:
        """How many times as fast a network is as the one of a rung, in float32 in that rung's runtime."""

        def session(network: ResNet) -> Session:
            if best.target is None:
                return TorchSession(network, self.classifier.preprocess)
            target = Target(format=best.target.format)
            file = self.folder / "race" / f"model{target.suffix}"
            exporting.write(replace(self.classifier, network=network), target, file, judged=False)
            return open_file(file).session

        slower = self._call(session(best.classifier.network))

        def cheaper(network: ResNet) -> float:
            calls = {"slower": slower, "faster": self._call(session(network))}
            times = interleaved(calls, rounds=ROUNDS, warmup=2, limit=RACE_SECONDS)
            return median(times["slower"]) / median(times["faster"])

        return cheaper

    def loss(self, network: ResNet) -> float:
        """Mean cross-entropy on the tuning part, in nats."""
        logits, labels = collect(TorchSession(network, self.classifier.preprocess), self.batches)
        return F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()

    def report(self, rung: Rung) -> dict[str, Any]:
        """The figures of a rung and of the original on pictures that chose nothing."""
        batches = EvaluationBatches(self.parts.reported, self.classifier.preprocess, default_workers())
        session = rung.classifier.session if rung.file is None else open_file(rung.file).session
        before, after = (_right(*collect(s, batches)) for s in (self.classifier.session, session))
        drop, error = paired_drop(before, after)
        return {
            "pictures": len(before),
            "accuracy": float(after.mean()),
            "original_accuracy": float(before.mean()),
            "drop": drop,
            "error": error,
            "kept": drop <= self.goal.max_drop + ONE_SIDED_95 * error,
        }


def calibrated(rung: Rung, parts: Parts) -> Classifier:
    """The rung's classifier with a temperature of its own, from the tuning part."""
    session = rung.classifier.session if rung.file is None else open_file(rung.file).session
    batches = EvaluationBatches(parts.tuning, rung.classifier.preprocess, default_workers())
    return replace(rung.classifier, temperature=temperature(*collect(session, batches)))


def paired_drop(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The loss of accuracy on the same pictures and its standard error, both in points.

    Args:
        before: whether the original is right, (N,).
        after: whether the other one is.
    """
    difference = before.astype(np.float64) - after
    error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return 100 * float(difference.mean()), 100 * float(error)


def _right(logits: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray(logits.argmax(axis=1) == labels)


# ---- smaller networks ----


def _smaller(ladder: _Ladder, best: Rung, wanted: float) -> ResNet | None:
    """A network that is `wanted` times cheaper: without blocks, without channels, or half of each; what hurts least.

    They are compared by their loss with new norm statistics, before they learn anything. None where nothing that can
    be taken out is enough.
    """
    network, cheaper, looked_at = best.classifier.network, ladder.race(best), ladder.looked_at
    half = _without_blocks(network, math.sqrt(wanted), cheaper, looked_at)
    candidates = {
        "blocks": None if half is None else _without_blocks(half, wanted, cheaper, looked_at),
        "channels": _without_channels(network, wanted, cheaper, looked_at),
        "both": None if half is None else _without_channels(half, wanted, cheaper, looked_at),
    }
    there = {name: _recalibrated(made, looked_at) for name, made in candidates.items() if made is not None}
    if not there:
        return None
    loss = {name: ladder.loss(made) for name, made in there.items()}
    ladder.note("cross-entropy before teaching: " + ", ".join(f"{name} {value:.3f}" for name, value in loss.items()))
    return there[min(loss, key=loss.__getitem__)]


def _without_blocks(
    network: ResNet, wanted: float, cheaper: Callable[[ResNet], float], batches: prune.Batches
) -> ResNet | None:
    """The network without as many of the least needed blocks as it takes; None where they are not enough."""
    while cheaper(network) < wanted:
        damage = prune.block_damage(network, batches)
        if not damage:
            return None
        network = prune.without_block(network, min(damage, key=damage.__getitem__))
    return network


def _without_channels(
    network: ResNet, wanted: float, cheaper: Callable[[ResNet], float], batches: prune.Batches
) -> ResNet | None:
    """The network with as few inner channels fewer as it takes; None where even the most are not enough."""
    if cheaper(network) >= wanted:
        return network
    low, high, found = 0.0, prune.MOST_PRUNED, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        made = prune.narrowed(network, middle, batches[:GRADIENT_BATCHES])
        if cheaper(made) >= wanted:
            high, found = middle, made
        else:
            low = middle
    return found


@torch.no_grad()
def _recalibrated(network: ResNet, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> ResNet:
    """A copy whose norms have the statistics of its own activations."""
    made = copy.deepcopy(network).eval()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    for inputs, _ in batches:
        made(inputs)
    for norm in norms:
        norm.momentum = 0.1
    return made.eval()


def _taught(network: ResNet, ladder: _Ladder, seconds: float) -> ResNet:
    """The network after it learned for so long from pictures and from what the original says of them."""
    preprocess, train = ladder.classifier.preprocess, ladder.parts.train
    recipe = _lesson(ladder.classifier, train)
    teacher = copy.deepcopy(ladder.classifier.network).eval().requires_grad_(False)
    counts = np.bincount(train.labels, minlength=len(ladder.classifier.classes))
    loss = losses.distilled(losses.build(recipe, counts.tolist()), teacher, DISTILLED)
    recipe, _ = engines.choose(network, recipe, loss, preprocess, lambda a_picture: seconds / a_picture)
    readable, bad, largest = screen(train, recipe.max_bad)
    batches = TrainingBatches(readable, recipe, preprocess, bad, largest)
    steps = PROBE_STEPS
    for taught in (copy.deepcopy(network), network):
        begin = now()
        for _ in train_steps(taught, batches, replace(recipe, steps=steps), loss, preprocess):
            pass
        steps = max(1, int(seconds / (now() - begin) * PROBE_STEPS))
    return network.eval()


def _lesson(classifier: Classifier, train: Split) -> Recipe:
    """The recipe that the original was trained with, at half its rate, or the plain one."""
    recorded = classifier.provenance.get("recipe")
    size = classifier.preprocess.size
    if isinstance(recorded, dict):
        recipe = parse(Recipe, recorded, "provenance.recipe")
    else:
        fields = recipes.plain(size) | {"size": size, "channels": classifier.preprocess.channels, "epochs": 1}
        recipe = make(fields)
    assert recipe.lr != "auto"  # a run records what it found
    return replace(
        recipe,
        size=size,
        pretrained=None,
        head_first=0.0,
        lr_decay=1.0,
        freeze_norms=False,
        freeze_trunk=False,
        exits=None,
        gate_rate=None,
        first_size=None,
        ema=0.0,
        drop_path=0.0,
        lr=recipe.lr / 2,
        rest_lr=recipe.rest_lr / 2,
        warmup=0.05,
        batch_size=min(recipe.batch_size, len(train)),
        memory="full",
        precision=None,
        channels_last=None,
        compile=None,
        workers=default_workers(),
    )
