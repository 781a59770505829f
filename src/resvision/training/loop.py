"""The training loop, top to bottom: data, network, engine, length, optimiser, resume, epochs, evaluation, save."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import PIL
import torch

import resvision
from resvision import zoo
from resvision.adaptive import torch_segments
from resvision.classifier import Classifier
from resvision.cost import cost, least_size
from resvision.data.loader import (
    EvaluationBatches,
    TrainingBatches,
    check_readable,
    default_workers,
    screen,
    stays_in_memory,
    unreadable,
)
from resvision.data.pictures import DataSet, Split, listed
from resvision.data.statistics import mean_and_std
from resvision.errors import DataError, DivergedError, Interrupted, MissingExtraError, RecipeError, RunError
from resvision.evaluation import Evaluation, evaluate, exits, gates
from resvision.exits import adaptive
from resvision.files import write_json
from resvision.measure import now, timestamp
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.progress import Reporter, duration
from resvision.recipe import Recipe
from resvision.runtime import Session, TorchSession, device
from resvision.training import engine as engines
from resvision.training import finder, length, losses, memory, optim, phases, pretrained, roles, signals
from resvision.training.average import Average
from resvision.training.checkpoint import load_checkpoint, save_checkpoint
from resvision.training.figures import DIVERGED_ADVICE, Arriving, Sums
from resvision.training.run import RunFolder

SAVE_SECONDS = 10.0  # shorter epochs than this share a checkpoint, or a tiny set would spend its time on saving


@dataclass
class State:
    """How far a run is: what a checkpoint holds beside the weights and the optimiser's tensors."""

    step: int = 0
    sums: Sums = field(default_factory=Sums)
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0


