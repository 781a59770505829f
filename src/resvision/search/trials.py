"""Trials: networks trained alike but for one thing, each judged on a part of the pictures that it has not seen."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resvision import zoo
from resvision.data.loader import EvaluationBatches, TrainingBatches
from resvision.data.pictures import ArrayPictures, Indices, Split
from resvision.data.readable import BadPictures
from resvision.evaluation.metrics import log_softmax, negative_log_likelihood
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.runtime import TorchSession, device
from resvision.search.pool import FOLDS, evenly, folds
from resvision.training import losses
from resvision.training.steps import train_steps

POINTS = 8  # looks along a training that is watched
TRAIN_LOOKED_AT = 600  # training pictures, not augmented, on which the gap is measured

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing that is done otherwise.

    Args:
        name: what tables call it.
        fields: of the recipe, in place of the baseline's.
        length: steps, as a part of the baseline's.
        part: of the training pictures, the same of each class.
        without: pictures of the pool that do not train.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    length: float = 1.0
    part: float = 1.0
    without: tuple[int, ...] = ()


BASELINE = Arm(name="baseline")


class Trials:
    """Pictures in memory, divided into folds, and how every arm is trained and judged on them.

    Args:
        pool: squares in memory, of which FOLDS - 1 parts train and one judges.
        groups: (N,) equal for copies, which stay in one part.
        recipe: of the baseline, with everything decided.
        preprocess: of all.
        classes: how many.
    """

    def __init__(self, pool: Split, groups: Indices, recipe: Recipe, preprocess: Preprocess, classes: int) -> None:
        self.pool = pool
        self.groups = groups
        self.recipe = recipe
        self.preprocess = preprocess
        self.classes = classes

    def judging(self, seed: int) -> Indices:
        """The pictures that judge: of FOLDS seeds each another part, of the next ones parts that are divided anew."""
        turn, part = divmod(seed, FOLDS)
        return np.flatnonzero(folds(self.pool.labels, self.groups, turn=turn) == part)

    def judge(self, arm: Arm, seed: int, *, watched: bool = False, further: Split | None = None) -> dict[str, Any]:
        """Trains an arm on all pictures but those that judge, and judges it on these.

        Args:
            arm: what is done otherwise.
            seed: of the training, and which pictures judge.
            watched: also look at it along the training, and keep the probabilities of the moment with the least loss.
            further: other pictures in memory, whose probabilities are wanted, too.

        Returns:
            For the ledger: accuracy, loss (nats) and right or wrong by picture that judges; accuracy and loss on
            training pictures, not augmented; the predicted classes; whether the loss became infinite or NaN; seconds;
            and what was watched.
        """
        begin = now()
        judging = self.judging(seed)
        train = self.trained_on(arm, np.setdiff1d(np.arange(len(self.pool)), judging), seed)
        held = self.pool.take(judging)
        looked = EvaluationBatches(self._looked_at(train), self.preprocess, 0)
        judged = EvaluationBatches(held, self.preprocess, 0)
        steps = max(1, round(arm.length * (self.recipe.steps or 1)))
        at = {round(steps * (point + 1) / POINTS) for point in range(POINTS)} if watched else {steps}
        points, best = [], math.inf
        kept: dict[str, Any] = {}
        weights: dict[str, torch.Tensor] = {}
        for step, network in self._train(arm, train, seed, steps):
            if step not in at:
                continue
            log_p = self._log_probabilities(network, judged)
            seen = loss_and_accuracy(self._log_probabilities(network, looked), looked.split.labels)
            found = loss_and_accuracy(log_p, held.labels)
            points.append({"step": step, "train_loss": seen[0], "train_accuracy": seen[1], "loss": found[0]})
            points[-1]["accuracy"] = found[1]
            predicted = log_p.argmax(axis=1)
            if watched and found[0] < best:
                best, kept = found[0], {"log_p": _packed(log_p)}
                if further is not None:
                    weights = {key: value.clone() for key, value in network.state_dict().items()}
        diverged = not points or points[-1]["step"] < steps
        if diverged:  # what is left of the course gets what guessing gets
            blind = math.log(self.classes), 1 / self.classes
            reached = points[-1]["step"] if points else 0
            points += [
                {
                    "step": step,
                    "train_loss": blind[0],
                    "train_accuracy": blind[1],
                    "loss": blind[0],
                    "accuracy": blind[1],
                }
                for step in sorted(at)
                if step > reached
            ]
            predicted = np.zeros(len(held), dtype=np.int64)
        if weights:
            assert further is not None
            network.load_state_dict(weights)
            others = EvaluationBatches(further, self.preprocess, 0)
            kept["further_log_p"] = _packed(self._log_probabilities(network, others))
        return {
            **points[-1],
            "trained": len(train),
            "judged": len(held),
            "predicted": predicted.tolist(),
            "right": _bits(predicted == held.labels),
            "points": points,
            "diverged": diverged,
            "seconds": now() - begin,
            **kept,
        }

    def test(self, arm: Arm, split: Split, seed: int) -> dict[str, Any]:
        """Trains an arm on the whole pool, as many times over as in `judge`, and looks at another split once."""
        train = self.trained_on(arm, np.arange(len(self.pool)), seed)
        steps = max(1, round(arm.length * (self.recipe.steps or 1) * FOLDS / (FOLDS - 1)))
        for _, network in self._train(arm, train, seed, steps):
            last = network
        batches = EvaluationBatches(split, self.preprocess, 0)
        looked = EvaluationBatches(self._looked_at(train), self.preprocess, 0)
        log_p = self._log_probabilities(last, batches)
        predicted = log_p.argmax(axis=1)
        seen = loss_and_accuracy(self._log_probabilities(last, looked), looked.split.labels)
        found = loss_and_accuracy(log_p, split.labels)
        return {
            "loss": found[0],
            "accuracy": found[1],
            "train_loss": seen[0],
            "train_accuracy": seen[1],
            "right": _bits(predicted == split.labels),
        }

    def trained_on(self, arm: Arm, indices: Indices, seed: int) -> Split:
        """The pictures of `indices` that train an arm."""
        if arm.without:
            indices = indices[~np.isin(indices, arm.without)]
        if arm.part == 1:
            return self.pool.take(indices)
        chosen = []
        random = np.random.default_rng(seed)
        for label in np.unique(self.pool.labels[indices]):
            members = random.permutation(indices[self.pool.labels[indices] == label])
            chosen.append(members[: max(1, round(arm.part * len(members)))])
        return self.pool.take(np.sort(np.concatenate(chosen)))

    def _train(self, arm: Arm, train: Split, seed: int, steps: int) -> Any:
        recipe = replace(self.recipe, **{**arm.fields, "seed": seed, "steps": steps})
        recipe = replace(recipe, batch_size=min(recipe.batch_size, len(train)))
        spec = replace(
            zoo.variant(recipe.model, recipe.spec), num_classes=self.classes, in_channels=self.preprocess.channels
        )
        torch.manual_seed(seed)
        network = ResNet(spec).to(device())
        assert isinstance(train.pictures, ArrayPictures)
        side = train.pictures.array.shape[1]
        batches = TrainingBatches(train, recipe, self.preprocess, BadPictures(limit=0), side, where=device())
        counts = np.bincount(train.labels, minlength=self.classes).clip(1)
        return train_steps(network, batches, recipe, losses.build(recipe, counts.tolist()), self.preprocess)

    def _looked_at(self, train: Split) -> Split:
        """A part of the training pictures, with the proportions of the classes that the judging pictures have."""
        return train.take(evenly(train.labels, TRAIN_LOOKED_AT))

    def _log_probabilities(self, network: ResNet, batches: EvaluationBatches) -> FloatArray:
        assert self.recipe.precision is not None
        return log_probabilities(TorchSession(network, self.preprocess, self.recipe.precision), batches)


def log_probabilities(session: TorchSession, batches: EvaluationBatches) -> FloatArray:
    """(N, K), in the order of the split."""
    return log_softmax(np.concatenate([session(batch.squares) for batch in batches]))


def loss_and_accuracy(log_p: FloatArray, labels: Indices) -> tuple[float, float]:
    """Mean loss in nats, and accuracy; a network that diverged gets what guessing gets."""
    if not np.isfinite(log_p).all():
        return math.log(log_p.shape[1]), 1 / log_p.shape[1]
    return negative_log_likelihood(log_p, labels), float((log_p.argmax(axis=1) == labels).mean())


def _packed(values: FloatArray) -> str:
    """Log-probabilities as text for a line of the ledger, in half precision.

    Which tells 0.99999 from 1 by their logarithms, where it would round both probabilities to 1.
    """
    least = float(np.finfo(np.float16).min)
    kept = np.nan_to_num(values, nan=least, neginf=least).clip(least, 0)
    return base64.b64encode(kept.astype(np.float16).tobytes()).decode()


def unpacked(text: str, *shape: int) -> FloatArray:
    """The probabilities whose logarithms `_packed` packed."""
    return np.exp(np.frombuffer(base64.b64decode(text), dtype=np.float16).astype(np.float64)).reshape(shape)


def _bits(values: npt.NDArray[np.bool_]) -> str:
    return "".join("1" if value else "0" for value in values.tolist())


def bits(text: str) -> FloatArray:
    """Zeros and ones as numbers."""
    return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.float64) - ord("0")
