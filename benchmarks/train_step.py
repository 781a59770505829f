"""Training speed, side by side in one run: resvision as it trains, against the plain way (fp32, NCHW, eager).

    python benchmarks/train_step.py [--pairs 5] [--networks resnet18 resnet50 resnet20_cifar]

Synthetic pictures, SGD with momentum. The plain resnet18 and resnet50 are torchvision's own; the plain resnet20_cifar
is the twin below. Each pair times one after the other, so that a machine whose speed drifts slows both; the ratio is
the median over the pairs. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from resvision import zoo
from resvision.data.loader import Batch
from resvision.measure import median, now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import engine, optim
from resvision.training.loop import versions
from resvision.training.losses import cross_entropy

CASES = {"resnet18": (128, 64), "resnet50": (128, 64), "resnet20_cifar": (32, 128)}  # picture size, batch
CLASSES = 10
LR = 0.01


class PlainBlock(nn.Module):
    """The basic block as a tutorial writes it."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.added = stride, out_channels - channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(y + x)


class PlainResNet20(nn.Module):
    """ResNet-20 for CIFAR as a tutorial writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        shapes = [(16, 16, 1)] * 3 + [(16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
        self.blocks = nn.Sequential(*(PlainBlock(*shape) for shape in shapes))
        self.fc = nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


@cache
def define_torchvision_operators() -> torch.library.Library | None:
    """Two operators that torchvision's wheel looks for and that do not load beside the CPU build of torch."""
    if torch.cuda.is_available():
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # the definitions live as long as this object, which the cache keeps


def plain_network(name: str) -> nn.Module:
    """The peer's network."""
    if name == "resnet20_cifar":
        return PlainResNet20()
    define_torchvision_operators()
    import torchvision

    return torchvision.models.get_model(name, num_classes=CLASSES)


def plain_step(name: str, batch: Batch) -> Callable[[], None]:
    """A training step of the plain way, on pictures that are float already."""
    network = plain_network(name).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    pictures = batch.squares.permute(0, 3, 1, 2).float().div(255).contiguous()

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(pictures), batch.labels)
        loss.backward()
        optimizer.step()

    return step


def our_step(name: str, size: int, batch: Batch) -> tuple[Callable[[], None], Recipe, str]:
    """A training step as `resvision train` does it, with what it measures and chooses on this machine."""
    recipe = Recipe(model=name, size=size, channels=3, batch_size=len(batch.labels), lr=LR, steps=1000, memory="full")
    network = ResNet(dataclasses.replace(zoo.get(name), num_classes=CLASSES)).train()
    preprocess = Preprocess(size=size)
    recipe, measured = engine.choose(network, recipe, cross_entropy(), preprocess, lambda seconds: 3600 / seconds)
    built = engine.build(network, recipe, cross_entropy(), preprocess)
    optimizer = optim.build(network, recipe)
    network.train()
    return lambda: built.step(batch, optimizer).loss.item(), recipe, measured


def seconds_of(step: Callable[[], Any], steps: int) -> float:
    start = now()
    for _ in range(steps):
        step()
    return (now() - start) / steps


def compare(name: str, pairs: int, steps: int) -> dict[str, Any]:
    """Times pairs of (plain, ours) and takes medians."""
    size, count = CASES[name]
    torch.manual_seed(0)
    squares = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
    batch = Batch(squares, torch.arange(count) % CLASSES)
    ours, recipe, measured = our_step(name, size, batch)
    plain = plain_step(name, batch)
    print(f"{name}: {measured}", file=sys.stderr)
    for step in (plain, ours):
        seconds_of(step, 2)
    times = [(seconds_of(plain, steps), seconds_of(ours, steps)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in times)
    return {
        "network": name,
        "size": size,
        "batch": count,
        "plain_pictures_per_second": round(count / median([a for a, _ in times]), 1),
        "ours_pictures_per_second": round(count / median([b for _, b in times]), 1),
        "ratio_median": round(median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "precision": recipe.precision,
        "channels_last": recipe.channels_last,
        "compiled": recipe.compile,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed against the plain way.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    results = [compare(name, arguments.pairs, 10 if "cifar" in name else 3) for name in arguments.networks]
    document = {
        "benchmark": "train_step",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "results": results,
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
