"""The race of two ways to answer, and the pictures that it is run on."""

import pytest
import torch

from resvision.data.loader import Batch
from resvision.evaluation.race import RACED, race, sampled


def test_a_sample_is_evenly_spread_and_bounded() -> None:
    count, size = 5000, 64
    numbers = torch.arange(count).reshape(count, 1, 1, 1)
    batches = [Batch(part, torch.zeros(len(part), dtype=torch.int64), ()) for part in numbers.split(size)]
    sample: list[torch.Tensor] = []
    assert [len(batch.labels) for batch in sampled(batches, sample)] == [len(part) for part in numbers.split(size)]
    places = torch.cat(sample).flatten().tolist()
    assert places == list(range(0, count, 16))
    assert RACED <= len(places) <= 2 * RACED
    assert all(square._base is None for square in sample)  # a view would keep its batch


@pytest.mark.parametrize(("pictures", "batch", "at_once", "raced"), [(70, 32, 32, 64), (20, 32, 20, 20), (9, 1, 1, 9)])
def test_ways_take_turns(pictures: int, batch: int, at_once: int, raced: int) -> None:
    calls: list[tuple[str, int]] = []
    sample = list(torch.zeros(pictures, 2, 2, 3, dtype=torch.uint8).split(1))
    found = race(lambda x: calls.append(("early", len(x))), lambda x: calls.append(("full", len(x))), sample, batch)
    assert {size for _, size in calls} == {at_once}
    assert found["at_once"] == at_once
    assert found["pictures"] == raced
    turns = [name for name, _ in calls[2:]]  # behind one call of each
    assert len(turns) == 2 * raced // at_once
    assert all(set(pair) == {"early", "full"} for pair in zip(turns[::2], turns[1::2], strict=True))
