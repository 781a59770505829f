"""The recipes by name: functions that return a complete Recipe for a set of pictures, and say why."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from resvision import zoo
from resvision.errors import RecipeError
from resvision.recipe import LENGTHS, SMALL_PICTURE, WHOLE_LABELS, Recipe, make

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What a recipe depends on.

    Args:
        pictures: in the training split.
        side: the usual shorter side, in pixels.
        channels: 1 if all are grey, else 3.
        flip: whether a mirrored picture still belongs to its class.
        smallest_class: training pictures of the class that has the fewest.
        largest_class: of the one that has the most.
        usual_class: of the one in the middle.
    """

    pictures: int
    side: int
    channels: Literal[1, 3]
    flip: bool
    smallest_class: int
    largest_class: int
    usual_class: int


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A recipe, its name, and one line for each thing that was chosen, which says why."""

    recipe: Recipe
    name: str
    reasons: tuple[str, ...]


FEW_A_CLASS = 100  # below so many pictures a class a set is small: it is presented often, and strongly augmented
IMBALANCE = 3.0  # a class this many times as large as another makes the classes weigh the same
LONG_EPOCHS = 40  # from here on what regularises pays, and before it only slows down
MOST_PICTURES_A_SECOND = 10_000  # that a machine might train on
LEAST_STEPS = 1500  # a small set is presented often enough to make this many steps, at most 100 times
TINY_PICTURE = 16  # pixels, up to which a stride in the first stage would leave nothing to look at
# A few wide blocks on a quarter of the pixels: within minutes they learn more than many narrow ones on all of them.
WIDE = ("widths=[64,128,256]", "first_stride=2", "shortcut=avg_project", "activation=silu")
FINE_TUNING_LR = 0.1
FROZEN_NORMS_LR = 0.01  # norms that cannot follow make larger steps diverge

# What an optimiser wants where a recipe was written for another one.
OPTIMIZERS: dict[str, Values] = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "adam": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.0},  # Kingma & Ba 2014
    "adamw": {"lr": 2e-3, "momentum": 0.9, "weight_decay": 0.05},
    "lamb": {"lr": 5e-3, "momentum": 0.9, "weight_decay": 0.02},  # Wightman et al. 2021, table 2, scaled down
    "muon": {"lr": 0.05, "rest_lr": 0.05, "momentum": 0.9, "weight_decay": 0.0},
}
_REFERENCE_BATCH = 64  # pictures a step that these rates, and those for fine-tuning, are for


def _small_picture(size: int) -> bool:
    return size <= SMALL_PICTURE


def _shift(size: int, part: int) -> int:
    """A `part`-th of the picture, at least a pixel where there are two."""
    return min(size - 1, max(1, size // part))


def quick(size: int) -> Values:
    """The best accuracy within few epochs or minutes."""
    common: Values = {
        "batch_size": 64,
        "optimizer": "muon",
        "warmup": 0.1,
        "schedule": "linear",
        "label_smoothing": 0.1,
    }
    if size <= TINY_PICTURE:
        return common | {"model": "resnet20_cifar", "lr": 0.05, "rest_lr": 0.05, "shift": _shift(size, 16)}
    if _small_picture(size):
        return common | {
            "model": "resnet14_cifar",
            "spec": WIDE,
            "batch_size": 128,
            "lr": 0.07,
            "rest_lr": 0.1,
            "shift": _shift(size, 16),
        }
    return common | {
        "model": "resnet18d",
        "spec": ("activation=silu",),
        "batch_size": 96,
        "crop_scale": 0.35,
        "first_size": max(SMALL_PICTURE, size * 3 // 4),
        "lr": 0.06,
        "rest_lr": 0.06,
    }


def strong(size: int) -> Values:
    """Long runs: many ways to regularise, and averaged weights."""
    common = quick(size) | {
        "epochs": 80,
        "trivial_augment": True,
        "mixup": 0.2,
        "cutmix": 1.0,
        "erase": 0.25,
        "drop_path": 0.05,
        "ema": 0.999,
    }
    if size <= TINY_PICTURE:
        return common
    if _small_picture(size):
        return common | {"model": "wrn16_4", "spec": (), "batch_size": 64, "lr": 0.05, "rest_lr": 0.05}
    return common | {"model": "resnet50d", "crop_scale": 0.25, "first_size": max(SMALL_PICTURE, size // 32 * 16)}


def noisy(size: int) -> Values:
    """Sets in which labels are wrong: a loss that they mislead less, and averaged weights."""
    return quick(size) | {"label_smoothing": 0.0, "loss": "gce", "gce_q": 0.5, "ema": 0.995}


def small(size: int) -> Values:
    """Tens of pictures a class: many small steps, each picture cut otherwise every time, and averaged weights."""
    values = quick(size) | {"ema": 0.99, "batch_size": 32}
    return values | ({"lr": 0.05, "rest_lr": 0.05} if _small_picture(size) else {"crop_scale": 0.25})


def paper(size: int) -> Values:
    """He et al. 2015: section 4.2 for small pictures, 64,000 steps.

    For large ones section 3.4, with the 90 epochs, milestones and crops of its public reimplementations (Gross & Wilber
    2016), where the paper has up to 600,000 steps and waits for plateaus. Norms and biases do not decay.
    """
    common: Values = {
        "optimizer": "sgd",
        "nesterov": False,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "warmup": 0.0,
        "schedule": "steps",
        "label_smoothing": 0.0,
    }
    if _small_picture(size):
        return common | {
            "model": "resnet20_cifar",
            "batch_size": 128,
            "max_steps": 64_000,
            "milestones": (0.5, 0.75),
            "shift": _shift(size, 8),
        }
    return common | {
        "model": "resnet18",
        "batch_size": 256,
        "epochs": 90,
        "milestones": (1 / 3, 2 / 3),
        "crop_scale": 0.08,
    }


def plain(size: int) -> Values:
    """What most scripts do: SGD with momentum and a cosine; also for fine-tuning."""
    common: Values = {"batch_size": 64, "optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "cosine"}
    if _small_picture(size):
        return common | {"model": "resnet20_cifar", "lr": 0.1, "warmup": 0.1, "shift": _shift(size, 16)}
    return common | {"model": "resnet18", "lr": 0.3, "warmup": 0.15, "crop_scale": 0.5, "label_smoothing": 0.1}


RECIPES: Mapping[str, Callable[[int], Values]] = {
    "quick": quick,
    "strong": strong,
    "noisy": noisy,
    "small": small,
    "paper": paper,
    "plain": plain,
}
NAMES = ("auto", *RECIPES)


def choose(
    name: str,
    facts: DataFacts,
    given: Mapping[str, Any],
    usual: Mapping[str, Any] | None = None,
    *,
    hub: bool = False,
    strong_epochs: Callable[[], float] | None = None,
) -> Choice:
    """The recipe of that name for a set of `facts`, with the fields of `given` in place of its own.

    Args:
        name: one of NAMES; "auto" chooses one of the others.
        facts: of the data.
        given: fields that are decided; with `pretrained` among them, those left out are for fine-tuning.
        usual: fields that pretrained weights bring along, such as their size, where `given` has no others.
        hub: whether pretrained weights could be fetched, so that "auto" may point to them.
        strong_epochs: measures how many epochs `strong` would do in the minutes that are given, for "auto".

    Raises:
        RecipeError: there is no such recipe; or a field does not exist, is out of range, or contradicts another.
        SpecError: a network that is given does not exist.
    """
    if name not in NAMES:
        raise RecipeError(f"there is no recipe {name!r}: there are {', '.join(NAMES)}, or give a recipe.yaml")
    usual = usual or {}
    size = given.get("size") or usual.get("size") or (facts.side if _small_picture(facts.side) else 128)
    reasons: list[str] = []
    if hub and not given.get("pretrained") and facts.usual_class < FEW_A_CLASS and not _small_picture(size):
        better = "such as resvision train --pretrained hf:timm/resnet18.a1_in1k"
        reasons.append(f"few pictures: weights of a larger set often do better, {better}")
    automatic = name == "auto"
    if automatic:
        name, why = _automatic(facts, given, strong_epochs)
        reasons.append(f"recipe {name}: {why}")
    values = RECIPES[name](size) | {"size": size, "channels": facts.channels, "flip": facts.flip}
    if not _small_picture(size):
        values["crop"] = 0.875
    if automatic and not given.get("pretrained"):
        reasons += _network_and_size(values["model"], size, facts, given)
    adapted = _adapted(values, facts, given, reasons)
    given = dict(given)
    if given.get("spec") and adapted.get("spec"):
        given["spec"] = _merged(adapted["spec"], given["spec"])
    chosen = make(adapted | dict(usual) | given)
    if chosen.drop_path and "drop_path" not in given and not zoo.variant(chosen.model, chosen.spec).can_drop_branches:
        chosen = replace(chosen, drop_path=0.0)
        reasons.append(f"drop_path=0: {chosen.model} has no branches that could be left out")
    if all(getattr(chosen, length) is None for length in LENGTHS):
        steps_an_epoch = max(1, facts.pictures // chosen.batch_size)
        chosen = replace(chosen, epochs=max(10, min(100, math.ceil(LEAST_STEPS / steps_an_epoch))))
        reasons.append(f"epochs={chosen.epochs}: none were asked for (--epochs, --minutes)")
    return Choice(recipe=chosen, name=name, reasons=tuple(reasons))


def _automatic(
    facts: DataFacts, given: Mapping[str, Any], strong_epochs: Callable[[], float] | None
) -> tuple[str, str]:
    """Which recipe, and why."""
    if given.get("pretrained"):
        return "plain", "the weights are pretrained, and want to be moved gently"
    if facts.usual_class < FEW_A_CLASS:
        return "small", f"the median class has {facts.usual_class:,} training pictures, fewer than {FEW_A_CLASS}"
    epochs, how = float(given.get("epochs") or 0), f"{given.get('epochs')} epochs"
    if steps := given.get("max_steps"):
        epochs = (
            steps * (given.get("batch_size") or quick(given.get("size") or facts.side)["batch_size"]) / facts.pictures
        )
        how = f"{steps:,} steps, about {epochs:.0f} epochs,"
    elif minutes := given.get("minutes"):
        epochs = strong_epochs() if strong_epochs and _may_be_long(minutes, facts) else 0.0
        how = f"{minutes:g} minutes, about {epochs:.0f} epochs here,"
    if epochs >= LONG_EPOCHS:
        return "strong", f"{how} are long enough for what regularises to pay ({LONG_EPOCHS} or more)"
    if not any(given.get(length) for length in LENGTHS):
        return "quick", f"takes the least time; more is made of {LONG_EPOCHS} epochs and more that are asked for"
    return "quick", "does best within few epochs or minutes"


def _may_be_long(minutes: float, facts: DataFacts) -> bool:
    """Whether the fastest machine could do so many epochs; else there is nothing to measure."""
    return minutes * 60 * MOST_PICTURES_A_SECOND >= LONG_EPOCHS * facts.pictures


def _network_and_size(model: str, size: int, facts: DataFacts, given: Mapping[str, Any]) -> list[str]:
    """Why this network, and why pictures of this size, where they were chosen."""
    reasons = []
    if not given.get("model"):
        kind = "small pictures" if _small_picture(size) else "photographs"
        reasons.append(f"model {model}: the recipe's network for {kind}; --model decides, resvision depth compares")
    if not given.get("size"):
        own = "their own" if size == facts.side else f"the usual one; they have about {facts.side}"
        reasons.append(f"size {size} px: {own}; --size decides")
    return reasons


def _adapted(values: Values, facts: DataFacts, given: Mapping[str, Any], reasons: list[str]) -> Values:
    """The fields of a recipe that must follow the data and those that are given."""
    values = dict(values)
    if any(given.get(length) for length in LENGTHS):
        values |= dict.fromkeys(LENGTHS)
    if given.get("model"):
        values.pop("spec", None)  # it was for the recipe's own network
    values |= _rates(values, facts, given, reasons)
    # Where two fields exclude each other, the one that is asked for stays.
    if given.get("shift"):
        changes: Values = {"crop_scale": 1.0, "first_size": None}
        reasons += _given_way(values, changes, given, "shift is asked for")
        values |= changes
    for asked in ("crop_scale", "first_size"):
        if given.get(asked) and given[asked] != 1:
            reasons += _given_way(values, {"shift": 0}, given, f"{asked} is asked for")
            values["shift"] = 0
    return values | _losses(values, facts, given, reasons)


def _given_way(values: Values, changes: Values, given: Mapping[str, Any], why: str) -> list[str]:
    """One line for what of a recipe gives way to fields that are given, if anything does."""
    nothing = {"crop_scale": 1.0, "first_size": None, "shift": 0}
    lost = {name: to for name, to in changes.items() if name not in given and values.get(name, nothing[name]) != to}
    if not lost:
        return []
    told = ", ".join(f"{name}={'none' if to is None else f'{to:g}'}" for name, to in lost.items())
    return [f"{told}: pictures are either shifted, or cropped or grown, and {why}"]


def _merged(own: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """The pairs of the recipe's own network, and those that are given, in the place of its own of the same field."""
    fields = {pair.partition("=")[0] for pair in given}
    return (*(pair for pair in own if pair.partition("=")[0] not in fields), *given)


