"""How fast a classifier answers in every runtime that is installed, beside a peer's network of the same kind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from resvision import measure
from resvision.classifier import Classifier
from resvision.data.loader import EvaluationBatches, default_workers
from resvision.data.pictures import Split
from resvision.deployed import in_run, open_file
from resvision.errors import MissingExtraError
from resvision.evaluation import evaluate
from resvision.exporting.export import quiet, write
from resvision.models import ResNet
from resvision.runtime import Session, TorchSession
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
        split: pictures to measure accuracies on; None leaves them out.
        compiled: also try torch.compile, which takes a minute or so.
        note: told what happens.

    Returns:
        One row a runtime: its name; latency_ms of one picture and pictures_per_second at 32 at once (median, least and
        most of the rounds); accuracy, 0..1 or None.

    Raises:
        ExportError: an export does not answer as the original.
    """
    with tempfile.TemporaryDirectory() as made:
        sessions = _sessions(classifier, folder, Path(made), compiled, note)
        timed = sessions | _peer(classifier)
        times = {batch: _timed(timed, classifier, batch) for batch in BATCHES}
    accuracies = {}
    if split is not None:
        batches = EvaluationBatches(split, classifier.preprocess, default_workers())
        for name, session in sessions.items():
            evaluation = evaluate(session, batches, classifier.classes, classifier.temperature)
            accuracies[name] = evaluation.accuracy
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


def _sessions(classifier: Classifier, folder: Path, made: Path, compiled: bool, note: Note) -> dict[str, Session]:
    """What there is to run the classifier, by runtime and precision."""
    network, preprocess = classifier.network, classifier.preprocess
    found: dict[str, Session] = {
        "torch fp32": classifier.session,
        "torch bf16": TorchSession(network, preprocess, "bf16"),
    }
    if compiled:
        found["torch compiled"] = TorchSession(cast(ResNet, torch.compile(network)), preprocess)
    found |= {name: predictor.session for name, predictor in in_run(folder, classifier).items()}
    for target in MADE:
        if str(target) in found:
            continue
        note(f"exporting: {target}")
        try:
            found[str(target)] = open_file(write(classifier, target, made / target.name).file).session
        except MissingExtraError as error:
            note(f"left out: {error}")
    return found


def _timed(sessions: dict[str, Session], classifier: Classifier, batch: int) -> dict[str, list[float]]:
    """Seconds of each call with `batch` random squares at once."""
    side, channels = classifier.preprocess.size, classifier.preprocess.channels
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, channels), dtype=np.uint8)
    calls = {name: partial(session, torch.from_numpy(pixels)) for name, session in sessions.items()}
    return measure.interleaved(calls, rounds=ROUNDS, warmup=WARMUP, limit=LIMIT_SECONDS)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": measure.median(values), "least": min(values), "most": max(values)}


# ---- the peer: torchvision's or timm's network of the same name, the usual way, with random weights ----


class PeerSession:
    """A network of another library behind the usual preprocessing."""

    def __init__(self, network: torch.nn.Module, classifier: Classifier) -> None:
        self.network = network.eval()
        preprocess = classifier.preprocess
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, K)."""
        with torch.inference_mode():
            pictures = squares.permute(0, 3, 1, 2).float() / 255
            return self.network((pictures - self.mean) / self.std).numpy()  # type: ignore[no-any-return]


def _peer(classifier: Classifier) -> dict[str, Session]:
    """The peer, where one is installed and has a network of this name and size."""
    provenance, spec = classifier.provenance, classifier.network.spec
    name = provenance.get("model") or provenance.get("recipe", {}).get("model")
    size = sum(p.numel() for p in classifier.network.parameters())
    _operators()
    for package, build in (("torchvision", _torchvision), ("timm", _timm)):
        with quiet():
            try:
                network = build(name, spec.num_classes, spec.in_channels)
            except (ImportError, RuntimeError, AttributeError, ValueError):  # not installed, or knows no such network
                continue
        if sum(p.numel() for p in network.parameters()) == size:
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
