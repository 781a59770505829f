"""The race of two ways to answer, and the pictures that it is run on."""

import pytest
import torch

from resvision.data.reading import Batch
from resvision.evaluation.race import RACED, SAMPLE_BYTES, TURN, race, sampled


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


def test_a_sample_of_large_pictures_is_smaller() -> None:
    side = 2048
    sample: list[torch.Tensor] = []
    batches = [Batch(torch.zeros(1, side, side, 3, dtype=torch.uint8), torch.zeros(1), ()) for _ in range(30)]
    assert len(list(sampled(batches, sample))) == 30
    assert 1 < len(sample) <= SAMPLE_BYTES // (3 * side**2)


@pytest.mark.parametrize(
    ("pictures", "batch", "at_once", "raced"), [(70, 32, 32, 64), (20, 32, 20, 20), (45, 1, 1, 45), (900, 1, 1, 300)]
)
def test_ways_take_turns(pictures: int, batch: int, at_once: int, raced: int) -> None:
    calls: list[tuple[str, int]] = []
    sample = list(torch.zeros(pictures, 2, 2, 3, dtype=torch.uint8).split(1))
    found = race(lambda x: calls.append(("early", len(x))), lambda x: calls.append(("full", len(x))), sample, batch)
    assert {size for _, size in calls} == {at_once}
    assert found["at_once"] == at_once
    assert found["pictures"] == raced
    every = raced // at_once
    turn = max(1, TURN // at_once)
    names = [name for name, _ in calls[2:]]  # behind one call of each
    assert len(names) == 2 * every
    for start in range(0, every, turn):  # each way takes as many calls in a row, in any order
        calls_in_turn = min(turn, every - start)
        first, second = (names[2 * start + place * calls_in_turn :][:calls_in_turn] for place in (0, 1))
        assert {len(set(first)), len(set(second))} == {1}
        assert {first[0], second[0]} == {"early", "full"}
