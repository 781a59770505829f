"""Successive halving: which candidates are trained as proxies, and for how long."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from resvision.progress import Note
from resvision.recipe import Recipe
from resvision.search import plan
from resvision.search.candidates import Candidate
from resvision.search.clock import Clock
from resvision.search.costs import Costs
from resvision.search.forecast import Forecast, Point, chances, similarity
from resvision.search.proxies import LEAST_PICTURES, Proxies
from resvision.training.ledger import Ledger
from resvision.training.length import RESERVE

HALVED = 2  # of so many candidates one stays
FIRST = 1 / 4  # how long the first training is, against the second: far enough apart that the curve's slope shows
DEAREST = 1 / 4  # part of the first rung's time that one candidate may take
FINALISTS = 3  # candidates that are not halved any more
USED = 0.95  # part of the time that is planned
JUDGING = 1.15  # what building and judging a network add to its training, as a factor


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A candidate that holds the limits.

    Args:
        candidate: network and size.
        recipe: of its full training.
        costs: as measured.
        pictures: presentations of its full training.
    """

    candidate: Candidate
    recipe: Recipe
    costs: Costs
    pictures: float

    @classmethod
    def of(cls, candidate: Candidate, recipe: Recipe, costs: Costs, available: int) -> Entrant:
        """A candidate whose full training is what its recipe says of a set of so many training pictures."""
        assert costs.picture_seconds is not None
        if recipe.minutes is not None:
            pictures = (1 - RESERVE) * 60 * recipe.minutes / costs.picture_seconds
        else:
            pictures = plan.epochs_asked(recipe, available) * available
        return cls(candidate=candidate, recipe=recipe, costs=costs, pictures=pictures)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.candidate.name

    @property
    def seconds(self) -> float:
        """Of its full training, reading and evaluation not included."""
        assert self.costs.picture_seconds is not None
        return self.pictures * self.costs.picture_seconds

    def needs(self, part: float) -> float:
        """Seconds that a proxy of that part of the full training takes."""
        return JUDGING * self.seconds * self.allowed(part)

    def allowed(self, part: float) -> float:
        """The part that is trained: not fewer pictures than tell something, nor more than in full."""
        return min(1.0, max(part, LEAST_PICTURES / self.pictures))


def first_rung(entrants: list[Entrant], seconds: float, ledger: Ledger) -> list[int]:
    """As many candidates as can be trained long enough to tell something, evenly by the time of their training."""

    def least(entrant: Entrant) -> float:
        part = LEAST_PICTURES / entrant.pictures
        return entrant.needs(part) + entrant.needs(part / FIRST)

    def share(count: int) -> float:
        return USED * seconds / len(rung_sizes(count))

    by_cost = sorted(entrants, key=lambda entrant: entrant.costs.picture_seconds or 0.0)
    cheap = [entrant for entrant in by_cost if least(entrant) <= DEAREST * share(len(by_cost))]
    cheap = cheap if len(cheap) > FINALISTS else by_cost[:FINALISTS]

    def some(count: int) -> list[Entrant]:
        return [cheap[place] for place in np.linspace(0, len(cheap) - 1, count).round().astype(int)]

    def names() -> list[str]:
        fewest = min(FINALISTS, len(cheap))
        counts = range(len(cheap), fewest, -1)
        count = next((n for n in counts if sum(map(least, some(n))) <= share(n)), fewest)
        return [entrant.name for entrant in some(count)]

    chosen = ledger.once("plan candidates", names)
    return [index for index, entrant in enumerate(entrants) if entrant.name in chosen]


def rung_sizes(count: int) -> list[int]:
    """How many candidates each rung trains: halved until few are left, but two rungs at least."""
    sizes = [count]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, math.ceil(sizes[-1] / HALVED)))
    return sizes if len(sizes) > 1 else [count, count]


