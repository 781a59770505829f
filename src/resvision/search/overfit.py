"""The overfit doctor: measures the gap, tells its causes apart, tries remedies, and checks the best one once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from resvision import zoo
from resvision.data.loader import check_readable
from resvision.data.pictures import DataSet, FilePictures, Indices, Split
from resvision.data.sources import prepare
from resvision.errors import DataError, DivergedError, RecipeError
from resvision.evaluation.metrics import wilson_interval
from resvision.progress import Note
from resvision.recipe import Recipe
from resvision.search import copies, curve, findings, noise, plan, remedies
from resvision.search.clock import Clock
from resvision.search.compare import compare, variance_of_trainings
from resvision.search.judge import MOST_TESTS, PARTS, Judge, Sizes, say
from resvision.search.remedies import Remedy
from resvision.search.trials import BASELINE, FOLDS, Arm, Trials, bits, evenly, read, unpacked
from resvision.training.figures import DIVERGED_ADVICE
from resvision.training.ledger import Ledger

CURVE_SEEDS = 2
COPIES_PART = 0.15  # of the time, that reading all pictures for copies may take
LISTED = 1000  # suspects that the numbers name
OFF = 1.7  # a training that takes so many times longer or shorter than planned is a reason to plan anew
WATCHED = 1.25  # what looking at it adds to a training, as a factor
PROMISING = 3  # arms that get the seeds that are missing, where time is left
BY_INDEX = ("groups", "leaks", "leaked_train", "redundant_train")  # of copies; a person has no use for them
LEAST_CLASS = 2 * FOLDS  # training pictures of a class, or its parts would be empty


def run(dataset: DataSet, recipe: Recipe, minutes: float, ledger: Ledger, note: Note) -> dict[str, Any]:
    """Examines how a recipe overfits a data set.

    Args:
        dataset: divided into training and validation here where it comes without splits.
        recipe: of the baseline, complete.
        minutes: that it may take.
        ledger: of what is done.
        note: told about the progress.

    Returns:
        What numbers.json holds: the plan, the copies, the gap, the learning curve, the noise, the findings, the
        remedies, the recommendation and what the untouched part says of it.

    Raises:
        DataError: a class has too few pictures, or too many of them cannot be read.
        RecipeError: the recipe cannot be tried.
    """
    if recipe.minutes is not None and recipe.steps is None:
        raise RecipeError(f"minutes={recipe.minutes:g} of the recipe do not say how many epochs these are: give epochs")
    clock = Clock(60 * minutes, ledger)

    # ---- pictures ----
    dataset = prepare(dataset)
    train = dataset.splits["train"]
    report = "test" if "test" in dataset.splits else "val"
    untouched = dataset.splits[report]
    check_readable(untouched)  # an accuracy must not leave out what is hard to read
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    if counts.min() < LEAST_CLASS:
        name = dataset.classes[int(counts.argmin())]
        raise DataError(
            f"{dataset.name}: the class {name} has {counts.min()} training pictures; at least {LEAST_CLASS} are needed"
        )

    # ---- copies ----
    found = ledger.once("copies", lambda: copies.find(dataset, report, COPIES_PART * clock.left()))
    note(findings.copies(found, report).says)

    # ---- plan, and once more if the first training shows that it is far off ----
    asked = plan.epochs_asked(recipe, len(train))
    groups = np.arange(len(train))
    for members in found["groups"]:
        groups[members] = members[0]

    def planned_anew(measured: plan.Plan | None = None) -> dict[str, Any]:
        if clock.left() <= 0:
            enough = math.ceil(3 * (clock.seconds - clock.left()) / 60)
            raise RecipeError(
                f"minutes={minutes:g}: went by before there was anything to plan with; give at least {enough}"
            )
        made = plan.make(train, recipe, len(dataset.classes), len(untouched), clock.left(), measured)
        return asdict(made)

    planned, prefix = plan.restored(ledger.once("plan", planned_anew)), ""
    note(planned.describe(recipe, len(train), asked))
    bench = _Bench(train, groups, recipe, planned, dataset.classes)
    first = ledger.once(f"{BASELINE.name} 0", lambda: bench.baseline(0))
    took = first["seconds"] / WATCHED / planned.seconds
    if took > OFF:  # unless only something else kept the machine busy for a moment
        took = ledger.once("plan pace", lambda: plan.pace(planned, train, recipe, len(dataset.classes)) / planned.pace)
    whole = planned.pictures == len(train) and planned.epochs == asked  # then there is nothing to make larger
    if took > OFF or (took < 1 / OFF and not whole):
        measured = replace(planned, pace=planned.pace * took)
        planned, prefix = plan.restored(ledger.once("plan 2", lambda: planned_anew(measured))), "2: "
        note(f"training takes {took:.2f} times as long as planned, so anew:")
        note(planned.describe(recipe, len(train), asked))
        bench = _Bench(train, groups, recipe, planned, dataset.classes)
    trials, trial, chosen, pool = bench.trials, bench.recipe, bench.chosen, bench.trials.pool
    tested = evenly(untouched.labels, planned.tested)
    assert trial.channels is not None
    part, _ = read(untouched.take(tested), plan.side(trial), trial.channels, max_bad=0.0)

    # ---- the baseline ----
    baseline = []
    for number in range(FOLDS):
        key = f"{prefix}{BASELINE.name} {number}"
        baseline.append(ledger.once(key, lambda: bench.baseline(number)))  # noqa: B023
        note(say(BASELINE.name, number, baseline[-1]))
    seconds = statistics.median(row["seconds"] for row in baseline) / WATCHED
    sizes = Sizes(training=seconds, test=2 * seconds * (FOLDS / (FOLDS - 1) + 0.3))
    gap = findings.gap(baseline)
    note(findings.say_gap(gap))
    judge = Judge(trials, baseline, ledger, note, clock, sizes, prefix)

    # ---- wrong labels ----
    where, probabilities, given = _out_of_fold(baseline, trials, chosen, train, len(dataset.classes))
    labels = noise.estimate(probabilities, given)
    accused = findings.labels(labels, len(given))
    note(accused.says)
    wrong = where[labels.suspects].tolist() if accused.found == "yes" else []

    # ---- too few pictures ----
    law, points = _learning_curve(judge, labels.rate if accused.found == "yes" else 0.0)
    sparse = findings.few(law, len(train), int(len(pool) * (FOLDS - 1) / FOLDS))
    note(sparse.says)

    # ---- augmentation and depth ----
    # A stand-in's depth says nothing of how deep the network that it stands for should be.
    shallow = None if planned.stands_in(recipe) else plan.shallower(planned.model, planned.spec)
    arms: dict[str, Remedy] = {}
    stronger = remedies.stronger_augmentation(trial)
    if stronger is not None and judge.tries(stronger.arm, planned.seeds):
        arms[stronger.name] = stronger
    if shallow is not None:
        fields = dict(zip(("model", "spec"), shallow, strict=True))
        arm = Arm(name="shallower", fields=fields)
        if judge.tries(arm, planned.seeds):
            arms[arm.name] = Remedy(arm=arm, options=fields)

    # ---- remedies, those first that the causes suggest ----
    turning = findings.turning([row["points"] for row in baseline])
    predicted = np.concatenate([row["predicted"] for row in baseline])
    truth = np.concatenate([pool.labels[trials.judging(number)] for number in range(FOLDS)])
    uneven = findings.imbalance(counts.tolist(), truth, predicted, dataset.classes)
    known = [findings.copies(found, report), accused, sparse, uneven]

    def causes() -> list[findings.Finding]:
        return findings.ranked([*known, *_by_trials(judge, recipe, planned, asked, stronger, gap["gap"], turning)])

    on_disk = all(_on_disk(split) for split in dataset.splits.values())
    covered = bench.whole and on_disk  # else a run could not leave the same pictures out
    position = {int(index): place for place, index in enumerate(chosen)}
    suspects = [position[index] for index in wrong if index in position] if covered else []
    redundant = [position[index] for index in found["redundant_train"] if index in position] if covered else []
    can_drop = zoo.variant(recipe.model, recipe.spec).can_drop_branches
    possible = remedies.all_of(trial, planned.epochs, asked, can_drop=can_drop, suspects=suspects, copies=redundant)
    for remedy in remedies.in_order([finding.cause for finding in causes() if finding.found != "no"], possible):
        if remedy.name not in arms and judge.tries(remedy.arm, planned.seeds):
            arms[remedy.name] = remedy
    for name in judge.best(list(arms), PROMISING) if planned.seeds < FOLDS else []:
        judge.tries(arms[name].arm, FOLDS)
    _two_together(judge, trial, arms)
    judge.repeat([remedy.arm for remedy in arms.values()])

    # ---- the recommendation, checked once ----
    differences, believed = judge.differences(), judge.believed()
    best = max(
        (name for name in arms if believed[name].mean > 0 and believed[name].sure >= findings.LIKELY),
        key=lambda name: believed[name].mean,
        default=None,
    )
    winner = arms[best] if best is not None else None
    note(f"recommended: {winner.name if winner else 'stay with the baseline'}; now the untouched part is looked at")
    clean = ~np.isin(tested, [pair[0] for pair in found["leaks"]])
    checked = _check(judge, winner, part, clean)
    left_out = {
        "suspects": sorted(wrong) if winner and "suspects" in winner.name else [],
        "copies": sorted(found["redundant_train"]) if winner and "copies" in winner.name else [],
        "leaks": sorted(found["leaked_train"]),
    }
    left = np.delete(train.labels, sorted({index for indices in left_out.values() for index in indices}))
    keeps_classes = bool(np.bincount(left, minlength=len(dataset.classes)).min() > 0)
    if not keeps_classes:
        note(
            f"all training pictures of a class have a copy in {report}, so that nothing can be left out: mend the data"
        )
        left_out = {reason: [] for reason in left_out}

    return {
        "plan": asdict(planned) | {"epochs_asked": asked, "folds": FOLDS, "available": len(train)},
        "pictures": {"train": len(train), "pool": len(pool), report: len(untouched)},
        "report": report,
        "copies": {key: value for key, value in found.items() if key not in BY_INDEX},
        "gap": gap,
        "course": [row["points"] for row in baseline],
        "turning": turning,
        "labels": _labels_recorded(labels, accused, where, given, train, dataset.classes),
        "curve": {"points": points, **_law_recorded(law, len(train))},
        "findings": [finding.to_dict() for finding in causes()],
        "remedies": [
            {**judge.row(name), "options": arms[name].options if name in arms else None}
            for name in sorted(differences, key=lambda name: -differences[name].mean)
        ],
        "recommended": {
            "name": winner.name if winner else None,
            "options": winner.options if winner else {},
            "cleaned": on_disk and keeps_classes and (bool(winner and winner.cleaned) or bool(found["leaks"])),
        },
        "check": checked,
        "left_out": left_out,
        "seconds": clock.seconds - clock.left(),
    }


# ---- trials ----


class _Bench:
    """The pool in memory by a plan, the trials on it, and the training pictures beyond it.

    Args:
        train: the training split.
        groups: (N,) equal for copies.
        recipe: that is examined.
        planned: how large the trials are.
        classes: names of the set's.

    Raises:
        DataError: a class has so many copies that not every part of the pool would have pictures of it.
    """

    def __init__(
        self, train: Split, groups: Indices, recipe: Recipe, planned: plan.Plan, classes: Sequence[str]
    ) -> None:
        trial = plan.proxy(recipe, planned.model, planned.size, planned.spec)
        self.recipe = replace(trial, precision=planned.precision, steps=planned.steps)
        self.train = train
        chosen = evenly(train.labels, planned.pictures)
        pool, readable = self._read(chosen, self.recipe.max_bad)
        self.chosen = chosen[readable]
        self.whole = len(chosen) == len(train)
        for label, name in enumerate(classes):
            different = len(np.unique(groups[self.chosen][pool.labels == label]))
            if different < FOLDS:
                raise DataError(
                    f"class {name}: all but {different} of its {int((pool.labels == label).sum())} training pictures "
                    f"are copies of another one; at least {FOLDS} different ones are needed"
                )
        preprocess = plan.preprocess_of(pool, self.recipe)
        self.trials = Trials(pool, groups[self.chosen], self.recipe, preprocess, len(classes))
        others = np.setdiff1d(np.arange(len(train)), chosen)
        self.others = others[evenly(train.labels[others], planned.examined, 0)] if len(others) else others

    def baseline(self, number: int) -> dict[str, Any]:
        """The baseline's trial on one fold, which also examines the labels of a part of the other pictures."""
        mine = self.others[number::FOLDS]
        further, readable = self._read(mine, 1.0)
        row = self.trials.judge(BASELINE, number, watched=True, further=further if len(further) else None)
        if row.get("diverged"):
            raise DivergedError(f"the baseline's loss is not a finite number: {DIVERGED_ADVICE}")
        return row | {"further_index": mine[readable].tolist()}

    def _read(self, which: Indices, max_bad: float) -> tuple[Split, Indices]:
        assert self.recipe.channels is not None
        return read(self.train.take(which), plan.side(self.recipe), self.recipe.channels, max_bad)


