"""Verbs that make a classifier: train, import, demo."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resvision import importing, inputs, recipes, zoo
from resvision.classifier import Classifier
from resvision.data import sources
from resvision.data.pictures import DataSet
from resvision.errors import DataError, Interrupted, RecipeError, RunError, SpecError, StorageError, signal_of
from resvision.evaluation import Evaluation
from resvision.exits import with_exits_and_gates
from resvision.files import path_of
from resvision.inputs import Data
from resvision.measure import now
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.report import card, plots
from resvision.training import RunFolder
from resvision.training import train as run_training


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What `train` made: the classifier, the folder it lies in, and what result.json holds."""

    classifier: Classifier
    folder: Path
    result: dict[str, Any]


def train(
    data: Data | None = None,
    *,
    validation: sources.Arrays | None = None,
    classes: Sequence[str] | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    recipe: Recipe | str | Path = "auto",
    out: str | Path | None = None,
    resume: str | Path | None = None,
    tensorboard: bool = False,
    reporter: Reporter | None = None,
    **fields: Any,
) -> TrainingResult:
    """Trains a network and leaves it, with all its figures, in a run folder.

    Args:
        data: a built-in name, a folder, an archive or a manifest (see `data.sources.load`), or a pair
            (pictures, labels) of arrays. With `resume` it may be left out unless it was arrays.
        validation: a pair of arrays to evaluate on.
        classes: the names of integer labels in arrays.
        columns: of a manifest.
        recipe: the name of one, as in `recipes.NAMES`; the folder or the recipe.yaml of an earlier run; or a Recipe.
        out: the run folder; None takes the next number under runs/.
        resume: the folder of an interrupted run; it goes on as it was begun.
        tensorboard: also write TensorBoard's event files.
        reporter: told about the progress; None is silent.
        **fields: any field of `Recipe`, in place of the recipe's own.

    Raises:
        InputError: the data, the recipe, its pretrained weights or the folder cannot be used.
        DownloadError: data or weights cannot be fetched.
        DivergedError: the loss is not a finite number.
        Interrupted: a signal came; the state is saved.
    """
    begin = now()
    reporter = reporter or Reporter()
    run = None
    if resume is not None:
        if out is not None or recipe != "auto" or fields:
            changed = [n for n, v in (("out", out), ("recipe", recipe)) if v not in (None, "auto")] + sorted(fields)
            raise RecipeError(f"--resume goes on with the run's own recipe and folder: leave out {', '.join(changed)}")
        run = RunFolder.open(resume)
        if run.result_file.exists():
            go_on = f"--pretrained {shlex.quote(str(run.path))} begins with what it learnt"
            raise RunError(f"{run.path}: this run has ended, and there is nothing to go on with; {go_on}")
        recorded = run.read_data()["source"]
        if data is None:
            data, columns = inputs.recorded_data(run)
        elif columns == sources.DEFAULT_COLUMNS and recorded:
            columns = sources.Columns(**recorded["columns"])
    if data is None:
        raise DataError("no data were given: name a built-in set, a folder, an archive or a CSV manifest")
    try:
        dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    except DataError as error:
        if run is None or not isinstance(data, (str, Path)):
            raise
        again = f"resvision train DATA --resume {shlex.quote(str(run.path))}"
        raise DataError(f"{error}; where the data are elsewhere now: {again}") from error
    source = inputs.source_of(data, columns) if isinstance(data, (str, Path)) else {}

    weights = None
    if run is not None:
        chosen = run.read_recipe()
    else:
        made = inputs.recipe_of(dataset, recipe, fields)
        chosen, weights = made.recipe, made.weights
        dataset = dataset if weights is None else inputs.divided_as(weights.provenance, dataset)
        for reason in made.reasons:
            reporter.note(reason)
        # Refuses what cannot be, before there is a folder.
        with_exits_and_gates(zoo.variant(chosen.model, chosen.spec), chosen).drop_rates(chosen.drop_path)
        run = RunFolder.create(out, "train")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes; training in {run.path}")
    options = {"resume": resume is not None, "tensorboard": tensorboard, "begin": begin}
    return _trained(dataset, chosen, run, reporter, source, weights=weights, **options)


