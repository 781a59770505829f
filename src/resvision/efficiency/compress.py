"""Compress: a trained network made several times cheaper, rung by rung, each judged by its time and paired accuracy.

The first rungs leave the network as it is and change what runs it: other runtimes, which fold the norms into the
convolutions, and 8-bit integers. The next ones take out blocks and channels and teach what is left by the original.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from resvision import exporting, recipes
from resvision.classifier import Classifier
from resvision.data.images import blank, to_input
from resvision.data.loader import BadPictures, EvaluationBatches, TrainingBatches, default_workers, screen
from resvision.data.pictures import Split, divide
from resvision.deployed import FOLDER, open_file, register
from resvision.efficiency import prune, rounding
from resvision.errors import InputError, MissingExtraError, SpecError
from resvision.evaluation.evaluate import collect
from resvision.evaluation.exits import temperature
from resvision.files import parse
from resvision.measure import interleaved, median, now
from resvision.models import ResNet
from resvision.recipe import Recipe, make
from resvision.runtime import Session, TorchSession, device
from resvision.target import Target
from resvision.training import engine as engines
from resvision.training import losses, memory
from resvision.training.bench import Ledger, Note, balanced
from resvision.training.bench import train as train_steps

WAYS = (
    Target(format="openvino", precision="int8"),
    Target(format="openvino", precision="bf16"),
    Target(format="openvino"),
    Target(format="onnx", precision="int8"),
    Target(format="onnx"),
)
ONE_SIDED_95 = 1.64  # standard errors: a drop that is allowed looks larger than this in one of twenty samples
MOST = 1000  # times as fast: more would be a mistake
MOST_AT_ONCE = 2.0  # times cheaper in one rung; what is left must still be able to learn it again
MARGIN = 1.05  # cheaper than is asked for, since a network's time in 8 bits is not quite in proportion to that in float
LOOKED_AT = 256  # training pictures by which damage, gradients and norm statistics are measured
GRADIENT_BATCH, GRADIENT_BATCHES = 32, 2
BISECTIONS = 5
ROUNDS = 40  # of a timing, which ends earlier after so many seconds
ROUND_SECONDS, RACE_SECONDS = 20.0, 3.0
DISTILLED = 0.8  # the part of the loss that is the distance to the original
PROBE_STEPS, PROBE_WARMUP = 6, 2
SMALLER_RATE = 0.5  # of the learning rate, for a network that lost a part of itself
ROUNDED_RATE = 0.1  # for one that only has to get used to 8 bits
ROUNDED_PART = 0.25  # of the minutes, as long again, for each network that 8 bits lose too much of

TAUGHT = "taught"  # a folder of smaller networks beside the ledger

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


def run(
    classifier: Classifier, parts: Parts, goal: Goal, exports: Path, ledger: Ledger, note: Note
) -> tuple[Rung, list[Rung], dict[str, Any]]:
    """Climbs the ladder until the goal is reached or a rung breaks the promise, also with half of its cut.

    Args:
        classifier: the original.
        parts: pictures.
        goal: what is wanted.
        exports: an empty folder for them.
        ledger: of what was taught; the networks lie beside it, so that a climb that was stopped goes on with them.
        note: told what happens.

    Returns:
        The best rung, all of them, and the best one's figures on the reported part.
    """
    ladder = _Ladder(classifier, parts, goal, exports, ledger, note)
    best = ladder.climb("as it is", classifier)
    if best.speedup < goal.speedup:
        best = ladder.climb_in_eight_bits(best, "0")
    if best.speedup < goal.speedup:
        try:
            best = _climb_with_smaller(ladder, best)
        except SpecError as reason:
            note(f"the network is left as it is: {reason}")
    return best, ladder.rungs, ladder.report(best)


def _climb_with_smaller(ladder: _Ladder, best: Rung) -> Rung:
    """Rungs with smaller networks; the best of all.

    Raises:
        SpecError: the network cannot be pruned.
    """
    goal = ladder.goal
    prune.check(ladder.classifier.network)
    levels = math.ceil(math.log(goal.speedup * MARGIN / best.speedup, MOST_AT_ONCE) - 1e-9)
    levels = ladder.ledger.once("levels", lambda: levels)
    minutes = goal.minutes / levels
    for level in range(1, levels + 1):
        wanted = (goal.speedup * MARGIN / best.speedup) ** (1 / (levels - level + 1))
        better = _next_rung(ladder, best, f"{level}", wanted, minutes)
        if better is None:
            ladder.note("that will not do: half as far once more")
            better = _next_rung(ladder, best, f"{level} again", math.sqrt(wanted), minutes)
        if better is None:
            ladder.note("nothing of this rung is faster and keeps the promise; the one before it is the best")
            break
        best = better
        if best.speedup >= goal.speedup:
            break
    return best


def _next_rung(ladder: _Ladder, best: Rung, name: str, wanted: float, minutes: float) -> Rung | None:
    """A rung with a network that is `wanted` times cheaper; None if it is no faster or breaks the promise."""
    smaller = ladder.once(name, partial(_smaller, ladder, best, wanted, minutes))
    if smaller is None:
        return None
    found = ladder.climb(prune.said(ladder.classifier.network, smaller.network), smaller)
    found = ladder.climb_in_eight_bits(found, name)
    return found if found.speedup > best.speedup else None


class _Ladder:
    """What is known of the original, and the rungs so far."""

    def __init__(
        self, classifier: Classifier, parts: Parts, goal: Goal, folder: Path, ledger: Ledger, note: Note
    ) -> None:
        self.classifier, self.parts, self.goal, self.folder, self.note = classifier, parts, goal, folder, note
        self.ledger = ledger
        self.batches = EvaluationBatches(parts.tuning, classifier.preprocess, default_workers())
        self.right = _right(*collect(classifier.session, self.batches))
        self.rungs: list[Rung] = []
        self.squares = blank(classifier.preprocess, goal.batch_size)  # whose time counts
        sample, bad = balanced(parts.train, LOOKED_AT), BadPictures(limit=LOOKED_AT)  # which training leaves out, too
        looked_at = EvaluationBatches(sample, classifier.preprocess, 0, bad, GRADIENT_BATCH)
        where = device()
        self.looked_at = [(to_input(b.squares.to(where), classifier.preprocess), b.labels.to(where)) for b in looked_at]

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
            except InputError as reason:
                self.note(f"{target} is left out: {reason}")
        calls = {runtime: self._call(session) for runtime, (session, _, _) in sessions.items()}
        calls["original"] = self._call(self.classifier.session)
        times = {key: median(t) for key, t in interleaved(calls, rounds=ROUNDS, warmup=2, limit=ROUND_SECONDS).items()}
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
        return max((rung for rung in self.rungs if rung.promised), key=lambda rung: rung.speedup)

    def climb_in_eight_bits(self, best: Rung, level: str) -> Rung:
        """Teaches the newest network in 8 bits, if these would be the fastest and lose too much, and measures again."""
        name, newest = self.rungs[-1].network, self.rungs[-1].classifier
        mine = [rung for rung in self.rungs if rung.classifier is newest]
        lost = [rung for rung in mine if rung.target and rung.target.precision == "int8" and not rung.promised]
        in_float_kept = any(rung.promised for rung in mine if rung.target is None)  # or it is not 8 bits that lose
        if not in_float_kept or not any(rung.speedup > best.speedup for rung in lost):
            return best
        teach = partial(_in_eight_bits, self, newest.network, self.goal.minutes * ROUNDED_PART)
        taught = self.once(f"{level} in 8 bits", teach)
        return best if taught is None else self.climb(f"{name}, taught in 8 bits", taught)

    def once(self, name: str, work: Callable[[], ResNet | None]) -> Classifier | None:
        """What `work` makes, now or before the climb was stopped, as a classifier calibrated on the tuning part.

        None if there is nothing, or if it is no use.
        """
        folder = self.ledger.path.parent / TAUGHT / name

        def make() -> bool:
            network = work()
            if network is None:
                return False
            if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
                self.note("the teaching diverged: what came of it is left out")
                return False
            made = replace(self.classifier, network=network)
            made.temperature = temperature(*collect(made.session, self.batches))
            folder.mkdir(parents=True, exist_ok=True)
            made.save(folder)
            return True

        return Classifier.load(folder) if self.ledger.once(f"taught {name}", make) else None

    def _call(self, session: Session) -> Callable[[], object]:
        return partial(session, self.squares)

    def race(self, best: Rung) -> Callable[[ResNet], float]:
        """How many times as fast a network is as the one of a rung, in float32 in that rung's runtime."""

        def session(network: ResNet) -> Session:
            if best.target is None:
                return TorchSession(network, self.classifier.preprocess)
            target = Target(format=best.target.format)
            file = self.folder / "race" / f"model{target.suffix}"
            exporting.convert(replace(self.classifier, network=network), target, file)
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