def _rates(values: Values, facts: DataFacts, given: Mapping[str, Any], reasons: list[str]) -> Values:
    """The optimiser, and its learning rates at the batch size that is given."""
    rates: Values = {name: values[name] for name in ("lr", "rest_lr") if name in values}
    reference = values["batch_size"]
    # How fast pretrained weights may move was measured with SGD.
    optimizer = given.get("optimizer") or ("sgd" if given.get("pretrained") else values["optimizer"])
    if optimizer != values["optimizer"]:
        rates |= {"optimizer": optimizer} | OPTIMIZERS.get(optimizer, {})
        reference = _REFERENCE_BATCH
    if optimizer == "sgd" and given.get("pretrained"):
        rates["lr"] = FROZEN_NORMS_LR if given.get("freeze_norms") else FINE_TUNING_LR
        reference = _REFERENCE_BATCH
    elif optimizer != values["optimizer"]:
        told = [f"{name}={rates[name]:g}" for name in ("lr", "weight_decay") if name in rates and name not in given]
        reasons += [f"{', '.join(told)}: usual of {optimizer}"] if told else []
    batch = min(given.get("batch_size") or values["batch_size"], facts.pictures)
    if batch > 0 and batch != reference and optimizer != "adam":
        scaled = _scaled(optimizer, rates, batch / reference)
        told = [f"{name}={rate:g}" for name, rate in scaled.items() if name not in given]
        if told:
            reasons.append(f"{', '.join(told)}: scaled from batches of {reference} to {batch}")
        rates |= scaled
    return rates


