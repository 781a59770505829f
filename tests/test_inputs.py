"""What verbs make of the data that a person names: a set that grows, arrays, labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resvision
from resvision import deployed, inputs
from resvision.data import sources
from resvision.data.pictures import names
from resvision.data.sources import DEFAULT_COLUMNS
from resvision.errors import RecipeError
from resvision.progress import Reporter
from resvision.training.run import RunFolder


def grow(root: Path, seed: int, count: int = 40) -> Path:
    """Adds as many pictures to each of two classes."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = generator.integers(128 * label, 128 * label + 128, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{seed}-{index}.png")
    return root


def shallow(data: Path, out: Path, **more: object) -> resvision.Classifier:
    fields = {"recipe": "plain", "model": "resnet8_cifar", "size": 8, "max_steps": 2} | more
    return resvision.train(data, out=out, **fields).classifier  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str]]:
    """A folder that has grown three times larger since a run, the run, and the pictures that did not train it."""
    root = tmp_path_factory.mktemp("grown")
    data = grow(root / "data", seed=3)  # by which pictures that trained would be measured if nothing were recorded
    shallow(data, root / "run")
    unseen = set(RunFolder(root / "run").read_data()["validation"])
    assert len(unseen) == 16
    grow(data, seed=1, count=80)
    unseen |= {str(path.relative_to(data)) for path in data.rglob("1-*.png")}
    return data, root / "run", unseen


def test_a_set_that_has_grown_is_not_measured_by_what_trained(grown: tuple[Path, Path, set[str]]) -> None:
    data, run, unseen = grown
    classifier = resvision.Classifier.load(run)
    exported = deployed.open_file(resvision.export(run, format="onnx", out=run.parent / "net.onnx").file)
    for predictor in (classifier, exported):
        measured = inputs.measured_split(predictor, data, None, DEFAULT_COLUMNS, Reporter())
        assert 30 <= len(measured.split) <= 66
        assert set(names(measured.split)) <= unseen
        assert measured.train is not None
        assert not set(names(measured.train)) & set(names(measured.split))
    classifier.provenance.pop("divided_at")  # without the record some of what trained would be measured
    measured = inputs.measured_split(classifier, data, None, DEFAULT_COLUMNS, Reporter())
    assert set(names(measured.split)) - unseen


def test_what_goes_on_from_a_run_is_not_reported_by_what_trained_it(grown: tuple[Path, Path, set[str]]) -> None:
    data, run, unseen = grown
    second = shallow(data, run.parent / "second", pretrained=str(run))
    assert second.provenance["divided_at"] == resvision.Classifier.load(run).provenance["divided_at"]
    assert set(RunFolder(run.parent / "second").read_data()["validation"]) <= unseen


@pytest.mark.parametrize("recorded", [None, [], {"dark": 3}, {"dark": "x" * 16}, {"dark": "f" * 16, "light": "0" * 16}])
def test_a_record_of_anybodys_words_divides_as_usual(grown: tuple[Path, Path, set[str]], recorded: object) -> None:
    data, run, _ = grown
    classifier = resvision.Classifier.load(run)
    classifier.provenance["divided_at"] = recorded
    measured = inputs.measured_split(classifier, data, None, DEFAULT_COLUMNS, Reporter())
    assert np.bincount(measured.split.labels).tolist() == [24, 24]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"milestones": (0.5,)}, r"milestones=\(0\.5,\) means nothing without schedule=steps: give that too, or leave"),
        ({"gce_q": 0.5}, "gce_q=0.5 means nothing without loss=gce"),
        ({"rest_lr": 0.1, "optimizer": "sgd"}, "rest_lr=0.1 means nothing without optimizer=muon"),
        ({"exit_weight": 0.3}, "exit_weight=0.3 means nothing without exits"),
        ({"distill": 0.3}, "distill=0.3 means nothing without exits"),
        ({"max_drop": 0.3}, "max_drop=0.3 means nothing without exits"),
    ],
)
def test_what_would_change_nothing_is_refused(grown: tuple[Path, Path, set[str]], fields: Any, message: str) -> None:
    dataset = sources.load(grown[0])
    with pytest.raises(RecipeError, match=message):
        inputs.recipe_of(dataset, "plain", {"epochs": 1, "size": 8} | fields)
    wanted = {"schedule": "steps", "loss": "gce", "optimizer": "muon", "exits": "auto", "balance": "none"}
    both = {"epochs": 1, "size": 8, "model": "resnet14_cifar"} | wanted | fields | {"optimizer": "muon"}
    made = inputs.recipe_of(dataset, "plain", both).recipe
    [(name, value), *_] = fields.items()
    assert getattr(made, name) == value
