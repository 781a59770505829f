"""Networks with early exits as one file a segment, in real runtimes."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from resvision import api, deployed, exporting, zoo
from resvision.adaptive import all_exits
from resvision.classifier import Classifier
from resvision.data.sources import load, prepare
from resvision.errors import ClassifierError, InputError
from resvision.exits import ExitRule
from resvision.exporting import export
from resvision.exporting.verify import golden
from resvision.models import ResNet
from resvision.preprocess import Preprocess
from resvision.target import Target

SIZE = 24
FORMATS = [Target(format="onnx"), Target(format="openvino")]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """A network whose pictures leave at every exit."""
    torch.manual_seed(6)
    spec = dataclasses.replace(zoo.get("resnet14_cifar"), num_classes=3, exits=(1, 3))
    network = ResNet(spec).eval()
    for key, value in network.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape)
            value.add_(0.1 * (noise.abs() if "var" in key else noise))
    made = Classifier(network=network, preprocess=Preprocess(size=SIZE), classes=("a", "b", "c"), exits=rule(0.5, 0.5))
    assert made.adaptive is not None
    first, second, _ = all_exits(made.adaptive.segments, squares())
    bars = [float(np.median(softmax(rows).max(axis=1))) for rows in (first, second / 1.5)]
    made = dataclasses.replace(made, exits=rule(*bars))
    assert made.adaptive is not None
    assert set(made.adaptive(squares()).exits) == {0, 1, 2}
    return made


def rule(*thresholds: float, together: bool = False) -> ExitRule:
    return ExitRule(temperatures=(1.0, 1.5, 2.0), thresholds=thresholds, seconds=(1e-3,) * 3, together=together)


def softmax(logits: np.ndarray) -> np.ndarray:
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def squares(count: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator).to(torch.uint8)


@pytest.fixture(scope="module")
def onnx_export(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> exporting.Export:
    return exporting.write(classifier, FORMATS[0], tmp_path_factory.mktemp("segments") / "small.onnx")


def test_pictures_of_all_kinds_calibrate_later_segments(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features may be too many to hold, and pictures come class by class."""
    taken: list[list[np.ndarray]] = []
    written = dataclasses.replace(export.KINDS["onnx"], write=lambda *given: taken.append(list(given[3])))
    monkeypatch.setitem(export.KINDS, "onnx", written)
    monkeypatch.setattr(export, "CALIBRATION_BYTES", 1)
    monkeypatch.setattr(export, "LEAST_CALIBRATING", 4)
    some = prepare(load("digits")).splits["train"].take(np.arange(20))
    exporting.convert(classifier, Target(format="onnx", precision="int8"), tmp_path / "m.onnx", calibration=some)
    assert [len(states) for states in taken] == [20, 4, 4]
    assert classifier.adaptive is not None
    state = torch.from_numpy(taken[0][-1])
    for segment, states in zip(classifier.adaptive.segments, taken[1:], strict=False):
        state = segment(state)[0]
        np.testing.assert_allclose(states[-1], state, atol=1e-5)


@pytest.mark.parametrize("target", FORMATS, ids=str)
def test_every_segment_answers_as_the_original(
    classifier: Classifier, onnx_export: exporting.Export, target: Target, tmp_path: Path
) -> None:
    is_there = target == FORMATS[0]
    made = onnx_export if is_there else exporting.write(classifier, target, tmp_path / f"small{target.suffix}")
    path = made.file
    assert made.verification.largest_difference < 1e-3
    assert made.verification.same_top1 == 1
    assert {f"small{target.suffix}", f"small-2{target.suffix}", f"small-3{target.suffix}"} <= {
        f.name for f in made.files
    }
    opened = deployed.open_file(path)
    assert opened.adaptive is not None
    assert classifier.adaptive is not None
    wanted, found = classifier.adaptive(squares()), opened.adaptive(squares())
    assert found.exits.tolist() == wanted.exits.tolist()
    np.testing.assert_allclose(found.logits, wanted.logits, atol=1e-3)
    np.testing.assert_allclose(opened.session(squares()), classifier.session(squares()), atol=1e-3)
    pictures = golden(classifier.preprocess, 12)
    for one, other in zip(classifier.predict(pictures), opened.predict(pictures), strict=True):
        assert (one.label, one.exit) == (other.label, other.exit)
        assert other.score == pytest.approx(one.score, abs=1e-3)


@pytest.mark.parametrize("bars", [(0.4, 0.4), (2.0, 0.5), (0.99, 0.99)])
def test_a_bare_runtime_lets_exits_answer_together(
    classifier: Classifier, tmp_path: Path, bars: tuple[float, float]
) -> None:
    """What docs/export.md tells of `exits.together` is all that is needed."""
    import json

    import onnxruntime

    made = dataclasses.replace(classifier, exits=rule(*bars, together=True))
    path = exporting.write(made, FORMATS[0], tmp_path / "small.onnx").file
    document = json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["resvision"])
    told, files = document["exits"], document["files"]
    assert told["together"] is True
    wanted = [(found.exit, found.label, found.score) for found in made.predict(squares(8).numpy())]
    for number, (exit_, label, score) in enumerate(wanted):
        state, heard = squares(8)[number : number + 1].numpy(), []
        for place, name in enumerate(files):
            session = onnxruntime.InferenceSession(path.parent / name)
            names = [output.name for output in session.get_outputs()]
            outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: state}), strict=True))
            answer = softmax(np.mean([*heard, outputs["logits"]], axis=0) / told["temperatures"][place])[0]
            if place == len(files) - 1 or answer.max() >= told["thresholds"][place]:
                break
            if told["thresholds"][place] <= 1:
                heard.append(outputs["logits"])
            state = outputs["next_features"]
        assert (place + 1, document["classes"][answer.argmax()]) == (exit_, label)
        assert answer.max() == pytest.approx(score, abs=1e-3)