def _scaled(optimizer: str, rates: Values, share: float) -> Values:
    """Learning rates for a batch that is `share` times as large."""
    # Goyal et al. 2017 for SGD; the others' steps do not grow with the gradient, and their noise does by the root.
    scaled = {"lr": float(f"{rates['lr'] * (share if optimizer == 'sgd' else math.sqrt(share)):.3g}")}
    if optimizer == "muon":
        scaled["rest_lr"] = float(f"{rates['rest_lr'] * share:.3g}")
    return scaled


def for_optimizer(recipe: Recipe, optimizer: str) -> Recipe:
    """A recipe with another optimiser, and the rates and the decay that it usually has, for the recipe's batches."""
    usual: Values = {"optimizer": optimizer, "batch_size": _REFERENCE_BATCH, "accumulate": 1} | OPTIMIZERS[optimizer]
    return replace(for_batch(replace(recipe, **usual), recipe.batch_size), accumulate=recipe.accumulate)


def for_batch(recipe: Recipe, batch_size: int) -> Recipe:
    """A recipe with another batch size, and the learning rates that go with it; Adam's stay as they are."""
    if recipe.optimizer == "adam" or batch_size == recipe.batch_size:
        return replace(recipe, batch_size=batch_size)
    rates = {"lr": recipe.lr, "rest_lr": recipe.rest_lr}
    return replace(recipe, batch_size=batch_size, **_scaled(recipe.optimizer, rates, batch_size / recipe.batch_size))


