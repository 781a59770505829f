"""One export from beginning to end: trace, convert, run in the real runtime, compare, and only then keep the file."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from resvision.adaptive import torch_segments
from resvision.classifier import Classifier
from resvision.data.cache import shrunk
from resvision.data.images import UInt8Array
from resvision.data.pictures import Split
from resvision.deployed import Document, FileSession, file_segment
from resvision.errors import ExportError, InputError, PictureError
from resvision.exporting import keras_file, onnx, openvino, pt2
from resvision.exporting.graphs import trace, trace_segment
from resvision.exporting.verify import (
    LOGITS_TOLERANCE,
    Sample,
    Verification,
    batched,
    compare,
    compare_segments,
    demand,
    golden,
    taken,
)
from resvision.files import storage
from resvision.preprocess import Preprocess
from resvision.runtime import OnnxSession, OpenVinoSession, Session
from resvision.target import Format, Target

CALIBRATION_PICTURES = 300
CALIBRATION_BYTES, LEAST_CALIBRATING = 2**30, 16  # of features, and pictures, that calibrate a later segment
CHECKED_PICTURES = 500
ENLARGED = 2  # whole pictures that calibrate are decoded at so many times the network's size, or more


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How a format is written and run.

    Args:
        write: the function that writes it.
        session: that runs it.
        package: whose version the verification names.
    """

    write: Callable[[Path, ExportedProgram, Document, Sequence[npt.NDArray[Any]]], None]
    session: Callable[[Path], Session]
    package: str

    def version(self) -> str:
        """The package and its version, once it is known to be installed."""
        return f"{self.package} {import_module(self.package).__version__}"


