"""Conditional convolution, padded shortcuts, and branches that are left out."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from resvision import zoo
from resvision.errors import SpecError
from resvision.models import ResNet
from resvision.models.layers import ConditionalConv2d, drop_path, pad_shortcut
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


# ---- drop path ----


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_whole_branches_are_left_out_and_the_mean_is_kept(rate: float) -> None:
    torch.manual_seed(0)
    y = drop_path(torch.ones(20_000, 2, 3, 3), rate)
    kept = y[:, 0, 0, 0] > 0
    assert torch.equal(y, y[:, :1, :1, :1].expand_as(y))  # a picture's branch as a whole
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - rate)))
    assert kept.float().mean().item() == pytest.approx(1 - rate, abs=0.01)
    assert y.mean().item() == pytest.approx(1, abs=0.05 if rate == 0.9 else 0.02)
    assert drop_path(torch.ones(2, 1, 1, 1, dtype=torch.bfloat16), rate).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["resnet20_cifar", "preact20_cifar", "resnet26d", "wrn16_4", "seresnet20_cifar"])
def test_the_rate_grows_from_block_to_block(name: str) -> None:
    network = ResNet(zoo.get(name))
    network.set_drop_path(0.3)
    rates = [block.drop_path for block in network.blocks()]
    assert rates == pytest.approx([0.3 * (i + 1) / len(rates) for i in range(len(rates))])
    network.set_drop_path(0.0)
    assert {block.drop_path for block in network.blocks()} == {0.0}
    one = ResNet(replace(zoo.get("resnet8_cifar"), depths=(1,), widths=(16,)))
    one.set_drop_path(0.3)
    assert [block.drop_path for block in one.blocks()] == [0.3]


def test_a_block_without_its_branch_is_its_shortcut() -> None:
    for name in ("resnet20_cifar", "preact20_cifar"):
        network = ResNet(zoo.get(name))
        block = list(network.blocks())[1]
        block.drop_path = 0.5
        x = torch.rand(64, 16, 8, 8, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        alone = (block(x) == x).all(dim=(1, 2, 3))
        assert 20 < alone.sum() < 44


@pytest.mark.parametrize("name", ["resnet20_cifar", "preact20_cifar", "resnetrs50"])
def test_evaluation_leaves_nothing_out(name: str) -> None:
    torch.manual_seed(0)
    network = ResNet(zoo.get(name)).eval()
    for block in network.blocks():  # branches that begin as zero would hide what is left out
        torch.nn.init.ones_(block.get_parameter(f"bn{len(block.plan.convs)}.weight"))
    x = torch.randn(8, 3, 32, 32)
    before = network(x)
    network.set_drop_path(0.9)
    assert torch.equal(network(x), before)
    network.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize(("name", "kind"), [("plain20_cifar", "plain"), ("revnet38_cifar", "reversible")])
def test_networks_that_need_their_branches_refuse(name: str, kind: str) -> None:
    network = ResNet(zoo.get(name))
    with pytest.raises(SpecError) as caught:
        network.set_drop_path(0.1)
    assert str(caught.value) == f"drop_path=0.1: a {kind} network cannot leave out its branches"
    network.set_drop_path(0.0)
    assert not network.spec.can_drop_branches
    assert zoo.get("resnet20_cifar").can_drop_branches
