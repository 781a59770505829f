"""TensorBoard's event files, for those who look at runs there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from resvision.errors import MissingExtraError
from resvision.training.run import RunFolder


def writer() -> Any:
    """TensorBoard's class; its package is optional, and whoever asks for it in vain hears so before anything begins.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "log", "--tensorboard") from error
    return SummaryWriter


@contextmanager
def opened(run: RunFolder, made_by: Any) -> Iterator[Callable[[str, float, int], None]]:
    """A function (name, value, step) that writes into a run's folder, or one that does nothing.

    Args:
        run: the folder.
        made_by: what `writer` gave, or None.
    """
    if made_by is None:
        yield lambda name, value, step: None
        return
    with made_by(str(run.path / "tensorboard")) as board:
        yield board.add_scalar
