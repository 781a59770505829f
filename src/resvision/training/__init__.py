"""Training: initialise, forward, loss, backward, repeat until a number of epochs, a time or a target is reached."""

from resvision.training.loop import train
from resvision.training.run import RunFolder

__all__ = ["RunFolder", "train"]
