"""The learning-rate finder: where the loss breaks out, what is taken, and that nothing else changes."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_loop import stripes

from resvision import zoo
from resvision.data import sources
from resvision.data.loader import TrainingBatches
from resvision.data.readable import screen
from resvision.data.reading import Batch
from resvision.errors import DivergedError
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.recipes import OPTIMIZERS
from resvision.training import engine as engines
from resvision.training import finder, optim
from resvision.training.engine import Engine, StepResult
from resvision.training.losses import cross_entropy

PREPROCESS = Preprocess(size=8, channels=1, mean=(0.4,), std=(0.2,))
RECIPE = Recipe(
    model="resnet8_cifar",
    size=8,
    batch_size=32,
    lr="auto",
    precision="fp32",
    channels_last=True,
    compile=False,
    memory="full",
    workers=0,
)


def prepared(**fields: Any) -> tuple[Recipe, TrainingBatches, Engine]:
    recipe = dataclasses.replace(RECIPE, **fields)
    split, bad, largest = screen(sources.from_arrays(stripes(96)).splits["train"], 0.0)
    torch.manual_seed(0)
    network = ResNet(dataclasses.replace(zoo.get(recipe.model), num_classes=2, in_channels=1))
    engine = engines.build(network, recipe, cross_entropy(), PREPROCESS)
    return recipe, TrainingBatches(split, recipe, PREPROCESS, bad, largest), engine


def scripted(loss: Callable[[float], float], **fields: Any) -> tuple[Recipe, str, list[float], list[float]]:
    """What is found where the loss is a function of the kernels' rate, why, these rates, and those of the norms."""
    of_kernels, of_norms = [], []

    class Scripted(Engine):
        def step(self, batch: Batch, optimizer: torch.optim.Optimizer, step: int = 0) -> StepResult:
            rates = {p.ndim: group["lr"] for group in optimizer.param_groups for p in group["params"]}
            of_kernels.append(rates[4])
            of_norms.append(rates[1])
            return StepResult(torch.tensor(loss(rates[4])), torch.tensor(0))

    recipe, batches, engine = prepared(**fields)
    found, text = finder.find(recipe, batches, Scripted(**vars(engine)))
    return found, text, of_kernels, of_norms


def test_a_fifth_of_the_rate_of_the_lowest_loss_is_taken() -> None:
    """A valley whose bottom is at 0.3: the smoothed loss is lowest a little behind it."""
    found, text, rates, of_norms = scripted(lambda rate: 1 + abs(math.log(rate / 0.3)))
    assert rates == of_norms
    assert rates[0] == pytest.approx(1e-4)
    steps = np.diff(np.log(rates))
    assert steps == pytest.approx([math.log(30_000) / 99] * len(steps))  # exponential, to 3 in a hundred steps
    assert 0.3 / 5 < found.lr < 3 * 0.3 / 5
    assert found == dataclasses.replace(RECIPE, lr=found.lr)
    assert text.startswith(f"lr={found.lr:g}: the loss was lowest at ")
    assert text.endswith(f" in a range test of {len(rates)} steps")


def test_the_test_ends_where_the_loss_breaks_out() -> None:
    _, _, rates, _ = scripted(lambda rate: 1.0 - rate if rate < 0.1 else 50.0)
    assert rates[-2] < 0.1 <= rates[-1]
    found, _, rates, _ = scripted(lambda rate: 1.0 - rate if rate < 0.1 else math.nan)
    assert rates[-2] < 0.1 <= rates[-1]
    assert found.lr < 0.1 / 5
    _, _, rates, _ = scripted(lambda rate: 1.0 - 0.001 * rate)
    assert len(rates) == finder.STEPS
    assert rates[-1] == pytest.approx(3.0)


def test_a_loss_that_is_never_finite_is_named() -> None:
    with pytest.raises(DivergedError, match=r"the learning-rate finder met no finite loss: give --lr, or use --prec"):
        scripted(lambda rate: math.nan)


def test_the_rate_beside_muons_stays_as_it_will_be_in_the_run() -> None:
    valley = {"optimizer": "muon", "rest_lr": 0.07}
    found, _, rates, of_norms = scripted(lambda rate: 1 + abs(math.log(rate / 0.3)), **valley)
    assert rates[0] == pytest.approx(5e-5)
    assert len(set(rates)) == len(rates)
    assert of_norms == pytest.approx([0.07] * len(rates))
    assert found.rest_lr == 0.07
    recipe = dataclasses.replace(found, steps=10, warmup=0.0, schedule="constant")
    optimizer = optim.build(prepared(**valley)[2].network, recipe)
    optim.set_step(optimizer, recipe, 0)
    run = {p.ndim: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert run == {4: found.lr, 2: pytest.approx(0.07), 1: pytest.approx(0.07)}


def test_a_loss_that_only_rises_is_no_rate() -> None:
    with pytest.raises(DivergedError, match=r"met no rate at which the loss falls, from 0\.0001 to .*: give --lr"):
        scripted(lambda rate: rate)


def test_a_loss_that_falls_to_the_end_is_said() -> None:
    found, text, rates, _ = scripted(lambda rate: 1 / rate)
    assert len(rates) == finder.STEPS
    assert found.lr == pytest.approx(rates[-1] / finder.BACK, rel=0.05)
    assert text.endswith("steps, the highest that is tried")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lamb", "muon"])
def test_a_real_test_leaves_the_network_alone_and_finds_a_rate_that_learns(optimizer: str) -> None:
    recipe, batches, engine = prepared(optimizer=optimizer)
    before = {key: value.clone() for key, value in engine.network.state_dict().items()}
    found, _ = finder.find(recipe, batches, engine)
    assert all(torch.equal(value, before[key]) for key, value in engine.network.state_dict().items())
    assert isinstance(found.lr, float)
    usual = OPTIMIZERS[optimizer]["lr"]
    assert usual * finder.LOWEST < found.lr <= usual * finder.HIGHEST / finder.BACK
    assert finder.find(recipe, batches, engine)[0] == found  # the same each time
    recipe = dataclasses.replace(found, steps=30, schedule="constant")
    optimizer_of_run = optim.build(engine.network, recipe)
    losses = []
    for epoch in range(10):
        for batch in batches.epoch(epoch):
            optim.set_step(optimizer_of_run, recipe, len(losses))
            losses.append(engine.step(batch, optimizer_of_run, len(losses)).loss.item())
    assert sum(losses[-3:]) < sum(losses[:3]) / 2


def test_batches_of_which_nothing_could_be_read_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TrainingBatches.epoch

    def with_empty(self: TrainingBatches, epoch: int) -> Iterator[Batch]:
        for batch in whole(self, epoch):
            yield Batch(batch.squares[:0], batch.labels[:0])
            yield batch

    monkeypatch.setattr(TrainingBatches, "epoch", with_empty)
    recipe, batches, engine = prepared()
    found, _ = finder.find(recipe, batches, engine)
    monkeypatch.setattr(TrainingBatches, "epoch", whole)
    assert found == finder.find(*prepared())[0]
