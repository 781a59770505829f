"""The training loop, top to bottom: data, network, engine, length, optimiser, resume, epochs, evaluation, save."""

from __future__ import annotations

import hashlib
import math
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Any

import numpy as np
import PIL
import torch

import resvision
from resvision import zoo
from resvision.classifier import Classifier
from resvision.cost import cost
from resvision.data.loader import EvaluationBatches, TrainingBatches, screen
from resvision.data.pictures import DataSet, Split, divide
from resvision.data.sources import prepare
from resvision.data.statistics import mean_and_std
from resvision.errors import DivergedError, Interrupted, RunError
from resvision.evaluation import Evaluation, evaluate
from resvision.files import write_json
from resvision.measure import now, timestamp
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.progress import Reporter
from resvision.recipe import Recipe
from resvision.runtime import TorchSession, device
from resvision.training import engine as engines
from resvision.training import optim
from resvision.training.checkpoint import load_checkpoint, save_checkpoint
from resvision.training.losses import cross_entropy
from resvision.training.run import RunFolder

HOLDOUT = 0.1  # part of the training split that is held back for choosing ...
HOLDOUT_MOST = 2000  # ... unless that is more pictures than a choice between epochs needs
FLUSH_STEPS = 20  # steps between two looks at the loss on an accelerator, which has to stop for each
PROBE_SECONDS = 6.0  # of real training steps that are timed to turn minutes into steps


@dataclass(frozen=True)
class Roles:
    """Which pictures do what. `chosen_by` is never what is reported."""

    train: Split
    report_name: str
    report: Split
    choose_by: Split | None
    note: str


@dataclass
class _Epoch:
    """Sums over the steps of one epoch."""

    loss: float = 0.0
    correct: int = 0
    pictures: int = 0
    seconds: float = 0.0


