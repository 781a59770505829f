"""What was exported: the document in such a file, the `runtimes` folder of a run, and a predictor from either."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shlex
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from resvision import measure
from resvision.adaptive import AdaptiveSession, Segment, all_exits
from resvision.classifier import Classifier, Predictor, check_parts
from resvision.cost import exit_macs
from resvision.data.images import blank
from resvision.data.loader import at_once
from resvision.data.pictures import recorded_division
from resvision.errors import ClassifierError, InputError, MissingExtraError
from resvision.exits import ExitRule
from resvision.files import alone, parse_version, path_of, read_json, storage, write_json
from resvision.preprocess import Preprocess
from resvision.progress import Note
from resvision.runtime import LOGITS, NEXT, PROBABILITIES, OnnxSession, OpenVinoSession
from resvision.spec import ResNetSpec
from resvision.target import SUFFIXES, Contract, ExportPrecision, Runtime, RuntimeChoice, Target

FORMAT = "resvision-export"
VERSION = 1
PICTURES, FEATURES = "pictures", "features"  # names of inputs
FOLDER = "runtimes"  # in a run folder
INDEX_FILE = "index.json"
INDEX_FORMAT = "resvision-runtimes"
FileSession = OnnxSession | OpenVinoSession
SESSIONS: dict[str, type[OnnxSession] | type[OpenVinoSession]] = {
    SUFFIXES["onnx"]: OnnxSession,
    SUFFIXES["openvino"]: OpenVinoSession,
}
TRIALS = 5  # rounds by which the fastest is chosen
TRIAL_SECONDS = 2.0  # after which no further round is begun


@dataclass(frozen=True, kw_only=True)
class Document:
    """What an exported file says of itself.

    Args:
        format: FORMAT.
        version: VERSION.
        contract: what the model takes.
        precision: in which it computes.
        classes: the name of each logit.
        temperature: the probabilities are softmax(logits / temperature).
        preprocess: from a picture to the network's input.
        spec: of the network.
        weights: SHA-256 of the model.safetensors that was exported.
        metrics: what was measured of the original.
        exits: when pictures leave a network with early exits, of which every segment is a file of its own.
        segment: which of them this is, counted from 1.
        files: of all segments, shallow to deep.
        divided_at: of training data that came undivided, as in `DataSet`.
    """

    format: str = FORMAT
    version: int = VERSION
    contract: Contract
    precision: ExportPrecision
    classes: tuple[str, ...]
    temperature: float
    preprocess: Preprocess
    spec: ResNetSpec
    weights: str
    metrics: dict[str, Any]
    exits: ExitRule | None = None
    segment: int | None = None
    files: tuple[str, ...] = ()
    divided_at: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def input(self) -> str:
        """The name of the model's input."""
        return FEATURES if self.segment is not None and self.segment > 1 else PICTURES

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the model's outputs, in order."""
        passes_on = self.segment is not None and self.segment < len(self.files)
        return (*((NEXT,) if passes_on else ()), LOGITS, PROBABILITIES)

    @classmethod
    def of(cls, classifier: Classifier, target: Target) -> Document:
        """Describes an export of `classifier`."""
        return cls(
            contract=target.contract,
            precision=target.precision,
            classes=classifier.classes,
            temperature=classifier.temperature,
            preprocess=classifier.preprocess,
            spec=classifier.network.spec,
            weights=hashlib.sha256(classifier.weights()).hexdigest(),
            metrics=classifier.metrics,
            exits=classifier.exits,
            divided_at=recorded_division(classifier.provenance),
        )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One export in the `runtimes` folder of a run.

    Args:
        file: its name; of OpenVINO the .xml.
        runtime: that runs it.
        contract: what it takes.
        precision: in which it computes.
        sha256: of each of its files, by name.
        verification: how it compared with the original.
    """

    file: str
    runtime: Runtime
    contract: Contract
    precision: ExportPrecision
    sha256: dict[str, str]
    verification: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What runtimes/index.json holds."""

    format: str = INDEX_FORMAT
    version: int = VERSION
    exports: tuple[Entry, ...] = ()


def load(
    path: str | Path,
    runtime: RuntimeChoice | None = None,
    *,
    batch_size: int = 64,
    note: Note = lambda text: None,
) -> Predictor:
    """A predictor from a run folder or an exported file.

    Args:
        path: of the folder, or of an .onnx or .xml file.
        runtime: of a run folder; "torch" if None. "onnx" and "openvino" take the most exact export in `runtimes`,
            "auto" whatever is the fastest on this machine.
        batch_size: pictures at once, for which "auto" measures.
        note: told what "auto" measured, or which of several exports is taken.

    Raises:
        ClassifierError: there is nothing of that kind, or it is not what it says.
        MissingExtraError: the runtime is not installed.
    """
    path = path_of(path)
    if path.is_file():
        if runtime is not None:
            raise InputError(f"{path}: an exported file has its own runtime: leave out --runtime {runtime}")
        return open_file(path)
    if path.suffix in SUFFIXES.values() and not path.exists():
        raise ClassifierError(f"{path}: there is no such file")
    return by_runtime(path, Classifier.load(path), runtime, batch_size=batch_size, note=note)


