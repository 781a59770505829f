"""A step as a CUDA graph does what the same step does without; only where there is a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from resvision import zoo
from resvision.data.reading import Batch
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import captured, engine, losses, optim, phases

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU")

RECIPE = Recipe(
    model="resnet8_cifar", size=16, channels=3, batch_size=8, steps=10, precision="fp32", channels_last=True, lr=0.01
)
PREPROCESS = Preprocess(size=16)


def batch(seed: int, size: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randint(0, 256, (8, size, size, 3), generator=generator).to(torch.uint8)
    return Batch(squares, torch.randint(0, 10, (8,), generator=generator))


def trained(fields: dict[str, Any], *, sizes: tuple[int, ...] = (16,) * 6) -> tuple[list[float], dict[str, Any]]:
    """Losses of a few steps, and the weights and statistics behind them."""
    torch.manual_seed(0)
    recipe = dataclasses.replace(RECIPE, **fields)
    spec = zoo.variant(recipe.model, recipe.spec)
    network = ResNet(spec).cuda()
    built = engine.build(network, recipe, losses.build(recipe, [1 + number for number in range(10)]), PREPROCESS)
    optimizer = optim.build(network, recipe)
    found = []
    for step, size in enumerate(sizes):
        phases.begin(network, recipe, step)
        found.append(built.step(batch(step, size), optimizer, step).loss)
    return torch.stack(found).tolist(), network.state_dict()


@needs_gpu
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"clip": 1.0, "optimizer": "muon"},
        {"mixup": 0.2, "cutmix": 1.0, "erase": 0.5},
        {"head_first": 0.3},
        {"drop_path": 0.5},
        {"spec": ("exits=[1,2]",)},
        {"balance": "weights"},
        {"precision": "bf16"},
    ],
)
def test_a_graph_learns_what_the_passes_themselves_learn(fields: dict[str, Any]) -> None:
    if "head_first" in fields:
        recipe = dataclasses.replace(RECIPE, pretrained="x", **fields)
        fields = fields | {"pretrained": "x"}
        assert phases.head_steps(recipe) == 3  # so that what learns changes behind a recording
    losses_of, states = zip(*(trained(fields | {"cuda_graph": way}) for way in (False, True)), strict=True)
    tolerance = 5e-2 if "bf16" in fields.values() else 2e-3
    assert losses_of[1] == pytest.approx(losses_of[0], rel=tolerance)
    for (name, value), other in zip(states[0].items(), states[1].values(), strict=True):
        torch.testing.assert_close(other, value, rtol=tolerance, atol=tolerance, msg=name)


@needs_gpu
def test_pictures_that_grow_are_recorded_for_each_size() -> None:
    sizes = (8, 16, 8, 16, 16, 8)
    plain, recorded = (trained({"cuda_graph": way}, sizes=sizes)[0] for way in (False, True))
    assert recorded == pytest.approx(plain, rel=2e-3)


@needs_gpu
def test_an_engine_on_a_gpu_takes_the_graph_where_it_is_faster() -> None:
    torch.manual_seed(0)
    network = ResNet(zoo.get("resnet56_cifar")).cuda()
    recipe = dataclasses.replace(RECIPE, model="resnet56_cifar")
    chosen, told = engine.choose(network, recipe, losses.build(recipe), PREPROCESS, lambda seconds: 0.0)
    assert chosen.cuda_graph is True, told  # eight pictures take no time beside thousands of launches
    assert "as a graph" in told


@needs_gpu
def test_steps_wait_for_nothing_on_the_device() -> None:
    torch.manual_seed(0)
    network = ResNet(zoo.get("resnet8_cifar")).cuda()
    recipe = dataclasses.replace(
        RECIPE, optimizer="muon", cuda_graph=True, mixup=0.2, cutmix=1.0, erase=0.5, clip=1.0, drop_path=0.1
    )
    built = engine.build(network, recipe, losses.build(recipe), PREPROCESS)
    optimizer = optim.build(network, recipe)
    batches = [Batch(one.squares.cuda(), one.labels.cuda()) for one in map(batch, range(4))]
    for step, one in enumerate(batches):
        built.step(one, optimizer, step)
    with pytest.warns(UserWarning, match="prototype"):  # it does not see every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        for step, one in enumerate(batches):
            built.step(one, optimizer, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_a_graph_outlives_an_optimizer_that_has_recorded_before_it() -> None:
    """As that of the run outlives the probe's; libraries keep memory for a stream that goes with its first graph."""
    results = []
    for way in (False, True):
        torch.manual_seed(0)
        spec = dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=1000)
        network = ResNet(spec).cuda()
        recipe = dataclasses.replace(RECIPE, precision="bf16", optimizer="muon", cuda_graph=way)
        built = engine.build(network, recipe, losses.build(recipe), PREPROCESS)
        for steps in (3, 4):
            optimizer = optim.build(network, recipe)
            found = [built.step(batch(step), optimizer, step).loss for step in range(steps)]
            del optimizer
            torch.cuda.empty_cache()
        results.append(torch.stack(found).tolist())
    assert results[1] == pytest.approx(results[0], rel=5e-2)
    assert torch.cuda.graphs.graph.default_capture_stream is None


