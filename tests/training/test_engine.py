"""The engine: what is measured decides, what is given stays, and every way computes the same."""

import dataclasses
from typing import Any

import pytest
import torch

from resvision import zoo
from resvision.data.reading import Batch
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import engine, optim
from resvision.training.losses import cross_entropy

RECIPE = Recipe(model="resnet8_cifar", size=16, channels=3, batch_size=8, steps=10)
FIXED: dict[str, Any] = {"precision": "fp32", "channels_last": True, "cuda_graph": False, "compile": False}
PREPROCESS = Preprocess(size=16)


def network() -> ResNet:
    torch.manual_seed(0)
    return ResNet(zoo.get("resnet8_cifar"))


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (8, 16, 16, 3), generator=generator).to(torch.uint8)
    return Batch(squares, torch.arange(8))


def test_choosing_fills_what_is_open_and_changes_nothing_else() -> None:
    tested = network()
    before = {key: value.clone() for key, value in tested.state_dict().items()}
    chosen, text = engine.choose(tested, RECIPE, cross_entropy(), PREPROCESS, lambda seconds: 0.0)
    assert chosen.precision in ("fp32", "bf16")
    assert chosen.channels_last in (True, False)
    assert chosen.compile is False  # a run of no pictures cannot win back the time of compiling
    assert dataclasses.replace(chosen, precision=None, channels_last=None, cuda_graph=None, compile=None) == RECIPE
    assert all(torch.equal(value, before[key]) for key, value in tested.state_dict().items())
    assert text.startswith("measured: ")
    assert "; chosen: " in text


def test_what_is_given_stays() -> None:
    given = dataclasses.replace(RECIPE, precision="fp32", channels_last=False)
    chosen, text = engine.choose(network(), given, cross_entropy(), PREPROCESS, lambda seconds: 0.0)
    assert (chosen.precision, chosen.channels_last) == ("fp32", False)
    assert text.count("pictures/s") == 1


@pytest.mark.parametrize(
    ("precision", "channels_last", "tolerance"), [("fp32", True, 1e-4), ("bf16", True, 0.03), ("bf16", False, 0.03)]
)
def test_every_engine_computes_the_same_step(precision: str, channels_last: bool, tolerance: float) -> None:
    def gradients(precision: str, channels_last: bool) -> tuple[float, torch.Tensor]:
        recipe = dataclasses.replace(RECIPE, precision=precision, channels_last=channels_last, compile=False)
        built = engine.build(network(), recipe, cross_entropy(), PREPROCESS)
        optimizer = optim.build(built.network, recipe)
        optim.set_step(optimizer, recipe, 5)
        result = built.step(batch(), optimizer)
        return result.loss.item(), torch.cat([p.detach().flatten() for p in built.network.parameters()])

    loss, weights = gradients("fp32", False)
    other_loss, other_weights = gradients(precision, channels_last)
    assert other_loss == pytest.approx(loss, rel=tolerance)
    start = torch.cat([p.detach().flatten() for p in network().parameters()])
    assert torch.cosine_similarity(other_weights - start, weights - start, dim=0) > 1 - tolerance


@pytest.mark.skipif(not engine.can_compile(network()), reason="no C++ compiler is installed")
@pytest.mark.filterwarnings("ignore")  # the compiler warns of what it does itself
@pytest.mark.parametrize("whole_blocks", [60, 2], ids=["whole", "block by block"])
def test_a_compiled_network_computes_the_same(whole_blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WHOLE_BLOCKS", whole_blocks)
    recipe = dataclasses.replace(RECIPE, precision="fp32", channels_last=True, compile=True)
    losses = []
    for compile_it in (False, True):
        recipe = dataclasses.replace(recipe, compile=compile_it)
        built = engine.build(network(), recipe, cross_entropy(), PREPROCESS)
        optimizer = optim.build(built.network, recipe)
        losses.append([built.step(batch(), optimizer).loss.item() for _ in range(3)])
        assert set(built.network.state_dict()) == set(network().state_dict())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# ---- parts of a step, clipping, and what is random in it ----


def without_norms() -> ResNet:
    torch.manual_seed(0)
    return ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), norm="none", init="skipinit"))


def after(made: ResNet, batches: list[Batch], **fields: Any) -> tuple[list[engine.StepResult], dict[str, torch.Tensor]]:
    """The results of a step with each batch, and the weights behind them."""
    recipe = dataclasses.replace(RECIPE, **FIXED, **fields)
    built = engine.build(made, recipe, cross_entropy(), PREPROCESS)
    made.train()
    optimizer = optim.build(made, recipe)
    results = []
    for number, one in enumerate(batches):
        optim.set_step(optimizer, recipe, 5)
        results.append(built.step(one, optimizer, number))
    return results, {key: value.clone() for key, value in made.state_dict().items()}


