"""Keras on TensorFlow: imported here and nowhere else, without the noise that its start makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from resvision.errors import InputError, MissingExtraError


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Within the block nothing reaches the file behind stderr; what Python raises still does."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


os.environ.setdefault("KERAS_BACKEND", "tensorflow")
quiet = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") != "0"  # 2 is errors alone
try:
    # TensorFlow greets on stderr before it looks at the level.
    with _silent() if quiet else contextlib.nullcontext():
        import keras  # and with it TensorFlow, which it does not bring along
except ImportError as error:
    package = (error.name or "keras").partition(".")[0]
    raise MissingExtraError(package, "keras", "resvision.keras") from error

if keras.backend.backend() != "tensorflow":
    raise InputError(
        f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow before Keras is first imported"
    )

__all__ = ["keras"]
