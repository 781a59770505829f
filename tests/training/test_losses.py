"""Cross-entropy by hand."""

import math

import pytest
import torch

from resvision.training.losses import cross_entropy


def test_cross_entropy() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    loss, out = cross_entropy()(lambda x: logits, torch.zeros(1), torch.tensor([1]))
    assert loss.item() == pytest.approx(-math.log(0.75))
    assert torch.equal(out, logits)


def test_label_smoothing() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    loss, _ = cross_entropy(0.2)(lambda x: logits, torch.zeros(1), torch.tensor([1]))
    assert loss.item() == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25))


def test_it_is_computed_in_float32() -> None:
    logits = torch.zeros(1, 2, dtype=torch.bfloat16)
    loss, out = cross_entropy()(lambda x: logits, torch.zeros(1), torch.tensor([1]))
    assert loss.dtype == out.dtype == torch.float32