def save(best: Rung, folder: Path, compressed: dict[str, Any], reported: dict[str, Any]) -> None:
    """Writes a rung as a classifier, with its export under `runtimes`.

    Args:
        best: the rung; its export is copied.
        folder: of the new classifier.
        compressed: what its provenance says of where it comes from.
        reported: its figures on the reported part, as `run` returns them.
    """
    made = replace(
        best.classifier,
        provenance=best.classifier.provenance | {"compressed": compressed},
        metrics={"split": "reported", "accuracy": reported["accuracy"]},
    )
    made.save(folder)
    if best.target is not None:
        assert best.file is not None
        files = exporting.describe(made, best.target, best.file, folder / FOLDER / best.target.name)
        register(folder, best.target, files, reported)


def forget(ledger: Ledger) -> None:
    """Removes what was only kept in case of a stop."""
    shutil.rmtree(ledger.path.parent / TAUGHT, ignore_errors=True)
    ledger.path.unlink(missing_ok=True)


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


def _smaller(ladder: _Ladder, best: Rung, wanted: float, minutes: float) -> ResNet | None:
    """A network that is `wanted` times cheaper than a rung's and was taught; None if there is none."""
    network = _cut(ladder, best, wanted)
    if network is None:
        ladder.note(f"nothing that can be taken out makes the network {wanted:.2f} times cheaper")
        return None
    said = prune.said(ladder.classifier.network, network)
    if network.spec in {rung.classifier.network.spec for rung in ladder.rungs}:
        ladder.note(f"{said}: was taught before")
        return None
    ladder.note(f"{said}: taught by the original for {minutes:.1f} minutes")
    return _taught(network, ladder, 60 * minutes, SMALLER_RATE)


