"""A race of two ways to answer on real pictures: what is computed for some of them only is judged by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from resvision.data.reading import Batch
from resvision.measure import interleaved

RACED, RACE_SECONDS = 300, 6.0  # pictures at most, and about so long
TURN = 10  # pictures that one way takes in a row, as if it were alone: what it needs stays in the processor's caches
SAMPLE_BYTES = 2**28  # of pictures that are kept for a race

Way = Callable[[torch.Tensor], object]


def sampled(batches: Iterable[Batch], sample: list[torch.Tensor]) -> Iterator[Batch]:
    """The batches; copies of some of their squares, (1, S, S, C) each, evenly spread, are in `sample`.

    At most 2 x RACED of them, or as many as SAMPLE_BYTES hold.
    """
    step, seen = 1, 0
    for batch in batches:
        places = range(-seen % step, len(batch.squares), step)
        sample += [batch.squares[place : place + 1].clone() for place in places]  # views would keep the whole batch
        seen += len(batch.squares)
        most = min(2 * RACED, SAMPLE_BYTES // sample[0].numel()) if sample else 0
        while len(sample) > max(1, most):
            del sample[1::2]
            step *= 2
        yield batch


def race(early: Way, in_full: Way, sample: Sequence[torch.Tensor], batch: int = 1) -> dict[str, float]:
    """How long pictures take where some are spared a part of the computation, and where none is; for JSON.

    Args:
        early: what leaves something out.
        in_full: what computes everything.
        sample: squares (1, S, S, C).
        batch: pictures at once; fewer if there are not as many.
    """
    places = np.linspace(0, len(sample) - 1, min(RACED, len(sample))).astype(np.int64)
    # In an order in which those of a class are apart, since time may end the race.
    places = np.random.default_rng(0).permutation(places)
    size = min(batch, len(places))
    parts = places[: len(places) // size * size].reshape(-1, size)
    batches = [torch.cat([sample[place] for place in part]) for part in parts]

    def turn(way: Way, taken: Sequence[torch.Tensor]) -> None:
        for squares in taken:
            way(squares)

    calls = max(1, TURN // size)
    turns = [batches[first : first + calls] for first in range(0, len(batches), calls)]
    for way in (early, in_full):
        way(batches[0])
    # Whole turns count: another one before each would take as long again.
    ways = {"early": partial(turn, early), "in full": partial(turn, in_full)}
    times = interleaved(ways, turns, warmup=0, settle=False, limit=RACE_SECONDS)
    raced = size * sum(len(taken) for taken in turns[: len(times["early"])])
    first, second = (sum(taken) / raced for taken in times.values())
    return {
        "pictures": raced,
        "at_once": size,
        "milliseconds": 1000 * first,
        "milliseconds_in_full": 1000 * second,
        "times_as_fast": second / first,
    }
