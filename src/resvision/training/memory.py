"""Memory: which activations of a training step are kept, and which are computed again in the backward pass."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from resvision.cost import block_activations, cost
from resvision.errors import RecipeError
from resvision.measure import available_memory_bytes
from resvision.models import ResNet
from resvision.models.block import Block
from resvision.models.layers import statistics_kept
from resvision.preprocess import Preprocess
from resvision.recipe import Memory, Recipe
from resvision.spec import ResNetSpec
from resvision.training.losses import Network

USABLE = 0.8  # part of the memory at hand that a step may plan with; the rest is for what is not counted
WEIGHT_COPIES = 4  # weights, gradients, momentum, and a copy in another precision or memory order
FLOAT_BYTES = 4
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
CAPS = 40  # sizes of the largest segment that are tried


def keep_freed() -> None:
    """Has this process keep the memory that a step frees, for the next step, where the C library can (glibc).

    Otherwise large tensors are handed back to the system and fetched anew, page by page: for a step of resnet18 at 128
    px, batch 64, 25,000 to 34,000 page faults, and 4 to 5% of its time on two cores.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return  # another C library, which keeps what it likes


def segments(spec: ResNetSpec, size: int) -> tuple[int, ...]:
    """How many blocks stand between one kept activation and the next, so that a step keeps the least.

    What is kept is the input of every segment and, in the backward pass, all of one segment at a time: of equal blocks,
    the square root of their number makes the best segment (Chen et al. 2016, section 4).
    """
    blocks = block_activations(spec, size)
    largest, total = max(kept for _, kept in blocks), sum(kept for _, kept in blocks)
    caps = [largest * (total / largest) ** (step / CAPS) for step in range(CAPS + 1)]
    return min((_packed(blocks, cap) for cap in caps), key=lambda lengths: _checkpointed(blocks, lengths))


def step_bytes(spec: ResNetSpec, size: int, batch_size: int, memory: Memory) -> int:
    """About the memory of a training step in float32, in bytes: activations, weights, gradients and momentum."""
    whole, blocks = cost(spec, size), block_activations(spec, size)
    kept, inside = whole.activation_bytes, [inner for _, inner in blocks]
    if spec.reversible:  # the plan counts what is kept between the passes, which leaves out the blocks themselves
        kept += sum(inside) if memory == "full" else max(inside)
    elif memory == "checkpoint":
        kept += _checkpointed(blocks, segments(spec, size)) - sum(inside)
    return batch_size * kept + WEIGHT_COPIES * FLOAT_BYTES * whole.params


