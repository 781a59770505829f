"""The overfit doctor: each detector against figures that are known, and whole examinations of a few seconds."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resvision
from resvision import api, inputs, recipes, zoo
from resvision.cli import main
from resvision.data import audit, sources
from resvision.data.pictures import ArrayPictures, DataSet, Split
from resvision.errors import DataError, DivergedError, InputError, Interrupted, RecipeError, RunError
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.search import (
    clock,
    compare,
    copies,
    curve,
    findings,
    judge,
    noise,
    overfit,
    plan,
    pool,
    remedies,
    trials,
    untouched,
)
from resvision.search.bench import Bench
from resvision.search.trials import Arm, Trials
from resvision.training import ledger as ledgers
from resvision.training.ledger import Ledger

# ---- wrong labels ----


def out_of_fold(count: int, wrong: float, error: float, seed: int = 0) -> tuple[Any, Any, Any]:
    """Probabilities (N, 5) of a network that is wrong in the part `error` of cases, the unsurer the more often."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, count)
    hardness = random.random(count)
    mistaken = random.random(count) < 4 * error * hardness**3
    says = np.where(mistaken, (truth + random.integers(1, 5, count)) % 5, truth)
    sure = 0.97 - 0.6 * hardness
    probabilities = np.full((count, 5), 0.0) + ((1 - sure) / 4)[:, None]
    probabilities[np.arange(count), says] = sure
    labels = truth.copy()
    flipped = random.random(count) < wrong
    labels[flipped] = (labels[flipped] + random.integers(1, 5, flipped.sum())) % 5
    return probabilities, labels, flipped


@pytest.mark.parametrize("wrong", [0.1, 0.2, 0.3])
def test_the_rate_of_wrong_labels_is_estimated(wrong: float) -> None:
    probabilities, labels, flipped = out_of_fold(4000, wrong, 0.1)
    found = noise.estimate(probabilities, labels)
    assert found.rate == pytest.approx(wrong, abs=0.05)
    assert found.interval[0] < flipped.mean() < found.interval[1]
    assert found.joint.sum() == pytest.approx(1)
    assert found.joint.sum(axis=1) == pytest.approx(np.bincount(labels) / 4000)
    assert flipped[found.suspects].mean() > 0.75
    assert findings.labels(found, 4000).found == "yes"
    assert (np.diff(found.margins) <= 0).all()


def test_mistakes_of_a_network_are_not_taken_for_wrong_labels() -> None:
    probabilities, labels, _ = out_of_fold(4000, 0.0, 0.25)
    found = noise.estimate(probabilities, labels)
    assert found.joint_rate > 0.05  # what confident learning alone would claim
    assert found.rate < 0.01
    assert findings.labels(found, 4000).found == "no"


def test_the_interval_is_of_the_part_that_is_said() -> None:
    """Of the surest some differ; how many of all labels are claimed wrong is another number."""
    probabilities, labels, _ = out_of_fold(4000, 0.2, 0.02)
    found = replace(noise.estimate(probabilities, labels), joint_rate=0.01, rate=0.01)
    low, high = found.interval
    assert low < found.differ < high
    assert f"{found.differ:.1%} have another label (95% interval {low:.1%} to" in findings.labels(found, 4000).says


def test_a_weak_network_judges_no_labels() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5), 1000)
    verdict = findings.labels(noise.estimate(probabilities, random.integers(0, 5, 1000)), 1000)
    assert verdict.found == "unclear"
    assert "too weak" in verdict.says


def test_the_confident_joint_by_hand() -> None:
    """Thresholds are 0.7 and 0.525; the third picture is labelled 0 and confidently 1, the last is nothing."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.71, 0.29], [0.69, 0.31]])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    found = noise.estimate(probabilities, labels)
    # Rows as counted: label 0: two for 0, one for 1; label 1: one for 0 (0.71), two for 1; 0.69 reaches no threshold.
    assert found.joint == pytest.approx(np.array([[2 / 3 * 3, 1 / 3 * 3], [1 / 3 * 4, 2 / 3 * 4]]) / 7)
    assert found.joint_rate == pytest.approx(1 / 3)


# ---- copies ----


def photographs(count: int, side: int = 40) -> Any:
    """Smooth random colour pictures, no two alike."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((side, side), Image.Resampling.BICUBIC)) for s in small])


def encoded(picture: Any, quality: int, side: int | None = None) -> Any:
    image = Image.fromarray(picture)
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def split_of(folder: Path, contents: list[bytes]) -> Split:
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
    for index, content in enumerate(contents):
        (folder / "ab"[index % 2] / f"{index:03d}.jpg").write_bytes(content)
    return sources.load(folder).splits["all"]


@pytest.mark.parametrize(("quality", "side"), [(90, None), (60, None), (90, 36), (85, 44), (75, 46)])
def test_re_encoded_and_resized_copies_are_found(quality: int, side: int | None, tmp_path: Path) -> None:
    pictures = photographs(60)
    contents = [encoded(p, 95) for p in pictures] + [encoded(p, quality, side) for p in pictures[:20]]
    split = split_of(tmp_path / "set", contents)
    found = audit.find(*audit.look(split))
    number = [int(Path(split.pictures.name(i)).stem) for i in range(len(split))]
    pairs = {tuple(sorted((number[a], number[b]))) for a, b in found.pairs.tolist()}
    assert pairs == {(index, 60 + index) for index in range(20)}
    assert not found.exact.any()


