"""The whole network: shapes, initialisation, determinism."""

import math

import pytest
import torch
from torch import nn

from resvision import zoo
from resvision.models import ResNet
from resvision.spec import ResNetSpec


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [("resnet18", 64, (512, 2)), ("resnet50", 64, (2048, 2)), ("resnet20_cifar", 32, (64, 8))],
)
def test_shapes(name: str, size: int, features: tuple[int, int]) -> None:
    network = ResNet(zoo.get(name)).eval()
    x = torch.randn(2, 3, size, size)
    y = network.stem(x)
    for stage in network.stages():
        y = stage(y)
    channels, side = features
    assert y.shape == (2, channels, side, side)
    assert torch.equal(network(x), network.head(y))
    assert network(x).shape == (2, network.spec.num_classes)


def test_odd_and_grey_pictures() -> None:
    network = ResNet(
        ResNetSpec(depths=(1, 1, 1), widths=(4, 8, 16), stem="cifar", shortcut="pad", in_channels=1)
    ).eval()
    assert network(torch.randn(1, 1, 9, 9)).shape == (1, 1000)


def test_he_initialisation() -> None:
    """Standard deviation sqrt(2 / fan_out), He et al. 2015 (b), equation 14."""
    torch.manual_seed(0)
    network = ResNet(zoo.get("resnet18"))
    for convolution in (network.conv1, network.get_submodule("layer3.1.conv2")):
        assert isinstance(convolution, nn.Conv2d)
        fan_out = convolution.out_channels * math.prod(convolution.kernel_size)
        assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.03)
        assert convolution.weight.mean().item() == pytest.approx(0, abs=0.003)


def test_only_the_last_norm_of_each_block_starts_at_zero() -> None:
    network = ResNet(zoo.get("resnet50"))
    for block in network.blocks():
        assert block.get_parameter("bn3.weight").abs().max() == 0
        assert block.get_parameter("bn1.weight").min() == 1
    assert network.bn1.weight.min() == 1


def test_a_residual_network_starts_as_a_shallow_one() -> None:
    """With every branch at zero, two networks of different depth compute the same from the same ends."""
    shallow = ResNet(ResNetSpec(depths=(1, 1), widths=(4, 8), stem="cifar", shortcut="pad")).eval()
    deep = ResNet(ResNetSpec(depths=(5, 7), widths=(4, 8), stem="cifar", shortcut="pad")).eval()
    ends = ("conv1.", "bn1.", "fc.")
    deep.load_state_dict({k: v for k, v in shallow.state_dict().items() if k.startswith(ends)}, strict=False)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(shallow(x), deep(x), atol=1e-6)


def test_the_same_seed_gives_the_same_weights() -> None:
    def state() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        return ResNet(zoo.get("resnet20_cifar")).state_dict()

    first, second = state(), state()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_plain_and_residual_differ_by_the_shortcut_alone() -> None:
    plain, residual = ResNet(zoo.get("plain20_cifar")), ResNet(zoo.get("resnet20_cifar"))
    assert plain.state_dict().keys() == residual.state_dict().keys()
