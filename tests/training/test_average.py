"""The moving average of the weights: numbers by hand, and what it is made of."""

import copy
import dataclasses

import pytest
import torch

from resvision import zoo
from resvision.models import ResNet
from resvision.training.average import Average


def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet(zoo.get("resnet8_cifar"))


def moved(made: ResNet, value: float) -> None:
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(value)


def test_by_hand() -> None:
    """average <- d average + (1 - d) weights, with d = (1 + step) / (10 + step) until that is more than the decay."""
    made = network()
    moved(made, 1.0)
    average = Average(made, 0.4)
    expected = 1.0
    for step, weights in enumerate((2.0, 5.0, -3.0, 0.5, 7.0, 7.0, 1.0), start=1):
        moved(made, weights)
        average.update(step)
        d = min(0.4, (1 + step) / (10 + step))
        assert d == (0.4 if step >= 5 else (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * weights
        for parameter in average.network.parameters():
            assert torch.allclose(parameter, torch.tensor(expected), atol=1e-6)
    assert made.fc.bias[0].item() == 1.0  # the network itself stays as it is


def test_statistics_of_norms_are_averaged_and_what_is_counted_is_copied() -> None:
    made = network()
    average = Average(made, 0.9)
    for step in range(1, 4):
        made(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step)))
        before = copy.deepcopy(average.network.state_dict())
        average.update(step)
        d = (1 + step) / (10 + step)
        for key, value in average.network.state_dict().items():
            followed = made.state_dict()[key]
            if value.is_floating_point():
                torch.testing.assert_close(value, d * before[key] + (1 - d) * followed)
            else:
                assert value == followed == step
    assert "layer1.0.bn1.running_var" in average.network.state_dict()


def test_an_average_of_equal_weights_is_those_weights() -> None:
    made = network()
    average = Average(made, 0.999)
    for step in range(1, 30):
        average.update(step)
    state = made.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in average.network.state_dict().items())


def test_it_is_a_network_of_its_own_in_the_same_memory_order() -> None:
    made = network()
    for parameter in made.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    average = Average(made, 0.9)
    assert average.network.spec == made.spec
    for ours, theirs in zip(average.network.parameters(), made.parameters(), strict=True):
        assert ours.data_ptr() != theirs.data_ptr()
        assert ours.stride() == theirs.stride()
        assert not ours.requires_grad
        assert theirs.requires_grad


@pytest.mark.parametrize("name", ["revnet38_cifar", "wrn16_4"])
def test_any_network_can_be_averaged(name: str) -> None:
    made = ResNet(dataclasses.replace(zoo.get(name), num_classes=3))
    average = Average(made, 0.5)
    moved(made, 2.0)
    for step in range(1, 60):
        average.update(step)
    assert torch.allclose(average.network.fc.weight, torch.tensor(2.0))
