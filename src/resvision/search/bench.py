"""The training pictures that an examination works on: those in memory, by a plan, and some of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resvision.data.pictures import Indices, Split
from resvision.errors import DataError, DivergedError
from resvision.recipe import Recipe
from resvision.search import plan
from resvision.search.pool import FOLDS, evenly, kept_side, preprocess_of, read
from resvision.search.trials import BASELINE, Trials, unpacked
from resvision.training.figures import DIVERGED_ADVICE


class Bench:
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
        self.planned = planned
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
        preprocess = preprocess_of(pool, self.recipe)
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

    def out_of_fold(self, baseline: Sequence[dict[str, Any]]) -> tuple[Indices, npt.NDArray[np.float64], Indices]:
        """Probabilities by the baseline's networks, none of which has seen the picture.

        Args:
            baseline: what `baseline` gave for each fold.

        Returns:
            Index in the training split (N,), probabilities (N, K), and labels (N,).
        """
        where, rows = [], []
        for number, row in enumerate(baseline):
            mine = self.chosen[self.trials.judging(number)]
            where.append(mine)
            rows.append(unpacked(row["log_p"], len(mine), self.trials.classes))
            if row.get("further_log_p"):
                where.append(np.array(row["further_index"], dtype=np.int64))
                rows.append(unpacked(row["further_log_p"], -1, self.trials.classes))
        index = np.concatenate(where)
        return index, np.concatenate(rows), self.train.labels[index]

    def _read(self, which: Indices, max_bad: float) -> tuple[Split, Indices]:
        assert self.recipe.channels is not None
        return read(self.train.take(which), kept_side(self.recipe), self.recipe.channels, max_bad)
