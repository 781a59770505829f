"""The check of every export: the same pictures through the original and through the file in its real runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from resvision.adaptive import AdaptiveSession, Segment, all_exits
from resvision.classifier import Classifier
from resvision.data import images
from resvision.data.images import UInt8Array
from resvision.data.pictures import Split
from resvision.errors import ExportError
from resvision.preprocess import Preprocess
from resvision.runtime import Session
from resvision.target import Contract, Target

LOGITS_TOLERANCE = 1e-3  # of contract A in float32, where both compute the same up to the order of sums
SAME_TOP1 = {"fp32": 0.995, "bf16": 0.98, "int8": 0.95}  # the least share of pictures with the same first class
ACCURACY_DROP = 0.01  # that int8 may cost where labels are known

GOLDEN_PICTURES = 64
BATCH = 16  # squares at once, so that the file proves that it takes batches

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How an export compared with the original.

    Args:
        runtime: that ran it, and its version.
        pictures: that went through both.
        largest_difference: between two logits, or of Keras between two probabilities.
        same_top1: the share of pictures with the same most probable class, 0..1.
        accuracy: of the export on them, 0..1; None where no labels are known.
        original_accuracy: of the original on the same.
    """

    runtime: str
    pictures: int
    largest_difference: float
    same_top1: float
    accuracy: float | None = None
    original_accuracy: float | None = None

    @classmethod
    def of(
        cls,
        runtime: str,
        difference: float,
        first: npt.NDArray[np.int64],
        second: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64] | None,
    ) -> Verification:
        """From the largest difference, and the classes (N,) that the original and the export say."""
        return cls(
            runtime=runtime,
            pictures=len(first),
            largest_difference=difference,
            same_top1=float(np.mean(first == second)),
            accuracy=None if labels is None else float(np.mean(second == labels)),
            original_accuracy=None if labels is None else float(np.mean(first == labels)),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def golden(preprocess: Preprocess, count: int = GOLDEN_PICTURES) -> list[UInt8Array]:
    """Made-up pictures (H, W, C) for want of real ones: blurred noise in many sizes, always the same."""
    random = np.random.default_rng(0)
    mode = "L" if preprocess.channels == 1 else "RGB"
    made = []
    for _ in range(count):
        width, height = (int(side) for side in random.integers(preprocess.size // 2 + 1, 2 * preprocess.size + 2, 2))
        cells = int(random.integers(2, 9))
        noise = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).convert(mode).resize((width, height), Image.Resampling.BICUBIC)
        made.append(images.whole(picture, preprocess))
    return made


class Sample(Sequence[UInt8Array]):
    """A few hundred pictures (H, W, C) of a split, the same each time, which are decoded when it is their turn.

    So many photographs of a camera would not fit into memory.

    Args:
        split: of the pictures.
        preprocess: whose background and channels they get.
        most: of them.
        min_side: they may be decoded at a part of their size whose shorter side is at least this, in pixels.
    """

    def __init__(self, split: Split, preprocess: Preprocess, most: int, min_side: int | None = None) -> None:
        chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:most])
        self.split = split.take(chosen)
        self.preprocess = preprocess
        self.min_side = min_side

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> UInt8Array:  # type: ignore[override]
        if place >= len(self):
            raise IndexError
        return self.split.pictures.pixels(place, self.preprocess, self.min_side)


def taken(picture: UInt8Array, contract: Contract, preprocess: Preprocess) -> UInt8Array:
    """What a contract takes of a picture (H, W, C), with the dimension of the batch: (1, H', W', C)."""
    if contract == "B":
        return picture[None]
    return images.square(images.from_array(picture, "a picture"), preprocess)[None]


def compare(
    classifier: Classifier,
    session: Session,
    runtime: str,
    contract: Contract,
    pictures: Sequence[UInt8Array],
    labels: npt.NDArray[np.int64] | None = None,
) -> Verification:
    """Sends pictures through the original and through the session of an export.

    Args:
        classifier: the original; it sees the squares that it always sees.
        session: of the exported file.
        runtime: its name and version.
        contract: of the file.
        pictures: (H, W, C) each.
        labels: true classes, as far as they are known.
    """
    squares = [taken(picture, "A", classifier.preprocess) for picture in pictures]
    original = batched(classifier.session, squares)
    if contract == "A":
        exported = batched(session, squares)
    else:
        exported = _one_by_one(session, (taken(picture, contract, classifier.preprocess) for picture in pictures))
    difference = float(np.abs(original - exported).max())
    return Verification.of(runtime, difference, original.argmax(axis=1), exported.argmax(axis=1), labels)


def compare_segments(
    classifier: Classifier,
    segments: Sequence[Segment],
    runtime: str,
    pictures: Sequence[UInt8Array],
    labels: npt.NDArray[np.int64] | None = None,
) -> Verification:
    """Like `compare`, of a network with early exits: the logits of every exit, and the classes of who leaves where.

    Args:
        classifier: the original, with early exits.
        segments: of the exported files.
        runtime: its name and version.
        pictures: (H, W, C) each.
        labels: true classes, as far as they are known.
    """
    assert classifier.adaptive is not None
    squares = [taken(picture, "A", classifier.preprocess) for picture in pictures]
    exported = AdaptiveSession(segments, classifier.adaptive.rule)
    difference = 0.0
    classes: list[list[Any]] = [[], []]
    for start in range(0, len(squares), BATCH):
        batch = torch.from_numpy(np.concatenate(squares[start : start + BATCH]))
        pairs = zip(all_exits(classifier.adaptive.segments, batch), all_exits(segments, batch), strict=True)
        difference = max(difference, *(float(np.abs(one - other).max()) for one, other in pairs))
        for found, session in zip(classes, (classifier.adaptive, exported), strict=True):
            found += session(batch).logits.argmax(axis=1).tolist()
    return Verification.of(runtime, difference, np.array(classes[0]), np.array(classes[1]), labels)


def demand(found: Verification, target: Target) -> None:
    """Refuses an export that differs from the original by more than its target allows.

    Raises:
        ExportError: it does; the figure and its limit are named.
    """
    least = SAME_TOP1[target.precision]
    different = round((1 - found.same_top1) * found.pictures)
    if target.contract == "A" and target.precision == "fp32" and not found.largest_difference <= LOGITS_TOLERANCE:
        reason = f"its answers differ by {found.largest_difference:.2g}, and {LOGITS_TOLERANCE} is allowed"
    elif different > max(1, (1 - least) * found.pictures):  # one of a few pictures may lie on the border of two classes
        reason = f"it differs on {different} of {found.pictures} pictures, and {least:.1%} shall agree"
    elif (
        found.accuracy is not None
        and found.original_accuracy is not None
        and round((found.original_accuracy - found.accuracy) * found.pictures) > max(1, ACCURACY_DROP * found.pictures)
    ):
        reason = f"its accuracy is {found.accuracy:.2%} instead of {found.original_accuracy:.2%}"
    else:
        return
    raise ExportError(f"{target}: does not answer as the original ({found.runtime}): {reason}; not kept")


def batched(session: Callable[[torch.Tensor], Logits], pictures: Sequence[UInt8Array]) -> Logits:
    """The logits (N, K) of squares (1, S, S, C), a few at once."""
    parts = [np.concatenate(pictures[start : start + BATCH]) for start in range(0, len(pictures), BATCH)]
    return _one_by_one(session, parts)


def _one_by_one(session: Callable[[torch.Tensor], Logits], pictures: Iterable[UInt8Array]) -> Logits:
    return np.concatenate([session(torch.from_numpy(picture)) for picture in pictures])
