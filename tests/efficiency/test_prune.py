"""Pruning: what is taken out, what stays, and that what is left computes what it should."""

import dataclasses

import pytest
import torch
from torch import nn

from resvision import zoo
from resvision.cost import cost
from resvision.efficiency import prune
from resvision.errors import SpecError
from resvision.models import ResNet


def network(name: str, **changes: object) -> ResNet:
    """A network whose every value matters, as if it had been trained; the same each time."""
    torch.manual_seed(4)
    made = ResNet(dataclasses.replace(zoo.get(name), num_classes=5, **changes)).eval()  # type: ignore[arg-type]
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape)
            value.add_(0.1 * (noise.abs() if "var" in key else noise))
    return made


def batches(count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8) % 5) for _ in range(count)]


def test_only_blocks_that_keep_the_shape_go() -> None:
    assert prune.removable(network("resnet20_cifar")) == (0, 1, 2, 4, 5, 7, 8)
    assert prune.removable(network("resnet50")) == (1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15)
    # A stage keeps a block, or there would be no spec of what is left.
    assert prune.removable(network("resnet10t")) == ()
    small = prune.without_block(prune.without_block(network("resnet20_cifar"), 0), 0)
    assert prune.removable(small) == (2, 3, 5, 6)
    # An exit stays behind the block that it stands behind.
    assert 4 not in prune.removable(network("resnet20_cifar", exits=(5,)))


@pytest.mark.parametrize(("name", "place"), [("resnet20_cifar", 4), ("preact20_cifar", 2), ("resnet26d", 3)])
def test_without_a_block_the_rest_computes_as_before(name: str, place: int) -> None:
    made = network(name, exits=(2, 6))
    smaller = prune.without_block(made, place)
    (x, _), *_ = batches(1)
    with torch.no_grad():
        y = made.stem(x)
        for index, block in enumerate(made.blocks()):
            y = y if index == place else block(y)
        torch.testing.assert_close(smaller(x), made.head(y))
    assert sum(smaller.spec.depths) == sum(made.spec.depths) - 1
    assert smaller.spec.exits == tuple(after - (after > place) for after in (2, 6))
    assert cost(smaller.spec, 32).params == sum(p.numel() for p in smaller.parameters())


def test_the_damage_is_the_rise_of_the_loss() -> None:
    made = network("resnet20_cifar")
    for name in ("bn2.weight", "bn2.bias"):  # y = x: nobody misses it
        made.get_parameter(f"layer2.1.{name}").data.zero_()
    damage = prune.block_damage(made, batches())
    assert set(damage) == set(prune.removable(made))
    assert damage[4] == pytest.approx(0, abs=1e-5)
    inputs, labels = batches(1)[0]
    with torch.no_grad():
        before = nn.functional.cross_entropy(made(inputs), labels)
        after = nn.functional.cross_entropy(prune.without_block(made, 7)(inputs), labels)
    assert prune.block_damage(made, batches(1))[7] == pytest.approx((after - before).item(), abs=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20_cifar", "preact20_cifar", "seresnet18"])
def test_channels_that_do_nothing_go_first(name: str) -> None:
    """A quarter of each block's inner channels weighs nothing; none of them is left, and hardly any other goes."""
    made = network(name)
    for block in made.blocks():
        for conv in block.plan.convs[1:]:
            block.get_parameter(f"{conv.name}.weight").data[:, ::4] = 0
    smaller = prune.narrowed(made, 0.2, batches())
    for block in smaller.blocks():
        for conv in block.plan.convs[1:]:
            kept = block.get_parameter(f"{conv.name}.weight")
            assert (kept.abs().amax(dim=(0, 2, 3)) > 0).all()
    (x, _), *_ = batches(1)
    with torch.no_grad():
        wanted = made(x)
        assert (smaller(x) - wanted).std() < 0.1 * wanted.std()
    before, after = cost(made.spec, 32), cost(smaller.spec, 32)
    assert after.params == sum(p.numel() for p in smaller.parameters()) < before.params
    assert after.macs < before.macs
    assert smaller.spec.widths == made.spec.widths


def test_what_is_said() -> None:
    made = network("resnet20_cifar")
    assert prune.said(made, made) == "as it is"
    smaller = prune.narrowed(prune.without_block(made, 0), 0.4, batches())
    assert prune.said(made, smaller).startswith("1 of 9 blocks fewer and ")
    narrow = prune.narrowed(made, 0.4, batches())
    assert prune.said(narrow, prune.without_block(narrow, 7)) == "1 of 9 blocks fewer"  # of uneven ones


@pytest.mark.parametrize("name", ["plain20_cifar", "revnet38_cifar", "resnext50_32x4d"])
def test_what_cannot_be_pruned_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="cannot be pruned"):
        prune.check(network(name))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (((8,),), "1 numbers of channels for each of 9 basic blocks"),
        (((8, 8),) * 9, "1 numbers"),
        (((0,),) * 9, "positive integers"),
    ],
)
def test_inner_widths_are_checked(inner: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        dataclasses.replace(zoo.get("resnet20_cifar"), inner=inner)


def test_groups_have_no_inner_widths() -> None:
    spec = zoo.get("resnext50_32x4d")
    with pytest.raises(SpecError, match="without groups"):
        dataclasses.replace(spec, inner=((128, 128),) * 16)
