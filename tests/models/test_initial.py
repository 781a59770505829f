"""Initial weights, and the networks without normalisation that depend on them."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resvision import zoo
from resvision.models import ResNet
from resvision.spec import Init, ResNetSpec

BASIC, BOTTLENECK = zoo.get("resnet20_cifar"), zoo.get("resnet50")


def without_norm(spec: ResNetSpec, init: Init) -> ResNet:
    torch.manual_seed(0)
    return ResNet(replace(spec, norm="none", init=init))


@pytest.mark.parametrize("init", ["he", "glorot", "torch"])
def test_standard_deviations(init: Init) -> None:
    """He: 2 / fan_out; Glorot: 2 / (fan_in + fan_out); PyTorch's default: 1 / (3 fan_in). Variances of a 128x64x3x3."""
    torch.manual_seed(0)
    network = ResNet(replace(zoo.get("resnet18"), init=init))
    weight = network.get_parameter("layer2.0.conv1.weight")
    fan_in, fan_out = 64 * 9, 128 * 9
    variance = {"he": 2 / fan_out, "glorot": 2 / (fan_in + fan_out), "torch": 1 / (3 * fan_in)}[init]
    assert weight.std().item() == pytest.approx(math.sqrt(variance), rel=0.01)


@pytest.mark.parametrize(("spec", "exponent"), [(BASIC, -1 / 2), (BOTTLENECK, -1 / 4)])
def test_fixup_scales_down_with_the_depth(spec: ResNetSpec, exponent: float) -> None:
    """Zhang et al. 2019, section 3: L^(-1 / (2m - 2)); the last convolution of F and the last layer begin at zero."""
    network = without_norm(spec, "fixup")
    branches = len(spec.plan())
    block = list(network.blocks())[-1]
    for index, plan in enumerate(block.plan.convs, start=1):
        weight = block.get_parameter(f"conv{index}.weight")
        he = math.sqrt(2 / (plan.out_channels * plan.kernel_size**2))
        expected = 0.0 if index == len(block.plan.convs) else he * branches**exponent
        assert weight.std().item() == pytest.approx(expected, rel=0.03)
    assert network.fc.weight.abs().max() == 0
    assert block.scale.item() == 1
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def test_fixup_by_its_definition() -> None:
    """relu(scale * conv2(relu(conv1(x + b1a) + b1b) + b2a) + b2b + x), Zhang et al. 2019, figure 1."""
    network = without_norm(BASIC, "fixup").double()
    block = list(network.blocks())[1]
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 16, 5, 5, dtype=torch.double)
    b1a, b1b, b2a, b2b = (block.get_parameter(f"shift{name}.bias") for name in ("1a", "1b", "2a", "2b"))
    conv1, conv2 = block.get_submodule("conv1"), block.get_submodule("conv2")
    y = block.scale * conv2((conv1(x + b1a) + b1b).relu() + b2a) + b2b
    torch.testing.assert_close(block(x), (y + x).relu(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet50", "preact20_cifar", "wrn16_4", "resnet26d"])
def test_skipinit_begins_as_an_identity_and_learns_its_scales(name: str) -> None:
    """De & Smith 2020, section 3."""
    network = without_norm(zoo.get(name), "skipinit").train()
    first = list(network.blocks())[1]
    x = torch.rand(2, first.plan.in_channels, 6, 6)
    assert torch.equal(first(x), x)
    network(torch.randn(4, 3, 32, 32)).logsumexp(dim=1).mean().backward()
    assert all(block.scale.grad is not None and block.scale.grad.abs() > 0 for block in network.blocks())


@pytest.mark.parametrize("init", ["fixup", "skipinit"])
def test_a_thousand_layers_without_normalisation_stay_finite(init: Init) -> None:
    """He's initialisation explodes there, which the test shows beside it."""
    x = torch.randn(2, 3, 8, 8)
    deep = zoo.get("resnet1202_cifar")
    with torch.no_grad():
        assert without_norm(deep, init)(x).isfinite().all()
        assert not without_norm(deep, "he")(x).isfinite().all()


@pytest.mark.parametrize("init", ["fixup", "skipinit"])
def test_networks_without_normalisation_learn(init: Init) -> None:
    network = without_norm(zoo.get("resnet8_cifar"), init).train()
    targets = torch.arange(18) % 3
    x = torch.randn(18, 3, 16, 16) + F.one_hot(targets, 3)[:, :, None, None]  # noise of three colours
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(network(x), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
