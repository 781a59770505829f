"""The verbs as functions: each composes the floors below and returns what it made."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shlex
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from resvision import deployed, exporting, importing, inputs, recipes, zoo
from resvision.adaptive import AdaptiveSession, torch_segments
from resvision.classifier import Classifier, Picture, Prediction, Predictor
from resvision.cost import cost, exit_macs
from resvision.data import sources
from resvision.data.loader import CHUNK, Batch, EvaluationBatches, default_workers, whole_batches
from resvision.data.pictures import DataSet, divide, listed
from resvision.data.statistics import facts
from resvision.efficiency import compress as compression
from resvision.errors import ClassifierError, DataError, InputError, Interrupted, RecipeError, SpecError, StorageError
from resvision.evaluation import Evaluation, exits, gates
from resvision.evaluation import evaluate as evaluate_session
from resvision.exits import adaptive as adaptive_spec
from resvision.explain.bench import Bench
from resvision.explain.studies import STUDIES
from resvision.files import write_json, write_yaml
from resvision.inputs import Data
from resvision.measure import now, timestamp
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.report import card, doctor, frontier, pages, plots, suspects
from resvision.runtime import using_threads
from resvision.search import depth as searching
from resvision.search import overfit as examination
from resvision.search.candidates import Candidate, enumerate_all
from resvision.search.costs import Limits
from resvision.target import Contract, ExportPrecision, Format, RuntimeChoice, Target
from resvision.training import RunFolder
from resvision.training import train as run_training
from resvision.training.bench import LEDGER_FILE, Ledger
from resvision.training.loop import versions


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
        recipe: the name of one, as in `recipes.NAMES`; the recipe.yaml of an earlier run; or a Recipe.
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
        if data is None:
            data, columns = inputs.recorded_data(run)
    if data is None:
        raise DataError("no data were given: name a built-in set, a folder, an archive or a CSV manifest")
    dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    source = inputs.source_of(data, columns) if isinstance(data, (str, Path)) else {}

    weights = None
    if run is not None:
        chosen = run.read_recipe()
    else:
        made = inputs.recipe_of(dataset, recipe, fields)
        chosen, weights = made.recipe, made.weights
        for reason in made.reasons:
            reporter.note(reason)
        # Refuses what cannot be, before there is a folder.
        adaptive_spec(zoo.variant(chosen.model, chosen.spec), chosen).drop_rates(chosen.drop_path)
        run = RunFolder.create(out, "train")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes; training in {run.path}")
    try:
        with run.removed_if_empty():
            classifier, result, evaluation = run_training(
                dataset,
                chosen,
                run,
                reporter,
                weights=weights,
                source=source,
                resume=resume is not None,
                tensorboard=tensorboard,
                begin=begin,
            )
    except KeyboardInterrupt:  # a second Ctrl-C, or one beside the steps
        if not run.last_checkpoint.exists():
            raise
        message = f"stopped; go on from the last save with: resvision train --resume {shlex.quote(str(run.path))}"
        raise Interrupted(message, signal.SIGINT) from None
    _report(run, classifier, result, evaluation)
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
        classes: names in the order of the logits; None numbers them, unless the file tells them.
        preprocess: fields of `Preprocess`, as the weights were trained with. For ImageNet networks those left out are
            torchvision's; CIFAR networks have no common ones, so that mean and std must be given. A .keras file tells
            those that its layers apply.
        out: the folder; None takes the next number under runs/.

    Raises:
        ClassifierError: the file holds no weights, or they do not fit the network; each that does not is named.
        InputError: a field does not exist, or the classes are not as many as the logits.
        MissingExtraError: the file is of Keras, which is not installed.
    """
    path = Path(file).expanduser()
    if spec and model is None:
        raise SpecError(f"spec {spec[0]!r} says how a network differs from its name: give the name with --model")
    if path.suffix == ".keras":
        from resvision.keras import from_keras  # here, since TensorFlow takes seconds to begin, and may be missing

        wanted = None if model is None else zoo.variant(model, spec)
        classifier = from_keras(path, spec=wanted, classes=classes, preprocess=preprocess)
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
    classifier, result, evaluation = run_training(dataset, recipes.demo(), run, reporter, source=source)
    _report(run, classifier, result, evaluation)
    return TrainingResult(classifier=classifier, folder=run.path, result=result)