def _out_of_fold(
    baseline: list[dict[str, Any]], trials: Trials, chosen: Indices, train: Split, classes: int
) -> tuple[Indices, npt.NDArray[np.float64], Indices]:
    """Probabilities by networks that have not seen the pictures: (index in train (N,), (N, K), labels (N,))."""
    where, rows = [], []
    for number, row in enumerate(baseline):
        mine = chosen[trials.judging(number)]
        where.append(mine)
        rows.append(unpacked(row["best"], len(mine), classes))
        if row.get("further"):
            where.append(np.array(row["further_index"], dtype=np.int64))
            rows.append(unpacked(row["further"], -1, classes))
    index = np.concatenate(where)
    return index, np.concatenate(rows), train.labels[index]


def _learning_curve(judge: Judge, floor: float) -> tuple[curve.PowerLaw | None, list[dict[str, Any]]]:
    """The power law through the errors of trainings on parts of the pictures, and these."""
    for name, part in PARTS.items():
        judge.tries(Arm(name=name, part=part), CURVE_SEEDS)
    points: list[dict[str, Any]] = []
    for name, part in [*PARTS.items(), (BASELINE.name, 1.0)]:
        points += [
            {"pictures": row["trained"], "part": part, "error": 1 - row["accuracy"], "of": row["judged"]}
            for row in (judge.baseline if name == BASELINE.name else judge.rows.get(name, []))
        ]
    if len({point["part"] for point in points}) < 2:
        return None, points
    errors, deviations = zip(*(curve.smoothed(point["error"], point["of"]) for point in points), strict=True)
    return curve.fit([point["pictures"] for point in points], errors, deviations, min(floor, 0.9 * min(errors))), points


