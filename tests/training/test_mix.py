"""Erasing and mixing: what the labels say is what the pixels are, and all of it follows from the seed and the step."""

import numpy as np
import pytest
import torch

from resvision.recipe import Recipe
from resvision.training import mix

CLASSES, SIDE, COUNT = 7, 16, 60  # so that no picture and its neighbour are of one class


def recipe(**fields: float) -> Recipe:
    return Recipe(**{"model": "resnet8_cifar", "size": SIDE, "seed": 3, **fields})  # type: ignore[arg-type]


def constant(count: int, channels: int = 3) -> torch.Tensor:
    """Pictures every pixel of which is its picture's number, from 1 on, in the memory order of a step."""
    numbers = torch.arange(1, count + 1.0)[:, None, None, None]
    return numbers.expand(count, channels, SIDE, SIDE).contiguous(memory_format=torch.channels_last)


def disturbed(count: int = COUNT, step: int = 5, **fields: float) -> tuple[torch.Tensor, torch.Tensor]:
    return mix.disturb(constant(count), torch.arange(count) % CLASSES, CLASSES, recipe(**fields), step)


def own_and_neighbour(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The probability of each picture's own class and of that of the picture before it."""
    count = len(targets)
    labels = torch.arange(count) % CLASSES
    rows = torch.arange(count)
    return targets[rows, labels], targets[rows, labels.roll(1)]


# ---- what holds for all ----


def test_nothing_asked_nothing_done() -> None:
    inputs, labels = constant(4), torch.arange(4)
    for fields in ({}, {"drop_path": 0.5}):
        found, targets = mix.disturb(inputs, labels, CLASSES, recipe(**fields), 1)
        assert found is inputs
        assert targets is labels


@pytest.mark.parametrize(
    "fields", [{"erase": 0.5}, {"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}], ids=str
)
def test_everything_follows_from_the_seed_and_the_step(fields: dict[str, float]) -> None:
    inputs, targets = disturbed(**fields)
    torch.manual_seed(99)  # which has no part in it
    again, same_targets = disturbed(**fields)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, same_targets)
    assert not torch.equal(inputs, disturbed(**fields, step=6)[0])
    assert not torch.equal(inputs, disturbed(**fields, seed=4)[0])
    assert torch.equal(disturbed(**fields, seed=2**40)[0], disturbed(**fields, seed=2**40)[0])


@pytest.mark.parametrize("fields", [{"erase": 1.0}, {"mixup": 0.2}, {"cutmix": 1.0}], ids=str)
def test_shape_type_and_memory_order_stay(fields: dict[str, float]) -> None:
    inputs, _ = disturbed(**fields)
    assert (inputs.shape, inputs.dtype) == ((COUNT, 3, SIDE, SIDE), torch.float32)
    assert inputs.is_contiguous(memory_format=torch.channels_last)  # or every step would copy it back


@pytest.mark.parametrize("fields", [{"mixup": 0.2}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}], ids=str)
def test_the_probabilities_of_a_picture_add_up_to_one(fields: dict[str, float]) -> None:
    for step in range(20):
        _, targets = disturbed(**fields, step=step)
        assert (targets.shape, targets.dtype) == ((COUNT, CLASSES), torch.float32)
        assert targets.min() >= 0
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(COUNT))
        assert (targets > 0).sum(dim=1).max() <= 2


def test_the_inputs_that_are_given_stay() -> None:
    inputs = constant(8)
    before = inputs.clone()
    mix.disturb(inputs, torch.arange(8), 8, recipe(erase=1.0, mixup=0.5, cutmix=0.5), 1)
    assert torch.equal(inputs, before)


# ---- mixup ----


def test_mixup_mixes_labels_as_it_mixes_pixels() -> None:
    inputs, targets = disturbed(mixup=0.5)
    numbers = torch.arange(1, COUNT + 1.0)
    own, neighbour = own_and_neighbour(targets)
    torch.testing.assert_close(own + neighbour, torch.ones(COUNT))
    expected = own * numbers + neighbour * numbers.roll(1)
    torch.testing.assert_close(inputs, expected[:, None, None, None].expand_as(inputs))


def test_shares_of_mixup_are_drawn_from_beta() -> None:
    """Of Beta(a, a) mean 1/2 and variance 1 / (4 (2a + 1)); each picture has a share of its own."""
    for alpha in (0.2, 1.0):
        shares = torch.cat([own_and_neighbour(disturbed(mixup=alpha, step=step)[1])[0] for step in range(40)])
        assert len(shares.unique()) > 2000
        assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
        assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.06)


