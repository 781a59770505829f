"""Classifiers to Keras models and back: the same weights under the same names, and proof that they compute the same."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resvision.classifier import Classifier, class_names
from resvision.data.images import to_input
from resvision.errors import ClassifierError, InputError
from resvision.files import parse, path_of, replacing, storage
from resvision.keras.backend import keras
from resvision.keras.build import network as build_network
from resvision.keras.build import probabilities, spec_of
from resvision.measure import timestamp
from resvision.models import ResNet, convert
from resvision.preprocess import Preprocess
from resvision.spec import ResNetSpec

FloatArray = npt.NDArray[np.float64]
Given = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]

SUFFIX = ".keras"
ENTRY = "resvision.json"  # beside what Keras puts into its file, and ignores when it reads one
VERSION = 1
MAX_ENTRY = 64 << 20  # bytes; a hundred thousand class names are 2 MB
TEMPERATURE = "temperature"  # the name of the layer that divides the logits
TOLERANCE = 1e-4  # two float32 libraries differ by some 1e-6 a layer

# What a model with scaling layers may be given for pixels of 0..255.
_SCALED: tuple[Given, ...] = (lambda pixels: pixels, lambda pixels: pixels / 255, lambda pixels: pixels / 127.5 - 1)

# The weights of a layer in the order that Keras keeps them in, by our names.
_WEIGHTS = {
    "Conv2D": ("weight", "bias"),
    "Dense": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a classifier knows beyond the layers of its Keras model; `sha256` is of the weights that it knows it of."""

    version: int
    spec: ResNetSpec
    classes: tuple[str, ...]
    preprocess: Preprocess
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    sha256: str


def to_keras(classifier: Classifier) -> keras.Model:
    """A classifier as a Keras model of Keras's own layers, with its preprocessing and temperature inside.

    Returns:
        A keras.Model: pictures (N, S, S, C) with values 0..255, cut and resized as the classifier's `Preprocess` says,
        to probabilities (N, K). Its layers have the names of the state dict, such as "layer1.0.conv1", and compute in
        float32, whatever Keras's dtype policy.

    Raises:
        SpecError: the network has parts that Keras has no layers for.
    """
    spec, preprocess = classifier.network.spec, classifier.preprocess
    variance = [std**2 for std in preprocess.std]
    with _float32():
        pictures = keras.Input((preprocess.size, preprocess.size, preprocess.channels), name="pictures")
        x = keras.layers.Rescaling(1 / 255, name="rescaling")(pictures)
        x = keras.layers.Normalization(mean=list(preprocess.mean), variance=variance, name="normalization")(x)
        x = build_network(x, spec)
        if classifier.temperature != 1:
            x = keras.layers.Rescaling(1 / classifier.temperature, name=TEMPERATURE)(x)
        model = keras.Model(pictures, probabilities(x), name="resnet")
    _fill(model, classifier.network.state_dict())
    # A plain attribute: Keras keeps it with the object, and `save` with the file.
    model.resvision = Description(
        version=VERSION,
        spec=spec,
        classes=classifier.classes,
        preprocess=preprocess,
        provenance=classifier.provenance,
        metrics=classifier.metrics,
        sha256=_digest(_state(_walk(model))),
    )
    return model


