"""Wrong labels, by confident learning from predictions of networks that have not seen the pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resvision.evaluation.metrics import wilson_interval

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

SUREST = 0.1  # part of the pictures: those of which the predictions are the surest ...
LEAST_SUREST = 60  # ... but so many at least, or chance would decide


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the predictions say of the labels.

    Args:
        joint: (K, K) estimated parts of all pictures; rows are the labels given, columns the classes they belong to.
        joint_rate: part of the labels that this confident joint takes for wrong, the network's own mistakes among them.
        surest: how many pictures the surest predictions are.
        differ: part of those whose label is another.
        interval: 95% interval of that part.
        rate: that part, and no more than `joint_rate`: what is claimed.
        half: part of the surer half of all pictures whose label is another.
        suspects: indices of the pictures whose labels are most surely wrong, the surest first: as many as `rate` says.
        seems: of each suspect: the class that it seems to belong to.
        margins: of each suspect: how much more probable that class is than the label, 0..1.
    """

    joint: FloatArray
    joint_rate: float
    surest: int
    differ: float
    interval: tuple[float, float]
    rate: float
    half: float
    suspects: IntArray
    seems: IntArray
    margins: FloatArray


def estimate(probabilities: FloatArray, labels: IntArray) -> Noise:
    """Finds wrong labels by confident learning (Northcutt et al. 2021, sections 3.1 and 3.2).

    A picture counts for class j if its probability of j is at least the mean probability of j among the pictures that
    are labelled j; where several are, for the most probable. The counts, scaled to the labels' own numbers, estimate
    the joint distribution of given and true labels; the off-diagonal pictures are suspects.

    Its rate is right as far as the network is: a weak one's mistakes look like wrong labels. They do not where the
    network is surest, and labels that are wrong whatever the picture shows are as many there as everywhere. So what is
    claimed is the disagreement among the surest predictions, and so many suspects are named (pruned by noise rate, as
    in section 3.2, with that rate).

    Args:
        probabilities: (N, K) of networks that were not trained on these pictures.
        labels: (N,) as given.
    """
    count, classes = probabilities.shape
    given = np.bincount(labels, minlength=classes)
    own = probabilities[np.arange(count), labels]
    thresholds = np.bincount(labels, weights=own, minlength=classes) / np.maximum(given, 1)
    thresholds[given == 0] = np.inf
    eligible = np.where(probabilities >= thresholds, probabilities, -1.0)
    seems = eligible.argmax(axis=1)
    counted = eligible.max(axis=1) >= 0
    joint = np.zeros((classes, classes))
    np.add.at(joint, (labels[counted], seems[counted]), 1)
    rows = joint.sum(axis=1, keepdims=True)
    # A class of which nothing is confident is taken to be labelled rightly.
    shares = np.where(rows > 0, joint / np.maximum(rows, 1), np.eye(classes))
    joint = shares * given[:, None] / count
    joint_rate = max(0.0, float(1 - np.trace(joint)))

    # Equals in an order that tells nothing: as they come, the first classes of a folder would be taken for the surest.
    shuffled = np.random.default_rng(0).permutation(count)
    surer = shuffled[np.argsort(-probabilities.max(axis=1)[shuffled], kind="stable")]
    sure = surer[: max(LEAST_SUREST, round(SUREST * count))]
    other = probabilities.argmax(axis=1) != labels
    wrong = int(other[sure].sum())
    rate = min(joint_rate, wrong / len(sure))

    margins = probabilities[np.arange(count), seems] - own
    suspects = np.flatnonzero(counted & (seems != labels))
    suspects = suspects[np.argsort(-margins[suspects], kind="stable")][: round(rate * count)]
    return Noise(
        joint=joint,
        joint_rate=joint_rate,
        surest=len(sure),
        differ=wrong / len(sure),
        interval=wilson_interval(wrong, len(sure)),
        rate=rate,
        half=float(other[surer[: max(1, count // 2)]].mean()),
        suspects=suspects,
        seems=seems[suspects],
        margins=margins[suspects],
    )
