"""How large the trials are, so that they are done within the minutes: network, pictures, epochs, seeds, remedies."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from resvision import zoo
from resvision.cost import cost
from resvision.data.loader import TrainingBatches
from resvision.data.pictures import ArrayPictures, Split
from resvision.data.readable import BadPictures
from resvision.errors import DataError, DivergedError, ResvisionError
from resvision.measure import now
from resvision.models import ResNet
from resvision.recipe import SMALL_PICTURE, Precision, Recipe
from resvision.runtime import device
from resvision.search.pool import FOLDS, evenly, kept_side, preprocess_of, read
from resvision.training import engine as engines
from resvision.training import losses
from resvision.training.figures import DIVERGED_ADVICE
from resvision.training.steps import train_steps

SMALLER_SIZES = (64, 48, 32)  # px that stand in for larger pictures
SMALLER_NETWORKS = ("resnet20_cifar", "resnet14_cifar", "resnet8_cifar")  # that stand in for larger ones
LEAST_EPOCHS = 10.0  # fewer tell nothing of overfitting
ENOUGH_PICTURES = 2000  # that train; a smaller network rather than fewer pictures
PROBED = 128  # pictures for the measurement of the pace
PROBE_PART, PROBE_MOST = 0.02, 6.0  # of the time, and in seconds: what the measurement may take
PROBE_WARMUP = 3
USED = 0.85  # part of the time that is planned; the rest is for what was not foreseen
READING = 0.2  # part of the time that reading pictures may take
MOST_TESTED = 10_000  # pictures of the untouched part
# How often each arm is trained, how many remedies are tried, and how often the untouched part's two networks are
# trained: the first that leaves enough for each training is taken.
EXTENTS = ((3, 6, 2), (3, 4, 2), (2, 4, 2), (2, 3, 2), (2, 3, 1), (2, 2, 1))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large the trials are.

    Args:
        model: that is trained.
        size: of the pictures, in pixels.
        spec: as in `Recipe`.
        precision: of the training.
        pictures: of the training split that take part; FOLDS - 1 of FOLDS parts train.
        epochs: presentations of each.
        steps: of each training.
        seeds: how often each arm is trained.
        remedies: how many are tried.
        tests: how often the two networks are trained that the untouched part compares.
        tested: pictures of the untouched part that are looked at, at most.
        examined: further training pictures whose labels are examined, at most.
        seconds: of one training, as planned.
        pace: seconds a picture takes in training.
        reading: seconds it takes to be read.
    """

    model: str
    size: int
    spec: tuple[str, ...]
    precision: Precision
    pictures: int
    epochs: float
    steps: int
    seeds: int
    remedies: int
    tests: int
    tested: int
    examined: int
    seconds: float
    pace: float
    reading: float

    def stands_in(self, recipe: Recipe) -> bool:
        """Whether another network than the recipe's is trained; of one name there are several, by their spec."""
        return (self.model, self.spec) != (recipe.model, recipe.spec)

    def describe(self, recipe: Recipe, available: int, asked: float) -> str:
        """What is done in place of what, for a person."""
        stands_in, shallow = [], " and a shallower network"
        own = called(self.model, self.spec)
        if self.stands_in(recipe):
            stands_in.append(f"{own} stands in for {called(recipe.model, recipe.spec)}")
            shallow = ""
        if self.size != recipe.size:
            stands_in.append(f"{self.size} px for {recipe.size} px")
        if self.epochs < 0.95 * asked:
            stands_in.append(f"{self.epochs:.1f} epochs for {asked:.1f}")
        stood = f" ({', '.join(stands_in)})" if stands_in else ""
        part = "all" if self.pictures == available else f"{self.pictures:,} of {available:,}"
        return (
            f"plan: {own} at {self.size} px on {part} training pictures{stood}; {FOLDS} parts, two of which "
            f"train and one judges; {self.steps:,} steps and about {self.seconds:.0f} s a training; {self.seeds} seeds "
            f"an arm and about {self.remedies} remedies beside stronger augmentation{shallow}"
        )


def called(model: str, spec: tuple[str, ...]) -> str:
    """A network by its name and what its spec changes."""
    return " with ".join([model, *([", ".join(spec)] if spec else [])])