def _losses(values: Values, facts: DataFacts, given: Mapping[str, Any], reasons: list[str]) -> Values:
    """The loss, and whether classes weigh the same in it, where some of both is given."""
    changes: Values = {}
    asked = [field for field in WHOLE_LABELS if given.get(field)]
    asked += ["balance"] if given.get("balance") == "weights" else []
    if given.get("loss") == "gce":
        changes |= dict.fromkeys(WHOLE_LABELS, 0.0)
        if lost := [field for field in WHOLE_LABELS if values.get(field) and field not in given]:
            reasons.append(f"{', '.join(f'{field}=0' for field in lost)}: gce wants whole labels")
    elif values.get("loss") == "gce" and "loss" not in given and asked:
        changes["loss"] = "cross_entropy"
        reasons.append(f"loss=cross_entropy: the recipe's gce excludes {' and '.join(asked)}")
    imbalanced = facts.largest_class >= IMBALANCE * facts.smallest_class
    # With wrong labels nobody knows how large the classes are.
    if imbalanced and values.get("loss") != "gce" and "balance" not in given:
        way = "weights" if given.get("loss", "cross_entropy") == "cross_entropy" else "sampling"
        if way == "weights" or given.get("repeats", 1) == 1:
            changes["balance"] = way
            sizes = f"{facts.smallest_class:,} to {facts.largest_class:,}"
            reasons.append(f"balance={way}: the classes have {sizes} pictures")
    return changes


def demo() -> Recipe:
    """The recipe of `resvision demo`: everything fixed, so that the same machine gives the same weights each time."""
    return Recipe(
        model="resnet14_cifar",
        size=8,
        channels=1,
        epochs=40,
        batch_size=64,
        shift=1,
        label_smoothing=0.1,
        precision="fp32",
        channels_last=True,
        cuda_graph=False,
        compile=False,
        memory="full",
        workers=0,
    )
