"""Weights from elsewhere: what a published network computes, the imported classifier computes, or it is refused."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from resvision import Classifier, import_weights, zoo
from resvision.cli import main
from resvision.data.images import to_input
from resvision.errors import ClassifierError, InputError
from resvision.models import ResNet

CIFAR = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class PublishedBlock(nn.Module):
    """As in the CIFAR repository whose checkpoints are used most: option A with half of the zeros on each side."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.changes = stride > 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.changes:
            quarter = y.shape[1] // 4
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return F.relu(y + x)


class Published(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(PublishedBlock(16, 16, 1))
        self.layer2 = nn.Sequential(PublishedBlock(16, 32, 2))
        self.layer3 = nn.Sequential(PublishedBlock(32, 64, 2))
        self.linear = nn.Linear(64, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        logits: torch.Tensor = self.linear(x.mean((2, 3)))
        return logits


@pytest.fixture
def published() -> Published:
    torch.manual_seed(0)
    network = Published()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            module.running_mean.uniform_(-0.2, 0.2)
    return network.eval()


@pytest.fixture
def checkpoint(published: Published, tmp_path: Path) -> Path:
    state = {f"module.{key}": value for key, value in published.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7, "epoch": 200}, tmp_path / "published.th")
    return tmp_path / "published.th"


def test_the_logits_are_those_of_the_published_network(
    published: Published, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefg"))
    arguments = ["import", checkpoint, "--model", "resnet8_cifar", "--spec", "pad_side=both", "--classes", names]
    arguments += ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225", "--out", tmp_path / "run", "--json"]
    with pytest.raises(SystemExit) as leaving:
        main([str(argument) for argument in arguments])
    assert leaving.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"run": str(tmp_path / "run"), "model": "resnet8_cifar", "classes": list("abcdefg")}
    classifier = Classifier.load(tmp_path / "run")
    squares = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = published(to_input(squares, classifier.preprocess))
    np.testing.assert_allclose(classifier.logits(squares), expected.numpy(), atol=1e-5)
    wrong, _ = import_weights(checkpoint, model="resnet8_cifar", preprocess=CIFAR, out=tmp_path / "wrong")
    assert np.abs(wrong.logits(squares) - expected.numpy()).max() > 0.01  # it loads, and computes something else


def test_safetensors_and_torch_save_are_the_same(published: Published, checkpoint: Path, tmp_path: Path) -> None:
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    squares = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    logits = [
        import_weights(file, model="resnet8_cifar", preprocess=CIFAR, out=tmp_path / file.suffix[1:])[0].logits(squares)
        for file in (checkpoint, tmp_path / "published.safetensors")
    ]
    assert np.array_equal(*logits)


def test_imagenet_networks_have_their_usual_preprocessing(tmp_path: Path) -> None:
    save_file(ResNet(zoo.get("resnet18")).state_dict(), tmp_path / "r.safetensors")
    classifier, _ = import_weights(tmp_path / "r.safetensors", model="resnet18", out=tmp_path / "run")
    assert (classifier.preprocess.size, classifier.preprocess.crop) == (224, 0.875)
    assert classifier.preprocess.mean == (0.485, 0.456, 0.406)
    assert len(classifier.classes) == 1000


class Malicious:
    """What pickle would call when it is read."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("was-here",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(ClassifierError, match=r"bad\.pth: not a checkpoint of plain tensors"):
        import_weights("bad.pth", model="resnet18")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]  # no folder was made


def test_names_and_means_may_be_those_of_numpy(checkpoint: Path, tmp_path: Path) -> None:
    given = {"mean": np.float32([0.5, 0.25, 0.125]), "std": np.array([0.5, 0.25, 0.125]), "size": np.int64(32)}
    names = np.unique([4, 5, 6, 7, 8, 9, 10])
    import_weights(checkpoint, model="resnet8_cifar", classes=names, preprocess=given, out=tmp_path / "run")  # type: ignore[arg-type]
    classifier = Classifier.load(tmp_path / "run")
    assert classifier.classes == ("4", "5", "6", "7", "8", "9", "10")
    assert (classifier.preprocess.mean, classifier.preprocess.size) == ((0.5, 0.25, 0.125), 32)


def test_one_text_is_no_list(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"classes='a\.txt': give a list of names, in the order of the logits"):
        import_weights(checkpoint, model="resnet8_cifar", classes="a.txt", preprocess=CIFAR)
    made, _ = import_weights(
        checkpoint, model="resnet8_cifar", spec="pad_side=both", preprocess=CIFAR, out=tmp_path / "run"
    )
    assert made.network.spec.pad_side == "both"


def test_means_of_whole_levels_are_refused(checkpoint: Path) -> None:
    levels = {"mean": [116, 124, 104], "std": [58, 57, 57]}
    with pytest.raises(InputError, match=r"mean=124 must be one of values in 0\.\.1: divide mean and std by 255"):
        import_weights(checkpoint, model="resnet8_cifar", preprocess=levels)


def test_mistakes_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError) as caught:
        import_weights(checkpoint, model="resnet14_cifar", preprocess=CIFAR)
    assert str(caught.value) == (
        f"{checkpoint}: not the weights of resnet14_cifar: layer1.1.conv1.weight is missing; "
        "layer1.1.bn1.weight is missing; layer1.1.bn1.bias is missing; 27 more are missing"
    )
    with pytest.raises(ClassifierError, match="resnet8_cifar has no common mean and std: give those"):
        import_weights(checkpoint, model="resnet8_cifar")
    with pytest.raises(InputError, match="spec: there is no field 'pad_size'"):
        import_weights(checkpoint, model="resnet8_cifar", spec=["pad_size=both"], preprocess=CIFAR)
    with pytest.raises(ClassifierError, match="2 different class names for a network of 7 classes"):
        import_weights(checkpoint, model="resnet8_cifar", classes=["a", "b"], preprocess=CIFAR)
    (tmp_path / "text.pth").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    for name, message in (
        ("text.pth", "not a checkpoint of plain tensors; save its state dict alone, best as .safetensors"),
        ("whole.pth", "not a checkpoint of plain tensors; save its state dict alone, best as .safetensors"),
        ("list.pth", "no state dict was found, only list; expected tensors by name, or one of "),
        ("text.safetensors", "not a safetensors file ("),
    ):
        with pytest.raises(ClassifierError) as caught:
            import_weights(tmp_path / name, model="resnet18")
        assert str(caught.value).startswith(f"{tmp_path / name}: {message}")
        assert "weights_only" not in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere\.pth: No such file"):
        import_weights(tmp_path / "nowhere.pth", model="resnet18")