def make(split: Split, recipe: Recipe, classes: int, report: int, seconds: float, measured: Plan | None = None) -> Plan:
    """Times a few real steps, and plans from them.

    Args:
        split: that trains.
        recipe: of the baseline, `channels` filled in.
        classes: of the set.
        report: pictures of the untouched part.
        seconds: that are left.
        measured: an earlier plan whose pace has been measured by a whole training; then nothing is timed.
    """
    asked = epochs_asked(recipe, len(split))
    fitted = len(split) * (FOLDS - 1) / FOLDS
    wanted = fitted * asked  # pictures presented by a whole training
    enough = min(wanted, min(asked, LEAST_EPOCHS) * min(fitted, ENOUGH_PICTURES))
    choices = _stand_ins(recipe)
    reference = min(choices, key=lambda choice: _work(choice, classes, recipe))
    allowed = min(PROBE_MOST, PROBE_PART * seconds)
    if measured is not None:
        reference = (measured.model, measured.size, measured.spec)
        precision, each, reading = measured.precision, measured.pace, measured.reading
    else:
        precision, each, reading = _pace(reference, split, recipe, classes, allowed)
    # All pictures are read, and once more where a second plan wants other ones.
    budget = USED * seconds - min(READING * seconds, 2 * reading * len(split))
    readable = READING * seconds / reading
    poorest = _trainings(*EXTENTS[-1])
    chosen = reference
    for choice in choices:
        ratio = _work(choice, classes, recipe) / _work(reference, classes, recipe)
        if budget / (poorest * each * ratio) >= enough:
            chosen = choice
            break
    if chosen != reference and measured is not None:
        each *= _work(chosen, classes, recipe) / _work(reference, classes, recipe)
    elif chosen != reference:
        precision, each, _ = _pace(chosen, split, recipe, classes, allowed)
    extents = [extent for extent in EXTENTS if budget / (_trainings(*extent) * each) >= enough]
    seeds, remedies, tests = extents[0] if extents else EXTENTS[-1]
    presented = budget / (_trainings(seeds, remedies, tests) * each)
    # What is missing is taken from the pictures and from the epochs alike.
    share = math.sqrt(min(1.0, presented / wanted))
    epochs = min(asked, max(min(asked, LEAST_EPOCHS), asked * share))
    pictures = max(min(fitted, presented / epochs, readable / 2), min(fitted, 10.0 * classes))
    epochs = min(epochs, max(1.0, presented / pictures))
    pool = len(split) if pictures >= fitted else round(pictures * FOLDS / (FOLDS - 1))
    batch = min(recipe.batch_size, pictures)
    tested = min(report, MOST_TESTED, max(1000, round(min(presented, readable / 4))))
    model, size, spec = chosen
    return Plan(
        model=model,
        size=size,
        spec=spec,
        precision=precision,
        pictures=pool,
        epochs=epochs,
        steps=max(1, round(epochs * pictures / batch)),
        seeds=seeds,
        remedies=remedies,
        tests=tests,
        tested=tested,
        examined=max(0, round(min(3 * presented, readable - pool - tested))),
        seconds=epochs * pictures * each,
        pace=each,
        reading=reading,
    )


def pace(planned: Plan, split: Split, recipe: Recipe, classes: int) -> float:
    """The seconds that training takes for a picture, measured again."""
    return _pace((planned.model, planned.size, planned.spec), split, recipe, classes, PROBE_MOST)[1]


def epochs_asked(recipe: Recipe, pictures: int) -> float:
    """How often a run by the recipe presents each picture."""
    if recipe.epochs is not None:
        return float(recipe.epochs)
    steps = recipe.max_steps or recipe.steps
    return max(1.0, steps * recipe.batch_size / pictures) if steps else 10.0


def proxy(recipe: Recipe, model: str, size: int, spec: tuple[str, ...]) -> Recipe:
    """The recipe of a trial: as the baseline's in all that overfitting depends on, without what only a long run has."""
    return replace(
        recipe,
        model=model,
        size=size,
        spec=spec,
        shift=min(size - 1, round(recipe.shift * size / recipe.size)) if recipe.crop_scale == 1 else 0,
        first_size=None,
        epochs=None,
        max_steps=None,
        minutes=None,
        patience=None,
        target_accuracy=None,
        target_loss=None,
        keep=None,
        holdout=None,
        accumulate=1,
        cuda_graph=False,
        compile=False,
        channels_last=True,
        memory="full",
        workers=0,
    )


