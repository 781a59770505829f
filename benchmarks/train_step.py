"""Training speed, side by side in one run: resvision as it trains, against the plain way and against timm at its best.

    python benchmarks/train_step.py [--rounds 5] [--networks resnet18 resnet50 resnet20_cifar]

Synthetic pictures, SGD with momentum. The plain way is float32, channels first, eager, with torchvision's own resnet18
and resnet50; the peer is timm's networks with the flags that its training script has for speed: bfloat16, channels
last, torch.compile. For resnet20_cifar both are the twin below. Every way has a process of its own, since resvision
changes how its process allocates memory. Each round times one after the other, so that a machine whose speed drifts
slows all; a ratio is the median over the rounds. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from resvision import zoo
from resvision.data.reading import Batch
from resvision.exporting.peers import timm_network, torchvision_network
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.runtime import device, versions
from resvision.training import engine, memory, optim
from resvision.training.losses import cross_entropy

CASES = {"resnet18": (128, 64), "resnet50": (128, 64), "resnet20_cifar": (32, 128)}  # picture size, batch
CLASSES = 10
LR = 0.01

Step = Callable[[], Any]


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


def plain_network(name: str) -> nn.Module:
    """The peer's network."""
    if name == "resnet20_cifar":
        return PlainResNet20()
    return torchvision_network(name, CLASSES, 3)


def peer_step(name: str, batch: Batch) -> tuple[Step, dict[str, Any]]:
    """A training step of timm's network in bfloat16, channels last, compiled, on pictures that are float already."""
    if name == "resnet20_cifar":
        network: nn.Module = PlainResNet20()
    else:
        network = timm_network(name, CLASSES, 3)
    where = device().type
    network = network.to(where, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    pictures = batch.squares.permute(0, 3, 1, 2).float().div(255).to(where, memory_format=torch.channels_last)
    targets = batch.labels.to(where)
    forward = torch.compile(network)

    def step() -> None:
        with torch.autocast(where, torch.bfloat16):
            loss = F.cross_entropy(forward(pictures), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step, {}


def plain_step(name: str, batch: Batch) -> tuple[Step, dict[str, Any]]:
    """A training step of the plain way, on pictures that are float already."""
    network = plain_network(name).to(device()).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)
    pictures = batch.squares.permute(0, 3, 1, 2).float().div(255).contiguous().to(device())
    labels = batch.labels.to(device())

    def step() -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(network(pictures), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step, {}


def our_step(name: str, batch: Batch) -> tuple[Step, dict[str, Any]]:
    """A training step as `resvision train` does it, with what it measures and chooses on this machine."""
    memory.keep_freed()
    size = CASES[name][0]
    recipe = Recipe(model=name, size=size, channels=3, batch_size=len(batch.labels), lr=LR, steps=1000, memory="full")
    network = ResNet(dataclasses.replace(zoo.get(name), num_classes=CLASSES)).to(device()).train()
    preprocess = Preprocess(size=size)
    recipe, measured = engine.choose(network, recipe, cross_entropy(), preprocess, lambda seconds: 3600 / seconds)
    print(f"{name}: {measured}", file=sys.stderr)
    built = engine.build(network, recipe, cross_entropy(), preprocess)
    optimizer = optim.build(network, recipe)
    network.train()
    chosen = {
        "precision": recipe.precision,
        "channels_last": recipe.channels_last,
        "cuda_graph": recipe.cuda_graph,
        "compiled": recipe.compile,
    }
    return lambda: built.step(batch, optimizer).loss.item(), chosen


WAYS = {"plain": plain_step, "peer": peer_step, "ours": our_step}


def work(way: str, name: str, told: Connection) -> None:
    """A process that times as many steps as it is told, until it is told none."""
    size, count = CASES[name]
    torch.manual_seed(0)
    squares = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8)
    step, chosen = WAYS[way](name, Batch(squares, torch.arange(count) % CLASSES))
    seconds_of(step, 3)
    told.send(chosen)
    while steps := told.recv():
        told.send(seconds_of(step, steps))


def seconds_of(step: Callable[[], Any], steps: int) -> float:
    start = now()
    for _ in range(steps):
        step()
    return (now() - start) / steps


def compare(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """Times rounds of (plain, peer, ours) and takes medians."""
    size, count = CASES[name]
    context = get_context("spawn")
    chosen: dict[str, Any] = {}
    ends: dict[str, Connection] = {}
    for way in WAYS:
        ends[way], other = context.Pipe()
        context.Process(target=work, args=(way, name, other), daemon=True).start()
        chosen |= ends[way].recv()
    times = []
    for _ in range(rounds):
        row = {}
        for way, end in ends.items():
            end.send(steps)
            row[way] = end.recv()
        times.append(row)
    for end in ends.values():
        end.send(0)
    return {
        "network": name,
        "size": size,
        "batch": count,
        "pictures_per_second": {way: round(count / statistics.median([row[way] for row in times]), 1) for way in WAYS},
        "over_plain": _ratio([row["plain"] / row["ours"] for row in times]),
        "over_peer": _ratio([row["peer"] / row["ours"] for row in times]),
        **chosen,
    }


def _ratio(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed against the plain way and a peer.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    results = [compare(name, arguments.rounds, 10 if "cifar" in name else 3) for name in arguments.networks]
    document = {
        "benchmark": "train_step",
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "results": results,
    }
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
