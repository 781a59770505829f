"""Small classifiers to export, and pictures for them."""

import numpy as np
import torch

from resvision import Classifier, Preprocess, ResNetSpec
from resvision.data.images import UInt8Array
from resvision.models import ResNet
from resvision.preprocess import Interpolation


def colourful(interpolation: Interpolation = "bilinear") -> Classifier:
    """A network of random weights for colour pictures of 16 px."""
    torch.manual_seed(0)
    spec = ResNetSpec(depths=(1, 1), widths=(4, 8), stem="cifar", shortcut="pad", num_classes=3)
    network = ResNet(spec).eval()
    torch.nn.init.normal_(network.fc.weight)
    preprocess = Preprocess(
        size=16, crop=0.875, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), interpolation=interpolation
    )
    return Classifier(network=network, preprocess=preprocess, classes=("a", "b b", "ç"), temperature=1.5)


def odd_pictures(count: int = 40) -> list[UInt8Array]:
    """Noise (H, W, 3) of many sizes."""
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in random.integers(5, 60, (count, 2)).tolist()]
