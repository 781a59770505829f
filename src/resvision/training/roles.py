"""Roles: which pictures train, which choose and which are reported. What is reported never chooses anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resvision.classifier import HEADER_FILE
from resvision.data.pictures import DataSet, Split, divide, fingerprint, names, recorded_division
from resvision.data.sources import place_of, prepare
from resvision.errors import DataError, RecipeError
from resvision.files import path_of, read_json
from resvision.recipe import Recipe
from resvision.training.pretrained import HUB
from resvision.training.run import RunFolder

HOLDOUT = 0.1  # part of the training split that is held back for choosing ...
HOLDOUT_MOST = 2000  # ... unless that is more pictures than a choice between epochs needs, ...
HOLDOUT_LEAST = 500  # ... or fewer than tell epochs apart, where nothing else is chosen; then the last one is kept
NEARLY = 0.9  # as many, since each class is rounded
HALF = "half of "  # what a reported split is called whose other half chooses
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
        divided_at: of data that came without a validation or test split, as in `DataSet`.
        method: where the splits come from.
        purposes: what is chosen.
        unused: a split that has no role.
        known: whether the network that the run begins with may have learnt what chooses.
    """

    classes: tuple[str, ...]
    train: Split
    report: Split
    report_name: str
    chooser: Split | None
    chooser_name: str
    divided_at: Mapping[str, str]
    method: str
    purposes: tuple[str, ...] = ()
    unused: str = ""
    known: bool = False

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
        what = " and ".join(self.purposes)
        if self.chooser is not None and self.chooser_name == "held":
            to = f"to choose {what}" if what else "and only watched"
            text += f", {len(self.chooser):,} of train are held back {to} (--holdout)"
        elif self.chooser is not None:
            text += f", {len(self.chooser):,} of {self.chooser_name} " + (f"choose {what}" if what else "are watched")
        text += ", though the pretrained network may know them: rather leave out --holdout" if self.known else ""
        text += f", {self.unused} is not used" if self.unused else ""
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
            "validation": names(self.report) if self.divided_at else None,
            "divided_at": dict(self.divided_at),
            "held_back": names(held) if held is not None else None,
        }

    def fingerprint(self) -> str:
        """A hash of classes and pictures; to resume with others would be a lie."""
        # What is held back of train is known by what is left.
        given = (self.chooser,) if self.chooser is not None and self.chooser_name != "held" else ()
        return fingerprint(self.classes, (self.train, self.report, *given))


def assign(dataset: DataSet, recipe: Recipe, record: Mapping[str, Any] | None = None) -> Roles:
    """Gives every split its role, and holds back a part of the training split where something must be chosen by it.

    Args:
        dataset: its splits.
        recipe: what it holds back, and whether something is chosen.
        record: what a run that is resumed recorded of its roles.

    Raises:
        DataError: there is nothing to train on, or a class has too few pictures to be divided.
        RecipeError: `holdout` leaves nothing to choose by, or there is a split that chooses in its place.
    """
    given = dataset.splits
    if record is not None:
        dataset = replace(dataset, divided_at=recorded_division(record))
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
    has_seen = (
        _has_seen_train(recipe, dataset.name, round((share or usual) * len(train)))
        if record is None
        else any(name.startswith(HALF) for name in record["counts"])
    )
    # What the weights know does not tell one epoch from another either.
    worth_it = test is not None and recipe.keep != "last" and usual * len(train) >= HOLDOUT_LEAST and not has_seen
    if record is not None:
        worth_it = record.get("held_back") is not None
    unused = "val" if share == 0 and not choices and chooser is not None else ""
    if share == 0 and not choices:
        chooser = None
    elif share is None and chooser is None and choices and has_seen:
        try:
            rest, chooser = divide(report, 0.5, dataset.name)
        except DataError as error:
            raise DataError(f"{error}; or --holdout {HOLDOUT} lets a part of train choose") from error
        report, chooser_name, report_name = rest, report_name, HALF + report_name
    elif share is None and chooser is None:
        share = usual if choices or worth_it else None
    if share:
        try:
            train, chooser = divide(train, share, dataset.name)
        except DataError as error:
            raise DataError(str(error) if choices else f"{error}; or --holdout 0 holds nothing back") from error
    return Roles(
        classes=dataset.classes,
        train=train,
        report=report,
        report_name=report_name,
        chooser=chooser,
        chooser_name=chooser_name,
        divided_at=dataset.divided_at if dataset.splits is not given else {},
        method=dataset.method,
        purposes=_purposes(recipe),
        unused=unused,
        known=bool(recipe.holdout and has_seen and record is None),
    )


def _purposes(recipe: Recipe) -> tuple[str, ...]:
    """What is chosen where there are pictures to choose by."""
    chosen = {
        "the epoch": recipe.keeps_best,
        "when to stop": recipe.patience is not None or recipe.target_accuracy is not None,
        "the exits' thresholds": recipe.has_exits,
    }
    return tuple(purpose for purpose, is_chosen in chosen.items() if is_chosen)


def _has_seen_train(recipe: Recipe, name: str, held: int) -> bool:
    """Whether the weights are of a network of one's own that may know what would be held back of the training split.

    On such pictures its answers are surer and better than they will be: exits chosen by them leave too early, and a
    target is reached at once. A run that held back as many held back the same, since the division is by content. Of
    weights that come from elsewhere or from other data only exits ask: their trunk learnt these classes.

    Args:
        recipe: of the run.
        name: of its data.
        held: pictures that would be held back.
    """
    if recipe.pretrained is None or recipe.pretrained.startswith(HUB):
        return False
    record = _record_of(path_of(recipe.pretrained))
    recorded = (record.get("source") or {}).get("data") or record.get("name")
    same_data = recorded is not None and (recorded == name or place_of(recorded) == place_of(name))
    if same_data and record.get("held_back") is not None:
        return len(record["held_back"]) < NEARLY * held
    return recipe.has_exits or same_data


def _record_of(folder: Path) -> dict[str, Any]:
    """What is known of the data that a network in a folder was trained on; nothing where there are only weights."""
    if RunFolder(folder).data_file.is_file():
        return RunFolder(folder).read_data()
    header = folder / HEADER_FILE  # of a network that was made of another one, such as by compression
    return {"name": read_json(header).get("provenance", {}).get("data")} if header.is_file() else {}
