"""The overfit doctor: measures the gap, tells its causes apart, tries remedies, and checks the best one once."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from resvision import zoo
from resvision.data.pictures import DataSet, FilePictures, Indices, Split
from resvision.data.readable import check_readable
from resvision.data.sources import prepare
from resvision.errors import DataError, RecipeError
from resvision.progress import Note
from resvision.recipe import Recipe
from resvision.search import copies, curve, findings, noise, plan, remedies, untouched
from resvision.search.bench import Bench
from resvision.search.clock import Clock
from resvision.search.judge import PARTS, Judge, Sizes, say
from resvision.search.pool import FOLDS, evenly, kept_side, read
from resvision.search.remedies import Remedy
from resvision.search.trials import BASELINE, Arm
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

    # ---- pictures, plan, and the baseline ----
    seen = _look_through(prepare(dataset), ledger, clock, note)
    train, report, classes = seen.train, seen.report, seen.dataset.classes
    asked = plan.epochs_asked(recipe, len(train))
    bench, prefix = _plan(seen, recipe, asked, ledger, clock, note)
    planned, trial = bench.planned, bench.recipe
    tested = evenly(seen.untouched.labels, planned.tested)
    assert trial.channels is not None
    part, _ = read(seen.untouched.take(tested), kept_side(trial), trial.channels, max_bad=0.0)
    baseline = _baseline(bench, ledger, prefix, note)
    judge = Judge(bench.trials, baseline, ledger, note, clock, _sizes(baseline), prefix)

    # ---- the causes that the baseline and the learning curve show ----
    gap = findings.gap(baseline)
    note(findings.say_gap(gap))
    where, probabilities, given = bench.out_of_fold(baseline)
    labels = noise.estimate(probabilities, given)
    accused = findings.labels(labels, len(given))
    note(accused.says)
    law, points = _learning_curve(judge, labels.rate if accused.found == "yes" else 0.0)
    sparse = findings.few(law, len(train), int(len(bench.trials.pool) * (FOLDS - 1) / FOLDS))
    note(sparse.says)
    turning = findings.turning([row["points"] for row in baseline])
    known = [findings.copies(seen.copies, report), accused, sparse, _imbalance(seen, bench, baseline)]

    # ---- remedies, which show the others ----
    stronger = remedies.stronger_augmentation(trial)

    def causes() -> list[findings.Finding]:
        return findings.ranked([*known, *_by_trials(judge, recipe, planned, asked, stronger, gap["gap"], turning)])

    wrong = where[labels.suspects].tolist() if accused.found == "yes" else []
    arms = _first_arms(judge, recipe, planned, stronger)
    suggesting = [finding.cause for finding in causes() if finding.found != "no"]
    for remedy in remedies.in_order(suggesting, _possible(seen, bench, recipe, asked, wrong)):
        if remedy.name not in arms and judge.tries(remedy.arm, planned.seeds):
            arms[remedy.name] = remedy
    for name in judge.best(list(arms), PROMISING) if planned.seeds < FOLDS else []:
        judge.tries(arms[name].arm, FOLDS)
    _two_together(judge, trial, arms)
    judge.repeat([remedy.arm for remedy in arms.values()])

    # ---- the recommendation, checked once ----
    winner = _best(judge, arms)
    note(f"recommended: {winner.name if winner else 'stay with the baseline'}; now the untouched part is looked at")
    clean = ~np.isin(tested, [pair[0] for pair in seen.copies["leaks"]])
    checked = untouched.check(judge, winner, part, clean)
    left_out = _left_out(seen, winner, wrong)
    if left_out is None:
        note(f"all training pictures of a class have a copy in {report}: nothing can be left out, mend the data")
    differences = judge.differences()
    return {
        "plan": asdict(planned) | {"epochs_asked": asked, "folds": FOLDS, "available": len(train)},
        "pictures": {"train": len(train), "pool": len(bench.trials.pool), report: len(seen.untouched)},
        "report": report,
        "copies": {key: value for key, value in seen.copies.items() if key not in BY_INDEX},
        "gap": gap,
        "course": [row["points"] for row in baseline],
        "turning": turning,
        "labels": _labels_recorded(labels, accused, where, given, train, classes),
        "curve": {"points": points, **curve.recorded(law, len(train))},
        "findings": [finding.to_dict() for finding in causes()],
        "remedies": [
            {**judge.row(name), "options": arms[name].options if name in arms else None}
            for name in sorted(differences, key=lambda name: -differences[name].mean)
        ],
        "recommended": {
            "name": winner.name if winner else None,
            "options": winner.options if winner else {},
            "cleaned": seen.on_disk
            and left_out is not None
            and bool((winner and winner.leaves_out) or seen.copies["leaks"]),
        },
        "check": checked,
        "left_out": left_out or {"suspects": [], "copies": [], "leaks": []},
        "seconds": clock.seconds - clock.left(),
    }


# ---- pictures ----


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is examined: a set, which of its splits is reported, and the copies in it, as `copies.find` tells them."""

    dataset: DataSet
    report: str
    copies: dict[str, Any]

    @property
    def train(self) -> Split:
        return self.dataset.splits["train"]

    @property
    def untouched(self) -> Split:
        return self.dataset.splits[self.report]

    @property
    def groups(self) -> Indices:
        """(N,) of the training pictures: equal for copies."""
        groups = np.arange(len(self.train))
        for members in self.copies["groups"]:
            groups[members] = members[0]
        return groups

    @property
    def on_disk(self) -> bool:
        """Whether every picture is a file, which a manifest can name."""
        return all(
            isinstance(split.pictures, FilePictures) and all(file.path is not None for file in split.pictures.files)
            for split in self.dataset.splits.values()
        )