def save(classifier: Classifier, path: str | Path, *, tolerance: float = TOLERANCE) -> float:
    """Writes a classifier as a .keras file, reads it again, and compares the two on a few pictures.

    The file is an ordinary one of Keras, which needs nothing of resvision; `resvision.json` in it tells `from_keras`
    the class names and all else that layers do not hold.

    Returns:
        The largest difference of their log-probabilities, as a part of the largest of these where that is above 1.

    Raises:
        ClassifierError: they differ by more than `tolerance`, or weights are not finite; no file is left then.
        SpecError: the network has parts that Keras has no layers for.
        InputError: the name is not one of a .keras file, or the file cannot be written.
    """
    path = path_of(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: Keras wants a name that ends in {SUFFIX}")
    if not classifier.network.is_finite():
        raise ClassifierError(f"{path}: the classifier holds weights that are not finite numbers; not written")
    with replacing(path) as temporary:
        write_file(classifier, temporary)
        difference = _difference(load(temporary), classifier, _SCALED[0])
        if not difference <= tolerance:
            raise ClassifierError(
                f"{path}: Keras computes {difference:.1e} off, more than {tolerance:.1e}; not written"
            )
    return difference


def write_file(classifier: Classifier, path: Path) -> None:
    """Writes a .keras file that nobody has compared yet."""
    model = to_keras(classifier)
    model.save(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(ENTRY, json.dumps(dataclasses.asdict(model.resvision), allow_nan=False))


def from_keras(
    model: keras.Model | str | Path,
    *,
    spec: ResNetSpec | None = None,
    classes: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
) -> Classifier:
    """A Keras model that `to_keras` or `resnet` made, trained there or not, as a classifier.

    Layers around the network may have been added that only act in training, or that scale pictures: from Rescaling and
    Normalization the preprocessing is read, and their model takes values 0..255 unless `preprocess` says otherwise.
    What the classifier computes is compared with what the model does, in float32.

    Args:
        model: a keras.Model, or a .keras file, of which only layers of Keras itself are loaded.
        spec: the network; None takes that of `to_keras`, or the one that `resnet` built.
        classes: names in the order of the outputs, numbers as text; None takes those of `to_keras`, or numbers them.
        preprocess: fields of `Preprocess`, as the model was trained with. Without scaling layers `mean` and `std` must
            be there, of values in 0..1: pictures that were divided by 255 have mean 0 and std 1. With scaling layers
            they are what these do and what was done before them, to 0..1 or -1..1, together.

    Raises:
        ClassifierError: it is no such model, computes something else, or does not tell how its pictures were scaled.
        InputError: a field of `preprocess` does not exist, or the file cannot be read.
    """
    name, model = _opened(model)
    square = _square(model)
    model = _in_float32(model)
    known: Description | None = getattr(model, "resvision", None)
    stated = dict(preprocess or {})
    found = list(_walk(model))
    state = _state(found)
    spec = convert.sized(state, spec or (known.spec if known else _spec(model, found)))
    scaling = _scaling(found, spec.in_channels)
    if scaling and not known and "std" not in stated:
        _check_pixels(name, scaling)
    fields: dict[str, Any] = square | (dataclasses.asdict(known.preprocess) if known else scaling or {}) | stated
    if known:
        names, provenance = known.classes, known.provenance | ({} if classes is None else {"named": True})
        metrics = known.metrics if known.sha256 == _digest(state) else {}
    else:
        names, metrics = tuple(map(str, range(spec.num_classes))), {}
        provenance = {"imported": name, "named": classes is not None, "created": timestamp()}
    network = ResNet(spec)
    try:
        network.load_state_dict(convert.convert(state, spec))
    except ClassifierError as error:
        raise ClassifierError(f"{name}: {error}") from error
    if not network.is_finite():
        raise ClassifierError(f"{name}: holds weights that are not finite numbers")
    classifier = Classifier(
        network=network.eval(),
        preprocess=_preprocess(fields, name, square["size"]),
        classes=names if classes is None else class_names(classes),
        temperature=_temperature(found),
        provenance=provenance,
        metrics=metrics,
    )
    ways: tuple[Given, ...] = _SCALED if {"mean", "std"} & stated.keys() else _SCALED[:1]
    if scaling is None:
        ways = (lambda pixels: to_input(torch.from_numpy(pixels), classifier.preprocess).permute(0, 2, 3, 1).numpy(),)
    difference = min(_difference(model, classifier, way) for way in ways)
    if not difference <= TOLERANCE:
        raise ClassifierError(
            f"{name}: computes {difference:.1e} off what this network computes: a layer was changed, "
            "or the spec or the preprocessing is another"
        )
    return classifier


# ---- the file ----


def _opened(model: Any) -> tuple[str, Any]:
    """What messages call a model, and the model, read from its file if it is one."""
    if isinstance(model, keras.Model):
        return model.name, model
    path = Path(model)
    return path.name, load(path)


def load(path: str | Path) -> Any:
    """The model in a .keras file, with what `save` wrote beside it; only layers of Keras itself are loaded.

    Raises:
        ClassifierError: it is no such file, or holds other layers or code.
        StorageError: it cannot be read.
    """
    path = path_of(path)
    with storage(path):
        path.open("rb").close()
    if not zipfile.is_zipfile(path):
        raise ClassifierError(f"{path}: not a .keras file; save the model with model.save('NAME{SUFFIX}')")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # over a file that is no model, or one with code in it, Keras raises errors of any kind
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ClassifierError(f"{path}: Keras cannot load it ({reason}); only its own layers are loaded") from error
    with zipfile.ZipFile(path) as file:
        if ENTRY in file.namelist():
            model.resvision = _described(file, f"{path}: {ENTRY}")
    return model


def _described(file: zipfile.ZipFile, where: str) -> Description:
    if file.getinfo(ENTRY).file_size > MAX_ENTRY:
        raise ClassifierError(f"{where}: larger than {MAX_ENTRY >> 20} MB")
    try:
        value = json.loads(file.read(ENTRY))
    except ValueError as error:
        raise ClassifierError(f"{where}: not JSON ({error})") from error
    if isinstance(value, dict) and value.get("version") != VERSION:
        raise ClassifierError(f"{where}: is version {value.get('version')}; this program reads {VERSION}")
    return parse(Description, value, where)


# ---- precision ----


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Within the block Keras makes layers that compute in float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _in_float32(model: Any) -> Any:
    """A model that computes in float32: the model itself, or a copy of one of mixed precision."""
    if all(layer.compute_dtype == "float32" for layer in _walk(model)):
        return model

    def exact(layer: Any) -> Any:
        return type(layer).from_config(layer.get_config() | {"dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=exact, recursive=True)
    copy.set_weights(model.get_weights())
    for layer in _walk(copy):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # which takes what it adapted to from its weights
    if hasattr(model, "resvision"):
        copy.resvision = model.resvision
    return copy


# ---- weights ----


def _walk(model: Any) -> Iterator[Any]:
    """All layers, also of models inside, in the order that they run."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _walk(layer)
        else:
            yield layer


def _state(found: Sequence[Any] | Iterator[Any]) -> convert.State:
    """The weights by our names; PyTorch has the axes of kernels the other way round."""
    state = {}
    for layer in found:
        for part, value in zip(_WEIGHTS.get(type(layer).__name__, ()), layer.get_weights(), strict=False):
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, (0,))
            value = np.ascontiguousarray(value.transpose(axes), dtype=np.float32)
            state[f"{layer.name}.{part}"] = torch.from_numpy(value)
    return state


def _fill(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """The other way: every layer takes its weights from the state dict."""
    for layer in _walk(model):
        parts = _WEIGHTS.get(type(layer).__name__, ())[: len(layer.weights)]
        values = [state[f"{layer.name}.{part}"].numpy(force=True) for part in parts]
        if values:
            layer.set_weights([v.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(v.ndim, (0,))) for v in values])


def _digest(state: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].numpy().tobytes())
    return digest.hexdigest()


# ---- what the layers tell ----


def _spec(model: Any, found: Sequence[Any]) -> ResNetSpec:
    """The spec of a model that `resnet` built, whatever it was wrapped in."""
    named = {layer.name: layer for layer in found}
    convs = {name: layer for name, layer in named.items() if re.fullmatch(r"layer\d+\.\d+\.conv\d", name)}
    if not convs or "fc" not in named:
        raise ClassifierError(
            f"{model.name}: not a network of resvision.keras.resnet: there is no layer layer1.0.conv1 or no fc"
        )
    return spec_of(
        model.input_shape[1:],
        named["fc"].units,
        depth=2 + len(convs),  # the stem and the last layer
        cardinality=max(layer.groups for layer in convs.values()),
        strides=math.prod(layer.strides[0] for name, layer in convs.items() if name.startswith("layer1.0.")),
    )


def _square(model: Any) -> dict[str, int]:
    """Size and channels of the pictures that a model takes."""
    shape = getattr(model, "input_shape", None)  # Keras knows none of models that are subclasses, or not built yet
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ClassifierError(
            f"{model.name}: does not tell the size of its pictures: give a functional or Sequential model with "
            "keras.Input, or the network inside it"
        )
    _, height, width, channels = shape
    if height != width or height is None:
        raise ClassifierError(f"{model.name}: takes pictures of {height} x {width}; a classifier's are square")
    return {"size": height, "channels": channels}


def _scaling(found: Sequence[Any], channels: int) -> dict[str, Any] | None:
    """Mean and std of the scaling layers before the network, whose input are values 0..255; None where there are none.

    Together they compute scale * pixel + offset, which is (pixel / 255 - mean) / std.
    """
    scale, offset, scaled = np.ones(channels), np.zeros(channels), False
    for layer in found:
        if isinstance(layer, keras.layers.Normalization):
            std = np.sqrt(_each(layer.variance, channels, layer.name))
            factor, shift = 1 / std, -_each(layer.mean, channels, layer.name) / std
        elif isinstance(layer, keras.layers.Rescaling) and layer.name != TEMPERATURE:
            factor, shift = (_each(value, channels, layer.name) for value in (layer.scale, layer.offset))
        else:
            continue
        scale, offset, scaled = scale * factor, offset * factor + shift, True
    std = 1 / (255 * scale)
    return {"mean": (-offset * std).tolist(), "std": std.tolist()} if scaled else None


def _each(value: Any, channels: int, name: str) -> FloatArray:
    """A number for each channel."""
    numbers = np.asarray(keras.ops.convert_to_numpy(value), dtype=np.float64).reshape(-1)
    if len(numbers) not in (1, channels):
        raise ClassifierError(f"{name}: scales by {len(numbers)} numbers; a classifier has one a channel")
    return np.broadcast_to(numbers, channels)


def _check_pixels(name: str, scaling: dict[str, Any]) -> None:
    """Refuses scaling layers that cannot be for values 0..255, since they would make one step of them more than one."""
    if min(map(abs, scaling["std"])) >= (1 - 1e-6) / 255:
        return
    mean, std = ([float(f"{255 * value:.7g}") for value in scaling[field]] for field in ("mean", "std"))
    raise ClassifierError(
        f"{name}: its scaling layers are not for values 0..255, of which they make std={min(scaling['std']):.2g}; "
        f"if its pictures were divided by 255 first, give preprocess={{'mean': {mean}, 'std': {std}}}"
    )


def _temperature(found: Sequence[Any]) -> float:
    return next((1 / float(layer.scale) for layer in found if layer.name == TEMPERATURE), 1.0)


def _preprocess(fields: dict[str, Any], name: str, size: int) -> Preprocess:
    if missing := [field for field in ("mean", "std") if field not in fields]:
        raise ClassifierError(
            f"{name}: how its pictures were scaled is not in it: give {' and '.join(missing)} of values in 0..1 "
            "(pictures that were divided by 255 have mean 0 and std 1)"
        )
    preprocess = parse(Preprocess, fields, "preprocess")
    if preprocess.size != size:
        raise ClassifierError(f"size={preprocess.size}: {name} takes pictures of {size} x {size}")
    return preprocess


# ---- the proof ----


def _difference(model: Any, classifier: Classifier, given: Given) -> float:
    """The largest difference of log-probabilities on a few pictures, as a part of the largest where that is above 1.

    Args:
        model: of Keras.
        classifier: that should compute the same.
        given: what the model takes, of pixels 0..255.
    """
    squares = _golden(classifier.preprocess)
    theirs = _log(keras.ops.convert_to_numpy(model.predict_on_batch(given(squares).astype(np.float32))))
    logits = classifier.on_cpu().logits(squares) / classifier.temperature
    ours = _log(torch.from_numpy(logits).double().softmax(dim=1).numpy())
    if theirs.shape != ours.shape:
        raise ClassifierError(f"{model.name}: gives {theirs.shape[1:]} a picture instead of {ours.shape[1:]}")
    return float(np.abs(theirs - ours).max() / max(1.0, np.abs(ours).max()))


def _log(scores: npt.NDArray[Any]) -> FloatArray:
    """Logarithms, from where float32 still counts exactly."""
    return np.log(np.maximum(scores.astype(np.float64), 1e-30))


def _golden(preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Pictures (8, S, S, C) that differ in what they have of noise, stripes and brightness."""
    generator = np.random.default_rng(0)
    size, channels = preprocess.size, preprocess.channels
    noise = generator.integers(0, 256, (4, size, size, channels), dtype=np.uint8)
    stripes = generator.integers(0, 256, (4, size, 1, channels), dtype=np.uint8)
    return np.concatenate([noise, np.broadcast_to(stripes, noise.shape)])
