"""Muon: momentum whose matrix is made orthogonal before it moves the weights, here for convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from resvision.training.captured import Recorder

# Jordan et al. 2024 ("Muon: an optimizer for hidden layers"): a polynomial of odd degree that, applied a few times,
# moves all singular values close to 1. Its slope at zero is made large on purpose, so that small ones grow fast.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
PAIRS = 2  # of iterations


class Muon(Optimizer):
    """Muon for weights of two and more dimensions, and SGD with Nesterov momentum for the rest.

    A kernel (O, I, H, W) is taken as the matrix (O, I * H * W), whose Nesterov momentum is replaced by the nearest
    matrix with orthogonal rows (or columns): W <- W - lr * sqrt(max(1, rows / columns)) * orthogonal(momentum). Of
    several experts (E, O, I, H, W) each is a matrix of its own. `torch.optim.Muon` does the same for matrices alone.

    Args:
        params: groups; those with `matrix=True` are orthogonalised, each with its own `lr` and `weight_decay`
            (decoupled from the gradient; for the other groups it is part of it, as in SGD).
        lr: of groups that have none of their own.
        momentum: of all groups.
        dtype: in which matrices are made orthogonal.
        cuda_graph: whether that is recorded once, and given to a GPU as one CUDA graph: there are hundreds of products.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        dtype: torch.dtype = torch.float32,
        *,
        cuda_graph: bool = False,
    ) -> None:
        self.dtype = dtype
        self.cuda_graph = cuda_graph
        self.recorder = Recorder()
        self.recordings: dict[tuple[int, ...], tuple[list[Tensor], torch.cuda.CUDAGraph, list[Tensor]]] = {}
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "matrix": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            if not parameters:
                continue  # while the last layer learns alone
            if group["matrix"]:
                self._orthogonal_step(parameters, gradients, group)
            else:
                self._plain_step(parameters, gradients, group)

    def _momentum(self, parameters: list[Tensor]) -> list[Tensor]:
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return [self.state[p]["momentum_buffer"] for p in parameters]

    def _plain_step(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        buffers = self._momentum(parameters)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        torch._foreach_add_(gradients, buffers, alpha=group["momentum"])
        torch._foreach_add_(parameters, gradients, alpha=-group["lr"])

    def _orthogonal_step(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        buffers = self._momentum(parameters)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        nesterov = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        updates = self._replayed(parameters, nesterov) if self.cuda_graph else directions(nesterov, self.dtype)
        torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _replayed(self, parameters: list[Tensor], kernels: list[Tensor]) -> list[Tensor]:
        key = tuple(map(id, parameters))  # those that learn now
        if key not in self.recordings:
            places = [kernel.clone() for kernel in kernels]
            self.recordings[key] = (places, *self.recorder.record(lambda: directions(places, self.dtype)))
        places, graph, updates = self.recordings[key]
        torch._foreach_copy_(places, kernels)
        graph.replay()
        return updates


def directions(kernels: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """What moves each kernel (O, I, H, W), or of experts (E, O, I, H, W), at a learning rate of -1.

    Equal shapes are made orthogonal at once, and what comes has the kernels' memory order, for one addition of all.
    """
    alike: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    for number, kernel in enumerate(kernels):
        matrices = kernel.flatten(-3) if kernel.ndim > 3 else kernel.flatten(1)
        rows, columns = matrices.shape[-2:]
        alike.setdefault((rows, columns), []).append((number, matrices.reshape(-1, rows, columns)))
    found = [torch.empty_like(kernel) for kernel in kernels]
    for (rows, columns), pairs in alike.items():
        scale = max(1.0, rows / columns) ** 0.5
        updates = orthogonal(torch.cat([matrices for _, matrices in pairs]), dtype)
        for (number, _), update in zip(pairs, torch.split(updates, [len(each) for _, each in pairs]), strict=True):
            found[number].copy_(update.reshape(kernels[number].shape)).mul_(scale)
    return found


def orthogonal(matrices: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The nearest matrices with orthogonal rows or columns, roughly: most singular values lie between 0.6 and 1.2.

    Newton-Schulz iterations, which need nothing but matrix products (Jordan et al. 2024). Since two iterates of X are a
    polynomial of X X^T times X, all products but the first and the last take place among the small X X^T: a kernel of
    3x3 has nine times as many columns as rows, or more. After two, X X^T is computed anew, since what is rounded off
    beside its first eigenvalue is more than the last ones are, and would grow from iteration to iteration.

    Args:
        matrices: (N, rows, columns), any scale.
        dtype: of the products.

    Returns:
        The same shape in that type.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x: Tensor = (matrices.mT if tall else matrices).float()
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    for _ in range(PAIRS):
        gram = x @ x.mT
        first = _polynomial(gram)
        second = _polynomial(first @ gram @ first)
        x = (second @ first) @ x
    return x.mT if tall else x


def _polynomial(gram: Tensor) -> Tensor:
    """What one iteration multiplies X by: a I + b G + c G^2."""
    a, b, c = COEFFICIENTS
    step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    step.diagonal(dim1=1, dim2=2).add_(a)
    return step
