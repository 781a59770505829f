"""Proxies: short trainings of candidates that run to their end, schedule included, on one pool in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from resvision.data.loader import EvaluationBatches, TrainingBatches
from resvision.data.pictures import ArrayPictures, Split
from resvision.data.readable import BadPictures
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Precision, Recipe
from resvision.recipes import for_batch
from resvision.runtime import TorchSession, device
from resvision.search import plan
from resvision.search.candidates import Candidate
from resvision.search.pool import evenly
from resvision.search.trials import log_probabilities, loss_and_accuracy
from resvision.training import losses
from resvision.training.steps import train_steps

LEAST_STEPS, LEAST_BATCH = 40, 32  # short trainings take smaller batches, down to this, rather than fewer steps
LEAST_PICTURES = 10 * LEAST_BATCH  # presentations; shorter trainings tell nothing
LEAST_JUDGED = 300  # pictures; else as many as train, so that judging takes a third of the time at most


class Proxies:
    """The pool, and how candidates are trained and judged on it.

    Args:
        fitted: squares in memory that train.
        held: squares in memory that judge.
        precision: of the training.
        classes: of the set.
        preprocess: of any of the candidates; the values that normalise are shared by all.
    """

    def __init__(self, fitted: Split, held: Split, precision: Precision, classes: int, preprocess: Preprocess) -> None:
        self.fitted = fitted
        self.held = held
        self.precision: Precision = precision
        self.classes = classes
        self.preprocess = preprocess

    def train(self, candidate: Candidate, recipe: Recipe, pictures: float, seed: int) -> dict[str, Any]:
        """Trains a candidate with about so many presentations of pictures, and judges it.

        Args:
            candidate: that is trained.
            recipe: of the full training.
            pictures: presentations.
            seed: of the weights, the order and the augmentation.

        Returns:
            For the ledger: accuracy, loss (nats), how many pictures judged, presentations, steps, and seconds.
        """
        begin = now()
        preprocess = replace(self.preprocess, size=candidate.size, crop=recipe.crop)
        most = min(recipe.batch_size, len(self.fitted))
        batch = min(most, max(LEAST_BATCH, int(pictures / LEAST_STEPS)))
        steps = max(1, round(pictures / batch))
        short = for_batch(plan.proxy(recipe, candidate.model, candidate.size, candidate.spec), batch)
        short = replace(short, precision=self.precision, steps=steps, seed=seed)
        assert isinstance(self.fitted.pictures, ArrayPictures)
        side = self.fitted.pictures.array.shape[1]
        batches = TrainingBatches(self.fitted, short, preprocess, BadPictures(limit=0), side, where=device())
        counts = np.bincount(self.fitted.labels, minlength=self.classes).clip(1)
        torch.manual_seed(seed)
        network = ResNet(candidate.network(self.classes, preprocess.channels)).to(device())
        for _, trained in train_steps(network, batches, short, losses.build(short, counts.tolist()), preprocess):
            last = trained
        held = self.held.take(evenly(self.held.labels, max(LEAST_JUDGED, round(pictures)), 1))
        session = TorchSession(last, preprocess, self.precision)
        loss, accuracy = loss_and_accuracy(
            log_probabilities(session, EvaluationBatches(held, preprocess, 0)), held.labels
        )
        return {
            "accuracy": accuracy,
            "loss": loss,
            "judged": len(held),
            "pictures": steps * batches.batch_size,
            "steps": steps,
            "seed": seed,
            "seconds": now() - begin,
        }