def study(
    name: str,
    data: str | Path = "digits",
    *,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    """Does a short experiment that shows why residual networks work; leaves numbers, plots and a page in a folder.

    Args:
        name: "degradation", "gradients", "paths" or "landscape".
        data: as in `train`.
        out: the folder; None takes the next number under runs/. A study that was stopped there goes on.
        reporter: told about the progress.
        **options: fields of `explain.bench.Options` in place of the study's own.

    Returns:
        What numbers.json holds, and the folder.

    Raises:
        InputError: there is no such study, or an option or the data cannot be used.
    """
    reporter = reporter or Reporter()
    if name not in STUDIES:
        raise InputError(f"there is no study {name!r}: there are {', '.join(STUDIES)}")
    chosen = STUDIES[name]
    wanted = dataclasses.replace(chosen.options, **options)
    if len(chosen.options.depths) == 1 != len(wanted.depths):
        raise RecipeError(f"depths={wanted.depths}: the study {name} takes one")
    dataset = sources.load(data, progress=reporter.download)
    settings = {"study": name, "data": dataset.name, **dataclasses.asdict(wanted)}
    folder = _folder(f"study-{name}", out)
    bench = Bench(dataset, wanted)
    ledger = Ledger(folder / LEDGER_FILE, settings)
    precision = ledger.once("precision", bench.fastest_precision)
    bench.recipe = dataclasses.replace(bench.recipe, precision=precision)
    reporter.note(f"{dataset.name}: {len(bench.train_split):,} pictures of {bench.recipe.size} px train; in {folder}")
    numbers = json.loads(json.dumps(chosen.run(bench, ledger, reporter.note), allow_nan=False))
    numbers = {"settings": settings | {"size": bench.recipe.size, "precision": precision}, **numbers}
    numbers |= {"description": chosen.describe(numbers), "created": timestamp(), "versions": versions()}
    write_json(folder / "numbers.json", numbers)
    pages.write(folder, name, chosen.title, numbers)
    return numbers, folder


def overfit(
    data: Data,
    *,
    minutes: float = 10.0,
    validation: sources.Arrays | None = None,
    classes: Sequence[str] | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    recipe: Recipe | str | Path = "auto",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], Path]:
    """Finds out how and why a recipe overfits, tries remedies, and checks the best one on pictures that chose nothing.

    Args:
        data: as in `train`.
        minutes: that it may take; the trials are planned from them.
        validation: a pair of arrays that chooses nothing.
        classes: the names of integer labels in arrays.
        columns: of a manifest.
        recipe: as in `train`; what is examined.
        out: the folder; None takes the next number under runs/. An examination that was stopped there goes on.
        reporter: told about the progress.
        **fields: any field of `Recipe`, in place of the recipe's own.

    Returns:
        What numbers.json holds, and the folder.

    Raises:
        InputError: the data or the recipe cannot be used.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    reporter = reporter or Reporter()
    if not minutes > 0:
        raise InputError(f"minutes={minutes} must be a number above 0")
    dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    made = inputs.recipe_of(dataset, recipe, fields)
    chosen = made.recipe
    inputs.refuse_adaptive(chosen)
    for reason in made.reasons:
        reporter.note(reason)
    settings = {
        "overfit": dataset.name,
        "minutes": minutes,
        "pictures": {name: len(split) for name, split in dataset.splits.items()},
        "recipe": dataclasses.asdict(chosen),
    }
    folder = _folder("overfit", out)
    ledger = Ledger(folder / LEDGER_FILE, settings, "an examination")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes; examined in {folder}")
    with _stopping(folder):
        found = examination.run(dataset, chosen, minutes, ledger, reporter.note)
    left_out = found.pop("left_out")
    numbers = {"settings": settings | {"data": dataset.name}, **found}
    cleaned = suspects.write(folder, dataset, numbers, left_out)
    mended = cleaned if numbers["recommended"]["cleaned"] else None
    own = _by_name(made.base, folder) | fields
    numbers["commands"] = {
        "overfit": inputs.command("overfit", data, columns, {"minutes": f"{minutes:g}"}, own),
        "baseline": inputs.command("train", data, columns, own),
        "recommended": inputs.command(
            "train",
            data if mended is None else mended,
            columns if mended is None else sources.DEFAULT_COLUMNS,
            inputs.replaced(own, numbers["recommended"]["options"]),
        ),
    }
    numbers |= {"description": examination.describe(numbers), "created": timestamp(), "versions": versions()}
    numbers = json.loads(json.dumps(numbers, allow_nan=False))
    write_json(folder / "numbers.json", numbers)
    doctor.write(folder, numbers)
    return numbers, folder


def depth(
    data: Data,
    *,
    minutes: float = 15.0,
    latency_ms: float | None = None,
    train_minutes: float | None = None,
    memory_gb: float | None = None,
    models: Sequence[str] | None = None,
    sizes: Sequence[int] | None = None,
    widths: Sequence[float] | None = None,
    validation: sources.Arrays | None = None,
    classes: Sequence[str] | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    recipe: Recipe | str | Path = "auto",
    out: str | Path | None = None,
    reporter: Reporter | None = None,
    **fields: Any,
) -> tuple[dict[str, Any], Path]:
    """Finds which depth, width and picture size to take, for what they cost on this machine.

    Args:
        data: as in `train`.
        minutes: that the search may take.
        latency_ms: most milliseconds of the answer to one picture.
        train_minutes: how long the network will be trained; None trains as long as the recipe usually does.
        memory_gb: most memory of a training step, in 10^9 bytes.
        models: names from the zoo in place of the usual ones.
        sizes: of the pictures, in pixels, in place of the usual ones.
        widths: factors of the models' widths in place of the usual ones.
        validation: a pair of arrays that chooses nothing.
        classes: the names of integer labels in arrays.
        columns: of a manifest.
        recipe: as in `train`; all candidates follow it.
        out: the folder; None takes the next number under runs/. A search that was stopped there goes on.
        reporter: told about the progress.
        **fields: any field of `Recipe` but model, size and minutes, in place of the recipe's own.

    Returns:
        What numbers.json holds, and the folder.

    Raises:
        InputError: the data or the recipe cannot be used, or no candidate is within the limits.
        Interrupted: Ctrl-C; what is finished is kept.
    """
    reporter = reporter or Reporter()
    if not minutes > 0:
        raise InputError(f"minutes={minutes} must be a number above 0")
    if searched := [name for name in ("model", "size") if name in fields]:
        raise InputError(
            f"{' and '.join(searched)}: are searched for; say which with {' and '.join(s + 's' for s in searched)}"
        )
    limits = Limits(latency_ms=latency_ms, train_minutes=train_minutes, memory_gb=memory_gb)
    dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    lasting = fields if train_minutes is None else fields | {"minutes": train_minutes}
    made = inputs.recipe_of(dataset, recipe, lasting)
    base = made.recipe
    inputs.refuse_adaptive(base)
    for reason in made.reasons:
        reporter.note(reason)
    # The recipe's own widths are of its own network.
    spec = tuple(pair for pair in base.spec if "spec" in fields or not pair.startswith("widths="))
    candidates = enumerate_all(base.size, facts(dataset).side, spec, models, sizes, widths)

    def recipe_of(candidate: Candidate) -> Recipe:
        return inputs.recipe_of(dataset, made.base, lasting | inputs.options_of(candidate)).recipe

    settings = {
        "depth": dataset.name,
        "minutes": minutes,
        "limits": dataclasses.asdict(limits),
        "candidates": [dataclasses.asdict(candidate) for candidate in candidates],
        "pictures": {name: len(split) for name, split in dataset.splits.items()},
        "recipe": dataclasses.asdict(base),
    }
    folder = _folder("depth", out)
    ledger = Ledger(folder / LEDGER_FILE, settings, "a search")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes, {len(candidates)} candidates; searched in {folder}")
    with _stopping(folder):
        found = searching.run(dataset, candidates, recipe_of, limits, minutes, ledger, reporter.note)
    own = _by_name(made.base, folder) | fields
    numbers = {"settings": settings | {"data": dataset.name}, "base": str(own["recipe"]), **found}
    best = next(candidate for candidate in candidates if candidate.name == numbers["recommended"]["name"])
    lists = {"models": models, "sizes": sizes, "widths": widths}
    asked = {
        name: ",".join(value if isinstance(value, str) else f"{value:g}" for value in values)
        for name, values in lists.items()
        if values is not None
    }
    length = {} if train_minutes is None else {"minutes": f"{train_minutes:g}"}
    within = {name: f"{limit:g}" for name, limit in dataclasses.asdict(limits).items() if limit is not None}
    numbers["commands"] = {
        "depth": inputs.command("depth", data, columns, {"minutes": f"{minutes:g}"}, within, asked, own),
        "recommended": inputs.command("train", data, columns, own | length | inputs.options_of(best)),
    }
    numbers |= {"description": searching.describe(numbers), "created": timestamp(), "versions": versions()}
    numbers = json.loads(json.dumps(numbers, allow_nan=False))
    write_json(folder / "numbers.json", numbers)
    frontier.write(folder, numbers)
    return numbers, folder


def _by_name(base: Recipe | str | Path, folder: Path) -> dict[str, Any]:
    """The recipe of an experiment as an option of a command, for which "auto" might choose another one."""
    if isinstance(base, Recipe):
        file = folder / "recipe.yaml"
        write_yaml(file, dataclasses.asdict(base))
        return {"recipe": file}
    return {"recipe": base}


@contextlib.contextmanager
def _stopping(folder: Path) -> Iterator[None]:
    """Lets Ctrl-C say how an experiment goes on; a mistake leaves no empty folder."""
    try:
        with RunFolder(folder).removed_if_empty():
            yield
    except KeyboardInterrupt:
        message = f"stopped; the same command with --out {folder} goes on"
        raise Interrupted(message, signal.SIGINT) from None


def _folder(verb: str, out: str | Path | None) -> Path:
    """A new folder, or that of an experiment which was stopped."""
    if out is not None and (Path(out).expanduser() / LEDGER_FILE).is_file():
        return Path(out).expanduser()
    return RunFolder.create(out, verb).path


def evaluate(
    classifier: Predictor | str | Path,
    data: Data,
    *,
    split: str | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    runtime: RuntimeChoice | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Measures a classifier on a split of a data set.

    Args:
        classifier: a Classifier, the folder of one, or an exported .onnx or .xml file.
        data: as in `train`.
        split: "train", "val", "test", or "all" of a set that comes undivided. None takes test, else val; a set without
            splits is divided as training divides it, and its validation part is taken.
        columns: of a manifest.
        runtime: of a folder: "torch", "onnx", "openvino" or "auto", as in `deployed.load`.
        reporter: told what "auto" took.

    Returns:
        The split's name, pictures, accuracy (0..1) and its 95% interval, NLL (nats), ECE, precision and recall by
        class, and the confusion counts (rows are true classes). Of early exits also what each of them does; a run
        folder gets the curve of accuracy against time as exits.png. Of gates, without exits, how often each was open.

    Raises:
        InputError: the data have a class that the classifier does not know, or a picture that cannot be read.
    """
    chosen = _opened(classifier, runtime, CHUNK, reporter)
    source, name, part = inputs.measured_split(chosen, data, split, columns)
    if chosen.whole:
        batches: Iterable[Batch] = whole_batches(part, chosen.preprocess)
    else:
        batches = EvaluationBatches(part, chosen.preprocess, default_workers())
    if chosen.adaptive is not None:
        evaluation, leaving = exits.evaluate(chosen.adaptive, chosen.preprocess, batches, chosen.classes)
        if not isinstance(classifier, Predictor) and Path(classifier).is_dir():
            try:
                plots.exits(Path(classifier) / "exits.png", leaving, f"{source}, {name}")
            except StorageError as reason:  # the figures are worth more than their picture
                (reporter or Reporter()).note(f"no plot: {reason}")
        return {"data": source, "split": name, **evaluation.to_dict(), "adaptive": leaving}
    gated = chosen.network if isinstance(chosen, Classifier) and chosen.network.spec.gates else None
    if gated is not None:
        gates.reset(gated)
    evaluation = evaluate_session(chosen.session, batches, chosen.classes, chosen.temperature)
    result = {"data": source, "split": name, **evaluation.to_dict()}
    return result if gated is None else result | {"gates": gates.report(gated, chosen.preprocess.size)}


