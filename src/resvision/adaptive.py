"""Runs a network with early exits: pictures that are sure leave, and the rest goes on as a smaller batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from resvision.data.images import to_input
from resvision.exits import ExitRule
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.runtime import evaluating

PROMPT = 0.9  # of the calls of a segment end within the time that a deadline reckons with


@dataclass(frozen=True)
class Departures:
    """What an adaptive network says of a batch: calibrated logits (N, K), and each picture's exit (N,), from 0 on."""

    logits: npt.NDArray[np.float32]
    exits: npt.NDArray[np.int64]


class Segment(Protocol):
    """The blocks up to one exit, and the exit."""

    def __call__(self, state: Any, /, *, answers: bool = True) -> tuple[Any, npt.NDArray[np.float32]]:
        """What the next segment takes, and the logits (N, K) of the exit.

        Args:
            state: squares, or what the segment before gives.
            answers: where it is False the exit may be left out, and nothing is made of the logits.
        """


class Committee:
    """The exits that pictures pass, each of which answers with the mean of its logits and those before it.

    Args:
        audible: whether what each exit says counts for those behind it, as `ExitRule.audible` tells.
    """

    def __init__(self, audible: Sequence[bool]) -> None:
        self.audible = audible
        self.heard: list[npt.NDArray[np.float32]] = []

    def answer(self, index: int, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The answer of an exit whose own logits (N, K) are given, in the order of the exits."""
        said = [*self.heard, logits]
        if self.audible[index]:
            self.heard = said
        return np.mean(said, axis=0, dtype=np.float32)  # type: ignore[no-any-return]

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Forgets the pictures that have left."""
        self.heard = [logits[rows] for logits in self.heard]


def joined(logits: Sequence[npt.NDArray[np.float32]], audible: Sequence[bool]) -> list[npt.NDArray[np.float32]]:
    """What each exit answers by a committee, out of the logits (N, K) of every exit for pictures none of which left."""
    committee = Committee(audible)
    return [committee.answer(index, own) for index, own in enumerate(logits)]


class AdaptiveSession:
    """Runs a network from exit to exit: pictures that are sure leave, and the rest goes on as a smaller batch.

    Args:
        segments: shallow to deep.
        rule: when a picture leaves.
        macs: multiply-adds of a picture that leaves at each exit, for reports.
        whole: runs the network to its end without the exits, where it can; in exported files they are part of it.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        rule: ExitRule,
        macs: Sequence[int] = (),
        whole: Callable[[torch.Tensor], npt.NDArray[np.float32]] | None = None,
    ) -> None:
        self.segments = segments
        self.rule = rule
        self.macs = macs
        self.whole = whole
        self.seconds: tuple[float, ...] | None = None

    def time(self, square: torch.Tensor) -> None:
        """Measures, once, how long each segment takes here, for deadlines; the rule's times are of where it was made.

        Args:
            square: any uint8 square (1, S, S, C).
        """
        if self.seconds is None:
            self.seconds = segment_seconds(self.segments, square, share=PROMPT)

    def in_full(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, K) of the network's end alone."""
        return all_exits(self.segments, squares)[-1] if self.whole is None else self.whole(squares)

    def __call__(self, squares: torch.Tensor, deadline: float = math.inf) -> Departures:
        """uint8 squares (N, S, S, C) to what is said of them.

        Args:
            squares: of the pictures.
            deadline: on the clock of `measure.now`: no segment is begun that would hardly end before it, and what is
                left gets the answer of the last exit that it reached. The first segment is always run.
        """
        state: Any = squares
        here = np.arange(len(squares))
        exits = np.full(len(squares), len(self.segments) - 1, dtype=np.int64)
        found: list[npt.NDArray[np.float32]] = []
        rows = np.empty((0,), dtype=np.int64)
        thresholds, seconds = (*self.rule.thresholds, 0.0), self.seconds or self.rule.seconds
        used = self.rule.used if math.isinf(deadline) else (True,) * len(self.segments)
        committee = Committee(self.rule.audible)
        for index, segment in enumerate(self.segments):
            state, logits = segment(state, answers=used[index])
            if not used[index]:
                continue
            logits = committee.answer(index, logits) / np.float32(self.rule.temperatures[index])
            last = index + 1 == len(self.segments)
            late = not last and now() + len(here) * seconds[index + 1] > deadline
            leaves = np.full(len(here), True) if last or late else confidence(logits) >= thresholds[index]
            exits[here[leaves]] = index
            found.append(logits[leaves])
            rows = np.append(rows, here[leaves])
            stays = np.flatnonzero(~leaves)
            if not len(stays):
                break
            here = here[stays]
            committee.keep(stays)
            state = state if len(stays) == len(leaves) else state[stays]
        ordered = np.empty((len(squares), found[0].shape[1]), dtype=np.float32)
        ordered[rows] = np.concatenate(found)
        return Departures(ordered, exits)


def confidence(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The largest softmax probability of each row of logits (N, K), (N,)."""
    values = logits.astype(np.float64)
    largest = values.max(axis=1, keepdims=True)
    return np.asarray(1 / np.exp(values - largest).sum(axis=1))


def torch_segments(network: ResNet, preprocess: Preprocess) -> list[Segment]:
    """The segments of a network with early exits, by PyTorch in float32."""
    modules = tuple(network.modules())

    def segment(index: int) -> Segment:
        def run(state: torch.Tensor, /, *, answers: bool = True) -> tuple[torch.Tensor, npt.NDArray[np.float32]]:
            where = next(network.parameters()).device
            if not index:  # once a pass
                evaluating(network, modules)
            with torch.inference_mode():
                x = state if index else to_input(state.to(where), preprocess)
                x, logits = network.segment(index, x, answers)
            return x, logits.float().cpu().numpy()

        return run

    return [segment(index) for index in range(len(network.spec.exits) + 1)]


def all_exits(segments: Sequence[Segment], squares: torch.Tensor) -> list[npt.NDArray[np.float32]]:
    """The logits (N, K) of every exit, for pictures none of which leaves."""
    state: Any = squares
    found = []
    for segment in segments:
        state, logits = segment(state)
        found.append(logits)
    return found


def segment_seconds(
    segments: Sequence[Segment],
    squares: torch.Tensor,
    *,
    repeats: int = 15,
    share: float = 0.5,
    answers: bool = True,
) -> tuple[float, ...]:
    """Seconds of a picture in each segment that `share` of the calls keep to, in the batches that `squares` are.

    Rounds go through all segments, so that what disturbs one moment disturbs all of them. Without `answers` the time is
    that of the blocks alone, where exits can be left out.
    """
    times: list[list[float]] = [[] for _ in segments]
    for _ in range(repeats):
        state: Any = squares
        for segment, taken in zip(segments, times, strict=True):
            start = now()
            state, _ = segment(state, answers=answers)
            if isinstance(state, torch.Tensor) and state.is_cuda:
                torch.cuda.synchronize(state.device)  # an answer that is left out waits for nothing
            taken.append(now() - start)
    return tuple(float(np.quantile(taken, share)) / len(squares) for taken in times)
