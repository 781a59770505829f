"""Studies: what they measure against definitions, what they say against made-up numbers, and going on after a stop."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from resvision import api
from resvision.cli import main
from resvision.data import sources
from resvision.data.loader import Batch, TrainingBatches
from resvision.errors import InputError, Interrupted, RecipeError, RunError
from resvision.explain import degradation, gradients, landscape, paths
from resvision.explain.bench import Bench, Options
from resvision.models import ResNet
from resvision.progress import Reporter
from resvision.training.bench import apart, spread

TINY: dict[str, Any] = {"depths": (14,), "seeds": 1, "pictures": 64, "size": None, "steps": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(sources.load("digits"), Options(**TINY))


def test_the_pictures_are_the_same_part_of_every_class(bench: Bench) -> None:
    counts = np.bincount(bench.train_split.labels, minlength=10)
    assert counts.sum() == 64
    assert counts.max() - counts.min() <= 1


def test_both_arms_begin_with_the_same_weights(bench: Bench) -> None:
    plain, residual = (
        bench.network(bench.spec(name.format(14), init="he"), 3).state_dict() for name in degradation.ARMS.values()
    )
    assert plain.keys() == residual.keys()
    assert all(torch.equal(plain[key], residual[key]) for key in plain)


def test_a_batch_of_which_nothing_can_be_read_is_a_step_without_an_update(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TrainingBatches.epoch

    def emptied(self: TrainingBatches, *given: Any, **named: Any) -> Iterator[Batch]:
        for place, batch in enumerate(whole(self, *given, **named)):
            yield batch if place else Batch(batch.squares[:0], batch.labels[:0], (("a.jpg", "truncated"),))

    monkeypatch.setattr(TrainingBatches, "epoch", emptied)
    network = bench.network(bench.spec("resnet8_cifar"), 0)
    before = network.fc.weight.detach().clone()
    changed = [not torch.equal(network.fc.weight, before) for _ in bench.train(network, 0)]
    assert changed == [False, True]


def test_training_repeats_and_follows_the_seed(bench: Bench) -> None:
    def trained(seed: int) -> torch.Tensor:
        network = bench.network(bench.spec("resnet8_cifar"), 0)
        assert list(bench.train(network, seed)) == [1, 2]
        return network.fc.weight.detach()

    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))  # another order of the pictures


def test_gradients_are_those_of_the_loss_with_respect_to_the_blocks_inputs(bench: Bench) -> None:
    network = bench.network(bench.spec("resnet14_cifar", norm="none", init="he"), 0)
    torch.manual_seed(1)
    x, targets = torch.randn(4, 1, 8, 8), torch.arange(4)
    found = gradients.flow(network, x, targets)
    third = network.stem(x)
    blocks = list(network.blocks())
    for block in blocks[:3]:
        third = block(third)
    third = third.detach().requires_grad_()
    y = third
    for block in blocks[3:]:
        y = block(y)
    F.cross_entropy(network.head(y), targets).backward()
    assert third.grad is not None
    assert found["gradient"][3] == pytest.approx(third.grad.norm().item(), rel=1e-5)
    assert found["signal"][3] == pytest.approx(third.detach().square().mean().sqrt().item(), rel=1e-5)
    assert len(found["gradient"]) == len(found["signal"]) == 6


def test_gradients_vanish_in_plain_networks_without_normalisation(bench: Bench) -> None:
    """With PyTorch's initialisation: each layer shrinks the gradient, unless a shortcut passes it on."""
    x, targets = torch.randn(8, 1, 8, 8), torch.arange(8)
    ratios = {}
    for arm, name in gradients.ARMS.items():
        network = bench.network(bench.spec(name.format(56), norm="none", init="torch"), 0)
        ratios[arm] = gradients.ratio(gradients.flow(network, x, targets)["gradient"])
    assert ratios["plain"] is not None
    assert ratios["plain"] < 1e-10
    assert ratios["residual"] is not None
    assert 0.01 < ratios["residual"] < 100


@pytest.fixture(scope="module")
def network(bench: Bench) -> ResNet:
    return bench.network(bench.spec("resnet14_cifar"), 0).eval()


