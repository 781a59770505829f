"""Engine: how a step is computed (precision, memory order, CUDA graph, compilation), chosen by measurement."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from resvision.cost import least_size
from resvision.data.images import to_input
from resvision.data.reading import Batch
from resvision.data.transfer import sent
from resvision.measure import seconds
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.recipe import Precision, Recipe
from resvision.runtime import autocast
from resvision.spec import ResNetSpec
from resvision.training import memory, optim, phases
from resvision.training.captured import Captured
from resvision.training.losses import Loss, Network
from resvision.training.mix import disturb

TRIAL_PICTURES = 32  # a batch of the trial; enough to fill the processor's units
# Steps that are timed together on an accelerator, where one alone is mostly the wait for its figures, and the seconds
# that they may take.
TRIAL_STEPS, TRIAL_SECONDS = 8, 0.2
TRIAL_ROUNDS = 3  # each candidate is timed once a round, so that what disturbs one moment disturbs all
COMPILE_FROM_SECONDS = 600.0  # a shorter run can hardly win back the minute that compiling takes
COMPILE_FROM_SECONDS_CUDA = 900.0  # beside a CUDA graph it gained nothing where it was tried, and took minutes
MOST_SIZES = 64  # picture sizes and networks for which one process may compile
WHOLE_BLOCKS = 60  # deeper networks are compiled block by block: the compiler's time grows faster than the depth


@dataclass(frozen=True)
class StepResult:
    """What a step yields, still on the device: the mean loss (scalar) and the number of right answers (scalar)."""

    loss: torch.Tensor
    correct: torch.Tensor


@dataclass(frozen=True)
class Engine:
    """A network, and how its training step is computed."""

    network: ResNet
    forward: Network
    loss: Loss
    preprocess: Preprocess
    recipe: Recipe
    captured: Captured | None = None

    def step(self, batch: Batch, optimizer: Optimizer, step: int = 0) -> StepResult:
        """Forward, backward and update with one batch; what is random in it follows from the step's number."""
        where = next(self.network.parameters()).device
        if self.recipe.drop_path or self.network.spec.gates:
            torch.manual_seed(_step_seed(self.recipe.seed, step))
        labels = sent(batch.labels, where)
        inputs = to_input(sent(batch.squares, where), self.preprocess)
        inputs, targets = disturb(inputs, labels, self.network.spec.num_classes, self.recipe, step)
        if not self.recipe.channels_last:
            inputs = inputs.contiguous()
        if self.captured is not None:
            loss, correct = self.captured(inputs, targets, labels)
        else:
            count = self.recipe.accumulate  # parts that differ by one picture at most
            if len(labels) < 2 * count:  # so few that it matters, which is no matter of every step
                count = min(count, max(1, len(labels) // fewest_pictures(self.network.spec, inputs.shape[-1])))
            parts = zip(*(tensor.tensor_split(count) for tensor in (inputs, targets, labels)), strict=True)
            results = [self.passes(part, wanted, own, len(own) / len(labels)) for part, wanted, own in parts]
            loss, correct = (torch.stack(values).sum() for values in zip(*results, strict=True))
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        optimizer.step()
        # Gradients that are made anew in every backward pass lie between the activations, in pieces of memory that then
        # fit no activation: resnet1202 held up to twice as much.
        optimizer.zero_grad(set_to_none=self.recipe.memory != "checkpoint")
        return StepResult(loss, correct)

    def can_learn_from(self, batch: Batch) -> bool:
        """Whether so many of its pictures could be read that a step makes sense."""
        count = len(batch.labels)
        return count > 1 or count >= fewest_pictures(self.network.spec, batch.squares.shape[1])

    def passes(
        self, inputs: torch.Tensor, targets: torch.Tensor, labels: torch.Tensor, share: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward: the mean loss times `share`, and the number of right answers."""
        before = torch.backends.cudnn.benchmark
        # Batches that train have few shapes, for which a search pays; what leaves early or passes gates has many.
        torch.backends.cudnn.benchmark = True
        try:
            with autocast(inputs.device, self.precision):
                loss, logits = self.loss(self.forward, inputs, targets)
            loss = loss * share
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            torch.backends.cudnn.benchmark = before
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    @property
    def precision(self) -> Precision:
        """Of convolutions and matrix products."""
        assert self.recipe.precision is not None
        return self.recipe.precision


def fewest_pictures(spec: ResNetSpec, size: int) -> int:
    """How many pictures of `size` x `size` a network learns from at least: a batch norm of one value from none."""
    return 2 if spec.norm == "batch" and least_size(spec, size) == 1 else 1


def _step_seed(seed: int, step: int) -> int:
    """A seed of 32 bits, since torch's generator for the processor takes no more."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def build(network: ResNet, recipe: Recipe, loss: Loss, preprocess: Preprocess) -> Engine:
    """The engine of a recipe in which everything is decided."""
    assert recipe.precision is not None
    assert recipe.channels_last is not None
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    for parameter in network.parameters():
        parameter.grad = None  # a gradient that lies in the other order would be kept, and read in the wrong one
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
    network.set_drop_path(recipe.drop_path)
    forward: Network = (
        _compiled(network) if recipe.compile else memory.forward_pass(network, preprocess.size, recipe.memory)
    )
    engine = Engine(network, forward, loss, preprocess, recipe)
    return replace(engine, captured=Captured(engine.passes, network)) if recipe.cuda_graph else engine


def choose(
    network: ResNet,
    recipe: Recipe,
    loss: Loss,
    preprocess: Preprocess,
    pictures_left: Callable[[float], float],
    batch_size: int | None = None,
) -> tuple[Recipe, str]:
    """Fills precision, channels_last, cuda_graph and compile by timing a few steps of each on synthetic pictures.

    Args:
        network: left as it was.
        recipe: fields that are given stay as they are.
        loss: of the run.
        preprocess: of the run.
        pictures_left: from seconds a picture to the pictures that the run will train on, which decides whether
            compiling can pay.
        batch_size: of a small set, of which the recipe's batches would leave out too much; None takes the recipe's.

    Returns:
        The recipe, and a line that says what was measured.
    """
    before, failed = {key: value.clone() for key, value in network.state_dict().items()}, ""
    precisions: tuple[Precision, ...] = ("bf16", "fp32") if recipe.precision is None else (recipe.precision,)
    on_gpu = next(network.parameters()).is_cuda  # whose fast kernels want the channels last
    orders = ((True,) if on_gpu else (True, False)) if recipe.channels_last is None else (recipe.channels_last,)
    candidates = [
        replace(
            recipe,
            precision=precision,
            channels_last=channels_last,
            cuda_graph=recipe.cuda_graph or False,
            compile=recipe.compile or False,
        )
        for precision, channels_last in product(precisions, orders)
        # The bf16 kernels work on channels-last memory; the other order only adds copies.
        if channels_last or precision == "fp32" or recipe.channels_last is False
    ]
    batch_size = batch_size or recipe.batch_size
    trials = _seconds_a_picture(candidates, network, loss, preprocess, batch_size)
    best = min(trials, key=lambda r: trials[r])
    if recipe.cuda_graph is None and can_capture(network, recipe):
        try:
            recorded = [replace(candidate, cuda_graph=True) for candidate in candidates]
            trials |= _seconds_a_picture(recorded, network, loss, preprocess, batch_size)
        except Exception as error:  # what a library forbids while it is recorded, it says in its own way
            failed = f"; a CUDA graph fails here ({type(error).__name__})"
        best = min(trials, key=lambda r: trials[r])
    if recipe.compile is None and recipe.memory != "checkpoint" and can_compile(network):
        threshold = COMPILE_FROM_SECONDS_CUDA if torch.cuda.is_available() else COMPILE_FROM_SECONDS
        if trials[best] * pictures_left(trials[best]) >= threshold:
            try:
                both = [best, replace(best, compile=True)]
                trials |= _seconds_a_picture(both, network, loss, preprocess, batch_size)
            except Exception as error:  # each of the compilers behind torch.compile has errors of its own
                torch._dynamo.reset()
                failed += f"; torch.compile fails here ({type(error).__name__})"
            best = min(trials, key=lambda r: trials[r])
    network.load_state_dict(before)
    measured = ", ".join(f"{_describe(r)} {1 / s:,.0f} pictures/s" for r, s in trials.items())
    return best, f"measured: {measured}; chosen: {_describe(best)}{failed}"


def _compiled(network: ResNet) -> Network:
    """The forward pass, compiled as a whole, or block by block: equal blocks then share what was compiled."""
    blocks = list(network.blocks())
    # Left to itself the compiler answers a second picture size with kernels for any size, also where the first returns.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_SIZES)
    if len(blocks) <= WHOLE_BLOCKS:
        return torch.compile(network, dynamic=False)
    compiled = [torch.compile(block, dynamic=False) for block in blocks]
    compiled_exits = [torch.compile(place, dynamic=False) for place in network.exits]

    def forward(x: torch.Tensor, exits: bool = False) -> Any:
        logits = network.walk(x, compiled, compiled_exits)
        return logits if exits else logits[-1]

    return forward


def can_compile(network: ResNet) -> bool:
    """Whether torch.compile can be expected to work here: on a CPU it needs a C++ compiler."""
    compilers = (os.environ.get("CXX", "g++"), "g++", "clang++", "c++", "cl")
    compiler = torch.cuda.is_available() or any(map(shutil.which, compilers))
    return compiler and not network.spec.reversible


def can_capture(network: ResNet, recipe: Recipe) -> bool:
    """Whether the passes of a step can be recorded as a CUDA graph: they must do the same for every batch.

    What is computed again in the backward pass asks for the state of what is random, which a recording cannot tell, and
    gates that do not learn leave out what they close.
    """
    again = recipe.memory == "checkpoint" or network.spec.reversible or network.spec.gates
    return next(network.parameters()).is_cuda and recipe.accumulate == 1 and not again


def _seconds_a_picture(
    candidates: list[Recipe], network: ResNet, loss: Loss, preprocess: Preprocess, batch_size: int
) -> dict[Recipe, float]:
    """The time of a training step over the pictures in it, for each candidate: the least of a few rounds.

    The least and not the median, since whatever else the machine does can only add to a step's time.
    """
    best = dict.fromkeys(candidates, float("inf"))
    # On an accelerator a few pictures take as long as their launches do, whatever the precision.
    on_gpu = next(network.parameters()).is_cuda
    whole = any(recipe.compile for recipe in candidates) or on_gpu
    for trial in range(TRIAL_ROUNDS):
        for recipe in candidates:
            at_once = -(-batch_size // recipe.accumulate)
            # A compiled network is specialised to the batch's shape, so it is tried with the run's own, and what it is
            # compared with, too: the optimiser's part of a step is shared by all pictures in it.
            count = at_once if whole else min(at_once, TRIAL_PICTURES)
            squares = torch.randint(0, 256, (count, preprocess.size, preprocess.size, preprocess.channels))
            batch = Batch(squares.to(torch.uint8), torch.arange(count) % network.spec.num_classes)
            engine = build(network, replace(recipe, accumulate=1), loss, preprocess)
            phases.learn(network, recipe, trunk=True)
            optimizer = optim.build(network, replace(recipe, lr=1e-6))

            def step(
                steps: int = 1, engine: Engine = engine, batch: Batch = batch, optimizer: Optimizer = optimizer
            ) -> None:
                for _ in range(steps - 1):
                    engine.step(batch, optimizer)
                engine.step(batch, optimizer).loss.item()

            # The first round warms up: kernels are chosen, and a network is compiled. Graphs are recorded in each.
            [time] = seconds(step, repeats=1, warmup=3 if trial == 0 or recipe.cuda_graph else 1)
            if on_gpu and (steps := min(TRIAL_STEPS, int(TRIAL_SECONDS / time))) > 1:
                [time] = seconds(partial(step, steps), repeats=1, warmup=0)
                time /= steps
            best[recipe] = min(best[recipe], time / count)
    return best


def _describe(recipe: Recipe) -> str:
    order = "channels_last" if recipe.channels_last else "channels_first"
    graph = " as a graph" if recipe.cuda_graph else ""
    return f"{recipe.precision} {order} {'compiled' if recipe.compile else 'eager'}{graph}"
