"""The pre-flight: before a run starts it says what a step needs and about how long the run takes."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from resvision import api
from resvision.errors import RecipeError
from resvision.measure import now
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.training import length


class Notes(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.before_training: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def start(self, steps: int, done: int) -> None:
        self.before_training = list(self.lines)


def test_memory_and_time_are_said_before_the_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "PREFLIGHT_SECONDS", 0.3)  # as it is outside of tests
    pictures = np.random.default_rng(0).integers(0, 256, (400, 16, 16, 3), dtype=np.uint8)
    labels = ["odd" if i % 2 else "even" for i in range(400)]
    notes = Notes()
    made = api.train(
        (pictures, labels), model="resnet20_cifar", epochs=12, reporter=notes, batch_size=32, out=tmp_path / "run"
    )
    text = "\n".join(notes.before_training)
    assert re.search(r"memory: a step takes at most about \d+\.\d\d GB \(full\), \d+\.\d\d GB at hand", text)
    found = re.search(r"120 steps of 32 pictures, 12 epochs, about (\d+):(\d\d) on this machine", text)
    assert found is not None
    predicted = 60 * int(found[1]) + int(found[2])
    trained = made.result["steps"] * 32 / made.result["images_per_second"]
    assert trained / 4 - 1 < predicted < 2 * trained + 2  # the machine may be busy at either moment


@pytest.mark.parametrize(
    ("steps", "first_size", "sizes"),
    [
        (100, 64, [64, 64, 96, 96, 96, 128, 128, 128, 128, 128]),
        (100, None, [128] * 10),
        (10, 64, [128]),  # the only epoch has full pictures
        (15, 64, [64, 64, 128]),  # of which the last has half as many steps: weighed as halves of an epoch
    ],
)
def test_growing_pictures_take_the_time_of_their_area(steps: int, first_size: int | None, sizes: list[int]) -> None:
    recipe = Recipe(model="resnet18", size=128, first_size=first_size, steps=steps)
    expected = sum((size / 128) ** 2 for size in sizes) / len(sizes)
    assert length._growth(recipe, steps_an_epoch=10) == pytest.approx(expected)


def test_minutes_that_are_too_few_name_enough_of_them() -> None:
    pace = length.Pace(step=1.0, last_evaluation=4.9)
    recipe = Recipe(model="resnet8_cifar", size=8, minutes=0.01)
    with pytest.raises(RecipeError, match="give at least") as refused:
        length.steps(recipe, None, pace, now())  # type: ignore[arg-type]
    found = re.search(r"at least ([\d.]+)", str(refused.value))
    assert found is not None
    enough = dataclasses.replace(recipe, minutes=float(found[1]))
    assert length.steps(enough, None, pace, now()) >= length.FEW - 1  # type: ignore[arg-type]
