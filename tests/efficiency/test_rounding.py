"""Learning to compute in 8 bits: what is rounded, what is learned, and what is left afterwards."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resvision import zoo
from resvision.efficiency.rounding import rounded
from resvision.models import ResNet


@pytest.fixture
def network() -> ResNet:
    torch.manual_seed(0)
    made = ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=4))
    with torch.no_grad():  # a network as it begins computes y = x in every block
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
    return made.eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, 16, 16, generator=generator), torch.arange(16) % 4


def test_weights_and_inputs_have_as_many_levels_as_8_bits(network: ResNet) -> None:
    x, labels = batch()
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    with rounded(network, [(x, labels)]), torch.no_grad():
        layers = {n: m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
        for name, layer in layers.items():
            layer.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (i[0], m.weight)}))
        network(x)
    assert len(seen) == len(layers) > 7
    for entered, weight in seen.values():
        assert 30 < len(entered.unique()) <= 256
        assert all(len(channel.unique()) <= 255 for channel in weight)
        largest = weight.flatten(1).abs().amax(1)
        steps = weight.flatten(1) / largest[:, None] * 127
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)


def test_the_network_stays_its_own(network: ResNet) -> None:
    before = copy.deepcopy(network.state_dict())
    x, labels = batch()
    exact = network(x)
    with rounded(network, [(x, labels)]):
        near = network(x)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())
    assert torch.equal(network(x), exact)
    assert 0 < (near - exact).abs().max() < 0.2 * exact.std()


def test_gradients_pass_straight_through(network: ResNet) -> None:
    x, labels = batch()
    F.cross_entropy(network(x), labels).backward()
    exact = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    network.zero_grad()
    with rounded(network, [(x, labels)]):
        F.cross_entropy(network(x), labels).backward()
        near = {n.replace("parametrizations.weight.original", "weight"): p.grad for n, p in network.named_parameters()}
    assert near.keys() == exact.keys()
    for name, gradient in exact.items():
        assert F.cosine_similarity(near[name].flatten(), gradient.flatten(), dim=0) > 0.9, name


def test_what_lies_beyond_the_range_is_cut_and_gets_no_gradient() -> None:
    network = ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=4)).eval()
    x, labels = batch()
    with rounded(network, [(x, labels)]):
        far = (3 * x).requires_grad_()
        network(far).sum().backward()
        outside = (far < x.min()) | (far > x.max())
        assert outside.any()
        assert (far.grad[outside] == 0).all()
        assert (far.grad[~outside] != 0).any()


def test_what_it_learns_is_kept(network: ResNet) -> None:
    """Teaching moves the weights so that rounding costs less."""
    x, labels = batch()
    teacher = network(x).detach()
    with rounded(network, [(x, labels)]):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        losses = []
        for _ in range(30):
            loss = F.mse_loss(network(x), teacher)
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        learned = network.conv1.weight.detach().clone()
        own = network.conv1.parametrizations.weight.original.detach().clone()
    assert losses[-1] < 0.5 * losses[0]
    assert torch.equal(network.conv1.weight, own)
    assert not torch.equal(learned, own)
