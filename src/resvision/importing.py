"""Weights that were trained elsewhere, as a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resvision import zoo
from resvision.classifier import Classifier, class_names
from resvision.errors import ClassifierError
from resvision.files import parse
from resvision.measure import timestamp
from resvision.models import ResNet, convert
from resvision.preprocess import Preprocess
from resvision.spec import ResNetSpec


def from_weights(
    path: Path, model: str, spec: Sequence[str], classes: Sequence[str] | None, preprocess: Mapping[str, Any]
) -> Classifier:
    """A classifier of the weights in a checkpoint of PyTorch.

    Args:
        path: a state dict, .safetensors or written by torch.save; no code in it is run.
        model: the network's name here.
        spec: FIELD=VALUE in which the network differs from that name.
        classes: names in the order of the logits, numbers as text; None numbers them.
        preprocess: fields of `Preprocess`. Of networks for ImageNet those left out are torchvision's.

    Raises:
        ClassifierError: the file holds no weights, they do not fit the network, mean and std are not known, or the
            classes are not as many as the logits.
        InputError: a field does not exist, or its value is out of range.
    """
    state = convert.read(path)
    wanted = convert.sized(state, zoo.variant(model, spec))
    names = class_names(range(wanted.num_classes) if classes is None else classes)
    given = _imagenet_preprocess(wanted) | dict(preprocess)
    if missing := [field for field in ("mean", "std") if field not in given]:
        raise ClassifierError(
            f"{model} has no common {' and '.join(missing)}: give those that the weights were trained with"
        )
    network = ResNet(wanted)
    try:
        network.load_state_dict(convert.convert(state, wanted, name=model))
    except ClassifierError as error:
        raise ClassifierError(f"{path}: {error}") from error
    if not network.is_finite():
        raise ClassifierError(f"{path}: holds weights that are not finite numbers")
    return Classifier(
        network=network.eval(),
        preprocess=parse(Preprocess, given, "preprocess"),
        classes=names,
        provenance={
            "imported": path.name,
            "model": model,
            "spec": list(zoo.differences(model, wanted)),
            "named": classes is not None,
            "created": timestamp(),
        },
    )


def _imagenet_preprocess(spec: ResNetSpec) -> dict[str, Any]:
    """What torchvision's weights were trained with, as far as it is common to networks like this one."""
    if spec.stem == "cifar" or spec.in_channels != 3:
        return {"size": spec.natural_size, "channels": spec.in_channels}
    return {"size": 224, "crop": 0.875, "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
