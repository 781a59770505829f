"""ONNX: one file that ONNX Runtime runs without anything of ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from resvision.deployed import Document
from resvision.runtime import DOCUMENT_KEY, extra

OPSET = 20  # the least at which PyTorch's exporter needs no conversion for what networks here use
QUANTISED = ("Conv", "Gemm", "Add", "MaxPool")  # ReduceMean and the softmax stay in float32
PURPOSE = "an export to ONNX"


def write(
    path: Path, program: torch.export.ExportedProgram, document: Document, calibration: Sequence[npt.NDArray[Any]]
) -> None:
    """Writes a traced graph to `path`, in bf16 or int8 where the document says so.

    Args:
        path: of the .onnx file.
        program: of `graphs.trace`.
        document: goes into the file's metadata, with the class names as plain lines.
        calibration: what the contract takes, one picture at a time, by which the ranges of int8 are chosen.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
    """
    extra("onnx", "export", PURPOSE)
    extra("onnxscript", "export", PURPOSE)
    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[document.input],
        output_names=list(document.outputs),
        external_data=False,
        verbose=False,
    )
    assert made is not None
    model = made.model_proto
    if document.precision == "int8":
        model = _quantised(model, path, document.input, calibration)
    elif document.precision == "bf16":
        _halve_weights(model)
    _forget_origins(model)
    _save(model, path, document)


def describe(file: Path, path: Path, document: Document) -> None:
    """Copies a file to `path`, with another document in it."""
    _save(extra("onnx", "export", PURPOSE).load(file), path, document)


def _save(model: Any, path: Path, document: Document) -> None:
    onnx = extra("onnx", "export", PURPOSE)
    onnx.helper.set_model_props(model, {DOCUMENT_KEY: document.to_json(), "classes": "\n".join(document.classes)})
    onnx.save_model(model, path)


def _quantised(model: Any, path: Path, name: str, calibration: Sequence[npt.NDArray[Any]]) -> Any:
    """Weights in 8 bits by channel and activations by tensor, as pairs of QuantizeLinear and DequantizeLinear."""
    onnx = extra("onnx", "export", PURPOSE)
    quantization = extra("onnxruntime.quantization", "export", PURPOSE)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.pictures: Iterator[npt.NDArray[Any]] = iter(calibration)

        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            picture = next(self.pictures, None)
            return None if picture is None else {name: picture}

    names = [node.name for node in model.graph.node]
    first = next(place for place, node in enumerate(model.graph.node) if node.op_type == "Conv")
    quantization.quantize_static(
        model,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=list(QUANTISED),
        nodes_to_exclude=names[:first],  # the preprocessing, whose levels and coordinates are exact
    )
    return onnx.load(path)


def _halve_weights(model: Any) -> None:
    """Stores weights in bfloat16, and casts them back: ONNX Runtime has few kernels for it, and computes in float32.

    It folds the casts when it opens the file, so that they cost nothing later. What has one dimension stays: biases,
    norms, and the constants of the preprocessing.
    """
    onnx = extra("onnx", "export", PURPOSE)
    kinds, graph = onnx.TensorProto, model.graph
    for tensor in graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == kinds.FLOAT:
            name, stored = tensor.name, f"{tensor.name}.bf16"
            rounded = torch.tensor(onnx.numpy_helper.to_array(tensor)).bfloat16().view(torch.int16).numpy()
            tensor.CopyFrom(onnx.helper.make_tensor(stored, kinds.BFLOAT16, rounded.shape, rounded.tobytes(), raw=True))
            graph.node.insert(0, onnx.helper.make_node("Cast", [stored], [name], to=kinds.FLOAT))


def _forget_origins(model: Any) -> None:
    """Removes what the exporter notes of every node, stack traces of our source among it."""
    for item in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del item.metadata_props[:]
