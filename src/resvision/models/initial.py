"""How the weights of a network begin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from resvision.models.block import Block

if TYPE_CHECKING:
    from resvision.models.resnet import ResNet


def initialise(network: ResNet) -> None:
    """Gives a new network the first weights that its spec's `init` says, from torch's random state.

    Convolutions start as in He et al. 2015 (b), section 2.2, in the mode that keeps the size of the gradients ("fan
    out"); with "glorot" as in Glorot & Bengio 2010, equation 16; with "torch" as PyTorch makes them. Where a scheme has
    the branches begin at zero, every block is an identity at first. The layers of squeeze-and-excitation, the routers
    of conditional convolutions and the last layer begin as torch's, but for Fixup, where the last one is zero.
    """
    init = network.spec.init
    if init == "torch":
        return
    blocks = [module for module in network.modules() if isinstance(module, Block)]  # those of early exits, too
    gates = {layer for block in blocks if block.plan.se_width for layer in block.se.modules()}
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module not in gates:
            if init == "glorot":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if init in ("zero_gamma", "fixup", "skipinit"):
        for block in blocks:
            block.zero_branch()
    if init == "fixup":
        _scale_down(network, blocks)


def _scale_down(network: ResNet, blocks: Iterable[Block]) -> None:
    """Fixup: the inner weights of all L branches times L^(-1 / (2m - 2)), m being the layers of one (section 3)."""
    branches = len(network.spec.plan())
    for block in blocks:
        layers = len(block.plan.convs)
        for index in range(1, layers):
            block.get_parameter(f"conv{index}.weight").data.mul_(branches ** (-1 / (2 * layers - 2)))
    nn.init.zeros_(network.fc.weight)
    nn.init.zeros_(network.fc.bias)
