"""Studies: what they measure against definitions, what they say against made-up numbers, and going on after a stop."""

import json
import math
import random
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
from resvision.data.loader import TrainingBatches
from resvision.data.pictures import DataSet
from resvision.data.reading import Batch
from resvision.errors import InputError, Interrupted, RecipeError, RunError
from resvision.explain import degradation, gradients, landscape, paths
from resvision.explain.bench import Bench, Options, apart
from resvision.measure import spread
from resvision.models import ResNet
from resvision.progress import Reporter
from resvision.report import pages

TINY: dict[str, Any] = {"depths": (14,), "seeds": 1, "pictures": 64, "size": None, "steps": 2, "batch_size": 32}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(sources.load("digits"), Options(**TINY))


def test_the_pictures_are_the_same_part_of_every_class(bench: Bench) -> None:
    counts = np.bincount(bench.train_split.labels, minlength=10)
    assert counts.sum() == 64
    assert counts.max() - counts.min() <= 1


def test_a_batch_holds_the_same_part_of_every_class_whatever_their_order() -> None:
    digits = sources.load("digits")
    splits = {name: split.take(np.argsort(split.labels, kind="stable")) for name, split in digits.splits.items()}
    ordered = DataSet(name="ordered", classes=digits.classes, splits=splits, method=digits.method)
    found = Bench(ordered, Options(**TINY)).batch(40)
    assert np.bincount(found.labels.cpu(), minlength=10).tolist() == [4] * 10
    assert found.squares.shape == (40, 8, 8, 1)


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
        ratios[arm] = gradients.ratio("gradient", gradients.flow(network, x, targets)["gradient"])
    assert ratios["plain"] is not None
    assert 1e-30 < ratios["plain"] < 1e-20  # its squares are below the smallest number of single precision
    assert ratios["residual"] is not None
    assert 0.01 < ratios["residual"] < 100


def test_a_signal_that_falls_to_zero_vanishes(bench: Bench) -> None:
    network = bench.network(bench.spec("plain302_cifar", norm="none", init="glorot"), 0)
    found = gradients.flow(network, torch.randn(2, 1, 8, 8), torch.arange(2))
    assert found["signal"][0]
    assert found["signal"][-1] == 0
    assert gradients.ratio("signal", found["signal"]) == 0
    assert gradients.ratio("gradient", found["gradient"]) == 0
    rows = [
        {"norm": norm, "init": init, "arm": arm, "seed": 0, "initial": found, "trained": found}
        | {"steps": 5, "diverged": False}
        for norm in gradients.NORMS
        for init in gradients.INITS
        for arm in gradients.ARMS
    ]
    made = {"depth": 302, "summary": gradients._summary(rows)}
    text = gradients.describe(made | {"settings": {"data": "made up", "seeds": 1, "steps": 5}})
    assert (
        "plain: the gradient at initialisation vanishes (below the smallest number), and the signal vanishes (below "
        "the smallest number); after 5 steps the gradient vanishes (below the smallest number)"
    ) in text
    assert "not finite" not in text
    nowhere = {"gradient": [None] * 150, "signal": [None] * 150}
    rows = [row | {"trained": None} | ({"initial": nowhere} if row["arm"] == "plain" else {}) for row in rows]
    pages._gradients(
        made | {"rows": rows, "settings": {"data": "made up", "seeds": 1, "steps": 5}}
    )  # without a warning
    rows = [row | {"initial": nowhere} for row in rows]
    pages._gradients(made | {"rows": rows, "settings": {"data": "made up", "seeds": 1, "steps": 5}})


def test_ratios_are_of_what_arrives_to_what_set_out() -> None:
    assert gradients.ratio("gradient", [2.0, 7.0, 4.0]) == 0.5
    assert gradients.ratio("signal", [2.0, 7.0, 4.0]) == 2
    assert gradients.ratio("gradient", [0.0, 0.0]) == gradients.ratio("signal", [0.0, 0.0]) == 0
    assert gradients.ratio("signal", [2.0, None]) is gradients.ratio("signal", [0.0, 2.0]) is None
    value = {"median": 0.5, "least": 0.5, "most": 0.5, "not_finite": 1}
    assert gradients._judged(value) == "keeps its size (0.5; not finite with 1 of the seeds)"
    assert gradients._judged(value | {"median": None}) == "is not finite"


@pytest.fixture(scope="module")
def network(bench: Bench) -> ResNet:
    return bench.network(bench.spec("resnet14_cifar"), 0).eval()


