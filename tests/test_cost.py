"""Cost read off the plan, against the networks themselves."""

from dataclasses import replace

import pytest
import torch

from resvision import zoo
from resvision.cost import cost
from resvision.errors import SpecError
from resvision.models import ResNet
from resvision.spec import ResNetSpec

# Trainable parameters: torchvision's for the ImageNet networks, the papers' or their authors' for the others.
PARAMS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnet20_cifar": 269_722,
    "resnet1202_cifar": 19_421_274,
    "wrn28_10": 36_479_194,
    "resnext29_8x64d": 34_426_698,
    "revnet38_cifar": 464_858,  # 0.46M, 1.73M and 1.75M in Gomez et al. 2017, table 2
    "revnet110_cifar": 1_729_162,
    "revnet164_cifar": 1_748_746,
}
# The "GFLOPS" column of torchvision's model tables, at 224 px.
GMACS = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "resnext50_32x4d": 4.230,
    "resnext101_32x8d": 16.414,
    "resnext101_64x4d": 15.460,
    "wide_resnet50_2": 11.398,
    "wide_resnet101_2": 22.753,
}


@pytest.mark.parametrize(("name", "params"), PARAMS.items())
def test_parameters(name: str, params: int) -> None:
    assert cost(zoo.get(name), 32).params == params


# One of each kind of wiring.
FAMILY = (
    *("resnet18", "resnet50", "resnext50_32x4d", "resnet10t", "resnet26d", "seresnet18", "resnetrs50", "resnetv2_18"),
    *("resnetv2_50", "plain18", "resnet20_cifar", "resnet164_cifar", "preact20_cifar", "wrn16_4", "plain20_cifar"),
    *("seresnet20_cifar", "revnet38_cifar", "revnet164_cifar", "revnet104"),
)


SPECS = {name: zoo.get(name) for name in FAMILY} | {
    "avg_pad": replace(zoo.get("resnet20_cifar"), shortcut="avg_pad"),
    "no norm": replace(zoo.get("plain20_cifar"), norm="none", init="torch"),
    "fixup": replace(zoo.get("resnet20_cifar"), norm="none", init="fixup"),
    "fixup, bottleneck": replace(zoo.get("resnet50"), norm="none", init="fixup"),
    "fixup, deep stem": replace(zoo.get("resnet26d"), norm="none", init="fixup"),
    "skipinit": replace(zoo.get("resnet50"), norm="none", init="skipinit"),
    "skipinit, pre-activation": replace(zoo.get("wrn16_4"), norm="none", init="skipinit"),
    "silu, deep stem": replace(zoo.get("resnet26d"), activation="silu"),
    "first stride": replace(zoo.get("resnet20_cifar"), first_stride=2),
    "mish": replace(zoo.get("resnet18"), activation="mish"),
    "gelu, pre-activation": replace(zoo.get("resnetv2_50"), activation="gelu"),
    "experts": replace(zoo.get("resnet20_cifar"), experts=4),
    "experts, bottleneck": replace(zoo.get("resnet50"), experts=3),
    "experts with biases": replace(zoo.get("resnet20_cifar"), experts=2, norm="none", init="skipinit"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_parameters_are_those_of_the_network(spec: ResNetSpec) -> None:
    network = ResNet(spec)
    assert sum(p.numel() for p in network.parameters()) == cost(spec, 32).params


@pytest.mark.parametrize(("name", "gmacs"), GMACS.items())
def test_multiply_adds(name: str, gmacs: float) -> None:
    assert round(cost(zoo.get(name), 224).macs / 1e9, 3) == gmacs


def test_costs_by_hand() -> None:
    spec = ResNetSpec(depths=(1,), widths=(2,), stem="cifar", num_classes=3, in_channels=1)
    found = cost(spec, 4)
    convs = 2 * 1 * 9 + 2 * (2 * 2 * 9)
    assert found.params == convs + 3 * 2 * 2 + 3 * (2 + 1)
    assert found.macs == convs * 16 + 2 * 3
    picture, layer = 1 * 16, 2 * 16
    assert found.activation_bytes == 4 * (picture + 3 * 2 * layer + 2)


def test_conditional_convolutions_by_hand() -> None:
    """Against one kernel: the router, and the mixing of the kernels for every picture (Yang et al. 2019, section 3)."""
    spec = ResNetSpec(depths=(1,), widths=(2,), stem="cifar", num_classes=3, in_channels=1)
    plain, mixed = cost(spec, 4), cost(replace(spec, experts=5), 4)
    kernel, router = 2 * 2 * 9, 2 * 5 + 5
    assert mixed.params - plain.params == 2 * (4 * kernel + router)
    assert mixed.macs - plain.macs == 2 * (5 * kernel + 2 * 5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_activation_memory_is_what_autograd_keeps(spec: ResNetSpec) -> None:
    size, count = 64, 2
    network = ResNet(spec)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(torch.randn(count, 3, size, size))
    measured = sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in own)
    assert cost(spec, size).activation_bytes * count == pytest.approx(measured, rel=0.05)


def test_a_size_of_nothing_is_refused() -> None:
    with pytest.raises(SpecError, match="size=0"):
        cost(zoo.get("resnet18"), 0)
