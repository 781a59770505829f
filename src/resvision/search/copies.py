"""Copies of a picture within the training split and between it and the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resvision.data import audit
from resvision.data.pictures import DataSet, Indices
from resvision.measure import now
from resvision.search.pool import evenly

LEAST_LOOKED_AT, MOST_LOOKED_AT = 2000, 150_000  # pictures that are compared with each other
LISTED = 1000  # pairs that the numbers name


def find(dataset: DataSet, report: str, seconds: float) -> dict[str, Any]:
    """The copies within the training split and between it and the others.

    Args:
        dataset: with its splits.
        report: the split whose accuracy is told.
        seconds: that reading the pictures may take; where they do not suffice an even part is looked at, in which
            train has at least half of the places, or all of its pictures.
    """
    names = list(dataset.splits)
    some = dataset.splits["train"]
    total = sum(len(split) for split in dataset.splits.values())
    probe = some.take(np.arange(min(64, len(some))))
    start = now()
    audit.look(probe)
    pace = (now() - start) / len(probe)
    most = min(total, max(round(seconds / pace), LEAST_LOOKED_AT), MOST_LOOKED_AT)
    beside = min(total - len(some), max(most // 2, most - len(some)))  # pictures of the other splits
    share = {name: beside / max(1, total - len(some)) for name in names} | {
        "train": min(1.0, (most - beside) / len(some))
    }
    hashes, squares, origin, index = [], [], [], []
    for place, name in enumerate(names):
        split = dataset.splits[name]
        part = share[name]
        which = np.arange(len(split)) if part == 1 else evenly(split.labels, max(1, round(part * len(split))))
        looked = audit.look(split.take(which))
        hashes.append(looked[0])
        squares.append(looked[1])
        origin.append(np.full(len(which), place))
        index.append(which)
    of, at = np.concatenate(origin), np.concatenate(index)
    found = audit.find(np.concatenate(hashes), np.concatenate(squares))
    trains, reports = of == names.index("train"), of == names.index(report)
    leaks = found.across(reports, trains)
    exact = {tuple(pair) for pair, same in zip(found.pairs.tolist(), found.exact.tolist(), strict=True) if same}
    equal = np.concatenate(hashes)
    groups = _members(found.group, trains)
    redundant = [int(at[member]) for members in groups for member in members[1:]]
    labels = some.labels
    different = [m for m in groups if len(set(labels[at[m]].tolist())) > 1]

    def called(place: int) -> str:
        return f"{names[of[place]]}: {dataset.splits[names[of[place]]].pictures.name(int(at[place]))}"

    return {
        "complete": all(part == 1 for part in share.values()),
        "pictures": {name: int((of == place).sum()) for place, name in enumerate(names)},
        "pairs": len(found.pairs),
        "exact_pairs": len(exact),
        "leaked": len(leaks),
        "leaked_exact": int(np.isin(equal[list(leaks)], equal[trains]).sum()),
        # Of a part of the training pictures only a part of the copies is found.
        "leaked_part": min(1.0, len(leaks) / max(1, int(reports.sum())) / share["train"]),
        # Copies and pictures that were looked at, of each split that is neither.
        "beside": {
            name: [len(found.across(mine, trains)), int(mine.sum())]
            for place, name in enumerate(names)
            if name not in ("train", report)
            for mine in [of == place]
        },
        "redundant": len(redundant),
        "redundant_part": min(1.0, len(redundant) / max(1, int(trains.sum())) / share["train"]),
        "contradictions": len(different),
        "listed": [[called(one), called(other)] for one, other in list(leaks.items())[:LISTED]]
        + [[called(m[0]), called(m[1])] for m in groups[:LISTED]],
        "leaks": [[int(at[one]), int(at[other])] for one, other in leaks.items()],
        "leaked_train": [int(at[one]) for one in found.across(trains, reports)],  # all of them, for one in report
        "groups": [at[members].tolist() for members in groups],
        "redundant_train": redundant,
    }


def _members(group: Indices, which: npt.NDArray[np.bool_]) -> list[list[int]]:
    """The members of each group that has several among those of the mask."""
    found: dict[int, list[int]] = {}
    for place in np.flatnonzero(which).tolist():
        found.setdefault(int(group[place]), []).append(place)
    return [members for members in found.values() if len(members) > 1]