def by_runtime(
    run: Path,
    classifier: Classifier,
    runtime: RuntimeChoice | None,
    *,
    batch_size: int = 64,
    note: Note = lambda text: None,
) -> Predictor:
    """The classifier of a run folder in the runtime that is asked for.

    Args:
        run: the folder.
        classifier: in it.
        runtime: as in `load`.
        batch_size: as in `load`.
        note: as in `load`.

    Raises:
        ClassifierError: there is nothing of that kind, or it is not what it says.
        MissingExtraError: the runtime is not installed.
        InputError: there is no such runtime.
    """
    if runtime not in (None, *get_args(RuntimeChoice)):
        raise InputError(f"runtime={runtime!r} is not one of {', '.join(get_args(RuntimeChoice))}")
    if runtime in (None, "torch"):
        return classifier
    if runtime == "auto":
        return _fastest(run, classifier, batch_size, note)
    entries = [entry for entry in _squares_entries(run) if entry.runtime == runtime]
    if not entries:
        raise ClassifierError(
            f"{run / FOLDER}: holds nothing for {runtime}; first: "
            f"resvision export {shlex.quote(str(run))} --format {runtime}"
        )
    exact_first = get_args(ExportPrecision)
    entry = min(entries, key=lambda entry: exact_first.index(entry.precision))
    if len(entries) > 1:
        note(f"{entry.precision}, the most exact of {len(entries)} exports for {runtime}: {run / FOLDER / entry.file}")
    return _open_entry(run, classifier, entry)


def open_file(path: Path) -> Predictor:
    """A predictor from an exported file.

    Raises:
        ClassifierError: it was not exported by this program, is damaged, or would have to be unpickled.
        MissingExtraError: its runtime is not installed.
    """
    if path.suffix == SUFFIXES["torch"]:
        raise ClassifierError(
            f"{path}: PyTorch reads .pt2 by pickle, which may run code in it; give the run folder, .onnx or .xml"
        )
    if path.suffix == SUFFIXES["keras"]:
        raise ClassifierError(
            f"{path}: Keras runs .keras files; give the run folder, or make one of it: "
            f"resvision import {shlex.quote(str(path))}"
        )
    if path.suffix not in SESSIONS:
        raise ClassifierError(f"{path}: neither a run folder nor an exported file ({', '.join(SESSIONS)})")
    session = SESSIONS[path.suffix](path)
    document = _document(path, session)
    check_parts(document.spec, document.preprocess, document.classes, document.temperature, document.exits)
    adaptive = None if document.exits is None else _adaptive(path, document, session)
    return Predictor(
        session=session if adaptive is None else adaptive.in_full,
        adaptive=adaptive,
        preprocess=document.preprocess,
        classes=document.classes,
        temperature=document.temperature,
        whole=document.contract == "B",
        provenance={
            "weights": document.weights,
            "precision": document.precision,
            "divided_at": document.divided_at,
        },
        metrics=document.metrics,
    )


def _document(path: Path, session: FileSession) -> Document:
    """What an opened file says of itself.

    Raises:
        ClassifierError: nothing that can be read.
        InputError: something else.
    """
    if session.document is None:
        raise ClassifierError(f"{path}: has no document of resvision; only what `resvision export` wrote can be used")
    try:
        value = json.loads(session.document)
    except (ValueError, RecursionError) as error:
        raise ClassifierError(f"{path}: its document is not JSON ({error})") from error
    return parse_version(Document, value, str(path), FORMAT, VERSION)


def _adaptive(path: Path, document: Document, first: FileSession) -> AdaptiveSession:
    """All segments of a network with early exits, the first of which is open already."""
    assert document.exits is not None
    if not document.files or document.segment is None:
        raise ClassifierError(f"{path}: has exits, and does not say which segment of the network it is")
    if document.segment != 1:
        raise ClassifierError(f"{path}: is segment {document.segment} of a network: give {document.files[0]}")
    if len(document.files) != len(document.spec.exits) + 1:
        raise ClassifierError(
            f"{path}: names {len(document.files)} segments of a network with {len(document.spec.exits)} exits"
        )
    if any(Path(name).name != name for name in document.files):
        raise ClassifierError(f"{path}: names a segment in another folder; all of them lie beside it")
    sessions = [first, *(SESSIONS[path.suffix](path.parent / name) for name in document.files[1:])]
    for place, session in enumerate(sessions, start=1):
        file = path.parent / document.files[place - 1]
        if _document(file, session) != dataclasses.replace(document, segment=place):
            raise ClassifierError(f"{file}: is no segment of the network in {path}")
    segments = [file_segment(session) for session in sessions]
    return AdaptiveSession(segments, document.exits, exit_macs(document.spec, document.preprocess.size))


def file_segment(session: FileSession) -> Segment:
    """A segment in a file, as `AdaptiveSession` runs it."""

    def run(state: Any, /, *, answers: bool = True) -> tuple[Any, npt.NDArray[np.float32]]:  # it always does
        found = session.run(np.asarray(state))
        return found.get(NEXT), found[LOGITS]

    return run


