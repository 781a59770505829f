"""What a benchmark's folder was made for: it goes on with the same question, and refuses another one by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resvision.files import write_json


def same_question(made: Path, note: Path, asked: Mapping[str, Any]) -> None:
    """Ends the program where `made` is for another question than `asked`, by the note, or notes the question."""
    asked = json.loads(json.dumps(asked, default=str))
    if note.exists() and (before := json.loads(note.read_text())) != asked:
        sys.exit(f"{made} was made for {before}, not for {asked}: remove it and {note.name}, or give another folder")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, asked)