def test_a_bare_runtime_leaves_early(classifier: Classifier, onnx_export: exporting.Export) -> None:
    """What docs/adaptive.md tells of the files is all that is needed: thresholds in the document, and three models."""
    import json

    import onnxruntime

    path = onnx_export.file
    state, answer = squares(1).numpy(), None
    document = json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["resvision"])
    for place, name in enumerate(document["files"]):
        session = onnxruntime.InferenceSession(path.parent / name)
        given = {session.get_inputs()[0].name: state}
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, given), strict=True))
        answer = outputs["probabilities"][0]
        if place == len(document["files"]) - 1 or answer.max() >= document["exits"]["thresholds"][place]:
            break
        state = outputs["next_features"]
    [found] = classifier.predict(squares(1).numpy())
    assert place + 1 == found.exit
    assert document["classes"][answer.argmax()] == found.label
    assert answer.max() == pytest.approx(found.score, abs=1e-3)


def test_segments_belong_together(onnx_export: exporting.Export, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    shutil.copytree(onnx_export.file.parent, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ClassifierError, match=r"is segment 2 of a network: give small\.onnx"):
        deployed.open_file(tmp_path / "small-2.onnx")
    shutil.copy(tmp_path / "small-3.onnx", tmp_path / "small-2.onnx")
    with pytest.raises(ClassifierError, match=r"small-2\.onnx: is no segment of the network in"):
        deployed.open_file(path)
    (tmp_path / "small-2.onnx").unlink()
    with pytest.raises(InputError, match=r"small-2\.onnx"):
        deployed.open_file(path)


def test_numbers_that_python_takes_for_another_kind_are_the_same(classifier: Classifier, tmp_path: Path) -> None:
    """A crop of 1 is written as 1 and read as 1.0."""
    whole = dataclasses.replace(classifier, preprocess=dataclasses.replace(classifier.preprocess, crop=1))
    made = exporting.write(whole, Target(format="onnx"), tmp_path / "small.onnx")
    assert deployed.open_file(made.file).adaptive is not None


def test_an_export_from_before_there_were_thresholds_is_refused(classifier: Classifier, tmp_path: Path) -> None:
    dataclasses.replace(classifier, exits=None).save(tmp_path)
    api.export(tmp_path, "onnx")
    assert next(iter(api.predict(tmp_path, [squares(1)[0].numpy()], runtime="onnx"))).exit is None
    classifier.save(tmp_path)
    with pytest.raises(ClassifierError, match="is of the network without its early exits; again: resvision export"):
        list(api.predict(tmp_path, [squares(1)[0].numpy()], runtime="onnx"))


@pytest.mark.parametrize(
    "target", [Target(format="torch"), Target(format="onnx", contract="B")], ids=["torch", "contract B"]
)
def test_what_has_no_segments(classifier: Classifier, target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file a segment"):
        exporting.write(classifier, target, tmp_path / f"small{target.suffix}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_keeps_its_segments_and_its_thresholds(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    api.export(tmp_path, "onnx")
    [entry] = deployed.read_index(tmp_path).exports
    assert len(entry.sha256) == 3
    picture = squares(1)[0].numpy()
    by_file = next(iter(api.predict(tmp_path, [picture], runtime="onnx")))
    assert by_file.exit == classifier.predict(picture)[0].exit
    dataclasses.replace(classifier, exits=rule(2.0, 2.0)).save(tmp_path)  # chosen anew: nobody leaves early
    assert next(iter(api.predict(tmp_path, [picture], runtime="onnx"))).exit == 3
    (tmp_path / "runtimes" / "model-A-fp32-2.onnx").write_bytes(b"other")
    with pytest.raises(ClassifierError, match=r"not the file that index\.json was written with"):
        list(api.predict(tmp_path, [picture], runtime="onnx"))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_eight_bits(classifier: Classifier, kind: str, tmp_path: Path) -> None:
    """Written from the features that the segments before give; what it costs is not this test's matter."""
    from resvision.data.sources import array_split

    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    split = array_split((pictures, np.arange(40) % 3), classifier.classes, "arrays")
    target = Target(format=kind, precision="int8")  # type: ignore[arg-type]
    path = tmp_path / f"small{target.suffix}"
    exporting.convert(classifier, target, path, calibration=split)
    opened = deployed.open_file(path)
    assert opened.adaptive is not None
    for one, other in zip(
        all_exits(classifier.adaptive.segments, squares()), all_exits(opened.adaptive.segments, squares()), strict=True
    ):
        assert np.abs(one - other).max() > 1e-3  # it is in 8 bits
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_gates_export_as_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = ResNet(dataclasses.replace(zoo.get("resnet14_cifar"), num_classes=3, gates=True)).eval()
    with torch.no_grad():
        for gate in network.gates():
            gate.fc2.bias.zero_()
            gate.fc2.weight.mul_(20)
    made = Classifier(network=network, preprocess=Preprocess(size=SIZE), classes=("a", "b", "c"))
    for target in FORMATS:
        path = tmp_path / f"gated{target.suffix}"
        assert exporting.write(made, target, path).verification.largest_difference < 1e-3
        np.testing.assert_allclose(deployed.open_file(path).session(squares()), made.session(squares()), atol=1e-3)