def tune_exits(
    classifier: Classifier | str | Path,
    data: Data,
    *,
    max_drop: float | None = None,
    budget: float | None = None,
    latency_ms: float | None = None,
    split: str | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    runtime: RuntimeChoice | None = None,
    reporter: Reporter | None = None,
) -> tuple[Classifier, dict[str, Any]]:
    """Chooses anew when pictures leave a network with early exits: on half of a split, measured on the other half.

    Args:
        classifier: a Classifier, or the folder of one, in which the new thresholds are saved.
        data: as in `train`.
        max_drop: points of accuracy, in percent, that leaving early may cost; 0.5 if no limit is given.
        budget: the part of the whole network's time that may be taken, in (0, 1].
        latency_ms: milliseconds per picture that may be taken on average, one picture at a time.
        split: as in `evaluate`; pictures that did not train.
        columns: of a manifest.
        runtime: of a folder, as in `deployed.load`: whose answers and times are judged; None is PyTorch. The thresholds
            hold for all runtimes, so choose by the one that will be used.
        reporter: told what "auto" took.

    Returns:
        The classifier with its new rule, and what `evaluate` returns, for the half that chose nothing.

    Raises:
        ClassifierError: the network has no early exits.
        InputError: the limit cannot be kept to, or the data cannot be used.
    """
    reporter = reporter or Reporter()
    folder = None if isinstance(classifier, Classifier) else Path(classifier)
    loaded = classifier if isinstance(classifier, Classifier) else Classifier.load(classifier)
    if not loaded.network.spec.exits:
        advice = f"resvision train DATA --pretrained {folder or 'RUN'} --exits auto --freeze-trunk"
        raise ClassifierError(f"the network has no early exits; add some with: {advice}")
    judged = _opened(classifier, runtime, 1, reporter)
    if judged.adaptive is not None:
        segments = judged.adaptive.segments
    elif isinstance(judged, Classifier):
        segments = torch_segments(loaded.network, loaded.preprocess)
    else:
        raise ClassifierError(
            f"{folder}: its export for {runtime} is of the whole network, without early exits; choose with torch, and "
            f"export it again: resvision export {folder} --format {runtime}"
        )
    if max_drop is budget is latency_ms is None:
        max_drop = Recipe.max_drop
    exits.check_limit(max_drop=max_drop, budget=budget, latency_ms=latency_ms)
    source, name, chosen = inputs.measured_split(loaded, data, split, columns, first="val")
    reported, choosing = (
        EvaluationBatches(half, loaded.preprocess, default_workers()) for half in divide(chosen, 0.5, source)
    )
    limit = {"max_drop": max_drop, "budget": budget, "latency_ms": latency_ms}
    rule = exits.tune(segments, loaded.preprocess, choosing, **limit)
    tuned = dataclasses.replace(loaded, exits=rule)
    macs = exit_macs(loaded.network.spec, loaded.preprocess.size)
    told = AdaptiveSession(segments, rule, macs)
    evaluation, leaving = exits.evaluate(told, loaded.preprocess, reported, loaded.classes)
    if folder is not None:
        tuned.metrics = {"split": f"half of {name}", "accuracy": evaluation.accuracy}
        tuned.save(folder)
        if stale := [entry.file for entry in deployed.read_index(folder).exports]:
            reporter.note(
                f"{listed(stale)} in {folder / deployed.FOLDER}: this program takes the new thresholds for them; for a "
                "bare runtime the files hold the earlier ones until they are exported again"
            )
        plots.exits(folder / "exits.png", leaving, f"{source}, half of {name}")
    return tuned, {"data": source, "split": f"half of {name}", **evaluation.to_dict(), "adaptive": leaving}