def choose(
    spec: ResNetSpec, recipe: Recipe, preprocess: Preprocess, batch_size: int | None = None
) -> tuple[Recipe, str]:
    """Fills `memory` with the fastest way that fits what is at hand.

    Args:
        spec: of the network.
        recipe: with its batch size and in how many parts a step is computed.
        preprocess: of the pictures.
        batch_size: of a small set, of which the recipe's batches would leave out too much; None takes the recipe's.

    Returns:
        The recipe, and a line that says what a step takes.

    Raises:
        RecipeError: no way fits.
    """
    at_hand = bytes_at_hand()
    ways: tuple[Memory, ...] = ("full", "checkpoint")
    if recipe.memory != "auto":
        ways = (recipe.memory,)
    elif recipe.compile or spec.exits:
        ways = ("full",)
    elif spec.reversible:
        ways = ("checkpoint",)  # which is what one takes a reversible network for
    batch_size = batch_size or recipe.batch_size
    at_once = -(-batch_size // recipe.accumulate)
    needs = {way: step_bytes(spec, preprocess.size, at_once, way) for way in ways}
    fitting = [way for way in ways if at_hand is None or needs[way] <= USABLE * at_hand]
    if not fitting:
        way = ways[-1]
        assert at_hand is not None
        weights = step_bytes(spec, preprocess.size, 0, way)
        each = step_bytes(spec, preprocess.size, 1, way) - weights
        most = max(0, int((USABLE * at_hand - weights) / each))
        advice = ["a smaller network", "--size"]
        if most:
            parts = (n for n in range(1, recipe.batch_size + 1) if recipe.batch_size % n == 0)
            enough = next(n for n in parts if -(-batch_size // n) <= most)
            advice = [f"--batch-size {most * recipe.accumulate}", f"--accumulate {enough}"]
        if "checkpoint" not in ways and not spec.exits:
            advice.append("--memory checkpoint" + (" --no-compile" if recipe.compile else ""))
        raise RecipeError(
            f"{at_once} pictures at once need about {_gb(needs[way])} with memory={way!r}, and {_gb(at_hand)} are at "
            f"hand: try {' or '.join(advice)}"
        )
    way = fitting[0]
    hand = "" if at_hand is None else f", {_gb(at_hand)} at hand"
    return replace(recipe, memory=way), f"memory: a step takes at most about {_gb(needs[way])} ({way}){hand}"


def bytes_at_hand() -> int | None:
    """Bytes that a step may take: what is free, and what this process freed and keeps. None where nobody tells."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    free = available_memory_bytes()
    return None if free is None else free + _freed_bytes()


class _Heap(ctypes.Structure):
    """What mallinfo2 of glibc tells, of which `fordblks` is free."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


def _freed_bytes() -> int:
    """Memory that was freed and that `keep_freed` keeps for this process."""
    try:
        tell = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):  # another C library, or one before 2.33
        return 0
    tell.restype = _Heap
    return int(tell().fordblks)


def forward_pass(network: ResNet, size: int, memory: Memory) -> Network:
    """The network's forward pass, which keeps what `memory` says for the backward pass.

    Args:
        network: a reversible one computes its activations from its outputs by itself, unless they are to be kept.
        size: height and width of the pictures, in pixels, for which the segments are planned.
        memory: "full", "checkpoint", or "auto" for the network's own way.
    """
    if network.spec.reversible:
        return partial(_stored, network) if memory == "full" else network
    return checkpointed(network, size) if memory == "checkpoint" else network


def _stored(network: ResNet, x: torch.Tensor) -> torch.Tensor:
    x = network.stem(x)
    for stage in network.stages():
        for block in stage:
            x = block(x)
    return network.head(x)


def checkpointed(network: ResNet, size: int) -> Network:
    """The network's forward pass, with the activations inside each segment computed again in the backward pass."""
    blocks = list(network.blocks())
    lengths = segments(network.spec, size)
    ends = [sum(lengths[:index]) for index in range(len(lengths) + 1)]
    # Both passes must leave out the same branches, and open the same gates.
    random = any(block.drop_path or block.plan.gated for block in blocks)
    groups = [blocks[start:end] for start, end in pairwise(ends)]

    def forward(x: torch.Tensor) -> torch.Tensor:
        x = network.stem(x)
        for group in groups:
            contexts = partial(_contexts, group)
            x = checkpoint(_run, group, x, use_reentrant=False, preserve_rng_state=random, context_fn=contexts)
        return network.head(x)

    return forward


def _run(group: Sequence[Block], x: torch.Tensor) -> torch.Tensor:
    for block in group:
        x = block(x)
    return x


def _contexts(group: Sequence[Block]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the first pass and for the one that computes again, which must not update the norms' statistics again."""
    return nullcontext(), statistics_kept(group)


def _packed(blocks: Sequence[tuple[int, int]], cap: float) -> tuple[int, ...]:
    """Lengths of segments none of which keeps more than `cap`, but for a single block that does."""
    lengths, held = [0], 0
    for _, kept in blocks:
        if lengths[-1] and held + kept > cap:
            lengths.append(0)
            held = 0
        lengths[-1] += 1
        held += kept
    return tuple(lengths)


def _checkpointed(blocks: Sequence[tuple[int, int]], lengths: Sequence[int]) -> int:
    """Bytes that are kept at most: the inputs of all segments and the inside of the largest."""
    inputs, largest, start = 0, 0, 0
    for length in lengths:
        segment = blocks[start : start + length]
        inputs += segment[0][0]
        largest = max(largest, sum(kept for _, kept in segment))
        start += length
    return inputs + largest


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
