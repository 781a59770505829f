"""Verbs that make a classifier cheaper, or run elsewhere: export, compress, benchmark."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from resvision import deployed, exporting, inputs
from resvision.api.experiments import folder_for, stopping
from resvision.classifier import Classifier
from resvision.cost import cost
from resvision.data import sources
from resvision.data.pictures import fingerprint, listed
from resvision.data.readable import check_readable
from resvision.efficiency import compress as compression
from resvision.efficiency.ladder import Goal, Parts
from resvision.errors import ClassifierError, DataError, InputError
from resvision.files import path_of, write_json
from resvision.inputs import Data
from resvision.measure import timestamp
from resvision.progress import Reporter
from resvision.report import plots
from resvision.runtime import using_threads, versions
from resvision.target import SUFFIXES, Contract, ExportPrecision, Format, Target
from resvision.training.ledger import LEDGER_FILE, Ledger

OTHER_SUFFIXES = (".pt", ".pth", ".bin", ".h5", ".pb", ".tflite")  # of files that are meant, too, and not written


def export(
    classifier: Classifier | str | Path,
    format: Format,  # noqa: A002 - the word of the command line
    *,
    contract: Contract = "A",
    precision: ExportPrecision = "fp32",
    data: Data | None = None,
    validation: sources.Arrays | None = None,
    columns: sources.Columns = sources.DEFAULT_COLUMNS,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> exporting.Export:
    """Writes a classifier as a file that runs without this program, once it answers there as it does here.

    Args:
        classifier: a Classifier, or the folder of one.
        format: "onnx", "openvino", "torch" or "keras".
        contract: "A", uint8 squares (N, S, S, C); or "B", a uint8 picture (1, H, W, C) of any size.
        precision: "fp32", or of ONNX and OpenVINO "bf16" or "int8".
        data: as in `train`. Its training part calibrates int8, and its test part, or else its validation part, is what
            the export is compared on. None compares made-up pictures.
        validation: as in `train`, beside arrays.
        columns: of a manifest.
        out: the file, or a folder for it; None takes `runtimes` in the classifier's folder, where `predict`, `evaluate`
            and `benchmark` find ONNX and OpenVINO by contract A.
        reporter: told about a download of the data.

    Raises:
        InputError: it cannot be exported so, or int8 is to be calibrated with nothing.
        MissingExtraError: a package is not installed.
        ExportError: the export does not answer as the original; no file is left.
    """
    target = Target(format=format, contract=contract, precision=precision)
    run = None
    if not isinstance(classifier, Classifier):
        run = path_of(classifier)
        classifier = Classifier.load(run)
    path = _export_path(run, out, target.name)
    calibration = checked = None
    if data is not None:
        names = None if isinstance(data, (str, Path)) else classifier.classes
        given = inputs.dataset_of(data, validation, names, columns, reporter or Reporter())
        dataset = sources.prepare(inputs.divided_as(classifier.provenance, given))
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
    out = path_of(out)
    is_file = out.suffix.lower() in (*SUFFIXES.values(), *OTHER_SUFFIXES) and not out.is_dir()
    return out if is_file else out / name


def compress(
    run: str | Path,
    data: Data,
    *,
    speedup: float = 2.0,
    max_drop: float = 0.5,
    minutes: float = 10.0,
    batch_size: int = 1,
    validation: sources.Arrays | None = None,
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
        minutes: of teaching, if smaller networks are needed; where one will not do another is taught as long again.
        batch_size: pictures at once whose time counts.
        validation: as in `train`, beside arrays.
        columns: of a manifest.
        out: the new classifier's folder; None takes the next number under runs/. A compression that was stopped there
            goes on with the networks that were taught.
        reporter: told what happens.

    Returns:
        What compress.json holds, and the folder, a classifier with the form that was taken under `runtimes`.

    Raises:
        InputError: the classifier or the data cannot be used, or the goal makes no sense.
        Interrupted: Ctrl-C; what was taught is kept.
    """
    reporter = reporter or Reporter()
    if not 1 < speedup <= compression.MOST:
        raise InputError(f"speedup={speedup} must be above 1, and at most {compression.MOST}")
    for name, value, is_right, rule in (
        ("max_drop", max_drop, 0 <= max_drop <= 100, "points of accuracy, from 0 to 100"),
        ("minutes", minutes, 0 < minutes < math.inf, "above 0 and finite"),
        ("batch_size", batch_size, batch_size >= 1, "at least 1"),
    ):
        if not is_right:
            raise InputError(f"{name}={value} must be {rule}")
    original = Classifier.load(run)
    spec = original.network.spec
    if spec.experts > 1:
        raise ClassifierError(f"{run}: has conditional convolutions, and nothing here makes these cheaper")
    if spec.exits or spec.gates:
        what = "early exits" if spec.exits else "gates"
        raise ClassifierError(
            f"{run}: has {what}; train without them, compress that, and add exits to what comes of it "
            "(resvision train DATA --pretrained RUN --exits auto --freeze-trunk)"
        )
    goal = Goal(speedup=speedup, max_drop=max_drop, minutes=minutes, batch_size=batch_size)
    classes = None if isinstance(data, (str, Path)) else original.classes
    dataset = inputs.dataset_of(data, validation, classes, columns, reporter)
    prepared = sources.prepare(inputs.divided_as(original.provenance, dataset))
    if missing := [name for name in original.classes if name not in prepared.classes]:
        raise DataError(
            f"{dataset.name}: has no pictures of {listed(missing)}, which {run} knows; what is not seen would be "
            "pruned away: give data of all classes"
        )
    splits = {name: inputs.with_labels_of(original, prepared, split) for name, split in prepared.splits.items()}
    parts = Parts.of(splits, dataset.name)
    settings = {
        "compress": str(run),
        "weights": hashlib.sha256(original.weights()).hexdigest(),
        "data": dataset.name,
        "pictures": {part.name: len(getattr(parts, part.name)) for part in dataclasses.fields(parts)},
        "fingerprint": fingerprint(original.classes, splits.values()),
        "goal": dataclasses.asdict(goal),
    }
    for part in (parts.tuning, parts.reported):
        check_readable(part)
    folder = folder_for("compress", out)
    ledger = Ledger(folder / LEDGER_FILE, settings, "a compression")
    reporter.note(
        f"{dataset.name}: {len(parts.tuning):,} pictures choose, {len(parts.reported):,} are reported; in {folder}"
    )
    with stopping(folder), tempfile.TemporaryDirectory() as exports:
        best, rungs, reported = compression.run(original, parts, goal, Path(exports), ledger, reporter.note)
        origin = {"from": str(run), "goal": settings["goal"]}
        compression.save(best, folder, origin, reported)
        numbers = {
            "from": str(run),
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
    """Measures how fast a classifier answers by PyTorch, ONNX Runtime and OpenVINO, beside a peer's network.

    Args:
        run: the folder of a classifier. Its exports are used; those that are missing are made for the time being.
        data: to measure the accuracy of each on, and whose training part calibrates int8; None leaves both out.
        split: of the data, as in `evaluate`.
        columns: of a manifest.
        threads: of every runtime; None leaves PyTorch's number.
        compiled: also try torch.compile.
        reporter: told what happens.

    Returns:
        rows, one a runtime, as `exporting.compare_runtimes` describes them; data and split, if any; threads; versions.

    Raises:
        InputError: the folder holds no classifier, or the data cannot be used.
    """
    reporter = reporter or Reporter()
    folder = path_of(run)
    classifier = Classifier.load(folder)
    measured = None
    if data is not None:
        measured = inputs.measured_split(classifier, data, split, columns, reporter)
        check_readable(measured.split)
        if measured.dataset is not None and measured.name in ("all", "train"):
            reporter.note(f"int8 that is not there yet is calibrated by some of the pictures of {measured.name}, too")
    elif split is not None:
        raise InputError(f"split={split!r}: of which data? give --data")
    with using_threads(threads):
        rows = exporting.compare_runtimes(
            classifier,
            folder,
            measured.split if measured else None,
            calibration=measured.train if measured else None,
            compiled=compiled,
            note=reporter.note,
        )
        used = torch.get_num_threads()
    where = {"data": measured.source, "split": measured.name} if measured else {"data": None, "split": None}
    return {**where, "threads": used, "versions": versions(), "rows": rows}
