"""Roles: which pictures train, which choose and which are reported. What is reported never chooses anything."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from resvision.data.pictures import DataSet, Split, divide
from resvision.data.sources import prepare
from resvision.errors import DataError, RecipeError
from resvision.recipe import Recipe
from resvision.training.pretrained import HUB

HOLDOUT = 0.1  # part of the training split that is held back for choosing ...
HOLDOUT_MOST = 2000  # ... unless that is more pictures than a choice between epochs needs, ...
HOLDOUT_LEAST = 500  # ... or fewer than tell epochs apart, where nothing else is chosen; then the last one is kept
WATCHED_MOST = 1000  # pictures that are evaluated every epoch where nothing is chosen by them ...
WATCHED_PART = 0.3  # ... and at most this many times the training pictures, which takes a tenth of an epoch's time ...
WATCHED_LEAST = 100  # ... unless these would be too few to tell anything


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The splits of one run.

    Args:
        classes: the class names.
        train: pictures that train.
        report: pictures whose accuracy is the run's result.
        report_name: "test", "val", or "half of" one of them where the other half chooses.
        chooser: pictures that choose the epoch or the exits, or stop the run; None if nothing is chosen.
        chooser_name: "val" or "test", or "held" for a part of the training split.
        divided: whether the data came without a validation or test split.
        method: where the splits come from.
    """

    classes: tuple[str, ...]
    train: Split
    report: Split
    report_name: str
    chooser: Split | None
    chooser_name: str
    divided: bool
    method: str

    @property
    def watched(self) -> tuple[str, Split] | None:
        """The split whose accuracy is shown every epoch; a test split is looked at once, at the end.

        Where nothing is chosen by it, an evenly spaced part of it is enough.
        """
        if self.chooser is not None:
            return self.chooser_name, self.chooser
        if self.report_name == "test":
            return None
        most = min(WATCHED_MOST, max(WATCHED_LEAST, round(WATCHED_PART * len(self.train))))
        if len(self.report) <= most:
            return self.report_name, self.report
        part = np.linspace(0, len(self.report) - 1, most).astype(np.int64)
        return self.report_name, self.report.take(part)

    def describe(self) -> str:
        """Who does what, for a person."""
        text = f"{len(self.train):,} pictures train"
        if self.chooser is not None and self.chooser_name == "held":
            text += f", {len(self.chooser):,} of train are held back to choose the epoch (--holdout)"
        elif self.chooser is not None:
            text += f", {len(self.chooser):,} of {self.chooser_name} choose"
        once = ", looked at once" if self.report_name == "test" else ""
        return f"{text}, {len(self.report):,} of {self.report_name} are reported{once}; splits: {self.method}"

    def record(self, name: str, source: dict[str, Any]) -> dict[str, Any]:
        """What data.json holds: enough to find the data and the same splits again."""
        held = self.chooser if self.chooser_name == "held" else None
        return {
            "name": name,
            "source": source,
            "classes": list(self.classes),
            "method": self.method,
            "fingerprint": self.fingerprint(),
            "counts": {
                "train": len(self.train),
                self.report_name: len(self.report),
                "chooser": len(self.chooser or ()),
            },
            "validation": _names(self.report) if self.divided else None,
            "held_back": _names(held) if held is not None else None,
        }

    def fingerprint(self) -> str:
        """A hash of the classes and of the names and labels of all pictures; to resume with others would be a lie."""
        digest = hashlib.blake2b("\0".join(self.classes).encode(), digest_size=16)
        # What is held back of train is known by what is left.
        given = (self.chooser,) if self.chooser is not None and self.chooser_name != "held" else ()
        for split in (self.train, self.report, *given):
            digest.update(split.labels.tobytes())
            digest.update("\0".join(_names(split)).encode())
        return digest.hexdigest()


def assign(dataset: DataSet, recipe: Recipe) -> Roles:
    """Gives every split its role, and holds back a part of the training split where something must be chosen by it.

    Raises:
        DataError: there is nothing to train on, or a class has too few pictures to be divided.
        RecipeError: `holdout` leaves nothing to choose by, or there is a split that chooses in its place.
    """
    given = dataset.splits
    dataset = prepare(dataset)
    train, val, test = dataset.splits["train"], dataset.splits.get("val"), dataset.splits.get("test")
    report = val if test is None else test
    assert report is not None  # prepare() sees to it
    chooser, chooser_name = (val, "val") if test is not None and val is not None else (None, "held")
    share, choices = recipe.holdout, recipe.choices
    report_name = "val" if test is None else "test"
    if share and chooser is not None:
        raise RecipeError(f"holdout={share:g}: {dataset.name} has a val split, which chooses: leave it out")
    if share == 0 and choices and chooser is None:
        raise RecipeError(f"holdout=0 leaves nothing to choose by, and {' and '.join(choices)} must choose")
    usual = min(HOLDOUT, HOLDOUT_MOST / len(train))
    worth_it = test is not None and recipe.keep != "last" and usual * len(train) >= HOLDOUT_LEAST
    if share == 0 and not choices:
        chooser = None
    elif share is None and chooser is None and _has_seen_train(recipe) and not worth_it:
        try:
            rest, chooser = divide(report, 0.5, dataset.name)
        except DataError as error:
            raise DataError(f"{error}; or --holdout {HOLDOUT} lets a part of train choose") from error
        report, chooser_name, report_name = rest, report_name, f"half of {report_name}"
    elif share is None and chooser is None:
        share = usual if choices or worth_it else None
    if share:
        train, chooser = divide(train, share, dataset.name)
    return Roles(
        classes=dataset.classes,
        train=train,
        report=report,
        report_name=report_name,
        chooser=chooser,
        chooser_name=chooser_name,
        divided=dataset.splits is not given,
        method=dataset.method,
    )


def _has_seen_train(recipe: Recipe) -> bool:
    """Whether exits are put on a network of one's own, which knows the pictures that its own run did not hold back.

    On a part of these its answers are surer and better than they will be, and exits chosen by them leave too early.
    """
    return recipe.has_exits and recipe.pretrained is not None and not recipe.pretrained.startswith(HUB)


def _names(split: Split) -> list[str]:
    return [split.pictures.name(index) for index in range(len(split))]