KINDS: dict[Format, Kind] = {
    "onnx": Kind(write=onnx.write, session=OnnxSession, package="onnxruntime"),
    "openvino": Kind(write=openvino.write, session=OpenVinoSession, package="openvino"),
    "torch": Kind(write=pt2.write, session=pt2.ProgramSession, package="torch"),
}
DESCRIBE: dict[Format, Callable[[Path, Path, Document], None]] = {"onnx": onnx.describe, "openvino": openvino.describe}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: the file to open, all files of it, and how it compared with the original."""

    file: Path
    files: tuple[Path, ...]
    verification: Verification


def write(
    classifier: Classifier,
    target: Target,
    path: Path,
    *,
    calibration: Split | None = None,
    checked: Split | None = None,
) -> Export:
    """Exports a classifier to `path`, verified; what does not answer as the original leaves no file.

    Args:
        classifier: the original.
        target: format, contract and precision.
        path: of the file, with the format's suffix.
        calibration: pictures by which the ranges of int8 are chosen.
        checked: others, with labels, that are compared; None takes made-up pictures.

    Raises:
        InputError: the path has another suffix, or int8 is to be calibrated with nothing.
        MissingExtraError: a package is not installed.
        ExportError: the network cannot be converted, or the file does not answer as the original.
    """
    _check(path, target, calibration)
    pictures: Sequence[UInt8Array] = golden(classifier.preprocess)
    labels = None
    if checked is not None:
        sample = Sample(checked, classifier.preprocess, CHECKED_PICTURES)
        pictures, labels = sample, sample.split.labels
    classifier = classifier.on_cpu()
    with _folder_beside(path) as folder:
        made = folder / path.name
        _convert(classifier, target, made, calibration)
        found = _compared(classifier, target, made, pictures, labels)
        demand(found, target)
        files = sorted(folder.iterdir())  # .bin before .xml: what is opened comes last
        for file in files:
            file.replace(path.parent / file.name)
    return Export(file=path, files=tuple(path.parent / file.name for file in files), verification=found)


def convert(classifier: Classifier, target: Target, path: Path, *, calibration: Split | None = None) -> None:
    """Writes the files of an export in place, without a comparison, for those who measure them themselves.

    Args:
        classifier: the original.
        target: format, contract and precision.
        path: of the file, with the format's suffix; its folder is made.
        calibration: as in `write`.

    Raises:
        InputError: as in `write`.
        MissingExtraError: a package is not installed.
        ExportError: the network cannot be converted.
    """
    _check(path, target, calibration)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _convert(classifier.on_cpu(), target, path, calibration)


def _check(path: Path, target: Target, calibration: Split | None) -> None:
    if path.suffix != target.suffix:
        raise InputError(f"{path}: a file for {target.format} ends in {target.suffix}")
    if target.precision == "int8" and calibration is None:
        raise InputError("int8 chooses its ranges by pictures like those that the network learned: give --data")


def _convert(classifier: Classifier, target: Target, path: Path, calibration: Split | None) -> None:
    """Writes the files of a classifier on the processor."""
    inputs: list[UInt8Array] = []
    if target.precision == "int8" and calibration is not None:
        inputs = _calibrating(calibration, target, classifier.preprocess)
    with quiet():
        if target.format == "keras":
            keras_file.write(classifier, path)
        elif classifier.exits is None:
            program, document = trace(classifier, target.contract), Document.of(classifier, target)
            _write(path, target, program, document, inputs)
        else:
            _write_segments(path, classifier, target, inputs)


def _write(
    path: Path, target: Target, program: ExportedProgram, document: Document, inputs: Sequence[npt.NDArray[Any]]
) -> None:
    """Writes one file of an export.

    Raises:
        ExportError: the format's package cannot.
    """
    try:
        KINDS[target.format].write(path, program, document, inputs)
    except (RuntimeError, ValueError) as error:  # by which these packages tell what they cannot do
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExportError(f"{target}: this network cannot be converted here: {reason}") from error


def _compared(
    classifier: Classifier,
    target: Target,
    path: Path,
    pictures: Sequence[UInt8Array],
    labels: npt.NDArray[np.int64] | None,
) -> Verification:
    """The files of an export against the original, in the runtime that they are for."""
    if target.format == "keras":
        with quiet():
            return keras_file.compare(classifier, path, pictures, labels)
    kind = KINDS[target.format]
    if classifier.exits is None:
        return compare(classifier, kind.session(path), kind.version(), target.contract, pictures, labels)
    sessions = [kind.session(path.parent / name) for name in _segment_names(path, classifier)]
    segments = [file_segment(cast(FileSession, session)) for session in sessions]  # others have no segments
    return compare_segments(classifier, segments, kind.version(), pictures, labels)


def describe(classifier: Classifier, target: Target, file: Path, path: Path) -> tuple[Path, ...]:
    """Copies an export of the same network, calibrated alike, with the classifier's present figures in it.

    Args:
        classifier: whose network was exported.
        target: what the export is, ONNX or OpenVINO.
        file: of the export.
        path: of the copy.

    Returns:
        All files of the copy.

    Raises:
        ExportError: the copy does not answer as the export does.
    """
    with _folder_beside(path) as folder:
        with quiet():
            DESCRIBE[target.format](file, folder / path.name, Document.of(classifier, target))
        files = sorted(folder.iterdir())
        squares = [taken(picture, "A", classifier.preprocess) for picture in golden(classifier.preprocess)]
        session = KINDS[target.format].session
        measured, copied = (batched(session(place), squares) for place in (file, folder / path.name))
        if not (difference := float(np.abs(measured - copied).max())) <= LOGITS_TOLERANCE:  # NaN is no answer, either
            raise ExportError(f"{path}: a copy of what was measured, whose logits differ by {difference:.2g}")
        for made in files:
            made.replace(path.parent / made.name)
    return tuple(path.parent / made.name for made in files)


def _segment_names(path: Path, classifier: Classifier) -> list[str]:
    """The files of a network with early exits: model.onnx, model-2.onnx, ..."""
    count = len(classifier.network.spec.exits) + 1
    return [path.name, *(f"{path.stem}-{place}{path.suffix}" for place in range(2, count + 1))]


def _write_segments(path: Path, classifier: Classifier, target: Target, inputs: Sequence[UInt8Array]) -> None:
    """Writes a network with early exits, a file for each segment.

    Raises:
        InputError: the format or the contract has no segments, or the network has none that can be exported.
    """
    kind = KINDS.get(target.format)
    if target.contract != "A" or kind is None or not issubclass(kind.session, FileSession):  # type: ignore[arg-type]
        raise InputError("a network with early exits exports as onnx or openvino by contract A, a file a segment")
    segments = torch_segments(classifier.network, classifier.preprocess)
    names = _segment_names(path, classifier)
    document = Document.of(classifier, target)
    size, channels = classifier.preprocess.size, classifier.preprocess.channels
    states: list[Any] = [torch.tensor(square) for square in inputs]
    example: Any = torch.zeros(1, size, size, channels, dtype=torch.uint8)
    for index, name in enumerate(names):
        described = dataclasses.replace(document, segment=index + 1, files=tuple(names))
        program = trace_segment(classifier, index, example)
        _write(path.parent / name, target, program, described, [state.numpy() for state in states])
        example = segments[index](example)[0]
        # Features are many times as large as pictures; some of them, of every class, calibrate as well.
        most = max(LEAST_CALIBRATING, CALIBRATION_BYTES // example.nbytes)
        kept = np.linspace(0, len(states) - 1, min(most, len(states))).astype(np.int64)
        states = [segments[index](states[place])[0] for place in kept]


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the file system of `path` that is gone after the block, with whatever is left in it.

    Raises:
        StorageError: the disk is full, or the folder cannot be written.
    """
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
            yield Path(name)


def _calibrating(split: Split, target: Target, preprocess: Preprocess) -> list[UInt8Array]:
    """What the target's contract takes of a few hundred pictures; those that cannot be read do not train, either."""
    min_side = None if target.contract == "A" else ENLARGED * preprocess.size
    pictures = Sample(split, preprocess, CALIBRATION_PICTURES, min_side)
    found = []
    for place in range(len(pictures)):
        with contextlib.suppress(PictureError):
            pixels = pictures[place] if min_side is None else shrunk(pictures[place], min_side)  # hundreds are held
            found.append(taken(pixels, target.contract, preprocess))
    if not found:
        raise InputError(f"none of {len(pictures)} training pictures can be read, and int8 chooses its ranges by them")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps converters from printing on stdout, from warning of what is inside them, and from reporting home.

    OpenVINO and NNCF send usage figures unless they believe to be in a test machine, which CI=true says.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
