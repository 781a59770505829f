"""Time, memory and spread of any callable: the one place that holds a clock."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def now() -> float:
    """Seconds on a clock that never goes back, for differences."""
    return time.perf_counter()


def timestamp() -> str:
    """The date and time in UTC, ISO 8601, for records."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def seconds(
    function: Callable[[], object], *, repeats: int, warmup: int = 1, limit: float | None = None
) -> list[float]:
    """Times `repeats` calls of `function` after `warmup` calls that are not counted.

    Args:
        function: what is timed; on an accelerator it must wait for the device itself.
        repeats: counted calls.
        warmup: calls before them.
        limit: seconds after which no further call is begun, as long as one was counted.
    """
    for _ in range(warmup):
        function()
    times: list[float] = []
    begin = now()
    while len(times) < repeats and (limit is None or not times or now() - begin < limit):
        start = now()
        function()
        times.append(now() - start)
    return times


def interleaved(
    ways: Mapping[str, Callable[[T], object]],
    rounds: Sequence[T],
    *,
    warmup: int = 1,
    settle: bool = True,
    limit: float | None = None,
) -> dict[str, list[float]]:
    """Times ways to do the same in turn, round after round, so that what disturbs the machine disturbs all alike.

    Each round has another order, so that nobody always follows the same one.

    Args:
        ways: by name.
        rounds: what each of them is given in each round.
        warmup: calls of each with the first of these before the first round.
        settle: whether each turn begins with a call that is not counted: caches and threads are still another
            library's then.
        limit: seconds after which no further round is begun, as long as one was counted.
    """
    for way in ways.values():
        for _ in range(warmup):
            way(rounds[0])
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways.items())
    begin, shuffler = now(), random.Random(0)
    for number, given in enumerate(rounds):
        if limit is not None and number and now() - begin >= limit:
            break
        shuffler.shuffle(order)
        for name, way in order:
            if settle:
                way(given)
            start = now()
            way(given)
            times[name].append(now() - start)
    return times


def peak_memory_bytes() -> int | None:
    """The most memory that this process has held, in bytes; None where the platform does not tell."""
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")  # of this program alone: what getrusage tells, a process that began it has left
    lines = status.read_text().splitlines() if status.is_file() else []
    if found := [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]:
        return found[0]
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _cached_files_bytes() -> int:
    """What of a container's memory holds files that were read, and is given back when memory is wanted."""
    statistics_file = Path("/sys/fs/cgroup/memory.stat")
    if not statistics_file.is_file():
        return 0
    rows = (line.split() for line in statistics_file.read_text().splitlines())
    return sum(int(row[1]) for row in rows if row[0] in ("inactive_file", "active_file"))


def available_memory_bytes() -> int | None:
    """Memory that this process may still take, in bytes; None where the platform does not tell.

    The least of what the machine has free and what a container's limit (cgroup v2) leaves.
    """
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    found = [int(line.split()[1]) * 1024 for line in meminfo.read_text().splitlines() if "MemAvailable" in line]
    limit, current = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        found.append(int(text) - int(current.read_text()) + _cached_files_bytes())
    return min(found, default=None)


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, standard deviation (of the sample; 0 for one value) and the values themselves."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0.0,
        "values": values,
    }
