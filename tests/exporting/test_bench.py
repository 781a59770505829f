"""The benchmark of the runtimes."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import colourful

from resvision import Classifier, Preprocess, api, zoo
from resvision.efficiency import prune
from resvision.errors import InputError
from resvision.exits import ExitRule
from resvision.exporting import bench, peers
from resvision.models import ResNet
from resvision.progress import Reporter

NAMES = ["torch fp32", "torch bf16", "onnx int8", "onnx fp32", "openvino fp32", "openvino bf16", "openvino int8"]


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
    without = [row["runtime"] for row in api.benchmark(digits_run, threads=1)["rows"]]
    assert without == NAMES[:-1]  # nothing says which values int8 must hold
    assert sorted(path.name for path in (digits_run / "runtimes").iterdir()) == ["index.json", "model-A-int8.onnx"]


@pytest.mark.usefixtures("torchvision_operators")
def test_a_peer_of_the_same_name_and_size() -> None:
    pytest.importorskip("torchvision.models")
    network = ResNet(zoo.get("resnet18"))
    classes = tuple(map(str, range(1000)))
    made = Classifier(
        network=network, preprocess=Preprocess(size=32), classes=classes, provenance={"model": "resnet18"}
    )
    said: list[str] = []
    found = peers.peer(made, said.append)
    assert list(found) == ["torchvision eager"]
    assert found["torchvision eager"](torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, 1000)
    assert not said
    assert peers.peer(colourful(), said.append) == {}
    for words in ({"model": "mine"}, {"recipe": ["resnet18"]}, {"recipe": "paper"}):
        assert peers.peer(dataclasses.replace(made, provenance=words), said.append) == {}
    # One that was pruned is compared with the whole one, and one of other layers with as many parameters likewise.
    smaller = prune.without_block(network, 1)
    pruned = dataclasses.replace(made, network=smaller)
    assert list(peers.peer(pruned, said.append)) == ["torchvision eager"]
    other = ResNet(dataclasses.replace(network.spec, activation="silu", first_stride=2))
    assert list(peers.peer(dataclasses.replace(made, network=other), said.append)) == ["torchvision eager"]
    assert said == ["torchvision's resnet18 is the network by that name, which this one differs from"] * 2


def test_early_exits_are_timed_as_pictures_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 3)
    monkeypatch.setattr(bench, "MADE", ())
    spec = dataclasses.replace(zoo.get("resnet8_cifar"), num_classes=10, in_channels=1, exits=(1,))
    preprocess = Preprocess(size=8, channels=1, mean=(0.5,), std=(0.5,))
    rule = ExitRule(temperatures=(1.0, 1.0), thresholds=(0.0,), seconds=(1e-3, 1e-3))
    made = Classifier(
        network=ResNet(spec).eval(), preprocess=preprocess, classes=tuple(map(str, range(10))), exits=rule
    )
    made.save(tmp_path)
    rows = {row["runtime"]: row for row in api.benchmark(tmp_path, "digits")["rows"]}
    assert list(rows) == ["torch fp32", "torch bf16", "torch fp32, leaving early"]
    first = api.evaluate(tmp_path, "digits")["adaptive"]["exits"][0]["accuracy_of_all"]
    assert rows["torch fp32, leaving early"]["accuracy"] == pytest.approx(first)
    notes = Notes()
    assert len(api.benchmark(tmp_path, reporter=notes)["rows"]) == 2
    assert "how fast it is where pictures leave early is only known with data" in notes.lines


def test_a_compiler_that_fails_is_left_out(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROUNDS", 1)
    monkeypatch.setattr(bench, "MADE", ())

    def compiled(network: ResNet) -> Callable[..., Any]:
        def fails(*_: Any, **__: Any) -> Any:
            raise RuntimeError("no compiler")

        network.forward = fails  # type: ignore[method-assign]
        return network

    monkeypatch.setattr(torch, "compile", lambda network: compiled(copy.deepcopy(network)))
    notes = Notes()
    rows = api.benchmark(digits_run, compiled=True, reporter=notes)["rows"]
    assert "torch compiled" not in [row["runtime"] for row in rows]
    assert "left out: torch.compile fails here (RuntimeError)" in notes.lines
    with pytest.raises(InputError, match="split='val': of which data"):
        api.benchmark(digits_run, split="val")


class Notes(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
