"""Findings: each cause of overfitting from its figures, with a verdict, what is at stake, and words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resvision.recipes import IMBALANCE as IMBALANCED
from resvision.search import remedies
from resvision.search.compare import Difference
from resvision.search.curve import PowerLaw
from resvision.search.noise import Noise

Found = Literal["yes", "unclear", "no"]
IntArray = npt.NDArray[np.int64]

GAP = 0.05  # of accuracy, from which on a network is said to overfit
LEAKED = 0.005  # part of the untouched pictures; fewer hardly move its accuracy
REDUNDANT = 0.05  # part of the training pictures that are copies of others
WRONG = 0.03  # part of wrong labels that must be sure before labels are accused
WEAK = 0.35  # surer half's disagreement from which on the networks are too weak to judge labels
SURE, LIKELY = 0.9, 0.75  # probabilities from which on a difference is claimed, and is called likely
GAIN = 0.02  # of accuracy from twice the pictures, from which on they are too few
AS_WELL = 0.005  # of accuracy by which a shallower network may be worse and still does "as well"
CLOSED = 0.25  # part of the gap that stronger augmentation must close
WHOLE = 0.95  # part of the epochs that are asked for, from which on a trial is as long as a run
LATE = 0.8  # the best moment must come before this part of the training ...
RISE = 0.05  # ... and the loss must rise behind it by this part
RECALL = 0.05  # by which rare classes are recognised less often


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A cause, and whether it is one here.

    Args:
        cause: one word, as in `remedies`.
        found: whether it is there.
        points: what is at stake, in percentage points of accuracy or per cent of the pictures; orders the causes.
        says: one sentence with the evidence.
    """

    cause: str
    found: Found
    points: float
    says: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def gap(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and loss on training pictures, not augmented, and on held-out ones: means over the trials."""

    def mean(key: str) -> float:
        return statistics.fmean(trial[key] for trial in trials)

    gaps = [trial["train_accuracy"] - trial["accuracy"] for trial in trials]
    return {
        "train_accuracy": mean("train_accuracy"),
        "held_accuracy": mean("accuracy"),
        "train_loss": mean("train_loss"),
        "held_loss": mean("loss"),
        "gap": statistics.fmean(gaps),
        "gap_sd": statistics.stdev(gaps) if len(gaps) > 1 else 0.0,
        "loss_gap": mean("loss") - mean("train_loss"),
    }


def say_gap(found: dict[str, Any]) -> str:
    """The gap in words."""
    verdict = "It overfits" if found["gap"] >= GAP else "It hardly overfits"
    return (
        f"{verdict}: {found['train_accuracy']:.1%} on training pictures (not augmented), {found['held_accuracy']:.1%} "
        f"on held-out ones, a gap of {100 * found['gap']:.1f} points (sd {100 * found['gap_sd']:.1f}); the losses are "
        f"{found['train_loss']:.3f} and {found['held_loss']:.3f}."
    )


def copies(found: dict[str, Any], report: str) -> Finding:
    """Leakage and duplicates.

    Args:
        found: as the audit records it.
        report: the name of the untouched split.
    """
    leaked, redundant = found["leaked_part"], found["redundant_part"]
    reported, trained = f"{found['pictures'][report]:,} {report} pictures", f"{found['pictures']['train']:,}"
    if found["complete"]:
        parts = [
            f"{found['leaked']:,} of {reported} ({leaked:.1%}) have a copy in train",
            f"{found['redundant']:,} training pictures ({redundant:.1%}) are copies of other training pictures",
        ]
    else:
        parts = [
            f"{found['leaked']:,} of {reported} that were looked at have a copy among {trained} training pictures, so "
            f"about {leaked:.1%} in all of train",
            f"{found['redundant']:,} of {trained} training pictures are copies of others, of all about {redundant:.1%}",
        ]
    parts[0] += f", {found['leaked_exact']:,} of them byte for byte"
    for name, (copied, looked_at) in found["beside"].items():
        if copied:
            who = f"{copied:,} of {looked_at:,} {name} pictures, which may choose the epoch,"
            parts.append(f"{who} have a copy in train")
    if found["contradictions"]:
        parts.append(f"groups of copies with different labels: {found['contradictions']:,}")
    beside = max((copied / looked_at for copied, looked_at in found["beside"].values()), default=0.0)
    serious = leaked >= LEAKED or redundant >= REDUNDANT or beside >= LEAKED
    some = found["leaked"] or found["redundant"]
    return Finding(
        cause=remedies.COPIES,
        found="yes" if serious else "unclear" if some and leaked >= LEAKED / 2 else "no",
        points=100 * max(leaked, redundant if redundant >= REDUNDANT else 0.0),
        says=f"Copies: {'; '.join(parts)}.",
    )


def labels(noise: Noise, examined: int) -> Finding:
    """Wrong labels."""
    low, high = noise.interval
    if noise.half > WEAK:
        return Finding(
            cause=remedies.LABELS,
            found="unclear",
            points=0.0,
            says=(
                f"Labels: the networks are too weak to judge them; even in the surer half of {examined:,} pictures "
                f"{noise.half:.0%} of the predictions differ from the label."
            ),
        )
    certain = low >= WRONG and noise.rate >= noise.half / 2
    says = (
        f"of the {noise.surest:,} pictures of which networks that had not seen them are surest, {noise.differ:.1%} "
        f"have another label (95% interval {low:.1%} to {high:.1%}); the confident joint of all {examined:,}, which "
        f"also counts mistakes of the networks, says {noise.joint_rate:.1%}."
    )
    return Finding(
        cause=remedies.LABELS,
        found="yes" if certain else "unclear" if low >= WRONG else "no",
        points=100 * noise.rate if certain else 0.0,
        says=f"Labels: about {noise.rate:.0%} seem wrong: {says}" if certain else f"Labels: not accused: {says}",
    )


def few(law: PowerLaw | None, pictures: int, tried: int) -> Finding:
    """Too little data.

    Args:
        law: the learning curve; None if there was no time for it.
        pictures: that train in a whole run.
        tried: with which the curve ends.
    """
    if law is None:
        return untried(remedies.FEW, "Data: there was no time for a learning curve.")
    gain, low, high = law.gain(pictures)
    extrapolated = f", extrapolated from {tried:,}" if pictures > 1.5 * tried else ""
    found: Found = "no" if gain < GAIN else "yes" if low >= GAIN / 2 else "unclear"
    word = {"yes": "too few", "unclear": "perhaps too few", "no": "enough"}[found]
    return Finding(
        cause=remedies.FEW,
        found=found,
        points=100 * gain,
        says=(
            f"Data: {word}; with twice the {pictures:,} training pictures held-out accuracy would rise by "
            f"{100 * gain:.1f} points (95% interval {100 * low:.1f} to {100 * high:.1f}){extrapolated} (error falls as "
            f"n^-{law.exponent:.2f})."
        ),
    )


def augmentation(name: str, before: float, after: float, difference: Difference | None) -> Finding:
    """Weak augmentation: whether the gap closes with a stronger one at an equal budget.

    Args:
        name: of the stronger one.
        before: the gap without it.
        after: with it.
        difference: of the held-out accuracy; None if it was not tried.
    """
    if difference is None:
        return untried(remedies.AUGMENTATION, "Augmentation: nothing stronger was tried.")
    closed = (before - after) / before if before > 0 else 0.0
    better = difference.sure >= SURE and difference.mean > 0
    found: Found = "yes" if better and closed >= CLOSED else "unclear" if difference.sure >= LIKELY else "no"
    return Finding(
        cause=remedies.AUGMENTATION,
        found=found,
        points=100 * max(0.0, difference.mean),
        says=(
            f"Augmentation: with {name} at an equal budget the gap goes from {100 * before:.1f} to {100 * after:.1f} "
            f"points and held-out accuracy changes by {_points(difference)}."
        ),
    )


def depth(model: str, shallower: str | None, overfits: bool, difference: Difference | None) -> Finding:
    """Too deep: whether a shallower network does as well or better at an equal budget."""
    if difference is None:
        why = "no shallower network of its family is known" if shallower is None else "none was tried"
        return untried(remedies.DEPTH, f"Depth: {why}.")
    better = difference.mean > 0 and difference.sure >= SURE
    as_well = difference.mean >= -AS_WELL and overfits
    said = "does better" if better else "does as well" if difference.mean >= -AS_WELL else "does worse"
    return Finding(
        cause=remedies.DEPTH,
        found="yes" if better else "unclear" if as_well else "no",
        points=100 * max(0.0, difference.mean),
        says=f"Depth: {shallower} in place of {model} {said} held out: {_points(difference)}.",
    )


def turning(trials: Sequence[list[dict[str, float]]]) -> dict[str, Any]:
    """Where the held-out loss turns up.

    Args:
        trials: for each the points along its training: step, train_loss, loss, accuracy.

    Returns:
        best: the part of the training at which the mean held-out loss is least; rise: by how much it is higher at the
        end; every: whether it rose in every trial; falls: whether the training loss went on falling; lost: the mean
        accuracy at its best less that at the end.
    """
    losses = np.array([[point["loss"] for point in points] for points in trials])
    train = np.array([[point["train_loss"] for point in points] for points in trials])
    accuracy = np.array([[point["accuracy"] for point in points] for points in trials]).mean(axis=0)
    best = int(losses.mean(axis=0).argmin())
    rises = losses[:, -1] - losses[:, best]
    return {
        "best": trials[0][best]["step"] / trials[0][-1]["step"],
        "loss": float(losses.mean(axis=0)[best]),
        "rise": float(rises.mean()),
        "every": bool((rises > 0).all()),
        "falls": bool((train[:, -1] < train[:, best]).all()),
        "lost": float(accuracy.max() - accuracy[-1]),
    }


def length(found: dict[str, Any], shorter: Difference | None, epochs: float, asked: float) -> Finding:
    """Too long: the held-out loss turns up while the training loss falls.

    Args:
        found: by `turning`.
        shorter: held-out accuracy of a training of half the length, if that was tried.
        epochs: of a trial.
        asked: epochs of a whole run, which trials may be shorter than; what happens behind their end nobody has seen.
    """
    cut = "" if epochs >= WHOLE * asked else f", in trials of {epochs:.1f} of {asked:.1f} epochs"
    turns = found["every"] and found["falls"] and found["best"] <= LATE and found["rise"] >= RISE * found["loss"]
    tried = "" if shorter is None else f"; half the length changes held-out accuracy by {_points(shorter)}"
    said = (
        f"held-out loss is least after {found['best']:.0%} of the training and rises by {found['rise']:.3f} to its "
        f"end, while training loss falls; accuracy at its best is {100 * found['lost']:.1f} points above its end"
        if turns
        else f"held-out loss does not turn up (least after {found['best']:.0%} of the training{cut})"
    )
    gain = max(found["lost"], shorter.mean if shorter is not None else 0.0)
    return Finding(
        cause=remedies.LENGTH,
        found="yes" if turns else "unclear" if cut else "no",
        points=100 * max(0.0, gain) if turns else 0.0,
        says=f"Length: {said}{tried}.",
    )


def imbalance(counts: Sequence[int], truth: IntArray, predicted: IntArray, classes: Sequence[str]) -> Finding:
    """Imbalance: rare classes are recognised less often than frequent ones.

    Args:
        counts: training pictures of each class.
        truth: labels of the judged pictures.
        predicted: for them.
        classes: names.
    """
    numbers = np.array(counts)
    ratio = numbers.max() / max(1, numbers.min())
    rarest = classes[int(numbers.argmin())]
    sizes = f"the classes have {numbers.min():,} ({rarest}) to {numbers.max():,} training pictures"
    if ratio < IMBALANCED:
        return Finding(cause=remedies.IMBALANCE, found="no", points=0.0, says=f"Balance: {sizes}.")
    rare = np.flatnonzero(numbers * IMBALANCED <= numbers.max())
    recalls, errors = [], []
    for members in (np.isin(truth, rare), ~np.isin(truth, rare)):
        right = predicted[members] == truth[members]
        recalls.append(float(right.mean()))
        errors.append(float(right.var() / len(right)))
    missing = recalls[1] - recalls[0]
    certain = missing >= RECALL and missing >= 2 * np.sqrt(sum(errors))
    return Finding(
        cause=remedies.IMBALANCE,
        found="yes" if certain else "unclear" if missing >= RECALL else "no",
        points=100 * max(0.0, missing) if certain else 0.0,
        says=(
            f"Balance: {sizes}; the {len(rare)} rare ones are recognised in {recalls[0]:.1%} of the cases, the others "
            f"in {recalls[1]:.1%}."
        ),
    )


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """What was found first, and what has the most at stake."""
    order = {"yes": 0, "unclear": 1, "no": 2}
    return sorted(found, key=lambda finding: (order[finding.found], -finding.points))


def untried(cause: str, says: str) -> Finding:
    """A cause of which no trial tells anything."""
    return Finding(cause=cause, found="unclear", points=0.0, says=says)


def _points(difference: Difference) -> str:
    return (
        f"{100 * difference.mean:+.1f} points (standard error {100 * difference.error:.1f}, better with a probability "
        f"of {difference.sure:.0%})"
    )
