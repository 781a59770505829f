"""One export from beginning to end: trace, convert, run in the real runtime, compare, and only then keep the file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from resvision.classifier import Classifier
from resvision.data.images import UInt8Array
from resvision.data.pictures import Split
from resvision.deployed import Contract, Document, ExportPrecision
from resvision.errors import InputError
from resvision.exporting import onnx, openvino, pt2
from resvision.exporting.graphs import trace
from resvision.exporting.verify import Verification, compare, demand, golden, taken
from resvision.files import storage
from resvision.preprocess import Preprocess
from resvision.runtime import OnnxSession, OpenVinoSession, Session

Format = Literal["onnx", "openvino", "torch"]

CALIBRATION_PICTURES = 300
CHECKED_PICTURES = 500


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What there is to know of a format.

    Args:
        suffix: of its file; of OpenVINO's first one.
        precisions: it can be written in.
        write: the function that does.
        session: that runs it.
        package: whose version the verification names.
    """

    suffix: str
    precisions: tuple[ExportPrecision, ...]
    write: Callable[..., None]
    session: Callable[[Path], Session]
    package: str


KINDS: dict[Format, Kind] = {
    "onnx": Kind(
        suffix=".onnx", precisions=("fp32", "int8"), write=onnx.write, session=OnnxSession, package="onnxruntime"
    ),
    "openvino": Kind(
        suffix=".xml",
        precisions=("fp32", "bf16", "int8"),
        write=openvino.write,
        session=OpenVinoSession,
        package="openvino",
    ),
    "torch": Kind(suffix=".pt2", precisions=("fp32",), write=pt2.write, session=pt2.ProgramSession, package="torch"),
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What was written: the file to open, all files of it, and how it compared with the original."""

    file: Path
    files: tuple[Path, ...]
    verification: Verification


def check(format: str, contract: str, precision: str, data: bool) -> None:
    """Refuses what cannot be exported before anything is computed.

    Args:
        format: of the file.
        contract: "A" or "B".
        precision: "fp32", "bf16" or "int8".
        data: whether there are pictures to calibrate with.

    Raises:
        InputError: there is no such format, contract or precision, or int8 is to be calibrated with nothing.
    """
    if format not in KINDS:
        raise InputError(f"format={format!r} is not one of {', '.join(KINDS)}")
    if contract not in ("A", "B"):
        raise InputError(f"contract={contract!r} is neither A (squares) nor B (whole pictures)")
    precisions = KINDS[format].precisions  # type: ignore[index]
    if precision not in precisions:
        raise InputError(f"precision={precision!r} is not there for {format}: there is {', '.join(precisions)}")
    if precision == "int8" and not data:
        raise InputError("int8 chooses its ranges by pictures that the network was trained on: give --data")


def default_name(format: Format, contract: Contract, precision: ExportPrecision) -> str:
    """The name of a file whose name nobody gave."""
    return f"model-{contract}-{precision}{KINDS[format].suffix}"


def write(
    classifier: Classifier,
    path: Path,
    *,
    format: Format,
    contract: Contract = "A",
    precision: ExportPrecision = "fp32",
    calibration: Split | None = None,
    checked: Split | None = None,
) -> Export:
    """Exports a classifier to `path`, verified; what does not answer as the original leaves no file.

    Args:
        classifier: the original.
        path: of the file, with the format's suffix.
        format: "onnx", "openvino" or "torch".
        contract: "A" takes squares, "B" whole pictures.
        precision: "fp32", "bf16" or "int8".
        calibration: pictures by which the ranges of int8 are chosen.
        checked: others, with labels, that are compared; None takes made-up pictures.

    Raises:
        InputError: it cannot be exported so; see `check`.
        MissingExtraError: a package is not installed.
        ExportError: the file does not answer as the original.
    """
    check(format, contract, precision, calibration is not None)
    kind = KINDS[format]
    if path.suffix != kind.suffix:
        raise InputError(f"{path}: a file for {format} ends in {kind.suffix}")
    preprocess = classifier.preprocess
    chosen: list[UInt8Array] = []
    if calibration is not None and precision == "int8":
        chosen, _ = _sample(calibration, preprocess, CALIBRATION_PICTURES)
    pictures, labels = golden(preprocess), None
    if checked is not None:
        pictures, labels = _sample(checked, preprocess, CHECKED_PICTURES)
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    with folder as name:
        made = Path(name) / path.name
        with quiet():
            document = Document.of(classifier, contract, precision)
            kind.write(made, trace(classifier, contract), document, taken(chosen, contract, preprocess))
            session = kind.session(made)
        runtime = f"{kind.package} {version(kind.package)}"
        found = compare(classifier, session, runtime, contract, pictures, labels)
        demand(found, contract, precision)
        files = [made.with_suffix(".bin"), made] if format == "openvino" else [made]  # the one that is opened comes last
        with storage(path):
            for file in files:
                file.replace(path.parent / file.name)
    return Export(file=path, files=tuple(path.parent / file.name for file in files), verification=found)


def _sample(split: Split, preprocess: Preprocess, most: int) -> tuple[list[UInt8Array], npt.NDArray[np.int64]]:
    """The same few hundred pictures (H, W, C) of a split each time, and their labels."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:most])
    return [split.pictures.pixels(int(i), preprocess) for i in chosen], split.labels[chosen]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps converters from printing on stdout, from warning of what is inside them, and from reporting home.

    OpenVINO and NNCF send usage figures unless they believe to be in a test machine, which CI=true says.
    """
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before