def shallower(name: str, spec: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]] | None:
    """A network of the same family with about half of the layers or fewer, or with fewer at all, if there is one.

    Where no name has fewer layers every stage has half of its blocks, if one has several.

    Returns:
        Its name and its spec, as in `Recipe`.
    """
    match = re.fullmatch(r"(\D*)(\d+)(.*)", name)
    if match is None:
        return None
    depths = []
    for other in zoo.names():
        same = re.fullmatch(re.escape(match[1]) + r"(\d+)" + re.escape(match[3]), other)
        if same and int(same[1]) < int(match[2]):
            depths.append(int(same[1]))
    half = [depth for depth in depths if depth <= int(match[2]) / 2]
    for depth in sorted(half, reverse=True) + sorted(set(depths) - set(half)):
        shallow = f"{match[1]}{depth}{match[3]}"
        try:
            zoo.variant(shallow, spec)
        except ResvisionError:
            continue
        return shallow, spec
    blocks = zoo.variant(name, spec).depths
    if max(blocks) == 1:
        return None
    rest = (pair for pair in spec if not pair.startswith("depths="))
    return name, (*rest, f"depths=[{','.join(str(max(1, count // 2)) for count in blocks)}]")


Choice = tuple[str, int, tuple[str, ...]]


def _stand_ins(recipe: Recipe) -> list[Choice]:
    """Networks and sizes, the recipe's own first and what may stand in for them behind."""
    own = (recipe.model, recipe.size, recipe.spec)
    sizes = [recipe.size] if recipe.size <= SMALL_PICTURE else list(SMALLER_SIZES)
    others = [(SMALLER_NETWORKS[0], size, ()) for size in sizes]
    others += [(model, sizes[-1], ()) for model in SMALLER_NETWORKS[1:]]
    work = cost(zoo.variant(recipe.model, recipe.spec), recipe.size).macs
    return [own, *(other for other in others if cost(zoo.get(other[0]), other[1]).macs < work)]


def _work(choice: Choice, classes: int, recipe: Recipe) -> float:
    model, size, spec = choice
    channels = recipe.channels or 3
    return float(cost(replace(zoo.variant(model, spec), num_classes=classes, in_channels=channels), size).macs)


def _trainings(seeds: int, remedies: int, tests: int) -> float:
    """How many trainings' time an extent takes."""
    whole = FOLDS / (FOLDS - 1)  # a network for the untouched part trains on all parts
    return FOLDS * 1.3 + 2 * 2 + seeds * (0.7 + 1.2 + 1.1 * (remedies + 1)) + 2 * tests * (whole + 0.3)


def _pace(choice: Choice, split: Split, recipe: Recipe, classes: int, allowed: float) -> tuple[Precision, float, float]:
    """The fastest precision, and the seconds that training and reading take for a picture, by a few real steps."""
    model, size, spec = choice
    trial = proxy(recipe, model, size, spec)
    trial = replace(trial, steps=10**6, warmup=0.0, schedule="constant", lr=1e-6, rest_lr=1e-6)
    which = evenly(split.labels, PROBED)
    assert trial.channels is not None
    start = now()
    sample, _ = read(split.take(which), kept_side(trial), trial.channels, 1.0)
    reading = (now() - start) / len(which)
    if not len(sample):
        raise DataError(f"none of {len(which)} training pictures, evenly spread, can be read: mend or remove them")
    # Whole batches, whatever the probe holds.
    times = math.ceil(trial.batch_size / len(sample))
    sample = sample.take(np.tile(np.arange(len(sample)), times))
    preprocess = preprocess_of(sample, trial)
    network_spec = replace(zoo.variant(model, spec), num_classes=classes, in_channels=trial.channels)
    torch.manual_seed(0)
    network = ResNet(network_spec).to(device())
    counts = np.bincount(sample.labels, minlength=classes).clip(1)
    loss = losses.build(trial, counts.tolist())
    trial, _ = engines.choose(network, trial, loss, preprocess, lambda seconds: 0.0)
    assert isinstance(sample.pictures, ArrayPictures)
    assert trial.precision is not None
    batches = TrainingBatches(
        sample, trial, preprocess, BadPictures(limit=0), sample.pictures.array.shape[1], where=device()
    )
    start = now()
    for step, _ in train_steps(network, batches, trial, loss, preprocess):
        if step == PROBE_WARMUP:
            start = now()
        elif step > PROBE_WARMUP and now() - start >= allowed:
            break
    if step <= PROBE_WARMUP:
        raise DivergedError(f"{model}: its loss is not a finite number at the start: {DIVERGED_ADVICE}")
    return trial.precision, (now() - start) / ((step - PROBE_WARMUP) * batches.batch_size), reading


def restored(values: dict[str, Any]) -> Plan:
    """From the ledger, where tuples are lists."""
    return Plan(**{**values, "spec": tuple(values["spec"])})
