"""How fast a classifier answers in every runtime that is installed, beside a peer's network of the same kind."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from resvision import measure
from resvision.classifier import Classifier, Predictor
from resvision.data.images import blank
from resvision.data.loader import EvaluationBatches
from resvision.data.pictures import Split
from resvision.data.workers import default_workers
from resvision.deployed import in_run, open_file
from resvision.errors import ExportError, InputError
from resvision.evaluation import evaluate
from resvision.evaluation.evaluate import collect
from resvision.exporting.export import convert
from resvision.exporting.peers import peer
from resvision.models import ResNet
from resvision.progress import Note
from resvision.runtime import Session, TorchSession
from resvision.target import Target

BATCHES = (1, 32)
MADE = (
    Target(format="onnx"),
    Target(format="openvino"),
    Target(format="openvino", precision="bf16"),
    Target(format="onnx", precision="int8"),
    Target(format="openvino", precision="int8"),
)
ROUNDS = 30
LIMIT_SECONDS = 30.0  # of a batch size, after which no further round is begun
WARMUP = 2

Ways = Mapping[str, Callable[[torch.Tensor], object]]


def compare_runtimes(
    classifier: Classifier,
    folder: Path,
    split: Split | None,
    *,
    calibration: Split | None = None,
    compiled: bool = False,
    note: Note,
) -> list[dict[str, Any]]:
    """Times every runtime in interleaved rounds.

    Args:
        classifier: what is measured.
        folder: its run folder, whose exports are used; those that are missing are made for the time being.
        split: pictures to measure accuracies on; None leaves them out. Of a network with early exits they also tell how
            fast it is where pictures leave, which made-up ones cannot.
        calibration: pictures that trained, by which int8 is made; None leaves out what was not exported in int8 before.
        compiled: also try torch.compile, which takes a minute or so.
        note: told what happens.

    Returns:
        One row a runtime: its name; latency_ms of one picture and pictures_per_second at 32 at once (median, least and
        most of the rounds; with exits and gates, of the means over 32 different ones); accuracy, 0..1 or None.
    """
    with tempfile.TemporaryDirectory() as made:
        predictors = _predictors(classifier, folder, Path(made), calibration, note)
        sessions: dict[str, Session] = {
            "torch fp32": classifier.session,
            "torch bf16": TorchSession(classifier.network, classifier.preprocess, "bf16"),
        }
        if compiled:
            faster = TorchSession(cast(ResNet, torch.compile(classifier.network)), classifier.preprocess)
            try:
                faster(blank(classifier.preprocess, 1))
                sessions["torch compiled"] = faster
            except Exception as error:  # each of the compilers behind torch.compile has errors of its own
                torch._dynamo.reset()
                note(f"left out: torch.compile fails here ({type(error).__name__})")
        sessions |= {name: predictor.session for name, predictor in predictors.items()}
        adaptive = {f"{name}, leaving early": p.adaptive for name, p in predictors.items() if p.adaptive is not None}
        if split is None and adaptive:
            note("how fast it is where pictures leave early is only known with data")
        if split is None and classifier.network.spec.gates:
            note("without data the squares are noise, for which gates open as they may")
        leaving = adaptive if split is not None else {}
        ways: Ways = {**sessions, **leaving, **peer(classifier, note)}
        uneven = {*leaving, *(sessions if classifier.network.spec.gates else ())}
        squares = _squares(classifier, split)
        times = {batch: _timed(ways, uneven, squares, batch) for batch in BATCHES}
    accuracies = {}
    if split is not None:
        batches = EvaluationBatches(split, classifier.preprocess, default_workers())
        for name, session in sessions.items():
            evaluation = evaluate(session, batches, classifier.classes, classifier.temperature)
            accuracies[name] = evaluation.accuracy
        for name, exits in leaving.items():
            logits, labels = collect(lambda squares: exits(squares).logits, batches)  # noqa: B023
            accuracies[name] = float((logits.argmax(axis=1) == labels).mean())
    one, many = BATCHES
    return [
        {
            "runtime": name,
            "latency_ms": _spread([1000 * seconds for seconds in times[one][name]]),
            "pictures_per_second": _spread([1 / seconds for seconds in times[many][name]]),
            "accuracy": accuracies.get(name),
        }
        for name in times[one]
    ]


def _predictors(
    classifier: Classifier, folder: Path, made: Path, calibration: Split | None, note: Note
) -> dict[str, Predictor]:
    """What there is to run the classifier, by runtime and precision."""
    found: dict[str, Predictor] = {"torch fp32": classifier, **in_run(folder, classifier, note)}
    for target in MADE:
        if str(target) in found or (target.precision == "int8" and calibration is None):
            continue
        note(f"exporting: {target}")
        try:
            # Judged by the accuracy that stands beside it.
            convert(classifier, target, made / target.name, calibration=calibration)
            found[str(target)] = open_file(made / target.name)
        except (InputError, ExportError) as error:
            note(f"left out: {error}")
    return found


def _squares(classifier: Classifier, split: Split | None) -> torch.Tensor:
    """uint8 squares (32, S, S, C) of a split, or for want of one of noise."""
    side, channels, count = classifier.preprocess.size, classifier.preprocess.channels, max(BATCHES)
    if split is None:
        return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8))
    some = split.take(np.linspace(0, len(split) - 1, count).astype(np.int64))
    return torch.cat([batch.squares for batch in EvaluationBatches(some, classifier.preprocess, 0)])


def _timed(ways: Ways, uneven: Container[str], squares: torch.Tensor, batch: int) -> dict[str, list[float]]:
    """Seconds a picture in each round, with `batch` squares at once.

    Of `uneven` ways a round is all squares, since some take longer than others: the median of single times would be
    that of either.
    """
    parts = squares.split(batch)  # type: ignore[no-untyped-call]

    def several(way: Callable[[torch.Tensor], object], count: int, parts: Sequence[torch.Tensor]) -> None:
        for part in parts[:count]:
            way(part)

    calls = {name: partial(several, way, len(parts) if name in uneven else 1) for name, way in ways.items()}
    times = measure.interleaved(calls, [parts] * ROUNDS, warmup=WARMUP, limit=LIMIT_SECONDS)
    pictures = {name: len(squares) if name in uneven else batch for name in times}
    return {name: [seconds / pictures[name] for seconds in found] for name, found in times.items()}


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