# ---- the folder `runtimes` of a run ----


def read_index(run: Path) -> Index:
    """What was exported into a run folder; nothing where there is no index.

    Raises:
        ClassifierError: the index is of another program.
        InputError: it is damaged.
    """
    path = run / FOLDER / INDEX_FILE
    if not path.is_file():
        return Index()
    return parse_version(Index, read_json(path), str(path), INDEX_FORMAT, VERSION)


def register(run: Path, target: Target, files: Iterable[Path], verification: dict[str, Any]) -> None:
    """Enters an export into the index of a run, in the place of an earlier one of the same name.

    What PyTorch would read by pickle, and what Keras reads, is left out, since no session here opens it.
    """
    if target.format == "torch" or target.format == "keras":
        return
    entry = Entry(
        file=target.name,
        runtime=target.format,
        contract=target.contract,
        precision=target.precision,
        sha256=_checksums(*files),
        verification=verification,
    )
    with alone(run / FOLDER):  # or one of two exports at the same moment would be forgotten
        others = tuple(other for other in read_index(run).exports if other.file != entry.file)
        write_json(run / FOLDER / INDEX_FILE, dataclasses.asdict(Index(exports=(*others, entry))))


def in_run(run: Path, classifier: Classifier, note: Note = lambda text: None) -> dict[str, Predictor]:
    """The exports of squares in a run folder that can be run here, by runtime and precision.

    Args:
        run: the folder.
        classifier: in it.
        note: told which export is not of this classifier, or damaged.
    """
    found = {}
    for entry in _squares_entries(run):
        try:
            found[f"{entry.runtime} {entry.precision}"] = _open_entry(run, classifier, entry)
        except MissingExtraError:
            continue
        except InputError as reason:  # it is of another network, damaged or gone, which says nothing of the others
            note(f"left out: {reason}")
    return found


def _squares_entries(run: Path) -> list[Entry]:
    return [entry for entry in read_index(run).exports if entry.contract == "A"]


def _open_entry(run: Path, classifier: Classifier, entry: Entry) -> Predictor:
    folder = run / FOLDER
    again = f"resvision export {shlex.quote(str(run))} --format {entry.runtime} --precision {entry.precision}"
    again += " --data DATA" if entry.precision == "int8" else ""
    if any(Path(name).name != name for name in (entry.file, *entry.sha256)) or entry.file not in entry.sha256:
        raise ClassifierError(f"{folder / INDEX_FILE}: {entry.file} is not the name of a file in its folder")
    if _checksums(*(folder / name for name in entry.sha256)) != entry.sha256:
        raise ClassifierError(f"{folder / entry.file}: not the file that {INDEX_FILE} was written with; again: {again}")
    predictor = open_file(folder / entry.file)
    weights = hashlib.sha256(classifier.weights()).hexdigest()
    if predictor.provenance["weights"] != weights or predictor.preprocess != classifier.preprocess:
        raise ClassifierError(
            f"{folder / entry.file}: was exported from another classifier than the one in {run}; again: {again}"
        )
    # Class names, calibration and thresholds are the run's own, which may have been changed since.
    adaptive = predictor.adaptive
    if adaptive is None and classifier.exits is not None:
        raise ClassifierError(f"{folder / entry.file}: is of the network without its early exits; again: {again}")
    if adaptive is not None and classifier.exits is not None:
        adaptive = AdaptiveSession(adaptive.segments, classifier.exits, adaptive.macs)
    return dataclasses.replace(
        predictor, classes=classifier.classes, temperature=classifier.temperature, adaptive=adaptive
    )


def _checksums(*files: Path) -> dict[str, str]:
    """The SHA-256 of each file, by its name.

    Raises:
        StorageError: one cannot be read.
    """
    sums = {}
    for file in files:
        with storage(file):
            sums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return sums


def _to_the_end(predictor: Predictor) -> Callable[[Any], object]:
    """What runs a picture to the network's end; past all exits, which nothing but their files can leave out."""
    if predictor.adaptive is None:
        return predictor.session
    return functools.partial(all_exits, predictor.adaptive.segments)


def _fastest(run: Path, classifier: Classifier, batch_size: int, note: Note) -> Predictor:
    """Whichever answers first on a batch of black squares."""
    choices: dict[str, Predictor] = {"torch fp32": classifier, **in_run(run, classifier, note)}
    batch_size = min(batch_size, at_once(classifier.preprocess))  # more are never computed together
    squares = blank(classifier.preprocess, batch_size)
    ways = {name: _to_the_end(choice) for name, choice in choices.items()}
    rounds = measure.interleaved(ways, [squares] * TRIALS, limit=TRIAL_SECONDS)
    times = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    best = min(times, key=times.__getitem__)
    measured = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in times.items())
    together = "one picture" if batch_size == 1 else f"{batch_size} pictures"
    note(f"{best} is the fastest with {together} at once: {measured}")
    return choices[best]