def test_exact_copies_are_told_from_near_ones() -> None:
    pictures = photographs(30, 32)
    array = np.concatenate([pictures, pictures[:3], pictures[3:5] // 2 * 2])
    split = Split(ArrayPictures(array, "set"), np.zeros(35, dtype=np.int64))
    found = audit.find(*audit.look(split))
    assert sorted(map(tuple, found.pairs[found.exact].tolist())) == [(0, 30), (1, 31), (2, 32)]
    assert sorted(map(tuple, found.pairs[~found.exact].tolist())) == [(3, 33), (4, 34)]
    assert found.group[[0, 30, 3, 33]].tolist() == [0, 0, 3, 3]
    test = np.arange(35) >= 30
    assert found.across(test, ~test) == {30: 0, 31: 1, 32: 2, 33: 3, 34: 4}


def test_different_digits_are_no_copies() -> None:
    digits = sources.load("digits").splits["all"]
    assert len(audit.find(*audit.look(digits)).pairs) == 0


def test_pictures_of_one_colour_are_compared_by_their_content() -> None:
    array = np.stack([np.full((32, 32), value, dtype=np.uint8) for value in (10, 11, 12, 10)])
    found = audit.find(*audit.look(Split(ArrayPictures(array, "set"), np.zeros(4, dtype=np.int64))))
    assert found.pairs.tolist() == [[0, 3]]


def test_copies_stay_in_one_fold_and_classes_are_spread() -> None:
    labels = np.arange(90) % 3
    groups = np.arange(90)
    groups[[3, 6, 9]] = 3
    fold = pool.folds(labels, groups)
    assert len(set(fold[[3, 6, 9]].tolist())) == 1
    counts = np.array([[((fold == f) & (labels == c)).sum() for c in range(3)] for f in range(3)])
    assert counts.min() >= 8


# ---- the learning curve ----


def test_one_training_without_errors_does_not_decide_the_curve() -> None:
    """Of 20 pictures that judge, none wrong by luck: 24 trainings of 60 pictures would not do as well."""
    pictures, errors = [12, 12, 24, 24, 48, 48, 48], [0.30, 0.25, 0.20, 0.15, 0.10, 0.0, 0.10]
    smooth = [curve.smoothed(error, 20) for error in errors]
    assert smooth[5] == pytest.approx((0.5 / 21, (0.5 / 21 * 20.5 / 21 / 21) ** 0.5))
    law = curve.fit(pictures, [e for e, _ in smooth], [d for _, d in smooth])
    assert 0.3 < law.exponent < 1.2
    gain, low, high = law.gain(72)
    assert 0.02 < gain < 0.05
    assert low < 0.02 < high


def test_a_power_law_is_found_again() -> None:
    pictures = [250.0, 250.0, 500.0, 500.0, 1000.0]
    law = curve.fit(pictures, [0.05 + 3 * n**-0.4 for n in pictures], [0.01] * 5, floor=0.05)
    assert law.exponent == pytest.approx(0.4)
    assert law.error(4000) == pytest.approx(0.05 + 3 * 4000**-0.4)
    gain, low, high = law.gain(1000)
    assert gain == pytest.approx(3 * (1000**-0.4 - 2000**-0.4))
    assert low < gain < high
    assert law.interval(8000)[0] < law.error(8000) < law.interval(8000)[1]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    pictures = np.repeat([250.0, 500.0, 1000.0], 2)
    truth = 2 * pictures**-0.35
    covered = 0
    for _ in range(200):
        law = curve.fit(pictures.tolist(), (truth + random.normal(0, 0.01, 6)).tolist(), [0.01] * 6)
        _, low, high = law.gain(1000)
        covered += low <= 2 * (1000**-0.35 - 2000**-0.35) <= high
    assert 0.88 <= covered / 200 <= 1.0


def test_few_pictures_are_said_only_where_more_would_help() -> None:
    rising = curve.fit([50, 100, 200], [0.30, 0.31, 0.33], [0.01] * 3)
    assert rising.exponent == 0
    assert rising.error(100) == pytest.approx(0.313, abs=0.005)  # it goes through what was measured
    low, high = rising.interval(100)
    assert 0.29 < low < 0.313 < high < 0.34
    steep = curve.fit([50, 100, 200], [0.5, 0.35, 0.25], [0.01] * 3)
    flat = curve.fit([5000, 10000, 20000], [0.06, 0.058, 0.056], [0.001] * 3)
    assert findings.few(steep, 200, 200).found == "yes"
    assert findings.few(flat, 20000, 20000).found == "no"
    assert "extrapolated from 200" in findings.few(steep, 1000, 200).says
    assert findings.few(None, 10, 10).found == "unclear"


# ---- comparisons ----


def test_students_distribution_by_its_tables() -> None:
    assert compare.student(0, 3) == 0.5
    assert compare.student(6.314, 1) == pytest.approx(0.95, abs=1e-4)
    assert compare.student(2.920, 2) == pytest.approx(0.95, abs=1e-4)
    assert compare.student(-2.015, 5) == pytest.approx(0.05, abs=1e-4)
    assert compare.student(1.96, 1000) == pytest.approx(0.975, abs=1e-3)


def test_a_difference_counts_pictures_and_trainings() -> None:
    better = np.array([1.0] * 30 + [0.0] * 60 + [-1.0] * 10)
    by_pictures = compare.compare([better, better], 0.0, 2)
    assert by_pictures.mean == pytest.approx(0.2)
    assert by_pictures.error == pytest.approx(better.std() / np.sqrt(200))
    assert by_pictures.sure > 0.999
    by_trainings = compare.compare([better, better], 0.04, 2)
    assert by_trainings.error == pytest.approx(np.sqrt(better.var() / 200 + 0.02))
    assert 0.75 < by_trainings.sure < 0.95
    same = compare.compare([better, better], 0.0, 2, judged=[np.arange(len(better))] * 2)
    assert same.error == pytest.approx(better.std() / 10)  # the same pictures twice are not twice as many


def test_the_best_of_many_is_believed_less() -> None:
    def arm(mean: float) -> compare.Difference:
        return compare.Difference(mean=mean, error=0.01, sure=compare.student(100 * mean, 100), seeds=(mean,))

    random = np.random.default_rng(0)
    none = compare.shrunk([arm(mean) for mean in random.normal(0, 0.01, 12)])
    assert max(d.sure for d in none) < 0.75  # with nothing but chance the best of twelve looks sure
    real = compare.shrunk([arm(mean) for mean in (0.05, 0.0, -0.03, -0.01)])
    assert real[0].sure > 0.99
    assert 0.04 < real[0].mean < 0.05


def test_arms_that_are_surer_count_more() -> None:
    """Three arms with small errors are clearly better; what seven others leave open does not hide it."""

    def arm(mean: float, error: float) -> compare.Difference:
        return compare.Difference(mean=mean, error=error, sure=compare.student(mean / error, 100), seeds=(mean,))

    open_ones = [arm(mean, 0.026) for mean in (0.007, 0.003, 0.0, 0.0, 0.0, -0.01, 0.002)]
    believed = compare.shrunk([arm(mean, 0.008) for mean in (0.027, 0.023, 0.02)] + open_ones)
    assert believed[0].sure > 0.95
    assert believed[0].mean > 0.015
    assert max(d.sure for d in believed[3:]) < 0.75


def test_the_variance_of_trainings_is_what_pictures_do_not_explain() -> None:
    random = np.random.default_rng(0)

    def arm(sd: float) -> list[Any]:
        return [random.normal(random.normal(0, sd), 0.5, 500) for _ in range(3)]

    none, freedom = compare.variance_of_trainings([arm(0.0) for _ in range(500)])
    some, _ = compare.variance_of_trainings([arm(0.05) for _ in range(500)])
    assert none < 1e-4
    assert some == pytest.approx(0.0025, rel=0.2)
    assert freedom == 1000


# ---- the other causes ----


def course(losses: list[float], train: list[float]) -> list[dict[str, float]]:
    return [
        {"step": 10 * (i + 1), "loss": loss, "train_loss": t, "accuracy": 1 - loss, "train_accuracy": 1 - t}
        for i, (loss, t) in enumerate(zip(losses, train, strict=True))
    ]


def test_the_turning_point() -> None:
    turned = findings.turning([course([0.9, 0.5, 0.6, 0.7], [0.9, 0.5, 0.2, 0.1])] * 2)
    assert turned["best"] == 0.5
    assert turned["rise"] == pytest.approx(0.2)
    assert turned["lost"] == pytest.approx(0.2)
    assert findings.length(turned, None, 20, 60).found == "yes"
    level = findings.turning([course([0.9, 0.5, 0.45, 0.44], [0.9, 0.5, 0.2, 0.1])] * 2)
    assert findings.length(level, None, 20, 20).found == "no"
    cut = findings.length(level, None, 20, 60)
    assert cut.found == "unclear"
    assert "in trials of 20.0 of 60.0 epochs" in cut.says
    one_of_two = [
        course([0.9, 0.5, 0.6, 0.7], [0.9, 0.5, 0.2, 0.1]),
        course([0.9, 0.5, 0.5, 0.4], [0.9, 0.5, 0.2, 0.1]),
    ]
    assert findings.length(findings.turning(one_of_two), None, 20, 20).found == "no"


def test_imbalance_is_a_cause_only_where_rare_classes_are_missed() -> None:
    truth = np.array([0] * 300 + [1] * 60)
    missed = np.concatenate([truth[:300], np.where(np.arange(60) < 30, 0, 1)])
    names = ("many", "few")
    assert findings.imbalance([1000, 100], truth, missed, names).found == "yes"
    assert "50.0%" in findings.imbalance([1000, 100], truth, missed, names).says
    assert findings.imbalance([1000, 100], truth, truth, names).found == "no"
    assert findings.imbalance([1000, 900], truth, missed, names).found == "no"


def difference(mean: float, sure: float) -> compare.Difference:
    return compare.Difference(mean=mean, error=0.01, sure=sure, seeds=(mean, mean))


def test_weak_augmentation_and_depth() -> None:
    assert findings.augmentation("x", 0.2, 0.1, difference(0.03, 0.99)).found == "yes"
    assert findings.augmentation("x", 0.2, 0.19, difference(0.03, 0.99)).found == "unclear"  # the gap stays
    assert findings.augmentation("x", 0.2, 0.1, difference(-0.03, 0.01)).found == "no"
    assert findings.depth("a", "b", True, difference(0.03, 0.99)).found == "yes"
    assert findings.depth("a", "b", True, difference(-0.002, 0.4)).found == "unclear"
    assert findings.depth("a", "b", True, difference(-0.03, 0.01)).found == "no"
    assert findings.depth("a", None, True, None).found == "unclear"


def test_what_is_found_and_has_most_at_stake_comes_first() -> None:
    made = [
        findings.Finding(cause=cause, found=found, points=points, says="")  # type: ignore[arg-type]
        for cause, found, points in (("few", "yes", 3.0), ("depth", "no", 9.0), ("labels", "yes", 20.0))
    ]
    assert [finding.cause for finding in findings.ranked(made)] == ["labels", "few", "depth"]


# ---- remedies and the plan ----

BASE = Recipe(model="resnet20_cifar", size=8, channels=1, precision="fp32", workers=0, steps=4, batch_size=32)
PLAIN = replace(BASE, model="plain20_cifar")


def test_remedies_leave_out_what_the_baseline_has() -> None:
    names = remedies.all_of(BASE, 10, 10)
    assert "mixup" in names
    assert "shorter" in names
    assert "without suspects" not in names
    assert "mixup" not in remedies.all_of(replace(BASE, mixup=0.2), 10, 10)
    assert "shorter" not in remedies.all_of(BASE, 1, 1)
    shorter = remedies.all_of(BASE, 10, 30)["shorter"]  # trials of 10 epochs stand for a run of 30
    assert (shorter.arm.length, shorter.options) == (0.5, {"epochs": 15})
    assert names["shorter"].options == {"epochs": 5}
    assert remedies.all_of(BASE, 10, 10, suspects=[3, 4])["without suspects"].arm.without == (3, 4)
    assert "drop_path" not in remedies.all_of(PLAIN, 10, 10)["drop path and decay"].options


def test_few_pictures_are_trained_on_as_the_recipe_for_them_does() -> None:
    options = remedies.all_of(replace(BASE, batch_size=64), 10, 10)["as recipe small"].options
    assert (options["optimizer"], options["ema"], options["label_smoothing"]) == ("muon", 0.99, 0.1)
    assert options["lr"] == pytest.approx(0.05 * 2**0.5, rel=1e-2)  # the recipe's batches have 32 pictures
    # The command that is recommended trains as the trial did, also in what another optimiser would bring along.
    facts = recipes.DataFacts(
        pictures=300, side=8, channels=1, flip=False, smallest_class=30, largest_class=30, usual_class=30
    )
    told = recipes.choose("plain", facts, {"size": 8, "epochs": 5, "batch_size": 64, **options}).recipe
    assert {name: getattr(told, name) for name in options} == options
    assert "as recipe small" not in remedies.all_of(replace(BASE, optimizer="muon"), 10, 10)


def test_found_causes_come_first_and_in_turn() -> None:
    names = [r.name for r in remedies.in_order(["labels", "length"], remedies.all_of(BASE, 10, 10, suspects=[1]))]
    assert names[:3] == ["robust loss", "shorter", "without suspects"]
    assert "balanced sampling" not in names
    assert "balanced sampling" in [r.name for r in remedies.in_order(["imbalance"], remedies.all_of(BASE, 10, 10))]
    weighted = remedies.all_of(replace(BASE, balance="weights"), 10, 10)
    names = [r.name for r in remedies.in_order(["imbalance"], weighted)]
    assert names[:2] == ["balanced sampling", "no class weights"]


def test_two_remedies_go_together_unless_they_contradict_each_other() -> None:
    found = remedies.all_of(BASE, 10, 10)
    both = remedies.together(BASE, found["cutmix"], found["shorter"])
    assert both is not None
    assert both.options == {"cutmix": 1.0, "epochs": 5}
    assert both.arm.length == 0.5
    assert remedies.together(BASE, found["robust loss"], found["mixup"]) is None
    assert remedies.together(BASE, found["class weights"], found["balanced sampling"]) is None


def test_fields_become_options() -> None:
    flags = remedies.flags({"trivial_augment": True, "flip": False, "label_smoothing": 0.1, "spec": ("a=b", "c=d")})
    assert flags == ["--trivial-augment", "--no-flip", "--label-smoothing", "0.1", "--spec", "a=b", "--spec", "c=d"]


@pytest.mark.parametrize(
    ("deep", "shallow"),
    [
        ("resnet20_cifar", ("resnet8_cifar", ())),
        ("resnet110_cifar", ("resnet44_cifar", ())),
        ("resnet50", ("resnet18", ())),
        ("resnet8_cifar", None),
        ("wrn28_10", ("wrn16_10", ())),
        ("resnet18d", ("resnet18d", ("depths=[1,1,1,1]",))),
    ],
)
def test_the_shallower_network(deep: str, shallow: tuple[str, tuple[str, ...]] | None) -> None:
    assert plan.shallower(deep) == shallow
    if shallow is not None:
        assert sum(zoo.variant(*shallow).depths) < sum(zoo.variant(deep).depths)


def test_halving_keeps_what_else_the_spec_says() -> None:
    assert plan.shallower("resnet18d", ("activation=silu", "depths=[2,3,4,2]")) == (
        "resnet18d",
        ("activation=silu", "depths=[1,1,2,1]"),
    )


def test_a_part_keeps_the_proportions_of_the_classes() -> None:
    labels = np.array([0] * 800 + [1] * 160 + [2] * 7)
    chosen = pool.evenly(labels, 120)
    assert np.bincount(labels[chosen]).tolist() == [99, 20, 6]
    assert len(pool.evenly(labels, 5000)) == 967


def test_a_plan_fits_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    split = sources.load("digits").splits["all"]
    monkeypatch.setattr(plan, "_pace", lambda choice, *_: ("fp32", 1e-4 * plan._work(choice, 10, BASE) / 6e5, 1e-6))
    recipe = replace(BASE, steps=None, epochs=30)
    rich, poor = (plan.make(split, recipe, 10, 300, seconds) for seconds in (3600.0, 60.0))
    assert (rich.pictures, rich.epochs, rich.seeds) == (len(split), 30, 3)
    assert poor.pictures < len(split)
    assert poor.epochs < 30
    for made, seconds in ((rich, 3600.0), (poor, 60.0)):
        assert made.seconds * plan._trainings(made.seeds, made.remedies, made.tests) <= seconds
    assert "resnet8_cifar stands in for resnet20_cifar" in poor.describe(recipe, len(split), 30)
    faster = plan.make(split, recipe, 10, 300, 60.0, replace(poor, pace=poor.pace / 100))
    assert (faster.model, faster.pictures) == ("resnet20_cifar", len(split))
    assert faster.pace > poor.pace / 100  # of the deeper network


def test_a_large_picture_is_examined_by_a_small_one() -> None:
    recipe = Recipe(model="resnet50", size=224, channels=3, crop=0.875, crop_scale=0.35, epochs=5, patience=2)
    choices = plan._stand_ins(recipe)
    assert choices[0] == ("resnet50", 224, ())
    assert ("resnet20_cifar", 64, ()) in choices
    assert choices[-1] == ("resnet8_cifar", 32, ())
    trial = plan.proxy(recipe, "resnet20_cifar", 64, ())
    assert (trial.size, trial.crop_scale, trial.patience, trial.epochs) == (64, 0.35, None, None)
    assert pool.kept_side(trial) == 96


# ---- trials ----


def digits(count: int, wrong: float = 0.0) -> tuple[Any, Any]:
    whole = sources.load("digits").splits["all"]
    assert isinstance(whole.pictures, ArrayPictures)
    labels = whole.labels.copy()
    random = np.random.default_rng(0)
    flipped = np.flatnonzero(random.random(count) < wrong)
    labels[flipped] = (labels[flipped] + random.integers(1, 10, len(flipped))) % 10
    return whole.pictures.array, labels


def bench(count: int = 120) -> Trials:
    array, labels = digits(count)
    some = Split(ArrayPictures(array[:count], "digits"), labels[:count])
    recipe = replace(BASE, model="resnet8_cifar", channels_last=True, compile=False, memory="full")
    return Trials(some, np.arange(count), recipe, pool.preprocess_of(some, recipe), 10)


def test_a_trial_repeats_and_judges_on_its_own_fold() -> None:
    made = bench()
    once, again = made.judge(trials.BASELINE, 1), made.judge(trials.BASELINE, 1)
    assert once["right"] == again["right"]
    assert once["loss"] == again["loss"]
    assert len(once["right"]) == once["judged"] == len(made.judging(1))
    assert once["trained"] == 120 - len(made.judging(1))
    assert trials.bits(once["right"]).mean() == pytest.approx(once["accuracy"])


def test_time_that_is_left_makes_the_best_arms_surer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, arm = bench(), Arm(name="smoothed", fields={"label_smoothing": 0.1})
    ledger = Ledger(tmp_path / "finished.jsonl", {})
    said: list[str] = []

    def judged(seconds: float) -> judge.Judge:
        rows = [ledger.once(f"baseline {seed}", lambda: made.judge(trials.BASELINE, seed)) for seed in range(3)]  # noqa: B023
        spare, sizes = clock.Clock(seconds, ledger), judge.Sizes(training=1.0, test=1.0)
        found = judge.Judge(made, rows, ledger, said.append, spare, sizes, "")
        assert found.tries(arm, 3)
        return found

    monkeypatch.setattr(judge, "MOST_TURNS", 3)
    first = judged(1000.0)
    once = first.differences()["smoothed"]
    first.repeat([arm])
    assert len(first.rows["smoothed"]) == len(first.baseline) == 9
    assert [line[:39] for line in said[-2:]] == [
        "with pictures divided anew, turn 2: poi",
        "with pictures divided anew, turn 3: poi",
    ]
    divided = [[made.judging(seed) for seed in range(3 * turn, 3 * turn + 3)] for turn in range(3)]
    for parts in divided:
        assert sorted(np.concatenate(parts)) == list(range(120))
    assert not np.array_equal(divided[0][0], divided[1][0])
    assert not np.array_equal(divided[1][0], divided[2][0])
    surer = first.differences()["smoothed"]
    assert len(surer.seeds) == 9
    assert surer.seeds[:3] == once.seeds
    differences = np.zeros(120)
    for seed in range(9):
        differences[made.judging(seed)] += first.by_picture("smoothed")[seed] / 3
    assert surer.mean == pytest.approx(differences.mean())
    assert surer.error**2 >= differences.var() / 120 - 1e-12
    # What the ledger holds is not trained again; without time nothing is.
    monkeypatch.setattr(made, "judge", None)
    again = judged(1000.0)
    again.repeat([arm])
    assert again.differences()["smoothed"] == surer
    for key in [key for key in ledger.done if key.split()[-1] in "345678"]:
        del ledger.done[key]
    late = judged(1.0)
    late.repeat([arm])
    assert len(late.rows["smoothed"]) == 3


def test_each_turn_has_fewer_arms_and_the_best_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench()

    def scripted(arm: Arm, seed: int) -> dict[str, Any]:
        """An arm named n is right on the first n + 20 of the 40 pictures that judge."""
        right = 20 + (0 if arm.name == "baseline" else int(arm.name))
        judged = len(made.judging(seed))
        bits = "1" * right + "0" * (judged - right)
        return {"right": bits, "train_accuracy": 1.0, "accuracy": right / judged, "seconds": 1.0}

    monkeypatch.setattr(made, "judge", scripted)
    monkeypatch.setattr(judge, "MOST_TURNS", 6)
    for module in (clock, ledgers):
        monkeypatch.setattr(module, "now", lambda: 0.0)  # a scripted arm takes no time, however busy the machine
    ledger = Ledger(tmp_path / "finished.jsonl", {})

    def tried(seconds: float, arms: list[Arm]) -> dict[str, int]:
        spare, sizes = clock.Clock(seconds, ledger), judge.Sizes(training=1.0, test=1.0)
        baseline = [ledger.once(f"baseline {seed}", lambda: made.judge(trials.BASELINE, seed)) for seed in range(3)]  # noqa: B023
        found = judge.Judge(made, baseline, ledger, lambda text: None, spare, sizes, "")
        assert all(found.tries(arm, 3) for arm in arms)
        found.repeat(arms)
        return {arm.name: len(found.rows[arm.name]) // 3 for arm in arms}

    arms = [Arm(name=str(number)) for number in (5, 1, 8, 2, 7, 3, 6, 4)]
    assert tried(10_000.0, arms) == {"8": 6, "7": 6, "6": 4, "5": 3, "4": 2, "3": 2, "2": 1, "1": 1}
    # Where there is no time for six arms, there is for fewer; what was done before a stop is done again.
    assert tried(0.0, arms) == {"8": 6, "7": 6, "6": 4, "5": 3, "4": 2, "3": 2, "2": 1, "1": 1}
    for key in [key for key in ledger.done if int(key.split()[-1]) >= 3]:
        del ledger.done[key]
    left = judge.MOST_TESTS * 1.0 + 3 * (1 + 2)  # for two arms and the baseline, at the end of each turn
    assert tried(left, arms) == {name: 6 if name in "87" else 1 for name in "51827364"}


def test_a_watched_trial_keeps_probabilities_of_pictures_that_it_has_not_seen() -> None:
    made = bench()
    row = made.judge(trials.BASELINE, 0, watched=True, further=made.pool.take(np.arange(7)))
    held = trials.unpacked(row["log_p"], row["judged"], 10)
    assert held.sum(axis=1) == pytest.approx(1, abs=0.01)
    assert trials.unpacked(row["further_log_p"], -1, 10).shape == (7, 10)
    assert [point["step"] for point in row["points"]] == [1, 2, 3, 4]  # of eight looks at four steps four are left


def test_sure_predictions_are_told_apart_in_the_ledger() -> None:
    probabilities = np.array([0.5, 0.999, 0.99999, 0.999999, 1.0, 0.0])
    with np.errstate(divide="ignore"):
        kept = trials.unpacked(trials._packed(np.log(probabilities)), -1)
    assert kept == pytest.approx(probabilities, abs=2e-4)
    assert 1 - kept[2:4] == pytest.approx(1 - probabilities[2:4], rel=0.05)


def test_the_order_of_a_folder_does_not_decide_which_labels_are_accused() -> None:
    labels = np.repeat(np.arange(10), 200)
    truth = labels.copy()
    truth[1600:1720] = (truth[1600:1720] + 1) % 10  # wrong labels in one of the last classes, 6% of all pictures
    for order in (np.arange(2000), np.arange(2000)[::-1]):
        found = noise.estimate(np.eye(10)[truth][order], labels[order])  # all equally sure
        assert found.interval[0] < 0.06 < found.interval[1]


def test_gaps_are_compared_on_the_same_pictures() -> None:
    """An arm of two seeds closes no gap where the baseline has the same in these, and a larger one in the third."""
    made = bench()
    baseline = [made.judge(trials.BASELINE, seed, watched=True) | {"train_accuracy": 1.0} for seed in range(3)]
    for row, accuracy in zip(baseline, (0.7, 0.7, 0.4), strict=True):
        row["accuracy"] = accuracy
    ledger = Ledger(Path("unused"), {}, "an examination")
    ledger.once = lambda key, work: baseline[int(key.split()[-1])]  # type: ignore[method-assign]
    found = judge.Judge(made, baseline, ledger, lambda text: None, clock.Clock(1e6, ledger), judge.Sizes(1.0, 1.0), "")
    stronger = remedies.stronger_augmentation(made.recipe)
    assert stronger is not None
    assert found.tries(stronger.arm, 2)
    assert found.row(stronger.name)["baseline_accuracy"] == pytest.approx(0.7)
    gap = findings.gap(baseline)["gap"]
    turning = findings.turning([row["points"] for row in baseline])
    [told, *_] = overfit._by_trials(found, made.recipe, a_plan(), 12.0, stronger, gap, turning)
    assert "the gap goes from 30.0 to 30.0 points" in told.says


def test_what_an_arm_changes() -> None:
    made = bench()
    assert len(made.trained_on(Arm(name="half", part=0.5), np.arange(120), 0)) == pytest.approx(60, abs=5)
    left = made.trained_on(Arm(name="without", without=(0, 5)), np.arange(120), 0)
    assert len(left) == 118
    assert made.judge(Arm(name="short", length=0.5), 0)["points"][-1]["step"] == 2
    averaged = made.judge(Arm(name="averaged", fields={"ema": 0.9}), 0)
    assert averaged["loss"] != made.judge(trials.BASELINE, 0)["loss"]


# ---- whole examinations ----


class Notes(Reporter):
    def __init__(self, stop_at: str | None = None) -> None:
        self.lines: list[str] = []
        self.stop_at = stop_at

    def note(self, text: str) -> None:
        self.lines.append(text)
        if self.stop_at is not None and text.startswith(self.stop_at):
            raise KeyboardInterrupt


def a_plan(**changes: Any) -> plan.Plan:
    """Of a small network that trains for a moment."""
    fields = {
        "model": "resnet8_cifar",
        "size": 8,
        "spec": (),
        "precision": "fp32",
        "pictures": 600,
        "epochs": 12.0,
        "steps": 75,
        "seeds": 2,
        "remedies": 1,
        "tests": 1,
        "tested": 400,
        "examined": 1000,
        "seconds": 1.0,
        "pace": 1e-4,
        "reading": 1e-3,
    }
    return plan.Plan(**(fields | changes))


@pytest.fixture
def small_plan(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Sizes that do not depend on how fast this machine happens to be; "steps" may be changed."""
    sizes = {"steps": 75}

    def make(*_: Any) -> plan.Plan:
        return a_plan(**sizes)

    monkeypatch.setattr(plan, "make", make)
    monkeypatch.setattr(judge, "MOST_TURNS", 2)
    monkeypatch.setattr(overfit, "OFF", float("inf"))
    return sizes


PATIENT: dict[str, Any] = {"recipe": "plain", "model": "resnet8_cifar", "epochs": 12}


@pytest.mark.parametrize(
    ("seconds", "pace", "fields", "anew"),
    [
        (10.0, 3e-4, {}, 3.0),  # too long, and not for a moment only
        (10.0, 1e-4, {}, None),
        (0.1, None, {}, 0.1),  # too short, and there are more pictures or epochs
        (0.1, None, {"pictures": 300}, None),
        (1.2, None, {}, None),
    ],
)
def test_a_plan_that_is_far_off_is_made_anew(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    pace: float | None,
    fields: dict[str, Any],
    anew: float | None,
) -> None:
    made: list[plan.Plan | None] = []

    def make(*given: Any) -> plan.Plan:
        made.append(given[5])
        return a_plan(**({"pictures": 120} | fields)) if given[5] is None else a_plan(pictures=90)

    array, labels = digits(0)
    data = sources.from_arrays((array[:300], labels[:300]), (array[300:400], labels[300:400]), list("0123456789"))
    recipe = Recipe(model="resnet8_cifar", size=8, channels=1, epochs=12)
    monkeypatch.setattr(plan, "make", make)
    monkeypatch.setattr(plan, "pace", lambda *_: pace)
    monkeypatch.setattr(Bench, "baseline", lambda self, number: {"seconds": seconds * overfit.WATCHED})

    def planned() -> tuple[Bench, str]:
        ledger = Ledger(tmp_path / "finished.jsonl", {})
        spare = clock.Clock(60, ledger)
        seen = overfit._look_through(data, ledger, spare, lambda text: None)
        return overfit._plan(seen, recipe, 12.0, ledger, spare, lambda text: None)

    for _ in range(2):  # the second time by what the ledger holds
        found, prefix = planned()
        if anew is None:
            assert (prefix, found.planned) == ("", a_plan(**({"pictures": 120} | fields)))
            assert made == [None]
            continue
        assert (prefix, found.planned) == ("2: ", a_plan(pictures=90))
        assert len(found.trials.pool) == pytest.approx(90, abs=5)  # as many of each class
        [_, measured] = made
        assert measured is not None
        assert measured.pace == pytest.approx(1e-4 * anew)


def test_an_examination_names_planted_noise_and_goes_on_after_a_stop(
    small_plan: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    # One turn and three remedies show what is asked here; others show that turns are repeated.
    monkeypatch.setattr("resvision.search.judge.MOST_TURNS", 1)
    monkeypatch.setattr(untouched, "MOST_TESTS", 1)
    in_order = remedies.in_order
    monkeypatch.setattr(remedies, "in_order", lambda *given: in_order(*given)[:3])
    array, labels = digits(900, wrong=0.25)
    data = {"data": (array[:900], labels[:900]), "validation": (array[900:1300], labels[900:1300]), "minutes": 60.0}
    with pytest.raises(Interrupted, match="the same command with --out") as stopped:
        resvision.overfit(**data, **PATIENT, out=tmp_path / "a", reporter=Notes("half, seed 1"))
    assert stopped.value.exit_status == 130
    trained = []
    judge = Trials.judge
    monkeypatch.setattr(
        Trials,
        "judge",
        lambda self, arm, seed, **k: trained.extend([arm.name] * (seed < pool.FOLDS)) or judge(self, arm, seed, **k),
    )
    found, folder = resvision.overfit(**data, **PATIENT, out=tmp_path / "a", reporter=Notes())
    assert folder == tmp_path / "a"
    assert not {"baseline", "a quarter", "half"} & set(trained)
    assert trained[:2] == ["trivial augment", "trivial augment"]
    assert trained[2] == "robust loss"  # which the cause suggests
    assert "class weights" not in trained
    assert found["findings"][0]["cause"] == "labels"
    assert found["labels"]["rate"] == pytest.approx(0.25, abs=0.1)
    assert found["labels"]["examined"] == 900  # those beyond the pool, too
    assert found == json.loads((folder / "numbers.json").read_text())
    with (folder / "suspects.csv").open() as file:
        suspects = list(csv.DictReader(file))
    truth = sources.load("digits").splits["all"].labels
    right = [int(row["seems"]) == truth[int(row["picture"].split("[")[1][:-1])] for row in suspects]
    assert np.mean(right[:50]) > 0.85  # the surest ones
    page = (folder / "README.md").read_text()
    assert all(finding["says"] in page for finding in found["findings"])
    assert found["commands"]["recommended"] in page
    with Image.open(folder / "overfit.png") as picture:
        assert picture.width > 1000
    assert "</svg>" in (folder / "overfit.svg").read_text()
    with pytest.raises(RunError, match="holds an examination with another minutes: give another --out"):
        resvision.overfit(**(data | {"minutes": 61.0}), **PATIENT, out=tmp_path / "a")
    with pytest.raises(RunError, match="holds an examination with another fingerprint: give another --out"):
        resvision.overfit(**(data | {"data": (array[:900], labels[:900][::-1])}), **PATIENT, out=tmp_path / "a")


def test_an_examination_finds_leaked_pictures_and_writes_a_cleaned_manifest(
    small_plan: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    small_plan["steps"] = 10
    array, labels = digits(0)
    for index in range(420):
        shown = index - 300 if 300 <= index < 330 else index  # the first test pictures are training pictures
        folder = tmp_path / "set" / ("test" if index >= 300 else "train") / str(labels[shown])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array[shown]).save(folder / f"{index}.png")
    (tmp_path / "set" / "train" / "0" / "broken.png").write_bytes(b"no picture")
    arguments = ["overfit", str(tmp_path / "set"), "--minutes", "5", "--recipe", "plain"]
    arguments += ["--model", "resnet8_cifar", "--epochs", "2", "--out", str(tmp_path / "run"), "--json"]
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert leaving.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["copies"]["leaked"] == document["copies"]["leaked_exact"] == 30
    assert document["findings"][0]["cause"] == "copies"
    assert document["check"]["leaked"] == 30
    assert len(document["copies"]["listed"]) >= 30
    with (tmp_path / "run" / "cleaned.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(row["split"] == "train" for row in rows) == 271  # also the broken one, which training skips
    assert sum(row["split"] == "test" for row in rows) == 120
    assert "cleaned.csv" in document["commands"]["recommended"]
    cleaned = sources.load(tmp_path / "run" / "cleaned.csv")
    assert len(cleaned.splits["train"]) == 271
    assert any("leaves out the training pictures that have a copy in test" in line for line in document["description"])


def test_a_length_takes_the_place_of_any_other() -> None:
    own = {"recipe": "plain", "max_steps": 10, "lr": 0.1}
    assert inputs.replaced(own, {"epochs": 5}) == {"recipe": "plain", "lr": 0.1, "epochs": 5}
    assert inputs.replaced(own, {"lr": 0.2}) == own | {"lr": 0.2}
    line = inputs.command("train", "digits", sources.DEFAULT_COLUMNS, inputs.replaced({"epochs": 30}, {"epochs": 15}))
    assert line == "resvision train digits --epochs 15"
    assert inputs.command("train", Path("digits"), sources.DEFAULT_COLUMNS) == "resvision train ./digits"


def test_what_is_found_in_a_part_is_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LEAST_LOOKED_AT", 500)
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (1000, 12, 12, 1), dtype=np.uint8)
    labels = np.arange(1000) % 2
    test = np.concatenate([array[random.permutation(1000)[:125]], random.integers(0, 256, (125, 12, 12, 1), np.uint8)])
    data = sources.from_arrays((array, labels), (test, labels[:250]), ["a", "b"])
    found = copies.find(data, "val", seconds=0)
    assert not found["complete"]
    assert found["pictures"] == {"train": 250, "val": 250}
    assert 15 < found["leaked"] < 50  # a quarter of 125
    assert found["leaked_part"] == pytest.approx(found["leaked"] / 250 / 0.25)
    said = findings.copies(found, "val").says
    assert "of 250 val pictures that were looked at have a copy among 250 training pictures, so about" in said
    whole = copies.find(data, "val", seconds=3600)
    assert whole["complete"]
    assert whole["leaked_part"] == 0.5
    turned = sources.from_arrays((test, labels[:250]), (array, labels), ["a", "b"])  # more to report than to train on
    assert copies.find(turned, "val", seconds=3600)["complete"]


def test_every_training_copy_of_a_leaked_picture_is_named() -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 12, 12, 1), dtype=np.uint8)
    train = np.concatenate([array[:30], array[:1], array[:1]])
    labels = [*(index % 2 for index in range(30)), 0, 0]
    data = sources.from_arrays((train, labels), (array[[0, 1, 35, 36]], [0, 1, 0, 1]), ["a", "b"])
    found = copies.find(data, "val", seconds=3600)
    assert found["leaked"] == 2
    assert sorted(found["leaked_train"]) == [0, 1, 30, 31]


def test_copies_in_the_part_that_chooses_the_epoch_are_told() -> None:
    array = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 1), dtype=np.uint8)

    def split(which: np.ndarray) -> Split:
        return Split(ArrayPictures(array[which], "made"), which % 2)

    splits = {"train": np.arange(30), "val": np.r_[:4, 30:46], "test": np.arange(46, 60)}
    data = DataSet("made", ("a", "b"), {name: split(which) for name, which in splits.items()}, "made so")
    found = copies.find(data, "test", seconds=3600)
    assert found["leaked"] == 0
    assert found["beside"] == {"val": [4, 20]}
    told = findings.copies(found, "test")
    assert told.found == "yes"
    assert "4 of 20 val pictures, which may choose the epoch, have a copy in train" in told.says


def test_a_network_that_diverges_gets_what_guessing_gets(tmp_path: Path) -> None:
    made = bench()
    row = made.judge(Arm(name="wild", fields={"lr": 1e30}), 0, watched=True)
    assert row["diverged"]
    assert row["accuracy"] == 1 / made.classes
    assert len(row["points"]) == len(made.judge(trials.BASELINE, 0, watched=True)["points"])
    array, labels = digits(0)
    with pytest.raises(DivergedError, match="the baseline's loss is not a finite number: lower --lr"):
        api.overfit((array, labels), minutes=0.2, **PATIENT, lr=1e30, out=tmp_path / "a")


def test_minutes_that_copies_use_up_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"minutes=0\.0001: went by before .* give at least 1"):
        api.overfit("digits", minutes=0.0001, out=tmp_path / "moment")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="minutes=0 must be above 0 and finite"):
        api.overfit("digits", minutes=0, out=tmp_path / "a")
    with pytest.raises(RecipeError, match="lr=auto: trials train from scratch at a given rate"):
        api.overfit("digits", lr="auto", out=tmp_path / "b")
    array, labels = digits(0)
    few = np.flatnonzero((labels != 3) | (np.cumsum(labels == 3) <= 4))
    with pytest.raises(DataError, match=r"the class 3 has \d+ training pictures; at least 6 are needed"):
        api.overfit((array[few], labels[few]), out=tmp_path / "c")
    motifs = np.random.default_rng(0).integers(40, 216, (2, 16, 16, 3))
    shots = motifs[np.arange(40) % 2] + np.random.default_rng(1).integers(-3, 4, (40, 16, 16, 3))
    series = (shots[:32].astype(np.uint8), np.arange(32) % 2), (shots[32:].astype(np.uint8), np.arange(8) % 2)
    with pytest.raises(DataError, match=r"class 0: all but 1 of its \d+ training pictures are copies of another"):
        api.overfit(series[0], validation=series[1], minutes=1, out=tmp_path / "copies")
    shutil.rmtree(tmp_path / "copies")  # copies were looked for, which is kept
    with pytest.raises(RecipeError, match="no field 'colour'"):
        api.overfit("digits", colour=1, out=tmp_path / "d")
    assert list(tmp_path.iterdir()) == []  # a mistake leaves no trace


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["overfit"], "DATA"),
        (["overfit", "nowhere"], "there is no folder"),
        (["overfit", "digits", "--minutes", "many"], "minutes"),
        (["overfit", "digits", "--epochs", "0"], "epochs=0 must be at least 1"),
    ):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 2
        assert said.lower() in capsys.readouterr().err.lower()


def test_the_words_follow_the_numbers() -> None:
    numbers = {
        "gap": {
            "gap": 0.2,
            "gap_sd": 0.01,
            "train_accuracy": 0.9,
            "held_accuracy": 0.7,
            "train_loss": 1,
            "held_loss": 2,
        },
        "findings": [{"cause": "few", "found": "yes", "says": "Data: too few."}],
        "check": {
            "leaked": 0,
            "pictures": 100,
            "baseline": {"accuracy": 0.7},
            "recommended": {"accuracy": 0.75},
            "difference": 0.05,
            "error": 0.02,
            "sure": 0.99,
        },
        "report": "test",
        "recommended": {"name": "mixup", "cleaned": False},
        "remedies": [{"name": "mixup", "difference": 0.04, "error": 0.02, "sure_of_many": 0.97}],
    }
    text = " ".join(overfit.describe(numbers))
    assert "It overfits: 90.0% on training pictures" in text
    assert "On 100 untouched test pictures, looked at once: 75.0% with it, 70.0% without, +5.0 points" in text
    assert "--pretrained" in text
    numbers["check"] |= {"difference": -0.01}
    assert "which does not confirm it" in " ".join(overfit.describe(numbers))
    numbers["recommended"]["name"] = None
    assert "stay with the baseline" in " ".join(overfit.describe(numbers))


def test_a_network_of_the_same_name_may_be_another() -> None:
    recipe = Recipe(model="resnet14_cifar", size=28, spec=("widths=[64,128,256]",), epochs=10)
    made = a_plan(model="resnet14_cifar", size=28, pictures=90, epochs=10.0)
    assert made.stands_in(recipe)
    assert "(resnet14_cifar stands in for resnet14_cifar with widths=[64,128,256])" in made.describe(recipe, 90, 10.0)
    own = replace(made, spec=recipe.spec)
    assert not own.stands_in(recipe)
    assert "stands in" not in own.describe(recipe, 90, 10.0)


def test_reading_is_part_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pictures are slow to read fewer of them are looked at, and the rest of the time is planned."""
    split = sources.prepare(sources.load("digits")).splits["train"]
    recipe = Recipe(model="resnet8_cifar", size=8, channels=1, epochs=10)
    plans = {}
    for reading in (1e-6, 0.1):
        monkeypatch.setattr(plan, "_pace", lambda *_, reading=reading: ("fp32", 1e-4, reading))
        plans[reading] = plan.make(split, recipe, 10, 5000, 600.0)
    quick, slow = plans[1e-6], plans[0.1]
    read = slow.pictures + slow.tested + slow.examined
    assert 0.1 * read <= plan.READING * 600 + 0.1 * 1000  # a thousand are tested in any case
    assert (quick.pictures, quick.tested) == (len(split), 5000)
    assert slow.examined < quick.examined


def test_pictures_that_cannot_be_read_are_named_before_a_plan_is_made(tmp_path: Path) -> None:
    """Their headers are whole, as those of copies that were cut off."""
    whole = photographs(1, 64)[0]
    buffer = io.BytesIO()
    Image.fromarray(whole).save(buffer, "png")
    split = split_of(tmp_path, [buffer.getvalue()[:200]] * 20)
    recipe = Recipe(model="resnet8_cifar", size=8, channels=3, epochs=10)
    with pytest.raises(DataError, match="none of 20 training pictures, evenly spread, can be read"):
        plan.make(split, recipe, 2, 100, 60.0)


def test_a_network_that_is_not_finite_at_its_first_steps_has_no_pace(tmp_path: Path) -> None:
    split = sources.prepare(sources.load("digits")).splits["train"]
    endless = ("depths=[120,120,120]", "widths=[1,1,1]", "norm=none", "init=he")
    recipe = Recipe(
        model="resnet8_cifar",
        spec=endless,
        size=8,
        channels=1,
        epochs=10,
        batch_size=32,
        precision="fp32",
        compile=False,
    )
    with pytest.raises(DivergedError, match="resnet8_cifar: its loss is not a finite number at the start"):
        plan.make(split, recipe, 10, 300, 300.0)


def test_minutes_of_a_recorded_recipe_are_no_length(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="minutes=30 of the recipe do not say how many epochs these are"):
        resvision.overfit("digits", recipe=Recipe(model="resnet8_cifar", size=8, minutes=30.0), out=tmp_path / "a")


def test_what_would_leave_a_class_without_pictures_is_not_left_out(
    small_plan: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    small_plan["steps"] = 3
    monkeypatch.setattr(untouched, "MOST_TESTS", 1)
    monkeypatch.setattr(remedies, "in_order", lambda *_: [])
    array, labels = digits(0)
    for index in range(420):
        if index < 300 or labels[index] != 3:
            folder = tmp_path / "set" / ("test" if index >= 300 else "train") / str(labels[index])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array[index]).save(folder / f"{index}.png")
    shutil.copytree(tmp_path / "set" / "train" / "3", tmp_path / "set" / "test" / "3")
    notes = Notes()
    found, _ = resvision.overfit(tmp_path / "set", minutes=5.0, **PATIENT, out=tmp_path / "run", reporter=notes)
    assert found["copies"]["leaked"] > 0
    assert not found["recommended"]["cleaned"]
    assert "cleaned.csv" not in found["commands"]["recommended"]
    assert not (tmp_path / "run" / "cleaned.csv").exists()
    assert any("all training pictures of a class have a copy in test" in line for line in notes.lines)