class Graph:
    """What a CUDA graph is for one who only counts."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1

    def pool(self) -> None:
        return None


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """The graphs that are recorded, on a machine that has no GPU."""
    graphs: list[Graph] = []

    def record(self: captured.Recorder, function: Any, pool: Any = None) -> tuple[Graph, Any]:
        result = function()
        graphs.append(Graph())
        return graphs[-1], result

    monkeypatch.setattr(captured.Recorder, "record", record)
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    return graphs


def test_shapes_are_recorded_as_they_come_again(recorded: list[Graph]) -> None:
    network = torch.nn.BatchNorm1d(2)

    def passes(inputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = (network(inputs) * targets).sum()
        loss.backward()
        return loss.detach(), labels.sum()

    def shown(pictures: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(pictures, 2), torch.randn(pictures, 2), torch.ones(pictures)

    steps = captured.Captured(passes, network)
    for pictures, replays in ((4, []), (3, []), (4, [1]), (4, [2]), (4, [3]), (3, [3, 1])):
        before = int(network.num_batches_tracked)
        _, right = steps(*shown(pictures))
        assert right == pictures
        assert [graph.replays for graph in recorded] == replays
        # A recording leaves nothing behind but what its replay does, which is nothing here.
        assert int(network.num_batches_tracked) - before == (not replays)


def test_where_there_is_no_memory_beside_recordings_these_are_given_up(
    recorded: list[Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torch.nn.BatchNorm1d(2)
    given_back: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(len(steps.recordings)))

    def passes(inputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = network(inputs).sum()
        if steps.recordings:
            raise torch.OutOfMemoryError("no room")
        loss.backward()
        return loss.detach(), labels.sum()

    def shown(pictures: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(pictures, 2), torch.zeros(pictures), torch.ones(pictures)

    steps = captured.Captured(passes, network)
    for number, (pictures, recordings) in enumerate(((4, 0), (4, 1), (3, 0), (4, 1), (3, 0), (3, 1))):
        _, right = steps(*shown(pictures))
        assert (number, int(right), len(steps.recordings)) == (number, pictures, recordings)
    assert given_back == [0, 0]
    assert int(network.num_batches_tracked) == 3  # once for each step without a graph, also where it was done again


def test_a_graph_is_timed_when_it_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape's first batch goes without one, and the second is recorded, in every round of the trial."""
    warmups = []
    monkeypatch.setattr(engine, "seconds", lambda step, repeats, warmup: warmups.append(warmup) or [1.0])
    monkeypatch.setattr(engine, "build", lambda *_: None)
    network = ResNet(zoo.get("resnet8_cifar"))
    recipe = dataclasses.replace(RECIPE, optimizer="sgd", cuda_graph=True)
    engine._seconds_a_picture([recipe], network, losses.build(RECIPE), PREPROCESS, 8)
    assert len(warmups) == engine.TRIAL_ROUNDS
    assert min(warmups) >= 2


def test_without_a_gpu_there_is_no_graph() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    network = ResNet(zoo.get("resnet8_cifar"))
    assert not engine.can_capture(network, RECIPE)
    chosen, _ = engine.choose(network, RECIPE, losses.build(RECIPE), PREPROCESS, lambda seconds: 0.0)
    assert chosen.cuda_graph is False
