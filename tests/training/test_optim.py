"""Learning rates by hand, and what decays."""

import dataclasses
import math

import pytest
import torch

from resvision import zoo
from resvision.models import ResNet
from resvision.recipe import Recipe
from resvision.training import optim

BASE = Recipe(model="resnet8_cifar", size=8, steps=100, lr=0.5, warmup=0.1, momentum=0.9)


def lr(step: int, recipe: Recipe = BASE) -> float:
    return optim.schedule(recipe, step)[0]


def test_cosine() -> None:
    assert lr(0) == pytest.approx(0.05)
    assert lr(4) == pytest.approx(0.25)
    assert lr(9) == pytest.approx(0.5)  # the peak, at the end of the warm-up
    assert lr(10) == pytest.approx(0.5)
    assert lr(55) == pytest.approx(0.25)  # half of the way down
    assert lr(99) == pytest.approx(0.25 * (1 + math.cos(math.pi * 89 / 90)))
    assert optim.schedule(BASE, 50)[1] == 0.9


def test_constant() -> None:
    constant = dataclasses.replace(BASE, schedule="constant")
    assert [lr(step, constant) for step in (0, 9, 50, 99)] == pytest.approx([0.05, 0.5, 0.5, 0.5])


def test_linear() -> None:
    linear = dataclasses.replace(BASE, schedule="linear")
    expected = [0.05, 0.5, 0.5, 0.5 * 51 / 90, 0.5 * 2 / 90, 0.5 / 90]
    assert [lr(step, linear) for step in (0, 9, 10, 49, 98, 99)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "steps", "onecycle"])
def test_the_only_step_of_a_run_learns(schedule: str) -> None:
    assert lr(0, dataclasses.replace(BASE, steps=1, warmup=0.0, schedule=schedule)) > 0  # type: ignore[arg-type]


def test_steps() -> None:
    """A tenth behind each milestone, from its very step on."""
    steps = dataclasses.replace(BASE, schedule="steps", milestones=(0.5, 0.75), warmup=0.0)
    assert [lr(step, steps) for step in (0, 49, 50, 74, 75, 99)] == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    warmed = dataclasses.replace(steps, warmup=0.1, milestones=(0.9,))
    assert [lr(step, warmed) for step in (0, 9, 89, 90)] == pytest.approx([0.05, 0.5, 0.5, 0.05])
    assert lr(99, dataclasses.replace(steps, milestones=())) == 0.5


def test_onecycle() -> None:
    onecycle = dataclasses.replace(BASE, schedule="onecycle")
    rates, momenta = zip(*(optim.schedule(onecycle, step) for step in range(100)), strict=True)
    assert max(rates) == rates[9] == pytest.approx(0.5)
    assert momenta[9] == pytest.approx(0.8)  # momentum runs against the learning rate
    assert rates[4] == pytest.approx(0.5 * (0.04 + 0.96 * (1 - math.cos(math.pi / 2)) / 2))
    assert rates[-1] == pytest.approx(0.5 * 1e-5)
    assert momenta[-1] == pytest.approx(0.9)


def test_without_warmup_the_peak_comes_first() -> None:
    assert lr(0, dataclasses.replace(BASE, warmup=0.0, schedule="constant")) == 0.5


# ---- growing pictures ----


def sizes(first_size: int | None, size: int, epochs: int, steps_an_epoch: int = 10) -> list[int]:
    recipe = dataclasses.replace(BASE, size=size, first_size=first_size, steps=epochs * steps_an_epoch)
    return [optim.picture_size(recipe, epoch * steps_an_epoch, steps_an_epoch) for epoch in range(epochs)]


def test_pictures_grow_until_six_tenths_of_the_run() -> None:
    assert sizes(64, 128, 10) == [64, 64, 96, 96, 96, 128, 128, 128, 128, 128]  # 64, 74.7, 85.3, 96, 106.7, 117.3
    assert sizes(None, 128, 3) == [128, 128, 128]
    assert sizes(128, 128, 3) == [128, 128, 128]


