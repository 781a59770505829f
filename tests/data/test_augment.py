"""Order and augmentation: pure functions of (seed, epoch, sample)."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resvision.data.augment import (
    AREA,
    ASPECT_RATIOS,
    FLIP,
    LEFT,
    OPERATION,
    ORDER,
    RATIO,
    SHIFT_X,
    SHIFT_Y,
    SIGN,
    STRENGTH,
    TOP,
    augment,
    crop_box,
    draws,
    order,
    presented,
    shift_and_flip,
    view_keys,
    whole_pixels,
)
from resvision.data.images import cropped, square
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe

COLOUR = Preprocess(size=8, mean=(0.5, 0.25, 1.0), std=(0.2, 0.2, 0.2))
KINDS = (ORDER, SHIFT_Y, SHIFT_X, FLIP, AREA, RATIO, TOP, LEFT, OPERATION, STRENGTH, SIGN)


def recipe(**fields: object) -> Recipe:
    return Recipe(**{"model": "resnet14_cifar", "size": 8, "seed": 3, **fields})  # type: ignore[arg-type]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# ---- draws ----


def mix(x: int) -> int:
    """One step of SplitMix64 from the state x, in whole numbers of Python."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_the_mixer_is_splitmix64() -> None:
    assert mix(0) == 0xE220A8397B1DCDAF  # the first number of the published generator for the seed 0


@pytest.mark.parametrize(("seed", "epoch", "kind"), [(0, 0, ORDER), (7, 3, RATIO), (2**63, 10_000, LEFT)])
def test_draws_hash_their_key(seed: int, epoch: int, kind: int) -> None:
    samples = [0, 1, 2, 59_999, 2**40]
    key = mix(mix(mix(seed) ^ epoch) ^ kind)
    expected = [(mix(key ^ sample) >> 11) / 2**53 for sample in samples]
    assert draws(seed, epoch, np.array(samples), kind).tolist() == expected


def test_draws_are_what_they_always_were() -> None:
    first = [0.12964561829974741, 0.16526896395580137, 0.31059630345365596, 0.41232273959211374]
    assert draws(0, 0, np.arange(4), ORDER).tolist() == first
    second = [0.4721423550867254, 0.638407506586084, 0.5115165246237751]
    assert draws(7, 3, np.array([0, 1, 1000]), RATIO).tolist() == second
    assert KINDS == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_uniform(kind: int) -> None:
    numbers = draws(1, 2, np.arange(100_000), kind)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.bincount((numbers * 20).astype(int), minlength=20)
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi squared of 19 degrees: above that once in 8,000
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02


def test_kinds_epochs_and_seeds_are_independent() -> None:
    samples = np.arange(20_000)
    base = draws(1, 1, samples, FLIP)
    others = [draws(1, 1, samples, kind) for kind in KINDS if kind != FLIP]
    others += [draws(1, 2, samples, FLIP), draws(2, 1, samples, FLIP), draws(FLIP, 1, samples, 1)]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.04
        assert not np.any(base == other)


def test_a_sample_draws_the_same_in_any_company() -> None:
    together = draws(1, 2, np.arange(100), FLIP)
    np.testing.assert_array_equal(draws(1, 2, np.arange(100), FLIP), together)
    for sample in (0, 17, 99):
        assert draws(1, 2, np.array([sample]), FLIP)[0] == together[sample]
    np.testing.assert_array_equal(draws(1, 2, np.arange(99, -1, -1), FLIP), together[::-1])


# ---- order ----


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_order_is_a_permutation(count: int) -> None:
    found = order(5, 1, count)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(count))


def test_order_differs_by_epoch_and_seed() -> None:
    assert order(0, 0, 8).tolist() == [0, 1, 4, 2, 3, 6, 7, 5]  # as it always was
    first = order(0, 0, 1000)
    np.testing.assert_array_equal(order(0, 0, 1000), first)
    for other in (order(0, 1, 1000), order(1, 0, 1000), np.arange(1000)):
        assert (first == other).sum() < 10  # one place agrees by chance


# ---- what an epoch presents ----

UNEQUAL = np.repeat([0, 1, 2, 3], [70, 20, 9, 1])


def test_each_sample_is_presented_once() -> None:
    for epoch in (0, 3):
        found = presented(recipe(), epoch, UNEQUAL)
        np.testing.assert_array_equal(found.samples, order(3, epoch, 100))
        assert not found.views.any()
        np.testing.assert_array_equal(view_keys(found), found.samples)  # so that these runs draw as they always did


