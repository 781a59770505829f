"""What a person gives a verb, as the rooms below take it: data, a split of them, a recipe; and as a command again."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resvision import recipes, zoo
from resvision.classifier import Predictor
from resvision.data import sources
from resvision.data.pictures import DataSet, Split, listed, recorded_division
from resvision.data.statistics import facts
from resvision.errors import DataError, InputError, RecipeError, RunError
from resvision.files import path_of
from resvision.preprocess import Preprocess
from resvision.progress import Reporter
from resvision.recipe import ADAPTIVE, LENGTHS, Recipe, make, typed
from resvision.search import costs, remedies
from resvision.search.candidates import Candidate
from resvision.training import RunFolder, pretrained
from resvision.training.run import read_recipe

Data = str | Path | sources.Arrays


def dataset_of(
    data: Data,
    validation: sources.Arrays | None,
    classes: Sequence[str] | None,
    columns: sources.Columns,
    reporter: Reporter,
) -> DataSet:
    """The data, from a place or from arrays in memory.

    Raises:
        DataError: they cannot be used, or something is given beside them that only goes with arrays or a manifest.
    """
    if (given := _given(columns)) and not _is_manifest(data):
        what = data if isinstance(data, (str, Path)) else "arrays"
        raise DataError(f"{what}: only a manifest (.csv, .tsv) has columns: leave out {' and '.join(given)}")
    if isinstance(data, (str, Path)):
        if validation is not None or classes is not None:
            what = "validation" if validation is not None else "classes"
            raise DataError(f"{what}= goes with arrays in memory, and {data} says what is what by itself: leave it out")
        with reporter:  # which a download that ends in the middle leaves with a bar
            return sources.load(data, columns, reporter.download)
    return sources.from_arrays(data, validation, classes)


def _given(columns: sources.Columns) -> dict[str, str]:
    """The options of the columns that differ from the usual ones."""
    usual = vars(sources.DEFAULT_COLUMNS)
    return {f"--{name}-column": value for name, value in vars(columns).items() if value != usual[name]}


def _is_manifest(data: Data) -> bool:
    return isinstance(data, (str, Path)) and Path(data).suffix.lower() in (".csv", ".tsv") and not Path(data).is_dir()


def source_of(data: str | Path, columns: sources.Columns) -> dict[str, Any]:
    """How to find the data again from any working directory."""
    return {"data": sources.place_of(data), "columns": dataclasses.asdict(columns)}


def recorded_data(run: RunFolder) -> tuple[str, sources.Columns]:
    """The data and columns that a run recorded."""
    source = run.read_data()["source"]
    if not source:
        raise RunError(f"{run.path}: was trained on arrays in memory; give the same arrays again")
    return source["data"], sources.Columns(**source["columns"])


def divided_as(provenance: Mapping[str, Any], dataset: DataSet) -> DataSet:
    """The data set, to be divided where it was when a classifier was trained, as far as the classifier records it.

    Without that a set that has grown would validate by pictures that trained.
    """
    return dataclasses.replace(dataset, divided_at=recorded_division(provenance))


def choose_split(dataset: DataSet, split: str | None) -> tuple[str, Split]:
    """A split and its name; of a set that is not divided, as training divides it. None takes test, else val.

    Raises:
        DataError: there is no such split.
    """
    splits = dict(dataset.splits)
    if split == "all":
        parts = list(splits.values())
        if len(parts) > 1:
            raise DataError(f"{dataset.name}: is divided into {', '.join(splits)}; name one of these with --split")
        return "all", parts[0]
    if set(splits) <= {"all", "train"}:
        splits |= sources.prepare(dataset).splits
    if split is None:
        split = "test" if "test" in splits else "val"
    if split not in splits:
        raise DataError(f"{dataset.name}: there is no split {split!r}; there are {', '.join(sorted(splits))}")
    return split, splits[split]


def with_labels_of(classifier: Predictor, dataset: DataSet, split: Split) -> Split:
    """The split with labels that index the classifier's classes, matched by name.

    Raises:
        DataError: the data have a class that the classifier does not know.
    """
    if unknown := sorted(set(dataset.classes) - set(classifier.classes)):
        raise DataError(
            f"{dataset.name}: has classes that the classifier does not know: {listed(unknown)}; "
            f"it knows {listed(list(classifier.classes))}"
        )
    index = np.array([classifier.classes.index(name) for name in dataset.classes], dtype=np.int64)
    return Split(split.pictures, index[split.labels])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Pictures that a classifier is measured on.

    Args:
        source: the data's name.
        name: of the split.
        split: its pictures, with labels that index the classifier's classes.
        dataset: that it is of; None of arrays.
    """

    source: str
    name: str
    split: Split
    dataset: DataSet | None = None

    @property
    def train(self) -> Split | None:
        """The pictures of the same data that train, where there are such."""
        if self.dataset is not None:
            with contextlib.suppress(DataError):
                return sources.prepare(self.dataset).splits["train"]
        return None


