"""Memory modes: the same numbers from less memory, and a plan that says what fits before anything starts."""

import dataclasses
import re
from typing import Any

import pytest
import torch

from resvision import zoo
from resvision.data.reading import Batch
from resvision.errors import RecipeError
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import engine, losses, memory, optim
from resvision.training.losses import cross_entropy

RECIPE = Recipe(model="resnet56_cifar", size=16, channels=3, batch_size=16, steps=10)
FIXED: dict[str, Any] = {"precision": "fp32", "channels_last": True, "cuda_graph": False, "compile": False}
PREPROCESS = Preprocess(size=16)


def trained(
    way: str, name: str = "resnet56_cifar", steps: int = 3, **fields: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and the state dict after a few steps."""
    torch.manual_seed(0)
    network = ResNet(zoo.get(name)).double()
    recipe = Recipe(**{**vars(RECIPE), **FIXED, "model": name, "memory": way, **fields})
    built = engine.build(network, recipe, cross_entropy(), PREPROCESS)
    optimizer = optim.build(network, recipe)
    optim.set_step(optimizer, recipe, 5)
    squares = torch.randint(0, 256, (16, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    network.train()
    values = []
    for step in range(steps):
        torch.manual_seed(step)
        inputs = squares.permute(0, 3, 1, 2).double() / 255
        loss, _ = built.loss(built.forward, inputs, torch.arange(16) % 10)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    return values, network.state_dict()


@pytest.mark.parametrize("name", ["resnet56_cifar", "preact20_cifar", "resnet18"])
def test_checkpointing_gives_the_same_numbers(name: str) -> None:
    """Losses, weights and the norms' running statistics, which a second pass must not update again."""
    values, state = trained("full", name)
    other_values, other_state = trained("checkpoint", name)
    assert other_values == pytest.approx(values, rel=1e-12)
    for key, value in state.items():
        torch.testing.assert_close(other_state[key], value, rtol=1e-9, atol=1e-9)
    assert state["layer1.0.bn1.num_batches_tracked"] == 3


@pytest.mark.parametrize("name", ["resnet56_cifar", "preact20_cifar"])
def test_checkpointing_leaves_out_the_same_branches_twice(name: str) -> None:
    values, state = trained("full", name, drop_path=0.5)
    other_values, other_state = trained("checkpoint", name, drop_path=0.5)
    assert other_values == pytest.approx(values, rel=1e-12)
    for key, value in state.items():
        torch.testing.assert_close(other_state[key], value, rtol=1e-9, atol=1e-9)
    assert values != pytest.approx(trained("full", name)[0], rel=1e-3)  # something was left out


def test_checkpointing_opens_the_same_gates_twice() -> None:
    found = []
    for way in ("full", "checkpoint"):
        torch.manual_seed(0)
        network = ResNet(dataclasses.replace(zoo.get("resnet20_cifar"), gates=True)).double().train()
        recipe = Recipe(**{**vars(RECIPE), **FIXED, "model": "resnet20_cifar", "memory": way, "gate_rate": 0.5})
        loss = losses.with_gates(cross_entropy(), list(network.gates()), rate=0.5)
        built = engine.build(network, recipe, loss, PREPROCESS)
        torch.manual_seed(1)
        value, _ = built.loss(built.forward, torch.randn(16, 3, 16, 16).double(), torch.arange(16) % 10)
        value.backward()
        found.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_a_step_keeps_what_the_plan_says() -> None:
    """Bytes that autograd holds between forward and backward, each storage once."""
    spec, size, count = zoo.get("resnet110_cifar"), 32, 2
    network = ResNet(spec)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found = {}
    for way in ("full", "checkpoint"):
        forward = network if way == "full" else memory.checkpointed(network, size)
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            forward(torch.randn(count, 3, size, size))
        found[way] = sum(held for place, held in kept.items() if place not in own)
    weights = memory.WEIGHT_COPIES * 4 * sum(p.numel() for p in network.parameters())
    assert memory.step_bytes(spec, size, count, "full") - weights == pytest.approx(found["full"], rel=0.05)
    # The plan adds the inside of one segment, which exists in the backward pass alone.
    assert found["checkpoint"] < memory.step_bytes(spec, size, count, "checkpoint") - weights < found["full"] / 4


@pytest.mark.parametrize("name", ["resnet8_cifar", "resnet110_cifar", "resnet1202_cifar", "resnet50"])
def test_segments_cover_all_blocks_and_are_the_best_of_their_kind(name: str) -> None:
    spec = zoo.get(name)
    lengths = memory.segments(spec, spec.natural_size)
    blocks = len(spec.plan())
    assert sum(lengths) == blocks
    assert min(lengths) >= 1
    assert len(lengths) < max(8, 3 * blocks**0.5)


def test_the_fastest_way_that_fits_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = zoo.get(RECIPE.model)
    full, checkpoint = (memory.step_bytes(spec, 16, 16, way) for way in ("full", "checkpoint"))
    for at_hand, expected in ((2 * full, "full"), (full, "checkpoint"), (None, "full")):
        monkeypatch.setattr(memory, "bytes_at_hand", lambda at_hand=at_hand: at_hand)
        chosen, text = memory.choose(spec, RECIPE, PREPROCESS)
        assert chosen == dataclasses.replace(RECIPE, memory=expected)
        assert expected in text
    monkeypatch.setattr(memory, "bytes_at_hand", lambda: checkpoint)
    with pytest.raises(RecipeError, match=r"16 pictures at once need about .* GB .* try --batch-size \d+ or --acc"):
        memory.choose(spec, RECIPE, PREPROCESS)
    with pytest.raises(RecipeError, match="or --memory checkpoint"):
        memory.choose(spec, dataclasses.replace(RECIPE, memory="full"), PREPROCESS)
    for way in ("full", "checkpoint"):  # the batch that is named is the largest that fits
        at_hand = 0.9 * memory.step_bytes(spec, 16, 256, way)
        monkeypatch.setattr(memory, "bytes_at_hand", lambda at_hand=at_hand: at_hand)
        with pytest.raises(RecipeError, match="--batch-size") as refused:
            memory.choose(spec, dataclasses.replace(RECIPE, memory=way, batch_size=256), PREPROCESS)
        found = re.search(r"--batch-size (\d+)", str(refused.value))
        assert found is not None
        most = int(found[1])
        assert memory.step_bytes(spec, 16, most, way) <= memory.USABLE * at_hand
        assert memory.step_bytes(spec, 16, most + 1, way) > memory.USABLE * at_hand
    monkeypatch.setattr(memory, "bytes_at_hand", lambda: 1000)
    with pytest.raises(RecipeError, match="a smaller network or --size"):
        memory.choose(spec, RECIPE, PREPROCESS)


def test_what_was_freed_and_is_kept_is_at_hand() -> None:
    pytest.importorskip("ctypes").CDLL("libc.so.6").mallinfo2  # noqa: B018 - of glibc 2.33
    memory.keep_freed()
    before = memory.bytes_at_hand()
    taken = torch.ones(1 << 26)  # 256 MB
    during = memory.bytes_at_hand()
    del taken
    after = memory.bytes_at_hand()
    assert before is not None
    assert during is not None
    assert after is not None
    assert after - during > 200 << 20


def test_a_step_in_parts_needs_the_memory_of_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = zoo.get(RECIPE.model)
    part = memory.step_bytes(spec, 16, 4, "full")
    monkeypatch.setattr(memory, "bytes_at_hand", lambda: int(part / memory.USABLE) + 1)
    full = dataclasses.replace(RECIPE, memory="full")
    assert memory.choose(spec, dataclasses.replace(full, accumulate=4), PREPROCESS)[0].memory == "full"
    with pytest.raises(RecipeError, match="8 pictures at once need about") as caught:
        memory.choose(spec, dataclasses.replace(full, accumulate=2), PREPROCESS)
    words = str(caught.value).split()
    for field in ("batch_size", "accumulate"):  # what it tells to do is enough
        advised = int(words[words.index(f"--{field.replace('_', '-')}") + 1])
        assert memory.choose(spec, dataclasses.replace(full, **{"accumulate": 2, field: advised}), PREPROCESS)


def test_the_engine_runs_the_chosen_way() -> None:
    torch.manual_seed(0)
    network = ResNet(zoo.get("resnet8_cifar")).train()
    recipe = dataclasses.replace(RECIPE, **FIXED, model="resnet8_cifar", memory="checkpoint")
    chosen, _ = engine.choose(network, recipe, cross_entropy(), PREPROCESS, lambda seconds: 1e12)
    assert chosen == recipe  # also nothing is compiled, however long the run is
    built = engine.build(network, recipe, cross_entropy(), PREPROCESS)
    assert built.forward is not network
    squares = torch.zeros(16, 16, 16, 3, dtype=torch.uint8)
    result = built.step(Batch(squares, torch.arange(16) % 10), optim.build(network, recipe))
    assert torch.isfinite(result.loss)


def test_compiling_and_checkpointing_exclude_each_other() -> None:
    with pytest.raises(RecipeError, match="exclude each other"):
        dataclasses.replace(RECIPE, compile=True, memory="checkpoint")
