"""Which pictures of a split can be read, told before they are needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from resvision.data.pictures import Split, listed
from resvision.errors import DataError, PictureError

NOTHING_LEFT_OUT = "an evaluation leaves nothing out: mend or remove them"


@dataclass
class BadPictures:
    """The unreadable pictures of a training split, and how many there may be."""

    limit: int
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, bad: Sequence[tuple[str, str]]) -> None:
        """Records pictures.

        Raises:
            DataError: there are more than the limit.
        """
        self.reasons.update(bad)
        if len(self.reasons) > self.limit:
            raise DataError(
                f"{unreadable(self.reasons)}; at most {self.limit} may be skipped (--max-bad): mend or remove them"
            )


def unreadable(reasons: dict[str, str]) -> str:
    """Names unreadable pictures for a message."""
    return f"{len(reasons)} unreadable: {listed([f'{name} ({reason})' for name, reason in reasons.items()])}"


def screen(split: Split, max_bad: float) -> tuple[Split, BadPictures, int]:
    """Reads the headers of a training split: (what is readable, what is not, the largest side in pixels).

    Raises:
        DataError: more than the part `max_bad` is unreadable.
    """
    bad = BadPictures(limit=math.floor(max_bad * len(split) + 1e-9))  # 0.29 of 100 is 29, also in floating point
    readable, found, largest = _headers(split)
    bad.add(found)
    return split.take(np.array(readable, dtype=np.int64)) if found else split, bad, largest


def _headers(split: Split) -> tuple[list[int], list[tuple[str, str]], int]:
    """Which pictures have a header, (name, reason) of the others, and the largest side in pixels."""
    readable, found, largest = [], [], 0
    for index in range(len(split)):
        try:
            header = split.pictures.header(index)
            largest = max(largest, header.width, header.height)
            readable.append(index)
        except PictureError as error:
            found.append((error.name, error.reason))
    return readable, found, largest


def check_readable(split: Split) -> None:
    """Reads the headers of a split that is evaluated.

    Raises:
        DataError: one of them is unreadable.
    """
    _, found, _ = _headers(split)
    if found:
        raise DataError(f"{unreadable(dict(found))}; {NOTHING_LEFT_OUT}")
