"""Losses by hand."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from resvision.recipe import Recipe
from resvision.training.losses import (
    Loss,
    binary_cross_entropy,
    build,
    cross_entropy,
    generalised_cross_entropy,
    probabilities,
)

LOGITS = torch.tensor([[0.0, math.log(3.0)]])  # probabilities 1/4 and 3/4


def value(loss: Loss, logits: torch.Tensor, targets: torch.Tensor) -> float:
    found, out = loss(lambda x: logits, torch.zeros(1), targets)
    assert torch.equal(out, logits)
    return found.item()


def some() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of twelve pictures and their classes, of which there are five."""
    logits = 2 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    return logits, torch.arange(12) % 5


def recipe(**fields: Any) -> Recipe:
    return Recipe(**{"model": "resnet8_cifar", "size": 8, **fields})


# ---- cross-entropy ----


def test_cross_entropy() -> None:
    assert value(cross_entropy(), LOGITS, torch.tensor([1])) == pytest.approx(-math.log(0.75))


def test_label_smoothing() -> None:
    expected = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert value(cross_entropy(0.2), LOGITS, torch.tensor([1])) == pytest.approx(expected)


def test_class_weights() -> None:
    """Each picture by the weight of its class, divided by the number of pictures."""
    two = torch.cat([LOGITS, LOGITS])
    found = value(cross_entropy(weights=[3.0, 0.5]), two, torch.tensor([0, 1]))
    assert found == pytest.approx((-3 * math.log(0.25) - 0.5 * math.log(0.75)) / 2)
    alone = value(cross_entropy(weights=[3.0, 0.5]), LOGITS, torch.tensor([0]))
    assert alone == pytest.approx(-3 * math.log(0.25))  # and not by the sum of their weights, which would undo them


def test_class_weights_with_smooth_and_mixed_labels() -> None:
    """A probability counts by the weight of its own class."""
    log_p = [math.log(0.25), math.log(0.75)]
    smooth = -(0.1 * 3 * log_p[0] + 0.9 * 0.5 * log_p[1])
    assert value(cross_entropy(0.2, [3.0, 0.5]), LOGITS, torch.tensor([1])) == pytest.approx(smooth)
    mixed = -(0.3 * 3 * log_p[0] + 0.7 * 0.5 * log_p[1])
    assert value(cross_entropy(weights=[3.0, 0.5]), LOGITS, torch.tensor([[0.3, 0.7]])) == pytest.approx(mixed)


def test_mixed_labels() -> None:
    expected = -0.3 * math.log(0.25) - 0.7 * math.log(0.75)
    assert value(cross_entropy(), LOGITS, torch.tensor([[0.3, 0.7]])) == pytest.approx(expected)


def test_every_class_weighs_the_same_altogether() -> None:
    counts = [10, 40, 50]
    logits, targets = torch.zeros(100, 3), torch.repeat_interleave(torch.arange(3), torch.tensor(counts))
    balanced = build(recipe(balance="weights"), counts)
    # Of equal logits each picture's loss is log 3 times its weight, whose mean over the set is 1.
    assert value(balanced, logits, targets) == pytest.approx(math.log(3), rel=1e-6)
    for number, count in enumerate(counts):
        of_class = value(balanced, logits[:count], torch.full((count,), number)) * count
        assert of_class == pytest.approx(100 / 3 * math.log(3), rel=1e-5)
    assert build(recipe(balance="weights"), [3, 0, 3])  # a class none of whose pictures could be read


# ---- a sigmoid a class ----


def test_binary_cross_entropy() -> None:
    """-log of the class's sigmoid and of one less that of the others, summed over the classes."""
    logits = torch.tensor([[0.5, -1.0, 2.0]])
    p = [1 / (1 + math.exp(-z)) for z in (0.5, -1.0, 2.0)]
    expected = -math.log(1 - p[0]) - math.log(1 - p[1]) - math.log(p[2])
    assert value(binary_cross_entropy(), logits, torch.tensor([2])) == pytest.approx(expected)
    both = value(binary_cross_entropy(), logits.repeat(2, 1), torch.tensor([2, 2]))
    assert both == pytest.approx(expected)  # the mean over the pictures


