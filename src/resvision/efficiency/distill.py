"""Distillation: a network that was made cheaper learns from pictures and from what the original says of them."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import replace

import numpy as np

from resvision import recipes
from resvision.classifier import Classifier
from resvision.data.loader import TrainingBatches
from resvision.data.pictures import Split
from resvision.data.readable import screen
from resvision.data.workers import default_workers
from resvision.errors import RecipeError
from resvision.files import parse
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe, make
from resvision.runtime import device
from resvision.spec import ResNetSpec
from resvision.training import engine as engines
from resvision.training import losses, memory
from resvision.training.steps import train_steps

DISTILLED = 0.8  # the part of the loss that is the distance to the original
PROBE_STEPS, PROBE_WARMUP = 6, 2


def taught(network: ResNet, original: Classifier, train: Split, seconds: float, rate: float) -> ResNet:
    """The network after it learned for so long from pictures and from what the original says of them.

    Args:
        network: learns itself.
        original: who teaches, and whose recipe is followed.
        train: pictures, with the original's labels.
        seconds: that this takes.
        rate: the learning rate, as a part of the one that the original was trained with.
    """
    preprocess = original.preprocess
    recipe = _fitting(network.spec, _lesson(original, train, rate), preprocess)
    teacher = copy.deepcopy(original.network).eval().requires_grad_(False)
    counts = np.bincount(train.labels, minlength=len(original.classes))
    loss = losses.distilled(losses.build(recipe, counts.tolist()), teacher, DISTILLED)
    recipe, _ = engines.choose(network, recipe, loss, preprocess, lambda a_picture: seconds / a_picture)
    readable, bad, largest = screen(train, 1.0)
    batches = TrainingBatches(readable, recipe, preprocess, bad, largest, where=device())
    begin, probe = now(), copy.deepcopy(network)
    times = [now() for _ in train_steps(probe, batches, replace(recipe, steps=PROBE_STEPS), loss, preprocess)]
    # The first ones start the workers and may compile.
    a_step = (times[-1] - times[PROBE_WARMUP]) / (len(times) - 1 - PROBE_WARMUP) if len(times) == PROBE_STEPS else 1.0
    steps = max(1, int((seconds - (now() - begin)) / a_step))
    for _ in train_steps(network, batches, replace(recipe, steps=steps), loss, preprocess):
        pass
    return network.eval()


def _fitting(spec: ResNetSpec, recipe: Recipe, preprocess: Preprocess) -> Recipe:
    """The recipe with steps in as few parts as fit the memory at hand.

    Raises:
        RecipeError: not even one picture at once fits.
    """
    parts = [n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0]
    for n in parts[:-1]:
        with contextlib.suppress(RecipeError):
            return memory.choose(spec, replace(recipe, accumulate=n), preprocess)[0]
    return memory.choose(spec, replace(recipe, accumulate=parts[-1]), preprocess)[0]


def _lesson(original: Classifier, train: Split, rate: float) -> Recipe:
    """The recipe that the original was trained with, at a part of its rate, or the plain one."""
    recorded, size = original.provenance.get("recipe"), original.preprocess.size
    if isinstance(recorded, dict):
        recipe = parse(Recipe, recorded, "provenance.recipe")
    else:
        fields = recipes.plain(size) | {"size": size, "channels": original.preprocess.channels, "epochs": 1}
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
        cuda_graph=None,
        compile=None,
        workers=default_workers(),
    )
