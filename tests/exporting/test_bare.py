"""What docs/export.md shows works: a bare runtime, without resvision and torch, gives the right label."""

import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from resvision import api
from resvision.data.builtin import load as builtin
from resvision.exporting import Export
from resvision.target import Contract, Format

ROOT = Path(__file__).parents[2]
FORBIDDEN = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("resvision", "torch"):
            raise ImportError(f"{name} is forbidden here")
sys.meta_path.insert(0, Forbidden())
"""


def snippet(runtime: str) -> str:
    """The program of the docs that imports `runtime`."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    [found] = [program for program in programs if f"import {runtime}\n" in program]
    return str(found)


def squares_snippet(runtime: str) -> str:
    """The same for contract A, with the lines of the docs that make a square before the pixels are taken."""
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    [lines] = [program for program in programs if program.startswith("wanted =")]
    return snippet(runtime).replace("pixels = ", f"{lines}pixels = ", 1)


@pytest.fixture(scope="module")
def files(exported: Callable[[Format, Contract], Export], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of both contracts, and two digits, one of them enlarged to an odd size."""
    folder = tmp_path_factory.mktemp("files")
    for contract in get_args(Contract):
        (folder / contract).mkdir()
        for kind in ("onnx", "openvino"):
            for file in exported(kind, contract).files:  # type: ignore[arg-type]
                shutil.copy(file, folder / contract / f"model{file.suffix}")
        split = builtin("digits").splits["all"]
        index = int(np.flatnonzero(split.labels == 4)[3])
        digit = Image.frombytes("L", (8, 8), split.pictures.content(index))
        digit.resize((37, 31), Image.Resampling.BICUBIC).save(folder / contract / "picture.jpg")
    return folder


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("contract", ["A", "B"])
def test_without_resvision_and_torch(files: Path, digits_run: Path, runtime: str, contract: str) -> None:
    program = snippet(runtime) if contract == "B" else squares_snippet(runtime)
    command = [sys.executable, "-I", "-c", FORBIDDEN + program]
    result = subprocess.run(command, cwd=files / contract, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "4"
    assert api.evaluate(files / contract / "model.onnx", "digits")["accuracy"] > 0.9
    [prediction] = api.predict(digits_run, files / contract / "picture.jpg")
    assert prediction.label == "4"


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_in_an_environment_of_its_own(files: Path, runtime: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    packages = [runtime, "numpy", "pillow"]
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages], check=True)
    for contract, program in (("A", squares_snippet(runtime)), ("B", snippet(runtime))):
        command = [python, "-c", FORBIDDEN + program]
        result = subprocess.run(command, cwd=files / contract, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "4"
