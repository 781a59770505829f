"""Where networks run, and sessions that turn pictures into logits: PyTorch, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import PIL
import torch

import resvision
from resvision.data.images import to_input
from resvision.errors import ClassifierError, InputError, MissingExtraError
from resvision.files import storage
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Precision

DOCUMENT_KEY = "resvision"  # under which an exported file holds its JSON document
NEXT, LOGITS, PROBABILITIES = "next_features", "logits", "probabilities"  # names of outputs


class Session(Protocol):
    """Runs a network on squares; `session(squares)` gives logits."""

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, K)."""


def device() -> torch.device:
    """Where networks run: the first NVIDIA GPU, or the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """The device's name, for reports."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def versions() -> dict[str, str]:
    """The versions that decide a run's numbers."""
    return {
        "resvision": resvision.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": version("simplejpeg"),
    }


def autocast(where: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Convolutions and matrix products in bfloat16 within the block, or nothing for fp32."""
    return torch.autocast(where.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


@contextlib.contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """As many threads within the block for PyTorch and for the sessions that are opened there; None changes nothing.

    Raises:
        InputError: `count` is below 1.
    """
    if count is not None and count < 1:
        raise InputError(f"threads={count} must be at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluating(network: ResNet, modules: Iterable[torch.nn.Module]) -> None:
    """Puts a network into evaluation mode; where all of its modules are, they are only looked at.

    To set the mode of each takes the twentieth part of what `resnet56_cifar` needs for a picture.
    """
    if any(module.training for module in modules):
        network.eval()


class TorchSession:
    """Runs a network on squares; `session(squares)` gives logits.

    Args:
        network: put into evaluation mode at every call, if anything of it is not.
        preprocess: whose normalisation is applied.
        precision: of the forward pass.
    """

    def __init__(self, network: ResNet, preprocess: Preprocess, precision: Precision = "fp32") -> None:
        self.network = network
        self.modules = tuple(network.modules())
        self.preprocess = preprocess
        self.precision: Precision = precision

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, num_classes)."""
        where = next(self.network.parameters()).device
        evaluating(self.network, self.modules)
        with torch.inference_mode(), autocast(where, self.precision):
            logits = self.network(to_input(squares.to(where), self.preprocess))
        return logits.float().cpu().numpy()  # type: ignore[no-any-return]


class OnnxSession:
    """Runs an exported ONNX file in ONNX Runtime, on the processor.

    Args:
        path: of the file. It is read whole and nothing else is: weights that it names in other files are refused.
        threads: as many as PyTorch uses if None.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        StorageError: the file cannot be read.
        ClassifierError: it is no model.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        onnxruntime = extra("onnxruntime", "export", "running an ONNX file")
        with storage(path):
            data = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised
        # Without this, names of files in an untrusted model would be looked for in the current folder.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        # Its threads would go on waiting busily for the next call, and slow down whatever else the machine does.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the package has an error class for each of its codes, without a common base
            raise ClassifierError(f"{path}: not a model that ONNX Runtime can load ({_last_line(error)})") from error
        self.document: str | None = self.session.get_modelmeta().custom_metadata_map.get(DOCUMENT_KEY)
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """What the file's contract takes to float32 logits (N, K)."""
        return self.run(squares.numpy())[LOGITS]

    def run(self, value: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
        """What the file takes to all of its outputs, by name."""
        return dict(zip(self.outputs, self.session.run(self.outputs, {self.input: value}), strict=True))


class OpenVinoSession:
    """Runs an exported OpenVINO file on the processor, in the precision that was exported.

    Args:
        path: of the .xml file; the .bin lies beside it.
        threads: as many as PyTorch uses if None.

    Raises:
        MissingExtraError: openvino is not installed.
        StorageError: a file cannot be read.
        ClassifierError: it is no model.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        core, openvino = openvino_core(), extra("openvino", "openvino", PURPOSE)
        with storage(path):
            structure = path.read_bytes()
        weights = path.with_suffix(".bin")
        with storage(weights):
            data = np.frombuffer(weights.read_bytes(), dtype=np.uint8)
        try:
            model = core.read_model(structure, openvino.Tensor(data) if data.size else None)
            held = model.get_rt_info()
            self.document: str | None = str(held[DOCUMENT_KEY].value) if DOCUMENT_KEY in held else None
            bf16 = "precision" in held and held["precision"].value == "bf16"
            self.model = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
                    # Left to itself OpenVINO computes in bfloat16 wherever the processor can.
                    "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
                },
            )
        except RuntimeError as error:
            raise ClassifierError(f"{path}: not a model that OpenVINO can load ({_last_line(error)})") from error

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """What the file's contract takes to float32 logits (N, K)."""
        return self.run(squares.numpy())[LOGITS]

    def run(self, value: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
        """What the file takes to all of its outputs, by name; the next call overwrites features for a next segment."""
        found = self.model(value, share_outputs=True)
        named = {output.any_name: found[output] for output in self.model.outputs}
        return {name: output if name == NEXT else output.copy() for name, output in named.items()}


PURPOSE = "running an OpenVINO file"


@functools.cache
def openvino_core() -> Any:
    """The one OpenVINO core of this process, which lives as long as it does.

    The processor plugin of a core installs a stack for signal handlers, and puts the earlier one back when it ends. Of
    several cores that do not end in the reverse order of their beginning one puts back a stack that is gone, and the
    next signal, such as that of a worker process that has ended, kills the process.
    """
    return extra("openvino", "openvino", PURPOSE).Core()


def extra(module: str, name: str, purpose: str) -> Any:
    """A module of an optional package.

    Args:
        module: its name.
        name: the extra of ours that brings it.
        purpose: what needs it, for the message.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(module.partition(".")[0], name, purpose) from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