def measured_split(
    classifier: Predictor,
    data: Data,
    split: str | None,
    columns: sources.Columns,
    reporter: Reporter,
    first: str = "test",
) -> Measured:
    """The split that is asked for; where none is, `first` if there is one."""
    if not isinstance(data, (str, Path)):
        if split is not None:
            raise InputError(f"split={split!r}: arrays have no splits; leave it out")
        arrays = sources.array_split(data, classifier.classes, "arrays")
        return Measured(source="arrays", name="all", split=arrays)
    dataset = divided_as(classifier.provenance, dataset_of(data, None, None, columns, reporter))
    if split is None and first in dataset.splits:
        split = first
    name, chosen = choose_split(dataset, split)
    return Measured(source=dataset.name, name=name, split=with_labels_of(classifier, dataset, chosen), dataset=dataset)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """The recipe of a run, and where it comes from.

    Args:
        recipe: with single fields replaced.
        base: what `recipe_of` takes to choose alike for other fields: a name that is not "auto", or what was given.
        weights: that it begins with.
        reasons: one line for each thing that was chosen.
    """

    recipe: Recipe
    base: Recipe | str | Path
    weights: pretrained.Pretrained | None
    reasons: tuple[str, ...]


def recipe_of(dataset: DataSet, base: Recipe | str | Path, fields: dict[str, Any]) -> Chosen:
    """The recipe of a run, by name or given, with single fields replaced.

    Raises:
        InputError: there is no such recipe or weights, or a field cannot be as it is.
        DownloadError: the weights cannot be fetched.
    """
    if "steps" in fields:
        raise RecipeError("steps follow from the length: give epochs, minutes or max_steps")
    fields = typed(fields)
    by_name = isinstance(base, str) and base in recipes.NAMES
    given = dict(fields) if by_name else _recorded(base, fields)
    weights, usual = _weights(given), {}
    if weights is not None:
        given |= weights.decided()
        if weights.gate_rate is not None and given.get("gate_rate") is None and not given.get("freeze_trunk"):
            given["gate_rate"] = weights.gate_rate  # gates that learn on without it would all open
        usual = weights.usual()
    found = facts(dataset)
    reasons: tuple[str, ...] = ()
    if by_name:
        choice = recipes.choose(
            str(base),
            found,
            given,
            usual,
            hub=pretrained.hub_can_be_reached(),
            strong_epochs=lambda: _epochs_of_strong(dataset, found, given),
        )
        chosen, base, reasons = choice.recipe, choice.name, choice.reasons
    else:
        chosen, reasons = _repeated(make(_recorded(base, {})), given, fields)
    for name, wanted in chosen.without_effect(fields).items():
        raise RecipeError(f"{name}={fields[name]} means nothing without {wanted}: give that too, or leave {name} out")
    if all(getattr(chosen, name) is None for name in LENGTHS):
        raise RecipeError("the recipe does not say how long to train: give epochs, minutes or max_steps")
    if chosen.channels is None:
        chosen = dataclasses.replace(chosen, channels=usual.get("channels", found.channels))
    return Chosen(recipe=chosen, base=base, weights=weights, reasons=reasons)


