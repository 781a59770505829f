"""Classifier: a network with all that is needed to use it rightly, its preprocessing, class names and calibration."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

from resvision.adaptive import AdaptiveSession, torch_segments
from resvision.cost import cost, exit_macs
from resvision.data import images
from resvision.data.loader import CHUNK, at_once
from resvision.data.sources import pictures_below
from resvision.errors import ClassifierError, InputError, PictureError
from resvision.evaluation.metrics import log_softmax
from resvision.exits import ExitRule
from resvision.files import parse_version, path_of, printable, read_json, replacing, storage, to_json, write_text
from resvision.measure import now
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.runtime import Session, TorchSession, device
from resvision.spec import ResNetSpec

FORMAT = "resvision-classifier"
VERSION = 1
WEIGHTS_FILE = "model.safetensors"
HEADER_FILE = "model.json"

Picture = str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Header:
    """What model.json holds."""

    format: str
    version: int
    spec: ResNetSpec
    classes: tuple[str, ...]
    preprocess: Preprocess
    temperature: float
    sha256: str
    provenance: dict[str, Any]
    metrics: dict[str, Any]
    exits: ExitRule | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a classifier says of one picture.

    Args:
        path: the file, or the picture's place in the list.
        label: the most probable class; None if the picture could not be read.
        score: its probability, 0..1.
        top: the most probable classes and their probabilities, best first.
        exit: of an adaptive network, the exit at which the picture left, counted from 1.
        error: why the picture could not be read.
    """

    path: str
    label: str | None = None
    score: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    exit: int | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [{"label": label, "score": score} for label, score in self.top]
        left = {} if self.exit is None else {"exit": self.exit}
        return {"path": self.path, "label": self.label, "score": self.score, "top": top, **left}


