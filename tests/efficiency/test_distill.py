"""Teaching a cheaper network: its steps fit the memory at hand."""

import pytest

from resvision import zoo
from resvision.efficiency import distill
from resvision.errors import RecipeError
from resvision.preprocess import Preprocess
from resvision.recipe import Recipe
from resvision.training import memory

RECIPE = Recipe(model="resnet20_cifar", size=32, channels=3, epochs=1, batch_size=64, memory="auto")
PREPROCESS = Preprocess(size=32)


def test_steps_are_computed_in_as_few_parts_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = zoo.get("resnet20_cifar")
    needs = {parts: memory.step_bytes(spec, 32, 64 // parts, "checkpoint") for parts in (1, 4, 64)}
    fitted = distill._fitting(spec, RECIPE, PREPROCESS)
    assert (fitted.accumulate, fitted.memory) == (1, "full")
    monkeypatch.setattr(memory, "bytes_at_hand", lambda: int(1.01 * needs[4] / memory.USABLE))
    fitted = distill._fitting(spec, RECIPE, PREPROCESS)
    assert (fitted.accumulate, fitted.memory, fitted.batch_size) == (4, "checkpoint", 64)
    monkeypatch.setattr(memory, "bytes_at_hand", lambda: int(0.9 * needs[64] / memory.USABLE))
    with pytest.raises(RecipeError, match="1 pictures at once need about"):
        distill._fitting(spec, RECIPE, PREPROCESS)
