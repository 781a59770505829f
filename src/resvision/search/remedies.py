"""The remedies: what may be done about each cause, as an arm of the trials and as options of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from resvision import recipes, zoo
from resvision.errors import ResvisionError
from resvision.recipe import Recipe, make
from resvision.search.trials import Arm

# The causes, by the word that reports use.
COPIES, LABELS, FEW, AUGMENTATION, DEPTH, LENGTH, IMBALANCE = (
    *("copies", "labels", "few", "augmentation", "depth", "length", "imbalance"),
)

SHORTER = 0.5  # part of the steps
MANY_EPOCHS = 2  # fewer cannot be halved
STRONGER_DECAY = 4.0
# Which remedies a cause suggests, the likeliest first; the others follow in this order.
SUGGESTED: Mapping[str, tuple[str, ...]] = {
    COPIES: ("without copies",),
    LABELS: ("robust loss", "without suspects", "averaged weights", "label smoothing", "mixup"),
    FEW: ("as recipe small", "cutmix", "mixup", "label smoothing", "drop path and decay", "averaged weights"),
    AUGMENTATION: ("cutmix", "mixup", "erasing"),
    DEPTH: ("drop path and decay",),
    LENGTH: ("shorter", "averaged weights", "label smoothing"),
    IMBALANCE: ("balanced sampling", "class weights", "no class weights"),
}
REST = (
    *("label smoothing", "averaged weights", "mixup", "cutmix", "drop path and decay", "erasing", "shorter"),
    "as recipe small",
)
# What the recipe for few pictures does with any network and batch size.
OF_SMALL = ("optimizer", "lr", "rest_lr", "momentum", "weight_decay", "schedule", "warmup", "label_smoothing", "ema")


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Something that may help.

    Args:
        arm: how it is tried.
        options: of `resvision train`, fields of the recipe, in place of the baseline's.
        leaves_out: which pictures do not train, for which it needs a manifest without them.
    """

    arm: Arm
    options: dict[str, Any] = field(default_factory=dict)
    leaves_out: tuple[Literal["suspects", "copies"], ...] = ()

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.arm.name


def stronger_augmentation(recipe: Recipe) -> Remedy | None:
    """The first kind of augmentation that the baseline does not have."""
    for name, fields in (
        ("trivial augment", {"trivial_augment": True}),
        ("cutmix", {"cutmix": 1.0}),
        ("erasing", {"erase": 0.25}),
    ):
        remedy = _of(name, fields)
        if not any(getattr(recipe, option) for option in fields) and _possible(recipe, remedy):
            return remedy
    return None


def all_of(
    recipe: Recipe,
    epochs: float,
    asked: float,
    *,
    can_drop: bool = True,
    suspects: Sequence[int] = (),
    copies: Sequence[int] = (),
) -> dict[str, Remedy]:
    """The remedies that the baseline does not have yet and that go with it, by name.

    Args:
        recipe: of the baseline's trials.
        epochs: of the baseline's trials, of which "shorter" has half.
        asked: epochs of the recipe that trials stand for, likewise.
        can_drop: whether the network that trials stand for can leave out branches.
        suspects: pictures of the pool with labels that are probably wrong, where these can be left out of a run.
        copies: pictures of the pool that are copies of others, likewise.
    """
    decay = STRONGER_DECAY * recipe.weight_decay or (0.05 if recipe.optimizer in ("adam", "adamw") else 5e-4)
    dropped = {"drop_path": 0.1} if can_drop and zoo.variant(recipe.model, recipe.spec).can_drop_branches else {}
    robust: dict[str, Any] = {"loss": "gce", "gce_q": 0.5, "label_smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0}
    if recipe.balance == "weights":
        robust["balance"] = "sampling"
    found = [
        _of("robust loss", robust) if recipe.loss != "gce" else None,
        _of("label smoothing", {"label_smoothing": 0.1}) if not recipe.label_smoothing else None,
        _of("averaged weights", {"ema": 0.99}) if not recipe.ema else None,
        _of("mixup", {"mixup": 0.2}) if not recipe.mixup else None,
        _of("cutmix", {"cutmix": 1.0}) if not recipe.cutmix else None,
        _of("erasing", {"erase": 0.25}) if not recipe.erase else None,
        _of("drop path and decay", dropped | {"weight_decay": decay}) if not recipe.drop_path else None,
        _as_small(recipe),
        _of("class weights", {"balance": "weights"}) if recipe.balance != "weights" else None,
        _of("balanced sampling", {"balance": "sampling"}) if recipe.balance != "sampling" else None,
        _of("no class weights", {"balance": "none"}) if recipe.balance == "weights" else None,
    ]
    if epochs >= MANY_EPOCHS:
        arm = Arm(name="shorter", length=SHORTER)
        found.append(Remedy(arm=arm, options={"epochs": max(1, round(asked * SHORTER))}))
    if suspects:
        found.append(Remedy(arm=Arm(name="without suspects", without=tuple(suspects)), leaves_out=("suspects",)))
    if copies:
        found.append(Remedy(arm=Arm(name="without copies", without=tuple(copies)), leaves_out=("copies",)))
    return {remedy.name: remedy for remedy in found if remedy is not None and _possible(recipe, remedy)}


def in_order(causes: Sequence[str], remedies: Mapping[str, Remedy]) -> list[Remedy]:
    """Those that the causes suggest, in turn one of each cause, and behind them the rest."""
    queues = [list(SUGGESTED[cause]) for cause in causes]
    names: list[str] = []
    while any(queues):
        names += [queue.pop(0) for queue in queues if queue]
    # The balance of classes is no remedy for anything else.
    return [remedies[name] for name in dict.fromkeys([*names, *REST]) if name in remedies]


def together(recipe: Recipe, one: Remedy, other: Remedy) -> Remedy | None:
    """Two remedies at once, unless they contradict each other."""
    if set(one.options) & set(other.options) or (one.arm.length < 1 and other.arm.length < 1):
        return None
    arm = Arm(
        name=f"{one.name} + {other.name}",
        fields=one.arm.fields | other.arm.fields,
        length=one.arm.length * other.arm.length,
        without=tuple(sorted({*one.arm.without, *other.arm.without})),
    )
    both = Remedy(arm=arm, options=one.options | other.options, leaves_out=one.leaves_out + other.leaves_out)
    return both if _possible(recipe, both) else None


def flags(options: Mapping[str, Any]) -> list[str]:
    """Fields of a recipe as options of the command line."""
    words: list[str] = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, (tuple, list)):
            words += [word for part in value for word in (option, str(part))]
        else:
            words += [option, str(value)]
    return words


def _as_small(recipe: Recipe) -> Remedy | None:
    """The optimiser, schedule, smoothing and averaging of the recipe `small`, if it has another optimiser."""
    small = recipes.for_batch(make(recipes.small(recipe.size) | {"size": recipe.size}), recipe.batch_size)
    if small.optimizer == recipe.optimizer:
        return None
    return _of("as recipe small", {name: getattr(small, name) for name in OF_SMALL})


def _of(name: str, fields: dict[str, Any]) -> Remedy:
    return Remedy(arm=Arm(name=name, fields=fields), options=dict(fields))


def _possible(recipe: Recipe, remedy: Remedy) -> bool:
    try:
        replace(recipe, **remedy.arm.fields)
    except ResvisionError:
        return False
    return True
