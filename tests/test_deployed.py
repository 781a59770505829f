"""Exported files and the `runtimes` folder of a run: what is opened, and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from resvision import Classifier, Preprocess, ResNetSpec, api, deployed
from resvision.data import sources
from resvision.errors import ClassifierError, DataError, InputError, MissingExtraError
from resvision.models import ResNet
from resvision.progress import Reporter

CLASSES = ("cat", "dog", "emu")


def classifier(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    network = ResNet(ResNetSpec(depths=(1,), widths=(4,), stem="cifar", num_classes=3)).eval()
    torch.nn.init.normal_(network.fc.weight)
    return Classifier(network=network, preprocess=Preprocess(size=8), classes=CLASSES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with exports in it."""
    folder = tmp_path_factory.mktemp("exported")
    classifier().save(folder)
    for kind in ("onnx", "openvino", "torch"):
        api.export(folder, kind)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def run(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "run"))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 11, 13, 3), dtype=np.uint8)


def test_every_runtime_gives_the_same(run: Path) -> None:
    expected = [(p.label, pytest.approx(p.score, abs=1e-4)) for p in api.predict(run, pictures())]
    for runtime in ("torch", "onnx", "openvino", "auto"):
        assert [(p.label, p.score) for p in api.predict(run, pictures(), runtime=runtime)] == expected  # type: ignore[arg-type]
    for name in ("model-A-fp32.onnx", "model-A-fp32.xml"):
        assert [(p.label, p.score) for p in api.predict(run / "runtimes" / name, pictures())] == expected


def test_auto_says_what_it_took(run: Path) -> None:
    class Listener(Reporter):
        text = ""

        def note(self, text: str) -> None:
            self.text += text

    listener = Listener()
    list(api.predict(run, list(pictures()), runtime="auto", reporter=listener))
    assert "is the fastest with 9 pictures at once: torch fp32" in listener.text
    assert "onnx fp32" in listener.text
    assert "openvino fp32" in listener.text
    listener.text = ""
    list(api.predict(run, next(iter(pictures())), runtime="auto", reporter=listener))
    assert "is the fastest with one picture at once" in listener.text


def test_class_names_and_temperature_are_those_of_the_run(run: Path) -> None:
    header = json.loads((run / "model.json").read_text())
    (run / "model.json").write_text(json.dumps(header | {"classes": ["x", "y", "z"], "temperature": 2.0}))
    predictor = deployed.load(run, "onnx")
    assert (predictor.classes, predictor.temperature) == (("x", "y", "z"), 2.0)


def test_an_export_again_takes_the_place_of_the_first(run: Path) -> None:
    api.export(run, "onnx")
    assert [entry.file for entry in deployed.read_index(run).exports] == ["model-A-fp32.xml", "model-A-fp32.onnx"]


def test_a_home_is_found_for_writing_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    made = api.export("~/run", "onnx")
    assert made.file == run / "runtimes" / "model-A-fp32.onnx"