def predict(
    classifier: Predictor | str | Path,
    pictures: Picture | Iterable[Picture],
    *,
    top: int = 5,
    deadline_ms: float | None = None,
    runtime: RuntimeChoice | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Prediction]:
    """Classifies pictures one batch after the other; one that cannot be read gives a prediction with its error.

    Args:
        classifier: a Classifier, the folder of one, or an exported .onnx or .xml file.
        pictures: as in `Predictor.predict`.
        top: how many classes to name.
        deadline_ms: as in `Predictor.predict`.
        runtime: of a folder: "torch", "onnx", "openvino" or "auto", as in `deployed.load`.
        reporter: told what "auto" took.
    """
    batch_size = min(CHUNK, len(pictures)) if isinstance(pictures, list | tuple) and pictures else CHUNK
    opened = _opened(classifier, runtime, batch_size, reporter)
    return opened.predictions(pictures, top=top, batch_size=batch_size, deadline_ms=deadline_ms)


def export(
    classifier: Classifier | str | Path,
    format: Format,  # noqa: A002 - the word of the command line
    *,
    contract: Contract = "A",
    precision: ExportPrecision = "fp32",
    data: Data | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    out: str | Path | None = None,
) -> exporting.Export:
    """Writes a classifier as a file that runs without this program, once it answers there as it does here.

    Args:
        classifier: a Classifier, or the folder of one.
        format: "onnx", "openvino", "torch" or "keras".
        contract: "A", uint8 squares (N, S, S, C); or "B", a uint8 picture (1, H, W, C) of any size.
        precision: "fp32", "bf16" (OpenVINO) or "int8" (ONNX and OpenVINO).
        data: as in `train`. Its training part calibrates int8, and its test part, or else its validation part, is what
            the export is compared on. None compares made-up pictures.
        columns: of a manifest.
        out: the file, or a folder for it; None takes `runtimes` in the classifier's folder, where `predict`, `evaluate`
            and `benchmark` find it.

    Raises:
        InputError: it cannot be exported so, or int8 is to be calibrated with nothing.
        MissingExtraError: a package is not installed.
        ExportError: the export does not answer as the original; no file is left.
    """
    target = Target(format=format, contract=contract, precision=precision)
    run = None
    if not isinstance(classifier, Classifier):
        run = Path(classifier)
        classifier = Classifier.load(run)
    path = _export_path(run, out, target.name)
    calibration = checked = None
    if data is not None:
        if isinstance(data, (str, Path)):
            dataset = sources.prepare(sources.load(data, columns))
        else:
            dataset = sources.prepare(sources.from_arrays(data, classes=classifier.classes))
        calibration = dataset.splits["train"]
        checked = inputs.with_labels_of(classifier, dataset, inputs.choose_split(dataset, None)[1])
    made = exporting.write(classifier, target, path, calibration=calibration, checked=checked)
    if out is None and run is not None:
        deployed.register(run, target, made.files, made.verification.to_dict())
    return made


