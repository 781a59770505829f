"""Worker processes that read batches ahead, and leave them in memory that they share with the process that trains."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from resvision.data.pictures import Labels
from resvision.data.reading import Batch, Key, Reader
from resvision.data.transfer import fetchable

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
PREFETCH = 4  # batches that each worker is asked for ahead
GRACE_SECONDS = 60
STOPS = (signal.SIGINT, signal.SIGTERM)


def leave_signals(worker: int) -> None:
    """Leaves signals to the main process, which finishes its step and saves before it tells the workers to end.

    A worker that was asked to end and not told so within GRACE_SECONDS ends all the same: a process that leaves in
    another way than it should, such as a failed test, would wait for it forever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    graceful = hasattr(signal, "alarm")
    signal.signal(signal.SIGTERM, (lambda *_: signal.alarm(GRACE_SECONDS)) if graceful else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # as the server left them
    if hasattr(os, "nice"):
        os.nice(10)
    main = multiprocessing.parent_process()
    if main is not None and main.pid != os.getppid():  # PyTorch looks at the server alone, which waits for its workers
        threading.Thread(target=_end_with, args=(main,), daemon=True).start()


def _end_with(main: BaseProcess) -> None:
    """Ends this process when the main one is gone, killed perhaps."""
    connection.wait([main.sentinel])
    os._exit(1)


def default_workers() -> int:
    """Worker processes for reading pictures: half of the processors, or with a GPU, which computes, all but two."""
    may_use = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    processors = may_use or os.cpu_count() or 1
    return max(1, min(16, processors - 2 if torch.cuda.is_available() else processors // 2))


Sent = tuple[tuple[int, ...], Labels, tuple[tuple[str, str], ...]]  # the squares' shape, and the rest of a Batch


class _Sender(Dataset[Sent]):
    """What a worker runs: it leaves the squares at their place in shared memory and sends the rest."""

    def __init__(self, reader: Reader, shared: torch.Tensor) -> None:
        self.reader = reader
        self.shared = shared

    def __getitem__(self, order: tuple[int, Key]) -> Sent:
        place, key = order
        batch = self.reader.read(key)
        self.shared[place, : batch.squares.numel()] = batch.squares.flatten()
        return tuple(batch.squares.shape), batch.labels.numpy(), batch.bad


class Pipeline:
    """Batches in the order of their keys, read by worker processes, or here where there are none.

    The workers share one piece of memory with this process, cut into places for all batches that can be under way: the
    page faults of new memory for each batch take half as long as reading a cached batch.

    Args:
        reader: of which each worker has a copy.
        workers: processes.
        largest: bytes of a batch's squares.
        persistent: whether the workers stay for the next pass.
        where: the batches will go.
    """

    def __init__(
        self, reader: Reader, workers: int, largest: int, *, persistent: bool, where: torch.device = CPU
    ) -> None:
        self.reader = reader
        self.where = where
        self.workers = workers
        self.orders: list[tuple[int, Key]] = []
        if not workers:
            return
        places = torch.empty((PREFETCH * workers + 1, largest), dtype=torch.uint8)
        try:
            self.shared: torch.Tensor = places.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError:  # of a container, which has 64 MB if nobody asks for more
            self.workers = 0
            log.warning(
                "shared memory has no room for %d MB: pictures are read by this process alone, which takes longer; "
                "give more (docker run --shm-size=1g) or fewer --workers",
                places.nbytes // 10**6,
            )
            return
        self.loader = DataLoader(
            _Sender(reader, self.shared),
            sampler=self.orders,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=persistent,
            prefetch_factor=PREFETCH,
            multiprocessing_context=_processes(),
            worker_init_fn=leave_signals,
        )

    def read(self, keys: Sequence[Key]) -> Iterator[Batch]:
        """The batches of `keys`, each in memory of its own."""
        if not self.workers:
            yield from map(self.reader.read, keys)
            return
        # When a batch arrives the next order goes out. Its place is that of the batch before, which was copied by then.
        self.orders[:] = [(number % len(self.shared), key) for number, key in enumerate(keys)]
        for (place, _), (shape, labels, bad) in zip(self.orders, self.loader, strict=True):
            squares = fetchable(self.shared[place, : math.prod(shape)].view(shape), self.where)
            yield Batch(squares, torch.from_numpy(labels), bad)


def _processes() -> BaseContext:
    """How workers are started. Forked ones share the split's memory; beside CUDA a fork is unsafe.

    There they are forked from a server that has imported this module and nothing else has happened in: where each
    imports it for itself, 14 of them take half a minute. It must outlive a SIGTERM that goes to the whole group, since
    the main process may need workers for what it still does then; it ends with that and its workers.
    """
    ways = multiprocessing.get_all_start_methods()
    if "fork" in ways and not torch.cuda.is_available():
        return multiprocessing.get_context("fork")
    if "forkserver" not in ways:
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker  # which are not everywhere

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    resource_tracker.ensure_running()  # which lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # a server that starts now keeps them blocked
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _as_it_is(sent: Any) -> Any:
    return sent