def _trained(
    dataset: DataSet, recipe: Recipe, run: RunFolder, reporter: Reporter, source: dict[str, Any], **options: Any
) -> TrainingResult:
    """Trains in a folder and draws what came of it, whenever Ctrl-C comes."""
    try:
        with run.removed_if_empty():
            classifier, result, evaluation = run_training(dataset, recipe, run, reporter, source=source, **options)
        _report(run, classifier, result, evaluation, reporter)
    except KeyboardInterrupt as stop:  # a second signal, or one beside the steps
        if run.result_file.exists():
            left = f"stopped while plots were drawn; {run.path} holds the classifier and its figures"
            raise Interrupted(left, signal_of(stop)) from None
        if not run.last_checkpoint.exists():
            raise
        raise Interrupted(f"stopped; go on from the last save with: {run.goes_on()}", signal_of(stop)) from None
    return TrainingResult(classifier=classifier, folder=run.path, result=result)


def import_weights(
    file: str | Path,
    *,
    model: str | None = None,
    spec: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> tuple[Classifier, Path]:
    """Turns weights of torchvision, timm or a plain PyTorch script, or a Keras model, into a classifier in a folder.

    Args:
        file: a state dict, .safetensors or written by torch.save, or a .keras file; no code in it is run.
        model: the network's name here; a .keras file of `resvision.keras` tells it.
        spec: FIELD=VALUE in which the network differs from that name, as in `zoo.variant`.
        classes: names in the order of the logits, numbers as text; None numbers them, unless the file tells them.
        preprocess: fields of `Preprocess`, as the weights were trained with. For ImageNet networks those left out are
            torchvision's; CIFAR networks have no common ones, so that mean and std must be given. A .keras file tells
            those that its layers apply.
        out: the folder; None takes the next number under runs/.

    Raises:
        ClassifierError: the file holds no weights, they do not fit the network, or the classes are not as many as the
            logits.
        InputError: a field does not exist, or its value is out of range.
        MissingExtraError: the file is of Keras, which is not installed.
    """
    path = path_of(file)
    spec = (spec,) if isinstance(spec, str) else spec  # which is a sequence, too, of letters
    if spec and model is None:
        raise SpecError(f"spec {spec[0]!r} says how a network differs from its name: give the name with --model")
    if path.suffix == ".keras":
        from resvision.keras import from_keras  # here, since TensorFlow takes seconds to begin, and may be missing

        wanted = None if model is None else zoo.variant(model, spec)
        classifier = from_keras(path, spec=wanted, classes=classes, preprocess=preprocess)
        if model is not None:
            classifier.provenance |= {"model": model, "spec": list(zoo.differences(model, classifier.network.spec))}
    elif model is None:
        raise SpecError(f"{path}: weights do not tell their network: give its name with --model")
    else:
        classifier = importing.from_weights(path, model, spec, classes, preprocess or {})
    run = RunFolder.create(out, "import")
    classifier.save(run.path)
    return classifier, run.path


def demo(*, out: str | Path | None = None, reporter: Reporter | None = None) -> TrainingResult:
    """Trains a small ResNet on the handwritten digits that ship with the package: the same weights each time."""
    reporter = reporter or Reporter()
    run = RunFolder.create(out, "demo")
    dataset = sources.load("digits")
    reporter.note(f"digits: 1,797 handwritten digits of 8 x 8 pixels; training in {run.path}")
    source = inputs.source_of("digits", sources.DEFAULT_COLUMNS)
    return _trained(dataset, recipes.demo(), run, reporter, source)


def _report(
    run: RunFolder, classifier: Classifier, result: dict[str, Any], evaluation: Evaluation, reporter: Reporter
) -> None:
    """Writes the model card and the plots of a run that is done."""
    title = f"{result['model']} on {result['data']}, {result['split']}: {evaluation.accuracy:.2%}"
    try:
        card.write(run.path / "README.md", result, classifier, str(run.path))
        plots.curves(run.path / "curves.png", run.read_metrics(), f"{result['model']} on {result['data']}")
        plots.confusion(run.path / "confusion.png", evaluation.confusion, evaluation.classes, title)
        if "adaptive" in result:
            plots.exits(run.path / "exits.png", result["adaptive"], title)
    except StorageError as reason:  # the classifier and its figures are saved, and worth more than their pictures
        reporter.note(f"not all plots could be written: {reason}")
