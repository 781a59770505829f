"""Ctrl-C and SIGTERM during training: the step is finished and saved first; a second signal stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collects the numbers of SIGINT and SIGTERM in the list that it yields, instead of dying of them."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may handle signals; elsewhere they are the caller's business
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in numbers}

    def handler(number: int, frame: FrameType | None) -> None:
        if caught:
            signal.signal(number, previous[signal.Signals(number)])
            signal.raise_signal(number)
        caught.append(number)

    for number in numbers:
        signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number in numbers:
            signal.signal(number, previous[number])