def train(
    dataset: DataSet,
    recipe: Recipe,
    run: RunFolder,
    reporter: Reporter | None = None,
    *,
    source: dict[str, Any] | None = None,
    resume: bool = False,
    tensorboard: bool = False,
) -> tuple[Classifier, dict[str, Any], Evaluation]:
    """Trains a network on a data set and saves it, with all its figures, in the run's folder.

    Args:
        dataset: divided into training and validation here where it comes without splits.
        recipe: fields that are None are measured or derived.
        run: an empty folder, or with `resume` the folder of an interrupted run.
        reporter: told about the progress.
        source: how to find the data again, recorded for `--resume`.
        resume: go on from the last checkpoint.
        tensorboard: also write TensorBoard's event files into the run's folder.

    Returns:
        The classifier, what result.json holds, and the evaluation of the reported split.

    Raises:
        DataError: the data cannot be used.
        DivergedError: the loss is not a finite number.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        RunError: `resume`, and the data or the checkpoint are not those of the run.
    """
    reporter = reporter or Reporter()
    begin = now()

    # ---- data ----
    roles = _roles(prepare(dataset), recipe)
    split, bad, largest = screen(roles.train, recipe.max_bad)
    if bad.reasons:
        reporter.note(
            f"skipped {len(bad.reasons)} unreadable: {'; '.join(f'{n} ({r})' for n, r in bad.reasons.items())}"
        )
    reporter.note(roles.note)
    preprocess = _preprocess(split, recipe)
    batches = TrainingBatches(split, recipe, preprocess, bad, largest)
    assert recipe.workers is not None
    watched = EvaluationBatches(roles.choose_by or roles.report, preprocess, recipe.workers)
    if roles.choose_by is None:
        reported = watched
    else:
        reported = EvaluationBatches(roles.report, preprocess, recipe.workers)
    # With a test split and nothing held back, nothing is looked at before the end.
    watch = roles.choose_by is not None or roles.report_name != "test"
    watch_name = "held" if roles.choose_by is not None else roles.report_name

    # ---- network ----
    torch.manual_seed(recipe.seed)
    spec = replace(zoo.get(recipe.model), num_classes=len(dataset.classes), in_channels=preprocess.channels)
    network = ResNet(spec).to(device())

    # ---- engine ----
    loss = cross_entropy(recipe.label_smoothing)
    if recipe.precision is None or recipe.channels_last is None or recipe.compile is None:
        recipe, text = engines.choose(
            network, recipe, loss, preprocess, lambda s: _pictures_planned(recipe, batches, s)
        )
        reporter.note(text)
    engine = engines.build(network, recipe, loss, preprocess)
    session = TorchSession(network, preprocess, recipe.precision or "fp32")

    # ---- length ----
    if recipe.steps is None:
        recipe = replace(recipe, steps=_steps(recipe, batches, engine, begin, roles, watch))
    assert recipe.steps is not None
    epochs = math.ceil(recipe.steps / batches.steps)
    reporter.note(f"{recipe.steps:,} steps of {batches.batch_size} pictures, {epochs} epochs")

    # ---- optimiser ----
    optimizer = optim.build(network, recipe)

    # ---- resume ----
    fingerprint = _fingerprint(dataset, roles)
    history: list[dict[str, Any]] = []
    step, stopped, earlier_seconds, totals = 0, "", 0.0, _Epoch()
    if resume:
        if run.read_data().get("fingerprint") != fingerprint:
            raise RunError(f"{run.path}: the data have changed since this run began; start a new one")
        state = load_checkpoint(run.last_checkpoint, network, optimizer)
        history, step, stopped = state["history"], state["step"], state["stopped"]
        earlier_seconds, totals = state["seconds"], _Epoch(**state["totals"])
        reporter.note(f"going on after step {step:,} of {recipe.steps:,}")
    else:
        run.write_recipe(recipe)
        run.write_data(_data_record(dataset, roles, source or {}, fingerprint))

    def checkpoint() -> None:
        progress = {
            "history": history,
            "step": step,
            "stopped": stopped,
            "seconds": earlier_seconds + now() - begin,
            "totals": asdict(totals),
        }
        save_checkpoint(run.last_checkpoint, network, optimizer, progress)

    # ---- epochs ----
    flush_steps = 1 if device().type == "cpu" else FLUSH_STEPS
    with _signals() as caught, _tensorboard(run, tensorboard) as board, reporter:
        reporter.start(recipe.steps, step)
        while step < recipe.steps and not stopped:
            epoch = step // batches.steps
            network.train()
            pending: list[tuple[int, torch.Tensor, torch.Tensor]] = []
            mark = now()
            for batch in batches.epoch(epoch, step % batches.steps):
                lr = optim.set_step(optimizer, recipe, step)
                step += 1
                if len(batch.labels):
                    batch_loss, correct = engine.backward(batch.squares, batch.labels)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                    pending.append((len(batch.labels), batch_loss, correct))
                if len(pending) >= flush_steps or step == recipe.steps or step % batches.steps == 0:
                    _flush(pending, totals, step)
                    totals.seconds += now() - mark
                    mark = now()
                    speed = totals.pictures / max(totals.seconds, 1e-9)
                    reporter.step(step, totals.loss / totals.pictures, totals.correct / totals.pictures, speed)
                if caught or step == recipe.steps:
                    break
            if caught and step < recipe.steps and step % batches.steps:
                _flush(pending, totals, step)
                checkpoint()
                raise _interrupted(run, caught[0], step)
            row = {
                "epoch": epoch + 1,
                "epochs": epochs,
                "step": step,
                "lr": lr,
                "train_loss": totals.loss / totals.pictures,
                "train_accuracy": totals.correct / totals.pictures,
                "images_per_second": totals.pictures / totals.seconds,
                "train_seconds": totals.seconds,
            }
            if watch:
                measured = evaluate(session, watched, dataset.classes)
                row |= {f"{watch_name}_accuracy": measured.accuracy, f"{watch_name}_loss": measured.nll}
            row["seconds"] = earlier_seconds + now() - begin
            row["seconds_left"] = row["seconds"] / step * (recipe.steps - step)
            history.append(row)
            totals = _Epoch()
            stopped = _reason_to_stop(history, recipe)
            checkpoint()
            if roles.choose_by is not None and _best(history) == len(history) - 1:
                save_checkpoint(run.best_checkpoint, network, None, {"epoch": epoch + 1})
            run.write_metrics(history)
            for key, value in row.items():
                board(key, value, step)
            reporter.epoch(row)
            if caught:
                raise _interrupted(run, caught[0], step)

    # ---- evaluation ----
    kept = len(history)
    keep = recipe.keep or ("best" if roles.choose_by is not None else "last")
    if keep == "best" and roles.choose_by is not None:
        kept = int(load_checkpoint(run.best_checkpoint, network)["epoch"])
    evaluation = evaluate(session, reported, dataset.classes)
    reporter.note(f"epoch {kept} is kept; {roles.report_name} accuracy {evaluation.accuracy:.2%}")

    # ---- save ----
    recipe_length = "minutes" if recipe.minutes is not None else "steps" if recipe.max_steps is not None else "epochs"
    trained = sum(row["images_per_second"] * row["train_seconds"] for row in history)
    total_cost = cost(spec, preprocess.size)
    result = {
        "model": recipe.model,
        "data": dataset.name,
        "classes": list(dataset.classes),
        "split": roles.report_name,
        "accuracy": evaluation.accuracy,
        "accuracy_ci95": list(evaluation.accuracy_ci95),
        "loss": evaluation.nll,
        "ece": evaluation.ece,
        "epochs": len(history),
        "epoch_kept": kept,
        "steps": step,
        "seconds": earlier_seconds + now() - begin,
        "images_per_second": trained / sum(row["train_seconds"] for row in history),
        "params": total_cost.params,
        "macs": total_cost.macs,
        "seed": recipe.seed,
        "device": _device_name(),
        "precision": recipe.precision,
        "stopped": stopped or recipe_length,
        "pictures": {"train": len(split), roles.report_name: evaluation.pictures},
        "unreadable": bad.reasons,
        "per_class": evaluation.to_dict()["per_class"],
        "versions": versions(),
    }
    classifier = Classifier(
        network=network,
        preprocess=preprocess,
        classes=dataset.classes,
        provenance={"data": dataset.name, "recipe": asdict(recipe), "created": timestamp(), "versions": versions()},
        metrics={key: result[key] for key in ("split", "accuracy", "accuracy_ci95", "loss", "ece")},
    )
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


