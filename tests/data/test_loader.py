"""Batches: the same whatever the number of workers, and honest about what could not be read."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resvision.data.augment import augment, order, presented, shift_and_flip, view_keys
from resvision.data.images import square
from resvision.data.loader import EvaluationBatches, TrainingBatches, at_once, cut
from resvision.data.pictures import ArrayPictures, File, FilePictures, Split
from resvision.data.readable import BadPictures, screen
from resvision.data.reading import Batch
from resvision.data.workers import _processes, default_workers
from resvision.errors import DataError, RecipeError
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

COLOUR = Preprocess(size=8)


def recipe(**fields: object) -> Recipe:
    values = {"model": "resnet14_cifar", "size": 8, "seed": 3, "batch_size": 4, "workers": 0, **fields}
    return Recipe(**values)  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(seed: int, kind: str = "PNG", width: int = 12, height: int = 10) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(height, width, 3, seed=seed)).save(file, kind)
    return file.getvalue()


def on_disk(root: Path, count: int, kind: str = "PNG", **size: int) -> Split:
    """A split of files; the label of picture i is i, so that batches tell which pictures they hold."""
    root.mkdir(exist_ok=True)
    files = []
    for i in range(count):
        path = root / f"{i:03}.{kind.lower()}"
        path.write_bytes(encoded(i, kind, **size))
        files.append(File(path.name, path=path))
    return Split(FilePictures(tuple(files)), np.arange(count, dtype=np.int64))


def in_memory(count: int, side: int = 8) -> Split:
    return Split(ArrayPictures(noise(count, side, side, 3), "given"), np.arange(count, dtype=np.int64))


def moved(squares: np.ndarray, *how: Any) -> np.ndarray:
    return shift_and_flip(torch.from_numpy(squares), *how).numpy()


def training(split: Split, chosen: Recipe, bad: BadPictures | None = None, max_bad: float = 0.0) -> TrainingBatches:
    readable, found, largest = screen(split, max_bad)
    return TrainingBatches(readable, chosen, COLOUR, bad or found, largest)


def assert_same_batches(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.squares, b.squares)
        assert torch.equal(a.labels, b.labels)
        assert a.bad == b.bad


# ---- training ----


def test_batches_hold_whole_pictures_and_their_labels() -> None:
    split = in_memory(20)
    assert isinstance(split.pictures, ArrayPictures)
    for batch in training(split, recipe()).epoch(0):
        assert batch.squares.shape == (4, 8, 8, 3)
        assert (batch.squares.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)
        np.testing.assert_array_equal(batch.squares.numpy(), split.pictures.array[batch.labels.numpy()])


@pytest.mark.parametrize(
    "fields",
    [
        {"crop_scale": 0.35, "flip": True},
        {"shift": 2, "flip": True},
        {"crop_scale": 0.35, "trivial_augment": True},
        {"crop_scale": 0.35, "repeats": 2},
        {"crop_scale": 0.35, "balance": "sampling"},
    ],
    ids=str,
)
def test_batches_are_the_same_with_any_number_of_workers(tmp_path: Path, fields: dict[str, object]) -> None:
    split = on_disk(tmp_path, 22, "JPEG", width=80, height=72)
    epochs = {}
    for workers in (0, 1, 2):
        batches = training(split, recipe(workers=workers, **fields))
        assert batches.memory is None
        epochs[workers] = [[*batches.epoch(0)], [*batches.epoch(1)], [*batches.epoch(0)]]
    first, second, again = epochs[0]
    assert len(first) == len(second) == 5
    assert_same_batches(first, again)
    assert not torch.equal(first[0].squares, second[0].squares)
    for workers in (1, 2):
        for expected, found in zip(epochs[0], epochs[workers], strict=True):
            assert_same_batches(found, expected)


def test_pictures_kept_in_memory_are_augmented_as_those_that_are_read(tmp_path: Path) -> None:
    split = on_disk(tmp_path, 22)
    chosen = recipe(shift=2, flip=True)
    kept = TrainingBatches(split, chosen, COLOUR, BadPictures(0), largest=12)
    read = TrainingBatches(split, chosen, COLOUR, BadPictures(0), largest=1000)
    assert kept.memory is not None
    assert read.memory is None
    for epoch in (0, 5):
        assert_same_batches([*kept.epoch(epoch)], [*read.epoch(epoch)])
        squares = np.stack([square(split.pictures.open(i, COLOUR), COLOUR) for i in range(22)])
        for step, batch in enumerate(kept.epoch(epoch)):
            samples = order(3, epoch, 22)[4 * step : 4 * step + 4]
            expected = moved(squares[samples], samples, epoch, chosen, COLOUR)
            np.testing.assert_array_equal(batch.squares.numpy(), expected)
            np.testing.assert_array_equal(batch.labels.numpy(), samples)


@pytest.mark.parametrize(
    ("pictures", "batch_size", "found"),
    [
        *((190, 96, (95, 2)), (300, 64, (60, 5)), (143, 96, (71, 2)), (1438, 64, (64, 22)), (50_000, 128, (128, 390))),
        *((100, 96, (96, 1)), (3, 2, (2, 1)), (5, 8, (5, 1)), (1, 1, (1, 1))),
    ],
)
def test_an_epoch_leaves_out_little(pictures: int, batch_size: int, found: tuple[int, int]) -> None:
    assert cut(pictures, batch_size) == found


def test_reading_processes_that_are_not_forked_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside CUDA, or where there is no fork."""
    split = on_disk(tmp_path, 22, width=80, height=72)
    expected = [*training(split, recipe(crop_scale=0.5)).epoch(0)]
    monkeypatch.setattr("multiprocessing.get_all_start_methods", lambda: ["spawn"])
    batches = training(split, recipe(crop_scale=0.5, workers=1))
    assert batches.pipeline.loader.multiprocessing_context.get_start_method() == "spawn"
    assert_same_batches([*batches.epoch(0)], expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_small_pictures_are_read_once(tmp_path: Path, workers: int) -> None:
    split = on_disk(tmp_path / "a", 22)
    batches = training(split, recipe(workers=workers))
    shutil.rmtree(tmp_path / "a")
    assert sum(len(batch.labels) for batch in batches.epoch(0)) == 20


@pytest.mark.parametrize(("workers", "side"), [(0, 8), (0, 80), (2, 80)])
def test_an_epoch_can_begin_at_any_step(tmp_path: Path, workers: int, side: int) -> None:
    split = on_disk(tmp_path, 22, width=side, height=side)
    batches = training(split, recipe(workers=workers, flip=True))
    whole = [*batches.epoch(7)]
    for first_step in (0, 1, 4, 5):
        assert_same_batches([*batches.epoch(7, first_step)], whole[first_step:])
    fresh = training(split, recipe(workers=workers, flip=True))
    assert_same_batches([*fresh.epoch(7, 3)], whole[3:])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_left_early_does_not_disturb_the_next(tmp_path: Path, workers: int) -> None:
    split = on_disk(tmp_path, 40, width=80, height=72)
    chosen = recipe(workers=workers, crop_scale=0.5)
    whole = [*training(split, chosen).epoch(1)]
    batches = training(split, chosen)
    next(batches.epoch(0))
    assert_same_batches([*batches.epoch(1)], whole)


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(20, 4, 5), (23, 4, 5), (4, 4, 1), (3, 4, 1), (1, 4, 1)])
def test_an_epoch_leaves_out_only_the_remainder(count: int, batch_size: int, steps: int) -> None:
    batches = training(in_memory(count), recipe(batch_size=batch_size))
    size = min(count, batch_size)
    assert (batches.steps, batches.batch_size, len(batches.labels)) == (steps, size, count)
    left_out = []
    for epoch in range(10):
        labels = [batch.labels.tolist() for batch in batches.epoch(epoch)]
        assert [len(batch) for batch in labels] == [size] * steps
        seen = {label for batch in labels for label in batch}
        assert len(seen) == size * steps
        left_out.append(tuple(sorted(set(range(count)) - seen)))
    assert (len(set(left_out)) > 1) == (count % size > 0)  # another rest in another epoch, where there is one


