"""What all studies share: how large they are, the pictures, and how every network is trained on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from resvision import zoo
from resvision.data.loader import EvaluationBatches, TrainingBatches
from resvision.data.pictures import DataSet, balanced
from resvision.data.readable import screen
from resvision.data.reading import Batch
from resvision.data.sources import prepare
from resvision.data.statistics import facts, normalised
from resvision.errors import DivergedError, RecipeError
from resvision.evaluation import evaluate
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import SMALL_PICTURE, Precision, Recipe
from resvision.runtime import TorchSession, device
from resvision.spec import ResNetSpec
from resvision.training import engine as engines
from resvision.training.losses import cross_entropy
from resvision.training.steps import train_steps

HELD_PICTURES = 1000  # of the test split, and of the training split without augmentation, for each measurement
LEARNT = 0.9  # of the loss or error of guessing: a network above it is not said to have learnt


@dataclass(frozen=True, kw_only=True)
class Options:
    """How large an experiment is.

    Args:
        depths: layers of the networks.
        seeds: how often each network is trained, with seeds 0, 1, ...
        pictures: at most so many of the training split, the same part of each class.
        size: height and width in pixels; None takes the pictures' own, at most 32.
        steps: optimiser steps of each training.
        batch_size: pictures a step.
        lr: peak learning rate of SGD with a cosine schedule.
    """

    depths: tuple[int, ...]
    seeds: int
    pictures: int
    size: int | None
    steps: int
    batch_size: int = 64
    lr: float = 0.1

    def __post_init__(self) -> None:
        for field in ("seeds", "pictures", "size", "steps", "batch_size"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise RecipeError(f"{field}={value} must be at least 1")
        if not self.depths:
            raise RecipeError("depths: give at least one, such as 8,20,56")
        for depth in self.depths:
            zoo.get(f"plain{depth}_cifar")  # raises where there is no such depth


class Bench:
    """The pictures of a study in memory, and how every network is trained on them.

    Args:
        dataset: divided into training and test part here where it comes without.
        options: of the study.
    """

    def __init__(self, dataset: DataSet, options: Options) -> None:
        self.options = options
        dataset = prepare(dataset)
        found = facts(dataset)
        self.name, self.classes = dataset.name, dataset.classes
        size = options.size or min(found.side, 32)
        train, self.bad, self.largest = screen(dataset.splits["train"], 0.01)
        self.train_split = balanced(train, options.pictures)
        held = dataset.splits.get("test", dataset.splits.get("val"))
        assert held is not None  # prepare() sees to it
        self.preprocess = normalised(self.train_split, Preprocess.plain(size, found.channels))
        self.recipe = Recipe(
            model="resnet20_cifar",
            size=size,
            channels=found.channels,
            batch_size=min(options.batch_size, len(self.train_split)),
            lr=options.lr,
            warmup=0.1,
            shift=size // 16 if size <= SMALL_PICTURE else 0,
            flip=found.flip,
            steps=options.steps,
            precision="fp32",
            channels_last=True,
            cuda_graph=False,
            compile=False,
            memory="full",
            workers=0,
        )
        self.train_part = EvaluationBatches(balanced(self.train_split, HELD_PICTURES), self.preprocess, 0)
        self.test_part = EvaluationBatches(balanced(held, HELD_PICTURES), self.preprocess, 0)

    def fastest_precision(self) -> Precision:
        """The precision of training that is fastest on this machine, by a few steps of each."""
        network = self.network(self.spec(self.recipe.model), seed=0)
        undecided = replace(self.recipe, precision=None)
        chosen, _ = engines.choose(network, undecided, cross_entropy(), self.preprocess, lambda seconds: 0.0)
        assert chosen.precision is not None
        return chosen.precision

    @property
    def epochs(self) -> float:
        """How often each training picture is presented."""
        return self.options.steps * self.recipe.batch_size / len(self.train_split)

    def spec(self, name: str, **fields: Any) -> ResNetSpec:
        """A network of the zoo for these pictures, with some fields changed."""
        assert self.recipe.channels is not None
        return replace(zoo.get(name), num_classes=len(self.classes), in_channels=self.recipe.channels, **fields)

    def network(self, spec: ResNetSpec, seed: int) -> ResNet:
        """A new network; the same seed gives networks with the same weights' names and shapes the same weights."""
        torch.manual_seed(seed)
        return ResNet(spec).to(device())

    def train(self, network: ResNet, seed: int, *, lr: float | None = None) -> Iterator[int]:
        """Trains and yields the number of steps done, after each; the caller may look at the network in between.

        It ends early where the loss is no longer finite.
        """
        recipe = replace(self.recipe, seed=seed, lr=lr or self.recipe.lr)
        batches = TrainingBatches(self.train_split, recipe, self.preprocess, self.bad, self.largest, where=device())
        for step, _ in train_steps(network, batches, recipe, cross_entropy(), self.preprocess):
            yield step

    def finish(self, network: ResNet, seed: int) -> dict[str, Any]:
        """Trains to the end: the `steps` done, whether it `diverged`, and unless it did what `measure` gives."""
        steps = 0
        for step in self.train(network, seed):
            steps = step
        if steps == self.options.steps:
            with contextlib.suppress(DivergedError):
                return {"steps": steps, "diverged": False, **self.measure(network)}
        return {"steps": steps, "diverged": True}

    def measure(self, network: ResNet) -> dict[str, float]:
        """Loss (nats) and error (0..1) on a part of the training pictures, not augmented, and on the test part.

        Raises:
            DivergedError: a logit is not finite.
        """
        session = TorchSession(network, self.preprocess)
        found: dict[str, float] = {}
        for name, part in (("train", self.train_part), ("test", self.test_part)):
            evaluation = evaluate(session, part, self.classes)
            found |= {f"{name}_loss": evaluation.nll, f"{name}_error": 1 - evaluation.accuracy}
        return found

    def batch(self, count: int) -> Batch:
        """At most `count` pictures of the test part, in turn one of each class, always the same."""
        part = balanced(self.test_part.split, count)
        [batch] = EvaluationBatches(part, self.preprocess, 0, batch_size=count)
        return Batch(batch.squares.to(device()), batch.labels.to(device()))


def apart(higher: dict[str, Any], lower: dict[str, Any]) -> bool:
    """Whether every value of one is above every value of the other: a difference beyond the seeds' spread.

    Of one value each nothing is known of the spread, and the answer is no.
    """
    return len(higher["values"]) > 1 and bool(min(higher["values"]) > max(lower["values"]))


def seeds_said(seeds: int) -> str:
    """How often something was repeated, in words."""
    return "with one seed" if seeds == 1 else f"each with {seeds} seeds"


def diverged(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The last step of each training that diverged."""
    return [row["steps"] for row in rows if row["diverged"]]


def diverged_said(steps: Sequence[int], seeds: int) -> str:
    """How many of the trainings diverged, and where, in words."""
    return f"{len(steps)} of {seeds} trainings diverged (last step {', '.join(map(str, steps))})"
