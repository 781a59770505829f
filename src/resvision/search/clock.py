"""The time that an experiment has left, also where it was stopped and goes on."""

from __future__ import annotations

from resvision.measure import now
from resvision.training.ledger import Ledger


class Clock:
    """The time that is left; work which the ledger already holds counts, too.

    Args:
        seconds: in all.
        ledger: of the experiment; what its plans hold as "seconds" is not counted.
    """

    def __init__(self, seconds: float, ledger: Ledger) -> None:
        self.seconds = seconds
        earlier = sum(float(value["seconds"]) for key, value in ledger.done.items() if not key.startswith("plan"))
        self.start = now() - earlier

    def left(self) -> float:
        """In seconds."""
        return self.seconds - (now() - self.start)