def test_deleting_a_block_is_making_its_branch_zero(bench: Bench, network: ResNet) -> None:
    zeroed = bench.network(bench.spec("resnet14_cifar"), 0).eval()
    list(zeroed.blocks())[1].zero_branch()
    torch.nn.init.zeros_(list(zeroed.blocks())[1].get_parameter("conv2.weight"))
    everything = range(6)
    assert paths.error(bench, network, [0, 2, 3, 4, 5]) == paths.error(bench, zeroed, everything)


def test_the_gradients_of_all_paths_add_up_to_the_gradient(bench: Bench, network: ResNet) -> None:
    """By the product rule over blocks: one block open both ways is the sum of its two paths (in the linear part)."""
    batch = bench.batch(4)
    x = (batch.squares.permute(0, 3, 1, 2).float() / 255).requires_grad_()
    none = paths.path_gradient(network, x.detach(), batch.labels, set())
    every = paths.path_gradient(network, x.detach(), batch.labels, set(range(6)))
    assert none > 0
    assert every > 0
    assert none != every
    # Through the shortcuts alone the gradient meets only the ReLUs and the padding, never a convolution.
    list_of = list(network.blocks())
    start = network.stem(x.detach()).detach().requires_grad_()
    y = start
    for block in list_of:
        y = F.relu(block.branch(y).detach() + block.shortcut(y))
    [gradient] = torch.autograd.grad(F.cross_entropy(network.head(y), batch.labels), start)
    assert none == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_path_lengths_are_binomial_and_their_shares_add_up(bench: Bench, network: ResNet) -> None:
    import random

    rows = paths.path_lengths(bench, network, random.Random(0))
    assert [row["paths"] for row in rows] == [math.comb(6, k) for k in range(7)]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert rows[3]["share"] / rows[2]["share"] == pytest.approx(20 * rows[3]["gradient"] / (15 * rows[2]["gradient"]))


def test_kendall_tau_by_hand() -> None:
    assert paths.kendall_tau([0, 1, 2, 3]) == 1
    assert paths.kendall_tau([3, 2, 1, 0]) == -1
    assert paths.kendall_tau([1, 0, 2]) == pytest.approx(1 / 3)


def test_directions_have_the_norms_of_the_filters(network: ResNet) -> None:
    found = landscape.directions(network, torch.Generator().manual_seed(0))
    for key, direction in found.items():
        own = network.get_parameter(key).detach()
        assert torch.allclose(direction.flatten(1).norm(dim=1), own.flatten(1).norm(dim=1), rtol=1e-5)
    assert not [key for key in found if "bn" in key or key.endswith("bias")]


def test_moving_along_a_direction_leaves_the_network_as_it_was(network: ResNet) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    direction = landscape.directions(network, torch.Generator().manual_seed(0))
    x, targets = torch.randn(4, 1, 8, 8), torch.arange(4)
    centre = landscape.loss_at(network, x, targets, {0: (0.0, direction)})
    moved = landscape.loss_at(network, x, targets, {0: (0.5, direction)})
    assert centre == pytest.approx(F.cross_entropy(network(x), targets).item(), rel=1e-5)
    assert moved != centre
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_shape_of_known_surfaces() -> None:
    axis = np.linspace(-1, 1, 17)
    x, y = np.meshgrid(axis, axis)
    bowl = landscape.shape(2 * (x**2 + y**2))
    assert bowl["centre"] == 0
    assert bowl["negative"] == 0
    assert bowl["basin"] == pytest.approx(math.pi * 0.25 / 4, abs=0.03)  # the disc of radius 1/2 in a square of side 2
    saddle = landscape.shape(x**2 - y**2)
    assert saddle["negative"] == 1


# ---- what is said ----


def numbers(plain: list[float], residual: list[float]) -> dict[str, Any]:
    """Degradation of depth 8 to 20 with these training errors of the deeper networks, two seeds each."""

    def row(values: list[float]) -> dict[str, Any]:
        return {name: spread(values) for name in ("train_error", "test_error", "train_loss")}

    return {
        "settings": {"depths": [8, 20], "seeds": 2, "steps": 10, "batch_size": 4, "data": "made up"},
        "epochs": 1.0,
        "pictures": 40,
        "summary": {
            "plain": {8: row([0.1, 0.12]), 20: row(plain)},
            "residual": {8: row([0.1, 0.12]), 20: row(residual)},
        },
    }


