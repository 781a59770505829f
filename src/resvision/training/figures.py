"""The figures of training steps: from the device, which never waits for it, into the sums of an epoch."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from resvision.errors import DivergedError
from resvision.training.engine import StepResult

TOGETHER = 20  # steps whose figures leave an accelerator in one piece
DIVERGED_ADVICE = "lower --lr, or use --precision fp32"


@dataclass(frozen=True)
class Figures:
    """Of one step: its number, how many pictures it had, the mean loss over them, and how many answers were right."""

    number: int
    pictures: int
    loss: float
    correct: int


@dataclass
class Sums:
    """Added up over the steps of one epoch, and divided once at its end."""

    loss: float = 0.0
    correct: int = 0
    pictures: int = 0
    seconds: float = 0.0

    def add(self, steps: Iterable[Figures]) -> None:
        """Takes in steps.

        Raises:
            DivergedError: a loss is not finite; the step is named.
        """
        for step in steps:
            if not math.isfinite(step.loss):
                raise DivergedError(f"the loss is {step.loss} at step {step.number:,}: {DIVERGED_ADVICE}")
            self.loss += step.loss * step.pictures
            self.correct += step.correct
            self.pictures += step.pictures

    def means(self) -> tuple[float, float, float]:
        """Loss, accuracy (0..1) and pictures a second."""
        return (
            self.loss / max(1, self.pictures),
            self.correct / max(1, self.pictures),
            self.pictures / max(1e-9, self.seconds),
        )


class Arriving:
    """Figures on their way from the device.

    On an accelerator a look at a loss would hold up the processor until the step is done, and the device until the
    processor has prepared the next one. So figures leave it in pieces, and are looked at when they have come.

    Args:
        where: the steps are computed.
    """

    def __init__(self, where: torch.device) -> None:
        self.together = 1 if where.type == "cpu" else TOGETHER
        self.there: list[tuple[int, int, StepResult]] = []
        self.under_way: deque[tuple[list[tuple[int, int]], torch.Tensor, torch.cuda.Event | None]] = deque()

    def put(self, number: int, pictures: int, result: StepResult) -> None:
        """Takes a step whose figures are on the device."""
        self.there.append((number, pictures, result))
        if len(self.there) >= self.together:
            self._send()

    def take(self, *, wait: bool = False) -> list[Figures]:
        """The steps whose figures have come since the last call, in order; all that there are with `wait`."""
        if wait and self.there:
            self._send()
        come = []
        while self.under_way:
            steps, values, mark = self.under_way[0]
            if mark is not None and not wait and not mark.query():  # type: ignore[no-untyped-call]
                break
            if mark is not None:
                mark.synchronize()
            self.under_way.popleft()
            come += [
                Figures(number, pictures, loss, int(correct))
                for (number, pictures), (loss, correct) in zip(steps, values.tolist(), strict=True)
            ]
        return come

    def _send(self) -> None:
        results = [result for _, _, result in self.there]
        losses, correct = torch.stack([r.loss for r in results]), torch.stack([r.correct for r in results])
        values = torch.stack([losses.double(), correct.double()], dim=1)
        steps = [(number, pictures) for number, pictures, _ in self.there]
        self.under_way.append((steps, values.to("cpu", non_blocking=True), _mark(values.device)))
        self.there.clear()


def _mark(where: torch.device) -> torch.cuda.Event | None:
    """What tells when the device has come so far; none where the processor computes, which is always there."""
    if where.type != "cuda":
        return None
    mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
    mark.record()
    return mark
