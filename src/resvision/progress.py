"""What a person sees while they wait: live bars on a terminal, plain lines elsewhere, always on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

Note = Callable[[str], None]  # takes one line that a person should know

PLAIN_DOWNLOAD_STEP = 10  # percent between two plain lines


class Reporter:
    """Receives what happens and shows nothing; the base of those that do."""

    def note(self, text: str) -> None:
        """One line that a person should know."""

    def download(self, file: str, done: int, total: int | None) -> None:
        """Bytes of a file that have arrived, of how many where that is known."""

    def start(self, steps: int, done: int) -> None:
        """Training begins: how many optimiser steps in all, and how many a resumed run has done."""

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Steps done, and the running loss, accuracy (0..1) and speed of this epoch."""

    def epoch(self, row: dict[str, Any], seconds_left: float) -> None:
        """The figures of a finished epoch, as in metrics.jsonl."""

    def close(self) -> None:
        """Ends what is shown live."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Console(Console):
    """A console that goes on in silence where nobody reads any more: what is learnt is worth more than telling it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class ConsoleReporter(Reporter):
    """Shows everything on stderr: a live bar if that is a terminal, plain lines otherwise."""

    def __init__(self) -> None:
        self.console = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self.live = sys.stderr.isatty()
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.percent = -1

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def download(self, file: str, done: int, total: int | None) -> None:
        if self.live:
            if self.bar is None:
                self._open(
                    Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=self.console)
                )
            assert self.bar is not None
            if self.task is None:
                self.task = self.bar.add_task(file)
            self.bar.update(self.task, description=file, completed=done, total=total)
        elif total and (percent := 100 * done // total) // PLAIN_DOWNLOAD_STEP != self.percent:
            self.percent = percent // PLAIN_DOWNLOAD_STEP
            self.note(f"{file}: {percent}% of {total / 1e6:.1f} MB")
        if done == total:
            self.close()

    def start(self, steps: int, done: int) -> None:
        if self.live:
            columns = (
                *(BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()),
                TextColumn("left"),
            )
            self._open(Progress(*columns, console=self.console, refresh_per_second=4))
            assert self.bar is not None
            self.task = self.bar.add_task("", total=steps, completed=done)

    def step(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        if self.bar is not None and self.task is not None:
            text = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_second:,.0f} pictures/s"
            self.bar.update(self.task, completed=done, description=text)

    def epoch(self, row: dict[str, Any], seconds_left: float) -> None:
        held = "".join(
            f"  {s} accuracy {row[f'{s}_accuracy']:.2%}" for s in ("val", "held", "test") if f"{s}_accuracy" in row
        )
        self.note(
            f"epoch {row['epoch']:>3}/{row['epochs']}  loss {row['train_loss']:.3f}  "
            f"accuracy {row['train_accuracy']:.2%}{held}  {row['images_per_second']:,.0f} pictures/s  "
            f"{duration(seconds_left)} left"
        )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
        self.bar = self.task = None
        self.percent = -1

    def _open(self, bar: Progress) -> None:
        self.close()
        self.bar = bar
        bar.start()


def duration(seconds: float) -> str:
    """Minutes and seconds, for a person."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
