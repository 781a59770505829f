"""Captured: what a step does on a GPU as a CUDA graph, whose kernels are launched all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

WARMUP = 3  # calls before the recording, in which libraries make their choices and take their memory

T = TypeVar("T")
# Inputs, targets and labels of a batch to its mean loss and the number of right answers; leaves gradients.
Passes = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Recorder:
    """Records graphs on a stream of its own, for one owner.

    What libraries keep for a stream, such as cuBLAS its workspace, goes with the first graph of that stream that goes,
    also where others were recorded with it: those of one owner go together.
    """

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None

    def record(self, function: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
        """Records what a function does on the device: (the graph, what it returned, which a replay fills anew).

        Args:
            function: reads nothing from the device, and works on the same tensors at every call. It is called a few
                times, and what it changes is changed.
            pool: memory of an earlier graph of this owner, which never runs at the same time.
        """
        here = torch.cuda.current_stream()
        self.stream = self.stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.stream.wait_stream(here)
        try:
            with torch.cuda.stream(self.stream):
                for _ in range(WARMUP):
                    function()
        finally:
            here.wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=self.stream):
                result = function()
        except BaseException:
            torch.cuda.set_stream(here)  # a recording that fails leaves its own behind
            raise
        return graph, result


@dataclass(frozen=True)
class Recording:
    """The passes of batches of one shape: the same places on the device at every replay."""

    graph: torch.cuda.CUDAGraph
    batch: tuple[torch.Tensor, ...]
    results: tuple[torch.Tensor, torch.Tensor]
    gradients: tuple[torch.Tensor | None, ...]


class Captured:
    """Runs the passes of a step as they are, launched as a graph, which is recorded when a shape of batch comes again.

    The kernels of a narrow network are done sooner than the processor launches the next one: of resnet110_cifar's step
    there are thousands.

    Args:
        passes: does the same for all batches of a shape, and reads nothing from the device.
        network: whose gradients they leave.
    """

    def __init__(self, passes: Passes, network: nn.Module) -> None:
        self.passes = passes
        self.network = network
        self.parameters = tuple(network.parameters())
        self.recorder = Recorder()
        self.met: set[tuple[object, ...]] = set()
        self.recordings: dict[tuple[object, ...], Recording] = {}

    def __call__(self, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs (N, C, S, S), targets (N, ...) and labels (N,) to mean loss and number of right answers, scalars."""
        learns = tuple(parameter.requires_grad for parameter in self.parameters)
        key = (*((tensor.shape, tensor.stride(), tensor.dtype) for tensor in batch), learns)
        if key not in self.met:  # one that is short of a picture may never come again
            self.met.add(key)
            return self._as_it_is(batch)
        if key not in self.recordings and not self._record(key, batch):
            return self._as_it_is(batch)
        recording = self.recordings[key]
        for place, tensor in zip(recording.batch, batch, strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        for parameter, gradient in zip(self.parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        loss, correct = recording.results
        return loss.clone(), correct.clone()  # the next replay writes over them

    def _as_it_is(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Without a graph; where there is no memory beside the recordings, in place of these."""
        if self.recordings:
            put_back = self._remembered()
            try:
                return self._passes(batch)
            except torch.OutOfMemoryError:
                pass  # only behind this is free what the passes have taken
            put_back()
            self._give_back()
        return self._passes(batch)

    def _passes(self, batch: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        self._forget_gradients()  # so that each call makes its own, also the recorded one at every replay
        return self.passes(batch[0], batch[1], batch[2])

    def _record(self, key: tuple[object, ...], batch: tuple[torch.Tensor, ...]) -> bool:
        """Records the passes of a shape, unless there is no memory for it beside other recordings; whether it did."""
        places = tuple(tensor.clone() for tensor in batch)
        put_back = self._remembered()
        pool = next((other.graph.pool() for other in self.recordings.values()), None)
        try:
            graph, results = self.recorder.record(lambda: self._passes(places), pool)
            gradients = tuple(parameter.grad for parameter in self.parameters)
            self.recordings[key] = Recording(graph, places, results, gradients)
        except torch.OutOfMemoryError:
            if not self.recordings:
                raise
        finally:
            put_back()
        if key not in self.recordings:
            self._give_back()
        return key in self.recordings

    def _give_back(self) -> None:
        """Gives up the recordings, whose memory no other work gets."""
        self.recordings.clear()
        torch.cuda.empty_cache()

    def _remembered(self) -> Callable[[], None]:
        """What puts back all that passes move: norms' statistics and what is random; gradients are forgotten."""
        state, buffers = torch.cuda.get_rng_state(), [buffer.clone() for buffer in self.network.buffers()]

        def put_back() -> None:
            self._forget_gradients()
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
            torch.cuda.set_rng_state(state)

        return put_back

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
