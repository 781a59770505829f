"""The training loop: data, network, engine, length, optimiser, resume, epochs, evaluation, save."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch

from resvision import zoo
from resvision.classifier import Classifier
from resvision.data.pictures import DataSet, listed
from resvision.errors import Interrupted, RecipeError, RunError
from resvision.evaluation import Evaluation
from resvision.exits import with_exits_and_gates
from resvision.files import write_json
from resvision.measure import now
from resvision.models import ResNet
from resvision.progress import Reporter, duration
from resvision.recipe import Recipe
from resvision.runtime import TorchSession, device
from resvision.training import (
    board,
    finder,
    history,
    length,
    losses,
    memory,
    optim,
    outcome,
    phases,
    pretrained,
    signals,
)
from resvision.training import engine as engines
from resvision.training.average import Average
from resvision.training.checkpoint import load_checkpoint, save_checkpoint
from resvision.training.figures import Arriving, Sums
from resvision.training.history import State
from resvision.training.run import RunFolder
from resvision.training.supply import Supply, gather

SAVE_SECONDS = 10.0  # shorter epochs than this share a checkpoint, or a tiny set would spend its time on saving


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
    writer = board.writer() if tensorboard else None
    assert (weights is None) == (recipe.pretrained is None or resume)
    reporter = reporter or Reporter()
    begin = now() if begin is None else begin

    # ---- data ----
    recipe, supply = gather(dataset, recipe, run, weights, reporter, resume=resume)
    parts, preprocess, batches, watched = supply.parts, supply.preprocess, supply.batches, supply.watched
    if resume:
        _check_unchanged(run, supply)

    # ---- network, engine, length ----
    network = _network(recipe, supply, weights, reporter)
    recipe, engine = _engine(network, recipe, supply, reporter, resume=resume)
    average = Average(network, recipe.ema) if recipe.ema else None
    followed = network if average is None else average.network  # what is evaluated and kept
    session = TorchSession(followed, preprocess, engine.precision)
    recipe, steps = _length(recipe, supply, engine, reporter, None if resume else begin)
    epochs, head_steps = math.ceil(steps / batches.steps), phases.head_steps(recipe)

    # ---- optimiser ----
    optimizer = optim.build(network, recipe)

    # ---- resume ----
    state = State()
    if resume:
        state = State.restored(load_checkpoint(run.last_checkpoint, network, optimizer, average))
        supply.bad.add([*state.unreadable.items()])
        if source and source != run.read_data()["source"]:
            run.write_data(run.read_data() | {"source": source})  # where they are now
        reporter.note(f"going on after step {state.step:,} of {steps:,}")
    else:
        run.write_recipe(recipe)
        record = parts.record(dataset.name, source or {})
        run.write_data({**record, "skipped": supply.skipped, "preprocess": asdict(preprocess)})
    begin -= state.seconds  # the earlier parts of the run count

    # ---- epochs ----
    arriving = Arriving(device())
    with signals.collected() as caught, board.opened(run, writer) as plot, reporter:
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
                if engine.can_learn_from(batch):
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
                row = history.row(state.sums, epoch, epochs, state.step, lr)
                if parts.watched is not None and watched is not None:
                    held = outcome.evaluated(session, watched, parts.classes, state.step)
                    row |= {f"{parts.watched[0]}_accuracy": held.accuracy, f"{parts.watched[0]}_loss": held.nll}
                row["seconds"] = now() - begin
                state.history.append(row)
                state.sums = Sums()
                state.stopped = history.reason_to_stop(state.history, recipe, parts)
                latest = len(state.history) - 1
                if history.chooses_epoch(recipe, parts) and history.best(state.history, parts) == latest:
                    save_checkpoint(run.best_checkpoint, followed, None, {"epoch": epoch + 1})
                for name, value in row.items():
                    plot(name, value, state.step)
                reporter.epoch(row, (now() - started) / (state.step - first_step) * (steps - state.step))
            state.seconds = now() - begin
            state.unreadable = supply.bad.reasons
            ends = state.step == steps or state.stopped
            if ends or caught or now() - saved >= SAVE_SECONDS:
                run.write_metrics(state.history)
                save_checkpoint(run.last_checkpoint, network, optimizer, asdict(state), average)
                saved = now()
            if caught:
                raise Interrupted(f"stopped after step {state.step:,}; go on with: {run.goes_on()}", caught[0])

    for name in sorted(set(supply.bad.reasons) - set(supply.skipped)):
        reporter.note(f"skipped {name}: {supply.bad.reasons[name]}")

    # ---- evaluation ----
    kept = outcome.kept_epoch(run, recipe, parts, state, followed)
    classifier = outcome.classifier_of(followed, supply, recipe, dataset.name, state.step)
    classifier.save(run.path)  # a reported picture that cannot be decoded may be met only now
    evaluation, leaving = outcome.reported(classifier, run, supply, state.step)
    reporter.note(f"epoch {kept} is kept; {parts.report_name} accuracy {evaluation.accuracy:.2%}")

    # ---- save ----
    state.seconds = now() - begin
    result = outcome.result(classifier, supply, recipe, state, kept, evaluation) | leaving
    classifier.metrics = {key: result[key] for key in ("split", "accuracy", "accuracy_ci95", "loss", "ece")}
    classifier.save(run.path)
    write_json(run.result_file, result)
    return classifier, result, evaluation


def _network(recipe: Recipe, supply: Supply, weights: pretrained.Pretrained | None, reporter: Reporter) -> ResNet:
    """The network of the recipe for these pictures, with weights from its seed or those that were given."""
    torch.manual_seed(recipe.seed)
    named = with_exits_and_gates(zoo.variant(recipe.model, recipe.spec), recipe)
    classes = supply.parts.classes
    spec = replace(named, num_classes=len(classes), in_channels=supply.preprocess.channels)
    network = ResNet(spec).to(device())
    if weights is not None:
        reporter.note(pretrained.fill(network, weights, classes, frozen=recipe.freeze_trunk))
    at_once, least = supply.batches.batch_size // recipe.accumulate, recipe.first_size or recipe.size
    if at_once < engines.fewest_pictures(spec, least):
        raise RecipeError(
            f"one picture of {least} px at a time has features of 1 x 1, which a batch norm cannot learn from: "
            "more pictures at once (--batch-size, --accumulate), or --size"
        )
    return network


def _engine(
    network: ResNet, recipe: Recipe, supply: Supply, reporter: Reporter, *, resume: bool
) -> tuple[Recipe, engines.Engine]:
    """The recipe with everything decided on which a step's speed and memory depend, and its rate; and the engine."""
    preprocess, batches = supply.preprocess, supply.batches
    if not resume:
        recipe, needed = memory.choose(network.spec, recipe, preprocess, batches.batch_size)
        reporter.note(needed)
    if recipe.compile and not engines.can_compile(network):
        if not resume:
            raise RecipeError("compile=True: there is no C++ compiler, or the network is reversible; give --no-compile")
        recipe = replace(recipe, compile=False)
        reporter.note("there is no C++ compiler here: the run goes on without compiling")
    if recipe.cuda_graph is not False and not engines.can_capture(network, recipe):
        if recipe.cuda_graph:
            reporter.note("no CUDA graph: it takes a GPU, memory=full, accumulate=1, and no gates or reversible blocks")
        recipe = replace(recipe, cuda_graph=False)
    loss = losses.build(recipe, supply.counts.tolist(), network.gates())
    if None in (recipe.precision, recipe.channels_last, recipe.cuda_graph, recipe.compile):
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
    if recipe.lr == "auto":
        recipe, found = finder.find(recipe, batches, engine)
        reporter.note(found)
    return recipe, engine


