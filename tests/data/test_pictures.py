"""Pictures and splits: what data sources turn into, and how a split is divided."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resvision.data.pictures import (
    ArrayPictures,
    DataSet,
    File,
    FilePictures,
    Split,
    content_hashes,
    divide,
    fingerprint,
    listed,
)
from resvision.errors import DataError, PictureError
from resvision.preprocess import Preprocess

COLOUR = Preprocess(size=8)
GREY = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def array_split(array: np.ndarray, labels: list[int] | np.ndarray) -> Split:
    return Split(ArrayPictures(array, "given"), np.asarray(labels, dtype=np.int64))


# ---- files ----


def test_files_on_disk_and_in_memory_are_alike(tmp_path: Path) -> None:
    arrays = [noise(5, 4, 3, seed=i) for i in range(3)]
    (tmp_path / "1.png").write_bytes(png(arrays[1]))
    on_disk = File("cat/1.png", path=tmp_path / "1.png")
    pictures = FilePictures((File("cat/0.png", data=png(arrays[0])), on_disk, File("cat/2.png", data=png(arrays[2]))))
    assert len(pictures) == 3
    assert [pictures.name(i) for i in range(3)] == ["cat/0.png", "cat/1.png", "cat/2.png"]
    for i, array in enumerate(arrays):
        assert pictures.header(i) == (4, 5, False)
        assert pictures.content(i) == png(array)
        np.testing.assert_array_equal(np.asarray(pictures.open(i, COLOUR)), array)
    taken = pictures.take(np.array([2, 0]))
    assert [taken.name(i) for i in range(len(taken))] == ["cat/2.png", "cat/0.png"]
    np.testing.assert_array_equal(np.asarray(taken.open(0, COLOUR)), arrays[2])


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    pictures = FilePictures((File("cat/0.png", path=tmp_path / "0.png"),))
    for function in (pictures.content, pictures.header, lambda i: pictures.open(i, COLOUR)):
        with pytest.raises(PictureError, match=r"^cat/0\.png: cannot be read \(No such file or directory\)$"):
            function(0)


def test_a_picture_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(PictureError("cat/0.png", "the file is empty")))
    assert isinstance(error, PictureError)
    assert (error.name, error.reason, str(error)) == ("cat/0.png", "the file is empty", "cat/0.png: the file is empty")


# ---- arrays ----


def test_grey_arrays() -> None:
    array = noise(3, 5, 4)
    for pictures in (ArrayPictures(array, "given"), ArrayPictures(array[..., None], "given")):
        assert len(pictures) == 3
        assert pictures.name(1) == "given[1]"
        assert pictures.header(1) == (4, 5, True)
        assert pictures.content(1) == array[1].tobytes()
        np.testing.assert_array_equal(np.asarray(pictures.open(1, GREY)), array[1])
        np.testing.assert_array_equal(np.asarray(pictures.open(1, COLOUR)), np.stack([array[1]] * 3, axis=2))


def test_colour_arrays() -> None:
    array = noise(3, 5, 4, 3)
    pictures = ArrayPictures(array, "given")
    assert pictures.header(0) == (4, 5, False)
    np.testing.assert_array_equal(np.asarray(pictures.open(2, COLOUR)), array[2])
    taken = pictures.take(np.array([2, 2, 0]))
    assert len(taken) == 3
    np.testing.assert_array_equal(np.asarray(taken.open(1, COLOUR)), array[2])


def test_arrays_with_alpha_show_the_background() -> None:
    array = np.array([[[[255, 0, 0, 51], [1, 2, 3, 0], [1, 2, 3, 255]]]], dtype=np.uint8)
    opened = ArrayPictures(array, "given").open(0, COLOUR)
    assert np.asarray(opened).tolist() == [[[255, 204, 204], [255, 255, 255], [1, 2, 3]]]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_arrays_of_other_types_are_refused(dtype: type) -> None:
    with pytest.raises(DataError, match=rf"^given: pictures of type {np.dtype(dtype)}: give uint8 values in 0\.\.255"):
        ArrayPictures(np.zeros((2, 4, 4), dtype=dtype), "given")


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 4, 2), (2, 3, 4, 5), (2, 4, 4, 3, 1), (2, 0, 4), (2, 4, 0, 3)])
def test_arrays_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"^given: pictures of shape \(2, .*: give \(N, H, W\)"):
        ArrayPictures(np.zeros(shape, dtype=np.uint8), "given")


# ---- data sets ----


def test_a_split_is_taken_with_its_labels() -> None:
    split = array_split(noise(4, 2, 2), [0, 1, 2, 3]).take(np.array([3, 1]))
    assert len(split) == 2
    assert split.labels.tolist() == [3, 1]
    assert split.pictures.content(0) == noise(4, 2, 2)[3].tobytes()


def test_every_split_must_hold_every_class() -> None:
    splits = {"train": array_split(noise(4, 2, 2), [0, 1, 2, 0]), "val": array_split(noise(2, 2, 2), [1, 1])}
    message = r"^pets: the val split has no picture of cat, emu; every split must hold the same classes$"
    with pytest.raises(DataError, match=message):
        DataSet(name="pets", classes=("cat", "dog", "emu"), splits=splits, method="given")


def test_one_class_is_the_least() -> None:
    with pytest.raises(DataError, match=r"^pets: no class was found"):
        DataSet(name="pets", classes=(), splits={}, method="none")


def test_long_lists_are_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(list("abc"), 2) == "a, b and 1 more"


# ---- dividing ----


def contents(split: Split) -> list[bytes]:
    return [split.pictures.content(i) for i in range(len(split))]


def test_hashes_are_of_the_content() -> None:
    files = (
        File("a.png", data=b"one"),
        File("b.png", data=b"two"),
        File("c.png", data=b"one"),
        File("gone.png", path=Path("does-not-exist")),
        File("lost.png", path=Path("does-not-exist")),
    )
    hashes = content_hashes(FilePictures(files))
    assert hashes.dtype == np.uint64
    assert hashes[0] == hashes[2]
    assert len(set(hashes.tolist())) == 4  # what cannot be read goes by its name
    # BLAKE2b of b"one" with a digest of 8 bytes, so that a division made today is made again tomorrow
    assert hashes[0] == int.from_bytes(bytes.fromhex("34f2ddaa8b7615c9"), "little")


@pytest.mark.parametrize(("size", "held"), [(2, 1), (3, 1), (5, 1), (8, 2), (20, 4), (25, 5), (100, 20)])
def test_a_fifth_of_each_class_is_held_back(size: int, held: int) -> None:
    labels = np.repeat([0, 1, 2], size)
    split = array_split(noise(3 * size, 4, 4), labels)
    rest, back = divide(split, 0.2, "given")
    assert np.bincount(back.labels).tolist() == [held] * 3
    assert np.bincount(rest.labels).tolist() == [size - held] * 3
    assert sorted(contents(rest) + contents(back)) == sorted(contents(split))


def test_the_pictures_keep_their_labels_and_their_order() -> None:
    array, labels = noise(40, 4, 4), np.arange(40) % 2
    given = {array[i].tobytes(): (i, int(labels[i])) for i in range(40)}
    for part in divide(array_split(array, labels), 0.25, "given"):
        places = [given[content][0] for content in contents(part)]
        assert places == sorted(places)
        assert part.labels.tolist() == [given[content][1] for content in contents(part)]


def test_the_division_depends_on_content_and_not_on_order() -> None:
    array, labels = noise(60, 4, 4), np.arange(60) % 3
    shuffled = np.random.default_rng(1).permutation(60)
    first = divide(array_split(array, labels), 0.2, "given")
    second = divide(array_split(array[shuffled], labels[shuffled]), 0.2, "given")
    for a, b in zip(first, second, strict=True):
        assert set(contents(a)) == set(contents(b))


def test_a_picture_more_moves_few_others() -> None:
    array = noise(101, 4, 4)
    labels = np.zeros(101, dtype=int)
    before = set(contents(divide(array_split(array[:100], labels[:100]), 0.2, "given")[1]))
    after = set(contents(divide(array_split(array, labels), 0.2, "given")[1]))
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("seed", range(10))
def test_copies_of_a_picture_stay_together(seed: int) -> None:
    generator = np.random.default_rng(seed)
    different = noise(12, 4, 4, seed=seed)
    array = different[generator.integers(0, 12, 60)]
    rest, back = divide(array_split(array, np.zeros(60, dtype=int)), 0.2, "given")
    assert not set(contents(rest)) & set(contents(back))
    assert len(rest) + len(back) == 60
    assert len(rest) > 0
    assert len(back) > 0


def test_copies_of_a_picture_in_two_classes_stay_together() -> None:
    shared, first, second = noise(40, 4, 4, seed=1), noise(40, 4, 4, seed=2), noise(120, 4, 4, seed=3)
    array = np.concatenate([shared, first, shared, second])
    rest, back = divide(array_split(array, np.repeat([0, 1], (80, 160))), 0.2, "given")
    assert len(set(contents(rest)) & set(contents(back))) == 0


def test_a_class_of_many_copies_keeps_a_picture_on_each_side() -> None:
    one, other = noise(2, 4, 4)
    for array in (np.stack([one] * 50 + [other]), np.stack([one] + [other] * 50)):
        rest, back = divide(array_split(array, np.zeros(51, dtype=int)), 0.2, "given")
        assert len(set(contents(rest))) == len(set(contents(back))) == 1
        assert set(contents(rest)) != set(contents(back))


def test_a_class_of_one_picture_cannot_be_divided() -> None:
    array = noise(5, 4, 4)
    array[4] = array[3]  # two copies are one picture
    for last in (4, 5):
        split = array_split(array[:last], [0, 0, 0, 1, 1][:last])
        with pytest.raises(DataError, match=r"^given: the class of given\[3\] has fewer than two pictures of its own"):
            divide(split, 0.2, "given")


def test_a_picture_of_an_array_keeps_its_name() -> None:
    pictures = ArrayPictures(noise(10, 4, 4), "given")
    taken = pictures.take(np.array([7, 2, 5])).take(np.array([2, 0]))
    assert [taken.name(i) for i in range(len(taken))] == ["given[5]", "given[7]"]
    np.testing.assert_array_equal(taken.array, pictures.array[[5, 7]])


def test_a_fingerprint_tells_data_apart() -> None:
    array, labels = noise(2000, 4, 4), np.arange(2000) % 2
    split = array_split(array, labels)
    found = fingerprint(("a", "b"), [split])
    assert fingerprint(("a", "b"), [array_split(array.copy(), labels)]) == found
    others = [
        (("a", "c"), [split]),
        (("a", "b"), [split, split]),
        (("a", "b"), [array_split(array[::-1], labels)]),  # other pictures of the same labels at the same places
        (("a", "b"), [array_split(array, 1 - labels)]),
    ]
    assert len({found, *(fingerprint(*other) for other in others)}) == 5
    files = [FilePictures((File(name, data=b"1"), File("2", data=b"2"))) for name in ("1", "other")]
    by_name = [fingerprint(("a",), [Split(pictures, np.zeros(2, dtype=np.int64))]) for pictures in files]
    assert by_name[0] != by_name[1]


def test_a_header_that_lies_at_the_end_of_a_file_is_found(tmp_path: Path) -> None:
    """TIFF writes its directory behind the pixels; others are told by their first bytes."""
    picture = noise(300, 200, 3)
    Image.fromarray(picture).save(tmp_path / "1.tif")
    Image.fromarray(picture).save(tmp_path / "2.png")
    assert all((tmp_path / name).stat().st_size > 1 << 16 for name in ("1.tif", "2.png"))
    pictures = FilePictures(tuple(File(name, path=tmp_path / name) for name in ("1.tif", "2.png", "3.png")))
    assert pictures.header(0) == pictures.header(1) == (200, 300, False)
    with pytest.raises(PictureError, match=r"3\.png: cannot be read"):
        pictures.header(2)