def test_binary_cross_entropy_of_smooth_and_mixed_labels() -> None:
    logits = torch.tensor([[0.5, -1.0]])
    p = [1 / (1 + math.exp(-z)) for z in (0.5, -1.0)]

    def expected(*wanted: float) -> float:
        pairs = zip(wanted, p, strict=True)
        return -sum(w * math.log(q) + (1 - w) * math.log(1 - q) for w, q in pairs)

    assert value(binary_cross_entropy(0.2), logits, torch.tensor([1])) == pytest.approx(expected(0.1, 0.9))
    assert value(binary_cross_entropy(), logits, torch.tensor([[0.3, 0.7]])) == pytest.approx(expected(0.3, 0.7))


# ---- generalised cross-entropy ----


def test_generalised_cross_entropy_by_hand() -> None:
    expected = (1 - 0.75**0.7) / 0.7
    assert value(generalised_cross_entropy(0.7), LOGITS, torch.tensor([1])) == pytest.approx(expected)


def test_its_limits_are_cross_entropy_and_the_mean_absolute_error() -> None:
    logits, targets = some()
    entropy = F.cross_entropy(logits, targets).item()
    found = [value(generalised_cross_entropy(q), logits, targets) for q in (0.1, 0.01, 1e-3, 1e-5)]
    errors = [abs(loss - entropy) for loss in found]
    assert errors == sorted(errors, reverse=True)
    assert found[-1] == pytest.approx(entropy, rel=1e-4)
    p = logits.softmax(dim=1)
    absolute = (p - F.one_hot(targets, 5)).abs().sum(dim=1).mean() / 2  # (1 - p + the sum of the others) / 2
    assert value(generalised_cross_entropy(1.0), logits, targets) == pytest.approx(absolute.item(), rel=1e-5)


def test_wrong_labels_pull_less() -> None:
    """The gradient of cross-entropy is p - y; that of this loss the same times p^q."""
    for q in (0.3, 0.7, 1.0):
        logits, targets = some()
        logits.requires_grad_()
        loss, _ = generalised_cross_entropy(q)(lambda x, logits=logits: logits, torch.zeros(1), targets)
        loss.backward()
        p = logits.detach().softmax(dim=1)
        of_label = p.gather(1, targets[:, None])
        expected = of_label**q * (p - F.one_hot(targets, 5)) / 12
        torch.testing.assert_close(logits.grad, expected)


def test_a_probability_of_almost_nothing_has_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[0.0, 500.0]], requires_grad=True)
    loss, _ = generalised_cross_entropy(0.5)(lambda x: logits, torch.zeros(1), torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(2.0)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# ---- all ----


@pytest.mark.parametrize("fields", [{}, {"loss": "bce"}, {"loss": "gce"}, {"balance": "weights"}], ids=str)
def test_all_are_computed_in_float32(fields: dict[str, Any]) -> None:
    logits = torch.zeros(1, 2, dtype=torch.bfloat16)
    loss, out = build(recipe(**fields), [1, 1])(lambda x: logits, torch.zeros(1), torch.tensor([1]))
    assert loss.dtype == out.dtype == torch.float32


def test_the_recipe_names_the_loss() -> None:
    logits, targets = some()
    for fields, expected in (
        ({"label_smoothing": 0.1}, cross_entropy(0.1)),
        ({"loss": "bce", "label_smoothing": 0.1}, binary_cross_entropy(0.1)),
        ({"loss": "gce", "gce_q": 0.4}, generalised_cross_entropy(0.4)),
        ({"balance": "sampling"}, cross_entropy()),
    ):
        assert value(build(recipe(**fields), [1] * 5), logits, targets) == value(expected, logits, targets)


def test_classes_as_probabilities() -> None:
    found = probabilities(torch.tensor([2, 0]), 3)
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert probabilities(found, 3) is found