@pytest.mark.parametrize(("repeats", "count"), [(2, 100), (3, 100), (4, 7), (5, 5)])
def test_so_many_epochs_as_there_are_repeats_hold_each_sample_as_often(repeats: int, count: int) -> None:
    labels = np.zeros(count, dtype=np.int64)
    turns = []
    for turn in (0, 1):
        seen = []
        for epoch in range(turn * repeats, (turn + 1) * repeats):
            found = presented(recipe(repeats=repeats), epoch, labels)
            assert abs(len(found) - count) < repeats
            np.testing.assert_array_equal(
                found.samples.reshape(-1, repeats), found.samples[::repeats, None] + [0] * repeats
            )
            np.testing.assert_array_equal(found.views.reshape(-1, repeats), [range(repeats)] * (len(found) // repeats))
            seen.append(found.samples)
        assert np.bincount(np.concatenate(seen), minlength=count).tolist() == [repeats] * count
        turns.append(np.concatenate(seen).tolist())
    assert turns[0] != turns[1]  # in another order


def test_the_views_of_a_picture_differ() -> None:
    chosen = recipe(repeats=8, crop_scale=0.25, flip=True)
    part = presented(chosen, 0, np.zeros(8, dtype=np.int64))
    assert len(set(part.samples.tolist())) == 1
    keys = view_keys(part)
    assert len(set(keys.tolist())) == 8
    assert keys[0] == part.samples[0]
    pictures = [noise(40, 60, 3)] * 8
    squares = augment(pictures, keys, 0, chosen, COLOUR)
    assert len({square.tobytes() for square in squares}) == 8


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_balanced_sampling_presents_each_class_equally_often(epoch: int) -> None:
    found = presented(recipe(balance="sampling"), epoch, UNEQUAL)
    assert np.bincount(UNEQUAL[found.samples]).tolist() == [25] * 4
    times = np.bincount(found.samples, minlength=100)
    assert times[:70].max() == 1  # of a large class a part,
    assert set(times[70:90].tolist()) == {1, 2}  # of a small one each as often as another,
    assert set(times[90:99].tolist()) == {2, 3}
    assert times[99] == 25
    assert len(set(view_keys(found).tolist())) == 100  # each time another view,
    labels = UNEQUAL[found.samples]
    assert all(len(set(labels[i : i + 25].tolist())) == 4 for i in range(0, 100, 25))  # and well mixed


def test_balanced_sampling_takes_another_part_of_a_large_class_each_time() -> None:
    parts = [set(presented(recipe(balance="sampling"), epoch, UNEQUAL).samples.tolist()) for epoch in range(20)]
    assert len(set.union(*parts)) == 100
    assert parts[0] != parts[1]
    other = presented(recipe(balance="sampling", seed=4), 0, UNEQUAL)
    assert set(other.samples.tolist()) != parts[0]


def test_balanced_sampling_of_classes_that_do_not_divide_the_set() -> None:
    labels = np.repeat([0, 2, 5], [8, 2, 1])  # classes without a picture are left out
    found = presented(recipe(balance="sampling"), 0, labels)
    assert np.bincount(labels[found.samples], minlength=6).tolist() == [4, 0, 4, 0, 0, 3]


# ---- shift and flip ----


def moved(squares: np.ndarray, *how: Any) -> np.ndarray:
    return shift_and_flip(torch.from_numpy(squares), *how).numpy()


def moved_by_hand(picture: np.ndarray, sample: int, epoch: int, recipe: Recipe, preprocess: Preprocess) -> np.ndarray:
    """One picture, pixel by pixel: what lies outside has the mean colour."""
    size = len(picture)
    one = np.array([sample])
    places = 2 * recipe.shift + 1
    down = int(draws(recipe.seed, epoch, one, SHIFT_Y)[0] * places) - recipe.shift
    right = int(draws(recipe.seed, epoch, one, SHIFT_X)[0] * places) - recipe.shift
    result = np.empty_like(picture)
    for y in range(size):
        for x in range(size):
            inside = 0 <= y + down < size and 0 <= x + right < size
            for c, mean in enumerate(preprocess.mean):
                result[y, x, c] = picture[y + down, x + right, c] if inside else round(mean * 255)
    begins_mirrored = draws(recipe.seed, 0, one, FLIP)[0] < 0.5
    return result[:, ::-1] if recipe.flip and begins_mirrored == (epoch % 2 == 0) else result


@pytest.mark.parametrize(("shift", "flip"), [(0, False), (0, True), (1, False), (2, True), (7, True)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("epoch", [4, 7])
def test_shift_and_flip_by_hand(shift: int, flip: bool, channels: int, epoch: int) -> None:
    preprocess = COLOUR if channels == 3 else Preprocess(size=8, channels=1, mean=(0.3,), std=(0.2,))
    squares = noise(30, 8, 8, channels)
    samples = np.arange(100, 130)
    chosen = recipe(shift=shift, flip=flip)
    result = moved(squares, samples, epoch, chosen, preprocess)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    for picture, sample, found in zip(squares, samples.tolist(), result, strict=True):
        np.testing.assert_array_equal(found, moved_by_hand(picture, sample, epoch, chosen, preprocess))


def test_the_border_is_filled_with_the_mean() -> None:
    bright = np.full((200, 8, 8, 3), 7, dtype=np.uint8)
    found = moved(bright, np.arange(200), 0, recipe(shift=2), COLOUR)
    filled = found[(found != 7).any(axis=3)]
    assert len(filled) > 200
    assert np.unique(filled, axis=0).tolist() == [[128, 64, 255]]  # 0.5, 0.25 and 1 x 255, rounded
    # Each of the five places is as likely as another: the rows that stay are 8 less a shift of 0, 1 or 2.
    rows = (found[..., 0] == 7).any(axis=2).sum(axis=1)
    assert np.bincount(rows)[6:].tolist() == pytest.approx([80, 80, 40], abs=25)


@pytest.mark.parametrize("epoch", [0, 6])
def test_half_of_the_pictures_are_mirrored_and_the_others_in_the_next_epoch(epoch: int) -> None:
    squares = noise(1000, 8, 8, 3)
    before = np.zeros(1000, dtype=bool)
    for number in (epoch, epoch + 1):
        found = moved(squares, np.arange(1000), number, recipe(flip=True), COLOUR)
        same = (found == squares).all(axis=(1, 2, 3))
        mirrored = (found == squares[:, :, ::-1]).all(axis=(1, 2, 3))
        assert np.all(same ^ mirrored)
        assert 440 < same.sum() < 560
        assert number == epoch or np.all(mirrored ^ before)  # each picture is seen both ways
        before = mirrored


def test_nothing_asked_nothing_moved() -> None:
    squares = noise(5, 8, 8, 3)
    np.testing.assert_array_equal(moved(squares, np.arange(5), 0, recipe(), COLOUR), squares)


def test_the_squares_given_are_not_changed() -> None:
    squares = noise(20, 8, 8, 3)
    before = squares.copy()
    moved(squares, np.arange(20), 0, recipe(shift=3, flip=True), COLOUR)
    np.testing.assert_array_equal(squares, before)


# ---- augment ----


@pytest.mark.parametrize(
    "fields", [{}, {"shift": 2, "flip": True}, {"crop_scale": 0.3, "flip": True}, {"trivial_augment": True, "shift": 1}]
)
def test_one_picture_is_augmented_as_in_any_batch(fields: dict[str, object]) -> None:
    pictures = [noise(10 + i, 20 - i, 3, seed=i) for i in range(12)]
    samples = np.arange(40, 52)
    together = augment(pictures, samples, 2, recipe(**fields), COLOUR)
    assert together.shape == (12, 8, 8, 3)
    for i, picture in enumerate(pictures):
        alone = augment([picture], samples[i : i + 1], 2, recipe(**fields), COLOUR)
        np.testing.assert_array_equal(alone[0], together[i])
    backwards = augment(pictures[::-1], samples[::-1], 2, recipe(**fields), COLOUR)
    np.testing.assert_array_equal(backwards[::-1], together)


def test_small_pictures_are_cut_and_then_moved() -> None:
    pictures = [noise(9, 11, 3, seed=i) for i in range(6)]
    chosen = recipe(shift=2, flip=True)
    squares = np.stack([square(Image.fromarray(picture), COLOUR) for picture in pictures])
    expected = moved(squares, np.arange(6), 1, chosen, COLOUR)
    np.testing.assert_array_equal(augment(pictures, np.arange(6), 1, chosen, COLOUR), expected)


def test_large_pictures_are_cropped_at_random() -> None:
    pictures = [noise(40, 60, 3, seed=i) for i in range(6)]
    samples = np.array([5, 900, 2, 7, 7, 0])
    result = augment(pictures, samples, 1, recipe(crop_scale=0.25), COLOUR)
    for picture, sample, found in zip(pictures, samples, result, strict=True):
        area, ratio, top, left = (float(draws(3, 1, np.array([sample]), kind)[0]) for kind in (AREA, RATIO, TOP, LEFT))
        box = whole_pixels(crop_box(60, 40, 0.25, area, ratio, top, left))
        np.testing.assert_array_equal(found, cropped(picture, box, COLOUR))


def test_another_epoch_is_another_augmentation() -> None:
    picture = noise(40, 60, 3)
    chosen = recipe(crop_scale=0.25, flip=True)
    found = {augment([picture], np.array([0]), epoch, chosen, COLOUR).tobytes() for epoch in range(20)}
    assert len(found) == 20


# ---- the random crop ----

UNIFORM = st.floats(0, 1, exclude_max=True)


def test_crop_boxes_by_hand() -> None:
    # Half of the logarithm's range is the ratio 1, so a square of half the area: 10 x sqrt(0.5) pixels.
    side = 10 * math.sqrt(0.5)
    middle = (10 - side) / 2
    assert crop_box(10, 10, 0.5, 0, 0.5, 0.5, 0.5) == pytest.approx((middle, middle, middle + side, middle + side))
    assert crop_box(10, 10, 0.5, 0, 0.5, 0, 0) == pytest.approx((0, 0, side, side))
    # 4 : 3 at a quarter of 24 x 18: half of each side, at the lower left.
    left, top, right, bottom = crop_box(24, 18, 0.25, 0, 1 - 1e-12, 1 - 1e-12, 0)
    assert (left, top, right, bottom) == pytest.approx((0, 9, 12, 18))
    # The whole area at 3 : 4 does not fit into a square: the height is cut.
    assert crop_box(12, 12, 1, 0, 0, 0.5, 0.5) == pytest.approx((6 - 3 * math.sqrt(3), 0, 6 + 3 * math.sqrt(3), 12))


@settings(deadline=None)  # a busy machine is no failure
@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    scale=st.floats(0.01, 1),
    area=UNIFORM,
    ratio=UNIFORM,
    top=UNIFORM,
    left=UNIFORM,
)
def test_a_crop_stays_inside_and_is_large_enough(
    width: int, height: int, scale: float, area: float, ratio: float, top: float, left: float
) -> None:
    x0, y0, x1, y1 = crop_box(width, height, scale, area, ratio, top, left)
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    left_edge, top_edge, right_edge, bottom_edge = whole_pixels((x0, y0, x1, y1))
    assert 0 <= left_edge < right_edge <= width
    assert 0 <= top_edge < bottom_edge <= height
    assert abs(left_edge - x0) <= 1
    assert abs(bottom_edge - y1) <= 1
    whole = x1 - x0 < width * (1 - 1e-9) and y1 - y0 < height * (1 - 1e-9)
    if whole:  # neither side was cut to the picture
        expected = scale + (1 - scale) * area
        assert (x1 - x0) * (y1 - y0) == pytest.approx(width * height * expected, rel=1e-6)
        assert ASPECT_RATIOS[0] * (1 - 1e-6) <= (x1 - x0) / (y1 - y0) <= ASPECT_RATIOS[1] * (1 + 1e-6)
    else:  # a cut side spans the whole picture
        assert x1 - x0 == pytest.approx(width) or y1 - y0 == pytest.approx(height)


@settings(deadline=None)  # a busy machine is no failure
@given(width=st.integers(1, 300), height=st.integers(1, 300), scale=st.floats(0.01, 0.99), sample=st.integers(0, 2**40))
def test_any_picture_can_be_cropped(width: int, height: int, scale: float, sample: int) -> None:
    picture = np.full((height, width, 3), (10, 20, 30), dtype=np.uint8)
    result = augment([picture], np.array([sample]), 0, recipe(crop_scale=scale), COLOUR)
    assert result.shape == (1, 8, 8, 3)
    assert (result == (10, 20, 30)).all()
