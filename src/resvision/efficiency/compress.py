"""Compress: a trained network made several times cheaper, rung by rung.

The first rungs leave the network as it is and change what runs it: other runtimes, which fold the norms into the
convolutions, and 8-bit integers. The next ones take out blocks and channels and teach what is left by the original.
"""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from resvision import exporting
from resvision.classifier import Classifier
from resvision.deployed import FOLDER, register
from resvision.efficiency import prune, rounding
from resvision.efficiency.cut import cut
from resvision.efficiency.distill import taught
from resvision.efficiency.ladder import TAUGHT, Goal, Ladder, Parts, Rung
from resvision.errors import SpecError
from resvision.models import ResNet
from resvision.progress import Note
from resvision.training.ledger import Ledger

MOST = 1000  # times as fast: more would be a mistake
MOST_AT_ONCE = 2.0  # times cheaper in one rung; what is left must still be able to learn it again
MARGIN = 1.05  # cheaper than is asked for, since a network's time in 8 bits is not quite in proportion to that in float
SMALLER_RATE = 0.5  # of the learning rate, for a network that lost a part of itself
ROUNDED_RATE = 0.1  # for one that only has to get used to 8 bits
ROUNDED_PART = 0.25  # of the minutes, as long again, for each network that 8 bits lose too much of


def run(
    classifier: Classifier, parts: Parts, goal: Goal, exports: Path, ledger: Ledger, note: Note
) -> tuple[Rung, list[Rung], dict[str, Any]]:
    """Climbs the ladder until the goal is reached or a rung breaks the promise, also with half of its cut.

    Args:
        classifier: the original.
        parts: pictures.
        goal: what is wanted.
        exports: an empty folder for them.
        ledger: of what was taught; the networks lie beside it, so that a climb that was stopped goes on with them.
        note: told what happens.

    Returns:
        The best rung, all of them, and the best one's figures on the reported part.
    """
    ladder = Ladder(classifier, parts, goal, exports, ledger, note)
    best = ladder.climb("as it is", classifier)
    if best.speedup < goal.speedup:
        best = _climb_in_eight_bits(ladder, best, "0")
    if best.speedup < goal.speedup:
        try:
            best = _climb_with_smaller(ladder, best)
        except SpecError as reason:
            note(f"the network is left as it is: {reason}")
    best = ladder.best()
    return best, ladder.rungs, ladder.report(best)


def _climb_with_smaller(ladder: Ladder, best: Rung) -> Rung:
    """Rungs with smaller networks; the best of all.

    Raises:
        SpecError: the network cannot be pruned.
    """
    goal = ladder.goal
    prune.check(ladder.classifier.network)
    levels = math.ceil(math.log(goal.speedup * MARGIN / best.speedup, MOST_AT_ONCE) - 1e-9)
    levels = ladder.ledger.once("levels", lambda: levels)
    minutes = goal.minutes / levels
    for level in range(1, levels + 1):
        wanted = min(MOST_AT_ONCE, (goal.speedup * MARGIN / best.speedup) ** (1 / (levels - level + 1)))
        better = _next_rung(ladder, best, f"{level}", wanted, minutes)
        if better is None:
            ladder.note("that will not do: half as far once more")
            better = _next_rung(ladder, best, f"{level} again", math.sqrt(wanted), minutes)
        if better is None:
            ladder.note("nothing of this rung is faster and keeps the promise; the one before it is the best")
            break
        best = better
        if best.speedup >= goal.speedup:
            break
    return best


def _next_rung(ladder: Ladder, best: Rung, name: str, wanted: float, minutes: float) -> Rung | None:
    """A rung with a network that is `wanted` times cheaper; None if it is no faster or breaks the promise."""
    smaller = ladder.once(name, partial(_smaller, ladder, best, wanted, minutes))
    if smaller is None:
        return None
    found = ladder.climb(prune.said(ladder.classifier.network, smaller.network), smaller)
    found = _climb_in_eight_bits(ladder, found, name)
    return found if found.speedup > best.speedup else None


def _smaller(ladder: Ladder, best: Rung, wanted: float, minutes: float) -> ResNet | None:
    """A network that is `wanted` times cheaper than a rung's and was taught; None if there is none."""
    network = cut(ladder, best, wanted)
    if network is None:
        ladder.note(f"nothing that can be taken out makes the network {wanted:.2f} times cheaper")
        return None
    said = prune.said(ladder.classifier.network, network)
    if network.spec in {rung.classifier.network.spec for rung in ladder.rungs}:
        ladder.note(f"{said}: was taught before")
        return None
    ladder.note(f"{said}: taught by the original for {minutes:.1f} minutes")
    return taught(network, ladder.classifier, ladder.parts.train, 60 * minutes, SMALLER_RATE)


def _climb_in_eight_bits(ladder: Ladder, best: Rung, name: str) -> Rung:
    """Teaches the newest network in 8 bits, if these would be the fastest and lose too much; the best rung then."""
    newest = ladder.rungs[-1]
    mine = [rung for rung in ladder.rungs if rung.classifier is newest.classifier]
    lost = [rung for rung in mine if rung.target and rung.target.precision == "int8" and not rung.promised]
    in_float_kept = any(rung.promised for rung in mine if rung.target is None)  # or it is not 8 bits that lose
    if not in_float_kept or not any(rung.speedup > best.speedup for rung in lost):
        return best

    def teach() -> ResNet:
        minutes = ladder.goal.minutes * ROUNDED_PART
        ladder.note(f"8 bits lose too much: taught by the original with rounded weights for {minutes:.1f} minutes")
        network = copy.deepcopy(newest.classifier.network)
        with rounding.rounded(network, ladder.looked_at):
            return taught(network, ladder.classifier, ladder.parts.train, 60 * minutes, ROUNDED_RATE)

    made = ladder.once(f"{name} in 8 bits", teach)
    return best if made is None else ladder.climb(f"{newest.network}, taught in 8 bits", made)


def save(best: Rung, folder: Path, compressed: dict[str, Any], reported: dict[str, Any]) -> None:
    """Writes a rung as a classifier, with its export under `runtimes`.

    Args:
        best: the rung; its export is copied.
        folder: of the new classifier.
        compressed: what its provenance says of where it comes from.
        reported: its figures on the reported part, as `run` returns them.
    """
    made = replace(
        best.classifier,
        provenance=best.classifier.provenance | {"compressed": compressed},
        metrics={"split": "reported", "accuracy": reported["accuracy"]},
    )
    made.save(folder)
    if best.target is not None:
        assert best.file is not None
        files = exporting.describe(made, best.target, best.file, folder / FOLDER / best.target.name)
        register(folder, best.target, files, reported)


def forget(ledger: Ledger) -> None:
    """Removes what was only kept in case of a stop."""
    shutil.rmtree(ledger.path.parent / TAUGHT, ignore_errors=True)
    ledger.path.unlink(missing_ok=True)