def test_deleting_a_block_is_making_its_branch_zero(bench: Bench, network: ResNet) -> None:
    zeroed = bench.network(bench.spec("resnet14_cifar"), 0).eval()
    list(zeroed.blocks())[1].zero_branch()
    torch.nn.init.zeros_(list(zeroed.blocks())[1].get_parameter("conv2.weight"))
    x = torch.randn(4, 1, 8, 8)
    without = paths.logits(network, x, [0, 2, 3, 4, 5])
    assert torch.allclose(without, zeroed(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(paths.logits(network, x, range(6)), network(x))
    assert not torch.allclose(without, network(x), rtol=0.1)


def test_the_gradients_of_all_paths_add_up_to_the_gradient(bench: Bench) -> None:
    """By the product rule, since all share one forward pass: each block is the sum of its two ways."""
    network = bench.network(bench.spec("resnet8_cifar"), 0).eval()
    x, targets = torch.randn(4, 1, 8, 8), torch.arange(4)
    start = network.stem(x).detach().requires_grad_()
    y = start
    for block in network.blocks():
        y = block(y)
    [whole] = torch.autograd.grad(F.cross_entropy(network.head(y), targets), start)
    subsets = [{block for block in range(3) if number >> block & 1} for number in range(8)]
    found = [paths.path_gradient(network, x, targets, through) for through in subsets]
    assert torch.allclose(sum(found, torch.zeros_like(whole)), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))
    assert all(bool(gradient.any()) for gradient in found)
    assert not torch.allclose(found[0], whole, rtol=0.1)  # of the shortcuts alone


def test_path_lengths_are_binomial_and_their_shares_add_up(
    bench: Bench, network: ResNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "DRAWS", 2)
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
        figures = {name: spread(values) for name in ("train_error", "test_error", "train_loss")}
        return {"diverged": []} | figures

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
            arm[depth] = {key: value and spread(value["values"][:1]) for key, value in row.items()}
    text = degradation.describe(made)
    assert "with one seed; the test error" in text
    assert text.endswith("give --seeds 3 to know whether this is more than chance.")


def test_of_trainings_that_diverged_nothing_is_concluded() -> None:
    made = numbers([0.3], [0.09, 0.11])
    made["summary"]["plain"][20]["diverged"] = [5]
    text = degradation.describe(made)
    assert "Plain with 20 layers: 1 of 2 trainings diverged (last step 5)." in text
    assert "Residual: from 8 to 20 layers the training error went" in text
    assert "Plain: from" not in text
    assert text.endswith("Trainings that diverged tell nothing of depth: give a lower --lr.")


def test_basins_are_compared_only_where_both_networks_learnt() -> None:
    def told(plain: list[float], **plain_changes: Any) -> str:
        row = {"diverged": [], "basin": spread([0.1, 0.2]), "negative": spread([0.1] * 2), "rim": spread([9.0] * 2)}
        wide = row | {"centre": spread([0.1, 0.1]), "basin": spread([0.5, 0.6])}
        summary = {"plain": row | {"centre": spread(plain)} | plain_changes, "residual": wide}
        settings = {"data": "made up", "seeds": 2}
        return landscape.describe({"settings": settings, "depth": 8, "classes": 10, "summary": summary})

    assert told([1.0, 1.2]).endswith("The residual network lies in a wider basin with every seed.")
    for text in (told([1.0, 2.3]), told([1.0], diverged=[7])):
        assert "The plain network diverged or is hardly better than guessing (2.303 nats), so that the basins" in text
        assert "wider" not in text
    assert "1 of 2 trainings diverged (last step 7)" in told([1.0], diverged=[7])


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


@pytest.mark.parametrize(
    ("name", "steps"), [("degradation", 1), ("degradation", 4), ("paths", 4), ("landscape", 1)]
)  # what the last step does is seen by the logits alone
def test_trainings_that_diverge_are_no_findings(name: str, steps: int, tmp_path: Path) -> None:
    options = TINY | {"depths": (8,), "steps": steps, "lr": 1e30}
    found, folder = api.study(name, out=tmp_path / "run", **options)
    rows = found["arms" if name == "degradation" else "rows"]
    assert [row["diverged"] for row in rows] == [True, True]
    assert all(1 <= row["steps"] <= steps for row in rows)
    for arm in degradation.ARMS:
        summary = found["summary"][arm]["8"] if name == "degradation" else found["summary"][arm]
        assert summary["diverged"] == [row["steps"] for row in rows if row["arm"] == arm]
    assert "1 of 1 trainings diverged (last step " in found["description"]
    for claim in ("wide", "bears", "gradient comes", "error went"):
        assert claim not in found["description"]
    assert (folder / f"{name}.png").stat().st_size > 10_000


def test_what_the_seeds_do_not_tell_is_not_said() -> None:
    """Errors that a lost block adds: of the plain network's seeds, and of the residual network's."""

    def told(plain: list[float], residual: list[float]) -> str:
        rows = [
            {"arm": arm, "steps": 5, "diverged": False, "error": 0.1, "single": [{"block": 0, "error": 0.1 + harm}]}
            for arm, harms in (("plain", plain), ("residual", residual))
            for harm in harms
        ]
        settings = {"data": "made up", "seeds": len(plain)}
        return paths.describe({"settings": settings, "depth": 8, "classes": 10, "summary": paths._summary(rows)})

    assert "bears the loss of a block far better than the plain one. " in told([0.5, 0.6], [0.1, 0.2])
    assert "bears the loss of a block somewhat better than the plain one. " in told([0.3, 0.31], [0.2, 0.21])
    assert "The seeds do not tell whether the residual network bears" in told([0.3, 0.6], [0.1, 0.35])
    assert "did not bear the loss of a block better" in told([0.1, 0.2], [0.1, 0.2])
    assert "far better than the plain one, as far as one seed can tell: give --seeds 3" in told([0.5], [0.1])


@pytest.mark.parametrize(
    ("plain", "residual", "expected"),
    [
        ([[1.0, 1.1], [2.0, 2.1]], [[1.0, 1.1], [0.9, 1.0]], True),
        ([[1.0, 1.1], [2.0, 2.1]], [[1.0, 1.1], [1.2, 1.3]], False),  # both get worse
        ([[1.0, 2.0], [1.9, 2.1]], [[1.0, 1.1], [0.9, 1.0]], False),  # within the spread
        ([[1.0], [2.0]], [[1.0], [0.9]], False),  # one seed
    ],
)
def test_the_title_says_what_the_text_says(plain: Any, residual: Any, expected: bool) -> None:
    """Of 8, 20 and 56 layers the deepest are compared with those of 20, as in the paper."""
    summary = {
        arm: {
            depth: {"diverged": [], "train_error": spread(values), "test_error": spread(values)}
            for depth, values in zip((8, 20, 56), ([0.0] * len(ends[0]), *ends), strict=True)
        }
        for arm, ends in (("plain", plain), ("residual", residual))
    }
    settings = {"depths": [8, 20, 56], "data": "x", "seeds": len(plain[0]), "steps": 9, "batch_size": 2}
    degrades = degradation._degrades(summary, (8, 20, 56))
    assert degrades is expected
    numbers = {"settings": settings, "summary": summary, "degrades": degrades, "epochs": 1.0, "pictures": 3}
    assert ("the degradation of He et al. 2015" in degradation.describe(numbers)) is expected


def test_networks_that_learnt_nothing_are_not_compared() -> None:
    def told(plain: float, lengths: list[dict[str, Any]]) -> str:
        rows = [
            {"arm": arm, "steps": 5, "diverged": False, "error": error, "single": [{"block": 0, "error": 0.9}]}
            for arm, error in (("plain", plain), ("residual", 0.1))
        ]
        summary = paths._summary([rows[0], rows[1] | {"paths": lengths}])
        settings = {"data": "made up", "seeds": 1}
        return paths.describe({"settings": settings, "depth": 8, "classes": 10, "summary": summary})

    lengths = [{"length": length, "share": share} for length, share in enumerate((0.0, 1.0, 0.0, 0.0))]
    assert "did not bear the loss of a block better" in told(0.5, lengths)
    text = told(0.89, lengths)
    assert "The plain network diverged or hardly learnt more than guessing (an error of 90%), so that the two" in text
    assert "bear" not in text
    assert "So the gradient comes along paths that are shorter than most" in text
    assert "gradient comes" not in told(0.5, [])


def test_paths_along_which_no_gradient_comes_have_no_shares(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "DRAWS", 1)
    dead = bench.network(bench.spec("resnet8_cifar"), 0).eval()
    torch.nn.init.zeros_(dead.fc.weight)
    assert paths.path_lengths(bench, dead, random.Random(0)) == []


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
    with pytest.raises(RecipeError, match="size=0 must be at least 1"):
        api.study("paths", out=tmp_path / "c", size=0)
    with pytest.raises(RecipeError, match="depths=8: Input should be a valid"):
        api.study("paths", out=tmp_path / "c", depths=8)
    with pytest.raises(RecipeError, match="seeds='3': Input should be a valid integer"):
        api.study("paths", out=tmp_path / "c", seeds="3")


def test_a_manifest_may_name_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(landscape, "GRID", 5)
    rows = []
    for number in range(40):
        Image.fromarray(np.full((8, 8), 40 + 5 * number, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'dark' if number < 20 else 'light'}")
    manifest = tmp_path / "pictures.csv"
    manifest.write_text("\n".join(["file,shade", *rows]))
    options = ["--depths", "8", "--seeds", "1", "--steps", "1", "--out", str(tmp_path / "run"), "--json"]
    columns = ["--path-column", "file", "--label-column", "shade"]
    with pytest.raises(SystemExit) as leaving:
        main(["study", "landscape", str(manifest), *columns, *options])
    assert leaving.value.code == 0
    command = json.loads(capsys.readouterr().out)["command"]
    assert command.startswith(f"resvision study landscape {manifest} {' '.join(columns)} --depths 8 --seeds 1 ")
    assert command in (tmp_path / "run" / "README.md").read_text()
