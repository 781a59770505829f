"""OpenVINO IR: an .xml and a .bin file that OpenVINO runs without anything of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from resvision.deployed import Document
from resvision.runtime import DOCUMENT_KEY, extra, openvino_core

PURPOSE = "an export to OpenVINO"


def write(
    path: Path, program: torch.export.ExportedProgram, document: Document, calibration: Sequence[npt.NDArray[Any]]
) -> None:
    """Writes a traced graph to `path` and the .bin file beside it, in the document's precision.

    Args:
        path: of the .xml file.
        program: of `graphs.trace`.
        document: goes into the model's `rt_info`, with the precision and the class names as plain lines.
        calibration: what the contract takes, one picture at a time, by which the ranges of int8 are chosen.

    Raises:
        MissingExtraError: openvino, or for int8 nncf, is not installed.
    """
    openvino = extra("openvino", "openvino", PURPOSE)
    model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({document.input})
    for output, name in zip(model.outputs, document.outputs, strict=True):
        output.get_tensor().set_names({name})
    [example], _ = program.example_inputs
    model.reshape([-1, *example.shape[1:]] if document.contract == "A" else [1, -1, -1, document.preprocess.channels])
    if document.precision == "int8":
        model = _quantised(model, calibration)
    _save(model, path, document)


def describe(file: Path, path: Path, document: Document) -> None:
    """Copies a file to `path`, and the .bin beside it, with another document in it."""
    extra("openvino", "openvino", PURPOSE)
    _save(openvino_core().read_model(file), path, document)


def _save(model: Any, path: Path, document: Document) -> None:
    openvino = extra("openvino", "openvino", PURPOSE)
    model.set_rt_info(document.to_json(), DOCUMENT_KEY)
    model.set_rt_info(document.precision, "precision")
    model.set_rt_info("\n".join(document.classes), "classes")
    # In bf16 the weights lose more than this when they are used, so that the file may be half as large.
    openvino.save_model(model, path, compress_to_fp16=document.precision == "bf16")


def _quantised(model: Any, calibration: Sequence[npt.NDArray[Any]]) -> Any:
    """Weights in 8 bits by channel, activations by tensor and with a zero point where they have two signs."""
    nncf = extra("nncf", "openvino", "int8 for OpenVINO")
    nodes = model.get_ordered_ops()
    first = next(place for place, node in enumerate(nodes) if node.get_type_name() == "Convolution")
    before = [node.get_friendly_name() for node in nodes[:first] if node.get_type_name() != "Constant"]
    return nncf.quantize(
        model,
        nncf.Dataset(calibration),
        subset_size=len(calibration),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(names=before, validate=False),  # the preprocessing, which is exact
    )
