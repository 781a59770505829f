"""The studies by name, and what each takes where nothing else is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resvision.explain import degradation, gradients, landscape, paths
from resvision.explain.bench import Bench, Options
from resvision.progress import Note
from resvision.training.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Study:
    """One study.

    Args:
        title: of its page.
        run: does it and returns the numbers.
        describe: puts the numbers into words.
        options: where nothing else is asked for.
    """

    title: str
    run: Callable[[Bench, Ledger, Note], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]
    options: Options


STUDIES = {
    "degradation": Study(
        title="Degradation: plain and residual networks as they get deeper",
        run=degradation.run,
        describe=degradation.describe,
        options=Options(depths=(8, 20, 32, 56), seeds=3, pictures=10_000, size=None, steps=1000, lr=0.03),
    ),
    "gradients": Study(
        title="Gradients: what reaches the first block",
        run=gradients.run,
        describe=gradients.describe,
        options=Options(depths=(56,), seeds=3, pictures=10_000, size=None, steps=100),
    ),
    "paths": Study(
        title="Paths: a residual network taken apart",
        run=paths.run,
        describe=paths.describe,
        options=Options(depths=(56,), seeds=3, pictures=10_000, size=None, steps=500),
    ),
    "landscape": Study(
        title="Landscape: the loss around a trained network",
        run=landscape.run,
        describe=landscape.describe,
        options=Options(depths=(56,), seeds=2, pictures=10_000, size=None, steps=500),
    ),
}
