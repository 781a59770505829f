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


def record(function: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """Records what a function does on the device: (the graph, what the function returned, which a replay fills anew).

    Args:
        function: reads nothing from the device, and works on the same tensors at every call. It is called a few times,
            and what it changes is changed.
        pool: memory of an earlier graph, which never runs at the same time.
    """
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            function()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, pool=pool):
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
        self.met: set[tuple[object, ...]] = set()
        self.recordings: dict[tuple[object, ...], Recording] = {}

    def __call__(self, *batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs, targets and labels to the mean loss and the number of right answers."""
        learns = tuple(parameter.requires_grad for parameter in self.parameters)
        key = (*((tensor.shape, tensor.stride(), tensor.dtype) for tensor in batch), learns)
        if key not in self.met:  # one that is short of a picture may never come again
            self.met.add(key)
            self._forget_gradients()
            return self.passes(batch[0], batch[1], batch[2])
        if key not in self.recordings:
            self.recordings[key] = self._record(batch)
        recording = self.recordings[key]
        for place, tensor in zip(recording.batch, batch, strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        for parameter, gradient in zip(self.parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        loss, correct = recording.results
        return loss.clone(), correct.clone()  # the next replay writes over them

    def _record(self, batch: tuple[torch.Tensor, ...]) -> Recording:
        places = tuple(tensor.clone() for tensor in batch)
        state, buffers = torch.cuda.get_rng_state(), [buffer.clone() for buffer in self.network.buffers()]

        def passes() -> tuple[torch.Tensor, torch.Tensor]:
            self._forget_gradients()  # so that each call makes its own, also the recorded one at every replay
            return self.passes(places[0], places[1], places[2])

        pool = next((other.graph.pool() for other in self.recordings.values()), None)
        try:
            graph, results = record(passes, pool)
            gradients = tuple(parameter.grad for parameter in self.parameters)
        finally:
            self._forget_gradients()
            # What the calls have moved is put back: norms' statistics, and what is random.
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
            torch.cuda.set_rng_state(state)
        return Recording(graph, places, results, gradients)

    def _forget_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
