"""Conditional convolution: one kernel for each picture, mixed from those of the experts."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from resvision import zoo
from resvision.models import ResNet
from resvision.models.layers import ConditionalConv2d, pad_shortcut
from resvision.spec import ConvPlan


@pytest.mark.parametrize(("groups", "stride", "bias"), [(1, 1, False), (2, 2, True)])
def test_each_picture_has_its_own_mixture(groups: int, stride: int, bias: bool) -> None:
    """conv(x_n, sum_e r_ne W_e), picture by picture (Yang et al. 2019, equation 1)."""
    torch.manual_seed(0)
    plan = ConvPlan(
        name="c", in_channels=4, out_channels=6, kernel_size=3, stride=stride, groups=groups, bias=bias, experts=3
    )
    layer = ConditionalConv2d(plan).double()
    x = torch.randn(5, 4, 7, 7, dtype=torch.double)
    routes = torch.sigmoid(layer.router(x.mean((2, 3))))
    for picture, route, found in zip(x, routes, layer(x), strict=True):
        kernel = sum(r * w for r, w in zip(route, layer.weight, strict=True))
        shift = None if layer.bias is None else route @ layer.bias
        expected = F.conv2d(picture[None], kernel, shift, stride=stride, padding=1, groups=groups)[0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_networks_with_experts_take_any_spec() -> None:
    for name in ("resnet20_cifar", "resnext50_32x4d", "preact20_cifar", "revnet38_cifar"):
        network = ResNet(replace(zoo.get(name), experts=2))
        x = torch.randn(2, 3, 32, 32)
        network.eval()
        together = network(x)
        assert torch.allclose(together[:1], network(x[:1]), atol=1e-4)  # no picture depends on another
        together.mean().backward()
        router = next(p for key, p in network.named_parameters() if key.endswith("conv2.router.weight"))
        assert router.grad is not None


def test_averaged_padding_by_hand() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = pad_shortcut(x, 3, 2, "both", average=True)
    assert y[0, 1].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert y[0, 0].abs().sum() == y[0, 2].abs().sum() == 0
