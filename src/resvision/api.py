"""The verbs as functions: each composes the floors below and returns what it made."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shlex
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resvision import deployed, exporting, recipes, zoo
from resvision.classifier import Classifier, Picture, Prediction, Predictor
from resvision.data import sources
from resvision.data.builtin import NAMES as BUILTIN_NAMES
from resvision.data.loader import CHUNK, Batch, EvaluationBatches, default_workers, whole_batches
from resvision.data.pictures import DataSet, FilePictures, Split, listed
from resvision.data.statistics import facts
from resvision.errors import ClassifierError, DataError, InputError, Interrupted, RecipeError, RunError
from resvision.evaluation import Evaluation
from resvision.evaluation import evaluate as evaluate_session
from resvision.explain.bench import Bench
from resvision.explain.studies import STUDIES
from resvision.files import parse, write_json, write_text
from resvision.measure import timestamp
from resvision.models import ResNet, convert
from resvision.preprocess import Preprocess
from resvision.progress import Reporter
from resvision.recipe import LENGTHS, SMALL_PICTURE, Recipe, make
from resvision.report import card, doctor, pages, plots
from resvision.runtime import using_threads
from resvision.search import overfit as examination
from resvision.search import remedies
from resvision.spec import ResNetSpec
from resvision.target import Contract, ExportPrecision, Format, RuntimeChoice, Target
from resvision.training import RunFolder, pretrained
from resvision.training import train as run_training
from resvision.training.bench import LEDGER_FILE, Ledger
from resvision.training.loop import versions
from resvision.training.run import read_recipe

Data = str | Path | sources.Arrays


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
    reporter = reporter or Reporter()
    run = None
    if resume is not None:
        if out is not None or recipe != "auto" or fields:
            changed = [n for n, v in (("out", out), ("recipe", recipe)) if v not in (None, "auto")] + sorted(fields)
            raise RecipeError(f"--resume goes on with the run's own recipe and folder: leave out {', '.join(changed)}")
        run = RunFolder.open(resume)
        if data is None:
            data, columns = _recorded_data(run)
    if data is None:
        raise DataError("no data were given: name a built-in set, a folder, an archive or a CSV manifest")
    if isinstance(data, (str, Path)):
        dataset, source = sources.load(data, columns, reporter.download), _source(data, columns)
    else:
        dataset, source = sources.from_arrays(data, validation, classes), {}

    weights = None
    if run is not None:
        chosen = run.read_recipe()
    else:
        chosen, weights, reasons = _recipe(dataset, recipe, fields)
        for reason in reasons:
            reporter.note(reason)
        zoo.variant(chosen.model, chosen.spec).drop_rates(chosen.drop_path)  # refuses what cannot be, before any folder
        run = RunFolder.create(out, "train")
    reporter.note(f"{dataset.name}: {len(dataset.classes)} classes; training in {run.path}")
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
        )
    _report(run, classifier, result, evaluation)
    return TrainingResult(classifier=classifier, folder=run.path, result=result)


def import_weights(
    file: str | Path,
    *,
    model: str,
    spec: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
) -> tuple[Classifier, Path]:
    """Turns weights of torchvision, timm or a plain PyTorch script into a classifier in a folder.

    Args:
        file: a state dict, .safetensors or written by torch.save; no code in it is run.
        model: the network's name here.
        spec: FIELD=VALUE in which the network differs from that name, as in `zoo.variant`.
        classes: names in the order of the logits; None numbers them.
        preprocess: fields of `Preprocess`, as the weights were trained with. For ImageNet networks those left out are
            torchvision's; CIFAR networks have no common ones, so that mean and std must be given.
        out: the folder; None takes the next number under runs/.

    Raises:
        ClassifierError: the file holds no weights, or they do not fit the network; each that does not is named.
        InputError: a field does not exist, or the classes are not as many as the logits.
    """
    path = Path(file).expanduser()
    state = convert.read(path)
    wanted = convert.sized(state, zoo.variant(model, spec))
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(wanted.num_classes))
    given = _imagenet_preprocess(wanted) | dict(preprocess or {})
    if missing := [field for field in ("mean", "std") if field not in given]:
        raise ClassifierError(
            f"{model} has no common {' and '.join(missing)}: give those that the weights were trained with"
        )
    network = ResNet(wanted)
    network.load_state_dict(convert.convert(state, wanted))
    classifier = Classifier(
        network=network.eval(),
        preprocess=parse(Preprocess, given, "preprocess"),
        classes=names,
        provenance={
            "imported": path.name,
            "model": model,
            "spec": list(zoo.differences(model, wanted)),
            "named": classes is not None,
            "created": timestamp(),
        },
    )
    run = RunFolder.create(out, "import")
    classifier.save(run.path)
    return classifier, run.path


def _imagenet_preprocess(spec: ResNetSpec) -> dict[str, Any]:
    """What torchvision's weights were trained with, as far as it is common to networks like this one."""
    if spec.stem == "cifar" or spec.in_channels != 3:
        return {"size": spec.natural_size, "channels": spec.in_channels}
    return {"size": 224, "crop": 0.875, "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def demo(*, out: str | Path | None = None, reporter: Reporter | None = None) -> TrainingResult:
    """Trains a small ResNet on the handwritten digits that ship with the package: the same weights each time."""
    reporter = reporter or Reporter()
    run = RunFolder.create(out, "demo")
    dataset = sources.load("digits")
    reporter.note(f"digits: 1,797 handwritten digits of 8 x 8 pixels; training in {run.path}")
    source = _source("digits", sources.DEFAULT_COLUMNS)
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
    if isinstance(data, (str, Path)):
        dataset = sources.load(data, columns, reporter.download)
    else:
        dataset = sources.from_arrays(data, validation, classes)
    chosen, _, reasons = _recipe(dataset, recipe, fields)
    for reason in reasons:
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
    try:
        with RunFolder(folder).removed_if_empty():
            found = examination.run(dataset, chosen, minutes, ledger, reporter.note)
    except KeyboardInterrupt:
        message = f"stopped; the same command with --out {folder} goes on"
        raise Interrupted(message, signal.SIGINT) from None
    left_out = found.pop("left_out")
    numbers = {"settings": settings | {"data": dataset.name}, **found}
    cleaned = _write_lists(folder, dataset, numbers, left_out)
    given = remedies.flags(({} if recipe == "auto" else {"recipe": recipe}) | fields)
    place = shlex.quote(str(data)) if isinstance(data, (str, Path)) else "DATA"
    options = " ".join(map(shlex.quote, given))
    better = " ".join(map(shlex.quote, remedies.flags(numbers["recommended"]["options"])))
    named = "".join(
        f" --{n}-column {shlex.quote(v)}" for n, v in vars(columns).items() if v != getattr(sources.DEFAULT_COLUMNS, n)
    )
    source = shlex.quote(str(cleaned)) if cleaned is not None and numbers["recommended"]["cleaned"] else place + named
    numbers["commands"] = {
        "overfit": " ".join(f"resvision overfit {place}{named} --minutes {minutes:g} {options}".split()),
        "baseline": " ".join(f"resvision train {place}{named} {options}".split()),
        "recommended": " ".join(f"resvision train {source} {options} {better}".split()),
    }
    numbers |= {"description": examination.describe(numbers), "created": timestamp(), "versions": versions()}
    numbers = json.loads(json.dumps(numbers, allow_nan=False))
    write_json(folder / "numbers.json", numbers)
    doctor.write(folder, numbers)
    return numbers, folder


def _write_lists(
    folder: Path, dataset: DataSet, numbers: dict[str, Any], left_out: dict[str, list[int]]
) -> Path | None:
    """Writes suspects.csv and, of files on disk, cleaned.csv: a manifest without what a run should leave out."""
    rows = [[s["picture"], s["label"], s["seems"], s["margin"]] for s in numbers["labels"]["suspects"]]
    _write_csv(folder / "suspects.csv", ["picture", "label", "seems", "margin"], rows)
    without = {index for indices in left_out.values() for index in indices}
    prepared = sources.prepare(dataset)
    if not without or not all(isinstance(split.pictures, FilePictures) for split in prepared.splits.values()):
        return None
    rows = []
    for name, split in prepared.splits.items():
        assert isinstance(split.pictures, FilePictures)
        for index, (file, label) in enumerate(zip(split.pictures.files, split.labels.tolist(), strict=True)):
            if file.path is None:  # in an archive
                return None
            if name != "train" or index not in without:
                rows.append([str(file.path.resolve()), prepared.classes[label], name])
    _write_csv(folder / "cleaned.csv", ["path", "label", "split"], rows)
    return folder / "cleaned.csv"


def _write_csv(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())


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
        split: "train", "val", "test", or "all" pictures whatever their split. None takes test, else val; a set without
            splits is divided as training divides it, and its validation part is taken.
        columns: of a manifest.
        runtime: of a folder: "torch", "onnx", "openvino" or "auto", as in `deployed.load`.
        reporter: told what "auto" took.

    Returns:
        The split's name, pictures, accuracy (0..1) and its 95% interval, NLL (nats), ECE, precision and recall by
        class, and the confusion counts (rows are true classes).

    Raises:
        InputError: the data have a class that the classifier does not know, or a picture that cannot be read.
    """
    chosen = _opened(classifier, runtime, CHUNK, reporter)
    source, name, part = _measured_split(chosen, data, split, columns)
    if chosen.whole:
        batches: Iterable[Batch] = whole_batches(part, chosen.preprocess)
    else:
        # Other runtimes' threads do not stand being forked.
        workers = default_workers() if isinstance(chosen, Classifier) else 0
        batches = EvaluationBatches(part, chosen.preprocess, workers)
    evaluation = evaluate_session(chosen.session, batches, chosen.classes, chosen.temperature)
    return {"data": source, "split": name, **evaluation.to_dict()}


def predict(
    classifier: Predictor | str | Path,
    pictures: Picture | Iterable[Picture],
    *,
    top: int = 5,
    runtime: RuntimeChoice | None = None,
    reporter: Reporter | None = None,
) -> Iterator[Prediction]:
    """Classifies pictures one batch after the other; one that cannot be read gives a prediction with its error.

    Args:
        classifier: a Classifier, the folder of one, or an exported .onnx or .xml file.
        pictures: as in `Predictor.predict`.
        top: how many classes to name.
        runtime: of a folder: "torch", "onnx", "openvino" or "auto", as in `deployed.load`.
        reporter: told what "auto" took.
    """
    batch_size = min(CHUNK, len(pictures)) if isinstance(pictures, list | tuple) and pictures else CHUNK
    return _opened(classifier, runtime, batch_size, reporter).predictions(pictures, top=top, batch_size=batch_size)


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
        format: "onnx", "openvino" or "torch".
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
        checked = _with_labels_of(classifier, dataset, _choose_split(dataset, None)[1])
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
    source, name, part = (None, None, None) if data is None else _measured_split(classifier, data, split, columns)
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


def _measured_split(
    classifier: Predictor, data: Data, split: str | None, columns: sources.Columns
) -> tuple[str, str, Split]:
    """The data's name, the split's name, and the split with labels that index the classifier's classes."""
    if not isinstance(data, (str, Path)):
        return "arrays", "all", sources.array_split(data, classifier.classes, "arrays")
    dataset = sources.load(data, columns)
    name, chosen = _choose_split(dataset, split)
    return dataset.name, name, _with_labels_of(classifier, dataset, chosen)


def _source(data: str | Path, columns: sources.Columns) -> dict[str, Any]:
    """How to find the data again from any working directory."""
    place = str(data) if str(data) in BUILTIN_NAMES else str(Path(data).expanduser().resolve())
    return {"data": place, "columns": dataclasses.asdict(columns)}


def _recorded_data(run: RunFolder) -> tuple[str, sources.Columns]:
    """The data and columns that a run recorded."""
    source = run.read_data()["source"]
    if not source:
        raise RunError(f"{run.path}: was trained on arrays in memory; give the same arrays again")
    return source["data"], sources.Columns(**source["columns"])


def _recipe(
    dataset: DataSet, base: Recipe | str | Path, fields: dict[str, Any]
) -> tuple[Recipe, pretrained.Pretrained | None, tuple[str, ...]]:
    """The recipe of a run, by name or given, with single fields replaced; the weights it begins with; and why."""
    by_name = isinstance(base, str) and base in recipes.NAMES
    given = dict(fields) if by_name else _replaced(base, fields)
    weights, usual = _weights(given), {}
    if weights is not None:
        given |= weights.decided()
        usual = weights.usual()
    found = facts(dataset)
    reasons: tuple[str, ...] = ()
    if by_name:
        choice = recipes.choose(str(base), found, given, usual, hub=pretrained.hub_can_be_reached())
        chosen, reasons = choice.recipe, choice.reasons
        workers = 0 if found.side <= SMALL_PICTURE else default_workers()
    else:
        chosen = make(given)
        workers = default_workers()
    chosen = dataclasses.replace(
        chosen,
        workers=workers if chosen.workers is None else chosen.workers,
        channels=usual.get("channels", found.channels) if chosen.channels is None else chosen.channels,
    )
    return chosen, weights, reasons


def _replaced(base: Recipe | str | Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an earlier recipe, some of them replaced.

    Raises:
        InputError: there is no such file, or it is no recipe.
    """
    if isinstance(base, str) and not Path(base).exists() and Path(base).name == base and not Path(base).suffix:
        raise RecipeError(f"there is no recipe {base!r}: there are {', '.join(recipes.NAMES)}, or give a recipe.yaml")
    recorded = dataclasses.asdict(base if isinstance(base, Recipe) else read_recipe(Path(base)))
    if set(LENGTHS) & fields.keys():  # a new length replaces the recorded one and the steps that came of it
        recorded |= dict.fromkeys((*LENGTHS, "steps"))
    return recorded | fields


def _weights(given: dict[str, Any]) -> pretrained.Pretrained | None:
    """The weights that the fields of a recipe ask for."""
    if given.get("pretrained") is None:
        return None
    wanted = {name: given[name] for name in ("model", "spec", "channels") if name in given}
    return pretrained.read(given["pretrained"], **wanted)


def _report(run: RunFolder, classifier: Classifier, result: dict[str, Any], evaluation: Evaluation) -> None:
    plots.curves(run.path / "curves.png", run.read_metrics(), f"{result['model']} on {result['data']}")
    title = f"{result['model']} on {result['data']}, {result['split']}: {evaluation.accuracy:.2%}"
    plots.confusion(run.path / "confusion.png", evaluation.confusion, evaluation.classes, title)
    card.write(run.path / "README.md", result, classifier, str(run.path))


def _choose_split(dataset: DataSet, split: str | None) -> tuple[str, Split]:
    splits = dict(dataset.splits)
    if split == "all":
        parts = list(splits.values())
        if len(parts) > 1:
            raise DataError(f"{dataset.name}: is divided into {', '.join(splits)}; name one of these with --split")
        return "all", parts[0]
    if len(splits) == 1:
        splits |= sources.prepare(dataset).splits
    if split is None:
        split = "test" if "test" in splits else "val"
    if split not in splits:
        raise DataError(f"{dataset.name}: there is no split {split!r}; there are {', '.join(sorted(splits))}")
    return split, splits[split]


def _with_labels_of(classifier: Predictor, dataset: DataSet, split: Split) -> Split:
    """The split with labels that index the classifier's classes, matched by name."""
    if unknown := sorted(set(dataset.classes) - set(classifier.classes)):
        raise DataError(
            f"{dataset.name}: has classes that the classifier does not know: {listed(unknown)}; "
            f"it knows {listed(list(classifier.classes))}"
        )
    index = np.array([classifier.classes.index(name) for name in dataset.classes], dtype=np.int64)
    return Split(split.pictures, index[split.labels])
