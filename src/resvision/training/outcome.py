"""What a run comes to: its classifier, the figures of the pictures that are reported, and what result.json holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from resvision.adaptive import torch_segments
from resvision.classifier import Classifier
from resvision.cost import cost
from resvision.data.loader import EvaluationBatches
from resvision.errors import DataError, DivergedError
from resvision.evaluation import Evaluation, evaluate, exits, gates
from resvision.measure import timestamp
from resvision.models import ResNet
from resvision.recipe import Recipe
from resvision.runtime import Session, TorchSession, device_name, versions
from resvision.training.checkpoint import load_checkpoint
from resvision.training.figures import DIVERGED_ADVICE
from resvision.training.history import State, chooses_epoch
from resvision.training.roles import Roles
from resvision.training.run import RunFolder
from resvision.training.supply import Supply


def evaluated(session: Session, batches: EvaluationBatches, classes: tuple[str, ...], step: int) -> Evaluation:
    """The figures of a split after a step.

    Raises:
        DataError: a picture cannot be read.
        DivergedError: a logit is not finite.
    """
    with _after(step):
        return evaluate(session, batches, classes)


@contextmanager
def _after(step: int) -> Iterator[None]:
    """What went wrong behind the last loss shows within the block, and is told as a loss is."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"{error} after step {step:,}: {DIVERGED_ADVICE}") from error


def kept_epoch(run: RunFolder, recipe: Recipe, parts: Roles, state: State, network: ResNet) -> int:
    """The epoch that is kept, counted from 1; the network gets its weights."""
    if not chooses_epoch(recipe, parts):
        return len(state.history)
    return int(load_checkpoint(run.best_checkpoint, network)["epoch"])


def classifier_of(network: ResNet, supply: Supply, recipe: Recipe, name: str, step: int) -> Classifier:
    """The trained network as a classifier, with the thresholds of its exits, if it has any.

    Args:
        network: its weights are final.
        supply: whose watched pictures choose the thresholds.
        recipe: of the run.
        name: of the data.
        step: how many were done.

    Raises:
        DivergedError: a weight, or a logit, is not finite.
    """
    if not network.is_finite():
        raise DivergedError(f"the network's weights are not finite after step {step:,}: {DIVERGED_ADVICE}")
    rule = None
    if network.spec.exits:
        assert supply.parts.chooser is not None  # where there are exits there is something to choose
        assert supply.watched is not None
        segments, whole = torch_segments(network, supply.preprocess), TorchSession(network, supply.preprocess)
        with _after(step):
            rule = exits.tune(segments, supply.watched, whole, max_drop=recipe.max_drop)
    divided = {"divided_at": dict(supply.parts.divided_at)} if supply.parts.divided_at else {}
    return Classifier(
        network=network.requires_grad_(),
        preprocess=supply.preprocess,
        classes=supply.parts.classes,
        exits=rule,
        provenance={"data": name, "recipe": asdict(recipe), "created": timestamp(), "versions": versions(), **divided},
    )


def reported(classifier: Classifier, run: RunFolder, supply: Supply, step: int) -> tuple[Evaluation, dict[str, Any]]:
    """The figures of the reported pictures, and what exits or gates do with them, as result.json holds it.

    By the classifier's own session, in float32: what is reported is what `predict` will do.

    Raises:
        DataError: a picture cannot be decoded: of so many that they were not all read before the training.
        DivergedError: a logit is not finite.
    """
    classes = supply.parts.classes
    try:
        if classifier.adaptive is not None:
            with _after(step):
                found, leaving = exits.evaluate(classifier.adaptive, supply.reported, classes)
            return found, {"adaptive": leaving}
        gates.reset(classifier.network)
        found = evaluated(classifier.session, supply.reported, classes, step)
    except DataError as error:
        raise DataError(f"{error}; once mended, {run.goes_on()} then measures what was trained") from error
    gated = classifier.network.spec.gates
    return found, {"gates": gates.report(classifier.network, supply.preprocess.size)} if gated else {}


def result(
    classifier: Classifier, supply: Supply, recipe: Recipe, state: State, kept: int, evaluation: Evaluation
) -> dict[str, Any]:
    """What result.json holds of a run, but for its exits and gates."""
    network_cost = asdict(cost(classifier.network.spec, supply.preprocess.size))
    return {
        "model": recipe.model,
        "pretrained": recipe.pretrained,
        "data": classifier.provenance["data"],
        "classes": list(classifier.classes),
        "split": supply.parts.report_name,
        **_evaluation_figures(evaluation),
        **_training_figures(state, recipe),
        "epoch_kept": kept,
        **{key: value for key, value in network_cost.items() if key != "activation_bytes"},
        "pictures": {"train": supply.trained, supply.parts.report_name: evaluation.pictures},
        "unreadable": supply.bad.reasons,
        "versions": versions(),
    }


def _evaluation_figures(evaluation: Evaluation) -> dict[str, Any]:
    """What result.json says of the reported split."""
    return {
        "accuracy": evaluation.accuracy,
        "accuracy_ci95": list(evaluation.accuracy_ci95),
        "loss": evaluation.nll,
        "ece": evaluation.ece,
        "per_class": evaluation.to_dict()["per_class"],
    }


def _training_figures(state: State, recipe: Recipe) -> dict[str, Any]:
    """What result.json says of the training itself."""
    seconds = sum(row["train_seconds"] for row in state.history)
    pictures = sum(row["images_per_second"] * row["train_seconds"] for row in state.history)
    length_asked = "minutes" if recipe.minutes is not None else "epochs" if recipe.max_steps is None else "steps"
    return {
        "epochs": len(state.history),
        "steps": state.step,
        "seconds": state.seconds,
        "images_per_second": pictures / seconds,
        "seed": recipe.seed,
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "precision": recipe.precision,
        "stopped": state.stopped or length_asked,
    }
