"""The engine: what is measured decides, what is given stays, and every way computes the same."""

import dataclasses

import pytest
import torch

from resvision import zoo
from resvision.data.loader import Batch
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import engine, optim
from resvision.training.losses import cross_entropy

RECIPE = Recipe(model="resnet8_cifar", size=16, channels=3, batch_size=8, steps=10)
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
    assert dataclasses.replace(chosen, precision=None, channels_last=None, compile=None) == RECIPE
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
