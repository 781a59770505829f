"""Recipe: every hyperparameter of a training run, and the functions that return a complete one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from resvision.errors import RecipeError
from resvision.preprocess import MAX_SIZE

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["cosine", "onecycle", "constant"]
Precision = Literal["fp32", "bf16"]
Keep = Literal["last", "best"]
Memory = Literal["full", "checkpoint"]

LENGTHS = ("epochs", "max_steps", "minutes")  # the ways to say how long to train
SMALL_PICTURE = 64  # px; up to here a picture is shifted by a few pixels, above it is cropped at random scales


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run beside the data. None means: measured or derived when the run starts.

    The run writes its recipe with every None filled in, so that the same file repeats the run.

    Args:
        model: a name from the zoo.
        spec: FIELD=VALUE in which the network differs from that name, such as shortcut=project; may be given again.
        size: height and width of the network's input, in pixels.
        channels: 1 for grey, 3 for colour.
        crop: the part of the shorter side that the evaluation's centre cut keeps.

        pretrained: weights to begin with: hf:OWNER/NAME[@REVISION] (timm's, on the Hugging Face hub), the folder of a
            run or an import, or a file.
        head_first: the part of all steps in which the last layer learns alone; 1 never trains the rest.
        lr_decay: the factor by which the learning rate falls from the last layer to the last stage, and from each stage
            to the one before it (Howard & Ruder 2018, section 3.2); the stem goes with the first stage.
        freeze_norms: whether batch norms keep the statistics and weights that they were pretrained with.

        epochs: presentations of the training set. One of epochs, max_steps and minutes says how long to train.
        max_steps: optimiser steps.
        minutes: minutes, reading and evaluation included, which become a number of steps by a short measurement.
        steps: the number of optimiser steps that came of these.
        target_accuracy: stop when the held-back accuracy reaches this (0..1).
        target_loss: stop when an epoch's mean training loss falls to this.
        patience: stop after this many epochs without a better held-back accuracy.

        batch_size: pictures a step.
        optimizer: "sgd" with Nesterov momentum, or "adam" (decoupled weight decay).
        lr: peak learning rate.
        momentum: of SGD; Adam's first beta.
        weight_decay: on the weights of convolutions and of the linear layer; never on norms and biases.
        schedule: "cosine" with a linear warm-up (Loshchilov & Hutter 2016), "onecycle" (Smith 2018), or "constant".
        warmup: the part of all steps in which the learning rate rises.
        label_smoothing: probability spread over all classes (Szegedy et al. 2015, section 7).

        crop_scale: least part of the area that a random resized crop keeps (Szegedy et al. 2014); 1 turns it off.
        shift: pixels by which a picture moves at most, its border filled with the mean (He et al. 2015, section 4.2).
        flip: whether pictures are mirrored left to right, each with probability a half.

        holdout: part of the training split held back for choosing; None derives it from what must be chosen.
        keep: the weights of the "last" epoch or of the one that was "best" on the held-back part.
        max_bad: part of a split's files that may be unreadable; they are listed and skipped.

        seed: of the initial weights, the order and the augmentation.
        precision: "fp32", or "bf16" for convolutions and matrix products.
        channels_last: memory order N, H, W, C.
        compile: whether torch.compile translates the network.
        memory: "full" keeps all activations for the backward pass; "checkpoint" keeps those between some blocks and
            computes the others again (Chen et al. 2016), which takes longer and needs far less memory.
        workers: processes that read pictures; 0 reads in the main process.
    """

    model: str
    spec: tuple[str, ...] = ()
    size: int
    channels: Literal[1, 3] | None = None
    crop: float = 1.0

    pretrained: str | None = None
    head_first: float = 0.0
    lr_decay: float = 1.0
    freeze_norms: bool = False

    epochs: int | None = None
    max_steps: int | None = None
    minutes: float | None = None
    steps: int | None = None
    target_accuracy: float | None = None
    target_loss: float | None = None
    patience: int | None = None

    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.15
    label_smoothing: float = 0.0

    crop_scale: float = 1.0
    shift: int = 0
    flip: bool = False

    holdout: float | None = None
    keep: Keep | None = None
    max_bad: float = 0.01

    seed: int = 0
    precision: Precision | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    memory: Memory | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        for field, kind in (("optimizer", Optimizer), ("schedule", Schedule)):
            if getattr(self, field) not in get_args(kind):
                raise RecipeError(f"{field}={getattr(self, field)!r} is not one of {', '.join(get_args(kind))}")
        for field, kind in (("precision", Precision), ("keep", Keep), ("memory", Memory)):
            if getattr(self, field) not in (None, *get_args(kind)):
                raise RecipeError(f"{field}={getattr(self, field)!r} is not one of {', '.join(get_args(kind))}")
        self._check("size", f"at least 1 and at most {MAX_SIZE}", lambda v: 1 <= v <= MAX_SIZE)
        for field in ("epochs", "max_steps", "steps", "patience", "batch_size"):
            self._check(field, "at least 1", lambda v: v >= 1)
        for field in ("minutes", "lr", "target_loss"):
            self._check(field, "a number above 0", lambda v: math.isfinite(v) and v > 0)
        for field in ("target_accuracy", "crop", "crop_scale", "lr_decay"):
            self._check(field, "above 0 and at most 1", lambda v: 0 < v <= 1)
        for field in ("warmup", "label_smoothing", "momentum", "max_bad", "holdout"):
            self._check(field, "at least 0 and below 1", lambda v: 0 <= v < 1)
        self._check("head_first", "at least 0 and at most 1", lambda v: 0 <= v <= 1)
        for field in ("weight_decay", "shift", "seed", "workers"):
            self._check(field, "at least 0", lambda v: math.isfinite(v) and v >= 0)
        if not isinstance(self.spec, tuple) or any("=" not in pair for pair in self.spec):
            raise RecipeError(f"spec={self.spec!r} must be a tuple of FIELD=VALUE, such as ('shortcut=project',)")
        if self.pretrained is None and (asked := self.fine_tuning):
            raise RecipeError(f"only pretrained weights go with {' and '.join(asked)}: give --pretrained too")
        lengths = [f for f in LENGTHS if getattr(self, f) is not None]
        if len(lengths) > 1:
            raise RecipeError(f"{' and '.join(lengths)} both say how long to train: give one of them")
        if self.shift >= self.size:
            raise RecipeError(f"shift={self.shift} must be smaller than size={self.size}")
        if self.crop_scale < 1 and self.shift:
            raise RecipeError(f"crop_scale={self.crop_scale} and shift={self.shift} both move the picture: give one")
        if self.compile and self.memory == "checkpoint":
            raise RecipeError("compile=True and memory='checkpoint' exclude each other: give one of them")
        if self.holdout == 0 and (choices := self.choices):
            raise RecipeError(f"holdout=0 leaves nothing to choose by, and {' and '.join(choices)} must choose")

    def _check(self, field: str, rule: str, holds: Callable[[Any], bool]) -> None:
        value = getattr(self, field)
        if value is not None and not holds(value):
            raise RecipeError(f"{field}={value} must be {rule}")

    @property
    def fine_tuning(self) -> tuple[str, ...]:
        """The fields, with their values, that only mean something where the weights are pretrained."""
        asked = {
            f"head_first={self.head_first}": self.head_first > 0,
            f"lr_decay={self.lr_decay}": self.lr_decay < 1,
            "freeze_norms": self.freeze_norms,
        }
        return tuple(field for field, is_asked in asked.items() if is_asked)

    @property
    def choices(self) -> tuple[str, ...]:
        """The fields that choose by held-back accuracy, which must not be the accuracy that is reported."""
        asked = {
            "patience": self.patience is not None,
            "target_accuracy": self.target_accuracy is not None,
            "keep=best": self.keep == "best",
        }
        return tuple(field for field, is_asked in asked.items() if is_asked)


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a default depends on.

    Args:
        pictures: in the training split.
        side: the usual shorter side, in pixels.
        channels: 1 if all are grey, else 3.
        flip: whether a mirrored picture still belongs to its class.
    """

    pictures: int
    side: int
    channels: Literal[1, 3]
    flip: bool


def default(facts: DataFacts, given: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe where none is named, for a set of `facts`, with the fields of `given` in place of its own.

    Small pictures (up to 64 px) train a CIFAR network on shifted pictures, larger ones ResNet-18 on random resized
    crops. The values are those that did best in short runs: see docs/decisions.md.

    Args:
        facts: of the data.
        given: fields that are decided; with `pretrained` among them, those left out are for fine-tuning.
        usual: fields that pretrained weights bring along, such as their size, where `given` has no others.

    Raises:
        RecipeError: a field does not exist, is out of range, or contradicts another.
    """
    usual = usual or {}
    size = given.get("size") or usual.get("size") or (facts.side if facts.side <= SMALL_PICTURE else 128)
    small = size <= SMALL_PICTURE
    values: dict[str, Any] = {
        "model": "resnet20_cifar" if small else "resnet18",
        "size": size,
        "channels": facts.channels,
        "flip": facts.flip,
        **(_SMALL if small else _LARGE),
    }
    if given.get("pretrained"):
        values["lr"] = FROZEN_NORMS_LR if given.get("freeze_norms") else FINE_TUNING_LR
    if small:
        values["shift"] = size // 16
    if given.get("optimizer") == "adam":
        values |= {"lr": 1e-3, "weight_decay": 0.0}  # Kingma & Ba 2014
    # One of the two ways to move a picture gives way to the other where that is asked for.
    if given.get("shift"):
        values["crop_scale"] = 1.0
    if given.get("crop_scale", 1) < 1:
        values["shift"] = 0
    chosen = make(values | dict(usual) | dict(given))
    if any(getattr(chosen, length) is not None for length in LENGTHS):
        return chosen
    steps_an_epoch = max(1, facts.pictures // chosen.batch_size)
    return replace(chosen, epochs=max(10, min(100, math.ceil(LEAST_STEPS / steps_an_epoch))))


_SMALL = {"batch_size": 64, "lr": 0.1, "weight_decay": 5e-4, "warmup": 0.1}
_LARGE = {
    "crop": 0.875,
    "crop_scale": 0.5,
    "batch_size": 64,
    "lr": 0.3,
    "weight_decay": 5e-4,
    "warmup": 0.15,
    "label_smoothing": 0.1,
}
FINE_TUNING_LR = 0.1
FROZEN_NORMS_LR = 0.01  # norms that cannot follow make larger steps diverge
LEAST_STEPS = 1500  # a small set is presented often enough to make this many steps, at most 100 times


def demo() -> Recipe:
    """The recipe of `resvision demo`: everything fixed, so that the same machine gives the same weights each time."""
    return Recipe(
        model="resnet14_cifar",
        size=8,
        channels=1,
        epochs=40,
        batch_size=64,
        shift=1,
        precision="fp32",
        channels_last=True,
        compile=False,
        workers=0,
    )


def make(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its fields.

    Raises:
        RecipeError: a field does not exist (the nearest is named), or its value is refused.
    """
    known = [field.name for field in fields(Recipe)]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RecipeError(f"a recipe has no field {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")
    return Recipe(**values)
