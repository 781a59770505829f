"""Verbs that ask a classifier: evaluate, exits, predict."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import torch

from resvision import deployed, inputs
from resvision.adaptive import AdaptiveSession, Segment, torch_segments
from resvision.classifier import Classifier, Picture, Prediction, Predictor, below, is_one
from resvision.cost import exit_macs
from resvision.data import sources
from resvision.data.loader import CHUNK, EvaluationBatches, at_once, whole_batches
from resvision.data.pictures import divide, listed
from resvision.data.reading import Batch
from resvision.data.workers import default_workers
from resvision.errors import ClassifierError, InputError, StorageError
from resvision.evaluation import evaluate as evaluate_session
from resvision.evaluation import exits, gates
from resvision.evaluation.race import sampled
from resvision.files import path_of
from resvision.inputs import Data
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.report import plots
from resvision.runtime import Session
from resvision.target import RuntimeChoice


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
        folder gets the curve of accuracy against time as exits.png. Of gates, without exits, how often each was
        open, and how much time that saves.

    Raises:
        InputError: the data have a class that the classifier does not know, or a picture that cannot be read.
    """
    reporter = reporter or Reporter()
    chosen = _opened(classifier, runtime, CHUNK, reporter)
    measured = inputs.measured_split(chosen, data, split, columns, reporter)
    source, name = measured.source, measured.name
    if chosen.whole:
        batches: Iterable[Batch] = whole_batches(measured.split, chosen.preprocess)
    else:
        batches = EvaluationBatches(measured.split, chosen.preprocess, default_workers())
    if chosen.adaptive is not None:
        evaluation, leaving = exits.evaluate(chosen.adaptive, batches, chosen.classes)
        if not isinstance(classifier, Predictor) and (folder := path_of(classifier)).is_dir():
            _plot(folder, leaving, f"{source}, {name}", reporter)
        return {"data": source, "split": name, **evaluation.to_dict(), "adaptive": leaving}
    gated = chosen.network if isinstance(chosen, Classifier) and chosen.network.spec.gates else None
    sample: list[torch.Tensor] = []
    if gated is not None:
        gates.reset(gated)
        batches = sampled(batches, sample)
    evaluation = evaluate_session(chosen.session, batches, chosen.classes, chosen.temperature)
    result = {"data": source, "split": name, **evaluation.to_dict()}
    if gated is not None:
        told = gates.report(gated, chosen.preprocess.size)
        result["gates"] = told | {"measured": gates.measured(gated, chosen.preprocess, sample)}
    return result


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
    folder = None if isinstance(classifier, Classifier) else path_of(classifier)
    loaded = classifier if isinstance(classifier, Classifier) else Classifier.load(classifier)
    segments, whole = _judged(loaded, folder, runtime, reporter)
    if max_drop is budget is latency_ms is None:
        max_drop = Recipe.max_drop
    exits.check_limit(max_drop=max_drop, budget=budget, latency_ms=latency_ms)
    measured = inputs.measured_split(loaded, data, split, columns, reporter, first="val")
    source, name = measured.source, measured.name
    reported, choosing = (
        EvaluationBatches(half, loaded.preprocess, default_workers()) for half in divide(measured.split, 0.5, source)
    )
    limit = {"max_drop": max_drop, "budget": budget, "latency_ms": latency_ms}
    rule = exits.tune(segments, choosing, whole, **limit)
    tuned = dataclasses.replace(loaded, exits=rule)
    macs = exit_macs(loaded.network.spec, loaded.preprocess.size, None if whole is None else rule.used)
    told = AdaptiveSession(segments, rule, macs, whole)
    evaluation, leaving = exits.evaluate(told, reported, loaded.classes)
    if folder is not None:
        tuned.metrics = {"split": f"half of {name}", "accuracy": evaluation.accuracy}
        _save_tuned(tuned, folder, reporter)
        _plot(folder, leaving, f"{source}, half of {name}", reporter)
    return tuned, {"data": source, "split": f"half of {name}", **evaluation.to_dict(), "adaptive": leaving}


def _judged(
    loaded: Classifier, folder: Path | None, runtime: RuntimeChoice | None, reporter: Reporter
) -> tuple[Sequence[Segment], Session | None]:
    """The segments whose answers and times are judged, and of PyTorch what computes the whole network.

    Raises:
        ClassifierError: the network, or what was exported of it, has no early exits.
    """
    own = "RUN" if folder is None else shlex.quote(str(folder))
    if not loaded.network.spec.exits:
        advice = f"resvision train DATA --pretrained {own} --exits auto --freeze-trunk"
        raise ClassifierError(f"the network has no early exits; add some with: {advice}")
    if folder is None:
        judged = _opened(loaded, runtime, 1, reporter)
    else:
        judged = deployed.by_runtime(folder, loaded, runtime, batch_size=1, note=reporter.note)
    if isinstance(judged, Classifier):
        return torch_segments(loaded.network, loaded.preprocess), loaded.session
    if judged.adaptive is None:
        raise ClassifierError(
            f"{folder}: its export for {runtime} is of the whole network, without early exits; choose with torch, and "
            f"export it again: resvision export {own}"
        )
    return judged.adaptive.segments, None


def _save_tuned(tuned: Classifier, folder: Path, reporter: Reporter) -> None:
    """Saves a classifier with new thresholds, and says what still holds the earlier ones."""
    tuned.save(folder)
    if stale := [entry.file for entry in deployed.read_index(folder).exports]:
        reporter.note(
            f"{listed(stale)} in {folder / deployed.FOLDER}: this program takes the new thresholds for them; for a "
            "bare runtime the files hold the earlier ones until they are exported again"
        )
    if (folder / "result.json").is_file():
        reporter.note("README.md and result.json go on telling of the training; model.json holds the new figures")


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

    Raises:
        InputError: a folder holds no pictures, or there is no such classifier or runtime.
    """
    if isinstance(pictures, (str, os.PathLike)):
        pictures = [pictures]
    if isinstance(pictures, (list, tuple)):
        pictures = list(below(pictures))
    many = len(pictures) if isinstance(pictures, Sized) else CHUNK
    batch_size = 1 if deadline_ms is not None or is_one(pictures) else max(1, min(CHUNK, many))
    opened = _opened(classifier, runtime, batch_size, reporter)
    batch_size = min(batch_size, at_once(opened.preprocess))
    return opened.predictions(pictures, top=top, batch_size=batch_size, deadline_ms=deadline_ms)


def _plot(folder: Path, leaving: dict[str, Any], title: str, reporter: Reporter) -> None:
    """Plots accuracy against time as exits.png in a run folder."""
    try:
        plots.exits(folder / "exits.png", leaving, title)
    except StorageError as reason:  # the figures are worth more than their picture
        reporter.note(f"no plot: {reason}")


def _opened(
    classifier: Predictor | str | Path, runtime: RuntimeChoice | None, batch_size: int, reporter: Reporter | None
) -> Predictor:
    if not isinstance(classifier, Predictor):
        return deployed.load(classifier, runtime, batch_size=batch_size, note=(reporter or Reporter()).note)
    if runtime is not None:
        raise InputError(f"runtime={runtime!r}: a classifier in memory has its own; give its folder")
    return classifier
