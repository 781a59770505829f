"""Weights of other libraries: read without running code, renamed to the names here, and checked against a spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from resvision.errors import ClassifierError, StorageError
from resvision.files import storage
from resvision.models.resnet import ResNet
from resvision.spec import ResNetSpec

State = dict[str, torch.Tensor]

HEAD = "fc."  # how the names of the last layer's weights begin
NAMED = 3  # weights of each kind that a message names

# Containers in which checkpoints nest the weights, as training scripts write them.
_NESTS = ("state_dict", "model", "model_state_dict", "net", "state_dict_ema", "model_ema")

# Whose names they are: timm's resnetv2; the CIFAR repositories of K. Liu, Y. Idelbayev and X. Zhang.
_NAMES = (
    (r"^module\.", ""),
    (r"^stem\.conv\.", "conv1."),
    (r"^stages\.(\d+)\.blocks\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"^block(\d+)\.layer\.(\d+)\.", r"layer\1.\2."),
    (r"^(layer\d+\.\d+)\.norm(\d)\.", r"\1.bn\2."),
    (r"^(layer\d+\.\d+)\.downsample\.conv\.", r"\1.downsample.0."),
    (r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample."),
    (r"^(layer\d+\.\d+)\.convShortcut\.", r"\1.downsample.0."),
    (r"^(head\.fc|linear|classifier)\.", "fc."),
)


def read(path: Path) -> State:
    """The weights in a checkpoint file: .safetensors, or what torch.save wrote, of which only tensors are read.

    Raises:
        ClassifierError: it is none, holds no weights, or holds objects that would have to run code to be read.
        StorageError: it cannot be read.
    """
    try:
        with storage(path):
            if path.suffix == ".safetensors":
                return load_file(path)
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except StorageError:
        raise
    except SafetensorError as error:
        raise ClassifierError(f"{path}: not a safetensors file ({error})") from error
    except Exception as error:  # over a file that is no checkpoint PyTorch raises errors of any kind
        # Its own words recommend to let the file run code.
        raise ClassifierError(
            f"{path}: not a checkpoint of plain tensors; save its state dict alone, best as .safetensors"
        ) from error
    try:
        return unnest(loaded)
    except ClassifierError as error:
        raise ClassifierError(f"{path}: {error}") from error


def unnest(loaded: object) -> State:
    """The weights in what a checkpoint file holds, wherever it keeps them.

    Raises:
        ClassifierError: there are none.
    """
    while isinstance(loaded, Mapping):
        if loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
            return {str(key): value for key, value in loaded.items()}
        nest = next((name for name in _NESTS if isinstance(loaded.get(name), Mapping)), None)
        if nest is None:
            break
        loaded = loaded[nest]
    found = ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, Mapping) else type(loaded).__name__
    raise ClassifierError(f"no state dict was found, only {found}; expected tensors by name, or one of {_NESTS}")


def sized(state: Mapping[str, torch.Tensor], spec: ResNetSpec) -> ResNetSpec:
    """The spec with as many input channels and classes as the weights have, where these tell."""
    renamed = _renamed(state, spec)
    first, last = renamed.get(f"{spec.stem_plan()[0].name}.weight"), renamed.get(f"{HEAD}weight")
    return replace(
        spec,
        in_channels=first.shape[1] if first is not None and first.ndim == 4 else spec.in_channels,
        num_classes=last.shape[0] if last is not None and last.ndim == 2 else spec.num_classes,
    )


def convert(
    state: Mapping[str, torch.Tensor], spec: ResNetSpec, *, head: bool = True, name: str = "this network"
) -> State:
    """Weights by the names of `spec`'s network, from those of torchvision, timm or the common CIFAR repositories.

    Args:
        state: weights by name.
        spec: of the network they are for.
        head: whether the last layer belongs to it; without it, its weights are left out, whatever they are.
        name: what messages call the network.

    Raises:
        ClassifierError: a weight is missing, unexpected or of another shape; the first of each kind are named.
    """
    renamed = _renamed(state, spec)
    with torch.device("meta"):
        expected = ResNet(spec).state_dict()
    if not head:
        renamed, expected = without_head(renamed), without_head(expected)
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):  # older checkpoints lack it, and nothing here reads it
            renamed.setdefault(key, torch.zeros((), dtype=value.dtype))
    problems = _few([f"{key} is missing" for key in expected if key not in renamed], "are missing")
    problems += _few([f"{key} is unexpected" for key in renamed if key not in expected], "are unexpected")
    shapes = [
        f"{key} is {tuple(renamed[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in renamed and renamed[key].shape != value.shape
    ]
    problems += _few(shapes, "are of other shapes")
    if problems:
        raise ClassifierError(f"not the weights of {name}: {'; '.join(problems)}")
    return {key: renamed[key] for key in expected}


def _few(problems: list[str], what: str) -> list[str]:
    """The first problems of a kind, and how many more there are."""
    more = len(problems) - NAMED
    return problems[:NAMED] + ([f"{more} more {what}"] if more > 0 else [])


def without_head(state: Mapping[str, torch.Tensor]) -> State:
    """All weights but those of the last layer."""
    return {key: value for key, value in state.items() if not key.startswith(HEAD)}


def _renamed(state: Mapping[str, torch.Tensor], spec: ResNetSpec) -> State:
    """Weights by our names as far as these can be told; what is of another network keeps its own."""
    renamed = {_rename(key, spec): value for key, value in state.items()}
    if (last := renamed.get(f"{HEAD}weight")) is not None and last.ndim == 4:  # a 1x1 convolution in its place
        renamed[f"{HEAD}weight"] = last.flatten(1)
    return renamed


def _rename(key: str, spec: ResNetSpec) -> str:
    for pattern, name in _NAMES:
        key = re.sub(pattern, name, key)
    # The norm behind the last block; with pre-activation there is none behind the stem that could have its name.
    return re.sub(r"^bn1\.", "norm.", key) if spec.order == "pre" else key
