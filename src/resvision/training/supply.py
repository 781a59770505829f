"""The pictures of a run: those that train, in batches, and those that judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from resvision.data.loader import EvaluationBatches, TrainingBatches, stays_in_memory
from resvision.data.pictures import DataSet, Split, listed
from resvision.data.readable import BadPictures, check_readable, screen, unreadable
from resvision.data.statistics import normalised
from resvision.data.workers import default_workers
from resvision.errors import DataError
from resvision.preprocess import Preprocess
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.runtime import device
from resvision.training.pretrained import Pretrained
from resvision.training.roles import Roles, assign
from resvision.training.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class Supply:
    """The pictures of a run.

    Args:
        parts: which of them train, choose and are reported.
        preprocess: of all of them.
        batches: of those that train.
        reported: those whose accuracy is the run's result.
        watched: those that are looked at after each epoch.
        bad: those that cannot be read, which grow more as they are decoded.
        skipped: the names of those that were known to be bad before the first step.
        trained: how many train, by their headers.
        counts: how many of each class do, (K,).
    """

    parts: Roles
    preprocess: Preprocess
    batches: TrainingBatches
    reported: EvaluationBatches
    watched: EvaluationBatches | None
    bad: BadPictures
    skipped: tuple[str, ...]
    trained: int
    counts: npt.NDArray[np.int64]


def gather(
    dataset: DataSet, recipe: Recipe, run: RunFolder, weights: Pretrained | None, reporter: Reporter, *, resume: bool
) -> tuple[Recipe, Supply]:
    """Gives every picture its part, and reads what must be readable before anything is learnt.

    Args:
        dataset: the pictures.
        recipe: whose `workers` are decided here where they are None.
        run: what it recorded holds with `resume`.
        weights: whose preprocessing is kept.
        reporter: told who does what, and what was skipped.
        resume: whether the run goes on.

    Raises:
        DataError: the data cannot be used.
        RecipeError: the recipe does not fit the data.
    """
    parts = assign(dataset, recipe, run.read_data() if resume else None)
    train, bad, largest = screen(parts.train, recipe.max_bad)
    for judging in (parts.report, parts.chooser):
        if judging is not None:
            check_readable(judging)
    if recipe.workers is None:  # processes would start longer than they read small pictures once
        workers = 0 if stays_in_memory(train, recipe, largest) else default_workers()
        recipe = replace(recipe, workers=workers)
    assert recipe.workers is not None
    preprocess = run.read_preprocess() if resume else _preprocess(train, recipe, weights)
    batches = TrainingBatches(train, recipe, preprocess, bad, largest, where=device())
    counts = np.bincount(batches.labels, minlength=len(parts.classes))
    if lost := [name for name, count in zip(parts.classes, counts, strict=True) if not count]:
        raise DataError(f"{dataset.name}: no training picture of {listed(lost)} can be read; {unreadable(bad.reasons)}")
    reported = EvaluationBatches(parts.report, preprocess, recipe.workers)
    watched = None
    if parts.watched is not None:
        whole = parts.watched[1] is parts.report
        watched = reported if whole else EvaluationBatches(parts.watched[1], preprocess, recipe.workers)
    reporter.note(parts.describe())
    for judging_batches in (reported, watched):
        if judging_batches is not None:
            judging_batches.hold()  # a picture that cannot be decoded is named before anything was learnt in vain
    if batches.cache_note is not None:
        reporter.note(batches.cache_note)
    for name, reason in bad.reasons.items():
        reporter.note(f"skipped {name}: {reason}")
    return recipe, Supply(
        parts=parts,
        preprocess=preprocess,
        batches=batches,
        reported=reported,
        watched=watched,
        bad=bad,
        skipped=tuple(sorted(bad.reasons)),
        trained=len(train),
        counts=counts,
    )


def _preprocess(split: Split, recipe: Recipe, weights: Pretrained | None) -> Preprocess:
    """The recipe's preprocessing, normalised as pretrained weights expect it, else by the training pictures' values."""
    assert recipe.channels is not None
    if weights is not None and weights.preprocess is not None:
        return replace(weights.preprocess, size=recipe.size, crop=recipe.crop)
    return normalised(split, Preprocess.plain(recipe.size, recipe.channels, recipe.crop))