# ---- data ----


def _roles(dataset: DataSet, recipe: Recipe) -> Roles:
    """Who trains, who chooses and who is reported: the reported split never chooses anything."""
    splits = dataset.splits
    train, val, test = splits["train"], splits.get("val"), splits.get("test")
    report_name, report = ("test", test) if test is not None else ("val", val)
    assert report is not None
    choose_by = val if test is not None else None
    note = f"{len(train):,} pictures train, {len(report):,} of {report_name} are reported"
    if choose_by is not None:
        note += f", {len(choose_by):,} of val choose the epoch"
    wanted = recipe.holdout
    if wanted is None and choose_by is None and (test is not None or recipe.choices):
        wanted = min(HOLDOUT, HOLDOUT_MOST / len(train))
    if wanted and choose_by is None:
        train, choose_by = divide(train, wanted, dataset.name)
        note = (
            f"{len(train):,} pictures train, {len(choose_by):,} of train are held back to choose the epoch "
            f"(--holdout), {len(report):,} of {report_name} are reported"
        )
    if dataset.method not in ("none", "given"):
        note += f"; splits: {dataset.method}"
    return Roles(train, report_name, report, choose_by, note)


def _preprocess(split: Split, recipe: Recipe) -> Preprocess:
    """The recipe's preprocessing, normalised with the mean and standard deviation of the training pictures."""
    assert recipe.channels is not None
    plain = Preprocess(
        size=recipe.size,
        crop=recipe.crop,
        channels=recipe.channels,
        mean=(0.5,) * recipe.channels,
        std=(0.5,) * recipe.channels,
    )
    mean, std = mean_and_std(split, plain)
    return replace(plain, mean=tuple(mean), std=tuple(std))


