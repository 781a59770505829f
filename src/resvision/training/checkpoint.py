"""Checkpoints: the whole state of a run in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from resvision.errors import RunError
from resvision.files import replacing
from resvision.training.average import Average

# Tensors are named model.<key>, average.<key> and optimizer.<parameter index>.<state>; the rest is JSON in the file's
# metadata. Order and augmentation are functions of (seed, epoch, sample), so there is no random state to keep.


def save_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    progress: dict[str, Any],
    average: Average | None = None,
) -> None:
    """Writes the weights, their average, the optimiser's state and `progress`, which must be plain JSON values.

    Raises:
        StorageError: the disk is full; the checkpoint that was there before is untouched.
    """
    tensors = {f"model.{key}": value.detach().contiguous() for key, value in network.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{key}": value.contiguous() for key, value in average.network.state_dict().items()}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = value.detach().contiguous()
    data = save(tensors, metadata={"progress": json.dumps(progress, allow_nan=False)})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def load_checkpoint(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: Average | None = None,
) -> dict[str, Any]:
    """Fills the network, its average and the optimiser from a checkpoint; returns its `progress`.

    Raises:
        RunError: there is no checkpoint, or it is damaged or of another network.
    """
    if not path.is_file():
        raise RunError(
            f"{path}: there is no checkpoint; the run stopped before its first one: start it again, in another folder"
        )
    try:
        with safe_open(path, framework="pt") as file:
            progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        tensors = load_file(path)
        network.load_state_dict(_named(tensors, "model."))
        if average is not None:
            average.network.load_state_dict(_named(tensors, "average."))
        if optimizer is not None:
            _restore(optimizer, _named(tensors, "optimizer."))
    except (SafetensorError, LookupError, TypeError, ValueError, RuntimeError) as error:  # one of these is JSON's
        raise RunError(f"{path}: not a checkpoint of this run ({error})") from error
    return progress


def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Gives an optimiser its state back, from the number of a parameter and the name of what is kept for it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        # In the memory order of its parameter: another one is summed up with other rounding.
        like = parameters[int(index)]
        state = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
        states.setdefault(int(index), {})[name] = state
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