def _by_trials(
    judge: Judge,
    recipe: Recipe,
    planned: plan.Plan,
    asked: float,
    stronger: Remedy | None,
    gap: float,
    turning: dict[str, Any],
) -> list[findings.Finding]:
    """The findings that trials make, by those that are done."""
    differences = judge.differences()
    name, own = stronger.name if stronger is not None else "", plan.called(planned.model, planned.spec)
    shallow = plan.shallower(planned.model, planned.spec)
    if planned.stands_in(recipe):
        depth = findings.untried(
            remedies.DEPTH, f"Depth: {own} stands in, and tells nothing of how deep {recipe.model} should be."
        )
    else:
        less = plan.called(*shallow) if shallow is not None else None
        depth = findings.depth(own, less, gap >= findings.GAP, differences.get("shallower"))
    after = judge.row(name)["gap"] if name in differences else 0.0
    before = findings.gap(judge.baseline[: len(judge.rows[name])])["gap"] if name in differences else gap
    return [
        findings.augmentation(name, before, after, differences.get(name)),
        depth,
        findings.length(turning, differences.get("shorter"), planned.epochs, asked),
    ]


def _two_together(judge: Judge, trial: Recipe, arms: dict[str, Remedy]) -> None:
    """Tries the best two remedies that go together at once, where both are likely to help."""
    differences = judge.differences()
    likely = [name for name in arms if differences[name].mean > 0 and differences[name].sure >= findings.LIKELY]
    likely.sort(key=lambda name: -differences[name].mean)
    for one, other in combinations(likely, 2):
        both = remedies.together(trial, arms[one], arms[other])
        if both is not None:
            if judge.tries(both.arm, min(len(judge.rows[one]), len(judge.rows[other]))):
                arms[both.name] = both
            return


