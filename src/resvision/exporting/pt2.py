"""A .pt2 file of torch.export, for programs that run PyTorch without our code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from resvision.data.images import UInt8Array
from resvision.deployed import Document
from resvision.runtime import DOCUMENT_KEY

DOCUMENT_FILE = f"{DOCUMENT_KEY}.json"  # in the file, which is an archive


def write(
    path: Path, program: torch.export.ExportedProgram, document: Document, calibration: Sequence[UInt8Array]
) -> None:
    """Writes a traced graph to `path`, the document as an extra file in it; there is no int8 to calibrate."""
    torch.export.save(program, path, extra_files={DOCUMENT_FILE: document.to_json()})


class ProgramSession:
    """Runs a .pt2 file that this process has just written.

    PyTorch reads such a file by pickle, so that no file of anybody else's may ever come here.
    """

    def __init__(self, path: Path) -> None:
        self.program = torch.export.load(path).module()

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """What the file's contract takes to float32 logits (N, K)."""
        with torch.inference_mode():
            logits, _ = self.program(squares)
        return logits.numpy()  # type: ignore[no-any-return]