@dataclass(kw_only=True)
class Predictor:
    """What turns pictures into predictions, whatever computes the logits.

    Args:
        session: uint8 pictures (N, H, W, C) to float32 logits (N, K).
        preprocess: from a picture to the square that the session takes.
        classes: the name of each logit.
        temperature: logits are divided by it before the softmax (Guo et al. 2017, section 4.2).
        whole: whether the session cuts and resizes by itself, so that it takes pictures of any size, one at a time.
        provenance: where the classifier comes from: data, recipe, versions.
        metrics: what was measured of it.
        adaptive: runs the network with early exits, where it has them; its answers go before those of `session`.
    """

    session: Session
    preprocess: Preprocess
    classes: tuple[str, ...]
    temperature: float = 1.0
    whole: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    adaptive: AdaptiveSession | None = None

    def predict(
        self, pictures: Picture | Iterable[Picture], *, top: int = 5, deadline_ms: float | None = None
    ) -> list[Prediction]:
        """Classifies one picture or many.

        Args:
            pictures: a path, a PIL image, a uint8 array (H, W) or (H, W, C), a uint8 tensor (C, H, W), or any iterable
                of these; a folder stands for all pictures below it, in sorted order; an array (N, H, W, C), a tensor
                (N, C, H, W), or an array (N, H, W) of grey pictures is a batch.
            top: how many classes to name.
            deadline_ms: milliseconds for the network's work on a picture, of a network with early exits: the best
                answer that there is within them. The work up to the first exit is always done.

        Returns:
            One prediction a picture, in order.

        Raises:
            PictureError: a picture cannot be read. `predictions` records the error and goes on.
            InputError: what is given are no pictures, or an option is out of range.
            DataError: a folder holds no pictures.
            ClassifierError: there is a deadline, but no early exits.
        """
        results = list(self.predictions(pictures, top=top, deadline_ms=deadline_ms))
        for result in results:
            if result.error is not None:
                raise PictureError(result.path, result.error)
        return results

    def predictions(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        top: int = 5,
        batch_size: int | None = None,
        deadline_ms: float | None = None,
    ) -> Iterator[Prediction]:
        """Like `predict`, batch by batch; a picture that cannot be read gives a prediction with its error.

        Args:
            pictures: as in `predict`.
            top: likewise.
            batch_size: pictures at once; None takes 64, and of large ones fewer.
            deadline_ms: as in `predict`.

        Raises:
            InputError: what is given are no pictures, or `top` or the deadline is out of range.
            ClassifierError: there is a deadline, but no early exits.
        """
        if batch_size is None:
            batch_size = min(CHUNK, at_once(self.preprocess))
        if not isinstance(top, int | np.integer) or top < 1:
            raise InputError(f"top={top!r} must be a whole number of at least 1")
        if deadline_ms is not None:
            if not isinstance(deadline_ms, int | float | np.number) or not deadline_ms > 0:
                raise InputError(f"deadline_ms={deadline_ms!r} must be a number above 0")
            if self.adaptive is None:
                raise ClassifierError("a deadline needs a network with early exits: train one with --exits auto")
            batch_size = 1  # a deadline is that of one picture
        if self.whole:
            batch_size = 1  # photographs in full size, which go through one by one
        named = _named(pictures, self.preprocess)
        while chunk := list(islice(named, batch_size)):
            pixels, places, results = [], [], []
            for place, (name, picture) in enumerate(chunk):
                try:
                    pixels.append(self._pixels(name, picture))
                    places.append(place)
                    results.append(Prediction(path=name))
                except PictureError as error:
                    results.append(Prediction(path=name, error=error.reason))
            if pixels:
                scores, exits = self._scores(pixels, deadline_ms)
                for place, row, left in zip(places, scores, exits, strict=True):
                    results[place] = self._prediction(results[place].path, row, top, left)
            yield from results

    def _scores(
        self, pixels: list[images.UInt8Array], deadline_ms: float | None
    ) -> tuple[npt.NDArray[np.float64], Sequence[int | None]]:
        """Probabilities (N, K) of pictures, and at which exit, counted from 1, each of them left."""
        if self.adaptive is not None:
            squares = torch.from_numpy(np.stack(pixels))
            if deadline_ms is not None:
                self.adaptive.time(squares[:1])
            deadline = math.inf if deadline_ms is None else now() + deadline_ms / 1000
            found = self.adaptive(squares, deadline)
            _check_finite(found.logits)
            return np.exp(log_softmax(found.logits)), (found.exits + 1).tolist()
        batches = [picture[None] for picture in pixels] if self.whole else [np.stack(pixels)]
        logits = np.concatenate([self.logits(batch) for batch in batches])
        _check_finite(logits)
        return np.exp(log_softmax(logits / self.temperature)), [None] * len(pixels)

    def logits(self, squares: npt.NDArray[np.uint8] | torch.Tensor) -> npt.NDArray[np.float32]:
        """uint8 squares (N, S, S, C), as `Preprocess` describes them, to float32 logits (N, K).

        Where the predictor is `whole`, it takes a picture (1, H, W, C) of any size.

        Raises:
            InputError: another type or shape.
        """
        if isinstance(squares, np.ndarray):
            squares = torch.as_tensor(np.require(squares, requirements="W"))  # which PyTorch asks for
        size, channels = self.preprocess.size, self.preprocess.channels
        wanted: tuple[int | str, ...] = (1, "H", "W", channels) if self.whole else ("N", size, size, channels)
        if (
            squares.dtype != torch.uint8
            or squares.ndim != 4
            or any(isinstance(w, int) and w != s for w, s in zip(wanted, squares.shape, strict=True))
        ):
            shape = ", ".join(map(str, wanted))
            raise InputError(f"squares of {squares.dtype}, {tuple(squares.shape)}: give uint8 of shape ({shape})")
        return self.session(squares)

    def _pixels(self, name: str, picture: Picture) -> images.UInt8Array:
        """What the session takes of a picture (H, W, C)."""
        upright = self._upright(name, picture)
        return images.whole(upright, self.preprocess) if self.whole else images.square(upright, self.preprocess)

    def _upright(self, name: str, picture: Picture) -> Image.Image:
        if isinstance(picture, (str, os.PathLike)):
            return images.decode(images.read_file(path_of(picture), name), name, self.preprocess)
        if not isinstance(picture, Image.Image):
            if not isinstance(picture, (np.ndarray, torch.Tensor)):
                raise PictureError(
                    name, f"is a {type(picture).__name__}: give a path, a PIL image, an array or a tensor"
                )
            picture = images.from_array(picture, name)
        return images.upright(picture, name, self.preprocess)

    def _prediction(self, name: str, scores: npt.NDArray[np.float64], top: int, left: int | None) -> Prediction:
        best = np.argsort(-scores, kind="stable")[:top]
        pairs = tuple((self.classes[i], float(scores[i])) for i in best)
        return Prediction(path=name, label=pairs[0][0], score=pairs[0][1], top=pairs, exit=left)


