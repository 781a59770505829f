"""What is measured of a data set before it is trained on, against numbers computed by hand."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resvision.data.pictures import ArrayPictures, DataSet, File, FilePictures, Pictures, Split
from resvision.data.statistics import facts, normalised
from resvision.errors import DataError
from resvision.preprocess import Preprocess

COLOUR = Preprocess(size=4)


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def dataset(pictures: Pictures, *, split: str = "train", flip: bool = True) -> DataSet:
    labels = np.arange(len(pictures), dtype=np.int64) % 2
    splits = {split: Split(pictures, labels)}
    return DataSet(name="pets", classes=("cat", "dog"), splits=splits, method="none", flip=flip)


def solid(*pictures: tuple[str, tuple[int, int]]) -> FilePictures:
    """Pictures of one colour: mode and size of each."""
    return FilePictures(tuple(File(f"{i}.png", data=png(Image.new(*picture))) for i, picture in enumerate(pictures)))


def test_the_facts_of_an_array() -> None:
    """Of a set that is still to be divided, a fifth will not train."""
    found = facts(dataset(ArrayPictures(np.zeros((10, 28, 20), dtype=np.uint8), "x"), flip=False))
    assert (found.pictures, found.side, found.channels, found.flip) == (8, 20, 1, False)
    found = facts(dataset(ArrayPictures(np.zeros((10, 20, 28, 3), dtype=np.uint8), "x"), split="all"))
    assert (found.pictures, found.side, found.channels, found.flip) == (8, 20, 3, True)


def test_the_smallest_and_the_largest_class_are_counted() -> None:
    pictures = ArrayPictures(np.zeros((7, 8, 8), dtype=np.uint8), "x")
    labels = np.array([2, 0, 2, 2, 0, 1, 2])
    splits = {
        "train": Split(pictures, labels),
        "test": Split(pictures, np.array([0, 1, 2, 2, 2, 2, 2])),  # which is not asked
    }
    found = facts(DataSet(name="pets", classes=("a", "b", "c"), splits=splits, method="none", flip=True))
    assert (found.smallest_class, found.largest_class) == (1, 4)
    found = facts(dataset(pictures))
    assert (found.smallest_class, found.largest_class) == (2, 3)  # of 3 and 4, four fifths


def test_the_usual_side_is_the_median_of_the_shorter_ones() -> None:
    found = facts(dataset(solid(("RGB", (10, 30)), ("RGB", (50, 20)), ("RGB", (900, 800)))))
    assert (found.pictures, found.side, found.channels) == (3, 20, 3)


def test_one_coloured_picture_makes_the_set_coloured() -> None:
    assert facts(dataset(solid(("L", (9, 9)), ("1", (9, 9)), ("LA", (9, 9))))).channels == 1
    assert facts(dataset(solid(("L", (9, 9)), ("RGB", (9, 9)), ("L", (9, 9))))).channels == 3


def test_unreadable_pictures_are_passed_over() -> None:
    bad = (File("a.png", data=b""), File("b.png", data=b"text"))
    found = facts(dataset(FilePictures((*bad, *solid(("L", (9, 7)), ("L", (7, 9))).files))))
    assert (found.pictures, found.side, found.channels) == (4, 7, 1)
    with pytest.raises(DataError, match=r"^pets: no picture can be read, for example a\.png: the file is empty$"):
        facts(dataset(FilePictures(bad)))


def test_mean_and_deviation_of_each_channel() -> None:
    array = np.zeros((4, 4, 4, 3), dtype=np.uint8)
    array[:2, ..., 0] = 255  # half of the pictures: mean 0.5, deviation 0.5
    array[..., 1] = 51  # always 0.2: no deviation, of which 0.01 is left
    array[:, 0, :, 2] = 255  # a quarter of each picture: mean 0.25, deviation sqrt(0.25 - 0.0625) = 0.4330
    found = normalised(dataset(ArrayPictures(array, "x")).splits["train"], COLOUR)
    assert found == replace(COLOUR, mean=(0.5, 0.2, 0.25), std=(0.5, 0.01, 0.433))


def test_mean_of_grey_and_of_what_the_network_sees() -> None:
    grey = Preprocess.plain(4, 1)
    array = np.full((2, 4, 8), 255, dtype=np.uint8)
    array[:, :, 2:6] = 102  # the middle, which is all that is seen
    found = normalised(dataset(ArrayPictures(array, "x")).splits["train"], grey)
    assert (found.mean, found.std) == ((0.4,), (0.01,))


def test_the_mean_leaves_out_what_is_unreadable() -> None:
    files = (File("a.png", data=png(Image.new("RGB", (4, 4), (51, 102, 255)))), File("b.png", data=b""))
    assert normalised(dataset(FilePictures(files)).splits["train"], COLOUR).mean == (0.2, 0.4, 1.0)


def test_one_colour_picture_among_many_grey_ones_is_seen() -> None:
    kinds = [("L", (4, 4))] * 500
    assert facts(dataset(solid(*kinds))).channels == 1
    kinds[123] = ("RGB", (4, 4))  # beside the few that tell the usual size
    assert facts(dataset(solid(*kinds))).channels == 3