@pytest.mark.parametrize(
    "fields",
    [{"trivial_augment": True, "shift": 1}, {"crop_scale": 0.5}, {"trivial_augment": True, "flip": True}],
    ids=str,
)
def test_small_pictures_that_are_changed_anew_each_time_are_augmented_as_a_whole(fields: dict[str, object]) -> None:
    split, chosen = in_memory(20), recipe(**fields)
    batches = training(split, chosen)
    assert batches.memory is None
    for epoch in (0, 3):
        samples = order(3, epoch, 20)
        pictures = [split.pictures.pixels(i, COLOUR) for i in samples.tolist()]
        expected = augment(pictures, samples, epoch, chosen, COLOUR)
        np.testing.assert_array_equal(torch.cat([b.squares for b in batches.epoch(epoch)]).numpy(), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_have_squares_of_another_size(tmp_path: Path, workers: int) -> None:
    split = on_disk(tmp_path, 22, width=80, height=72)
    chosen = recipe(workers=workers, crop_scale=0.35, first_size=4)
    batches = training(split, chosen)
    sizes = [
        {tuple(b.squares.shape[1:]) for b in batches.epoch(epoch, size=size)} for epoch, size in enumerate((4, 6, 8))
    ]
    assert sizes == [{(4, 4, 3)}, {(6, 6, 3)}, {(8, 8, 3)}]
    # The same crops as those of full squares, resized otherwise.
    full, small = next(batches.epoch(0)), next(batches.epoch(0, size=4))
    assert torch.equal(full.labels, small.labels)
    blocks = full.squares.float().unfold(1, 2, 2).unfold(2, 2, 2).mean(dim=(-1, -2))
    assert (blocks - small.squares).abs().mean() < 8
    assert_same_batches([*batches.epoch(0)], [*batches.epoch(0, size=8)])


@pytest.mark.parametrize("side", [8, 80])
@pytest.mark.parametrize("fields", [{"repeats": 3}, {"balance": "sampling"}], ids=str)
def test_batches_hold_what_is_presented(tmp_path: Path, side: int, fields: dict[str, object]) -> None:
    """From memory and from files: each view by its own key."""
    whole = on_disk(tmp_path, 22, width=side, height=side)
    split = Split(whole.pictures, np.repeat([0, 1, 2], [15, 5, 2]))
    chosen = recipe(shift=2, flip=True, **fields)
    batches = training(split, chosen)
    assert (batches.memory is None) == (side == 80)
    squares = np.stack([square(split.pictures.open(i, COLOUR), COLOUR) for i in range(22)])
    for epoch in (0, 4):
        views = presented(chosen, epoch, split.labels).part(0, batches.steps * 4)
        found = [*batches.epoch(epoch)]
        assert len(found) == batches.steps == 5
        assert torch.cat([b.labels for b in found]).tolist() == split.labels[views.samples].tolist()
        expected = moved(squares[views.samples], view_keys(views), epoch, chosen, COLOUR)
        # Of files the crop is resized by PyTorch, which rounds a few values the other way than Pillow.
        off = torch.cat([b.squares for b in found]).numpy().astype(int) - expected
        assert np.abs(off).max() <= (side == 80)
        assert (off != 0).mean() < 0.01
        assert_same_batches([*batches.epoch(epoch, 2)], found[2:])


def test_an_epoch_is_as_long_as_the_shortest_with_repeats() -> None:
    batches = training(in_memory(10), recipe(repeats=4, batch_size=4))  # which hold 3, 3, 2 and 2 pictures
    assert (batches.steps, batches.batch_size) == (2, 4)
    assert [len([*batches.epoch(epoch)]) for epoch in range(4)] == [2] * 4
    batches = training(in_memory(10), recipe(repeats=4, batch_size=64))
    assert (batches.steps, batches.batch_size) == (1, 8)
    with pytest.raises(RecipeError, match="repeats=11 is more than the 10 pictures that train"):
        training(in_memory(10), recipe(repeats=11))


# ---- pictures that cannot be read ----


def replaced(split: Split, contents: dict[int, bytes]) -> Split:
    assert isinstance(split.pictures, FilePictures)
    files = [
        File(file.name, data=contents[i]) if i in contents else file for i, file in enumerate(split.pictures.files)
    ]
    return Split(FilePictures(tuple(files)), split.labels)


def truncated(seed: int, kind: str = "PNG") -> bytes:
    """The header can be read, the rest cannot."""
    data = encoded(seed, kind, width=80, height=72)
    return data[: len(data) // 2]


def test_screening_lists_what_is_unreadable(tmp_path: Path) -> None:
    split = replaced(on_disk(tmp_path, 20), {3: b"", 11: b"text", 19: encoded(0, width=70, height=9)})
    readable, bad, largest = screen(split, max_bad=0.1)
    assert bad.limit == 2
    assert list(bad.reasons) == ["003.png", "011.png"]
    assert bad.reasons["003.png"] == "the file is empty"
    assert bad.reasons["011.png"].startswith("not a picture of a known format")
    assert readable.labels.tolist() == [i for i in range(20) if i not in (3, 11)]
    assert [readable.pictures.name(i) for i in (2, 3, 17)] == ["002.png", "004.png", "019.png"]
    assert largest == 70


def test_screening_readable_pictures_changes_nothing() -> None:
    readable, bad, largest = screen(in_memory(6), 0.0)
    assert readable.labels.tolist() == list(range(6))
    assert (bad.limit, bad.reasons, largest) == (0, {}, 8)


def test_more_unreadable_pictures_than_allowed(tmp_path: Path) -> None:
    split = replaced(on_disk(tmp_path, 20), {3: b"", 11: b"", 12: b""})
    with pytest.raises(DataError) as caught:
        screen(split, max_bad=0.1)
    assert str(caught.value) == (
        "3 unreadable: 003.png (the file is empty), 011.png (the file is empty), 012.png (the file is empty); "
        "at most 2 may be skipped (--max-bad): mend or remove them"
    )
    many = replaced(on_disk(tmp_path, 20), dict.fromkeys(range(9), b""))
    with pytest.raises(DataError, match=r"^9 unreadable: 000\.png \(the file is empty\), .*004\.png .* and 4 more; at"):
        screen(many, max_bad=0.1)


@pytest.mark.parametrize(("max_bad", "limit"), [(0.0, 0), (0.01, 1), (0.29, 29), (0.57, 57), (0.999, 99)])
def test_the_limit_is_a_part_of_the_split(max_bad: float, limit: int) -> None:
    assert screen(in_memory(100), max_bad)[1].limit == limit


def test_unreadable_pictures_are_counted_once() -> None:
    bad = BadPictures(limit=2)
    for _ in range(3):
        bad.add([("a.png", "empty"), ("b.png", "empty")])
    assert bad.reasons == {"a.png": "empty", "b.png": "empty"}
    message = r"^3 unreadable: a\.png \(empty\), b\.png \(empty\), c\.png \(cut\); at most 2 may be skipped"
    with pytest.raises(DataError, match=message):
        bad.add([("c.png", "cut")])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_found_truncated_are_skipped_and_recorded(tmp_path: Path, workers: int, kind: str) -> None:
    whole = on_disk(tmp_path, 20, kind, width=80, height=72)
    split = replaced(whole, {4: truncated(4, kind), 9: truncated(9, kind)})
    chosen = recipe(workers=workers, crop_scale=0.5)
    readable, bad, largest = screen(split, max_bad=0.1)
    assert not bad.reasons  # the headers are in order
    batches = TrainingBatches(readable, chosen, COLOUR, bad, largest)
    epoch = [*batches.epoch(0)]
    names = {4: f"004.{kind.lower()}", 9: f"009.{kind.lower()}"}
    assert set(bad.reasons) == set(names.values())
    assert all(reason.startswith("cannot be decoded (") for reason in bad.reasons.values())
    for found, expected in zip(epoch, training(whole, recipe(crop_scale=0.5)).epoch(0), strict=True):
        good = [label not in names for label in expected.labels.tolist()]
        assert torch.equal(found.labels, expected.labels[good])
        assert torch.equal(found.squares, expected.squares[good])
        assert [name for name, _ in found.bad] == [names[i] for i in expected.labels.tolist() if i in names]
    assert sum(len(batch.labels) for batch in batches.epoch(1)) == 18
    assert len(bad.reasons) == 2


def test_a_batch_of_which_nothing_can_be_read_is_empty(tmp_path: Path) -> None:
    whole = on_disk(tmp_path, 8, width=80, height=72)
    first = order(3, 0, 8)[:4].tolist()
    split = replaced(whole, {i: truncated(i) for i in first})
    batches = training(split, recipe(crop_scale=0.5), max_bad=0.5)
    empty, full = batches.epoch(0)
    assert empty.squares.shape == (0, 8, 8, 3)
    assert (empty.squares.dtype, empty.labels.dtype) == (torch.uint8, torch.int64)
    assert len(empty.labels) == 0
    assert len(empty.bad) == 4
    assert sorted([*first, *full.labels.tolist()]) == list(range(8))


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_truncated_pictures_end_the_training(tmp_path: Path, workers: int) -> None:
    split = replaced(on_disk(tmp_path, 20, width=80, height=72), {i: truncated(i) for i in (1, 2, 3)})
    batches = training(split, recipe(workers=workers, crop_scale=0.5), max_bad=0.1)
    with pytest.raises(DataError, match=r"^3 unreadable: .*00[123]\.png .*; at most 2 may be skipped \(--max-bad\)"):
        list(batches.epoch(0))


def small_truncated(seed: int) -> bytes:
    data = encoded(seed)
    return data[: len(data) // 2]


def test_small_pictures_found_truncated_are_skipped_and_recorded(tmp_path: Path) -> None:
    split = replaced(on_disk(tmp_path, 22), {5: small_truncated(5)})
    batches = training(split, recipe(), max_bad=0.05)
    assert batches.memory is not None
    assert list(batches.bad.reasons) == ["005.png"]
    assert (len(batches.labels), batches.steps) == (21, 5)
    seen = {label for epoch in range(20) for batch in batches.epoch(epoch) for label in batch.labels.tolist()}
    assert seen == set(range(22)) - {5}
    with pytest.raises(DataError, match=r"^1 unreadable: 005\.png .*at most 0"):
        training(split, recipe(), max_bad=0.01)


def test_a_truncated_picture_in_a_split_smaller_than_a_batch_leaves_a_step(tmp_path: Path) -> None:
    split = replaced(on_disk(tmp_path, 20), {5: small_truncated(5)})
    batches = training(split, recipe(batch_size=128), max_bad=0.05)
    assert len(batches.labels) == batches.batch_size == 19
    assert batches.steps == 1
    assert [len(batch.labels) for batch in batches.epoch(0)] == [19]


# ---- evaluation ----


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_evaluation_keeps_the_order(tmp_path: Path, workers: int) -> None:
    split = on_disk(tmp_path, 260)  # enough for worker processes to be started
    batches = EvaluationBatches(split, COLOUR, workers)
    assert batches.workers == workers
    for _ in range(2):
        found = list(batches)
        assert [len(batch.labels) for batch in found] == [64, 64, 64, 64, 4]
        assert torch.cat([batch.labels for batch in found]).tolist() == list(range(260))
        squares = torch.cat([batch.squares for batch in found]).numpy()
        expected = np.stack([square(split.pictures.open(i, COLOUR), COLOUR) for i in range(260)])
        np.testing.assert_array_equal(squares, expected)


def test_evaluation_decodes_in_full(tmp_path: Path) -> None:
    split = on_disk(tmp_path, 2, "JPEG", width=200, height=160)
    (batch,) = EvaluationBatches(split, COLOUR, 0)
    for i in range(2):
        whole = np.asarray(Image.open(tmp_path / f"{i:03}.jpeg").resize((8, 8), 2, box=(20, 0, 180, 160)))
        assert np.abs(batch.squares[i].numpy().astype(int) - whole).max() <= 1


def test_the_batch_size_of_an_evaluation() -> None:
    batches = EvaluationBatches(in_memory(10), COLOUR, 0, batch_size=4)
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_few_pictures_start_no_worker() -> None:
    assert EvaluationBatches(in_memory(255), COLOUR, 2).workers == 0
    assert EvaluationBatches(in_memory(256), COLOUR, 2).workers == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_evaluation_reads_no_file(tmp_path: Path, workers: int) -> None:
    split = on_disk(tmp_path / "a", 260)
    batches = EvaluationBatches(split, COLOUR, workers)
    first = list(batches)
    shutil.rmtree(tmp_path / "a")
    assert_same_batches(list(batches), first)


def test_an_evaluation_that_was_left_early_starts_anew() -> None:
    batches = EvaluationBatches(in_memory(150), COLOUR, 0)
    next(iter(batches))
    for _ in range(2):
        assert torch.cat([batch.labels for batch in batches]).tolist() == list(range(150))


@pytest.mark.parametrize(("count", "workers"), [(20, 0), (260, 0), (260, 2)])
def test_an_evaluation_leaves_nothing_out(tmp_path: Path, count: int, workers: int) -> None:
    split = replaced(on_disk(tmp_path, count), {7: b"", 11: small_truncated(11)})
    batches = EvaluationBatches(split, COLOUR, workers)
    message = r"^2 unreadable: 007\.png \(the file is empty\), 011\.png \(.*\); an evaluation leaves nothing out: mend"
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            list(batches)


def test_unreadable_pictures_are_left_out_where_they_are_counted(tmp_path: Path) -> None:
    split = replaced(on_disk(tmp_path, 20), {7: b"", 11: b""})
    bad = BadPictures(limit=2)
    batches = EvaluationBatches(split, COLOUR, 0, bad, batch_size=8)
    for _ in range(2):
        labels = torch.cat([batch.labels for batch in batches]).tolist()
        assert labels == [i for i in range(20) if i not in (7, 11)]
    assert list(bad.reasons) == ["007.png", "011.png"]
    with pytest.raises(DataError, match="at most 1 may be skipped"):
        list(EvaluationBatches(split, COLOUR, 0, BadPictures(limit=1)))


# ---- workers ----


@pytest.mark.parametrize(
    ("processors", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (32, 16), (256, 16), (None, 1)]
)
def test_half_of_the_processors_read(monkeypatch: pytest.MonkeyPatch, processors: int | None, workers: int) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_workers() == workers
    # Those that this process may not use are none of its own.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors or 1)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    assert default_workers() == workers
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # the processor has nothing else to do then
    assert default_workers() == max(1, min(16, (processors or 1) - 2))


def test_beside_a_gpu_workers_are_forked_from_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    split = on_disk(tmp_path, 12, width=80, height=72)
    expected = [*training(split, recipe(batch_size=2, crop_scale=0.5)).epoch(0)]
    batches = training(split, recipe(batch_size=2, crop_scale=0.5, workers=2))
    with monkeypatch.context() as there:
        there.setattr(torch.cuda, "is_available", lambda: True)
        context = _processes()
    assert context.get_start_method() == "forkserver"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGTERM)  # as goes to all processes of a group; it still starts workers
    monkeypatch.setattr(batches.pipeline.loader, "multiprocessing_context", context)
    assert_same_batches([*batches.epoch(0)], expected)


READS = """
import multiprocessing, time
import torch
from multiprocessing import forkserver
from resvision.data.loader import EvaluationBatches
from resvision.data.sources import load
from resvision.preprocess import Preprocess

if __name__ == "__main__":
    torch.cuda.is_available = lambda: True
    batches = iter(EvaluationBatches(load("digits").splits["all"], Preprocess.plain(8, 1), workers=2))
    next(batches)
    workers = [child.pid for child in multiprocessing.active_children()]
    print(forkserver._forkserver._forkserver_pid, *workers, flush=True)
    time.sleep(60)
"""


def test_workers_and_their_server_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "reads.py").write_text(READS)
    with subprocess.Popen([sys.executable, tmp_path / "reads.py"], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        others = [Path("/proc") / number / "stat" for number in main.stdout.readline().split()]
        assert len(others) == 3
        main.kill()

    def alive(stat: Path) -> bool:
        try:
            return stat.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    deadline = time.monotonic() + 20
    while any(map(alive, others)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, others))


@pytest.mark.parametrize("workers", [1, 2])
def test_each_batch_has_memory_of_its_own(tmp_path: Path, workers: int) -> None:
    split = on_disk(tmp_path, 80, width=80, height=72)  # 40 batches, many more than can be under way
    expected = [*training(split, recipe(batch_size=2, crop_scale=0.5)).epoch(0)]
    batches = training(split, recipe(batch_size=2, crop_scale=0.5, workers=workers))
    assert_same_batches([*batches.epoch(0)], expected)
    left = batches.epoch(1)
    kept = [next(left), next(left)]
    copies = [Batch(batch.squares.clone(), batch.labels.clone()) for batch in kept]
    assert_same_batches([*batches.epoch(0)], expected)
    assert_same_batches(kept, copies)


@pytest.mark.parametrize(("size", "count"), [(32, 64), (256, 64), (512, 16), (1024, 4), (4096, 1)])
def test_an_evaluation_takes_fewer_of_large_pictures_at_once(
    monkeypatch: pytest.MonkeyPatch, size: int, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert at_once(dataclasses.replace(COLOUR, size=size)) == (512 if size == 32 else count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert at_once(dataclasses.replace(COLOUR, size=size)) == count
    assert EvaluationBatches(in_memory(4), dataclasses.replace(COLOUR, size=size), 0).batch_size == count


def test_looking_at_headers_copies_no_array() -> None:
    split = in_memory(8)
    assert screen(split, 0.0)[0] is split
