"""The picture cache: what is read from it is what was decoded, whoever wrote it and however it ended."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from resvision.data import cache as caches
from resvision.data.augment import order
from resvision.data.cache import SUFFIX, PictureCache, cache_folder, open_cache, shrunk
from resvision.data.images import scaled
from resvision.data.loader import TrainingBatches
from resvision.data.pictures import ArrayPictures, File, FilePictures, Split
from resvision.data.readable import screen
from resvision.data.reading import Batch, smallest_side
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

SMALL = Preprocess(size=24)
RECIPE = Recipe(model="resnet18", size=24, crop_scale=0.5, flip=True, batch_size=8, workers=0, seed=3)
COUNT = 32
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESVISION_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return photographs(tmp_path / "photographs")


def photographs(root: Path, count: int = COUNT) -> Split:
    """JPEGs and PNGs of several shapes, some so large that they are shrunk; the label of picture i is i."""
    root.mkdir()
    random = np.random.default_rng(0)
    files = []
    for i in range(count):
        path = root / f"{i:03}.{'png' if i % 4 == 0 else 'jpg'}"
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((70 + 11 * (i % 7), 66 + 13 * (i % 5)), Image.Resampling.BICUBIC).save(path)
        files.append(File(path.name, path=path))
    return Split(FilePictures(tuple(files)), np.arange(count, dtype=np.int64))


def batches_of(split: Split, **fields: object) -> TrainingBatches:
    chosen = dataclasses.replace(RECIPE, **fields)  # type: ignore[arg-type]
    readable, bad, largest = screen(split, 0.1)
    return TrainingBatches(readable, chosen, SMALL, bad, largest)


def epochs(batches: TrainingBatches, numbers: tuple[int, ...] = (0, 1)) -> list[Batch]:
    return [Batch(b.squares.clone(), b.labels.clone(), b.bad) for number in numbers for b in batches.epoch(number)]


def uncached(split: Split, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...] = (0, 1)) -> list[Batch]:
    """What a run with the same recipe gives where the disk has no room."""
    with monkeypatch.context() as context:
        context.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        batches = batches_of(split)
    assert not list(cache_folder().glob("*"))
    return epochs(batches, numbers)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.squares, b.squares) and torch.equal(a.labels, b.labels) and a.bad == b.bad
        for a, b in zip(one, other, strict=True)
    )


def only_file() -> Path:
    [path] = cache_folder().glob("*")
    assert path.suffix == SUFFIX
    return path


def places(path: Path, count: int = COUNT) -> np.ndarray:
    return np.fromfile(path, np.int64, count)


# ---- what is read is what was decoded ----


@pytest.mark.parametrize("workers", [0, 2])
def test_later_epochs_and_later_runs_read_no_file(split: Split, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uncached(split, monkeypatch)
    first = batches_of(split, workers=workers)
    assert first.cache_note is not None
    assert f"decoded pictures are kept in {cache_folder()}: 0 of 32 are there, 0 MB in all" in first.cache_note
    assert same(epochs(first), expected)
    assert (places(only_file()) > 0).all()
    size = only_file().stat().st_size
    assert isinstance(split.pictures, FilePictures)
    about = caches._needed_bytes(split.pictures, 3, 34)
    assert about == pytest.approx(size, rel=0.2)  # scaled decoding may leave a picture somewhat larger

    second = batches_of(split, workers=workers)
    assert second.cache_note is not None
    assert "32 of 32 are there" in second.cache_note
    for file in split.pictures.files:
        assert file.path is not None
        file.path.unlink()
    assert same(epochs(second), expected)
    assert same(epochs(first), expected)
    assert only_file().stat().st_size == size


def test_a_run_that_begins_in_the_middle_gives_what_a_whole_one_gives(split: Split) -> None:
    whole = epochs(batches_of(split))
    shutil.rmtree(cache_folder())
    begun = batches_of(split)
    assert same(list(begun.epoch(0, 2)), whole[2:4])
    assert np.count_nonzero(places(only_file())) == 16
    assert same(list(batches_of(split).epoch(1)), whole[4:])


def test_a_picture_is_written_once(split: Split) -> None:
    batches = batches_of(split, repeats=4, batch_size=32)
    list(batches.epoch(0))
    assert np.count_nonzero(places(only_file())) == 8
    pictures = [p for p in (batches.pipeline.reader.cache.read(i) for i in range(COUNT)) if p is not None]  # type: ignore[union-attr]
    assert only_file().stat().st_size == 8 * COUNT + sum(16 + p.nbytes for p in pictures)


def test_another_size_of_pictures_takes_the_same_cache(split: Split) -> None:
    fresh = list(batches_of(split, first_size=16).epoch(0, 0, 16))
    written = places(only_file())
    growing = batches_of(split, first_size=16)
    assert same(list(growing.epoch(0, 0, 16)), fresh)
    assert growing.epoch(0).__next__().squares.shape == (8, 24, 24, 3)
    np.testing.assert_array_equal(places(only_file()), written)


def test_grey_pictures(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    array = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(array).save(path)
    grey = Preprocess(size=24, channels=1, mean=(0.5,), std=(0.5,))
    cache, _ = open_cache(FilePictures((File("grey.png", path=path),)), grey, 34)
    assert cache is not None
    assert cache.read(0) is None
    cache.write(0, array[..., None])
    kept = cache.read(0)
    assert kept is not None
    np.testing.assert_array_equal(kept, array[..., None])


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [
        ((300, 200), 100, (150, 100)),
        ((200, 301), 100, (100, 150)),
        ((125, 900), 100, (125, 900)),
        ((9, 9), 100, (9, 9)),
    ],
)
def test_only_what_is_much_larger_is_shrunk(shape: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = shrunk(pixels, side)
    assert found.shape == (*expected, 3)
    np.testing.assert_array_equal(found, pixels if expected == shape else scaled(pixels, *expected))


def test_the_least_crop_of_a_shrunk_picture_is_not_enlarged() -> None:
    for crop_scale in (0.08, 0.25, 0.35, 1.0):
        side = smallest_side(Preprocess(size=128), dataclasses.replace(RECIPE, crop_scale=crop_scale))
        assert 128 <= side * crop_scale**0.5 < 131


# ---- what must not be read ----


def test_without_the_cache_nothing_is_written_or_shrunk(split: Split, folder: Path) -> None:
    batches = batches_of(split, cache=False)
    list(batches.epoch(0))
    assert batches.cache_note is None
    assert not folder.exists()


def test_arrays_and_small_pictures_are_not_cached(tmp_path: Path, folder: Path) -> None:
    arrays = Split(ArrayPictures(np.zeros((16, 80, 80, 3), np.uint8), "given"), np.arange(16))
    list(batches_of(arrays).epoch(0))
    small = photographs(tmp_path / "small", 8)
    batches = TrainingBatches(small, dataclasses.replace(RECIPE, crop_scale=1.0), SMALL, screen(small, 0)[1], 64)
    assert batches.memory is not None
    assert not folder.exists()


def key(split: Split, preprocess: Preprocess = SMALL, side: int = 34) -> str:
    assert isinstance(split.pictures, FilePictures)
    cache, _ = open_cache(split.pictures, preprocess, side)
    assert cache is not None
    return cache.path.name


def test_a_changed_file_is_decoded_anew(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    before = epochs(batches_of(split))
    assert isinstance(split.pictures, FilePictures)
    path = split.pictures.files[5].path
    assert path is not None
    Image.new("RGB", (80, 80), (255, 0, 0)).save(path)
    after = epochs(batches_of(split))
    assert not same(before, after)
    assert len(list(cache_folder().glob("*"))) == 2
    shutil.rmtree(cache_folder())
    assert same(uncached(split, monkeypatch), after)


def test_the_name_tells_what_decides_the_pixels(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    same_name = key(split)
    assert key(split) == same_name
    assert key(split, dataclasses.replace(SMALL, size=20, mean=(0.1,) * 3, interpolation="bicubic")) == same_name
    others = {key(split, dataclasses.replace(SMALL, **change), side) for change, side in OTHERS}  # type: ignore[arg-type]
    others |= {key(split.take(np.arange(31))), key(split.take(np.arange(32)[::-1]))}
    assert isinstance(split.pictures, FilePictures)
    path = split.pictures.files[0].path
    assert path is not None
    os.utime(path, ns=(0, 1))
    others.add(key(split))
    monkeypatch.setattr("PIL.__version__", "0")
    others.add(key(split))
    assert len(others | {same_name}) == len(OTHERS) + 5


OTHERS: list[tuple[dict[str, object], int]] = [
    ({}, 35),
    ({"channels": 1, "mean": (0.5,), "std": (0.5,)}, 34),
    ({"exif": False}, 34),
    ({"background": (0, 0, 0)}, 34),
]


def test_pictures_of_an_archive_are_known_by_their_content(split: Split) -> None:
    assert isinstance(split.pictures, FilePictures)
    read = [File(file.name, data=file.read()) for file in split.pictures.files]
    packed = Split(FilePictures(tuple(read)), split.labels)
    first = key(packed)
    assert key(packed) == first != key(split)
    assert same(epochs(batches_of(packed)), epochs(batches_of(split)))
    exchanged = (read[1], File(read[1].name, data=read[2].data), *read[2:])
    assert key(Split(FilePictures(exchanged), split.labels)) != first


def test_an_unreadable_picture_stays_one(split: Split) -> None:
    assert isinstance(split.pictures, FilePictures)
    path = split.pictures.files[4].path
    assert path is not None
    path.write_bytes(path.read_bytes()[:2000])
    for _ in range(2):
        found = epochs(batches_of(split))
        assert {name for batch in found for name, _ in batch.bad} == {"004.png"}
        assert np.flatnonzero(places(only_file()) == 0).tolist() == [4]


# ---- where it ends badly ----


def write_for_ever(cache: PictureCache, pixels: list[np.ndarray]) -> None:
    while True:
        for index, one in enumerate(pixels):
            cache.write(index, one)


def test_a_writer_that_is_killed_leaves_whole_pictures(tmp_path: Path) -> None:
    # So large that the time goes into writing: all kills come in the middle of a record.
    pixels = [np.full((700 + i, 800, 3), i + 1, dtype=np.uint8) for i in range(20)]
    path = tmp_path / f"kept{SUFFIX}"
    path.write_bytes(bytes(8 * len(pixels)))
    for attempt in range(8):
        before = path.stat().st_size
        writer = FORK.Process(target=write_for_ever, args=(PictureCache(path, 20, 3, 1 << 40), pixels))
        writer.start()
        while path.stat().st_size < before + 5_000_000 * (attempt + 1):
            time.sleep(0.001)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        cache = PictureCache(path, 20, 3, 1 << 40)
        kept = [cache.read(i) for i in range(20)]
        assert kept[0] is not None
        for one, wanted in zip(kept, pixels, strict=True):
            assert one is None or np.array_equal(one, wanted)
        for i, wanted in enumerate(pixels):
            cache.write(i, wanted)
            again = cache.read(i)
            assert again is not None
            assert np.array_equal(again, wanted)


def train_for_ever(split: Split, started: Callable[[], None]) -> None:
    os.setsid()  # so that its workers are killed along with it
    torch.set_num_threads(1)  # a forked process has no OpenMP threads and would wait for its parent's
    batches = batches_of(split, workers=2)
    for number in range(1_000_000):
        for _ in batches.epoch(number):
            started()


def test_a_run_that_is_killed_leaves_a_cache_to_the_next(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uncached(split, monkeypatch)
    for _ in range(3):
        event = FORK.Event()
        run = FORK.Process(target=train_for_ever, args=(split, event.set))
        run.start()
        assert event.wait(60)
        assert run.pid is not None
        os.killpg(run.pid, signal.SIGKILL)
        run.join()
        assert same(epochs(batches_of(split, workers=2)), expected)
    assert (places(only_file()) > 0).all()


def run_to_file(split: Split, path: Path) -> None:
    torch.set_num_threads(1)
    found = epochs(batches_of(split, workers=2))
    torch.save([(b.squares, b.labels) for b in found], path)


def test_two_runs_at_the_same_time(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uncached(split, monkeypatch)
    results = [tmp_path / f"{i}.pt" for i in range(2)]
    runs = [FORK.Process(target=run_to_file, args=(split, path)) for path in results]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    for path in results:
        assert same([Batch(*pair) for pair in torch.load(path)], expected)
    assert same(epochs(batches_of(split)), expected)


@pytest.mark.parametrize("damage", ["cut", "nothing", "exchanged", "far", "negative"])
def test_a_damaged_cache_is_not_believed(split: Split, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = uncached(split, monkeypatch)
    epochs(batches_of(split))
    path = only_file()
    where = places(path)
    if damage == "cut":  # as after a power failure: places of records that never came to the disk
        os.truncate(path, int(np.sort(where)[COUNT // 2]) + 1000)
    elif damage == "nothing":
        os.truncate(path, 0)
    else:
        where[:4] = {"exchanged": where[1:5], "far": where[:4] + 10**9, "negative": -where[:4]}[damage]
        with path.open("r+b") as file:
            file.write(where.tobytes())
    for _ in range(2):
        assert same(epochs(batches_of(split)), expected)


# ---- room on the disk ----


def test_a_full_disk_changes_no_pixel(split: Split, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    expected = epochs(batches_of(split))
    shutil.rmtree(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    batches = batches_of(split)
    assert batches.cache_note == (
        f"pictures are decoded in every epoch: kept decoded they would take 0 MB, "
        f"and {folder} may take 0 MB (RESVISION_CACHE moves it)"
    )
    assert same(epochs(batches), expected)
    assert not list(folder.glob("*"))


def test_it_stops_writing_at_its_limit(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = epochs(batches_of(split))
    path = only_file()
    os.truncate(path, 0)
    monkeypatch.setattr(caches, "MAX_BYTES", 100_000)
    for workers in (0, 2):
        batches = batches_of(split, workers=workers)  # a cache that is there is used, though no longer filled
        assert same(epochs(batches), expected)
        assert path.stat().st_size < 100_000 + 3 * 50_000
        assert 0 < np.count_nonzero(places(path)) < COUNT


def test_what_the_system_refuses_to_write_is_decoded(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = epochs(batches_of(split))
    shutil.rmtree(cache_folder())
    calls: Iterator[int] = iter(range(10**6))

    def write(file: int, parts: list[bytes]) -> int:
        if next(calls) < 3:
            return os.write(file, b"".join(parts))
        if next(calls) == 5:
            return os.write(file, parts[0])  # a part, and then the disk is full
        raise OSError(28, "No space left on device")

    batches = batches_of(split)
    with monkeypatch.context() as context:
        context.setattr(os, "writev", write)
        assert same(epochs(batches), expected)
    assert np.count_nonzero(places(only_file())) == 3
    assert same(epochs(batches_of(split)), expected)


def test_a_folder_that_cannot_be_used(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = epochs(batches_of(split))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESVISION_CACHE", str(tmp_path / "file" / "below"))
    batches = batches_of(split)
    assert batches.cache_note == (
        f"pictures are decoded in every epoch: {tmp_path / 'file' / 'below'} cannot be used (Not a directory)"
    )
    assert same(epochs(batches), expected)


def test_those_that_were_not_used_for_longest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = [photographs(tmp_path / name) for name in "abcd"]
    names = []
    for age, split in zip((3, 1, 2), splits, strict=False):
        batches = batches_of(split)
        epochs(batches)
        names.append(key(split))
        os.utime(cache_folder() / names[-1], (1000 - age, 1000 - age))
    size = (cache_folder() / names[0]).stat().st_size
    monkeypatch.setattr(caches, "MAX_BYTES", int(2.5 * size))
    running = batches_of(splits[2])
    last = batches_of(splits[3])
    assert {p.name for p in cache_folder().glob("*")} == {names[2], key(splits[3])}
    (cache_folder() / names[2]).unlink()
    assert same(epochs(running), epochs(last))  # the pictures are equal, and one run has lost its cache


def test_it_lies_in_the_platform_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESVISION_CACHE", "~/fast")
    assert cache_folder() == tmp_path / "home" / "fast"
    monkeypatch.delenv("RESVISION_CACHE")
    assert cache_folder() == tmp_path / "resvision" / "pictures"


def test_the_first_pictures_are_those_of_the_order(split: Split) -> None:
    next(batches_of(split).epoch(0))
    assert set(np.flatnonzero(places(only_file())).tolist()) == set(order(3, 0, COUNT)[:8].tolist())
