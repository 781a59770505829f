"""Target: what a classifier is exported as, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from resvision.errors import InputError

Format = Literal["onnx", "openvino", "torch", "keras"]
Contract = Literal["A", "B"]
ExportPrecision = Literal["fp32", "bf16", "int8"]
Runtime = Literal["torch", "onnx", "openvino"]
RuntimeChoice = Literal["torch", "onnx", "openvino", "auto"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "keras": ".keras"}
PRECISIONS: dict[Format, tuple[ExportPrecision, ...]] = {
    "onnx": ("fp32", "bf16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "torch": ("fp32",),
    "keras": ("fp32",),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """One kind of file.

    Args:
        format: who reads it.
        contract: what the model in it takes: A, uint8 squares (N, S, S, C) that are resized already; B, a uint8 picture
            (1, H, W, C) of any size.
        precision: in which it computes; bf16 of ONNX is that of its weights.

    Raises:
        InputError: there is no such format or contract, or not in this precision.
    """

    format: Format
    contract: Contract = "A"
    precision: ExportPrecision = "fp32"

    def __post_init__(self) -> None:
        if self.format not in PRECISIONS:
            raise InputError(f"format={self.format!r} is not one of {', '.join(PRECISIONS)}")
        if self.contract not in get_args(Contract):
            raise InputError(f"contract={self.contract!r} is neither A (squares) nor B (whole pictures)")
        if self.format == "keras" and self.contract != "A":
            raise InputError("contract='B' is not there for keras: its model takes squares")
        if self.precision not in PRECISIONS[self.format]:
            known = ", ".join(PRECISIONS[self.format])
            raise InputError(f"precision={self.precision!r} is not there for {self.format}: there is {known}")

    @property
    def suffix(self) -> str:
        """Of the file that is opened."""
        return SUFFIXES[self.format]

    @property
    def name(self) -> str:
        """Of a file that nobody named."""
        return f"model-{self.contract}-{self.precision}{self.suffix}"

    def __str__(self) -> str:
        return f"{self.format} {self.precision}"