# ---- the untouched part ----


def _check(judge: Judge, winner: Remedy | None, part: Split, clean: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Looks at the untouched part once: the baseline with and without leaked pictures, and the recommendation."""
    arms = [BASELINE] if winner is None else [BASELINE, winner.arm]
    rows: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    seeds = 0
    for seed in range(MOST_TESTS):
        keys = [f"{judge.prefix}untouched: {arm.name} {seed}" for arm in arms]
        if seed and not set(keys) <= set(judge.ledger.done) and judge.clock.left() < judge.sizes.test:
            break
        for arm, key in zip(arms, keys, strict=True):
            tested = judge.ledger.once(key, lambda: judge.trials.test(arm, part, seed))  # noqa: B023
            rows[arm.name].append(tested)
        seeds += 1
    right = {name: np.stack([bits(row["right"]) for row in own]) for name, own in rows.items()}
    result: dict[str, Any] = {
        "pictures": len(part),
        "leaked": int((~clean).sum()),
        "with_leaked": float(right[BASELINE.name].mean()),
        "seeds": seeds,
        "train_accuracy": statistics.fmean(row["train_accuracy"] for row in rows[BASELINE.name]),
    }
    if not clean.any():
        return result | {"accuracy": None}
    for name, values in right.items():
        own = values[:, clean]
        place = "baseline" if name == BASELINE.name else "recommended"
        low, high = wilson_interval(round(float(own.mean()) * own.shape[1]), own.shape[1])
        result[place] = {"accuracy": float(own.mean()), "interval": [low, high], "seeds": own.mean(axis=1).tolist()}
    if winner is not None:
        differences = [a[clean] - b[clean] for a, b in zip(right[winner.name], right[BASELINE.name], strict=True)]
        variance, freedom = variance_of_trainings([judge.by_picture(name) for name in judge.rows if name not in PARTS])
        difference = compare(differences, variance, freedom, judged=[np.arange(int(clean.sum()))] * len(differences))
        result |= {"difference": difference.mean, "error": difference.error, "sure": difference.sure}
    return result


# ---- records ----


def _labels_recorded(
    found: noise.Noise,
    accused: findings.Finding,
    where: Indices,
    given: Indices,
    train: Split,
    classes: Sequence[str],
) -> dict[str, Any]:
    rows = [
        {
            "picture": train.pictures.name(int(where[index])),
            "index": int(where[index]),
            "label": classes[given[index]],
            "seems": classes[seems],
            "margin": round(float(margin), 4),
        }
        for index, seems, margin in zip(found.suspects, found.seems, found.margins, strict=True)
    ]
    return {
        "found": accused.found,
        "rate": found.rate,
        "interval": list(found.interval),
        "surest": found.surest,
        "joint_rate": found.joint_rate,
        "examined": len(given),
        "suspects": rows[:LISTED] if accused.found == "yes" else [],
        "suspected": len(rows) if accused.found == "yes" else 0,
    }


def _law_recorded(law: curve.PowerLaw | None, pictures: int) -> dict[str, Any]:
    if law is None:
        return {"exponent": None}
    gain, low, high = law.gain(pictures)
    return {
        "exponent": law.exponent,
        "intercept": law.intercept,
        "floor": law.floor,
        "gain": gain,
        "gain_interval": [low, high],
        "line": [
            [float(n), law.error(n), *law.interval(n)]
            for n in np.geomspace(max(2, pictures / 64), 2 * pictures, 40).tolist()
        ],
    }


def _on_disk(split: Split) -> bool:
    return isinstance(split.pictures, FilePictures) and all(file.path is not None for file in split.pictures.files)


# ---- words ----


def describe(numbers: dict[str, Any]) -> list[str]:
    """What was found, in sentences, from the numbers alone."""
    lines = [findings.say_gap(numbers["gap"]), *(finding["says"] for finding in numbers["findings"])]
    check, report = numbers["check"], numbers["report"]
    if check["leaked"] and check.get("baseline"):
        lines.append(
            f"The baseline's accuracy on {report} is {check['with_leaked']:.1%} with the {check['leaked']:,} pictures "
            f"that have a copy in train, and {check['baseline']['accuracy']:.1%} without them."
        )
    if numbers["recommended"]["cleaned"] and numbers["copies"]["leaked"]:
        lines.append(f"The command below leaves out the training pictures that have a copy in {report} (cleaned.csv).")
    if any(f["cause"] == remedies.FEW and f["found"] != "no" for f in numbers["findings"]):
        lines.append(
            "Not tried here: weights of a larger set often help few pictures most, such as "
            "--pretrained hf:timm/resnet18.a1_in1k."
        )
    return [*lines, *_recommended(numbers)]


def _recommended(numbers: dict[str, Any]) -> list[str]:
    name, check, report = numbers["recommended"]["name"], numbers["check"], numbers["report"]
    if name is None:
        lines = ["Recommended: stay with the baseline; no remedy is likely enough to be better."]
        if own := check.get("baseline"):
            lines.append(
                f"On {check['pictures'] - check['leaked']:,} untouched {report} pictures: {own['accuracy']:.1%}."
            )
        return lines
    row = next(row for row in numbers["remedies"] if row["name"] == name)
    lines = [
        f"Recommended: {name}, {100 * row['difference']:+.1f} points on the parts that chose (standard error "
        f"{100 * row['error']:.1f}, better with a probability of {row['sure_of_many']:.0%}, as the "
        f"best of {len(numbers['remedies'])} arms)."
    ]
    if "difference" in check:
        kept = check["difference"] > 0  # said, and no more: the untouched part chooses nothing
        lines.append(
            f"On {check['pictures'] - check['leaked']:,} untouched {report} pictures, looked at once: "
            f"{check['recommended']['accuracy']:.1%} with it, {check['baseline']['accuracy']:.1%} without, "
            f"{100 * check['difference']:+.1f} points (standard error {100 * check['error']:.1f}, better with a "
            f"probability of {check['sure']:.0%}){'' if kept else ', which does not confirm it'}."
        )
    return lines
