"""Recipe: every hyperparameter of a training run. The functions that return a complete one are in `recipes`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from resvision.errors import RecipeError
from resvision.files import fault, nearest, plain
from resvision.preprocess import MAX_SIZE

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Optimizer = Literal["sgd", "adam", "adamw", "lamb", "muon"]
Schedule = Literal["cosine", "linear", "onecycle", "constant", "steps"]
LossName = Literal["cross_entropy", "bce", "gce"]
Balance = Literal["none", "weights", "sampling"]
Auto = Literal["auto"]
Precision = Literal["fp32", "bf16"]
Keep = Literal["last", "best"]
Memory = Literal["full", "checkpoint", "auto"]

LENGTHS = ("epochs", "max_steps", "minutes")  # the ways to say how long to train
ADAPTIVE = ("exits", "exit_weight", "distill", "max_drop", "gate_rate", "freeze_trunk")  # of early exits and gates
WHOLE_LABELS = ("mixup", "cutmix", "label_smoothing")  # what divides a label between classes, and gce excludes
MOST_SEEDS = 2**63  # what generators take
SMALL_PICTURE = 64  # px; up to here a picture is shifted by a few pixels, above it is cropped at random scales


_CHOICES: dict[str, Any] = {
    "optimizer": Optimizer,
    "schedule": Schedule,
    "loss": LossName,
    "balance": Balance,
    "memory": Memory,
    "precision": Precision,
    "keep": Keep,
}
_MAY_BE_NONE: dict[str, tuple[None]] = {"precision": (None,), "keep": (None,)}

# rule: (what holds, the fields)
_RULES: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    f"at least 1 and at most {MAX_SIZE}": (lambda v: 1 <= v <= MAX_SIZE, ("size", "first_size")),
    "at least 1": (
        lambda v: v >= 1,
        ("epochs", "max_steps", "steps", "patience", "batch_size", "accumulate", "repeats"),
    ),
    "a number above 0": (
        lambda v: math.isfinite(v) and v > 0,
        ("minutes", "lr", "rest_lr", "target_loss", "clip", "exit_weight"),
    ),
    "above 0 and at most 1": (
        lambda v: 0 < v <= 1,
        ("target_accuracy", "crop", "crop_scale", "lr_decay", "gce_q", "gate_rate"),
    ),
    "at least 0 and below 1": (
        lambda v: 0 <= v < 1,
        ("warmup", "label_smoothing", "momentum", "max_bad", "holdout", "ema", "drop_path"),
    ),
    "at least 0 and at most 1": (lambda v: 0 <= v <= 1, ("head_first", "erase", "distill")),
    "at least 0": (
        lambda v: math.isfinite(v) and v >= 0,
        ("weight_decay", "shift", "workers", "mixup", "cutmix"),
    ),
    "at least 0 and at most 100": (lambda v: 0 <= v <= 100, ("max_drop",)),
    f"at least 0 and below {MOST_SEEDS}": (lambda v: 0 <= v < MOST_SEEDS, ("seed",)),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run beside the data. None means: measured or derived when the run starts.

    The run writes its recipe with every None filled in, so that the same file repeats the run.

    Args:
        model: a name from the zoo.
        spec: FIELD=VALUE in which the network differs from the one of its name, such as shortcut=project; may be given
            again.
        size: height and width of the network's input, in pixels; without it 128, or the pictures' own up to 64.
        channels: 1 for grey, 3 for colour.
        crop: the part of the shorter side that the evaluation's centre cut keeps.

        pretrained: weights to begin with: hf:OWNER/NAME[@REVISION] (timm's, on the Hugging Face hub), the folder of a
            run or an import, or a file.
        head_first: the part of all steps in which the last layer learns alone; 1 never trains the rest.
        lr_decay: the factor by which the learning rate falls from the last layer to the last stage, and from each stage
            to the one before it (Howard & Ruder 2018, section 3.2); the stem goes with the first stage.
        freeze_norms: whether batch norms keep the statistics and weights that they were pretrained with.
        freeze_trunk: whether everything keeps what it was pretrained with, and only early exits learn.

        exits: early exits, at which pictures that are sure enough leave: after these numbers of blocks, with commas
            between them, or "auto" for those where an eighth and half of the network's multiply-adds are done.
        exit_weight: weight of each exit's loss; that of the network's end is 1; 0.3 if not given.
        distill: the part of an exit's loss that is its distance to what the network's end says (Zhang et al. 2019,
            section 3.2), the rest being that to the labels; 0.5 if not given.
        gate_rate: the part of the blocks which a picture goes through on average, of those that keep the shape, in a
            network that learns for each picture which to leave out (Veit & Belongie 2018); without it there are
            none.
        max_drop: percentage points of accuracy that leaving early may cost on the pictures that the thresholds of the
            exits are chosen by; 0.5 if not given.

        epochs: how many times the training pictures are shown; excludes other options for the length of a training.
        max_steps: optimiser steps.
        minutes: minutes, reading and evaluation included, which become a number of steps by a short measurement.
        steps: the number of optimiser steps that came of these.
        target_accuracy: stop when the held-back accuracy reaches this (0..1).
        target_loss: stop when an epoch's mean training loss falls to this.
        patience: stop after this many epochs without a better held-back accuracy.

        batch_size: pictures per optimiser step.
        accumulate: parts in which a step's pictures pass through the network one after the other, for less memory.
        optimizer: "sgd" with momentum; "adam" and "adamw", Adam with decoupled weight decay (Loshchilov &
            Hutter 2017); "lamb" (You et al. 2019), Adam for large batches; "muon", which makes the momentum of a
            convolution orthogonal (Jordan et al. 2024) and is SGD for all else.
        lr: peak learning rate; "auto" finds it by a range test (Smith 2015, section 3.3).
        rest_lr: with muon, the peak learning rate of what is no convolution, by SGD.
        momentum: of SGD and Muon; Adam's and LAMB's first beta.
        nesterov: whether SGD's momentum looks ahead (Sutskever et al. 2013), as it does if nothing is given.
        weight_decay: decay of the weights of convolutions and of the linear layer; never of norms and biases.
        schedule: after a linear warm-up "cosine" (Loshchilov & Hutter 2016), "linear", "constant", or "steps", a tenth
            at each milestone (He et al. 2015, section 4.2); or "onecycle" (Smith 2018).
        milestones: of "steps": the parts of all steps after which the learning rate is divided by ten, with commas
            between them, such as 0.5,0.75.
        warmup: the part of all steps in which the learning rate rises.
        clip: greatest norm of the gradient of all weights; larger ones are scaled down to it; without it none are.
        ema: decay per step of the weights' moving average, which is what is evaluated and kept; 0 keeps the weights.

        loss: "cross_entropy"; "bce", a sigmoid per class, of which one is right (Wightman et al. 2021, section 3); or
            "gce", (1 - p^q) / q, which wrong labels mislead less (Zhang & Sabuncu 2018).
        gce_q: of gce, between 0, which is cross-entropy, and 1, the mean absolute error.
        label_smoothing: probability spread over all classes (Szegedy et al. 2015, section 7).
        balance: where classes differ in size, "weights" in the loss or "sampling" all of them equally often; or "none".

        crop_scale: least part of the area that a random resized crop keeps (Szegedy et al. 2014); 1 turns it off.
        shift: pixels by which a picture moves at most, its border filled with the mean (He et al. 2015, section 4.2).
        flip: whether pictures are mirrored left to right: half of them in one epoch, the others in the next (Jordan
            2024, section 3.6). On by default, but for digits.
        trivial_augment: whether a random change of colour or geometry is made to each picture (Mueller & Hutter 2021).
        erase: probability that a rectangle of a picture is erased (Zhong et al. 2017).
        mixup: alpha of the Beta distribution by which two pictures and their labels are mixed (Zhang et al. 2017).
        cutmix: alpha of the Beta distribution by which a rectangle of another picture is put in (Yun et al. 2019);
            where mixup is on as well, half of the batches have the one and half the other.
        drop_path: probability that the last block's branch is left out for a picture, growing linearly from the first
            block on (Huang et al. 2016, section 3).
        repeats: how often each picture stands in a batch, augmented anew each time; an epoch then shows one picture in
            so many, and is as long as without (Hoffer et al. 2020).
        first_size: height and width of the pictures in the first epoch, to the nearest 32 px that are less than `size`;
            they grow to it (Tan & Le 2021, section 4).
        cache: whether pictures are kept decoded on disk after the first epoch, shrunk as far as the crops allow.

        holdout: part of the training split held back for choosing, from 0 to below 1, where no val split beside a test
            split does it; without it 0.1, at most 2,000 pictures, if exits, a target, patience or keep=best
            must be chosen by, or if 500 or more can choose the epoch beside a test split; else 0.
        keep: the weights of the "last" epoch, or of the one that is "best" on the pictures that choose, val or those
            held back; without it the best where there are such pictures.
        max_bad: part of the training files that may be unreadable, 0.01 if not given; they are listed and skipped.

        seed: the number from which initial weights, order and augmentation follow; 0 if not given.
        precision: "fp32", or "bf16" for convolutions and matrix products.
        channels_last: memory order N, H, W, C.
        cuda_graph: whether a GPU is given the forward and backward pass of a step as one CUDA graph, and Muon's matrix
            products as another.
        compile: whether torch.compile translates the network.
        memory: "full" keeps all activations for the backward pass; "checkpoint" keeps those between some blocks and
            computes the others again (Chen et al. 2016), which takes longer and needs far less memory; "auto" takes
            the fastest way that fits.
        workers: processes that read pictures; 0 reads in the main process, without it half of the processors read, or
            with a GPU all but two.
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
    freeze_trunk: bool = False

    exits: str | None = None
    exit_weight: float = 0.3
    distill: float = 0.5
    gate_rate: float | None = None
    max_drop: float = 0.5

    epochs: int | None = None
    max_steps: int | None = None
    minutes: float | None = None
    steps: int | None = None
    target_accuracy: float | None = None
    target_loss: float | None = None
    patience: int | None = None

    batch_size: int = 128
    accumulate: int = 1
    optimizer: Optimizer = "sgd"
    lr: float | Auto = 0.1
    rest_lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.15
    clip: float | None = None
    ema: float = 0.0

    loss: LossName = "cross_entropy"
    gce_q: float = 0.7
    label_smoothing: float = 0.0
    balance: Balance = "none"

    crop_scale: float = 1.0
    shift: int = 0
    flip: bool = False
    trivial_augment: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    repeats: int = 1
    first_size: int | None = None
    cache: bool = True

    holdout: float | None = None
    keep: Keep | None = None
    max_bad: float = 0.01

    seed: int = 0
    precision: Precision | None = None
    channels_last: bool | None = None
    cuda_graph: bool | None = None
    compile: bool | None = None
    memory: Memory = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        for field, kind in _CHOICES.items():
            if getattr(self, field) not in (*_MAY_BE_NONE.get(field, ()), *get_args(kind)):
                raise RecipeError(f"{field}={getattr(self, field)!r} is not one of {', '.join(get_args(kind))}")
        for rule, (holds, names) in _RULES.items():
            for field in names:
                value = getattr(self, field)
                may_be_auto = field == "lr" and value == "auto"
                if value is not None and not may_be_auto and not holds(value):
                    raise RecipeError(f"{field}={value} must be {rule}")
        if not isinstance(self.spec, tuple):
            raise RecipeError(f"spec={self.spec!r} must be a tuple of FIELD=VALUE, such as ('shortcut=project',)")
        if broken := [pair for pair in self.spec if "=" not in pair]:
            raise RecipeError(f"spec {broken[0]!r}: give FIELD=VALUE, such as shortcut=project")
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
        if any(not 0 < part < 1 for part in self.milestones):
            raise RecipeError(f"milestones={self.milestones} must lie between 0 and 1")
        if self.batch_size % self.accumulate:
            raise RecipeError(f"accumulate={self.accumulate} must divide batch_size={self.batch_size}")
        if self.first_size is not None and self.first_size > self.size:
            raise RecipeError(f"first_size={self.first_size} must not be larger than size={self.size}")
        if self.first_size is not None and self.shift:
            raise RecipeError(
                f"first_size={self.first_size} and shift={self.shift} exclude each other: give one of them"
            )
        if self.repeats > 1 and self.balance == "sampling":
            raise RecipeError(f"repeats={self.repeats} and balance='sampling' exclude each other: give one of them")
        if self.loss != "cross_entropy" and self.balance == "weights":
            raise RecipeError(f"loss={self.loss!r} takes no class weights: use balance='sampling'")
        if self.loss == "gce" and (mixed := [f for f in WHOLE_LABELS if getattr(self, f)]):
            raise RecipeError(f"loss='gce' wants whole labels: leave out {' and '.join(mixed)}")
        if self.freeze_trunk and not self.has_exits:
            raise RecipeError("freeze_trunk=True leaves nothing that learns but early exits: give --exits too")
        waiting = [field for field in ("patience", "target_accuracy") if getattr(self, field) is not None]
        waiting += ["keep=best"] * (self.keep == "best")
        if self.freeze_trunk and waiting:
            raise RecipeError(f"freeze_trunk=True leaves the accuracy as it is: leave out {' and '.join(waiting)}")
        if self.freeze_trunk and self.gate_rate is not None:
            raise RecipeError("freeze_trunk=True and gate_rate exclude each other: gates would stand in it untrained")
        shaped = [pair for pair in self.spec if pair.startswith(("exit_width=", "exit_depth="))]
        # Weights of a network with exits bring along where these stand, too.
        if self.exits is not None and shaped and not any(pair.startswith("exits=") for pair in self.spec):
            raise RecipeError(
                f"exits={self.exits!r} takes exits of a fitting shape: give {shaped[0]} with --spec 'exits=[...]'"
            )
        if self.has_exits and self.memory == "checkpoint":
            raise RecipeError("memory='checkpoint' does not go with early exits: give one of them")

    @property
    def has_exits(self) -> bool:
        """Whether the network has early exits, by `exits` or as a field of its spec."""
        return self.exits is not None or any(pair.startswith("exits=") for pair in self.spec)

    @property
    def fine_tuning(self) -> tuple[str, ...]:
        """The fields, with their values, that only mean something where the weights are pretrained."""
        asked = {
            f"head_first={self.head_first}": self.head_first > 0,
            f"lr_decay={self.lr_decay}": self.lr_decay < 1,
            "freeze_norms": self.freeze_norms,
            "freeze_trunk": self.freeze_trunk,
        }
        return tuple(field for field, is_asked in asked.items() if is_asked)

    def without_effect(self, names: Iterable[str]) -> dict[str, str]:
        """Which of these fields mean nothing in this recipe, and what each of them goes with."""
        goes_with = {
            "milestones": (self.schedule == "steps", "schedule=steps"),
            "gce_q": (self.loss == "gce", "loss=gce"),
            "rest_lr": (self.optimizer == "muon", "optimizer=muon"),
            **dict.fromkeys(("exit_weight", "distill", "max_drop"), (self.has_exits, "exits")),
        }
        return {name: goes_with[name][1] for name in names if name in goes_with and not goes_with[name][0]}

    @property
    def only_shifts(self) -> bool:
        """Whether training pictures are only shifted and mirrored, which is done for whole batches in memory."""
        return self.crop_scale == 1 and not self.trivial_augment and self.first_size is None

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch is kept, where there are pictures to tell it by, and not the last one.

        Where the trunk is frozen, what is watched is of a network that does not change, and the exits are best at the
        end.
        """
        return self.keep != "last" and not self.freeze_trunk

    @property
    def choices(self) -> tuple[str, ...]:
        """The fields that choose by held-back accuracy, which must not be the accuracy that is reported."""
        asked = {
            "patience": self.patience is not None,
            "target_accuracy": self.target_accuracy is not None,
            "keep=best": self.keep == "best",
            "exits": self.has_exits,
        }
        return tuple(field for field, is_asked in asked.items() if is_asked)


