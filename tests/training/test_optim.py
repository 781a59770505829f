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
    assert lr(54) == pytest.approx(0.25)  # half of the way down
    assert lr(99) == pytest.approx(0, abs=1e-12)
    assert optim.schedule(BASE, 50)[1] == 0.9


def test_constant() -> None:
    constant = dataclasses.replace(BASE, schedule="constant")
    assert [lr(step, constant) for step in (0, 9, 50, 99)] == pytest.approx([0.05, 0.5, 0.5, 0.5])


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


def test_a_step_of_sgd_by_hand() -> None:
    """Nesterov: the first step moves by lr * (1 + momentum) * gradient."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 2.0)
    optimizer = optim.build(network, dataclasses.replace(BASE, weight_decay=0.0))
    assert optim.set_step(optimizer, BASE, 9) == 0.5
    network(torch.tensor([[1.0]])).sum().backward()
    optimizer.step()
    assert network.weight.item() == pytest.approx(2.0 - 0.5 * 1.9)


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