def train(
    dataset: DataSet,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter | None = None,
    *,
    weights: pretrained.Pretrained | None = None,
    source: dict[str, Any] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    begin: float | None = None,
) -> tuple[Classifier, dict[str, Any], Evaluation]:
    """Trains a network on a data set and saves it, with all its figures, in the run's folder.

    Args:
        dataset: divided into training and validation here where it comes without splits.
        recipe: fields that are None are measured or derived.
        run: an empty folder, or with `resume` the folder of an interrupted run.
        reporter: told about the progress.
        weights: what `recipe.pretrained` names, read; the checkpoint has them with `resume`.
        source: how to find the data again, recorded for `--resume`.
        resume: go on from the last checkpoint.
        tensorboard: also write TensorBoard's event files into the run's folder.
        begin: when the run began, on the clock of `measure.now`; None is now.

    Returns:
        The classifier, what result.json holds, and the evaluation of the reported split.

    Raises:
        DataError: the data cannot be used.
        DivergedError: the loss or a logit is not a finite number.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        RecipeError: the recipe leaves nothing to learn in, or does not fit the data or the memory.
        RunError: `resume`, and the data or the checkpoint are not those of the run.
    """
    memory.keep_freed()
    writer = _tensorboard_writer() if tensorboard else None
    assert (weights is None) == (recipe.pretrained is None or resume)
    reporter = reporter or Reporter()
    begin = now() if begin is None else begin

    # ---- data ----
    parts = roles.assign(dataset, recipe, run.read_data() if resume else None)
    train_split, bad, largest = screen(parts.train, recipe.max_bad)
    for judging in (parts.report, parts.chooser):
        if judging is not None:
            check_readable(judging)
    if recipe.workers is None:  # processes would start longer than they read small pictures once
        workers = 0 if stays_in_memory(train_split, recipe, largest) else default_workers()
        recipe = replace(recipe, workers=workers)
    preprocess = run.read_preprocess() if resume else _preprocess(train_split, recipe, weights)
    batches = TrainingBatches(train_split, recipe, preprocess, bad, largest, where=device())
    skipped = sorted(bad.reasons)  # so far
    counts = np.bincount(batches.labels, minlength=len(parts.classes))
    if lost := [name for name, count in zip(parts.classes, counts, strict=True) if not count]:
        raise DataError(f"{dataset.name}: no training picture of {listed(lost)} can be read; {unreadable(bad.reasons)}")
    assert recipe.workers is not None
    reported = EvaluationBatches(parts.report, preprocess, recipe.workers)
    watched = None
    if parts.watched is not None:
        whole = parts.watched[1] is parts.report
        watched = reported if whole else EvaluationBatches(parts.watched[1], preprocess, recipe.workers)
    reporter.note(parts.describe())
    reported.hold()  # a picture that cannot be decoded is named before anything was learnt in vain
    if watched is not None:
        watched.hold()
    if batches.cache_note is not None:
        reporter.note(batches.cache_note)
    for name, reason in bad.reasons.items():
        reporter.note(f"skipped {name}: {reason}")

    # ---- network ----
    torch.manual_seed(recipe.seed)
    named = adaptive(zoo.variant(recipe.model, recipe.spec), recipe)
    spec = replace(named, num_classes=len(parts.classes), in_channels=preprocess.channels)
    network = ResNet(spec).to(device())
    if weights is not None:
        reporter.note(pretrained.fill(network, weights, parts.classes, frozen=recipe.freeze_trunk))

    at_once, least = batches.batch_size // recipe.accumulate, recipe.first_size or recipe.size
    if at_once <= 1 and spec.norm == "batch" and least_size(spec, least) == 1:
        raise RecipeError(
            f"one picture of {least} px at a time has features of 1 x 1, which a batch norm cannot learn from: "
            "more pictures at once (--batch-size, --accumulate), or --size"
        )

    # ---- memory and engine ----
    if not resume:
        recipe, needed = memory.choose(spec, recipe, preprocess, batches.batch_size)
        reporter.note(needed)
    if recipe.compile and not engines.can_compile(network):
        if not resume:
            raise RecipeError("compile=True: there is no C++ compiler, or the network is reversible; give --no-compile")
        recipe = replace(recipe, compile=False)
        reporter.note("there is no C++ compiler here: the run goes on without compiling")
    loss = losses.build(recipe, counts.tolist(), network.gates())
    if None in (recipe.precision, recipe.channels_last, recipe.compile):
        undecided = recipe
        recipe, measured = engines.choose(
            network,
            recipe,
            loss,
            preprocess,
            lambda s: length.planned_pictures(undecided, batches, s),
            batches.batch_size,
        )
        reporter.note(measured)
    engine = engines.build(network, recipe, loss, preprocess)
    assert recipe.precision is not None
    if recipe.lr == "auto":
        recipe, found = finder.find(recipe, batches, engine)
        reporter.note(found)
    assert recipe.precision is not None
    average = Average(network, recipe.ema) if recipe.ema else None
    followed = network if average is None else average.network  # what is evaluated and kept
    session = TorchSession(followed, preprocess, recipe.precision)

    # ---- length ----
    steps, takes = recipe.steps, ""
    if not resume:
        pace = length.pace(recipe, batches, engine, parts)
        steps = steps or length.steps(recipe, batches, pace, begin)
        takes = f", about {duration(steps * pace.step + pace.last_evaluation)} on this machine"
    assert steps is not None  # a run that began has recorded them
    recipe = replace(recipe, steps=steps)
    epochs = math.ceil(steps / batches.steps)
    many = "epoch" if epochs == 1 else "epochs"
    reporter.note(f"{steps:,} steps of {batches.batch_size} pictures, {epochs} {many}{takes}")
    if head_steps := phases.head_steps(recipe):
        reporter.note(f"the last layer learns alone in the first {head_steps:,}")

    # ---- optimiser ----
    optimizer = optim.build(network, recipe)

    # ---- resume ----
    state = State()
    if resume:
        if run.read_data().get("fingerprint") != parts.fingerprint():
            raise RunError(f"{run.path}: the data have changed since this run began; start a new one")
        if changed := sorted(set(run.read_data().get("skipped", skipped)) ^ set(skipped)):
            raise RunError(
                f"{run.path}: other training pictures can be read than when this run began ({listed(changed)}): make "
                "them what they were, or start a new one"
            )
        state = _state(load_checkpoint(run.last_checkpoint, network, optimizer, average))
        if source and source != run.read_data()["source"]:
            run.write_data(run.read_data() | {"source": source})  # where they are now
        reporter.note(f"going on after step {state.step:,} of {steps:,}")
    else:
        run.write_recipe(recipe)
        record = parts.record(dataset.name, source or {})
        run.write_data({**record, "skipped": skipped, "preprocess": asdict(preprocess)})
    earlier_seconds = state.seconds

    # ---- epochs ----
    arriving = Arriving(device())
    with signals.collected() as caught, _tensorboard(run, writer) as board, reporter:
        reporter.start(steps, state.step)
        first_step, started = state.step, now()
        saved = started
        while state.step < steps and not state.stopped:
            epoch, step_of_epoch = divmod(state.step, batches.steps)
            phases.begin(network, recipe, state.step)
            mark = now()
            size = optim.picture_size(recipe, epoch * batches.steps, batches.steps)
            for batch in batches.epoch(epoch, step_of_epoch, size):
                if state.step == head_steps:
                    phases.begin(network, recipe, state.step)
                lr = optim.set_step(optimizer, recipe, state.step)
                state.step += 1
                if len(batch.labels):
                    arriving.put(state.step, len(batch.labels), engine.step(batch, optimizer, state.step))
                    if average is not None:
                        average.update(state.step)
                epoch_ends = state.step == steps or state.step % batches.steps == 0
                stops = epoch_ends or bool(caught)
                if (come := arriving.take(wait=stops)) or stops:
                    state.sums.add(come)
                    state.sums.seconds += now() - mark
                    mark = now()
                    reporter.step(state.step, *state.sums.means())
                if stops:
                    break
            if epoch_ends:
                row = _row(state.sums, epoch, epochs, state.step, lr)
                if parts.watched is not None and watched is not None:
                    held = _evaluated(session, watched, parts.classes, state.step)
                    row |= {f"{parts.watched[0]}_accuracy": held.accuracy, f"{parts.watched[0]}_loss": held.nll}
                row["seconds"] = earlier_seconds + now() - begin
                state.history.append(row)
                state.sums = Sums()
                state.stopped = _reason_to_stop(state.history, recipe, parts)
                keeps = parts.chooser is not None and recipe.keep != "last" and not recipe.freeze_trunk
                if keeps and _best(state.history, recipe, parts) == len(state.history) - 1:
                    save_checkpoint(run.best_checkpoint, followed, None, {"epoch": epoch + 1})
                for name, value in row.items():
                    board(name, value, state.step)
                reporter.epoch(row, (now() - started) / (state.step - first_step) * (steps - state.step))
            state.seconds = earlier_seconds + now() - begin
            ends = state.step == steps or state.stopped
            if ends or caught or now() - saved >= SAVE_SECONDS:
                run.write_metrics(state.history)
                save_checkpoint(run.last_checkpoint, network, optimizer, asdict(state), average)
                saved = now()
            if caught:
                raise Interrupted(f"stopped after step {state.step:,}; go on with: {_goes_on(run)}", caught[0])

    for name in sorted(set(bad.reasons) - set(skipped)):
        reporter.note(f"skipped {name}: {bad.reasons[name]}")

    # ---- evaluation ----
    kept = len(state.history)
    if parts.chooser is not None and recipe.keep != "last" and not recipe.freeze_trunk:
        kept = int(load_checkpoint(run.best_checkpoint, followed)["epoch"])
    rule = None
    if spec.exits:
        assert parts.chooser is not None  # where there are exits there is something to choose
        assert watched is not None
        rule = exits.tune(torch_segments(followed, preprocess), preprocess, watched, max_drop=recipe.max_drop)
    classifier = Classifier(
        network=followed.requires_grad_(),
        preprocess=preprocess,
        classes=parts.classes,
        exits=rule,
        provenance={"data": dataset.name, "recipe": asdict(recipe), "created": timestamp(), "versions": versions()},
    )
    classifier.save(run.path)  # a picture that cannot be decoded may be met only now
    # By the classifier's own session, in float32: what is reported is what `predict` will do.
    leaving: dict[str, Any] = {}
    try:
        if classifier.adaptive is None:
            gates.reset(followed)
            evaluation = _evaluated(classifier.session, reported, parts.classes, state.step)
        else:
            evaluation, leaving = exits.evaluate(classifier.adaptive, preprocess, reported, parts.classes)
    except DataError as error:  # of so many pictures that they were not all read before
        raise DataError(f"{error}; of the same names {_goes_on(run)} then measures what was trained") from error
    reporter.note(f"epoch {kept} is kept; {parts.report_name} accuracy {evaluation.accuracy:.2%}")

    # ---- save ----
    state.seconds = earlier_seconds + now() - begin
    result = {
        "model": recipe.model,
        "pretrained": recipe.pretrained,
        "data": dataset.name,
        "classes": list(parts.classes),
        "split": parts.report_name,
        **_evaluation_figures(evaluation),
        **_training_figures(state, recipe),
        **({"adaptive": leaving} if leaving else {}),
        **({"gates": gates.report(followed, preprocess.size)} if spec.gates and rule is None else {}),
        "epoch_kept": kept,
        **{key: value for key, value in asdict(cost(spec, preprocess.size)).items() if key != "activation_bytes"},
        "pictures": {"train": len(train_split), parts.report_name: evaluation.pictures},
        "unreadable": bad.reasons,
        "versions": versions(),
    }
    classifier.metrics = {key: result[key] for key in ("split", "accuracy", "accuracy_ci95", "loss", "ece")}
    classifier.save(run.path)
    write_json(run.result_file, result)
    return classifier, result, evaluation


