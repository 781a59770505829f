"""Parity: the same weights in torchvision's or timm's network and in ours give the same logits and gradients."""

import dataclasses
import os

import pytest
import torch
from torch import nn

from resvision import zoo
from resvision.cost import cost
from resvision.errors import ClassifierError
from resvision.models import ResNet
from resvision.models.convert import convert, sized, unnest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytestmark = pytest.mark.usefixtures("torchvision_operators")

TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
TIMM = tuple(
    name
    for name in zoo.names()
    if not name.endswith("_cifar")
    and not name.startswith(("plain", "revnet", "wrn", "resnext29"))
    and name != "resnetv2_200"
)
QUICK_TORCHVISION = ("resnet18", "resnet50", "resnext50_32x4d")
QUICK_TIMM = ("resnet10t", "resnet26d", "seresnet18", "resnetrs50", "resnetv2_18", "resnetv2_50")


def family(names: tuple[str, ...], quick: tuple[str, ...]) -> list[object]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def peer(library: str, name: str) -> nn.Module:
    if library == "torchvision":
        pytest.importorskip("torchvision.models")
        import torchvision

        network: nn.Module = torchvision.models.get_model(name, weights=None)
    else:
        timm = pytest.importorskip("timm")
        network = timm.create_model(name, pretrained=False)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # values that matter, also where a network begins with zeros
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert isinstance(tensor, torch.Tensor)
                tensor.copy_(0.3 + 0.4 * torch.rand(tensor.shape, generator=generator))
    return network


def assert_parity(library: str, name: str) -> None:
    spec = zoo.get(name)
    theirs, ours = peer(library, name), ResNet(spec)
    ours.load_state_dict(convert(theirs.state_dict(), spec))
    params = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == params == cost(spec, 224).params
    for dtype, rtol, atol in ((torch.float64, 0.0, 1e-10), (torch.float32, 1e-4, 1e-5)):
        logits, gradients = passed(theirs.to(dtype))
        my_logits, my_gradients = passed(ours.to(dtype))
        scale = logits.abs().max()
        torch.testing.assert_close(my_logits / scale, logits / scale, rtol=rtol, atol=atol)
        gradients = convert(theirs.state_dict() | gradients, spec)
        for key, mine in my_gradients.items():
            scale = gradients[key].abs().max() or 1  # behind closed gates there is none
            torch.testing.assert_close(mine / scale, gradients[key] / scale, rtol=rtol, atol=max(atol, 10 * rtol))


def passed(network: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of fixed random pictures, and the gradients of the weights under their names."""
    network.eval()
    network.zero_grad()
    dtype = next(network.parameters()).dtype
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits = network(x)
    (logits / logits.detach().abs().max()).square().mean().backward()
    return logits.detach(), {key: p.grad for key, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", family(TORCHVISION, QUICK_TORCHVISION))
def test_torchvision(name: str) -> None:
    assert_parity("torchvision", name)


@pytest.mark.parametrize("name", family(TIMM, QUICK_TIMM))
def test_timm(name: str) -> None:
    assert_parity("timm", name)


# ---- names and containers ----


def test_every_problem_is_named() -> None:
    spec = zoo.get("resnet8_cifar")
    state = ResNet(spec).state_dict()
    state["extra"] = state.pop("conv1.weight")
    state["fc.bias"] = torch.zeros(7)
    with pytest.raises(ClassifierError) as caught:
        convert(state, spec)
    for problem in ("conv1.weight is missing", "extra is unexpected", "fc.bias is (7,) instead of (10,)"):
        assert problem in str(caught.value)


def test_many_problems_are_counted() -> None:
    with pytest.raises(ClassifierError) as caught:
        convert(ResNet(zoo.get("resnet50")).state_dict(), zoo.get("resnet18"), name="resnet18")
    assert str(caught.value).startswith("not the weights of resnet18: ")
    assert "more are unexpected; " in str(caught.value)
    assert "more are of other shapes" in str(caught.value)
    assert len(str(caught.value)) < 700


def test_names_of_cifar_repositories() -> None:
    spec = zoo.get("wrn16_4")
    state = ResNet(spec).state_dict()
    theirs = {}
    for key, value in state.items():
        key = key.replace("norm.", "bn1.", 1) if key.startswith("norm.") else key
        if key.startswith("layer"):
            stage, block, rest = key.removeprefix("layer").split(".", 2)
            key = f"block{stage}.layer.{block}.{rest.replace('downsample.0', 'convShortcut')}"
        if not key.endswith("num_batches_tracked"):
            theirs[f"module.{key}"] = value
    converted = convert(unnest({"state_dict": theirs, "epoch": 3}), spec)
    assert all(torch.equal(converted[key], value) for key, value in state.items())
    basic = zoo.get("resnet8_cifar")
    state = ResNet(basic).state_dict()
    converted = convert({key.replace("fc.", "linear."): value for key, value in state.items()}, basic)
    assert all(torch.equal(converted[key], value) for key, value in state.items())


def test_weights_tell_how_many_channels_and_classes_they_are_for() -> None:
    grey = dataclasses.replace(zoo.get("resnetv2_18"), in_channels=1, num_classes=7)
    theirs = {key.replace("fc.", "head.fc."): value for key, value in ResNet(grey).state_dict().items()}
    theirs["head.fc.weight"] = theirs["head.fc.weight"][:, :, None, None]  # as in timm
    assert sized(theirs, zoo.get("resnetv2_18")) == grey
    assert sized({}, grey) == grey


def test_without_the_last_layer_only_the_rest_must_fit() -> None:
    spec = zoo.get("resnet8_cifar")
    state = ResNet(spec).state_dict()
    for changed in ({"fc.weight": torch.zeros(1, 1)}, {"linear.weight": torch.zeros(3)}, {"fc.extra": torch.zeros(3)}):
        trunk = convert(state | changed, spec, head=False)
        assert set(state) - set(trunk) == {"fc.weight", "fc.bias"}
    with pytest.raises(ClassifierError, match=r"^not the weights of this network: conv1\.weight is missing$"):
        convert({key: value for key, value in state.items() if key != "conv1.weight"}, spec, head=False)


def test_what_holds_no_weights_is_refused() -> None:
    for loaded in ([1, 2], {"epoch": 3}, {}):
        with pytest.raises(ClassifierError, match="no state dict was found"):
            unnest(loaded)