def _in_eight_bits(ladder: _Ladder, network: ResNet, minutes: float) -> ResNet:
    """A copy of a network that was taught while it computed with what 8 bits hold."""
    ladder.note(f"8 bits lose too much: taught by the original with rounded weights for {minutes:.1f} minutes")
    network = copy.deepcopy(network)
    with rounding.rounded(network, ladder.looked_at):
        return _taught(network, ladder, 60 * minutes, ROUNDED_RATE)


def _cut(ladder: _Ladder, best: Rung, wanted: float) -> ResNet | None:
    """A network that is `wanted` times cheaper: without blocks, without channels, or half of each; what hurts least.

    They are compared by their loss with new norm statistics, before they learn anything. None where nothing that can
    be taken out is enough.
    """
    network, cheaper, looked_at = best.classifier.network, ladder.race(best), ladder.looked_at
    half = _without_blocks(network, math.sqrt(wanted), cheaper, looked_at)
    candidates = {"blocks": None if half is None else _without_blocks(half, wanted, cheaper, looked_at)}
    try:
        candidates["channels"] = _without_channels(network, wanted, cheaper, looked_at)
        candidates["both"] = None if half is None else _without_channels(half, wanted, cheaper, looked_at)
    except MissingExtraError as reason:
        ladder.note(f"no channels are taken out: {reason}")
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


def _taught(network: ResNet, ladder: _Ladder, seconds: float, rate: float) -> ResNet:
    """The network after it learned for so long from pictures and from what the original says of them.

    Args:
        network: learns itself.
        ladder: whose original teaches.
        seconds: that this takes.
        rate: the learning rate, as a part of the one that the original was trained with.
    """
    preprocess, train = ladder.classifier.preprocess, ladder.parts.train
    recipe, _ = memory.choose(network.spec, _lesson(ladder.classifier, train, rate), preprocess)
    teacher = copy.deepcopy(ladder.classifier.network).eval().requires_grad_(False)
    counts = np.bincount(train.labels, minlength=len(ladder.classifier.classes))
    loss = losses.distilled(losses.build(recipe, counts.tolist()), teacher, DISTILLED)
    recipe, _ = engines.choose(network, recipe, loss, preprocess, lambda a_picture: seconds / a_picture)
    readable, bad, largest = screen(train, recipe.max_bad)
    batches = TrainingBatches(readable, recipe, preprocess, bad, largest, where=device())
    begin, probe = now(), copy.deepcopy(network)
    times = [now() for _ in train_steps(probe, batches, replace(recipe, steps=PROBE_STEPS), loss, preprocess)]
    # The first ones start the workers and may compile.
    a_step = (times[-1] - times[PROBE_WARMUP]) / (len(times) - 1 - PROBE_WARMUP) if len(times) == PROBE_STEPS else 1.0
    steps = max(1, int((seconds - (now() - begin)) / a_step))
    for _ in train_steps(network, batches, replace(recipe, steps=steps), loss, preprocess):
        pass
    return network.eval()


def _lesson(classifier: Classifier, train: Split, rate: float) -> Recipe:
    """The recipe that the original was trained with, at a part of its rate, or the plain one."""
    recorded = classifier.provenance.get("recipe")
    size = classifier.preprocess.size
    if isinstance(recorded, dict):
        recipe = parse(Recipe, recorded, "provenance.recipe")
    else:
        fields = recipes.plain(size) | {"size": size, "channels": classifier.preprocess.channels, "epochs": 1}
        recipe = make(fields | {"lr": recipes.FINE_TUNING_LR})
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
        lr=recipe.lr * rate,
        rest_lr=recipe.rest_lr * rate,
        warmup=0.05,
        batch_size=min(recipe.batch_size, len(train)),
        accumulate=1,
        memory="auto",
        precision=None,
        channels_last=None,
        compile=None,
        workers=default_workers(),
    )