def test_equal_labels_stay_whole() -> None:
    _, targets = mix.disturb(constant(4), torch.full((4,), 2), CLASSES, recipe(mixup=0.5), 1)
    torch.testing.assert_close(targets, torch.eye(CLASSES)[[2] * 4])
    alone, target = mix.disturb(constant(1), torch.tensor([2]), CLASSES, recipe(cutmix=0.5), 1)
    assert torch.equal(alone, constant(1))  # a batch of one has no neighbour
    torch.testing.assert_close(target, torch.eye(CLASSES)[[2]])


# ---- cutmix ----


def test_cutmix_gives_labels_the_share_of_their_pixels() -> None:
    """Exactly: also where the rectangle was cut at the border."""
    numbers = torch.arange(1, COUNT + 1.0)[:, None, None]
    shares = []
    for step in range(20):
        inputs, targets = disturbed(cutmix=1.0, step=step)
        assert torch.equal(inputs[:, 0], inputs[:, 1])
        of_own = (inputs[:, 0] == numbers).float().mean(dim=(1, 2))
        of_neighbour = (inputs[:, 0] == numbers.roll(1, 0)).float().mean(dim=(1, 2))
        assert torch.equal(of_own + of_neighbour, torch.ones(COUNT))
        own, neighbour = own_and_neighbour(targets)
        assert torch.equal(own, of_own)
        assert torch.equal(neighbour, of_neighbour)
        shares.append(own)
    assert torch.cat(shares).min() < 0.2  # rectangles are often cut at the border
    assert torch.cat(shares).max() > 0.9


def test_what_is_put_in_is_a_rectangle() -> None:
    inputs, _ = disturbed(cutmix=1.0)
    for number, picture in enumerate(inputs[:, 0], start=1):
        inside = picture != number
        rows, columns = inside.any(dim=1), inside.any(dim=0)
        assert torch.equal(inside, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            ends = torch.diff(
                line.int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int)
            )
            assert (ends == 1).sum() <= 1  # one run of pixels


def test_with_both_half_of_the_batches_have_the_one_and_half_the_other() -> None:
    kinds = []
    for step in range(400):
        inputs, _ = disturbed(count=8, step=step, mixup=0.5, cutmix=1.0)
        kinds.append(bool((inputs == inputs.round()).all()))  # whole numbers: nothing was averaged
    assert 160 < sum(kinds) < 240


# ---- erasing ----


def test_a_part_of_the_pictures_loses_a_rectangle() -> None:
    erased, parts, ratios = 0, [], []
    for step in range(40):
        inputs, targets = disturbed(erase=0.25, step=step)
        assert torch.equal(targets, torch.arange(COUNT) % CLASSES)  # labels stay whole
        gone = inputs == 0
        assert torch.equal(gone.any(dim=1), gone.all(dim=1))  # in all channels
        assert torch.equal(inputs[~gone], constant(COUNT)[~gone])
        for mask in gone[:, 0]:
            if not mask.any():
                continue
            erased += 1
            rows, columns = mask.any(dim=1), mask.any(dim=0)
            assert torch.equal(mask, rows[:, None] & columns[None, :])
            parts.append(mask.float().mean().item())
            ratios.append((rows.sum() / columns.sum()).item())
    assert 0.21 < erased / (40 * COUNT) < 0.27
    assert max(parts) <= 0.37  # a third, and what rounding to pixels adds
    assert 0.08 < np.mean(parts) < 0.17  # half of the range, less what lies outside
    assert min(ratios) < 0.5
    assert max(ratios) > 2


def test_erased_pictures_are_mixed_like_others() -> None:
    both, targets = disturbed(erase=1.0, mixup=0.5)
    erased, _ = disturbed(erase=1.0)
    own, neighbour = own_and_neighbour(targets)
    expected = erased * own[:, None, None, None] + erased.roll(1, 0) * neighbour[:, None, None, None]
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("fields", [{"mixup": 0.5}, {"cutmix": 1.0}], ids=str)
def test_a_picture_is_not_mixed_with_its_own_views(fields: dict[str, float]) -> None:
    """With three views side by side the neighbour is a view of the picture before."""
    pictures, views = 20, 3
    labels = torch.arange(pictures).repeat_interleave(views)
    inputs = constant(pictures)[labels]
    _, targets = mix.disturb(inputs, labels, pictures, recipe(repeats=views, **fields), 5)
    rows = torch.arange(pictures * views)
    own, before = targets[rows, labels], targets[rows, labels.roll(views)]
    assert torch.allclose(own + before, torch.ones(pictures * views))
    assert (own < 0.99).sum() > pictures  # else all would be mixed with themselves
