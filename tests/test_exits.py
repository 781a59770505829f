"""Early exits, from the spec to the command line: where they stand, who leaves there, and what it gives."""

import csv
import dataclasses
import io
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import resvision
from resvision import zoo
from resvision.adaptive import AdaptiveSession, all_exits, joined, segment_seconds, torch_segments
from resvision.classifier import Classifier
from resvision.cli import main
from resvision.cost import cost, exit_macs, segment_macs
from resvision.data.reading import Batch
from resvision.data.sources import load, prepare
from resvision.errors import ClassifierError, InputError, RecipeError, SpecError
from resvision.evaluation import exits
from resvision.evaluation.calibration import temperature
from resvision.evaluation.exits import NEVER, Judged, Outcome, Times, choose, report
from resvision.evaluation.metrics import log_softmax
from resvision.exits import ExitRule, with_exits, with_exits_and_gates
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import losses

EXITS = (1, 2, 4)
FIELDS: dict[str, Any] = {
    "model": "resnet14_cifar",
    "recipe": "plain",
    "epochs": 6,
    "precision": "fp32",
    "channels_last": True,
    "compile": False,
    "workers": 0,
}


def network(spec: str = "resnet14_cifar", **changes: Any) -> ResNet:
    """A network whose every value matters, as if it had been trained; the same each time."""
    torch.manual_seed(5)
    made = ResNet(dataclasses.replace(zoo.get(spec), exits=EXITS, **changes)).eval()
    for key, value in made.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape)
            value.add_(0.1 * (noise.abs() if "var" in key else noise))
    return made


PREPROCESS = Preprocess(size=16)


def run(*arguments: str | Path) -> int:
    """The exit status of one command."""
    with pytest.raises(SystemExit) as leaving:
        main([str(a) for a in arguments])
    return int(leaving.value.code or 0)


def squares(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 16, 16, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


# ---- the network ----


@pytest.mark.parametrize("name", ["resnet14_cifar", "preact20_cifar", "resnet26d", "plain20_cifar"])
def test_every_way_through_a_network_computes_the_same(name: str) -> None:
    made = network(name)
    x = torch.randn(3, 3, 32, 32)
    *early, end = made(x, exits=True)
    assert [logits.shape for logits in early] == [(3, made.spec.num_classes)] * 3
    torch.testing.assert_close(made(x), end)
    state = x
    for index, wanted in enumerate((*early, end)):
        state, logits = made.segment(index, state)
        torch.testing.assert_close(logits, wanted)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["resnet14_cifar", "preact20_cifar", "resnet50", "seresnet50", "plain20_cifar"])
def test_exits_are_counted(name: str, depth: int) -> None:
    spec = dataclasses.replace(zoo.get(name), exits=EXITS, exit_depth=depth)
    assert cost(spec, 32).params == sum(p.numel() for p in ResNet(spec).parameters())
    done = exit_macs(spec, 32)
    assert done[-1] == cost(spec, 32).macs
    assert list(done) == sorted(done)
    without = exit_macs(dataclasses.replace(spec, exits=()), 32)
    assert without == (cost(zoo.get(name), 32).macs,)
    assert done[-1] > without[-1]


def test_exits_leave_the_names_and_first_weights_of_the_network_alone() -> None:
    plain, early = zoo.get("resnet14_cifar"), dataclasses.replace(zoo.get("resnet14_cifar"), exits=EXITS)
    keys = set(ResNet(early).state_dict()) - set(ResNet(plain).state_dict())
    assert keys == {key for key in ResNet(early).state_dict() if key.startswith("exits.")}
    assert "exits.2.blocks.0.conv1.weight" in keys


@pytest.mark.parametrize(("name", "size"), [("resnet50", 224), ("resnet110_cifar", 32), ("resnet18", 128)])
def test_auto_sets_exits_at_an_eighth_and_at_half_of_the_work(name: str, size: int) -> None:
    plain = exit_macs(zoo.get(name), size)[-1]
    done = list(
        itertools.accumulate(trunk / plain for trunk, _ in segment_macs(with_exits(zoo.get(name), "auto", size), size))
    )
    block = 1 / sum(zoo.get(name).depths)
    assert done[:-1] == pytest.approx([1 / 8, 1 / 2], abs=block)


def test_exits_stand_where_they_are_asked_for() -> None:
    spec = zoo.get("resnet50")
    assert with_exits(spec, "3,7", 224).exits == (3, 7)
    assert with_exits(spec, None, 224) is spec
    assert with_exits(zoo.get("resnet8_cifar"), "auto", 32).exits == (1,)


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("resnet56_cifar", 32, (1.0, 2)),
        ("resnet20_cifar", 32, (0.5, 2)),
        ("resnet50", 224, (0.5, 2)),
        ("resnet8_cifar", 32, (0.25, 1)),
    ],
)
def test_exits_are_as_large_as_the_network_can_bear(name: str, size: int, shape: tuple[float, int]) -> None:
    spec = with_exits(zoo.get(name), "auto", size)
    assert (spec.exit_width, spec.exit_depth) == shape
    whole = exit_macs(zoo.get(name), size)[-1]
    assert max(own for _, own in segment_macs(spec, size)[:-1]) <= 0.15 * whole


