"""Reversible networks: the input comes back from the output, and the gradients are those of storing everything."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from resvision import zoo
from resvision.models import ResNet
from resvision.models.reversible import ReversibleBlock
from resvision.spec import Init
from resvision.training.memory import forward_pass

NAMES = ["revnet38_cifar", "revnet164_cifar", "revnet104"]


def blocks_of(network: ResNet) -> list[ReversibleBlock]:
    return [block for stage in network.stages() for block in stage if isinstance(block, ReversibleBlock)]


def test_a_block_by_its_definition() -> None:
    """y1 = x1 + F(x2), y2 = x2 + G(y1)."""
    torch.manual_seed(0)
    block = blocks_of(ResNet(zoo.get("revnet38_cifar")).double().eval())[1]
    x = torch.randn(2, 32, 4, 4, dtype=torch.double)
    x1, x2 = x[:, :16], x[:, 16:]

    def branch(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
        for index in (1, 2):
            x = part.get_submodule(f"conv{index}")(part.get_submodule(f"bn{index}")(x).relu())
        return x

    y1 = x1 + branch(block.f, x2)
    y2 = x2 + branch(block.g, y1)
    torch.testing.assert_close(block(x), torch.cat([y1, y2], dim=1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_storing_everything(name: str) -> None:
    torch.manual_seed(0)
    network = ResNet(zoo.get(name)).double().train()
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    found, states = {}, {}
    start = {key: value.clone() for key, value in network.state_dict().items()}
    for way in ("full", "checkpoint"):
        network.load_state_dict(start)
        network.zero_grad()
        logits = forward_pass(network, 32, way)(x)  # type: ignore[arg-type]
        logits.square().mean().backward()
        found[way] = {key: p.grad for key, p in network.named_parameters()} | {"logits": logits.detach()}
        states[way] = {key: value.clone() for key, value in network.state_dict().items()}
    for key, value in found["full"].items():
        torch.testing.assert_close(found["checkpoint"][key], value, rtol=1e-7, atol=1e-9)
    # Also the norms' statistics: they were updated once, though the branches were computed twice.
    for key, value in states["full"].items():
        torch.testing.assert_close(states["checkpoint"][key], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("precision", "init"), [(torch.float32, "he"), (torch.bfloat16, "zero_gamma")])
def test_gradients_in_lower_precision_point_the_same_way(precision: torch.dtype, init: Init) -> None:
    """In bfloat16 from branches that are small: large ones amplify its rounding, whatever is kept."""
    torch.manual_seed(0)
    network = ResNet(replace(zoo.get("revnet110_cifar"), init=init)).train()
    x = torch.randn(8, 3, 32, 32)
    vectors = []
    for way in ("full", "checkpoint"):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = forward_pass(network, 32, way)(x)  # type: ignore[arg-type]
        logits.float().logsumexp(dim=1).mean().backward()
        vectors.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*vectors, dim=0) > (0.999 if precision == torch.float32 else 0.998)


def kept_bytes(network: ResNet, way: str) -> int:
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward_pass(network, 32, way)(torch.randn(2, 3, 32, 32))  # type: ignore[arg-type]
    return sum(held for place, held in kept.items() if place not in own)


def test_memory_does_not_grow_with_depth() -> None:
    shallow, deep = (ResNet(zoo.get(f"revnet{depth}_cifar")) for depth in (62, 206))
    assert kept_bytes(deep, "checkpoint") == kept_bytes(shallow, "checkpoint")
    assert kept_bytes(deep, "full") > 3 * kept_bytes(shallow, "full")
    assert kept_bytes(deep, "checkpoint") < kept_bytes(deep, "full") / 40


def test_without_gradients_nothing_differs() -> None:
    network = ResNet(zoo.get("revnet38_cifar")).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        quiet = network(x)
    assert torch.allclose(quiet, network(x), atol=1e-6)


def test_some_frozen_weights() -> None:
    network = ResNet(zoo.get("revnet38_cifar")).train()
    network.get_submodule("layer2").requires_grad_(False)
    network(torch.randn(2, 3, 16, 16)).mean().backward()
    assert network.get_parameter("layer2.1.f.conv1.weight").grad is None
    assert network.get_parameter("layer1.0.f.conv1.weight").grad is not None