def test_degradation_is_claimed_only_where_it_was_seen() -> None:
    text = degradation.describe(numbers([0.3, 0.4], [0.09, 0.11]))
    assert "training error went from 11.00% (sd 1.41) to 35.00% (sd 7.07), every seed of the deeper one above" in text
    assert "the degradation of He et al. 2015" in text
    assert "did not show the degradation" in degradation.describe(numbers([0.11, 0.4], [0.09, 0.11]))
    both = degradation.describe(numbers([0.3, 0.4], [0.13, 0.15]))
    assert "hurt both kinds in this training, the plain networks by 24.0 points and the residual ones by 3.0." in both
    assert "every seed of the deeper one below" in degradation.describe(numbers([0.01, 0.02], [0.3, 0.4]))


def test_one_seed_claims_nothing() -> None:
    made = numbers([0.3, 0.4], [0.09, 0.11])
    made["settings"]["seeds"] = 1
    for arm in made["summary"].values():
        for depth, row in arm.items():
            arm[depth] = {key: spread(value["values"][:1]) for key, value in row.items()}
    text = degradation.describe(made)
    assert "with one seed; the test error" in text
    assert text.endswith("give --seeds 3 to know whether this is more than chance.")


def test_apart_means_that_no_seeds_overlap() -> None:
    assert not apart(spread([2.0]), spread([1.0]))  # of one seed nothing is known
    assert apart(spread([2.0, 3.0]), spread([0.0, 1.9]))
    assert not apart(spread([2.0, 3.0]), spread([0.0, 2.0]))


# ---- the verb ----


@pytest.mark.parametrize("name", ["degradation", "gradients", "paths", "landscape"])
def test_a_study_leaves_pictures_numbers_and_a_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(landscape, "GRID", 5)
    monkeypatch.setattr(paths, "DRAWS", 2)
    depths = "8,14" if name == "degradation" else "14"
    arguments = ["study", name, "--depths", depths, "--seeds", "1", "--pictures", "64", "--steps", "2", "--json"]
    with pytest.raises(SystemExit) as leaving:
        main([*arguments, "--out", str(tmp_path / "run")])
    assert leaving.value.code == 0
    document = json.loads(capsys.readouterr().out)
    saved = json.loads((tmp_path / "run" / "numbers.json").read_text())
    assert document == {"folder": str(tmp_path / "run"), **saved}
    page = (tmp_path / "run" / "README.md").read_text()
    assert saved["description"].strip() in page
    assert f"resvision study {name} digits --depths {depths} --seeds 1" in page
    with Image.open(tmp_path / "run" / f"{name}.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("L").resize((200, 100))))) > 20  # something is drawn
    svg = (tmp_path / "run" / f"{name}.svg").read_text()
    assert svg.lstrip().startswith("<?xml")
    assert "</svg>" in svg


class Stops(Reporter):
    """Stands for a person who presses Ctrl-C after the first finished network."""

    def note(self, text: str) -> None:
        if text.startswith("plain"):
            raise KeyboardInterrupt


def test_a_stopped_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TINY | {"depths": (8,)}
    with pytest.raises(Interrupted, match=f"the same command with --out {tmp_path / 'run'} goes on"):
        api.study("degradation", out=tmp_path / "run", reporter=Stops(), **options)
    trained = []
    train = degradation._train
    monkeypatch.setattr(degradation, "_train", lambda b, arm, *rest: trained.append(arm) or train(b, arm, *rest))
    found, _ = api.study("degradation", out=tmp_path / "run", **options)
    assert trained == ["residual"]
    assert [row["arm"] for row in found["arms"]] == ["plain", "residual"]
    with pytest.raises(RunError, match="holds a study with another steps: give another --out"):
        api.study("degradation", out=tmp_path / "run", **(options | {"steps": 3}))


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no study 'colours': there are degradation, gradients, paths, landscape"):
        api.study("colours")
    with pytest.raises(RecipeError, match="the study gradients takes one"):
        api.study("gradients", out=tmp_path / "a", **(TINY | {"depths": (8, 14)}))
    with pytest.raises(InputError, match="plain8_cifar and plain14_cifar"):
        api.study("paths", out=tmp_path / "b", **(TINY | {"depths": (10,)}))
    assert list(tmp_path.iterdir()) == []  # a mistake leaves no trace
    with pytest.raises(InputError, match="a study has no option 'rate'; it has depths, seeds, pictures"):
        api.study("paths", out=tmp_path / "c", rate=3)
    with pytest.raises(RecipeError, match="steps=0 must be at least 1"):
        api.study("paths", out=tmp_path / "c", steps=0)