def _fingerprint(dataset: DataSet, roles: Roles) -> str:
    """A short hash of which pictures train, under which names and labels; resuming with others would be a lie."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\0".join(dataset.classes).encode())
    for split in (roles.train, roles.report):
        digest.update(split.labels.tobytes())
        for index in range(len(split)):
            digest.update(split.pictures.name(index).encode())
    return digest.hexdigest()


def _data_record(dataset: DataSet, roles: Roles, source: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    held = roles.choose_by

    def names(split: Split) -> list[str]:
        return [split.pictures.name(index) for index in range(len(split))]

    divided = "train" not in dataset.splits or len(dataset.splits) == 1
    return {
        "name": dataset.name,
        "source": source,
        "classes": list(dataset.classes),
        "method": prepare(dataset).method if divided else dataset.method,
        "fingerprint": fingerprint,
        "counts": {"train": len(roles.train), roles.report_name: len(roles.report), "chosen_by": len(held or ())},
        "validation": names(roles.report) if divided else None,
        "held_back": names(held) if held is not None and held is not dataset.splits.get("val") else None,
    }


# ---- length ----


def _pictures_planned(recipe: Recipe, batches: TrainingBatches, seconds_a_picture: float) -> float:
    """About how many pictures the run will train on, at that speed."""
    if recipe.steps is not None or recipe.max_steps is not None:
        return (recipe.steps or recipe.max_steps or 0) * batches.batch_size
    if recipe.minutes is not None:
        return recipe.minutes * 60 / seconds_a_picture
    return (recipe.epochs or 1) * batches.steps * batches.batch_size


def _steps(
    recipe: Recipe, batches: TrainingBatches, engine: engines.Engine, begin: float, roles: Roles, watch: bool
) -> int:
    """Epochs, steps or minutes as a number of steps."""
    if recipe.max_steps is not None:
        return recipe.max_steps
    if recipe.minutes is None:
        assert recipe.epochs is not None
        return recipe.epochs * batches.steps
    step_seconds = _probe(recipe, batches, engine)
    # A forward pass takes about a third of a training step. The reported split is read once, the other each epoch.
    forward = step_seconds / 3 / batches.batch_size
    final = len(roles.report) * forward
    epoch_overhead = (len(roles.choose_by or roles.report) * forward if watch else 0) / batches.steps
    left = recipe.minutes * 60 - (now() - begin) - final
    return max(1, int(left / (step_seconds + epoch_overhead)))


def _probe(recipe: Recipe, batches: TrainingBatches, engine: engines.Engine) -> float:
    """Seconds of a real step, reading included; the network is left as it was."""
    before = {key: value.clone() for key, value in engine.network.state_dict().items()}
    optimizer = optim.build(engine.network, replace(recipe, lr=1e-6))
    engine.network.train()
    steps, start = 0, now()
    for batch in batches.epoch(0):
        engine.backward(batch.squares, batch.labels)[0].item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
        if steps == 2:  # the first steps start the workers and fill caches
            start = now()
        elif steps > 2 and now() - start > PROBE_SECONDS:
            break
    engine.network.load_state_dict(before)
    return (now() - start) / max(1, steps - 2)


# ---- epochs ----


def _flush(pending: list[tuple[int, torch.Tensor, torch.Tensor]], totals: _Epoch, step: int) -> None:
    """Adds up the steps whose figures are still on the device.

    Raises:
        DivergedError: a loss is not finite; the step is named.
    """
    for place, (count, loss, correct) in enumerate(pending):
        value = float(loss)
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} at step {step - len(pending) + place + 1}: lower --lr, or use --precision fp32"
            )
        totals.loss += value * count
        totals.correct += int(correct)
        totals.pictures += count
    pending.clear()


def _best(history: list[dict[str, Any]]) -> int:
    """The index of the best epoch by held-back accuracy; among equals the one with the lower loss."""
    return max(range(len(history)), key=lambda i: (history[i]["held_accuracy"], -history[i]["held_loss"]))


def _reason_to_stop(history: list[dict[str, Any]], recipe: Recipe) -> str:
    """ "target" or "patience" if the run is to stop early, else nothing."""
    last = history[-1]
    if recipe.target_loss is not None and last["train_loss"] <= recipe.target_loss:
        return "target"
    if recipe.target_accuracy is not None and last["held_accuracy"] >= recipe.target_accuracy:
        return "target"
    if recipe.patience is not None and len(history) - 1 - _best(history) >= recipe.patience:
        return "patience"
    return ""


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that a step is finished and saved; a second one stops at once."""
    caught: list[int] = []
    previous: dict[int, Any] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        if caught:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        caught.append(number)

    with suppress(ValueError):  # only the main thread may set handlers; elsewhere signals are the caller's business
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _interrupted(run: RunFolder, number: int, step: int) -> Interrupted:
    return Interrupted(f"stopped after step {step:,}; go on with: resvision train --resume {run.path}", number)


@contextmanager
def _tensorboard(run: RunFolder, wanted: bool) -> Iterator[Any]:
    """A function (name, value, step) that writes to TensorBoard, or one that does nothing."""
    if not wanted:
        yield lambda name, value, step: None
        return
    from resvision.errors import MissingExtraError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "log", "--tensorboard") from error
    with SummaryWriter(str(run.path / "tensorboard")) as writer:
        yield writer.add_scalar


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"