@pytest.mark.parametrize("accumulate", [2, 4, 8])
@pytest.mark.parametrize("fields", [{}, {"mixup": 0.5}, {"clip": 0.1}], ids=str)
def test_a_step_in_parts_is_that_of_the_whole_batch(accumulate: int, fields: dict[str, Any]) -> None:
    """Without norms, whose statistics would be those of a part, up to rounding."""
    whole, weights = after(without_norms(), [batch()] * 3, **fields)
    parts, same_weights = after(without_norms(), [batch()] * 3, accumulate=accumulate, **fields)
    for a, b in zip(whole, parts, strict=True):
        assert b.loss.item() == pytest.approx(a.loss.item(), rel=1e-5)
        assert b.correct.item() == a.correct.item()
    for key, value in weights.items():
        torch.testing.assert_close(same_weights[key], value, rtol=1e-4, atol=1e-6)


def test_a_batch_that_lost_pictures_is_weighed_by_what_is_left() -> None:
    """Parts of 2, 1, 1 and 1 pictures of the 8 that the recipe says: each picture counts the same."""
    left = Batch(batch().squares[:5], batch().labels[:5])
    whole, weights = after(without_norms(), [left])
    parts, same_weights = after(without_norms(), [left], accumulate=4)
    assert parts[0].loss.item() == pytest.approx(whole[0].loss.item(), rel=1e-5)
    for key, value in weights.items():
        torch.testing.assert_close(same_weights[key], value, rtol=1e-4, atol=1e-6)


def test_large_gradients_are_scaled_down_and_small_ones_are_not() -> None:
    """With plain gradient descent the weights show the gradients: what moves is lr times these."""

    def moved(**fields: Any) -> torch.Tensor:
        recipe = {"momentum": 0.0, "weight_decay": 0.0, "lr": 1.0, "schedule": "constant", "warmup": 0.0, **fields}
        start = network().state_dict()
        _, weights = after(network(), [batch()], **recipe)
        return torch.cat([(start[key] - weights[key]).flatten() for key, _ in network().named_parameters()])

    free = moved()
    length = free.norm().item()
    assert length > 0.1
    clipped = moved(clip=length / 4)
    assert clipped.norm().item() == pytest.approx(length / 4, rel=1e-3)
    assert torch.cosine_similarity(free, clipped, dim=0) > 0.9999
    assert torch.equal(moved(clip=2 * length), free)


def test_dropped_branches_follow_from_the_seed_and_the_step() -> None:
    def loss(step: int, seed: int, disturbance: int) -> float:
        recipe = dataclasses.replace(RECIPE, **FIXED, drop_path=0.5, seed=seed)
        built = engine.build(network().train(), recipe, cross_entropy(), PREPROCESS)
        torch.manual_seed(disturbance)  # what was random before has no part in it
        return built.step(batch(), optim.build(built.network, recipe), step).loss.item()

    assert loss(3, 0, 1) == loss(3, 0, 2)
    # Every step and every seed has branches of its own, also those that differ in high bits alone.
    found = [loss(step, seed, 1) for step, seed in ((3, 0), (4, 0), (3, 1), (4, 1), (3, 2**32), (3, 2**40 + 1))]
    assert len(set(found)) == len(found)


def test_a_trial_is_of_parts_as_the_steps_are() -> None:
    given = dataclasses.replace(RECIPE, **{**FIXED, "compile": None}, batch_size=64, accumulate=8)
    chosen, _ = engine.choose(network(), given, cross_entropy(), PREPROCESS, lambda seconds: 0.0)
    assert chosen == dataclasses.replace(given, compile=False)  # the trial's own recipe is not returned


def test_gradients_of_another_memory_order_are_not_kept() -> None:
    """Checkpointing keeps gradients, and fused optimisers read them by their place in memory."""
    tested = network()
    recipe = dataclasses.replace(RECIPE, **(FIXED | {"memory": "checkpoint", "optimizer": "sgd", "lr": 0.1}))
    built = engine.build(tested, recipe, cross_entropy(), PREPROCESS)
    built.step(batch(), optim.build(tested, recipe))
    kernel = tested.get_parameter("layer1.0.conv1.weight")
    assert kernel.grad is not None
    assert kernel.grad.is_contiguous(memory_format=torch.channels_last)
    other = engine.build(tested, dataclasses.replace(recipe, channels_last=False), cross_entropy(), PREPROCESS)
    assert kernel.grad is None
    optimizer = optim.build(tested, recipe)
    other.step(batch(), optimizer)
    for parameter in tested.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


def test_trials_are_no_larger_than_the_steps_of_a_small_set(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = engine.Engine.step

    def watched(self: engine.Engine, batch: Batch, *given: Any) -> Any:
        seen.append(len(batch.labels))
        return step(self, batch, *given)

    monkeypatch.setattr(engine.Engine, "step", watched)
    given = dataclasses.replace(RECIPE, precision="fp32", channels_last=False, compile=None)
    engine.choose(network(), given, cross_entropy(), PREPROCESS, lambda seconds: 0.0, batch_size=3)
    assert set(seen) == {3}
