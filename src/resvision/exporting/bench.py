"""How fast a classifier answers in every runtime that is installed, beside a peer's network of the same kind."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from resvision import measure, zoo
from resvision.classifier import Classifier, Predictor
from resvision.cost import cost
from resvision.data.loader import EvaluationBatches, default_workers
from resvision.data.pictures import Split
from resvision.deployed import in_run, open_file
from resvision.errors import ExportError, InputError
from resvision.evaluation import evaluate
from resvision.evaluation.evaluate import collect
from resvision.exporting.export import quiet, write
from resvision.models import ResNet
from resvision.runtime import Session, TorchSession, device
from resvision.target import Target

BATCHES = (1, 32)
MADE = (Target(format="onnx"), Target(format="openvino"), Target(format="openvino", precision="bf16"))
ROUNDS = 30
LIMIT_SECONDS = 30.0  # of a batch size, after which no further round is begun
WARMUP = 2

Note = Callable[[str], None]


def compare_runtimes(
    classifier: Classifier, folder: Path, split: Split | None, *, compiled: bool = False, note: Note
) -> list[dict[str, Any]]:
    """Times every runtime in interleaved rounds.

    Args:
        classifier: what is measured.
        folder: its run folder, whose exports are used; those that are missing are made for the time being.
        split: pictures to measure accuracies on; None leaves them out. Of a network with early exits they also tell how
            fast it is where pictures leave, which made-up ones cannot.
        compiled: also try torch.compile, which takes a minute or so.
        note: told what happens.

    Returns:
        One row a runtime: its name; latency_ms of one picture and pictures_per_second at 32 at once (median, least and
        most of the rounds); accuracy, 0..1 or None.
    """
    with tempfile.TemporaryDirectory() as made:
        predictors = _predictors(classifier, folder, Path(made), note)
        sessions: dict[str, Session] = {
            "torch fp32": classifier.session,
            "torch bf16": TorchSession(classifier.network, classifier.preprocess, "bf16"),
        }
        if compiled:
            compiled_network = cast(ResNet, torch.compile(classifier.network))
            sessions["torch compiled"] = TorchSession(compiled_network, classifier.preprocess)
        sessions |= {name: predictor.session for name, predictor in predictors.items()}
        adaptive = {f"{name}, leaving early": p.adaptive for name, p in predictors.items() if p.adaptive is not None}
        if split is None and adaptive:
            note("how fast it is where pictures leave early is only known with data")
        leaving = adaptive if split is not None else {}
        timed: dict[str, Callable[[torch.Tensor], object]] = {**sessions, **leaving, **_peer(classifier, note)}
        squares = _squares(classifier, split)
        times = {batch: _timed(timed, squares, batch) for batch in BATCHES}
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
            "pictures_per_second": _spread([many / seconds for seconds in times[many][name]]),
            "accuracy": accuracies.get(name),
        }
        for name in times[one]
    ]


def _predictors(classifier: Classifier, folder: Path, made: Path, note: Note) -> dict[str, Predictor]:
    """What there is to run the classifier, by runtime and precision."""
    found: dict[str, Predictor] = {"torch fp32": classifier, **in_run(folder, classifier)}
    for target in MADE:
        if str(target) in found:
            continue
        note(f"exporting: {target}")
        try:
            # It is judged by the accuracy that stands beside it.
            found[str(target)] = open_file(write(classifier, target, made / target.name, judged=False).file)
        except (ExportError, InputError) as error:
            note(f"left out: {error}")
    return found


def _squares(classifier: Classifier, split: Split | None) -> torch.Tensor:
    """uint8 squares (32, S, S, C) of a split, or for want of one of noise."""
    side, channels, count = classifier.preprocess.size, classifier.preprocess.channels, max(BATCHES)
    if split is None:
        return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8))
    some = split.take(np.linspace(0, len(split) - 1, count).astype(np.int64))
    return torch.cat([batch.squares for batch in EvaluationBatches(some, classifier.preprocess, 0)])


def _timed(
    sessions: Mapping[str, Callable[[torch.Tensor], object]], squares: torch.Tensor, batch: int
) -> dict[str, list[float]]:
    """Seconds of each call with `batch` squares at once, other ones each time: some leave early and others do not."""
    turns = {name: cycle(squares.split(batch)) for name in sessions}  # type: ignore[no-untyped-call]
    calls = {name: lambda n=name, session=session: session(next(turns[n])) for name, session in sessions.items()}
    return measure.interleaved(calls, rounds=ROUNDS, warmup=WARMUP, limit=LIMIT_SECONDS)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": measure.median(values), "least": min(values), "most": max(values)}


# ---- the peer: torchvision's or timm's network of the same name, the usual way, with random weights ----


class PeerSession:
    """A network of another library behind the usual preprocessing, on the device of the classifier's own network."""

    def __init__(self, network: torch.nn.Module, classifier: Classifier) -> None:
        self.where = device()
        self.network = network.eval().to(self.where)
        preprocess = classifier.preprocess
        self.mean, self.std = (
            torch.tensor(values, device=self.where)[:, None, None] for values in (preprocess.mean, preprocess.std)
        )

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, K)."""
        with torch.inference_mode():
            pictures = squares.to(self.where).permute(0, 3, 1, 2).float() / 255
            return self.network((pictures - self.mean) / self.std).cpu().numpy()  # type: ignore[no-any-return]


def _peer(classifier: Classifier, note: Note) -> dict[str, Session]:
    """The peer, where one is installed and has the network that this one is, or was made smaller from."""
    provenance, spec = classifier.provenance, classifier.network.spec
    name = provenance.get("model") or provenance.get("recipe", {}).get("model")
    if name is None:
        return {}
    whole = dataclasses.replace(zoo.get(name), num_classes=spec.num_classes, in_channels=spec.in_channels)
    size = cost(whole, classifier.preprocess.size).params
    _operators()
    for package, build in (("torchvision", _torchvision), ("timm", _timm)):
        with quiet():
            try:
                network = build(name, spec.num_classes, spec.in_channels)
            except (ImportError, RuntimeError, AttributeError, ValueError):  # not installed, or knows no such network
                continue
        if sum(p.numel() for p in network.parameters()) == size:
            if cost(spec, classifier.preprocess.size).params != size:
                note(f"{package}'s {name} is the network by that name, which this one differs from")
            return {f"{package} eager": PeerSession(network, classifier)}
    return {}


def _torchvision(name: str, classes: int, channels: int) -> torch.nn.Module:
    import torchvision

    if channels != 3:
        raise ValueError
    return torchvision.models.get_model(name, num_classes=classes)  # type: ignore[no-any-return]


def _timm(name: str, classes: int, channels: int) -> torch.nn.Module:
    import timm

    return timm.create_model(name, num_classes=classes, in_chans=channels)


@cache  # what torchvision registers refers to them: they must live as long as the process
def _operators() -> torch.library.Library | None:
    """Two operators that torchvision's wheel looks for and that do not load beside the CPU build of torch."""
    try:
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
            library.define(operator)  # type: ignore[no-untyped-call]
    except RuntimeError:  # they load
        return None
    return library