def make(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its fields.

    Raises:
        RecipeError: a field does not exist (the nearest is named), or its value is refused.
    """
    known = [field.name for field in fields(Recipe)]
    for name in values:
        if name not in known:
            raise RecipeError(f"a recipe has no field {name!r}{nearest(name, known)}")
    return Recipe(**typed(values))


def typed(values: Mapping[str, Any], of: type | None = None) -> dict[str, Any]:
    """Fields of a recipe as Python's own values: of a caller they may be NumPy's numbers, lists or paths.

    Names that a recipe does not know, and words that it lets choose between, are left to it.

    Args:
        values: by field.
        of: another dataclass whose fields they are.

    Raises:
        RecipeError: a value is not of its field's type.
    """
    from pydantic import ValidationError

    found = dict(values)
    adapters = _adapters(of or Recipe)
    for name in values.keys() & adapters.keys():
        try:
            # Strict, but by way of JSON, whose lists may become tuples.
            text = json.dumps(values[name], default=plain)
            found[name] = adapters[name].validate_json(text, strict=True)
        except TypeError as error:
            raise RecipeError(f"{name}: {error}") from error
        except ValidationError as error:
            raise RecipeError(fault(error, name)) from error
    return found


@lru_cache
def _adapters(of: type) -> dict[str, TypeAdapter[Any]]:
    """What checks the type of each field."""
    from pydantic import TypeAdapter

    return {name: TypeAdapter(hint) for name, hint in get_type_hints(of).items() if name not in _CHOICES}