def _look_through(dataset: DataSet, ledger: Ledger, clock: Clock, note: Note) -> _Seen:
    """Checks that a set can be examined, and finds its copies."""
    train = dataset.splits["train"]
    report = "test" if "test" in dataset.splits else "val"
    check_readable(dataset.splits[report])  # an accuracy must not leave out what is hard to read
    counts = np.bincount(train.labels, minlength=len(dataset.classes))
    if counts.min() < LEAST_CLASS:
        name = dataset.classes[int(counts.argmin())]
        raise DataError(
            f"{dataset.name}: the class {name} has {counts.min()} training pictures; at least {LEAST_CLASS} are needed"
        )
    found = ledger.once("copies", lambda: copies.find(dataset, report, COPIES_PART * clock.left()))
    note(findings.copies(found, report).says)
    return _Seen(dataset=dataset, report=report, copies=found)


# ---- plan and baseline ----


def _plan(seen: _Seen, recipe: Recipe, asked: float, ledger: Ledger, clock: Clock, note: Note) -> tuple[Bench, str]:
    """The bench by a plan, made anew if the first training shows that it is far off, and what its keys begin with."""
    train, classes = seen.train, seen.dataset.classes

    def made(measured: plan.Plan | None = None) -> dict[str, Any]:
        if clock.left() <= 0:
            enough = math.ceil(3 * (clock.seconds - clock.left()) / 60)
            given = f"minutes={clock.seconds / 60:g}"
            raise RecipeError(f"{given}: went by before there was anything to plan with; give at least {enough}")
        return asdict(plan.make(train, recipe, len(classes), len(seen.untouched), clock.left(), measured))

    def bench_by(planned: plan.Plan) -> Bench:
        note(planned.describe(recipe, len(train), asked))
        return Bench(train, seen.groups, recipe, planned, classes)

    planned = plan.restored(ledger.once("plan", made))
    bench = bench_by(planned)
    first = ledger.once(f"{BASELINE.name} 0", lambda: bench.baseline(0))
    took = first["seconds"] / WATCHED / planned.seconds
    if took > OFF:  # unless only something else kept the machine busy for a moment
        took = ledger.once("plan pace", lambda: plan.pace(planned, train, recipe, len(classes)) / planned.pace)
    whole = planned.pictures == len(train) and planned.epochs == asked  # then there is nothing to make larger
    if took <= OFF and (took >= 1 / OFF or whole):
        return bench, ""
    measured = replace(planned, pace=planned.pace * took)
    anew = plan.restored(ledger.once("plan 2", lambda: made(measured)))
    note(f"training takes {took:.2f} times as long as planned, so anew:")
    return bench_by(anew), "2: "


def _baseline(bench: Bench, ledger: Ledger, prefix: str, note: Note) -> list[dict[str, Any]]:
    """The baseline's trial on each fold."""
    rows = []
    for number in range(FOLDS):
        rows.append(ledger.once(f"{prefix}{BASELINE.name} {number}", lambda: bench.baseline(number)))  # noqa: B023
        note(say(BASELINE.name, number, rows[-1]))
    return rows


