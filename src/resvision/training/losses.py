"""Losses with the one signature loss(network, inputs, targets) -> (loss, logits)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Network = Callable[[torch.Tensor], torch.Tensor]
Loss = Callable[[Network, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy in float32, the mean over the batch in nats.

    Args:
        label_smoothing: probability spread over all classes (Szegedy et al. 2015, section 7).

    Returns:
        A loss that takes inputs (N, C, S, S) and targets (N,) int64 and gives a scalar and the logits (N, K).
    """

    def loss(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(inputs).float()
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing), logits

    return loss
