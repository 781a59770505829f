"""Pretrained weights: read from a run, a file or the Hugging Face hub, and put into a network with a new last layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resvision import zoo
from resvision.classifier import Classifier
from resvision.errors import ClassifierError, DownloadError, InputError, MissingExtraError, RecipeError, SpecError
from resvision.files import parse, path_of, read_json
from resvision.models import ResNet, convert
from resvision.preprocess import Interpolation, Preprocess
from resvision.spec import ResNetSpec

HUB = "hf:"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to begin with, and what is known of them.

    Args:
        place: where they are found again: an absolute path, or hf:OWNER/NAME@COMMIT.
        model: the network's name in the zoo.
        spec: of the network, with the channels and classes that it was trained for.
        state: the weights by our names; those of the last layer need not be there.
        preprocess: what the network was trained with; None where only the weights are known.
        classes: the name of each logit; None where they are not known.
        gate_rate: that its gates were trained for; None without gates.
        provenance: of a classifier.
    """

    place: str
    model: str
    spec: ResNetSpec
    state: convert.State
    preprocess: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    gate_rate: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def decided(self) -> dict[str, Any]:
        """The fields of a recipe that these weights leave no choice in."""
        return {"pretrained": self.place, "model": self.model, "spec": zoo.differences(self.model, self.spec)}

    def usual(self) -> dict[str, Any]:
        """The fields of a recipe for pictures like those that the network was trained on."""
        usual: dict[str, Any] = {"channels": self.spec.in_channels}
        if self.preprocess is not None:
            usual |= {"size": self.preprocess.size, "crop": self.preprocess.crop}
        return usual


def hub_can_be_reached() -> bool:
    """Whether weights of the hub might be had: its package is installed, and nobody asked to stay offline."""
    return find_spec("huggingface_hub") is not None and os.environ.get("HF_HUB_OFFLINE", "0") in ("", "0")


def read(place: str, *, model: str | None = None, spec: Sequence[str] = (), channels: int | None = None) -> Pretrained:
    """The weights in a place, checked against the network that they are wanted for.

    Args:
        place: hf:OWNER/NAME[@REVISION], the folder of a run or an import, or a file of weights.
        model: the network's name; None takes that of the weights, which only a file does not tell.
        spec: FIELD=VALUE in which the network differs from that name; none takes those of the weights.
        channels: of the pictures; None takes those of the weights.

    Raises:
        RecipeError: the weights are of another network, or do not tell of which.
        ClassifierError: they do not fit the network; the first weights that are missing, unexpected or of another shape
            are named. Only the last layer may be another.
        DownloadError: the hub cannot be reached, or does not have them.
        MissingExtraError: huggingface_hub is not installed.
        InputError: there is nothing in that place, or not what it should be.
    """
    if place.startswith(HUB):
        found = _from_hub(place, model, spec)
    else:
        path = path_of(place).resolve()
        if not path.exists():
            raise InputError(f"pretrained={place}: there is no such folder or file (the hub's begin with {HUB})")
        found = _from_folder(path, model, spec) if path.is_dir() else _from_file(path, model, spec)
    _agree(found.place, "channels", channels, found.spec.in_channels)
    return found


def fill(network: ResNet, weights: Pretrained, classes: tuple[str, ...], *, frozen: bool = False) -> str:
    """Puts weights into a network of their spec. Its last layer stays as it is, unless the classes are the very same.

    Exits stay as they are unless they are the same, too.

    Args:
        network: to fill.
        weights: of a network that may differ in its classes and exits.
        classes: of the pictures.
        frozen: whether only the exits will learn.

    Raises:
        RecipeError: `frozen`, and the last layer would be a new one.

    Returns:
        A line that says what was done.
    """
    new, old = network.spec, weights.spec
    added = {name: getattr(new, name) for name in ("exits", "exit_width", "exit_depth", "gates")}
    assert replace(old, num_classes=new.num_classes, **added) == new
    same = weights.classes == classes
    if frozen and not same:
        raise RecipeError(f"freeze_trunk: the classes must be those of {weights.place}, in the same order")
    state = weights.state if same else convert.without_head(weights.state)
    if not same or new.exit_plan() != old.exit_plan():
        state = {name: value for name, value in state.items() if not name.startswith("exits.")}
    network.load_state_dict(network.state_dict() | state)
    last = "with its last layer, since the classes are the same" if same else "with a new last layer"
    return f"pretrained: {weights.model} from {weights.place}, {last}"


def _agree(place: str, option: str, given: object, theirs: object) -> None:
    """Refuses weights of another network than was asked for."""
    if given is not None and given != theirs:
        raise RecipeError(
            f"the weights in {place} go with {option}={theirs!r}, not {given!r}: leave out --{option}, or take others"
        )


# ---- where weights come from ----


def _from_folder(path: Path, model: str | None, spec: Sequence[str]) -> Pretrained:
    """A classifier: the folder of a run or an import."""
    classifier = Classifier.load(path)
    name = _recorded_name(classifier.provenance) or model
    if name is None:
        raise RecipeError(f"pretrained={path}: does not say which network it is: give --model")
    _agree(str(path), "model", model, name)
    wanted = _without_adaptive(zoo.differences(name, zoo.variant(name, spec))) if spec else None
    _agree(str(path), "spec", wanted, _without_adaptive(zoo.differences(name, classifier.network.spec)))
    return Pretrained(
        place=str(path),
        model=name,
        spec=classifier.network.spec,
        state=classifier.network.state_dict(),
        preprocess=classifier.preprocess,
        classes=classifier.classes if classifier.provenance.get("named", True) else None,  # numbers are no names
        gate_rate=_recorded_rate(classifier),
        provenance=classifier.provenance,
    )


