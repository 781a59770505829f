"""The folder of an experiment that goes on after a stop."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resvision.errors import Interrupted, signal_of
from resvision.files import path_of, storage
from resvision.training import RunFolder
from resvision.training.ledger import LEDGER_FILE


def folder_for(verb: str, out: str | Path | None) -> Path:
    """A new folder, or that of an experiment which was stopped."""
    if out is not None and (path_of(out) / LEDGER_FILE).is_file():
        return path_of(out)
    return RunFolder.create(out, verb).path


def recorded_settings(out: str | Path | None) -> dict[str, Any]:
    """The settings of the experiment in a folder; empty if there is none."""
    if out is None or not (file := path_of(out) / LEDGER_FILE).is_file():
        return {}
    with storage(file), file.open(encoding="utf-8") as lines:
        settings: dict[str, Any] = json.loads(next(lines))
    return settings


@contextlib.contextmanager
def stopping(folder: Path) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM say how an experiment goes on; a mistake leaves no empty folder."""
    try:
        with RunFolder(folder).removed_if_empty():
            yield
    except KeyboardInterrupt as stop:
        message = f"stopped; the same command with --out {shlex.quote(str(folder))} goes on"
        raise Interrupted(message, signal_of(stop)) from None
