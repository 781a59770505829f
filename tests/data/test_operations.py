"""TrivialAugment: every operation on grey and coloured squares, what is no change, and how often each comes."""

import numpy as np
import pytest
from PIL import Image

from resvision.data import operations
from resvision.data.augment import augment
from resvision.data.operations import OPERATIONS, trivial_augment
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

COLOUR = Preprocess(size=16, mean=(0.5, 0.25, 1.0), std=(0.2, 0.2, 0.2))
GREY = Preprocess(size=16, channels=1, mean=(0.3,), std=(0.2,))
NAMES = list(OPERATIONS)

# What has a strength, and is the identity where that is zero.
GRADUAL = sorted(set(NAMES) - {"auto_contrast", "equalize"})
MOVING = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


def noise(channels: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), dtype=np.uint8)


def muted(channels: int, size: int = 16) -> np.ndarray:
    """Noise without the darkest and brightest values, so that every operation has something to change."""
    return 40 + noise(channels, size) // 2


def changed(name: str, square: np.ndarray, strength: float, sign: float = 0.0) -> np.ndarray:
    chosen = (NAMES.index(name) + 0.5) / len(NAMES)
    return trivial_augment(square, (chosen, strength, sign), GREY if square.shape[2] == 1 else COLOUR)


def test_the_operations_are_those_of_the_paper() -> None:
    """Mueller & Hutter 2021, table 7."""
    expected = "identity auto_contrast equalize rotate solarize color posterize contrast brightness sharpness"
    assert [*expected.split(), "shear_x", "shear_y", "translate_x", "translate_y"] == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 16, 33])
def test_shape_and_type_stay_and_the_square_that_is_given_does_too(name: str, channels: int, size: int) -> None:
    square = noise(channels, size)
    before = square.copy()
    for strength in (0.0, 0.4, 0.999):
        for sign in (0.0, 0.6):
            found = changed(name, square, strength, sign)
            assert (found.shape, found.dtype) == ((size, size, channels), np.uint8)
    np.testing.assert_array_equal(square, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_identity(channels: int) -> None:
    for strength in (0.0, 0.999):
        np.testing.assert_array_equal(changed("identity", noise(channels), strength), noise(channels))


@pytest.mark.parametrize("name", GRADUAL)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sign", [0.0, 0.6])
def test_no_strength_changes_nothing(name: str, channels: int, sign: float) -> None:
    for square in (noise(channels), muted(channels), np.full((16, 16, channels), 255, dtype=np.uint8)):
        np.testing.assert_array_equal(changed(name, square, 0.0, sign), square)


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness", "posterize"])
def test_a_stronger_change_is_a_larger_one(name: str) -> None:
    square = muted(3).astype(int)  # differences have signs
    sizes = [np.abs(changed(name, muted(3), strength, 0.6) - square).mean() for strength in (0.0, 0.3, 0.9)]
    assert sizes[0] == 0 < sizes[1] < sizes[2]


@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness", *MOVING])
def test_changes_have_two_directions(name: str) -> None:
    square = noise(3)
    assert not np.array_equal(changed(name, square, 0.5, 0.0), changed(name, square, 0.5, 0.6))
    # Where a sign has no meaning it changes nothing.
    for other in ("solarize", "posterize"):
        np.testing.assert_array_equal(changed(other, square, 0.5, 0.0), changed(other, square, 0.5, 0.6))


def test_strengths_by_hand() -> None:
    """The widest of the paper: enhancements from 0.01 to 1.99, 2 bits, a seventh of the side, 135 degrees."""
    square = noise(1)
    dark = changed("brightness", square, 0.999, 0.6)
    np.testing.assert_allclose(dark, square * (1 - 0.99 * 0.999), atol=1)
    bright = changed("brightness", square, 0.5)
    np.testing.assert_allclose(bright, np.minimum(square * (1 + 0.99 * 0.5), 255), atol=1)
    np.testing.assert_array_equal(changed("solarize", square, 0.5), np.where(square < 128, square, 255 - square))
    np.testing.assert_array_equal(changed("posterize", square, 0.999), square & 0b11000000)
    np.testing.assert_array_equal(changed("posterize", square, 0.5), square & 0b11111000)
    moved = changed("translate_x", noise(1, 28), 0.9999)  # almost four pixels of 28
    np.testing.assert_array_equal(moved[:, :24], noise(1, 28)[:, 4:])
    np.testing.assert_array_equal(changed("translate_y", noise(1, 28), 0.9999)[:24], noise(1, 28)[4:])
    turned = changed("rotate", square, 90 / operations.DEGREES)
    np.testing.assert_array_equal(turned, np.rot90(square))


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("channels", [1, 3])
def test_what_comes_in_from_outside_is_the_mean_colour(name: str, channels: int) -> None:
    bright = np.full((16, 16, channels), 7, dtype=np.uint8)
    found = changed(name, bright, 0.9)
    outside = found[(found != 7).any(axis=2)]
    assert len(outside) > 10
    assert np.unique(outside, axis=0).tolist() == [[76] if channels == 1 else [128, 64, 255]]


def test_every_operation_is_as_likely_as_another() -> None:
    """Which operation it is, its strength and its direction follow from the sample's own numbers."""
    recipe = Recipe(model="resnet8_cifar", size=16, channels=3, trivial_augment=True, seed=5)
    square = muted(3)
    pictures = [square] * 2800
    found = augment(pictures, np.arange(2800), 0, recipe, COLOUR)
    unchanged = (found == square).all(axis=(1, 2, 3)).sum()
    assert 160 < unchanged < 420  # of 200 identities, and of others that are hardly noticed
    counts = dict.fromkeys(NAMES, 0)
    plain = dict(OPERATIONS)

    def counting(name: str) -> operations.Change:
        def change(picture: Image.Image, m: float, fill: operations.Fill) -> Image.Image:
            counts[name] += 1
            assert -1 < m < 1
            return plain[name](picture, m, fill)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            patch.setitem(OPERATIONS, name, counting(name))
        np.testing.assert_array_equal(augment(pictures, np.arange(2800), 0, recipe, COLOUR), found)
    assert sum(counts.values()) == 2800
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 34.5  # chi squared of 13: once in a thousand
    other = augment(pictures, np.arange(2800), 1, recipe, COLOUR)
    assert (other == found).all(axis=(1, 2, 3)).mean() < 0.1
