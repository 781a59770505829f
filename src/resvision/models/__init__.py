"""The residual networks, built from their plans."""

from resvision.models.block import Block
from resvision.models.resnet import ResNet

__all__ = ["Block", "ResNet"]
