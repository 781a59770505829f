"""Other runtimes beside worker processes: signals must still find a stack after their sessions have ended."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resvision.exporting import Export
from resvision.target import Contract, Format

CODE = """
import gc, signal, subprocess, sys
from pathlib import Path
from resvision.classifier import Classifier
from resvision.data.sources import load, prepare
from resvision.runtime import OpenVinoSession
from resvision import exporting
from resvision.target import Target

signal.signal(signal.SIGCHLD, lambda number, frame: None)  # as PyTorch does where workers read pictures
file, run, folder = map(Path, sys.argv[1:])
first, second = OpenVinoSession(file), OpenVinoSession(file)
del first
gc.collect()
del second
gc.collect()
subprocess.run(["true"], check=True)
classifier, train = Classifier.load(run), prepare(load("digits")).splits["train"].take(range(40))
for name in ("a", "b"):
    target = Target(format="openvino", precision="int8")
    exporting.convert(classifier, target, folder / f"{name}.xml", calibration=train)
    gc.collect()
    subprocess.run(["true"], check=True)
print("alive")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_sessions_that_end_in_any_order_leave_signals_alone(
    digits_run: Path, exported: Callable[[Format, Contract], Export], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", CODE, str(exported("openvino", "A").file), str(digits_run), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