def test_an_export_tells_of_a_download(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Listener(Reporter):
        def download(self, file: str, done: int, total: int | None) -> None:
            told.append(file)

    def load(data: str, columns: Any, progress: Any) -> Any:
        progress("digits.gz", 1, 2)
        return sources.load_builtin("digits", progress)

    monkeypatch.setattr(sources, "load", load)
    with pytest.raises(DataError, match="has classes that the classifier does not know"):
        api.export(run, "onnx", data="digits", reporter=Listener())
    assert told == ["digits.gz"]


# ---- what is refused ----


def refused(path: Path, runtime: Any = None, kind: type[Exception] = ClassifierError) -> str:
    with pytest.raises(kind) as caught:
        deployed.load(path, runtime)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_was_exported(run: Path) -> None:
    shutil.rmtree(run / "runtimes")
    assert f"first: resvision export {run} --format onnx" in refused(run, "onnx")
    assert isinstance(deployed.load(run, "auto"), Classifier)


def test_other_files(run: Path, tmp_path: Path) -> None:
    assert "by pickle" in refused(run / "runtimes" / "model-A-fp32.pt2")
    (tmp_path / "a.txt").write_text("hello")
    assert "neither a run folder nor an exported file (.onnx, .xml)" in refused(tmp_path / "a.txt")
    (tmp_path / "a.keras").write_text("hello")
    assert "Keras runs .keras files; give the run folder, or make one of it: resvision import" in refused(
        tmp_path / "a.keras"
    )
    assert "missing.onnx: there is no such file" in refused(tmp_path / "missing.onnx")
    assert "leave out --runtime onnx" in refused(run / "runtimes" / "model-A-fp32.onnx", "onnx", InputError)
    assert "is not one of torch, onnx, openvino, auto" in refused(run, "tpu", InputError)


@pytest.mark.parametrize("name", ["model-A-fp32.onnx", "model-A-fp32.xml", "model-A-fp32.bin"])
def test_damaged_files(run: Path, name: str) -> None:
    path = run / "runtimes" / name
    path.write_bytes(path.read_bytes()[:50])
    runtime = "onnx" if path.suffix == ".onnx" else "openvino"
    assert "not the file that index.json was written with; again: resvision export" in refused(run, runtime)
    assert "not a model that" in refused(path.with_suffix(".onnx" if runtime == "onnx" else ".xml"))


def test_other_weights_or_preprocessing(run: Path) -> None:
    header = json.loads((run / "model.json").read_text())
    header["preprocess"]["mean"] = [0.1, 0.2, 0.3]
    (run / "model.json").write_text(json.dumps(header))
    assert "was exported from another classifier" in refused(run, "onnx")
    classifier(seed=1).save(run)
    assert "was exported from another classifier" in refused(run, "openvino")


def test_exports_of_another_network_do_not_stop_the_others(run: Path) -> None:
    notes: list[str] = []
    damaged = run / "runtimes" / "model-A-fp32.onnx"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert isinstance(deployed.load(run, "auto", note=notes.append), deployed.Predictor)
    assert notes[0].startswith(f"left out: {damaged}: not the file that index.json was written with")
    assert "openvino fp32" in notes[1]
    damaged.unlink()
    assert list(deployed.in_run(run, Classifier.load(run), notes.append)) == ["openvino fp32"]
    assert f"left out: {damaged}" in notes[-1]
    classifier(seed=1).save(run)
    assert list(deployed.in_run(run, Classifier.load(run), notes.append)) == []
    assert "was exported from another classifier" in notes[-1]


def test_a_document_with_exits_and_without_segments(run: Path) -> None:
    path = run / "runtimes" / "model-A-fp32.onnx"
    model = onnx.load(path)
    [held] = [entry for entry in model.metadata_props if entry.key == "resvision"]
    rule = {"temperatures": [1.0, 1.0], "thresholds": [0.5], "seconds": [1.0, 1.0]}
    document = json.loads(held.value)
    document["spec"] |= {"depths": [2], "exits": [1]}
    held.value = json.dumps(document | {"exits": rule})
    onnx.save(model, path)
    assert "has exits, and does not say which segment" in refused(path)
    held.value = json.dumps(document | {"exits": rule, "segment": 1, "files": [path.name]})
    onnx.save(model, path)
    assert "names 1 segments of a network with 1 exits" in refused(path)


def test_an_index_that_leads_elsewhere(run: Path) -> None:
    path = run / "runtimes" / "index.json"
    index = json.loads(path.read_text())
    index["exports"][0]["file"] = "../../elsewhere.onnx"
    path.write_text(json.dumps(index))
    assert "is not the name of a file in its folder" in refused(run, "onnx")
    other = run / "runtimes" / "other.onnx"  # whose content nothing vouches for
    shutil.copy(run / "runtimes" / "model-A-fp32.onnx", other)
    for entry in index["exports"]:
        entry["file"] = other.name
    path.write_text(json.dumps(index))
    assert "is not the name of a file in its folder" in refused(run, "onnx")
    path.write_text(json.dumps(index | {"version": 2, "colour": 1}))
    assert "is resvision-runtimes version 2" in refused(run, "onnx")


def test_models_of_others(run: Path, tmp_path: Path) -> None:
    model = onnx.load(run / "runtimes" / "model-A-fp32.onnx")
    held = {p.key: p.value for p in model.metadata_props}
    document = json.loads(held["resvision"])
    for value, message in (
        (None, "has no document of resvision"),
        ("{", "its document is not JSON"),
        (json.dumps(document | {"version": 9, "colour": 1}), "is resvision-export version 9"),
        (json.dumps(document | {"classes": ["a"]}), "1 different class names for a network of 3"),
    ):
        onnx.helper.set_model_props(model, {} if value is None else {"resvision": value})
        onnx.save_model(model, tmp_path / "other.onnx")
        assert message in refused(tmp_path / "other.onnx")
    onnx.helper.set_model_props(model, {"resvision": json.dumps({"colour": 1})})
    onnx.save_model(model, tmp_path / "other.onnx")
    refused(tmp_path / "other.onnx", kind=InputError)


def test_no_other_file_is_read(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose weights lie in a second file could name any file of the machine."""
    model = onnx.load(run / "runtimes" / "model-A-fp32.onnx")
    monkeypatch.chdir(tmp_path)
    onnx.save_model(model, "two.onnx", save_as_external_data=True, location="weights", size_threshold=200)
    assert (tmp_path / "weights").stat().st_size
    assert "not a model that ONNX Runtime can load" in refused(tmp_path / "two.onnx")


@pytest.mark.parametrize(("package", "runtime"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_missing_package(run: Path, package: str, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"needs the package {package}: pip install" in refused(run, runtime, MissingExtraError)
    assert deployed.load(run, "auto").predict(pictures())
    with pytest.raises(MissingExtraError, match=package):
        api.export(run, runtime)