def test_an_exit_does_in_short_what_the_stages_to_come_do() -> None:
    spec = dataclasses.replace(zoo.get("resnet56_cifar"), exits=(3, 13, 20), exit_depth=2)
    shapes = [[(b.in_channels, b.out_channels, b.stride) for b in place.blocks] for place in spec.exit_plan()]
    assert shapes[0] == [(16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    assert shapes[1] == [(32, 64, 2), (64, 64, 1)]
    assert shapes[2] == [(64, 64, 1), (64, 64, 1)]
    made = ResNet(spec)
    for place, features in zip(made.exits, [(16, 32), (32, 16), (64, 8)], strict=True):
        assert place.blocks(torch.zeros(1, features[0], features[1], features[1])).shape == (1, 64, 8, 8)
    narrow = dataclasses.replace(spec, exit_width=0.25, exit_depth=1)
    assert [b.out_channels for b in narrow.exit_plan()[0].blocks] == [8, 16]


@pytest.mark.parametrize("fields", [{"exit_width": 0.0}, {"exit_width": 9.0}, {"exit_depth": 0}, {"exit_depth": 1.5}])
def test_shapes_of_exits_have_bounds(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(fields))):
        dataclasses.replace(zoo.get("resnet14_cifar"), exits=EXITS, **fields)


@pytest.mark.parametrize("pad_side", ["end", "both"])
@pytest.mark.parametrize("name", ["resnet8_cifar", "resnet164_cifar"])
def test_an_exit_that_narrows_loses_no_channels_on_the_way(name: str, pad_side: str) -> None:
    """Option A adds channels of zeros, and cannot take any away."""
    spec = dataclasses.replace(zoo.get(name), shortcut="pad", pad_side=pad_side, exits=(1,), exit_width=0.25)
    first, second = spec.exit_plan()[0].blocks
    assert (first.in_channels > first.out_channels, first.shortcut) == (True, "project")
    assert second.shortcut == "pad"
    logits = ResNet(spec)(torch.zeros(2, 3, 16, 16), exits=True)
    assert [rows.shape for rows in logits] == [(2, spec.num_classes)] * 2


@pytest.mark.parametrize("norm", ["fixup", "skipinit"])
def test_exits_of_networks_without_norms_begin_as_the_blocks_do(norm: str) -> None:
    spec = dataclasses.replace(zoo.get("resnet14_cifar"), norm="none", init=norm, exits=(2,))
    made = ResNet(spec)
    assert cost(spec, 32).params == sum(p.numel() for p in made.parameters())
    x = torch.randn(2, 16, 8, 8)
    for block in made.exits[0].blocks:
        assert not block.branch(x if block.plan.order == "post" else block.active(x)).any()  # F is zero at first
        x = block(x)


@pytest.mark.parametrize("exits", [(0,), (2, 2), (3, 1), (6,), (1.5,)])
def test_exits_must_stand_between_blocks(exits: tuple[Any, ...]) -> None:
    with pytest.raises(SpecError, match="numbers of blocks between 1 and 5"):
        dataclasses.replace(zoo.get("resnet14_cifar"), exits=exits)


def test_what_exits_do_not_go_with() -> None:
    with pytest.raises(SpecError, match="reversible"):
        dataclasses.replace(zoo.get("revnet38_cifar"), exits=(1,))
    with pytest.raises(SpecError, match="give auto, or numbers"):
        with_exits(zoo.get("resnet18"), "some", 64)
    with pytest.raises(RecipeError, match="nothing that learns but early exits"):
        Recipe(model="resnet18", size=64, pretrained="x", freeze_trunk=True)
    for shape in ("exit_width=2", "exit_depth=1"):
        with pytest.raises(RecipeError, match=f"takes exits of a fitting shape: give {shape} with --spec 'exits="):
            Recipe(model="resnet18", size=64, exits="auto", spec=(shape,))
    with pytest.raises(RecipeError, match=r"max_drop=150\.0 must be at least 0 and at most 100"):
        Recipe(model="resnet18", size=64, exits="auto", max_drop=150.0)
    with pytest.raises(RecipeError, match="checkpoint"):
        Recipe(model="resnet18", size=64, exits="auto", memory="checkpoint")


# ---- who leaves ----


def test_in_full_is_the_network_without_its_exits(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exits cost is no part of what they are measured against."""
    classifier = Classifier.load(trained)
    assert classifier.adaptive is not None
    calls: list[int] = []
    for place in classifier.network.exits:
        place.register_forward_hook(lambda *_: calls.append(1))
    pictures = torch.randint(0, 256, (4, 8, 8, 1)).to(torch.uint8)
    full = classifier.adaptive.in_full(pictures)
    assert not calls
    by_segments = all_exits(classifier.adaptive.segments, pictures)[-1]
    assert calls
    np.testing.assert_allclose(full, by_segments, atol=1e-5)


def test_pictures_that_leave_get_their_own_answers_in_their_own_places() -> None:
    made = network()
    segments = torch_segments(made, PREPROCESS)
    pictures = squares(32)
    everything = [logits / (1.5 + i) for i, logits in enumerate(all_exits(segments, pictures))]
    confidences = [np.exp(log_softmax(rows)).max(axis=1) for rows in everything]
    thresholds = tuple(float(np.median(c)) for c in confidences[:-1])
    rule = ExitRule(temperatures=(1.5, 2.5, 3.5, 4.5), thresholds=thresholds, seconds=(1.0,) * 4)
    found = AdaptiveSession(segments, rule)(pictures)
    wanted = [next((e for e in range(3) if confidences[e][i] >= thresholds[e]), 3) for i in range(32)]
    assert found.exits.tolist() == wanted
    assert len(set(wanted)) == 4  # all of them are used
    for place, left in enumerate(wanted):
        np.testing.assert_allclose(found.logits[place], everything[left][place], atol=1e-5)


@pytest.mark.parametrize("second", [True, False])
def test_exits_that_answer_together_say_the_mean_of_those_that_are_asked(second: bool) -> None:
    segments, pictures = torch_segments(network(), PREPROCESS), squares(32)
    first, other, third, end = all_exits(segments, pictures)
    # What is behind an exit at which nothing can leave does not hear it.
    heard = [first, (first + other) / 2, (first + third) / 2, (first + third + end) / 3]
    if second:
        heard[2:] = [(first + other + third) / 3, (first + other + third + end) / 4]
    temperatures = (1.5, 2.5, 3.5, 4.5)
    answers = [rows / t for rows, t in zip(heard, temperatures, strict=True)]
    sure = [np.exp(log_softmax(rows)).max(axis=1) for rows in answers]
    bars = [float(np.median(c)) for c in sure[:-1]]
    bars[1] = bars[1] if second else NEVER
    rule = ExitRule(temperatures=temperatures, thresholds=tuple(bars), seconds=(1.0,) * 4, together=True)
    session = AdaptiveSession(segments, rule)
    found = session(pictures)
    wanted = [next((e for e in range(3) if sure[e][i] >= bars[e]), 3) for i in range(32)]
    assert found.exits.tolist() == wanted
    assert set(wanted) == ({0, 1, 2, 3} if second else {0, 2, 3})
    for place, left in enumerate(wanted):
        np.testing.assert_allclose(found.logits[place], answers[left][place], atol=1e-5)
    for one, two in zip(joined([first, other, third, end], rule.used), heard, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(session.in_full(pictures), end, atol=1e-5)  # the network itself stays what it is


def told(logits: list[npt.NDArray[np.float32]]) -> list[Any]:
    """Segments that say what is given for pictures whose first value is their number."""

    def segment(index: int) -> Any:
        def run(state: torch.Tensor, /, *, answers: bool = True) -> Any:
            return state, logits[index][state.flatten(1)[:, 0].long().numpy()]

        return run

    return [segment(index) for index in range(len(logits))]


@pytest.mark.parametrize("noise", [1.0, 8.0])
def test_exits_answer_together_where_that_surprises_less(noise: float) -> None:
    """Two exits with errors of their own are better together; one that mostly guesses only disturbs the other."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 200)
    truth = 2.0 * np.eye(5)[labels]
    logits = [(truth + random.normal(0, s, truth.shape)).astype(np.float32) for s in (noise, 1.0)]
    numbers = torch.arange(200, dtype=torch.uint8)[:, None, None, None]
    rule = exits.tune(told(logits), [Batch(numbers, torch.from_numpy(labels))], max_drop=1.0)
    assert rule.together == (noise == 1.0)
    means = joined(logits, rule.used) if rule.together else logits
    assert rule.temperatures == tuple(temperature(rows, labels) for rows in means)


def test_an_exit_that_nothing_leaves_is_calibrated_away() -> None:
    """The first exit knows nothing, so that nothing leaves there; what the others say without it is calibrated."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 5, 200)
    truth = 2.0 * np.eye(5)[labels]
    logits = [(truth + random.normal(0, 1, truth.shape)).astype(np.float32) for _ in range(3)]
    logits[0][:] = 0
    numbers = torch.arange(200, dtype=torch.uint8)[:, None, None, None]
    rule = exits.tune(told(logits), [Batch(numbers, torch.from_numpy(labels))], max_drop=0.5)
    assert rule.together
    assert not rule.used[0]
    assert rule.temperatures[2] == temperature(joined(logits, rule.used)[2], labels)


@pytest.mark.parametrize("exits_", [1, 2])
def test_a_network_whose_exits_pay_nothing_answers_at_its_end(exits_: int) -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 5, 100)
    good = (2.0 * np.eye(5)[labels] + random.normal(0, 1, (100, 5))).astype(np.float32)
    poor = [(good + random.normal(0, 3, good.shape)).astype(np.float32) for _ in range(exits_)]
    numbers = torch.arange(100, dtype=torch.uint8)[:, None, None, None]
    # Calibrated, the mean of the end and of a weak exit may surprise less, and no picture may leave at no cost.
    rule = exits.tune(told([*poor, good]), [Batch(numbers, torch.from_numpy(labels))], max_drop=0.0)
    assert len(rule.thresholds) == exits_
    assert Judged.of([good], labels, [1.0], Times((1.0,))).outcome(()).seconds == 1.0


def test_times_of_a_network_with_fewer_exits() -> None:
    times = Times(segments=(3.0, 4.0, 5.0), trunk=(2.0, 3.5, 5.0), in_full=10.0)
    assert times.among((True, True, True)) == times
    assert times.among((False, True, True)) == Times((6.0, 5.0), (5.5, 5.0), 10.0)
    assert times.among((False, False, True)) == Times((10.5,), (10.5,), 10.0)
    assert Times((3.0, 4.0, 5.0)).among((True, False, True)) == Times((3.0, 9.0))


def test_later_segments_see_only_who_stays() -> None:
    sizes = []

    def counted(segment: Any) -> Any:
        def run(state: Any, *, answers: bool = True) -> Any:
            sizes.append(len(state))
            return segment(state, answers=answers)

        return run

    segments = [counted(segment) for segment in torch_segments(network(), PREPROCESS)]
    ones = (1.0,) * 4
    everyone = AdaptiveSession(segments, ExitRule(temperatures=ones, thresholds=(0.0, 0.0, 0.0), seconds=ones))
    assert set(everyone(squares(8)).exits) == {0}
    assert sizes == [8]
    sizes.clear()
    nobody = AdaptiveSession(segments, ExitRule(temperatures=ones, thresholds=(NEVER,) * 3, seconds=ones))
    assert set(nobody(squares(8)).exits) == {3}
    assert sizes == [8, 8, 8, 8]


def test_an_exit_at_which_nothing_leaves_is_not_computed() -> None:
    made, computed = network(), []
    for place, head in enumerate(made.exits):
        head.register_forward_hook(lambda *_, place=place: computed.append(place))
    ones = (1.0,) * 4
    rule = ExitRule(temperatures=ones, thresholds=(NEVER, 1.0, NEVER), seconds=ones)
    session = AdaptiveSession(torch_segments(made, PREPROCESS), rule)
    pictures = squares(4)
    found = session(pictures)
    assert computed == [1]
    np.testing.assert_allclose(found.logits, all_exits(session.segments, pictures)[-1], atol=1e-5)
    computed.clear()
    assert session(pictures, now() - 1).exits.tolist() == [0] * 4  # in a hurry any answer is one
    assert computed == [0]
    spec = dataclasses.replace(zoo.get("resnet14_cifar"), exits=EXITS)
    parts = segment_macs(spec, 16)
    assert exit_macs(spec, 16, rule.used)[0] == parts[0][0]
    assert exit_macs(spec, 16, rule.used)[-1] == exit_macs(spec, 16)[-1] - parts[0][1] - parts[2][1]


def test_a_useless_exit_is_left_out_where_that_saves_time() -> None:
    """The second exit knows no more than the first, and computing it takes half of what it could save."""
    base = judged(4000)
    poor = base.confidence.copy()
    poor[1], right = 0.05, base.right.copy()
    right[1] = False
    made = dataclasses.replace(base, confidence=poor, right=right, chance=right.astype(np.float64))
    spared = dataclasses.replace(made, trunk=np.array([1.0, 0.5, 2.0]))
    first = next(o for o in made.frontier() if o.expected >= made.right[-1].mean() - 0.01)
    second = next(o for o in spared.frontier() if o.expected >= made.right[-1].mean() - 0.01)
    assert second.thresholds[1] > 1
    assert second.seconds < first.seconds - 0.1
    assert spared.until_by([NEVER, NEVER]).tolist() == [1.0, 1.5, 3.5]
    assert spared.until_by([0.5, 0.5]).tolist() == made.until.tolist() == [1.0, 2.0, 4.0]
    rows = report(spared, [0.5, NEVER], ())["exits"]
    assert [row["milliseconds"] for row in rows] == [1000, 1500, 3500]


def test_a_deadline_is_kept_to() -> None:
    segments = torch_segments(network(), PREPROCESS)
    rule = ExitRule(temperatures=(1.0,) * 4, thresholds=(NEVER,) * 3, seconds=(1e-9, 1e-9, 3600.0, 1e-9))
    session = AdaptiveSession(segments, rule)
    assert session(squares(1), now() - 1).exits.tolist() == [0]  # the first answer is always given
    assert session(squares(1), now() + 1800).exits.tolist() == [1]  # the third segment would take an hour
    assert session(squares(1), math.inf).exits.tolist() == [3]


def test_segments_are_timed_a_picture() -> None:
    times = segment_seconds(torch_segments(network(), PREPROCESS), squares(4), repeats=3)
    assert len(times) == 4
    assert all(0 < t < 1 for t in times)


def test_gated_blocks_are_timed_on_pictures() -> None:
    """How long a picture takes depends on what it shows: a black one says nothing of the others."""
    seen: list[float] = []

    def segment(state: Any, /, *, answers: bool = True) -> tuple[Any, np.ndarray]:
        if len(state) == 1:  # one at a time, which is when they are timed
            seen.append(float(state.float().mean()))
        return state, np.tile(np.arange(3, dtype=np.float32), (len(state), 1))

    pictures = squares(8)
    batches = [Batch(squares=pictures, labels=torch.arange(8) % 3)]
    exits.tune([segment, segment], batches, max_drop=1.0)
    assert set(seen) == {float(one.float().mean()) for one in pictures}
    assert exit_macs(dataclasses.replace(network().spec, gates=True), 16) == ()


# ---- thresholds ----


def test_the_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, 5))
    labels = np.array([rng.choice(5, p=row) for row in np.exp(log_softmax(logits))])
    assert temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    assert temperature(logits / 2, labels) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("pictures", [5, 20, 150])
def test_few_pictures_that_are_all_right_do_not_make_answers_certain(pictures: int) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(pictures, 5))
    logits[:, 2] += 8
    labels = np.full(pictures, 2)
    assert (logits.argmax(axis=1) == labels).all()
    assert 0.5 < temperature(logits, labels) < 1.1


def judged(pictures: int = 400) -> Judged:
    """Three exits that get better, each of them sure where it is right, more or less."""
    rng = np.random.default_rng(3)
    ease = rng.uniform(size=pictures)
    right = np.stack([ease + 0.15 * rng.normal(size=pictures) > bar for bar in (0.5, 0.25, 0.1)])
    sure = np.clip(0.5 + 0.4 * (ease - 0.4) + 0.1 * rng.normal(size=(3, pictures)), 0.1, 0.999)
    return Judged(confidence=sure, right=right, chance=right.astype(np.float64), seconds=np.array([1.0, 1.0, 2.0]))


def test_an_outcome_by_hand() -> None:
    small = Judged(
        confidence=np.array([[0.9, 0.2, 0.3], [0.1, 0.8, 0.4], [0.5, 0.5, 0.5]]),
        right=np.array([[True, False, False], [True, False, False], [True, True, True]]),
        chance=np.array([[0.9, 0.3, 0.2], [0.9, 0.6, 0.2], [0.9, 0.6, 0.7]]),
        seconds=np.array([1.0, 2.0, 3.0]),
    )
    assert small.leave([0.9, 0.5]).tolist() == [0, 1, 2]
    outcome = small.outcome([0.9, 0.5])
    assert outcome.accuracy == pytest.approx(2 / 3)
    assert outcome.expected == pytest.approx((0.9 + 0.6 + 0.7) / 3)
    assert outcome.seconds == pytest.approx((1 + 3 + 6) / 3)


def test_a_budget_is_a_part_of_the_network_without_its_exits() -> None:
    with_exits = judged()
    full = 3.0  # of 4 with both exits
    alone = dataclasses.replace(with_exits, in_full=full)
    for budget in (0.5, 0.8):
        assert choose(with_exits, budget=budget).seconds <= budget * 4
        assert budget * full - 0.2 < choose(alone, budget=budget).seconds <= budget * full
    with pytest.raises(InputError, match=r"already takes 1000.00 ms a picture, 33% of the whole network's time"):
        choose(alone, budget=0.3)
    assert report(alone, [NEVER, NEVER], ())["milliseconds_in_full"] == 3000
    assert report(with_exits, [NEVER, NEVER], ())["milliseconds_in_full"] == 4000


def test_gates_want_a_rate() -> None:
    recipe = Recipe(model="resnet20_cifar", size=32, channels=3, epochs=1)
    spec = zoo.variant("resnet20_cifar", ("gates=true",))
    with pytest.raises(SpecError, match="without --gate-rate all gates would learn to be open"):
        with_exits_and_gates(spec, recipe)
    assert with_exits_and_gates(spec, dataclasses.replace(recipe, gate_rate=0.5)).gates


def test_the_frontier_is_about_as_good_as_trying_everything() -> None:
    made = judged()
    frontier = made.frontier()
    accuracies, times = [o.accuracy for o in frontier], [o.seconds for o in frontier]
    assert accuracies == sorted(accuracies)
    assert times == sorted(times)
    grids = [np.append(np.quantile(made.confidence[e], np.linspace(0, 1, 40)), NEVER) for e in range(2)]
    tried = [made.outcome(pair) for pair in itertools.product(*grids)]
    for allowed in (0.0, 0.01, 0.03):
        least = made.right[-1].mean() - allowed
        best = min(o.seconds for o in tried if o.accuracy >= least)
        mine = next(o for o in frontier if o.accuracy >= least - 1e-12)
        assert mine.accuracy >= least - 1e-12
        assert mine.seconds <= 1.06 * best


def answers(pictures: int, seed: int) -> tuple[list[npt.NDArray[np.float64]], npt.NDArray[np.int64]]:
    """Logits of three exits that know more and more of ten classes, and labels drawn as the last of them says."""
    rng = np.random.default_rng(seed)
    end = 4 * rng.normal(size=(pictures, 10)) * rng.uniform(0.2, 1, size=(pictures, 1))
    probabilities = np.exp(log_softmax(end))
    labels = (probabilities.cumsum(axis=1) > rng.uniform(size=(pictures, 1))).argmax(axis=1)
    return [part * end + noise * rng.normal(size=end.shape) for part, noise in ((0.6, 0.8), (0.9, 0.5))] + [end], labels


def test_a_drop_is_kept_to_on_pictures_that_did_not_choose() -> None:
    """On average; the fastest thresholds that keep to it by the labels have had luck with them, and lose more."""
    kept, lucky, saved = [], [], []
    for seed in range(8):
        made = []
        for pictures, offset in ((2000, 0), (40_000, 100)):
            logits, labels = answers(pictures, seed + offset)
            temperatures = [temperature(rows, labels) for rows in logits]
            made.append(Judged.of(logits, labels, temperatures, Times(segments=(1.0, 1.0, 2.0))))
        few, many = made

        def lost(outcome: Outcome, many: Judged = many) -> float:
            return 100 * float(many.right[-1].mean() - many.outcome(outcome.thresholds).accuracy)

        chosen = choose(few, max_drop=0.5)
        kept.append(lost(chosen))
        saved.append(1 - many.outcome(chosen.thresholds).seconds / many.until[-1])
        by_labels = dataclasses.replace(few, chance=few.right.astype(np.float64))
        lucky.append(lost(choose(by_labels, max_drop=0.5)))
    assert np.mean(kept) == pytest.approx(0.5, abs=0.15)
    assert np.mean(lucky) > np.mean(kept) + 0.4
    assert np.mean(saved) > 0.2


def test_limits_are_kept_to() -> None:
    made = judged()
    half = choose(made, budget=0.5)
    assert half.seconds <= 0.5 * made.until[-1]
    assert choose(made, budget=0.8).accuracy >= half.accuracy
    assert choose(made, latency_ms=3000).seconds <= 3
    with pytest.raises(InputError, match=r"budget=0.1: leaving at the first exit already takes .* 25% of the whole"):
        choose(made, budget=0.1)
    with pytest.raises(InputError, match="latency_ms=2"):
        choose(made, latency_ms=2)
    with pytest.raises(InputError, match="give one of"):
        choose(made)


# ---- the loss ----


def test_the_joint_loss_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    early, end = (torch.randn(6, 4, generator=generator, requires_grad=True) for _ in range(2))
    targets = torch.arange(6) % 4
    joint = losses.with_exits(losses.cross_entropy(0.1), weight=0.3, distill=0.25, temperature=2.0)
    total, logits = joint(lambda x, exits: (early, end), torch.zeros(1), targets)
    assert torch.equal(logits, end)
    kl = (end / 2).softmax(1) * ((end / 2).log_softmax(1) - (early / 2).log_softmax(1))
    to_labels = F.cross_entropy(early, targets, label_smoothing=0.1)
    own = F.cross_entropy(end, targets, label_smoothing=0.1)
    wanted = own + 0.3 * (0.75 * to_labels + 0.25 * 4 * kl.sum(1).mean())
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    total.backward()
    assert early.grad is not None
    # The end learns from its labels alone.
    (alone,) = torch.autograd.grad(own, end)
    assert torch.allclose(end.grad, alone)


# ---- training, use and change ----


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits") / "run"
    resvision.train("digits", exits="1,2,4", out=folder, **FIELDS)
    return folder


def test_a_run_with_exits(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    adaptive = result["adaptive"]
    assert sum(row["share"] for row in adaptive["exits"]) == pytest.approx(1)
    assert adaptive["accuracy"] == result["accuracy"] > 0.9
    assert adaptive["accuracy_in_full"] > 0.9
    assert adaptive["milliseconds"] < adaptive["milliseconds_in_full"]
    raced = adaptive["measured"]
    assert 100 <= raced["pictures"] <= 300  # of 359
    assert raced["times_as_fast"] == pytest.approx(raced["milliseconds_in_full"] / raced["milliseconds"])
    assert (trained / "exits.png").stat().st_size > 10_000
    # The end was trained on pictures, not the test part that is reported.
    counts = json.loads((trained / "data.json").read_text())["counts"]
    assert counts["chooser"] > 0
    assert counts["train"] + counts["chooser"] + counts["val"] == 1797


def test_predictions_are_those_that_were_measured(trained: Path) -> None:
    classifier = Classifier.load(trained)
    assert classifier.exits is not None
    split = prepare(load("digits")).splits["val"]
    pictures = np.stack([split.pictures.pixels(i, classifier.preprocess)[..., 0] for i in range(len(split))])
    found = classifier.predict(pictures)
    result = json.loads((trained / "result.json").read_text())
    names = [classifier.classes[label] for label in split.labels]
    assert np.mean([f.label == n for f, n in zip(found, names, strict=True)]) == pytest.approx(result["accuracy"])
    shares = [np.mean([f.exit == e for f in found]) for e in range(1, 5)]
    assert shares == pytest.approx([row["share"] for row in result["adaptive"]["exits"]], abs=0.005)
    assert {"exit"} < set(found[0].to_dict())


def test_a_deadline_asks_for_exits(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classifier = Classifier.load(trained)
    picture = np.zeros((8, 8), np.uint8)
    assert classifier.predict(picture, deadline_ms=1e-6)[0].exit == 1
    # What is believed of another machine or runtime does not matter.
    slow = ExitRule(temperatures=(1.0,) * 4, thresholds=(NEVER,) * 3, seconds=(3600.0,) * 4)
    assert dataclasses.replace(classifier, exits=slow).predict(picture, deadline_ms=60_000)[0].exit == 4
    without = dataclasses.replace(classifier, exits=None)
    assert without.predict(picture)[0].exit is None
    with pytest.raises(ClassifierError, match="--exits auto"):
        without.predict(picture, deadline_ms=5)


def test_thresholds_are_chosen_anew(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "copy"
    Classifier.load(trained).save(folder)
    run("exits", folder, "digits", "--budget", "0.9", "--json")
    told = json.loads(capsys.readouterr().out)
    rule = Classifier.load(folder).exits
    assert rule is not None
    # By the times that it was chosen with; those of another moment differ.
    shares = [row["share"] for row in told["adaptive"]["exits"]]
    taken = np.cumsum(rule.seconds)
    assert np.dot(shares, taken) <= 1.1 * 0.9 * taken[-1]
    assert [row["threshold"] for row in told["adaptive"]["exits"]][:-1] == list(rule.thresholds)
    (folder / "exits.png").unlink()
    run("evaluate", folder, "digits")
    told = capsys.readouterr().out
    assert "leaving early: accuracy" in told
    assert f"Look at {folder / 'exits.png'}" in told
    assert (folder / "exits.png").stat().st_size > 10_000
    Image.new("L", (8, 8)).save(folder / "black.png")
    run("predict", folder, folder / "black.png", "--csv")
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["path", "label", "score", "exit", "error"]
    assert 1 <= int(row[3]) <= 4
    run("predict", folder, folder / "black.png")
    assert "exit" in capsys.readouterr().out
    for limit, message in (
        (("--max-drop", "-1"), "max_drop=-1.0 must be points of accuracy"),
        (("--budget", "1.5"), "budget=1.5 must be a part"),
        (("--latency-ms", "nan"), "latency_ms=nan must be a number above 0"),
        (("--budget", "0.5", "--max-drop", "1"), "give one of"),
    ):
        assert run("exits", folder, "digits", *limit) == 2
        assert message in capsys.readouterr().err
    run("exits", folder, "digits")
    assert "The thresholds are saved in" in capsys.readouterr().out


def test_thresholds_are_chosen_by_the_answers_of_an_export(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    Classifier.load(trained).save(folder)
    with pytest.raises(ClassifierError, match="holds nothing for onnx"):
        resvision.tune_exits(folder, "digits", runtime="onnx")
    exact, _ = resvision.tune_exits(folder, "digits")
    resvision.export(folder, "onnx", precision="int8", data="digits")
    rounded, told = resvision.tune_exits(folder, "digits", runtime="onnx")
    assert exact.exits is not None
    assert rounded.exits is not None
    assert rounded.exits.temperatures != exact.exits.temperatures
    assert rounded.exits.temperatures == pytest.approx(exact.exits.temperatures, rel=0.3)
    assert Classifier.load(folder).exits == rounded.exits
    measured = resvision.evaluate(folder, "digits", split="val", runtime="onnx")
    both = (
        [row["threshold"] for row in measured["adaptive"]["exits"]],
        [r["threshold"] for r in told["adaptive"]["exits"]],
    )
    assert both[0] == both[1]
    with pytest.raises(InputError, match="a classifier in memory has its own"):
        resvision.tune_exits(rounded, "digits", runtime="onnx")


def test_thresholds_are_saved_where_they_were_read(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Classifier.load(trained).save(tmp_path / "run")
    loads, load = [], Classifier.load
    monkeypatch.setattr(Classifier, "load", lambda folder: loads.append(folder) or load(folder))
    tuned, _ = resvision.tune_exits("~/run", "digits", max_drop=50.0)
    assert len(loads) == 1  # large weights take a while to read and to hash
    assert load(tmp_path / "run").exits == tuned.exits
    assert (tmp_path / "run" / "exits.png").is_file()


def test_an_evaluation_outlives_its_plot(trained: Path, tmp_path: Path) -> None:
    Classifier.load(trained).save(tmp_path)
    (tmp_path / "exits.png").mkdir()  # nothing can be written there
    assert resvision.evaluate(tmp_path, "digits")["adaptive"]["accuracy"] > 0.5


def test_an_export_of_the_whole_network_chooses_no_thresholds(trained: Path, tmp_path: Path) -> None:
    dataclasses.replace(Classifier.load(trained), exits=None).save(tmp_path)
    resvision.export(tmp_path, "onnx")
    with pytest.raises(ClassifierError, match=f"without early exits; .* again: resvision export {tmp_path}"):
        resvision.tune_exits(tmp_path, "digits", runtime="onnx")
    assert Classifier.load(tmp_path).exits is None


def test_a_run_with_exits_goes_on_as_it_was_trained(trained: Path, tmp_path: Path) -> None:
    """Its recipe and its weights together, as the README says."""
    recipe = trained / "recipe.yaml"
    made = resvision.train("digits", recipe=recipe, pretrained=str(trained), epochs=1, out=tmp_path / "on")
    assert made.classifier.exits is not None
    assert made.classifier.network.spec == Classifier.load(trained).network.spec


def test_a_frozen_trunk_waits_for_nothing() -> None:
    with pytest.raises(RecipeError, match="freeze_trunk=True leaves the accuracy as it is: leave out patience"):
        Recipe(model="resnet8_cifar", size=8, pretrained="x", freeze_trunk=True, exits="auto", patience=3)


def test_exits_are_added_to_a_network_that_stays_as_it_is(tmp_path: Path) -> None:
    base = resvision.train("digits", out=tmp_path / "base", **FIELDS)
    added = resvision.train(
        "digits",
        pretrained=str(base.folder),
        exits="auto",
        freeze_trunk=True,
        out=tmp_path / "added",
        **{key: value for key, value in FIELDS.items() if key != "model"},
    )
    before, after = base.classifier.network.state_dict(), added.classifier.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert len(after) > len(before)
    adaptive = added.result["adaptive"]
    # The trunk knows the training pictures, so that half of the others chooses.
    assert added.result["split"] == "half of val"
    counts = json.loads((added.folder / "data.json").read_text())["counts"]
    assert counts["chooser"] + counts["half of val"] == base.result["pictures"]["val"]
    assert counts["train"] == base.result["pictures"]["train"]
    whole = resvision.evaluate(added.folder, "digits", split="val")
    assert whole["adaptive"]["accuracy_in_full"] == base.result["accuracy"]
    assert adaptive["exits"][-2]["accuracy_of_all"] > 0.8  # they did learn
    assert added.result["epoch_kept"] == added.result["epochs"]  # the end of a frozen trunk tells no epochs apart


def test_without_exits_there_is_nothing_to_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=2))
    Classifier(network=made, preprocess=Preprocess(size=8), classes=("a", "b")).save(tmp_path)
    assert run("exits", tmp_path, "digits") == 2
    assert "--exits auto --freeze-trunk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"thresholds": (0.5,)}, "do not belong to the same exits"),
        ({"temperatures": (1.0, 0.0, 1.0)}, "numbers above 0"),
        ({"thresholds": (0.5, -1.0)}, "at least 0"),
    ],
)
def test_a_rule_must_make_sense(change: dict[str, Any], message: str) -> None:
    fields = {"temperatures": (1.0,) * 3, "thresholds": (0.5, 0.5), "seconds": (1.0,) * 3}
    with pytest.raises(ClassifierError, match=message):
        ExitRule(**fields | change)


def test_a_rule_goes_with_its_network() -> None:
    rule = ExitRule(temperatures=(1.0, 1.0), thresholds=(0.5,), seconds=(1.0, 1.0))
    with pytest.raises(ClassifierError, match="thresholds for 1 exits, and the network has 3"):
        Classifier(network=network(), preprocess=PREPROCESS, classes=tuple("abcdefghij"), exits=rule)
