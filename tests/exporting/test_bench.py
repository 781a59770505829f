"""The benchmark of the runtimes."""

from pathlib import Path

import pytest
import torch
from samples import colourful

from resvision import Classifier, Preprocess, api, zoo
from resvision.exporting import bench
from resvision.models import ResNet

NAMES = ["torch fp32", "torch bf16", "onnx int8", "onnx fp32", "openvino fp32", "openvino bf16"]


def test_every_runtime_is_timed(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 2)
    api.export(digits_run, "onnx", precision="int8", data="digits")
    result = api.benchmark(digits_run, "digits", threads=1)
    assert [row["runtime"] for row in result["rows"]] == NAMES
    assert (result["data"], result["split"], result["threads"]) == ("digits", "val", 1)
    for row in result["rows"]:
        for spread in (row["latency_ms"], row["pictures_per_second"]):
            assert 0 < spread["least"] <= spread["median"] <= spread["most"]
        assert row["accuracy"] > 0.9
    assert sorted(path.name for path in (digits_run / "runtimes").iterdir()) == ["index.json", "model-A-int8.onnx"]


@pytest.mark.usefixtures("torchvision_operators")
def test_a_peer_of_the_same_name_and_size() -> None:
    pytest.importorskip("torchvision.models")
    network = ResNet(zoo.get("resnet18"))
    classes = tuple(map(str, range(1000)))
    made = Classifier(
        network=network, preprocess=Preprocess(size=32), classes=classes, provenance={"model": "resnet18"}
    )
    found = bench._peer(made)
    assert list(found) == ["torchvision eager"]
    assert found["torchvision eager"](torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 1000)
    assert bench._peer(colourful()) == {}
