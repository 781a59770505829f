"""Exports in every format and contract, compared with the original in their real runtimes, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import openvino
import pytest
import torch
from PIL import Image
from samples import colourful, odd_pictures

from resvision import Classifier, Preprocess, ResNetSpec, api, deployed, exporting
from resvision.data.pictures import File, FilePictures, Split
from resvision.errors import ExportError, InputError
from resvision.exporting import export, verify
from resvision.exporting.pt2 import ProgramSession
from resvision.models import ResNet
from resvision.preprocess import Interpolation
from resvision.target import PRECISIONS, Contract, Format, Target

LOGITS = ("onnx", "openvino", "torch")  # the formats that give them; Keras gives probabilities, and has its own tests
EVERY = [(f, c, p) for f in LOGITS for c in get_args(Contract) for p in PRECISIONS[f]]
RESIZED = [*((f, "bilinear") for f in LOGITS), *(("onnx", i) for i in ("nearest", "bicubic", "lanczos"))]


@pytest.mark.parametrize(("kind", "contract", "precision"), EVERY)
def test_digits(
    digits_run: Path,
    exported: Callable[[Format, Contract], exporting.Export],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Format,
    contract: Contract,
    precision: Any,
) -> None:
    monkeypatch.setattr("resvision.exporting.export.CALIBRATION_PICTURES", 100)
    if precision == "fp32":
        made = exported(kind, contract)
    else:
        made = api.export(digits_run, kind, contract=contract, precision=precision, data="digits", out=tmp_path)
    found = made.verification
    assert found.pictures == 359
    assert found.accuracy is not None
    assert found.original_accuracy is not None
    assert found.accuracy >= found.original_accuracy - 0.01
    if precision == "fp32":
        assert found.same_top1 == 1
        assert found.largest_difference < 1e-3  # digits are as large as the network's input: B resizes nothing
    assert sorted(made.file.parent.iterdir()) == sorted(made.files)
    if kind != "torch":
        result = api.evaluate(made.file, "digits")
        assert result["accuracy"] == pytest.approx(found.accuracy)


@pytest.mark.parametrize(("kind", "interpolation"), RESIZED)
def test_pictures_of_odd_sizes(tmp_path: Path, kind: Format, interpolation: Interpolation) -> None:
    classifier, pictures = colourful(interpolation), odd_pictures()
    target = Target(format=kind, contract="B")
    made = exporting.write(classifier, target, tmp_path / target.name)
    if kind == "torch":
        session = ProgramSession(made.file)
        logits = np.concatenate([session(torch.from_numpy(picture[None])) for picture in pictures])
        labels = [classifier.classes[i] for i in logits.argmax(axis=1)]
    else:
        labels = [prediction.label for prediction in deployed.load(made.file).predict(pictures)]
    assert labels == [prediction.label for prediction in classifier.predict(pictures)]


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_any_number_of_squares(tmp_path: Path, kind: Format) -> None:
    classifier = colourful()
    target = Target(format=kind)
    predictor = deployed.load(exporting.write(classifier, target, tmp_path / target.name).file)
    for count in (1, 2, 7):
        squares = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        assert np.abs(predictor.logits(squares) - classifier.logits(squares)).max() < 1e-3
    for exported, original in zip(predictor.predict(odd_pictures()), classifier.predict(odd_pictures()), strict=True):
        assert exported.label == original.label
        assert exported.score == pytest.approx(original.score, abs=1e-4)


def test_what_the_files_say_of_themselves(tmp_path: Path) -> None:
    classifier = colourful()
    classifier.metrics["accuracy"] = 0.5
    for kind in LOGITS:
        target = Target(format=kind)
        exporting.write(classifier, target, tmp_path / f"m{target.suffix}")
    model = onnx.load(tmp_path / "m.onnx")
    held = {p.key: p.value for p in model.metadata_props}
    info = openvino.Core().read_model(tmp_path / "m.xml").get_rt_info()
    extra = {"resvision.json": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    document = json.loads(held["resvision"])
    assert document == json.loads(info["resvision"].value) == json.loads(extra["resvision.json"])
    assert document["classes"] == ["a", "b b", "ç"]
    assert held["classes"].splitlines() == info["classes"].value.splitlines() == ["a", "b b", "ç"]
    assert (document["contract"], document["precision"], document["temperature"]) == ("A", "fp32", 1.5)
    assert document["preprocess"]["mean"] == [0.4, 0.5, 0.6]
    assert document["metrics"] == {"accuracy": 0.5}
    onnx.checker.check_model(model, full_check=True)
    for path in tmp_path.iterdir():
        assert str(Path.cwd()).encode() not in path.read_bytes(), f"{path.name} names our folders"


def test_probabilities_have_the_temperature(tmp_path: Path) -> None:
    import onnxruntime

    classifier = colourful()
    made = exporting.write(classifier, Target(format="onnx"), tmp_path / "m.onnx")
    squares = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    logits, probabilities = onnxruntime.InferenceSession(made.file).run(None, {"pictures": squares})
    exponentials = np.exp(logits / 1.5)
    assert np.allclose(probabilities, exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("kind", [*LOGITS, "keras"])
def test_what_does_not_answer_alike_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format) -> None:
    monkeypatch.setattr(verify, "LOGITS_TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"its answers differ by .*, and -1\.0 is allowed; not kept"):
        exporting.write(colourful(), Target(format=kind), tmp_path / f"m{Target(format=kind).suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_copy_that_answers_otherwise_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format
) -> None:
    target = Target(format=kind)
    first, other = colourful(), colourful()
    with torch.no_grad():
        other.network.fc.bias += 0.1
    for name, classifier in (("first", first), ("other", other)):
        exporting.convert(classifier, target, tmp_path / name / target.name)
    made = exporting.describe(first, target, tmp_path / "first" / target.name, tmp_path / "copy" / target.name)
    assert all(file.is_file() for file in made)
    describe = export.DESCRIBE[kind]
    broken = {kind: lambda file, copy, document: describe(tmp_path / "other" / target.name, copy, document)}
    monkeypatch.setattr(export, "DESCRIBE", broken)
    with pytest.raises(ExportError, match=r"a copy of what was measured, whose logits differ by 0\.1"):
        exporting.describe(first, target, tmp_path / "first" / target.name, tmp_path / "again" / target.name)
    assert list((tmp_path / "again").iterdir()) == []


def test_what_a_package_cannot_convert_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no such\n operator")

    monkeypatch.setitem(export.KINDS, "onnx", replace(export.KINDS["onnx"], write=fails))
    with pytest.raises(ExportError, match="onnx fp32: this network cannot be converted here: no such operator"):
        exporting.write(colourful(), Target(format="onnx"), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_limits() -> None:
    def found(**changes: Any) -> verify.Verification:
        return verify.Verification(
            **{"runtime": "r 1", "pictures": 400, "largest_difference": 0.1, "same_top1": 1.0, **changes}
        )

    a, b = Target(format="openvino"), Target(format="openvino", contract="B")
    int8 = Target(format="openvino", precision="int8")
    verify.demand(found(), b)
    verify.demand(found(same_top1=398 / 400), b)
    verify.demand(found(same_top1=384 / 400, accuracy=0.895, original_accuracy=0.9), int8)
    verify.demand(found(pictures=40, same_top1=39 / 40, accuracy=35 / 40, original_accuracy=36 / 40), int8)
    for wrong, target, message in (
        (found(largest_difference=float("nan")), a, "answers differ by nan"),
        (found(same_top1=397 / 400), b, "differs on 3 of 400 pictures, and 99.5% shall agree"),
        (found(same_top1=379 / 400), int8, "differs on 21 of 400"),
        (found(accuracy=0.88, original_accuracy=0.9), int8, "its accuracy is 88.00% instead of 90.00%"),
    ):
        with pytest.raises(ExportError, match=message):
            verify.demand(wrong, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "format='tflite' is not one of onnx, openvino, torch"),
        ({"format": "torch", "precision": "bf16"}, "precision='bf16' is not there for torch: there is fp32"),
        ({"format": "onnx", "contract": "C"}, "contract='C' is neither A"),
        ({"format": "onnx", "precision": "int8", "out": "m.onnx"}, "int8 chooses its ranges by .* give --data"),
        ({"format": "onnx", "out": "m.xml"}, r"m\.xml: a file for onnx ends in \.onnx"),
        ({"format": "onnx"}, "a classifier in memory has no folder"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "out" in arguments:
        arguments = arguments | {"out": tmp_path / arguments["out"]}
    with pytest.raises(InputError, match=message):
        api.export(colourful(), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_a_dot(tmp_path: Path) -> None:
    made = api.export(colourful(), "onnx", out=tmp_path / "v1.2")
    assert made.file == tmp_path / "v1.2" / "model-A-fp32.onnx"
    assert made.file.is_file()


def test_networks_of_other_kinds(tmp_path: Path) -> None:
    """What is special in a network must come through the converters, too."""
    specs: list[tuple[Contract, dict[str, Any]]] = [
        ("A", {"reversible": True, "order": "pre", "depths": (2, 2)}),
        ("B", {"se_ratio": 0.25, "activation": "gelu", "experts": 2, "block": "bottleneck"}),
    ]
    for contract, special in specs:
        spec = ResNetSpec(**{"depths": (1, 1), "widths": (8, 16), "stem": "cifar", "num_classes": 3, **special})
        torch.manual_seed(0)
        classifier = Classifier(network=ResNet(spec), preprocess=Preprocess(size=16), classes=("a", "b", "c"))
        for kind in ("onnx", "openvino"):
            target = Target(format=kind, contract=contract)
            made = exporting.write(classifier, target, tmp_path / target.name)
            assert made.verification.same_top1 == 1
    with pytest.raises(InputError, match="experts=2: such a network exports for one picture at a time"):
        exporting.write(classifier, Target(format="onnx"), tmp_path / "m.onnx")


@pytest.mark.parametrize(("kind", "contract", "experts"), [("onnx", "A", 1), ("openvino", "A", 1), ("onnx", "B", 4)])
def test_bf16_is_half_as_large(kind: Format, contract: Contract, experts: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ResNetSpec(depths=(2, 2), widths=(64, 128), stem="cifar", num_classes=3, experts=experts)
    network = ResNet(spec)
    classifier = Classifier(network=network, preprocess=Preprocess(size=16), classes=("a", "b", "c"))
    sizes = {}
    for precision in ("fp32", "bf16"):
        target = Target(format=kind, contract=contract, precision=precision)
        made = exporting.write(classifier, target, tmp_path / target.name)
        sizes[precision] = sum(file.stat().st_size for file in made.files)
    assert 0.5 < sizes["bf16"] / sizes["fp32"] < 0.55
    assert 1e-5 < made.verification.largest_difference < 0.1
    assert made.verification.same_top1 > 0.98


def test_to_keras(digits_run: Path, tmp_path: Path) -> None:
    """In a process of its own, like a person's, since TensorFlow takes long to import."""
    command = [sys.executable, "-m", "resvision", "export", str(digits_run), "--format", "keras", "--json"]
    command += ["--out", str(tmp_path / "m.keras"), "--data", "digits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["files"] == [str(tmp_path / "m.keras")]
    assert told["largest_difference"] < 1e-4
    assert told["same_top1"] == 1
    assert told["accuracy"] == told["original_accuracy"] > 0.9
    assert (tmp_path / "m.keras").is_file()
    with pytest.raises(InputError, match="its model takes squares"):
        Target(format="keras", contract="B")
    with pytest.raises(InputError, match="there is fp32"):
        Target(format="keras", precision="int8")


def test_pictures_to_compare_are_decoded_one_by_one(tmp_path: Path) -> None:
    """Hundreds of photographs of a camera would not fit into memory; and what cannot be read does not calibrate."""
    for number in range(6):
        Image.new("RGB", (40 + number, 30), (40 * number, 9, 99)).save(tmp_path / f"{number}.png")
    (tmp_path / "6.png").write_bytes(b"\x89PNG")
    files = tuple(File(f"{number}.png", path=tmp_path / f"{number}.png") for number in range(7))
    split = Split(FilePictures(files), np.arange(7) % 3)
    sample = verify.Sample(split.take(np.arange(6)), Preprocess(size=16), 4)
    assert len(sample) == len(sample.split.labels) == 4
    assert [picture.shape[:2] for picture in sample] == [(30, 40 + label) for label in _places(sample)]
    (tmp_path / "0.png").unlink()
    path = tmp_path / "m.onnx"
    exporting.convert(colourful(), Target(format="onnx", precision="int8"), path, calibration=split)
    assert path.exists()
    with pytest.raises(InputError, match="none of 1 training pictures can be read"):
        exporting.write(
            colourful(),
            Target(format="onnx", precision="int8"),
            tmp_path / "n.onnx",
            calibration=split.take(np.array([6])),
        )


def _places(sample: verify.Sample) -> list[int]:
    return [int(sample.split.pictures.name(place).removesuffix(".png")) for place in range(len(sample))]