@dataclass(kw_only=True)
class Classifier(Predictor):
    """A network together with its preprocessing, class names and calibration.

    Args:
        network: its spec has as many classes as `classes` and as many channels as `preprocess`.
        preprocess: from a picture to the network's input.
        classes: the name of each logit.
        temperature: logits are divided by it before the softmax (Guo et al. 2017, section 4.2).
        provenance: where the classifier comes from: data, recipe, versions.
        metrics: what was measured of it.
        exits: when a picture leaves a network with early exits; None computes every picture in full.

    Raises:
        ClassifierError: the parts do not fit together.
    """

    network: ResNet
    exits: ExitRule | None = None
    session: Session = field(init=False, repr=False)
    whole: bool = field(init=False, default=False)
    adaptive: AdaptiveSession | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        check_parts(self.network.spec, self.preprocess, self.classes, self.temperature, self.exits)
        self.session = TorchSession(self.network, self.preprocess)
        if self.exits is not None:
            macs = exit_macs(self.network.spec, self.preprocess.size, self.exits.used)
            segments = torch_segments(self.network, self.preprocess)
            self.adaptive = AdaptiveSession(segments, self.exits, macs, self.session)

    def on_cpu(self) -> Classifier:
        """A copy on the processor, to compare exports with: a GPU's convolutions round float32 to TF32."""
        return dataclasses.replace(self, network=copy.deepcopy(self.network).cpu().eval())

    def weights(self) -> bytes:
        """What model.safetensors holds."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.network.state_dict().items()}
        return save_weights(state, metadata={"format": "pt"})

    def save(self, folder: str | Path) -> None:
        """Writes model.safetensors and model.json into `folder`.

        Raises:
            StorageError: the folder cannot be written.
        """
        folder = path_of(folder)
        weights = self.weights()
        header = Header(
            format=FORMAT,
            version=VERSION,
            spec=self.network.spec,
            classes=self.classes,
            preprocess=self.preprocess,
            temperature=self.temperature,
            sha256=hashlib.sha256(weights).hexdigest(),
            provenance=self.provenance,
            metrics=self.metrics,
            exits=self.exits,
        )
        text = to_json(dataclasses.asdict(header))  # before anything that is there is replaced
        with replacing(folder / WEIGHTS_FILE) as temporary:
            temporary.write_bytes(weights)
        write_text(folder / HEADER_FILE, text)

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        """Reads a classifier, or the run folder that holds one, onto the device at hand.

        Raises:
            ClassifierError: the folder holds none, or its weights are not those that its header describes.
        """
        folder = path_of(folder)
        path = folder / HEADER_FILE
        if not path.is_file():
            begun = (folder / "checkpoints").is_dir()
            advice = f"the run has not ended: resvision train --resume {shlex.quote(str(folder))}"
            raise ClassifierError(
                f"{folder}: there is no classifier here ({HEADER_FILE} is missing); "
                + (advice if begun else "give a run folder")
            )
        header = parse_version(Header, read_json(path), str(path), FORMAT, VERSION)
        check_parts(header.spec, header.preprocess, header.classes, header.temperature, header.exits)
        with storage(folder / WEIGHTS_FILE):
            weights = (folder / WEIGHTS_FILE).read_bytes()
        if hashlib.sha256(weights).hexdigest() != header.sha256:
            raise ClassifierError(f"{folder / WEIGHTS_FILE}: not the weights that {HEADER_FILE} was written with")
        if (params := cost(header.spec, header.preprocess.size).params) > len(weights):  # before these take memory
            raise ClassifierError(
                f"{folder / WEIGHTS_FILE}: not the weights of this network: {len(weights):,} bytes are too few for its "
                f"{params:,} parameters"
            )
        network = ResNet(header.spec)
        _fill(network, weights, folder / WEIGHTS_FILE)
        if not network.is_finite():
            raise ClassifierError(f"{folder / WEIGHTS_FILE}: holds weights that are not finite numbers")
        return cls(
            network=network.to(device()).eval(),
            preprocess=header.preprocess,
            classes=header.classes,
            temperature=header.temperature,
            provenance=header.provenance,
            metrics=header.metrics,
            exits=header.exits,
        )


def _check_finite(logits: npt.NDArray[np.floating]) -> None:
    """Refuses answers that would look like ones, though nothing was computed."""
    if not np.isfinite(logits).all():
        raise ClassifierError("the network's answers are not finite numbers: its weights are of no use")


def class_names(classes: Iterable[object]) -> tuple[str, ...]:
    """The names of classes as text, whatever they are given as: np.unique of labels gives numbers of NumPy.

    Raises:
        ClassifierError: they are one text, which would be taken for as many names as it has letters.
    """
    if isinstance(classes, (str, Path)):
        raise ClassifierError(f"classes={str(classes)!r}: give a list of names, in the order of the logits")
    return tuple(map(str, classes))


def check_parts(
    spec: ResNetSpec,
    preprocess: Preprocess,
    classes: tuple[str, ...],
    temperature: float,
    exits: ExitRule | None = None,
) -> None:
    """Raises ClassifierError where the parts of a classifier do not fit together."""
    if strange := [name for name in classes if not isinstance(name, str)]:
        raise ClassifierError(f"class name {strange[0]!r} is a {type(strange[0]).__name__}: names are text")
    if len(classes) != spec.num_classes or len(set(classes)) != len(classes):
        raise ClassifierError(f"{len(set(classes))} different class names for a network of {spec.num_classes} classes")
    if preprocess.channels != spec.in_channels:
        raise ClassifierError(
            f"the preprocessing gives {preprocess.channels} channels, the network takes {spec.in_channels}"
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise ClassifierError(f"temperature={temperature} must be a number above 0")
    if exits is not None and len(exits.thresholds) != len(spec.exits):
        raise ClassifierError(f"thresholds for {len(exits.thresholds)} exits, and the network has {len(spec.exits)}")


def _fill(network: ResNet, weights: bytes, path: Path) -> None:
    """Loads weights whose names, shapes and types must all be the network's own."""
    try:
        state = load_weights(weights)
    except SafetensorError as error:
        raise ClassifierError(f"{path}: not a safetensors file ({error})") from error
    expected = network.state_dict()
    if set(state) != set(expected):
        different = sorted(set(state) ^ set(expected))
        raise ClassifierError(
            f"{path}: not the weights of this network: {different[0]} and {len(different) - 1} more differ"
        )
    for key, value in state.items():
        if value.shape != expected[key].shape or value.dtype != expected[key].dtype:
            raise ClassifierError(
                f"{path}: {key} is {value.dtype} {tuple(value.shape)}, "
                f"the network has {expected[key].dtype} {tuple(expected[key].shape)}"
            )
    network.load_state_dict(state)


