"""resvision turns a folder of pictures into a residual network that can be trusted, understood and deployed."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resvision.api import (
        benchmark,
        compress,
        demo,
        depth,
        evaluate,
        export,
        import_weights,
        overfit,
        predict,
        study,
        train,
        tune_exits,
    )
    from resvision.classifier import Classifier
    from resvision.listing import list_models
    from resvision.preprocess import Preprocess
    from resvision.recipe import Recipe
    from resvision.spec import ResNetSpec

__version__ = version("resvision")

__all__ = [
    "Classifier",
    "Preprocess",
    "Recipe",
    "ResNetSpec",
    "benchmark",
    "compress",
    "demo",
    "depth",
    "evaluate",
    "export",
    "import_weights",
    "list_models",
    "overfit",
    "predict",
    "study",
    "train",
    "tune_exits",
]

_HOMES = {
    "Classifier": "resvision.classifier",
    "Preprocess": "resvision.preprocess",
    "Recipe": "resvision.recipe",
    "list_models": "resvision.listing",
    "ResNetSpec": "resvision.spec",
}


def __getattr__(name: str) -> object:
    # Names are imported when they are first used: `import resvision` and `resvision --help` do not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "resvision.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