class Halving:
    """Trains many candidates briefly, fewer of them longer, and so on until few are left.

    (Jamieson & Talwalkar 2016; but each rung trains those that are likeliest the best at full length, instead of those
    that are ahead so far. One that was passed over comes in again where its neighbours do well.) The first rung
    trains each at two lengths, so that a slow starter's own slope speaks for it.

    Args:
        entrants: all that are within the limits.
        prices: of each, where the frontier is looked for; None where only the best counts.
        classes: of the set.
        ledger: of what is done.
        note: told about the progress.
        clock: the time that is left.
    """

    def __init__(
        self,
        entrants: list[Entrant],
        prices: list[float] | None,
        classes: int,
        ledger: Ledger,
        note: Note,
        clock: Clock,
    ) -> None:
        self.entrants, self.prices, self.classes = entrants, prices, classes
        self.ledger, self.note, self.clock = ledger, note, clock
        self.rows: list[dict[str, Any]] = []
        self.rungs: list[dict[str, Any]] = []
        self.slower = 1.0  # how many times longer trainings take than was measured

    def run(self, proxies: Proxies, first: list[int]) -> None:
        """All rungs, as far as the time goes; but those of the first are trained once, however long that takes."""
        sizes = rung_sizes(len(first))
        done = 0.0
        for number, size in enumerate(sizes):
            alive = self._likeliest(size) if number else first
            lengths = (FIRST, 1.0) if number == 0 else (1.0,)
            share = USED * self.clock.left() / (len(sizes) - number) / sum(lengths)
            part = self.ledger.once(f"plan rung {number}", lambda: self._part(alive, share))  # noqa: B023
            if part < done:
                return  # there is no time for longer trainings, and shorter ones are done
            done = part
            self.note(f"rung {number + 1} of {len(sizes)}: {self._rung(alive, part)['says']}")
            earlier = len(self.rows)
            for length in lengths:
                for index in alive:
                    self._train(proxies, index, length * part, always=number == 0 and length == FIRST)
            if done_here := [index for index in alive if index in {row["index"] for row in self.rows[earlier:]}]:
                self.rungs.append(self._rung(done_here, part))
            self.slower = statistics.median(row["seconds"] / row["planned"] for row in self.rows)

    @property
    def trained(self) -> list[int]:
        """The candidates of which there is a training."""
        return sorted({row["index"] for row in self.rows})

    def forecast(self) -> Forecast:
        """Of all candidates, from all trainings that are done."""
        points = [
            Point(candidate=row["index"], part=row["part"], accuracy=row["accuracy"], judged=row["judged"])
            for row in self.rows
        ]
        features = np.array([entrant.candidate.features for entrant in self.entrants])
        return Forecast(points, similarity(features), self.classes)

    def _likeliest(self, size: int) -> list[int]:
        """Those that are likeliest the best, or on the frontier, at full length."""
        accuracies = self.forecast().accuracies()
        likely = chances(accuracies, self.prices).round(3)
        # Where several are as good as certainly not the best the expected accuracy decides.
        order = sorted(range(len(likely)), key=lambda index: (-likely[index], -accuracies[:, index].mean()))
        return sorted(order[:size])

    def _part(self, alive: list[int], seconds: float) -> float:
        """The part of the full training that all can be trained for in that time, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            fits = self.slower * sum(self.entrants[i].needs(middle) for i in alive) <= seconds
            low, high = (middle, high) if fits else (low, middle)
        return high

    def _rung(self, alive: list[int], part: float) -> dict[str, Any]:
        """A rung for numbers.json."""
        parts = [self.entrants[index].allowed(part) for index in alive]
        said = dict.fromkeys(f"{end:.1%}" for end in (min(parts), max(parts)))
        return {
            "candidates": [self.entrants[index].name for index in alive],
            "parts": parts,
            "says": f"{len(alive)} candidates for {' to '.join(said)} of a full training",
        }

    def _train(self, proxies: Proxies, index: int, part: float, *, always: bool) -> None:
        entrant = self.entrants[index]
        part = entrant.allowed(part)
        # Another training is another seed, also of the same candidate and length.
        seed = sum(row["index"] == index for row in self.rows)
        key = f"{entrant.name}, training {seed}"
        if not always and key not in self.ledger.done and self.clock.left() <= 0:
            return
        row = self.ledger.once(
            key, lambda: proxies.train(entrant.candidate, entrant.recipe, part * entrant.pictures, seed)
        )
        part = min(1.0, row["pictures"] / entrant.pictures)
        self.rows.append({**row, "index": index, "part": part, "planned": entrant.needs(part)})
        self.note(
            f"{entrant.name}: {row['accuracy']:.1%} after {row['pictures']:,} pictures, {part:.1%} of the full "
            f"training ({row['seconds']:.0f} s)"
        )