def _named(pictures: Picture | Iterable[Picture], preprocess: Preprocess) -> Iterator[tuple[str, Picture]]:
    """Pictures with the name that messages give them: the path, or the place in the list.

    Raises:
        InputError: what is given are no pictures, or an array of which it is not plain what it holds.
    """
    many: Iterable[Picture] = [pictures] if is_one(pictures) else pictures  # type: ignore[list-item,assignment]
    if not isinstance(many, Iterable) or isinstance(many, bytes | bytearray | io.IOBase | Mapping):
        raise InputError(f"{type(many).__name__} is no picture: give paths, PIL images, arrays or tensors")
    if isinstance(many, np.ndarray) and many.ndim == 3 and many.shape[0] in (3, 4) and preprocess.channels != 1:
        raise InputError(
            f"an array of shape {many.shape} may be a picture with its channels first, or {many.shape[0]} grey ones: "
            "give (H, W, C), or (N, H, W, 1)"
        )
    for place, picture in enumerate(below(many)):
        yield printable(str(picture)) if isinstance(picture, (str, os.PathLike)) else f"picture {place}", picture


def below(pictures: Iterable[Picture]) -> Iterator[Picture]:
    """Pictures, with those below it in the place of a folder.

    Raises:
        DataError: a folder holds no pictures.
    """
    for picture in pictures:
        if isinstance(picture, (str, os.PathLike)) and (folder := path_of(picture)).is_dir():
            yield from pictures_below(folder)
        else:
            yield picture


def is_one(pictures: Picture | Iterable[Picture]) -> bool:
    """Whether this is a picture, rather than several."""
    if isinstance(pictures, np.ndarray):
        is_grey_batch = pictures.ndim == 3 and pictures.shape[2] not in (1, 3, 4)
        return pictures.ndim <= 3 and not is_grey_batch
    return isinstance(pictures, (str, os.PathLike, Image.Image)) or (
        isinstance(pictures, torch.Tensor) and pictures.ndim <= 3
    )
