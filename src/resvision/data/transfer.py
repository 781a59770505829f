"""From the processor's memory to the device, which fetches by itself while the processor goes on."""

from __future__ import annotations

import torch


def fetchable(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """A copy in memory that a GPU can read by itself; where the processor computes, any memory will do."""
    return tensor.pin_memory() if where.type == "cuda" else tensor.clone()


def sent(tensor: torch.Tensor, where: torch.device) -> torch.Tensor:
    """The tensor on a device; the copy has its turn among what the device is to do, and nothing waits for it."""
    if tensor.device.type == where.type:
        return tensor
    return fetchable(tensor, where).to(where, non_blocking=True)