def _length(
    recipe: Recipe, supply: Supply, engine: engines.Engine, reporter: Reporter, begin: float | None
) -> tuple[Recipe, int]:
    """The recipe with its number of steps, and that number; `begin` of a run that has not begun yet."""
    batches, steps, takes = supply.batches, recipe.steps, ""
    if begin is not None:
        pace = length.pace(recipe, batches, engine, supply.parts)
        steps = steps or length.steps(recipe, batches, pace, begin)
        takes = f", about {duration(steps * pace.step + pace.last_evaluation)} on this machine"
    assert steps is not None  # a run that began has recorded them
    recipe = replace(recipe, steps=steps)
    epochs = math.ceil(steps / batches.steps)
    many = "epoch" if epochs == 1 else "epochs"
    reporter.note(f"{steps:,} steps of {batches.batch_size} pictures, {epochs} {many}{takes}")
    if head_steps := phases.head_steps(recipe):
        reporter.note(f"the last layer learns alone in the first {head_steps:,}")
    return recipe, steps


def _check_unchanged(run: RunFolder, supply: Supply) -> None:
    """Refuses to go on with other pictures than the run began with."""
    recorded = run.read_data()
    if recorded.get("fingerprint") != supply.parts.fingerprint():
        raise RunError(f"{run.path}: the data have changed since this run began; start a new one")
    if changed := sorted(set(recorded.get("skipped", supply.skipped)) ^ set(supply.skipped)):
        raise RunError(
            f"{run.path}: other training pictures can be read than when this run began ({listed(changed)}): make "
            "them what they were, or start a new one"
        )
