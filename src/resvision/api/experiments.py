"""The folder of an experiment that goes on after a stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from resvision.errors import Interrupted
from resvision.training import RunFolder
from resvision.training.bench import LEDGER_FILE


def folder_for(verb: str, out: str | Path | None) -> Path:
    """A new folder, or that of an experiment which was stopped."""
    if out is not None and (Path(out).expanduser() / LEDGER_FILE).is_file():
        return Path(out).expanduser()
    return RunFolder.create(out, verb).path


@contextlib.contextmanager
def stopping(folder: Path) -> Iterator[None]:
    """Lets Ctrl-C say how an experiment goes on; a mistake leaves no empty folder."""
    try:
        with RunFolder(folder).removed_if_empty():
            yield
    except KeyboardInterrupt:
        message = f"stopped; the same command with --out {folder} goes on"
        raise Interrupted(message, signal.SIGINT) from None
