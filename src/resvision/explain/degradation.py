"""Degradation: plain networks get worse with depth, residual ones do not (He et al. 2015, figures 1 and 6)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

from resvision.errors import DivergedError
from resvision.explain.bench import Bench, apart, diverged, diverged_said, seeds_said
from resvision.measure import now, spread
from resvision.progress import Note
from resvision.training.ledger import Ledger

ARMS = {"plain": "plain{}_cifar", "residual": "resnet{}_cifar"}
POINTS = 8  # measurements along each training
REFERENCE_DEPTH = 20  # with which the deepest networks are compared, as in the paper's figure 1


def run(bench: Bench, ledger: Ledger, note: Note) -> dict[str, Any]:
    """Trains every depth as a plain and as a residual network from the same weights; returns the numbers."""
    arms = []
    for seed in range(bench.options.seeds):
        for depth in bench.options.depths:
            for arm in ARMS:
                begin = now()
                found = ledger.once(f"{arm} {depth} {seed}", lambda: _train(bench, arm, depth, seed))  # noqa: B023
                arms.append({"arm": arm, "depth": depth, "seed": seed, **found})
                note(f"{arm}-{depth}, seed {seed}: {_ended(found)} ({now() - begin:.0f} s)")
    summary = {arm: {depth: _final(arms, arm, depth) for depth in bench.options.depths} for arm in ARMS}
    return {
        "arms": arms,
        "summary": summary,
        "degrades": _degrades(summary, bench.options.depths),
        "epochs": bench.epochs,
        "pictures": len(bench.train_split),
    }


def _train(bench: Bench, arm: str, depth: int, seed: int) -> dict[str, Any]:
    # He's initialisation in both arms: the same names and shapes, so that one seed gives both the same weights.
    network = bench.network(bench.spec(ARMS[arm].format(depth), init="he"), seed)
    steps = bench.options.steps
    measured_at = {round(steps * point / POINTS) for point in range(POINTS + 1)}
    points: list[dict[str, float]] = []
    done = 0
    for step in itertools.chain([0], bench.train(network, seed)):
        done = step
        if step in measured_at:
            with contextlib.suppress(DivergedError):  # norms without statistics yet may let very deep networks overflow
                points.append({"step": step, **bench.measure(network)})
    return {"points": points, "steps": done, "diverged": not points or points[-1]["step"] != steps}


def _ended(found: dict[str, Any]) -> str:
    if found["diverged"]:
        return f"diverged at step {found['steps']}"
    last = found["points"][-1]
    return f"training error {last['train_error']:.2%}, test error {last['test_error']:.2%}"


def _final(arms: list[dict[str, Any]], arm: str, depth: int) -> dict[str, Any]:
    """Figures at the end of the trainings that did not diverge, None where all did; and where the others stopped."""
    own = [row for row in arms if (row["arm"], row["depth"]) == (arm, depth)]
    last = [row["points"][-1] for row in own if not row["diverged"]]
    figures = ("train_error", "test_error", "train_loss")
    return {
        "diverged": diverged(own),
        **{name: spread([point[name] for point in last]) if last else None for name in figures},
    }


def describe(numbers: dict[str, Any]) -> str:
    """What was seen, in words, from the numbers."""
    options = numbers["settings"]
    depths = options["depths"]
    text = (
        f"Plain and residual networks of {_listed(depths)} layers were trained from the same initial weights for "
        f"{options['steps']:,} steps of {options['batch_size']} pictures ({numbers['epochs']:.1f} presentations of "
        f"{numbers['pictures']:,} pictures of {options['data']}), {seeds_said(options['seeds'])}. "
    )
    ends = {arm: {int(depth): row for depth, row in numbers["summary"][arm].items()} for arm in ARMS}
    for arm in ARMS:
        for depth in depths:
            if steps := ends[arm][depth]["diverged"]:
                text += f"{arm.capitalize()} with {depth} layers: {diverged_said(steps, options['seeds'])}. "
    deep, shallow = _compared(depths)
    if deep == shallow:
        return text + "With one depth there is nothing to compare along the depth."
    sound = [arm for arm in ARMS if not any(ends[arm][depth]["diverged"] for depth in (shallow, deep))]
    worse = {arm: _compare(ends[arm], deep, shallow) for arm in sound}
    for arm, (sentence, _) in worse.items():
        text += f"{arm.capitalize()}: {sentence} "
    if len(sound) < len(ARMS):
        text += "Trainings that diverged tell nothing of depth: give a lower --lr."
    elif options["seeds"] == 1:
        text += "One seed tells nothing of the spread: give --seeds 3 to know whether this is more than chance."
    elif _degrades(ends, depths):
        text += (
            "So depth hurt the plain networks even on the pictures they were trained on, which is no overfitting, and "
            "did not hurt the residual ones: the degradation of He et al. 2015."
        )
    elif worse["plain"][1] == "worse":
        lost = {arm: _lost(ends[arm], deep, shallow) for arm in ARMS}
        text += (
            f"So depth hurt both kinds in this training, the plain networks by {lost['plain']:.1f} points and the "
            f"residual ones by {lost['residual']:.1f}."
        )
    else:
        text += "So this experiment did not show the degradation: train longer, deeper, or with more seeds."
    return text


def _compared(depths: Sequence[int]) -> tuple[int, int]:
    """The deepest networks and those that they are compared with."""
    deep = max(depths)
    return deep, REFERENCE_DEPTH if REFERENCE_DEPTH in depths and deep > REFERENCE_DEPTH else min(depths)


def _degrades(summary: dict[str, dict[int, Any]], depths: Sequence[int]) -> bool:
    """Whether depth hurt the plain networks beyond the spread of the seeds, and not the residual ones."""
    deep, shallow = _compared(depths)
    if any(summary[arm][depth]["diverged"] for arm in ARMS for depth in (deep, shallow)):
        return False
    worse = {arm: apart(*(summary[arm][depth]["train_error"] for depth in (deep, shallow))) for arm in ARMS}
    return worse["plain"] and not worse["residual"]


def _compare(by_depth: dict[int, Any], deep: int, shallow: int) -> tuple[str, str]:
    """A sentence, and "worse", "better" or "alike" for the deeper network's training error."""
    a, b = by_depth[deep]["train_error"], by_depth[shallow]["train_error"]
    verdict = "worse" if apart(a, b) else "better" if apart(b, a) else "alike"
    seeds = {
        "worse": "every seed of the deeper one above every seed of the shallower",
        "better": "every seed of the deeper one below every seed of the shallower",
        "alike": "within the spread of the seeds",
    }[verdict]
    if len(a["values"]) == 1:
        seeds = "with one seed"
    tests = [by_depth[depth]["test_error"] for depth in (shallow, deep)]
    sentence = (
        f"from {shallow} to {deep} layers the training error went from {_percent(b)} to {_percent(a)}, {seeds}; the "
        f"test error from {_percent(tests[0])} to {_percent(tests[1])}."
    )
    return sentence, verdict


def _lost(by_depth: dict[int, Any], deep: int, shallow: int) -> float:
    """By how many percentage points the deeper network's mean training error is the higher one."""
    return float(100 * (by_depth[deep]["train_error"]["mean"] - by_depth[shallow]["train_error"]["mean"]))


def _percent(value: dict[str, Any]) -> str:
    return f"{value['mean']:.2%} (sd {100 * value['sd']:.2f})"


def _listed(depths: list[int]) -> str:
    *first, last = map(str, depths)
    return f"{', '.join(first)} and {last}" if first else last
