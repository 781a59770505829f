"""Batches of uint8 squares: from memory where the pictures are small, else read by worker processes as needed."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from resvision.data.augment import Views, augment, presented, shift_and_flip, view_keys
from resvision.data.cache import PictureCache, open_cache, shrunk
from resvision.data.images import UInt8Array, square
from resvision.data.pictures import FilePictures, Labels, Split, listed
from resvision.data.transfer import fetchable, sent
from resvision.errors import DataError, PictureError, RecipeError
from resvision.preprocess import Preprocess
from resvision.recipe import SMALL_PICTURE, Recipe

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
PREFETCH = 4  # batches that each worker is asked for ahead
LEFT_OUT = 0.1  # of the pictures, that an epoch may leave out
CHUNK, CHUNK_SIDE = 64, 256  # pictures that are read at once where nothing else decides it, of at most so many pixels
CHUNK_CUDA = 512  # of small ones a GPU has computed fewer before the next are launched
GRACE_SECONDS = 60
MEMORY_BYTES = 2 << 30  # squares that are the same every epoch are kept after the first, up to this many bytes
NOTHING_LEFT_OUT = "an evaluation leaves nothing out: mend or remove them"


@dataclass(frozen=True)
class Batch:
    """Squares (N, S, S, C) uint8, labels (N,) int64, and the (name, reason) of pictures that could not be read."""

    squares: torch.Tensor
    labels: torch.Tensor
    bad: tuple[tuple[str, str], ...] = ()


@dataclass
class BadPictures:
    """The unreadable pictures of a training split, and how many there may be."""

    limit: int
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, bad: Sequence[tuple[str, str]]) -> None:
        """Records pictures.

        Raises:
            DataError: there are more than the limit.
        """
        self.reasons.update(bad)
        if len(self.reasons) > self.limit:
            raise DataError(
                f"{unreadable(self.reasons)}; at most {self.limit} may be skipped (--max-bad): mend or remove them"
            )


def unreadable(reasons: dict[str, str]) -> str:
    """Names unreadable pictures for a message."""
    return f"{len(reasons)} unreadable: {listed([f'{name} ({reason})' for name, reason in reasons.items()])}"


def leave_signals(worker: int) -> None:
    """Leaves signals to the main process, which finishes its step and saves before it tells the workers to end.

    A worker that was asked to end and not told so within GRACE_SECONDS ends all the same: a process that leaves in
    another way than it should, such as a failed test, would wait for it forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    graceful = hasattr(signal, "alarm")
    signal.signal(signal.SIGTERM, (lambda *_: signal.alarm(GRACE_SECONDS)) if graceful else signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(10)


def default_workers() -> int:
    """Worker processes for reading pictures: half of the processors, or with a GPU, which computes, all but two."""
    processors = os.cpu_count() or 1
    return max(1, min(16, processors - 2 if torch.cuda.is_available() else processors // 2))


def stays_in_memory(split: Split, recipe: Recipe, largest: int) -> bool:
    """Whether the pictures of a training split, the largest side of which is given, are all read before it begins."""
    size = len(split) * recipe.size**2 * (recipe.channels or 3)
    return largest <= SMALL_PICTURE and recipe.only_shifts and size <= MEMORY_BYTES


def at_once(preprocess: Preprocess) -> int:
    """Pictures that an evaluation computes at once: fewer of large ones, whose features would fill the memory."""
    most = CHUNK_CUDA if torch.cuda.is_available() else CHUNK
    return max(1, min(most, CHUNK * CHUNK_SIDE**2 // preprocess.size**2))


def screen(split: Split, max_bad: float) -> tuple[Split, BadPictures, int]:
    """Reads the headers of a training split: (what is readable, what is not, the largest side in pixels).

    Raises:
        DataError: more than the part `max_bad` is unreadable.
    """
    bad = BadPictures(limit=math.floor(max_bad * len(split) + 1e-9))  # 0.29 of 100 is 29, also in floating point
    readable, found, largest = _headers(split)
    bad.add(found)
    return split.take(np.array(readable, dtype=np.int64)) if found else split, bad, largest


def _headers(split: Split) -> tuple[list[int], list[tuple[str, str]], int]:
    """Which pictures have a header, (name, reason) of the others, and the largest side in pixels."""
    readable, found, largest = [], [], 0
    for index in range(len(split)):
        try:
            header = split.pictures.header(index)
            largest = max(largest, header.width, header.height)
            readable.append(index)
        except PictureError as error:
            found.append((error.name, error.reason))
    return readable, found, largest


def check_readable(split: Split) -> None:
    """Reads the headers of a split that is evaluated.

    Raises:
        DataError: one of them is unreadable.
    """
    _, found, _ = _headers(split)
    if found:
        raise DataError(f"{unreadable(dict(found))}; {NOTHING_LEFT_OUT}")


class _Reader:
    """Reads a batch, augmented by a recipe, or without one as evaluation sees it."""

    def __init__(
        self, split: Split, preprocess: Preprocess, recipe: Recipe | None = None, cache: PictureCache | None = None
    ) -> None:
        self.split = split
        self.preprocess = preprocess
        self.recipe = recipe
        self.cache = cache

    def read(self, key: _Key) -> Batch:
        preprocess = self.preprocess if key.size is None else replace(self.preprocess, size=key.size)
        pictures, readable, bad = [], [], []
        for place, index in enumerate(key.chosen.samples.tolist()):
            try:
                pictures.append(self._square(index) if self.recipe is None else self._pixels(index, self.recipe))
                readable.append(place)
            except PictureError as error:
                bad.append((error.name, error.reason))
        places = np.array(readable, dtype=np.int64)
        samples = key.chosen.samples[places]
        if not pictures:
            squares = np.empty((0, preprocess.size, preprocess.size, preprocess.channels), dtype=np.uint8)
        elif self.recipe is None:
            squares = np.stack(pictures)
        else:
            squares = augment(pictures, view_keys(key.chosen)[places], key.epoch, self.recipe, preprocess)
        return Batch(torch.from_numpy(squares), torch.from_numpy(self.split.labels[samples]), tuple(bad))

    def _square(self, index: int) -> UInt8Array:
        return square(self.split.pictures.open(index, self.preprocess), self.preprocess)

    def _pixels(self, index: int, recipe: Recipe) -> UInt8Array:
        """A training picture (H, W, C), from the cache where it is there; shrunk alike where it is not."""
        if self.cache is not None and (kept := self.cache.read(index)) is not None:
            return kept
        side = smallest_side(self.preprocess, recipe)
        pixels = self.split.pictures.pixels(index, self.preprocess, side)
        if _is_cached(self.split, recipe):
            pixels = shrunk(pixels, side)
        if self.cache is not None:
            self.cache.write(index, pixels)
        return pixels


def smallest_side(preprocess: Preprocess, recipe: Recipe) -> int:
    """How far a training picture may be shrunk: the shorter side, in pixels, whose least crop still holds `size`."""
    return math.ceil(preprocess.size / min(preprocess.crop, math.sqrt(recipe.crop_scale)))


def _is_cached(split: Split, recipe: Recipe) -> bool:
    """Whether pictures are shrunk and kept: by the recipe alone, so that a full disk does not change a run."""
    return recipe.cache and isinstance(split.pictures, FilePictures)


@dataclass(frozen=True)
class _Key:
    """What is to be read: which views, of which epoch, and how large where that is not `preprocess.size`."""

    chosen: Views
    epoch: int = 0
    size: int | None = None


Sent = tuple[tuple[int, ...], Labels, tuple[tuple[str, str], ...]]  # the squares' shape, and the rest of a Batch


class _Sender(Dataset[Sent]):
    """What a worker runs: it leaves the squares at their place in shared memory and sends the rest."""

    def __init__(self, reader: _Reader, shared: torch.Tensor) -> None:
        self.reader = reader
        self.shared = shared

    def __getitem__(self, order: tuple[int, _Key]) -> Sent:
        place, key = order
        batch = self.reader.read(key)
        self.shared[place, : batch.squares.numel()] = batch.squares.flatten()
        return tuple(batch.squares.shape), batch.labels.numpy(), batch.bad


class _Pipeline:
    """Batches in the order of their keys, read by worker processes, or here where there are none.

    The workers share one piece of memory with this process, cut into places for all batches that can be under way: the
    page faults of new memory for each batch take half as long as reading a cached batch.

    Args:
        reader: of which each worker has a copy.
        workers: processes.
        largest: bytes of a batch's squares.
        persistent: whether the workers stay for the next pass.
        where: the batches will go.
    """

    def __init__(
        self, reader: _Reader, workers: int, largest: int, *, persistent: bool, where: torch.device = CPU
    ) -> None:
        self.reader = reader
        self.where = where
        self.workers = workers
        self.orders: list[tuple[int, _Key]] = []
        if not workers:
            return
        places = torch.empty((PREFETCH * workers + 1, largest), dtype=torch.uint8)
        try:
            self.shared: torch.Tensor = places.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:  # of a container, which has 64 MB if nobody asks for more
            self.workers = 0
            log.warning(
                "shared memory has no room for %d MB: pictures are read by this process alone, which takes longer; "
                "give more (docker run --shm-size=1g) or fewer --workers",
                places.nbytes // 10**6,
            )
            return
        self.loader = DataLoader(
            _Sender(reader, self.shared),
            sampler=self.orders,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=persistent,
            prefetch_factor=PREFETCH,
            multiprocessing_context=_processes(),
            worker_init_fn=leave_signals,
        )

    def read(self, keys: Sequence[_Key]) -> Iterator[Batch]:
        """The batches of `keys`, each in memory of its own."""
        if not self.workers:
            yield from map(self.reader.read, keys)
            return
        # When a batch arrives the next order goes out. Its place is that of the batch before, which was copied by then.
        self.orders[:] = [(number % len(self.shared), key) for number, key in enumerate(keys)]
        for (place, _), (shape, labels, bad) in zip(self.orders, self.loader, strict=True):
            squares = fetchable(self.shared[place, : math.prod(shape)].view(shape), self.where)
            yield Batch(squares, torch.from_numpy(labels), bad)


def _processes() -> BaseContext:
    """How workers are started. Forked ones share the split's memory; beside CUDA a fork is unsafe.

    There they are forked from a server that has imported this module and nothing else has happened in: where each
    imports it for itself, 14 of them take half a minute.
    """
    ways = multiprocessing.get_all_start_methods()
    if "fork" in ways and not torch.cuda.is_available():
        return multiprocessing.get_context("fork")
    if "forkserver" not in ways:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _as_it_is(sent: Any) -> Any:
    return sent


def _chunks(count: int, size: int) -> list[_Key]:
    indices = np.arange(count)
    once = Views(indices, np.zeros_like(indices))
    return [_Key(once.part(start, start + size)) for start in range(0, count, size)]


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
            if _is_cached(split, recipe):
                assert isinstance(split.pictures, FilePictures)
                cache, self.cache_note = open_cache(split.pictures, preprocess, smallest_side(preprocess, recipe))
            largest_batch = min(recipe.batch_size, len(split)) * preprocess.size**2 * preprocess.channels
            reader = _Reader(split, preprocess, recipe, cache)
            self.pipeline = _Pipeline(reader, recipe.workers, largest_batch, persistent=True, where=where)
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
        for batch in self.pipeline.read([_Key(part, epoch, size) for part in parts]):
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
        pipeline = _Pipeline(_Reader(self.split, self.preprocess), self.workers, largest, persistent=False)
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
