"""The peer beside a classifier: torchvision's or timm's network of its name, the usual way, with random weights."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resvision import zoo
from resvision.classifier import Classifier
from resvision.cost import cost
from resvision.errors import SpecError
from resvision.exporting.export import quiet
from resvision.progress import Note
from resvision.runtime import Session, device


class PeerSession:
    """A network of another library behind the usual preprocessing, on the device of the classifier's own network."""

    def __init__(self, network: torch.nn.Module, classifier: Classifier) -> None:
        self.where = device()
        self.network = network.eval().to(self.where)
        preprocess = classifier.preprocess
        self.mean, self.std = (
            torch.tensor(values, device=self.where)[:, None, None] for values in (preprocess.mean, preprocess.std)
        )

    def __call__(self, squares: torch.Tensor, /) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C) to float32 logits (N, K)."""
        with torch.inference_mode():
            pictures = squares.to(self.where).permute(0, 3, 1, 2).float() / 255
            return self.network((pictures - self.mean) / self.std).cpu().numpy()  # type: ignore[no-any-return]


def peer(classifier: Classifier, note: Note) -> dict[str, Session]:
    """The peer, where one is installed and has the network that this one is, or was made smaller from."""
    provenance, spec = classifier.provenance, classifier.network.spec
    recipe = provenance.get("recipe")
    name = str(provenance.get("model") or (recipe.get("model") if isinstance(recipe, dict) else None))
    try:
        named = zoo.get(name)
    except SpecError:  # provenance may be anybody's words
        return {}
    whole = dataclasses.replace(named, num_classes=spec.num_classes, in_channels=spec.in_channels)
    size = cost(whole, classifier.preprocess.size).params
    for package, build in (("torchvision", torchvision_network), ("timm", timm_network)):
        with quiet():
            try:
                network = build(name, spec.num_classes, spec.in_channels)
            except (ImportError, RuntimeError, AttributeError, ValueError):  # not installed, or knows no such network
                continue
        if sum(p.numel() for p in network.parameters()) == size:
            plain = dataclasses.replace(spec, init=whole.init, gates=False, exits=())
            if dataclasses.replace(plain, exit_width=whole.exit_width, exit_depth=whole.exit_depth) != whole:
                note(f"{package}'s {name} is the network by that name, which this one differs from")
            return {f"{package} eager": PeerSession(network, classifier)}
    return {}


def torchvision_network(name: str, classes: int, channels: int) -> torch.nn.Module:
    """The network of that name in torchvision, with random weights.

    Raises:
        ValueError: it has none for so many channels.
    """
    if channels != 3:
        raise ValueError
    return import_torchvision().models.get_model(name, num_classes=classes)  # type: ignore[no-any-return]


def timm_network(name: str, classes: int, channels: int) -> torch.nn.Module:
    """The network of that name in timm, with random weights."""
    with contextlib.suppress(ImportError):
        import_torchvision()  # which timm imports
    import timm

    return timm.create_model(name, num_classes=classes, in_chans=channels)


def import_torchvision() -> Any:
    """torchvision, also where its compiled operators do not load, as beside the CPU build of torch.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # it is imported by half
    _missing_operators()
    return import_module("torchvision")


@cache  # they live as long as the object that defined them
def _missing_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms(Tensor a, Tensor b, float c) -> Tensor", "qnms(Tensor a, Tensor b, float c) -> Tensor"):
        library.define(operator)  # type: ignore[no-untyped-call]
    return library