def _without_adaptive(pairs: Sequence[str]) -> str:
    """The spec without exits and gates, which options of their own ask for."""
    return " ".join(pair for pair in pairs if not pair.startswith(("exit", "gates=")))


def _recorded_rate(classifier: Classifier) -> float | None:
    """The part of the gates that a run has asked to be open."""
    recipe = classifier.provenance.get("recipe")
    rate = recipe.get("gate_rate") if classifier.network.spec.gates and isinstance(recipe, dict) else None
    return rate if isinstance(rate, float) else None


def _recorded_name(provenance: dict[str, Any]) -> str | None:
    """The network's name, which an import records by itself and a run in its recipe."""
    for record in (provenance, provenance.get("recipe")):
        if isinstance(record, dict) and isinstance(name := record.get("model"), str):
            return name
    return None


def _from_file(path: Path, model: str | None, spec: Sequence[str]) -> Pretrained:
    """A checkpoint, which holds weights and nothing else."""
    if model is None:
        raise RecipeError(f"pretrained={path}: a file of weights does not say which network it is: give --model")
    return _fitted(str(path), path, model, spec)


def _from_hub(place: str, model: str | None, spec: Sequence[str]) -> Pretrained:
    """A network of timm: config.json and model.safetensors, and nothing that would have to be unpickled."""
    name, _, revision = place.removeprefix(HUB).partition("@")
    file = _download(place, name, "config.json", revision or None)
    # The cache has a folder for every commit. The weights are taken from the same, and so they are in a repetition.
    commit = file.parent.name
    place = f"{HUB}{name}@{commit}"
    config = read_json(file)
    architecture = _architecture(place, config)
    _agree(place, "model", model, architecture)
    found = _fitted(place, _download(place, name, "model.safetensors", commit), architecture, spec)
    return replace(found, preprocess=_preprocess(place, config, found.spec.in_channels))


def _fitted(place: str, file: Path, model: str, pairs: Sequence[str]) -> Pretrained:
    """The weights in a file, as those of a network without its last layer."""
    state = convert.read(file)
    spec = convert.sized(state, zoo.variant(model, pairs))
    try:
        found = convert.convert(state, spec, head=False, name=model)
    except ClassifierError as error:
        raise ClassifierError(f"{place}: {error}") from error
    return Pretrained(place=place, model=model, spec=spec, state=found)


# ---- the hub ----

# Arguments of timm's networks that change nothing of what trained weights compute in front of the last layer.
_HARMLESS = {
    *("num_classes", "in_chans", "global_pool", "zero_init_last"),
    *("drop_rate", "drop_path_rate", "drop_block_rate"),
}


@dataclass(frozen=True, kw_only=True)
class _Pictures:
    """What timm's config.json says of the pictures, with timm's values for what it leaves out."""

    input_size: tuple[int, int, int] = (3, 224, 224)
    crop_pct: float = 0.875
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"


def _architecture(place: str, config: Any) -> str:
    """The name of the network that timm's config.json describes.

    Raises:
        SpecError: it is none of the zoo's.
        InputError: it is no such file.
    """
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str):
        raise InputError(f"{place}: config.json names no architecture; take a network of timm's")
    try:
        zoo.get(name)
    except SpecError as error:
        raise SpecError(f"{place}: {error}") from error
    if changed := sorted(set(config.get("model_args") or {}) - _HARMLESS):
        raise SpecError(f"{place}: is {name} with another {', '.join(changed)}, which is not known here")
    return name


def _preprocess(place: str, config: dict[str, Any], channels: int) -> Preprocess:
    """How timm's config.json says that pictures become inputs."""
    where = f"{place}/config.json"
    values = config.get("pretrained_cfg", config)  # older files have everything on one level
    if not isinstance(values, dict):
        raise InputError(f"{where}: pretrained_cfg is no object")
    known = {one.name for one in fields(_Pictures)}
    pictures = parse(_Pictures, {key: value for key, value in values.items() if key in known}, where)
    given = {
        "size": pictures.input_size[1],
        "crop": pictures.crop_pct,
        "channels": channels,
        "mean": pictures.mean,
        "std": pictures.std,
        "interpolation": pictures.interpolation,
    }
    return parse(Preprocess, given, where)


def _download(place: str, name: str, file: str, revision: str | None) -> Path:
    """A file of a repository on the hub, from the cache where it is there.

    Raises:
        InputError: the name is none.
        DownloadError: the file cannot be had.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HFValidationError
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hub", place) from error
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except HFValidationError as error:
        raise InputError(f"{place}: give {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION") from error
    except Exception as error:  # over the network the library raises those of several others
        raise DownloadError(f"{place}: {file} {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why a file of the hub cannot be had, and what to do."""
    from huggingface_hub import constants, errors

    cause = str(error.__cause__ or error).splitlines()[0]
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return "is not in the cache, and HF_HUB_OFFLINE is set: unset it, or fetch it once where there is a network"
        return f"is not in the cache, and {constants.ENDPOINT} does not give it ({cause}): try again"
    if isinstance(error, errors.GatedRepoError):
        return "lies in a repository with restricted access: ask for it there, and log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "lies in a repository that does not exist or is private: check the name, or log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return "is not there in this revision: leave it out, or give another"
    if isinstance(error, errors.EntryNotFoundError):
        return "is not in this repository, and pickled weights are not read: take another"
    return f"cannot be fetched ({cause}): try again"
