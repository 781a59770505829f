"""Ledger: what an experiment has finished, so that it goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resvision.errors import RunError
from resvision.files import storage, write_text
from resvision.measure import now

LEDGER_FILE = "finished.jsonl"  # in the folder of an experiment


class Ledger:
    """What an experiment has finished, line by line in a file, so that it goes on where it was stopped.

    Args:
        path: of the file.
        settings: of the experiment; a file with others is refused.
        kind: what messages call the experiment.
    """

    def __init__(self, path: Path, settings: dict[str, Any], kind: str = "a study") -> None:
        self.path = path
        self.done: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}  # that each took
        settings = json.loads(json.dumps(settings))
        if path.exists():
            recorded, rows = _read(path)
            if recorded != settings:
                keys = [*settings, *(key for key in recorded if key not in settings)]
                changed = [key for key in keys if recorded.get(key) != settings.get(key)]
                raise RunError(f"{path.parent}: holds {kind} with another {', '.join(changed)}: give another --out")
            self.done = {row["key"]: row["value"] for row in rows}
            self.seconds = {row["key"]: row.get("seconds", 0.0) for row in rows}
        self.settings = settings

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """The value of `work`, computed now or found in the file."""
        if key not in self.done:
            begin = now()
            self.done[key] = work()
            self.seconds[key] = now() - begin
            rows = [{"key": key, "value": value, "seconds": self.seconds[key]} for key, value in self.done.items()]
            lines = [json.dumps(line, allow_nan=False) for line in [self.settings, *rows]]
            write_text(self.path, "\n".join(lines) + "\n")
        return self.done[key]


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings of an experiment, and what was computed so far."""
    try:
        with storage(path):
            recorded, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        if isinstance(recorded, dict) and all({"key", "value"} <= row.keys() for row in rows):
            return recorded, rows
    except (ValueError, AttributeError, RecursionError):
        pass
    raise RunError(f"{path}: damaged, so that nothing can go on from it: give another --out")