@pytest.mark.parametrize(
    ("first", "size", "begins"),
    [(64, 200, 64), (100, 224, 100), (112, 224, 128), (70, 75, 70), (8, 16, 8), (48, 64, 48), (20, 28, 20)],
)
def test_pictures_of_any_size_begin_small_and_reach_their_full_size(first: int, size: int, begins: int) -> None:
    """Also where these are no multiples of 32."""
    found = sizes(first, size, 20)
    assert found[0] == begins
    assert found == sorted(found)
    assert found[12:] == [size] * 8


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_the_last_epoch_has_full_pictures_in_the_shortest_run(epochs: int) -> None:
    found = sizes(64, 128, epochs)
    assert found[-1] == 128
    assert found[0] == (128 if epochs == 1 else 64)
    # An end within an epoch, too.
    recipe = dataclasses.replace(BASE, size=128, first_size=64, steps=epochs * 10 - 3)
    assert optim.picture_size(recipe, (epochs - 1) * 10, 10) == 128


# ---- optimisers ----


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb", "muon"])
def test_norms_and_biases_do_not_decay(name: str) -> None:
    network = ResNet(zoo.get("resnet8_cifar"))
    recipe = dataclasses.replace(BASE, optimizer=name, weight_decay=0.01)
    groups = optim.build(network, recipe).param_groups
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    decaying = {names[id(p)] for group in groups if group["weight_decay"] == 0.01 for p in group["params"]}
    free = {names[id(p)] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {key.split(".")[-2][:2] for key in decaying} == {"co", "fc"}
    assert all("bn" in key or key == "fc.bias" for key in free)
    assert sorted([*decaying, *free]) == sorted(names.values())


def test_biases_of_experts_do_not_decay_either() -> None:
    network = ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), experts=3))
    groups = optim.build(network, dataclasses.replace(BASE, weight_decay=0.01)).param_groups
    free = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    biases = {key: id(p) for key, p in network.named_parameters() if key.endswith("bias")}
    assert set(biases.values()) <= free
    assert len(biases) > 1


def test_a_step_of_sgd_by_hand() -> None:
    """Nesterov: the first step moves by lr * (1 + momentum) * gradient."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 2.0)
    optimizer = optim.build(network, dataclasses.replace(BASE, weight_decay=0.0))
    assert optim.set_step(optimizer, BASE, 9) == 0.5
    network(torch.tensor([[1.0]])).sum().backward()
    optimizer.step()
    assert network.weight.item() == pytest.approx(2.0 - 0.5 * 1.9)


def test_adam_decays_the_weights_beside_the_step() -> None:
    """Decoupled (Loshchilov & Hutter 2017): w <- w - lr (m / sqrt(v) + decay w); the first step is the sign."""
    for name in ("adam", "adamw"):
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(network.weight, 2.0)
        recipe = dataclasses.replace(BASE, optimizer=name, weight_decay=0.1)
        optimizer = optim.build(network, recipe)
        optim.set_step(optimizer, recipe, 9)
        network(torch.tensor([[3.0]])).sum().backward()
        optimizer.step()
        assert network.weight.item() == pytest.approx(2.0 - 0.5 * (1 + 0.1 * 2.0))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lamb"])
def test_learning_rates_fall_from_stage_to_stage(name: str) -> None:
    recipe = dataclasses.replace(BASE, optimizer=name, pretrained="somewhere", lr_decay=0.5, schedule="constant")
    for model, stages in (("resnet10t", 4), ("preact20_cifar", 3), ("resnetrs50", 4)):
        network = ResNet(zoo.get(model))
        optimizer = optim.build(network, recipe)
        assert optim.set_step(optimizer, recipe, 50) == 0.5
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for key, parameter in network.named_parameters():
            room = key.split(".")[0]
            if room.startswith("layer"):
                place = stages + 1 - int(room.removeprefix("layer"))
            else:
                place = {"fc": 0, "norm": 1}.get(room, stages)  # the stem learns as the first stage does
            assert rates[id(parameter)] == 0.5 * 0.5**place, key
