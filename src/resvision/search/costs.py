"""What a candidate costs on this machine: answers, a training step and memory; and which limits it breaks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from resvision.cost import cost
from resvision.data.reading import Batch
from resvision.errors import InputError
from resvision.measure import seconds
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Precision, Recipe
from resvision.runtime import TorchSession, device
from resvision.search.footprint import Footprint
from resvision.spec import ResNetSpec
from resvision.training import engine as engines
from resvision.training import losses, optim

AT_ONCE = 32  # pictures of the larger batch that is answered, and of the step that is timed
WATCHED = 8  # pictures of the larger of two steps whose memory is counted
ANSWERS, STEPS = 15, 3  # calls that are timed at most, of answers and of training steps
MEASUREMENTS = 4  # of each candidate: two of answers, two of steps
MOST_SECONDS = 1.0  # after which no further call of a measurement begins
LEAST_STEPS = 100  # of a training, in which anything can be learned

UNITS = {"latency_ms": "ms an answer", "train_minutes": "minutes of training", "memory_gb": "GB a training step"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a network may cost; None where nothing is asked.

    Args:
        latency_ms: of the answer to one picture, in milliseconds.
        train_minutes: how long it trains; a deeper network then sees fewer pictures.
        memory_gb: of a training step, in 10^9 bytes.
    """

    latency_ms: float | None = None
    train_minutes: float | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{field}={value:g} must be above 0 and finite")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a candidate costs. Where its latency or memory already breaks a limit the rest is not measured, and None.

    Args:
        params: trainable numbers.
        macs: multiply-adds of one picture.
        memory_gb: of a training step with the recipe's batch: weights, optimizer and activations, in 10^9 bytes.
        answer_gb: of the answer to one picture.
        latency_ms: median time of the answer to one picture in float32, in milliseconds.
        batch_ms: the same of AT_ONCE pictures.
        step_seconds: of a training step with the recipe's batch, reading not included.
        picture_seconds: the same, over the pictures in it.
        least_minutes: of LEAST_STEPS training steps.
    """

    params: int
    macs: int
    memory_gb: float
    answer_gb: float
    latency_ms: float
    batch_ms: float | None = None
    step_seconds: float | None = None
    picture_seconds: float | None = None
    least_minutes: float | None = None

    def broken(self, limits: Limits) -> dict[str, float]:
        """The limits that it breaks, by name, and what it needs of each."""
        needs = {
            "latency_ms": self.latency_ms,
            "train_minutes": self.least_minutes,
            "memory_gb": self.memory_gb,
        }
        asked = asdict(limits)
        return {name: need for name, need in needs.items() if need is not None and need > (asked[name] or float("inf"))}


def measure(spec: ResNetSpec, recipe: Recipe, preprocess: Preprocess, limits: Limits, allowed: float) -> dict[str, Any]:
    """Measures a network; for the ledger: the fields of `Costs` that are known.

    Args:
        spec: of the network.
        recipe: that trains it, with its precision decided.
        preprocess: of the pictures.
        limits: what is beyond them is not measured further.
        allowed: seconds that it should take.
    """
    counted = cost(spec, preprocess.size)
    most = min(MOST_SECONDS, allowed / MEASUREMENTS)
    torch.manual_seed(0)
    network = ResNet(spec).to(device())
    values: dict[str, Any] = {
        "params": counted.params,
        "macs": counted.macs,
        "answer_gb": _answer_bytes(network, preprocess) / 1e9,
        "latency_ms": 1000 * _answer_seconds(network, preprocess, 1, most),
        "memory_gb": _step_bytes(spec, recipe, preprocess) / 1e9,
    }
    if not Costs(**values).broken(limits):
        values["batch_ms"] = 1000 * _answer_seconds(network, preprocess, AT_ONCE, most)
        step = _step_seconds(network, recipe, preprocess, most)
        values |= {
            "step_seconds": step,
            "picture_seconds": step / recipe.batch_size,
            "least_minutes": LEAST_STEPS * step / 60,
        }
    return values


def picture_seconds(spec: ResNetSpec, recipe: Recipe, preprocess: Preprocess) -> float:
    """Seconds of training on one picture, eagerly, in the faster precision."""
    torch.manual_seed(0)
    network = ResNet(spec).to(device())
    precisions: tuple[Precision, ...] = ("bf16", "fp32") if recipe.precision is None else (recipe.precision,)
    each = (
        _step_seconds(network, replace(recipe, precision=precision), preprocess, MOST_SECONDS)
        for precision in precisions
    )
    return min(each) / recipe.batch_size


def restored(values: dict[str, Any]) -> Costs:
    """From the ledger."""
    return Costs(**{field.name: values[field.name] for field in fields(Costs) if field.name in values})


def nearest(found: Sequence[tuple[str, Costs]], limits: Limits) -> str:
    """For a message where no candidate holds the limits: which one comes nearest, and what it needs."""
    asked = asdict(limits)

    def excess(row: tuple[str, Costs]) -> float:
        return float(max(need / asked[limit] for limit, need in row[1].broken(limits).items()))

    name, costs = min(found, key=excess)
    needs = costs.broken(limits)
    given = " and ".join(f"{limit}={asked[limit]:g}" for limit in needs)
    wanted = " and ".join(f"{need:.3g} {UNITS[limit]}" for limit, need in needs.items())
    return (
        f"{given}: no candidate is within it; {name} comes nearest and needs {wanted}. Allow that, or give smaller "
        "--models, --widths or --sizes"
    )


def _answer_seconds(network: ResNet, preprocess: Preprocess, pictures: int, most: float) -> float:
    """The median time of an answer in float32, as `predict` computes it."""
    session = TorchSession(network, preprocess)
    squares = _squares(preprocess, pictures)
    return statistics.median(seconds(lambda: session(squares), repeats=ANSWERS, warmup=2, limit=most))


def _step_seconds(network: ResNet, recipe: Recipe, preprocess: Preprocess, most: float) -> float:
    """The time of a training step: what goes by the pictures, from a small batch, and what each step takes besides."""
    count = min(AT_ONCE, recipe.batch_size // recipe.accumulate)
    step, optimizer = _step(network, recipe, preprocess, count)

    def update() -> None:
        optimizer.step()
        next(network.parameters()).sum().item()  # an accelerator only queues the update

    whole = statistics.median(seconds(step, repeats=STEPS, limit=most))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    fixed = min(whole, statistics.median(seconds(update, repeats=STEPS, limit=most)))
    return fixed + (whole - fixed) * recipe.batch_size / count


def _step(
    network: ResNet, recipe: Recipe, preprocess: Preprocess, count: int
) -> tuple[Callable[[], object], torch.optim.Optimizer]:
    """A training step of so many pictures, and the optimizer that it uses."""
    classes = network.spec.num_classes
    network.train()
    recipe = replace(recipe, accumulate=1, cuda_graph=False, compile=False, channels_last=True)
    engine = engines.build(network, recipe, losses.build(recipe, [1] * classes), preprocess)
    optimizer = optim.build(network, recipe)
    batch = Batch(_squares(preprocess, count), torch.arange(count) % classes)
    return lambda: engine.step(batch, optimizer).loss.item(), optimizer


def _squares(preprocess: Preprocess, count: int) -> torch.Tensor:
    shape = (count, preprocess.size, preprocess.size, preprocess.channels)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def _step_bytes(spec: ResNetSpec, recipe: Recipe, preprocess: Preprocess) -> float:
    """The memory of a training step: of its two passes, drawn on from two small batches, or of its update, if more.

    What the passes hold grows with the pictures. In a small batch the update would hide that.
    """
    at_once = recipe.batch_size // recipe.accumulate
    larger = min(WATCHED, at_once)
    smaller = max(min(2, larger), larger // 2)  # a norm may want two pictures
    found = {count: _counted_step(spec, recipe, preprocess, count) for count in {smaller, larger}}
    each = (found[larger][0] - found[smaller][0]) / max(1, larger - smaller)
    return max(found[larger][0] + each * (at_once - larger), found[larger][1])


def _counted_step(spec: ResNetSpec, recipe: Recipe, preprocess: Preprocess, count: int) -> tuple[int, int]:
    """The memory of a training step of so many pictures: in the forward and backward pass, and in the update."""
    network = ResNet(spec).to(device())  # a step changes it
    step, optimizer = _step(network, recipe, preprocess, count)
    step()  # makes the optimizer's state, and gradients that stay, if they do
    update, optimizer.step = optimizer.step, lambda: None  # type: ignore[method-assign, assignment]
    passes = _counted(step, _held(network, optimizer))
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    return passes, _counted(update, _held(network, optimizer))


def _held(network: ResNet, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Weights, the optimizer's state, and gradients."""
    state = (value for values in optimizer.state.values() for value in values.values())
    gradients = (parameter.grad for parameter in network.parameters())
    return [*network.state_dict().values(), *(t for t in (*state, *gradients) if isinstance(t, torch.Tensor))]


def _answer_bytes(network: ResNet, preprocess: Preprocess) -> int:
    """The memory of the answer to one picture: the weights, and the most that is held beside them."""
    session, squares = TorchSession(network, preprocess), _squares(preprocess, 1)
    return _counted(lambda: session(squares), list(network.state_dict().values()))


def _counted(work: Callable[[], object], held: Sequence[torch.Tensor]) -> int:
    """What is held, and the most that is held beside it, in bytes."""
    with Footprint(held) as footprint:
        work()
    peak: int = footprint.peak
    return sum(tensor.nbytes for tensor in held) + peak
