"""The time that an experiment has left, also where it was stopped and goes on."""

from __future__ import annotations

from resvision.measure import now
from resvision.training.ledger import Ledger


class Clock:
    """The time that is left; work which the ledger already holds counts, too.

    Args:
        seconds: in all.
        ledger: of the experiment.
    """

    def __init__(self, seconds: float, ledger: Ledger) -> None:
        self.seconds = seconds
        self.start = now() - sum(ledger.seconds.values())

    def left(self) -> float:
        """In seconds."""
        return self.seconds - (now() - self.start)
