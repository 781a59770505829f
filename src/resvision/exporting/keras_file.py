"""A .keras file, compared with the original by its probabilities, which are all that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from resvision.classifier import Classifier
from resvision.data.images import UInt8Array
from resvision.evaluation.metrics import log_softmax
from resvision.exporting.verify import Verification, taken


def write(
    classifier: Classifier, path: Path, pictures: Sequence[UInt8Array], labels: npt.NDArray[np.int64] | None
) -> Verification:
    """Writes the file, which `resvision.keras.save` compares on pictures of its own, and compares these, too.

    Args:
        classifier: the original.
        path: of the file.
        pictures: (H, W, C) each.
        labels: their classes, as far as they are known.

    Raises:
        MissingExtraError: Keras or TensorFlow is not installed.
        SpecError: the network has parts that Keras has no layers for.
        ClassifierError: the file does not answer as the original; it is not left.
    """
    from resvision import keras  # which takes seconds to import

    keras.save(classifier, path)
    squares = np.concatenate([taken(picture, "A", classifier.preprocess) for picture in pictures])
    exported = keras.load(path).predict(squares, verbose=0)
    original = np.exp(log_softmax(classifier.session(torch.from_numpy(squares)) / classifier.temperature))
    first, second = original.argmax(axis=1), exported.argmax(axis=1)
    return Verification(
        runtime=f"keras {version('keras')}",
        pictures=len(pictures),
        largest_difference=float(np.abs(original - exported).max()),
        same_top1=float(np.mean(first == second)),
        accuracy=None if labels is None else float(np.mean(second == labels)),
        original_accuracy=None if labels is None else float(np.mean(first == labels)),
    )
