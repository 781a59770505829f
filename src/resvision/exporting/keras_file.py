"""A .keras file, compared with the original by its probabilities, which are all that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from resvision.classifier import Classifier
from resvision.data.images import UInt8Array
from resvision.evaluation.metrics import log_softmax
from resvision.exporting.verify import BATCH, Verification, batched, taken


def write(classifier: Classifier, path: Path) -> None:
    """Writes the file.

    Args:
        classifier: the original.
        path: of the file.

    Raises:
        MissingExtraError: Keras or TensorFlow is not installed.
        SpecError: the network has parts that Keras has no layers for.
    """
    from resvision.keras import convert  # which takes seconds to import

    convert.write_file(classifier, path)


def compare(
    classifier: Classifier, path: Path, pictures: Sequence[UInt8Array], labels: npt.NDArray[np.int64] | None
) -> Verification:
    """Sends pictures through the original and through the file.

    Args:
        classifier: the original.
        path: of the file.
        pictures: (H, W, C) each.
        labels: their classes, as far as they are known.
    """
    from resvision import keras

    squares = [taken(picture, "A", classifier.preprocess) for picture in pictures]
    exported = keras.load(path).predict(np.concatenate(squares), batch_size=BATCH, verbose=0)
    original = np.exp(log_softmax(batched(classifier.session, squares) / classifier.temperature))
    difference = float(np.abs(original - exported).max())
    runtime = f"keras {version('keras')}"
    return Verification.of(runtime, difference, original.argmax(axis=1), exported.argmax(axis=1), labels)
