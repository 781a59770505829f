"""How fast photographs become training batches: with an empty picture cache and a filled one, against the usual way.

    python benchmarks/loader.py FOLDER [--size 128] [--crop-scale 0.35] [--pictures 10000] [--rounds 5]

Random resized crops, half of them mirrored, as normalised float32 batches of 64 in the training process, with one
worker process. The usual way is PyTorch's DataLoader over Pillow, computing what torchvision's transforms compute;
there the worker normalises, here the training process does, as when it trains. The ways take turns, in every round with
an empty cache. Prints one JSON document: pictures `per_second` by the clock, and `per_cpu_second` of the processor time
of both processes together, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import platform
import random
import resource
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from resvision.data import sources
from resvision.data.images import to_input
from resvision.data.loader import TrainingBatches
from resvision.data.pictures import FilePictures, Split
from resvision.data.readable import BadPictures, screen
from resvision.measure import now
from resvision.preprocess import Preprocess
from resvision.recipe import SMALL_PICTURE, Recipe
from resvision.runtime import versions

BATCH = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class UsualPictures(Dataset[tuple[torch.Tensor, int]]):
    """RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize as torchvision does them on Pillow pictures."""

    def __init__(self, paths: list[Path], labels: list[int], size: int, crop_scale: float) -> None:
        self.paths = paths
        self.labels = labels
        self.size = size
        self.crop_scale = crop_scale
        self.mean = torch.tensor(MEAN).view(-1, 1, 1)
        self.std = torch.tensor(STD).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with self.paths[index].open("rb") as file:
            picture = Image.open(file).convert("RGB")
        left, top, width, height = self.box(*picture.size)
        picture = picture.crop((left, top, left + width, top + height))
        picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture, copy=True)).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub_(self.mean).div_(self.std), self.labels[index]

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = width * height * random.uniform(self.crop_scale, 1.0)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, width - w), random.randint(0, height - h), w, h
        side = min(width, height)  # never the case for squares at these scales
        return (width - side) // 2, (height - side) // 2, side, side


Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def usual(split: Split, recipe: Recipe) -> Batches:
    """The usual way, one epoch."""
    assert isinstance(split.pictures, FilePictures)
    paths = [file.path for file in split.pictures.files if file.path is not None]
    dataset = UsualPictures(paths, split.labels.tolist(), recipe.size, recipe.crop_scale)
    yield from DataLoader(dataset, recipe.batch_size, shuffle=True, num_workers=1, drop_last=True, prefetch_factor=4)


def ours(split: Split, recipe: Recipe, epoch: int) -> Batches:
    """Ours, one epoch, with whatever the cache holds; what a run looks up when it begins is counted, too."""
    preprocess = Preprocess(size=recipe.size, crop=recipe.crop, mean=MEAN, std=STD)
    batches = TrainingBatches(split, recipe, preprocess, BadPictures(0), largest=SMALL_PICTURE + 1)
    for batch in batches.epoch(epoch):
        yield to_input(batch.squares, preprocess), batch.labels


def timed(batches: Batches, recipe: Recipe) -> tuple[float, float]:
    """Pictures a second and a second of processor time, from before the worker starts until it has ended."""
    start, used, pictures = now(), cpu_seconds(), 0
    for inputs, labels in batches:
        assert (inputs.dtype, inputs.shape) == (torch.float32, (BATCH, 3, recipe.size, recipe.size))
        pictures += len(labels)
        del inputs, labels  # as at the end of a training step
    seconds = now() - start
    del batches
    gc.collect()  # the worker has ended
    return pictures / seconds, pictures / (cpu_seconds() - used)


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def keep_freed_memory() -> None:
    """Tells glibc to do for both ways what it else does or leaves by chance: use the memory of a freed batch again."""
    if platform.libc_ver()[0] == "glibc":
        for option, most in ((-3, 1 << 30), (-1, (1 << 31) - 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            ctypes.CDLL(None).mallopt(option, most)


def main() -> None:
    parser = argparse.ArgumentParser(description="Photographs to batches: cold and cached, against the usual way.")
    parser.add_argument("folder")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--crop-scale", type=float, default=0.35)
    parser.add_argument("--pictures", type=int, default=10_000, help="at most so many of the training pictures")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()
    split = sources.prepare(sources.load(arguments.folder)).splits["train"]
    chosen = np.random.default_rng(0).permutation(len(split))[: arguments.pictures]
    split, _, _ = screen(split.take(chosen), 0.0)
    recipe = Recipe(
        model="resnet18",
        size=arguments.size,
        crop=0.875,
        crop_scale=arguments.crop_scale,
        flip=True,
        batch_size=BATCH,
        workers=1,
    )
    ways: dict[str, Callable[[int], Batches]] = {
        "usual": lambda epoch: usual(split, recipe),
        "cold": lambda epoch: ours(split, recipe, epoch),
        "cached": lambda epoch: ours(split, recipe, epoch + 1),
        "no_cache": lambda epoch: ours(split, replace(recipe, cache=False), epoch),
    }
    figures: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(arguments.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["RESVISION_CACHE"] = folder
            for way, begin in ways.items():
                figures[way].append(timed(begin(number), recipe))
    document: dict[str, Any] = {
        "benchmark": "loader",
        "size": arguments.size,
        "crop_scale": arguments.crop_scale,
        "pictures": len(split),
        "batch": BATCH,
        "workers": 1,
        "rounds": arguments.rounds,
    }
    counted = {way: values[1:] for way, values in figures.items()}  # the first round warms up
    for place, unit in enumerate(("per_second", "per_cpu_second")):
        document[unit] = {
            way: round(statistics.median([v[place] for v in values]), 1) for way, values in counted.items()
        }
        for way in ("cold", "cached", "no_cache"):
            ratios = [a[place] / b[place] for a, b in zip(counted[way], counted["usual"], strict=True)]
            document[f"{way}_ratio_{unit}"] = {
                "median": round(statistics.median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
    print(json.dumps(document | {"versions": versions()}, indent=2))


if __name__ == "__main__":
    main()