def _export_path(run: Path | None, out: str | Path | None, name: str) -> Path:
    """Where an export goes: the file that was named, or `name` in a folder."""
    if out is None:
        if run is None:
            raise InputError("a classifier in memory has no folder for its exports: give out")
        return run / deployed.FOLDER / name
    out = Path(out).expanduser()
    return out if out.suffix and not out.is_dir() else out / name


def compress(
    run: str | Path,
    data: Data,
    *,
    speedup: float = 2.0,
    max_drop: float = 0.5,
    minutes: float = 10.0,
    batch_size: int = 1,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> tuple[dict[str, Any], Path]:
    """Makes a trained network several times faster at hardly less accuracy, both measured here.

    Args:
        run: the folder of a classifier.
        data: as in `train`: its training part teaches smaller networks; its validation part chooses and its test part
            is reported, or half of the validation part each.
        speedup: times as fast as `run` is in float32 by PyTorch.
        max_drop: points of accuracy, in percent, that this may cost: the drop on the pictures that choose is at most
            this, and on those that are reported at most this and 1.64 standard errors, or the promise is not kept.
        minutes: of teaching, if smaller networks are needed.
        batch_size: pictures at once whose time counts.
        columns: of a manifest.
        out: the new classifier's folder; None takes the next number under runs/. A compression that was stopped there
            goes on with the networks that were taught.
        reporter: told what happens.

    Returns:
        What compress.json holds, and the folder, a classifier with its fastest form under `runtimes`.

    Raises:
        InputError: the classifier or the data cannot be used, or the goal makes no sense.
        Interrupted: Ctrl-C; what was taught is kept.
    """
    reporter = reporter or Reporter()
    if not 1 < speedup <= compression.MOST:
        raise InputError(f"speedup={speedup} must be above 1, and at most {compression.MOST}")
    for name, value, is_right, rule in (
        ("max_drop", max_drop, max_drop >= 0, "at least 0"),
        ("minutes", minutes, 0 < minutes < math.inf, "above 0 and finite"),
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
    ):
        if not is_right:
            raise InputError(f"{name}={value} must be {rule}")
    original = Classifier.load(run)
    if original.exits is not None or original.network.spec.gates:
        what = "early exits" if original.exits is not None else "gates"
        raise ClassifierError(
            f"{run}: has {what}; train without them, compress that, and add exits to what comes of it "
            "(resvision train DATA --pretrained RUN --exits auto --freeze-trunk)"
        )
    goal = compression.Goal(speedup=speedup, max_drop=max_drop, minutes=minutes, batch_size=batch_size)
    dataset = inputs.dataset_of(data, None, original.classes, columns, reporter)
    parts = _compression_parts(original, sources.prepare(dataset))
    settings = {
        "compress": str(run),
        "weights": hashlib.sha256(original.weights()).hexdigest(),
        "data": dataset.name,
        "pictures": {part.name: len(getattr(parts, part.name)) for part in dataclasses.fields(parts)},
        "goal": dataclasses.asdict(goal),
    }
    folder = _folder("compress", out)
    ledger = Ledger(folder / LEDGER_FILE, settings, "a compression")
    reporter.note(
        f"{dataset.name}: {len(parts.tuning):,} pictures choose, {len(parts.reported):,} are reported; in {folder}"
    )
    with _stopping(folder), tempfile.TemporaryDirectory() as exports:
        best, rungs, reported = compression.run(original, parts, goal, Path(exports), ledger, reporter.note)
        origin = {"from": str(run), "goal": settings["goal"]}
        compression.save(best, folder, origin, reported)
    numbers = {
        "run": str(run),
        "data": dataset.name,
        "goal": settings["goal"],
        "reached": best.speedup >= speedup and reported["kept"],
        "best": best.to_dict(),
        "reported": reported,
        "rungs": [rung.to_dict() for rung in rungs],
        "spec": dataclasses.asdict(best.classifier.network.spec),
        "params": cost(best.classifier.network.spec, original.preprocess.size).params,
        "created": timestamp(),
        "versions": versions(),
    }
    write_json(folder / "compress.json", numbers)
    plots.ladder(folder / "compress.png", numbers)
    compression.forget(ledger)
    return numbers, folder


def _compression_parts(classifier: Classifier, dataset: DataSet) -> compression.Parts:
    """Who teaches, who chooses and who is reported; nobody is two of these."""
    splits = {name: inputs.with_labels_of(classifier, dataset, split) for name, split in dataset.splits.items()}
    if "test" in splits and "val" in splits:
        tuning, reported = splits["val"], splits["test"]
    else:
        reported, tuning = divide(splits.get("val", splits.get("test", splits["train"])), 0.5, dataset.name)
    return compression.Parts(train=splits["train"], tuning=tuning, reported=reported)


def benchmark(
    run: str | Path,
    data: Data | None = None,
    *,
    split: str | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    threads: int | None = None,
    compiled: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Measures how fast a classifier answers in every runtime that is installed, beside a peer's network.

    Args:
        run: the folder of a classifier. Its exports are used; those in float32 and bfloat16 that are missing are made
            for the time being.
        data: to measure the accuracy of each on; None leaves it out.
        split: of the data, as in `evaluate`.
        columns: of a manifest.
        threads: of every runtime; None leaves PyTorch's number.
        compiled: also try torch.compile.
        reporter: told what happens.

    Returns:
        rows, one a runtime, as `exporting.compare_runtimes` describes them; data and split, if any; threads; versions.

    Raises:
        InputError: the folder holds no classifier, or the data cannot be used.
        ExportError: an export does not answer as the original.
    """
    reporter = reporter or Reporter()
    folder = Path(run)
    classifier = Classifier.load(folder)
    source, name, part = (None, None, None) if data is None else inputs.measured_split(classifier, data, split, columns)
    with using_threads(threads):
        rows = exporting.compare_runtimes(classifier, folder, part, compiled=compiled, note=reporter.note)
        used = torch.get_num_threads()
    return {"data": source, "split": name, "threads": used, "versions": versions(), "rows": rows}


def _opened(
    classifier: Predictor | str | Path, runtime: RuntimeChoice | None, batch_size: int, reporter: Reporter | None
) -> Predictor:
    if not isinstance(classifier, Predictor):
        return deployed.load(classifier, runtime, batch_size=batch_size, note=(reporter or Reporter()).note)
    if runtime is not None:
        raise InputError(f"runtime={runtime!r}: a classifier in memory has its own; give its folder")
    return classifier


def _report(run: RunFolder, classifier: Classifier, result: dict[str, Any], evaluation: Evaluation) -> None:
    plots.curves(run.path / "curves.png", run.read_metrics(), f"{result['model']} on {result['data']}")
    title = f"{result['model']} on {result['data']}, {result['split']}: {evaluation.accuracy:.2%}"
    plots.confusion(run.path / "confusion.png", evaluation.confusion, evaluation.classes, title)
    if "adaptive" in result:
        plots.exits(run.path / "exits.png", result["adaptive"], title)
    card.write(run.path / "README.md", result, classifier, str(run.path))
