"""Batches of uint8 squares: from memory where the pictures are small, else read by worker processes as needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from resvision.data.augment import Views, presented, shift_and_flip, view_keys
from resvision.data.cache import open_cache
from resvision.data.pictures import FilePictures, Split
from resvision.data.readable import NOTHING_LEFT_OUT, BadPictures, unreadable
from resvision.data.reading import Batch, Key, Reader, is_cached, smallest_side
from resvision.data.transfer import sent
from resvision.data.workers import CPU, Pipeline
from resvision.errors import DataError, RecipeError
from resvision.preprocess import Preprocess
from resvision.recipe import SMALL_PICTURE, Recipe

LEFT_OUT = 0.1  # of the pictures, that an epoch may leave out
CHUNK, CHUNK_SIDE = 64, 256  # pictures that are read at once where nothing else decides it, of at most so many pixels
CHUNK_CUDA = 512  # of small ones a GPU has computed fewer before the next are launched
MEMORY_BYTES = 2 << 30  # squares that are the same every epoch are kept after the first, up to this many bytes


def stays_in_memory(split: Split, recipe: Recipe, largest: int) -> bool:
    """Whether the pictures of a training split, the largest side of which is given, are all read before it begins."""
    size = len(split) * recipe.size**2 * (recipe.channels or 3)
    return largest <= SMALL_PICTURE and recipe.only_shifts and size <= MEMORY_BYTES


def at_once(preprocess: Preprocess) -> int:
    """Pictures that an evaluation computes at once: fewer of large ones, whose features would fill the memory."""
    most = CHUNK_CUDA if torch.cuda.is_available() else CHUNK
    return max(1, min(most, CHUNK * CHUNK_SIDE**2 // preprocess.size**2))


def _chunks(count: int, size: int) -> list[Key]:
    indices = np.arange(count)
    once = Views(indices, np.zeros_like(indices))
    return [Key(once.part(start, start + size)) for start in range(0, count, size)]


def cut(pictures: int, batch_size: int) -> tuple[int, int]:
    """How an epoch is cut into whole batches: (pictures in each, how many).

    Where more than a tenth of the pictures would be left out, as of 190 in batches of 96, smaller batches leave less.
    """
    batch_size = min(batch_size, pictures)
    steps = pictures // batch_size
    smaller = pictures // (steps + 1)
    left, left_then = pictures % batch_size, pictures - smaller * (steps + 1)
    if left > max(LEFT_OUT * pictures, left_then) and 2 * smaller > batch_size:
        return smaller, steps + 1
    return batch_size, steps


class TrainingBatches:
    """The augmented batches of a training split, epoch after epoch, for a network at the device `where`.

    An epoch is cut into whole batches, and the rest is left out, another rest each epoch. Small pictures are decoded
    once, kept in the device's memory and augmented there, unless TrivialAugment changes each by itself; others are read
    by workers as they are needed, and kept in the picture cache. `cache_note` says so, or why not.
    """

    def __init__(
        self,
        split: Split,
        recipe: Recipe,
        preprocess: Preprocess,
        bad: BadPictures,
        largest: int,
        *,
        where: torch.device = CPU,
    ) -> None:
        assert recipe.workers is not None
        self.recipe = recipe
        self.preprocess = preprocess
        self.bad = bad
        self.memory: tuple[torch.Tensor, torch.Tensor] | None = None  # all squares and labels
        self.cache_note: str | None = None
        if stays_in_memory(split, recipe, largest):
            batches = EvaluationBatches(split, preprocess, recipe.workers, bad)
            squares, labels = zip(*((b.squares, b.labels) for b in batches), strict=True)
            self.memory = torch.cat(squares).to(where), torch.cat(labels).to(where)
        else:
            cache = None
            if is_cached(split, recipe):
                assert isinstance(split.pictures, FilePictures)
                cache, self.cache_note = open_cache(split.pictures, preprocess, smallest_side(preprocess, recipe))
            largest_batch = min(recipe.batch_size, len(split)) * preprocess.size**2 * preprocess.channels
            reader = Reader(split, preprocess, recipe, cache)
            self.pipeline = Pipeline(reader, recipe.workers, largest_batch, persistent=True, where=where)
        self.labels = split.labels if self.memory is None else self.memory[1].cpu().numpy()
        shortest = min(len(presented(recipe, epoch, self.labels)) for epoch in range(recipe.repeats))
        if not shortest:
            raise RecipeError(f"repeats={recipe.repeats} is more than the {len(self.labels)} pictures that train")
        self.batch_size, self.steps = cut(shortest, recipe.batch_size)

    def epoch(self, epoch: int, first_step: int = 0, size: int | None = None) -> Iterator[Batch]:
        """The batches of one epoch; one whose pictures are all bad is empty.

        Args:
            epoch: counted from 0.
            first_step: of the epoch, to begin with.
            size: height and width of the squares where it is not that of the preprocessing.
        """
        views = presented(self.recipe, epoch, self.labels)
        parts = [
            views.part(step * self.batch_size, (step + 1) * self.batch_size) for step in range(first_step, self.steps)
        ]
        if self.memory is not None:
            squares, labels = self.memory
            for part in parts:
                chosen = sent(torch.from_numpy(part.samples), squares.device)
                augmented = shift_and_flip(squares[chosen], view_keys(part), epoch, self.recipe, self.preprocess)
                yield Batch(augmented, labels[chosen])
            return
        for batch in self.pipeline.read([Key(part, epoch, size) for part in parts]):
            self.bad.add(batch.bad)
            yield batch


class EvaluationBatches:
    """The squares of a split as every evaluation sees them, in the split's order; iterate as often as you like.

    Without `bad` an unreadable picture is an error: an accuracy must not leave out what was hard to read.

    Raises:
        DataError: pictures cannot be read.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        workers: int,
        bad: BadPictures | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.split = split
        self.preprocess = preprocess
        self.bad = bad
        self.workers = workers if len(split) >= 4 * CHUNK else 0  # processes would start longer than they read
        self.batch_size = batch_size or at_once(preprocess)
        self.kept: list[Batch] | None = None

    @property
    def _keeps(self) -> bool:
        return len(self.split) * self.preprocess.size**2 * self.preprocess.channels <= MEMORY_BYTES

    def hold(self) -> None:
        """Reads what will be kept for later passes, now.

        Raises:
            DataError: pictures cannot be read.
        """
        if self._keeps:
            for _ in self:
                pass

    def __iter__(self) -> Iterator[Batch]:
        if self.kept is not None:
            yield from self.kept
            return
        keep = self._keeps
        kept = []
        failed: dict[str, str] = {}
        largest = self.batch_size * self.preprocess.size**2 * self.preprocess.channels
        pipeline = Pipeline(Reader(self.split, self.preprocess), self.workers, largest, persistent=False)
        for batch in pipeline.read(_chunks(len(self.split), self.batch_size)):
            if self.bad is not None:
                self.bad.add(batch.bad)
            failed.update(batch.bad)
            if not len(batch.labels):
                continue
            if keep:
                kept.append(batch)
            yield batch
        if failed and self.bad is None:
            raise DataError(f"{unreadable(failed)}; {NOTHING_LEFT_OUT}")
        self.kept = kept if keep else None


def whole_batches(split: Split, preprocess: Preprocess) -> Iterator[Batch]:
    """The pictures of a split one by one at their full size, (1, H, W, C) each, for a model that resizes by itself.

    Raises:
        PictureError: a picture cannot be read.
    """
    for index in range(len(split)):
        pixels = split.pictures.pixels(index, preprocess)
        yield Batch(torch.from_numpy(pixels[None]), torch.from_numpy(split.labels[index : index + 1]))
