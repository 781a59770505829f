"""The residual block: y = relu(F(x) + x), by hand, against its definition, and its gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resvision.models import Block
from resvision.models.layers import pad_shortcut
from resvision.spec import BlockKind, ResNetSpec, Shortcut


def block(shortcut: Shortcut = "project", kind: BlockKind = "basic", index: int = 0) -> Block:
    """Block `index` of a network with two stages: 0 keeps the shape of (N, 4, H, W), 1 halves it and doubles C."""
    init = "he" if shortcut == "none" else "zero_gamma"
    spec = ResNetSpec(depths=(1, 1), widths=(4, 8), block=kind, shortcut=shortcut, init=init)
    torch.manual_seed(0)
    return Block(spec.plan()[index]).double()


def test_by_hand() -> None:
    """One channel, centre-only kernels: F(x) = 3 * relu(2 x), so y = relu(3 * relu(2 x) + x)."""
    one = Block(ResNetSpec(depths=(1,), widths=(1,)).plan()[0]).eval()
    for convolution, factor in ((one.conv1, 2.0), (one.conv2, 3.0)):
        nn.init.zeros_(convolution.weight)
        convolution.weight.data[0, 0, 1, 1] = factor
    x = torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]])
    # The norms at their start divide by sqrt(1 + 1e-5).
    scale = 1 / (1 + 1e-5)
    expected = torch.tensor([[[[6 * scale + 1, 0.0], [3 * scale + 0.5, 0.0]]]])
    assert torch.allclose(one(x), expected, atol=1e-6)


def test_by_hand_with_a_neighbour() -> None:
    """A kernel that takes the right neighbour moves the picture left: F(x) is what stood beside."""
    one = Block(ResNetSpec(depths=(1,), widths=(1,)).plan()[0]).eval()
    nn.init.zeros_(one.conv1.weight)
    nn.init.zeros_(one.conv2.weight)
    one.conv1.weight.data[0, 0, 1, 2] = 1.0
    one.conv2.weight.data[0, 0, 1, 1] = 1.0
    x = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    assert torch.allclose(one(x), torch.tensor([[[[3.0, 6.0, 4.0]]]]), atol=1e-3)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["project", "pad"])
@pytest.mark.parametrize("index", [0, 1])
def test_output_is_branch_plus_shortcut(kind: BlockKind, shortcut: Shortcut, index: int) -> None:
    tested = block(shortcut, kind, index).eval()
    x = torch.randn(2, tested.plan.in_channels, 6, 6, dtype=torch.double)
    assert torch.equal(tested(x), F.relu(tested.branch(x) + tested.shortcut(x)))
    assert tested(x).shape == (2, tested.plan.out_channels, 6 // tested.plan.stride, 6 // tested.plan.stride)


def test_identity_shortcut_is_the_input_itself() -> None:
    x = torch.randn(2, 4, 6, 6, dtype=torch.double)
    assert block().shortcut(x) is x


def test_a_plain_block_has_no_shortcut() -> None:
    tested = block("none").eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.double)
    assert torch.equal(tested(x), F.relu(tested.branch(x)))


def test_zero_gamma_makes_the_block_an_identity() -> None:
    tested = block().eval()
    tested.zero_branch()
    x = torch.randn(2, 4, 6, 6, dtype=torch.double).abs()
    assert torch.equal(tested(x), x)


def test_the_gradient_passes_the_shortcut_unchanged() -> None:
    """With F at zero, dy/dx = I: what comes in from above goes out below, whatever the weights."""
    tested = block().eval()
    tested.zero_branch()
    x = torch.rand(2, 4, 6, 6, dtype=torch.double).add(0.1).requires_grad_()
    above = torch.randn(2, 4, 6, 6, dtype=torch.double)
    tested(x).backward(above)
    assert x.grad is not None
    assert torch.allclose(x.grad, above, atol=1e-12)


def test_the_gradient_is_identity_plus_that_of_the_branch() -> None:
    """dy/dx = I + dF/dx before the last ReLU."""
    tested = block().eval()
    x = torch.randn(1, 4, 3, 3, dtype=torch.double)
    whole = torch.autograd.functional.jacobian(lambda v: tested.branch(v) + tested.shortcut(v), x).reshape(36, 36)
    branch = torch.autograd.functional.jacobian(tested.branch, x).reshape(36, 36)
    assert torch.allclose(whole, branch + torch.eye(36, dtype=torch.double), atol=1e-12)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("shortcut", ["project", "pad", "none"])
def test_gradients_are_those_of_finite_differences(kind: BlockKind, shortcut: Shortcut) -> None:
    tested = block(shortcut, kind, 1).eval()
    x = torch.randn(1, tested.plan.in_channels, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(tested, (x,), eps=1e-7, atol=1e-5, nondet_tol=0)


def test_pad_shortcut_by_hand() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = pad_shortcut(x, 3, 2)
    assert y.shape == (1, 3, 2, 2)
    assert y[0, 0].tolist() == [[0, 2], [8, 10]]
    assert y[0, 1:].abs().sum() == 0
