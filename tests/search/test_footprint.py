"""Counted memory: of tensors whose sizes are known, and of training steps against what their plan says they keep."""

from dataclasses import replace

import pytest
import torch

from resvision import zoo
from resvision.cost import cost
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.search import costs
from resvision.search.footprint import Footprint
from resvision.training import memory

PREPROCESS = Preprocess(size=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)
RECIPE = Recipe(
    model="resnet20_cifar", size=32, epochs=1, precision="fp32", batch_size=64, optimizer="sgd", memory="full"
)


def test_what_is_held_at_once_is_counted() -> None:
    there = torch.ones(1000)
    with Footprint([there]) as footprint:
        a = there + 1  # 4,000 bytes
        b = a * 2  # 4,000 more
        b.add_(1)  # in place
        view = b.reshape(10, 100)[:5]
        assert footprint.peak == 8000
        del a
        c = torch.zeros(500, dtype=torch.uint8)
        assert footprint.peak == 8000
        d = torch.ones(2000)  # beside b, which the view holds, and c
        del b
    assert footprint.peak == 4000 + 500 + 8000
    assert view.sum().item() > c.sum().item() + d.sum().item() - 2000


def test_what_is_there_already_is_not_counted() -> None:
    there = torch.ones(10, 10)
    with Footprint([there]) as footprint:
        there.t().reshape(10, 10, 1)[0].view(10).mul_(1)
    assert footprint.peak <= 400  # reshaping a transposed matrix copies it
    with Footprint([there]) as footprint:
        there.t()[0].mul_(1)
    assert footprint.peak == 0


def test_the_gradient_of_a_product_keeps_its_factors() -> None:
    x = torch.randn(100, 100, requires_grad=True)
    with Footprint([x]) as footprint:
        loss = (x.exp().sin() * 2).sum()
        loss.backward()
    assert x.grad is not None
    assert 3 * 40_000 <= footprint.peak <= 5 * 40_000


def bytes_of(**fields: object) -> float:
    recipe = replace(RECIPE, **fields)  # type: ignore[arg-type]
    return costs._step_bytes(zoo.get(recipe.model), recipe, PREPROCESS)


def test_a_step_takes_about_what_its_plan_keeps() -> None:
    """The plan is an upper estimate; what a step holds besides, for a moment, is small at 20 layers."""
    planned = memory.step_bytes(zoo.get("resnet20_cifar"), 32, 64, "full")
    assert 0.75 * planned < bytes_of() < 1.1 * planned


@pytest.mark.parametrize("fields", [{}, {"model": "resnet18", "optimizer": "muon"}])
def test_the_memory_of_a_batch_follows_from_small_ones(
    fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a wide network, whose update takes more than both passes with a few pictures."""
    drawn_on = bytes_of(**fields)
    monkeypatch.setattr(costs, "WATCHED", 64)
    assert bytes_of(**fields) == pytest.approx(drawn_on, rel=0.06)


def test_few_pictures_want_the_memory_of_the_update() -> None:
    """Weights, momentum and gradients of resnet18 are 134 MB, and Muon's iterations want some more."""
    few = bytes_of(model="resnet18", optimizer="muon", batch_size=2)
    assert few > 3 * 4 * cost(zoo.get("resnet18"), 32).params


def test_less_is_kept_in_16_bits_and_by_checkpoints() -> None:
    whole = bytes_of(model="resnet56_cifar")
    assert bytes_of(model="resnet56_cifar", precision="bf16") < 0.75 * whole
    assert bytes_of(model="resnet56_cifar", memory="checkpoint") < 0.5 * whole
    assert bytes_of(model="resnet56_cifar", accumulate=2) < 0.6 * whole
    assert bytes_of(model="resnet56_cifar", batch_size=1) < 0.1 * whole