def _sizes(baseline: Sequence[dict[str, Any]]) -> Sizes:
    seconds = statistics.median(row["seconds"] for row in baseline) / WATCHED
    return Sizes(training=seconds, test=2 * seconds * (FOLDS / (FOLDS - 1) + 0.3))


# ---- causes ----


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


def _imbalance(seen: _Seen, bench: Bench, baseline: Sequence[dict[str, Any]]) -> findings.Finding:
    """Whether rare classes are recognised less often, by the trials of the baseline."""
    counts = np.bincount(seen.train.labels, minlength=len(seen.dataset.classes))
    predicted = np.concatenate([row["predicted"] for row in baseline])
    truth = np.concatenate([bench.trials.pool.labels[bench.trials.judging(number)] for number in range(FOLDS)])
    return findings.imbalance(counts.tolist(), truth, predicted, seen.dataset.classes)


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


# ---- remedies ----


def _first_arms(judge: Judge, recipe: Recipe, planned: plan.Plan, stronger: Remedy | None) -> dict[str, Remedy]:
    """The arms that also tell causes: stronger augmentation, and a shallower network."""
    arms: dict[str, Remedy] = {}
    if stronger is not None and judge.tries(stronger.arm, planned.seeds):
        arms[stronger.name] = stronger
    # A stand-in's depth says nothing of how deep the network that it stands for should be.
    shallow = None if planned.stands_in(recipe) else plan.shallower(planned.model, planned.spec)
    if shallow is not None:
        fields = dict(zip(("model", "spec"), shallow, strict=True))
        arm = Arm(name="shallower", fields=fields)
        if judge.tries(arm, planned.seeds):
            arms[arm.name] = Remedy(arm=arm, options=fields)
    return arms


def _possible(seen: _Seen, bench: Bench, recipe: Recipe, asked: float, wrong: Sequence[int]) -> dict[str, Remedy]:
    """All remedies that this set and network allow.

    Args:
        seen: the set.
        bench: of the trials.
        recipe: that is examined.
        asked: epochs of it.
        wrong: training pictures whose labels are suspected.
    """
    covered = bench.whole and seen.on_disk  # else a run could not leave the same pictures out
    position = {int(index): place for place, index in enumerate(bench.chosen)}

    def places(indices: Sequence[int]) -> list[int]:
        return [position[index] for index in indices if index in position] if covered else []

    return remedies.all_of(
        bench.recipe,
        bench.planned.epochs,
        asked,
        can_drop=zoo.variant(recipe.model, recipe.spec).can_drop_branches,
        suspects=places(wrong),
        copies=places(seen.copies["redundant_train"]),
    )


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


def _best(judge: Judge, arms: dict[str, Remedy]) -> Remedy | None:
    """The remedy with the greatest difference after shrinking, if it is likely to be better than the baseline."""
    believed = judge.believed()
    likely = [name for name in arms if believed[name].mean > 0 and believed[name].sure >= findings.LIKELY]
    return arms[max(likely, key=lambda name: believed[name].mean)] if likely else None


def _left_out(seen: _Seen, winner: Remedy | None, wrong: Sequence[int]) -> dict[str, list[int]] | None:
    """The training pictures that the recommended run leaves out, by reason; None where a class would lose all."""
    left_out = {
        "suspects": sorted(wrong) if winner and "suspects" in winner.leaves_out else [],
        "copies": sorted(seen.copies["redundant_train"]) if winner and "copies" in winner.leaves_out else [],
        "leaks": sorted(seen.copies["leaked_train"]),
    }
    left = np.delete(seen.train.labels, sorted({index for indices in left_out.values() for index in indices}))
    return left_out if np.bincount(left, minlength=len(seen.dataset.classes)).min() > 0 else None


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


# ---- words ----


def describe(numbers: dict[str, Any]) -> list[str]:
    """What was found, in sentences, from the numbers alone."""
    lines = [findings.say_gap(numbers["gap"]), *(finding["says"] for finding in numbers["findings"])]
    check, report = numbers["check"], numbers["report"]
    if check["leaked"] and check.get("baseline"):
        lines.append(
            f"The baseline's accuracy on {report} is {check['with_leaked']:.1%} with the pictures that have a copy in "
            f"train ({check['leaked']:,}), and {check['baseline']['accuracy']:.1%} without them."
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
