"""Muon: orthogonal matrices, a step by hand, and SGD for all that is no kernel."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from resvision import zoo
from resvision.models import ResNet
from resvision.recipe import Recipe
from resvision.training import optim, phases
from resvision.training.checkpoint import load_checkpoint, save_checkpoint
from resvision.training.muon import Muon, orthogonal

RECIPE = Recipe(model="resnet8_cifar", size=8, steps=10, optimizer="muon", lr=0.05, rest_lr=0.02, weight_decay=0.01)


def network(**fields: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet(dataclasses.replace(zoo.get("resnet8_cifar"), **fields))


def with_gradients(made: ResNet, seed: int) -> ResNet:
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    return made


def exactly_orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


# ---- the orthogonal matrix ----


@pytest.mark.parametrize(
    ("rows", "columns"), [(16, 27), (64, 576), (128, 64), (256, 27)], ids=["16", "64", "128", "256"]
)
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_singular_values_are_near_one(rows: int, columns: int, scale: float) -> None:
    matrices = scale * torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(1))
    found = orthogonal(matrices)
    assert (found.shape, found.dtype) == (matrices.shape, torch.float32)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    for matrix, near in zip(matrices, found, strict=True):
        assert torch.cosine_similarity(near.flatten(), exactly_orthogonal(matrix).flatten(), dim=0) > 0.98


@pytest.mark.parametrize("side", [1, 8, 64])
def test_singular_values_of_squares_are_near_one_unless_they_are_tiny(side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(side, side, generator=generator))[0] for _ in range(2))
    square = left @ torch.diag(torch.linspace(1.0, 0.2, side)) @ right
    values = torch.linalg.svdvals(orthogonal(square[None]))
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert torch.cosine_similarity(orthogonal(square[None]).flatten(), (left @ right).flatten(), dim=0) > 0.98


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (16, 144), (64, 576), (64, 27)])
@pytest.mark.parametrize("times", [3.0, 30.0, 300.0, 3e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_first_singular_value_that_stands_out_does_no_harm(
    rows: int, columns: int, times: float, dtype: torch.dtype
) -> None:
    """As that of a momentum does; none comes out larger than the polynomial makes it, and the first as one."""
    generator = torch.Generator().manual_seed(4)
    matrix = torch.randn(rows, columns, generator=generator)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values[0] *= times
    found = orthogonal((left @ torch.diag(values) @ right)[None], dtype)[0].float()
    assert torch.linalg.svdvals(found).max() < 1.25
    assert 0.6 < left[:, 0] @ found @ right[0] < 1.25


def test_matrices_of_a_stack_do_not_know_each_other() -> None:
    matrices = torch.randn(4, 8, 20, generator=torch.Generator().manual_seed(2))
    together = orthogonal(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonal(matrix[None])[0], found, rtol=1e-4, atol=1e-5)
    assert torch.equal(orthogonal(torch.zeros(1, 3, 5)), torch.zeros(1, 3, 5))


def test_a_tall_matrix_is_the_transpose_of_a_wide_one() -> None:
    wide = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(orthogonal(wide.mT), orthogonal(wide).mT)


# ---- steps ----


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (27, 1, 3, 3), (2, 4, 3, 1, 1)], ids=["wide", "tall", "experts"])
def test_steps_of_a_kernel_by_hand(shape: tuple[int, ...]) -> None:
    """W <- W (1 - lr decay) - lr sqrt(max(1, rows / columns)) orthogonal(g + momentum v), v <- momentum v + g."""
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(shape, generator=generator))
    expected, velocity = parameter.detach().clone(), torch.zeros(shape)
    optimizer = Muon([{"params": [parameter], "weight_decay": 0.1, "matrix": True}], lr=0.5, momentum=0.9)
    rows, columns = shape[-4], shape[-3] * shape[-2] * shape[-1]
    for _ in range(3):
        gradient = torch.randn(shape, generator=generator)
        parameter.grad = gradient.clone()
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        nesterov = (gradient + 0.9 * velocity).reshape(-1, rows, columns)
        updates = torch.stack([orthogonal(matrix[None])[0] for matrix in nesterov])
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * max(1, rows / columns) ** 0.5 * updates.view(shape)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(parameter.grad, gradient)
        torch.testing.assert_close(optimizer.state[parameter]["momentum_buffer"], velocity)


def test_what_is_no_kernel_is_trained_by_sgd() -> None:
    """Norms, biases and the last layer, step for step as PyTorch's Nesterov momentum."""
    ours, theirs = network(), network()
    optimizer = optim.build(ours, RECIPE)
    rest = {key: p for key, p in theirs.named_parameters() if p.ndim < 4}
    groups = [
        {"params": [p for p in rest.values() if p.ndim == 2], "weight_decay": 0.01},
        {"params": [p for p in rest.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    reference = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for step in range(10):
        lr = optim.set_step(optimizer, RECIPE, step)
        for group in reference.param_groups:
            group["lr"] = lr * 0.02 / 0.05
        with_gradients(ours, step)
        with_gradients(theirs, step)
        optimizer.step()
        reference.step()
    state = ours.state_dict()
    for key, parameter in rest.items():
        torch.testing.assert_close(state[key], parameter.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.equal(parameter, dict(network().named_parameters())[key])


def test_rates_of_kernels_and_of_the_rest() -> None:
    made = network()
    recipe = dataclasses.replace(RECIPE, pretrained="somewhere", lr_decay=0.5, schedule="constant", warmup=0.0)
    optimizer = optim.build(made, recipe)
    assert optim.set_step(optimizer, recipe, 5) == 0.05
    names = {id(parameter): key for key, parameter in made.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["fc.weight"] == rates["fc.bias"] == pytest.approx(0.02)
    assert rates["layer3.0.conv1.weight"] == pytest.approx(0.025)
    assert rates["layer3.0.bn1.weight"] == pytest.approx(0.01)
    assert rates["conv1.weight"] == rates["layer1.0.conv1.weight"] == pytest.approx(0.05 / 8)
    matrices = {names[id(p)] for group in optimizer.param_groups if group["matrix"] for p in group["params"]}
    assert matrices == {key for key, p in made.named_parameters() if p.ndim == 4}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_order_changes_nothing(memory_format: torch.memory_format) -> None:
    made = with_gradients(network(), 0)
    other = copy.deepcopy(made)
    for parameter, same in zip(made.parameters(), other.parameters(), strict=True):
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)
        same.grad = parameter.grad
    for one in (made, other):
        optim.build(one, RECIPE).step()
    for parameter, same in zip(made.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same)


def test_what_does_not_learn_is_passed_over() -> None:
    """While the last layer learns alone no kernel has a gradient."""
    made = network()
    recipe = dataclasses.replace(RECIPE, pretrained="somewhere", head_first=0.5)
    optimizer = optim.build(made, recipe)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    phases.begin(made, recipe, 0)
    with_gradients(made, 0)
    optimizer.step()
    moved = {key for key, value in made.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"fc.weight", "fc.bias"}


def test_the_state_survives_a_checkpoint(tmp_path: Path) -> None:
    whole = network()
    optimizer = optim.build(whole, RECIPE)
    for step in range(4):
        if step == 2:
            save_checkpoint(tmp_path / "c.safetensors", whole, optimizer, {"step": step})
        with_gradients(whole, step)
        optim.set_step(optimizer, RECIPE, step)
        optimizer.step()
    torch.manual_seed(9)
    resumed = ResNet(zoo.get("resnet8_cifar"))
    optimizer = optim.build(resumed, RECIPE)
    assert load_checkpoint(tmp_path / "c.safetensors", resumed, optimizer) == {"step": 2}
    for step in (2, 3):
        with_gradients(resumed, step)
        optim.set_step(optimizer, RECIPE, step)
        optimizer.step()
    state = whole.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in resumed.state_dict().items())


@pytest.mark.parametrize("experts", [1, 3])
def test_it_learns(experts: int) -> None:
    made = network(experts=experts, num_classes=4)
    optimizer = optim.build(made, RECIPE)
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(32, 3, 8, 8, generator=generator), torch.arange(32) % 4
    losses = []
    for step in range(10):
        optim.set_step(optimizer, RECIPE, min(step, 5))
        loss = torch.nn.functional.cross_entropy(made(x), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