def _repeated(recorded: Recipe, given: dict[str, Any], fields: dict[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
    """A recorded recipe with some fields replaced, in which the others follow them as in a recipe by name; and why."""
    base, asked = dataclasses.replace(recorded, accumulate=1), make(given)
    reasons: tuple[str, ...] = ()
    if base.lr == "auto":
        return asked, ()
    if asked.optimizer != base.optimizer:
        base = recipes.for_optimizer(base, asked.optimizer)
        told = [f"{name}={getattr(base, name):g}" for name in ("lr", "weight_decay") if name not in fields]
        reasons += (f"{', '.join(told)}: usual of {asked.optimizer}",) if told else ()
    if asked.batch_size != base.batch_size:
        before, base = base, recipes.for_batch(base, asked.batch_size)
        if base.lr != before.lr and "lr" not in fields:
            reasons += (f"lr={base.lr:g}: scaled from batches of {before.batch_size} to {asked.batch_size}",)
    following = {name: getattr(base, name) for name in ("lr", "rest_lr", "momentum", "weight_decay")}
    if asked.model != base.model and asked.pretrained is None and "spec" not in fields:
        following["spec"] = ()  # it was for the recorded network
    return dataclasses.replace(asked, **{n: v for n, v in following.items() if n not in fields}), reasons


def _epochs_of_strong(dataset: DataSet, found: recipes.DataFacts, given: dict[str, Any]) -> float:
    """About how many epochs that recipe does on this machine in the minutes that are given."""
    # Neither a rate that is still to be found nor exits and gates decide how long a step takes.
    timed = {name: value for name, value in given.items() if name not in ("lr", "rest_lr", *ADAPTIVE)}
    strong = recipes.choose("strong", found, timed).recipe
    assert strong.minutes is not None
    assert strong.channels is not None
    preprocess = Preprocess.plain(strong.size, strong.channels)
    spec = dataclasses.replace(
        zoo.variant(strong.model, strong.spec), num_classes=len(dataset.classes), in_channels=strong.channels
    )
    return 60 * strong.minutes / (costs.picture_seconds(spec, strong, preprocess) * found.pictures)


def _recorded(base: Recipe | str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an earlier recipe, some of them replaced.

    Raises:
        InputError: there is no such file, or it is no recipe.
    """
    if isinstance(base, str) and base and Path(base).name == base and not (Path(base).exists() or Path(base).suffix):
        named = ", ".join(recipes.NAMES)
        raise RecipeError(f"there is no recipe {base!r}: there are {named}, or give a run or its recipe.yaml")
    if not isinstance(base, Recipe):
        path = path_of(base)
        base = read_recipe(RunFolder(path).recipe_file if path.is_dir() else path)
    recorded = dataclasses.asdict(base)
    # Epochs are counted anew, which gives the same steps on the same pictures. Minutes were measured: a repetition
    # keeps what came of them, and a run that differs measures again.
    if recorded["epochs"] or recorded["max_steps"] or (recorded["minutes"] and fields.keys() - {"seed"}):
        recorded["steps"] = None
    if recorded["first_size"] and "size" in fields and "first_size" not in fields:
        recorded["first_size"] = max(1, round(recorded["first_size"] * fields["size"] / recorded["size"]))
    if {"model", "spec", "size", "batch_size", "exits", "compile"} & fields.keys():
        recorded["memory"] = "auto"  # what did for the recorded network was measured
    if fields.get("memory") == "checkpoint" and "compile" not in fields:
        recorded["compile"] = None  # likewise
    return replaced(recorded, fields)


def replaced(own: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a recipe, some of them replaced; a new length takes the place of any other."""
    lengths = (*LENGTHS, "steps") if set(LENGTHS) & fields.keys() else ()
    return {name: value for name, value in own.items() if name not in lengths} | dict(fields)


def _weights(given: dict[str, Any]) -> pretrained.Pretrained | None:
    """The weights that the fields of a recipe ask for."""
    if given.get("pretrained") is None:
        return None
    wanted = {name: given[name] for name in ("model", "spec", "channels") if name in given}
    return pretrained.read(given["pretrained"], **wanted)


def refuse_untried(recipe: Recipe) -> None:
    """Examinations and searches train the network alone, from scratch, at a given rate.

    Raises:
        RecipeError: the recipe asks for something else.
    """
    if recipe.pretrained is not None or recipe.lr == "auto":
        field = "pretrained" if recipe.pretrained is not None else "lr"
        raise RecipeError(f"{field}={getattr(recipe, field)}: trials train from scratch at a given rate; leave it out")
    spec = zoo.variant(recipe.model, recipe.spec)
    if recipe.exits is not None or recipe.gate_rate is not None or spec.exits or spec.gates:
        raise RecipeError("networks are compared without early exits and gates: leave out exits, gates and gate_rate")


def options_of(candidate: Candidate) -> dict[str, Any]:
    """A candidate as fields of a recipe."""
    return {"model": candidate.model, "spec": candidate.spec, "size": candidate.size}


def command(verb: str, data: Data, columns: sources.Columns, *options: Mapping[str, Any]) -> str:
    """A command line, with the data's place, the columns that differ from the usual ones, and options.

    `verb` may have its first argument behind it, such as "study paths".
    """
    words = [sources.spelt(data) if isinstance(data, (str, Path)) else "DATA"]
    words += [word for option in _given(columns).items() for word in option]
    words += [word for some in options for word in remedies.flags(some)]
    return " ".join(map(shlex.quote, ["resvision", *verb.split(), *words]))
