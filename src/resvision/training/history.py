"""The history of a run: how far it is, the figures of its epochs, which of them is the best, and whether to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from resvision.errors import RunError
from resvision.recipe import Recipe
from resvision.training.figures import Sums
from resvision.training.roles import Roles

Row = dict[str, Any]  # a line of metrics.jsonl


@dataclass
class State:
    """How far a run is: what a checkpoint holds beside the weights and the optimiser's tensors.

    Args:
        step: how many are done.
        sums: of the epoch that is under way.
        history: a row for each epoch that is done.
        stopped: the word "target" or "patience" where the run stopped early.
        seconds: that all parts of the run have taken.
        unreadable: names of pictures that were skipped, and why.
    """

    step: int = 0
    sums: Sums = field(default_factory=Sums)
    history: list[Row] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)

    @classmethod
    def restored(cls, values: dict[str, Any]) -> State:
        """From what `dataclasses.asdict` made of it.

        Raises:
            RunError: it is of something else.
        """
        try:
            return cls(**{**values, "sums": Sums(**values["sums"])})
        except (KeyError, TypeError) as error:
            raise RunError(f"the checkpoint is not of a run of this program ({error}): start a new one") from error


def row(sums: Sums, epoch: int, epochs: int, step: int, lr: float) -> Row:
    """A line of metrics.jsonl, as far as training fills it."""
    loss, accuracy, speed = sums.means()
    return {
        "epoch": epoch + 1,
        "epochs": epochs,
        "step": step,
        "lr": lr,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "images_per_second": speed,
        "train_seconds": sums.seconds,
    }


def chooses_epoch(recipe: Recipe, parts: Roles) -> bool:
    """Whether the best epoch is kept, and not the last one."""
    return parts.chooser is not None and recipe.keeps_best


def best(history: list[Row], parts: Roles) -> int:
    """The index of the best epoch by the chooser's accuracy; among equals the one with the lower loss."""
    name = parts.chooser_name
    return max(range(len(history)), key=lambda i: (history[i][f"{name}_accuracy"], -history[i][f"{name}_loss"]))


def reason_to_stop(history: list[Row], recipe: Recipe, parts: Roles) -> str:
    """The word "target" or "patience" if the run is to stop early, else nothing."""
    last = history[-1]
    if recipe.target_loss is not None and last["train_loss"] <= recipe.target_loss:
        return "target"
    if recipe.target_accuracy is not None and last[f"{parts.chooser_name}_accuracy"] >= recipe.target_accuracy:
        return "target"
    if recipe.patience is not None and len(history) - 1 - best(history, parts) >= recipe.patience:
        return "patience"
    return ""
