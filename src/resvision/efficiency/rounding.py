"""Networks that learn to compute in 8 bits: while they are taught, weights and inputs of convolutions are rounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.utils import parametrize

from resvision.efficiency.prune import Batches
from resvision.models import ResNet

WEIGHT_LEVELS = 127  # on either side of zero
INPUT_LEVELS = 255  # between the least and the greatest
TINY = 1e-12


@contextlib.contextmanager
def rounded(network: ResNet, batches: Batches) -> Iterator[None]:
    """Within it convolutions and linear layers compute with what 8 bits hold; gradients pass straight through.

    Weights have a scale for each output channel, symmetric about zero; inputs have one range a layer (Jacob et al.
    2018, section 3). The scale of a norm behind is one of its channel, too, so that folding it in changes nothing.

    Args:
        network: the weights that it learns are its own.
        batches: by which the ranges of the inputs are chosen.
    """
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    ranges = _ranges(network, layers, batches)
    hooks = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _RoundedWeight())
        hooks.append(layer.register_forward_pre_hook(_RoundedInput(*ranges[layer])))
    try:
        yield
    finally:
        for layer, hook in zip(layers, hooks, strict=True):
            hook.remove()
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _RoundedWeight(nn.Module):
    """A weight (O, ...) on the 255 levels of each output channel."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        largest = weight.detach().flatten(1).abs().amax(dim=1)
        scale = (largest.clamp(min=TINY) / WEIGHT_LEVELS).reshape(-1, *[1] * (weight.ndim - 1))
        return weight + ((weight / scale).round() * scale - weight).detach()


class _RoundedInput:
    """A layer's input on 256 levels between `low` and `high`; what lies beyond is cut, and gets no gradient."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.scale = low, max(TINY, high - low) / INPUT_LEVELS

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = inputs[0].clamp(self.low, self.low + INPUT_LEVELS * self.scale)
        levels = ((x - self.low) / self.scale).round()
        return (x + (levels * self.scale + self.low - x).detach(),)


@torch.inference_mode()
def _ranges(network: ResNet, layers: Sequence[nn.Module], batches: Batches) -> dict[nn.Module, tuple[float, float]]:
    """The least and the greatest input of each layer; zero, by which borders are padded, lies between them."""
    found = dict.fromkeys(layers, (0.0, 0.0))

    def watch(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        low, high = (float(value) for value in inputs[0].aminmax())
        found[layer] = (min(found[layer][0], low), max(found[layer][1], high))

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    network.eval()
    for inputs, _ in batches:
        network(inputs)
    for hook in hooks:
        hook.remove()
    return found