def versions() -> dict[str, str]:
    """The versions that decide a run's numbers."""
    return {
        "resvision": resvision.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _preprocess(split: Split, recipe: Recipe, weights: pretrained.Pretrained | None) -> Preprocess:
    """The recipe's preprocessing, normalised as pretrained weights expect it, else by the training pictures' values."""
    assert recipe.channels is not None
    if weights is not None and weights.preprocess is not None:
        return replace(weights.preprocess, size=recipe.size, crop=recipe.crop)
    middle = (0.5,) * recipe.channels
    plain = Preprocess(size=recipe.size, crop=recipe.crop, channels=recipe.channels, mean=middle, std=middle)
    mean, std = mean_and_std(split, plain)
    return replace(plain, mean=tuple(mean), std=tuple(std))


def _state(values: dict[str, Any]) -> State:
    return State(**{**values, "sums": Sums(**values["sums"])})


def _row(sums: Sums, epoch: int, epochs: int, step: int, lr: float) -> dict[str, Any]:
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


def _goes_on(run: RunFolder) -> str:
    """What goes on with a run that has begun."""
    return run.resumed_by(in_memory=not run.read_data()["source"])


def _evaluated(session: Session, batches: EvaluationBatches, classes: tuple[str, ...], step: int) -> Evaluation:
    """The figures of a split; what went wrong behind the last loss shows here first."""
    try:
        return evaluate(session, batches, classes)
    except DivergedError as error:
        raise DivergedError(f"{error} after step {step:,}: {DIVERGED_ADVICE}") from error


def _best(history: list[dict[str, Any]], recipe: Recipe, parts: roles.Roles) -> int:
    """The index of the best epoch by the chooser's accuracy; among equals the one with the lower loss.

    Where the trunk is frozen these are of a network that does not change, and the exits are best when they are done.
    """
    if recipe.freeze_trunk:
        return len(history) - 1
    name = parts.chooser_name
    return max(range(len(history)), key=lambda i: (history[i][f"{name}_accuracy"], -history[i][f"{name}_loss"]))


def _reason_to_stop(history: list[dict[str, Any]], recipe: Recipe, parts: roles.Roles) -> str:
    """The word "target" or "patience" if the run is to stop early, else nothing."""
    last = history[-1]
    if recipe.target_loss is not None and last["train_loss"] <= recipe.target_loss:
        return "target"
    if recipe.target_accuracy is not None and last[f"{parts.chooser_name}_accuracy"] >= recipe.target_accuracy:
        return "target"
    if recipe.patience is not None and len(history) - 1 - _best(history, recipe, parts) >= recipe.patience:
        return "patience"
    return ""


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
        "device": _device_name(),
        "precision": recipe.precision,
        "stopped": state.stopped or length_asked,
    }


def _tensorboard_writer() -> Any:
    """TensorBoard's class; its package is optional, and whoever asks for it in vain hears so before anything begins."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "log", "--tensorboard") from error
    return SummaryWriter


@contextmanager
def _tensorboard(run: RunFolder, writer: Any) -> Iterator[Callable[[str, float, int], None]]:
    """A function (name, value, step) that writes to TensorBoard, or one that does nothing."""
    if writer is None:
        yield lambda name, value, step: None
        return
    with writer(str(run.path / "tensorboard")) as board:
        yield board.add_scalar


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"
