"""LAMB against algorithm 2 of its paper, written down by hand."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from resvision import zoo
from resvision.models import ResNet
from resvision.recipe import Recipe
from resvision.training import optim
from resvision.training.checkpoint import load_checkpoint, save_checkpoint
from resvision.training.lamb import EPSILON, Lamb

RECIPE = Recipe(model="resnet8_cifar", size=8, steps=10, optimizer="lamb", lr=0.01, weight_decay=0.1)


def by_hand(weights: list[float], gradients: list[list[float]], decay: float, lrs: list[float]) -> list[float]:
    """You et al. 2019, algorithm 2, with phi(z) = z, number by number."""
    m, v = [0.0] * len(weights), [0.0] * len(weights)
    for t, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradient, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradient, strict=True)]
        r = [a / (1 - 0.9**t) / (math.sqrt(b / (1 - 0.999**t)) + EPSILON) for a, b in zip(m, v, strict=True)]
        update = [a + decay * w for a, w in zip(r, weights, strict=True)]
        trust = math.hypot(*weights) / math.hypot(*update)
        weights = [w - lr * trust * u for w, u in zip(weights, update, strict=True)]
    return weights


def test_steps_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3, 5, generator=generator))
    start = parameter.detach().flatten().tolist()
    gradients = [torch.randn(3, 5, generator=generator) * 10.0**k for k in (0, -3, 2, 0, 1)]
    lrs = [0.1, 0.2, 0.05, 0.1, 0.3]
    optimizer = Lamb([{"params": [parameter], "weight_decay": 0.2}], lr=1.0)
    for gradient, lr in zip(gradients, lrs, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient.clone()
        before = parameter.detach().clone()
        optimizer.step()
        # A step is as long as the weights are large, whatever the gradient is.
        assert (parameter - before).norm().item() == pytest.approx(lr * before.norm().item(), rel=1e-4)
    expected = by_hand(start, [gradient.flatten().tolist() for gradient in gradients], 0.2, lrs)
    assert parameter.detach().flatten().tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_steps_are_as_long_as_the_weights_are_large_with_or_without_decay(decay: float) -> None:
    torch.manual_seed(0)
    network, recipe = ResNet(zoo.get("resnet8_cifar")), dataclasses.replace(RECIPE, weight_decay=decay)
    optimizer = optim.build(network, recipe)
    rate = optim.set_step(optimizer, recipe, 0)
    before = {name: p.detach().clone() for name, p in network.named_parameters() if p.ndim > 1}
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, old in before.items():
        moved = (network.get_parameter(name) - old).norm().item()
        assert moved == pytest.approx(rate * old.norm().item(), rel=1e-3), name


def test_weights_that_are_zero_can_move() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = Lamb([{"params": [parameter], "weight_decay": 0.2}], lr=0.5)
    parameter.grad = torch.tensor([1.0, -2.0, 0.0, 5.0])
    optimizer.step()
    assert parameter.tolist() == pytest.approx([-0.5, 0.5, 0.0, -0.5], abs=1e-5)
    still = torch.nn.Parameter(torch.zeros(4))
    optimizer = Lamb([{"params": [still], "weight_decay": 0.2}], lr=0.5)
    still.grad = torch.zeros(4)
    optimizer.step()
    assert still.tolist() == [0.0] * 4


def test_norms_and_biases_take_the_step_of_adam() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(ResNet(zoo.get("resnet8_cifar")))
    ours, theirs = networks
    optimizer = optim.build(ours, RECIPE)
    free = {key: p for key, p in theirs.named_parameters() if p.ndim == 1}
    reference = torch.optim.Adam(free.values(), lr=1.0, betas=(0.9, 0.999), eps=EPSILON)
    generator = torch.Generator().manual_seed(1)
    for step in range(6):
        reference.param_groups[0]["lr"] = optim.set_step(optimizer, RECIPE, step)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        optimizer.step()
        reference.step()
    state = ours.state_dict()
    for key, parameter in free.items():
        torch.testing.assert_close(state[key], parameter.detach(), rtol=1e-5, atol=1e-6)


def test_the_state_survives_a_checkpoint(tmp_path: Path) -> None:
    def steps(network: ResNet, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for step in numbers:
            generator = torch.Generator().manual_seed(step)
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optim.set_step(optimizer, RECIPE, step)
            optimizer.step()

    torch.manual_seed(0)
    whole, resumed = ResNet(zoo.get("resnet8_cifar")), ResNet(zoo.get("resnet8_cifar"))
    optimizer = optim.build(whole, RECIPE)
    steps(whole, optimizer, range(3))
    save_checkpoint(tmp_path / "c.safetensors", whole, optimizer, {})
    steps(whole, optimizer, range(3, 6))
    optimizer = optim.build(resumed, RECIPE)
    load_checkpoint(tmp_path / "c.safetensors", resumed, optimizer)
    steps(resumed, optimizer, range(3, 6))
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in resumed.state_dict().items())


def test_momentum_is_the_first_beta() -> None:
    network = ResNet(zoo.get("resnet8_cifar"))
    recipe = dataclasses.replace(RECIPE, momentum=0.8)
    optimizer = optim.build(network, recipe)
    optim.set_step(optimizer, recipe, 0)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.999)}
