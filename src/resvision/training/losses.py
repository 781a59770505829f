"""Losses with the one signature loss(network, inputs, targets) -> (loss, logits)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from resvision.data.transfer import sent
from resvision.models.layers import Gate
from resvision.recipe import Recipe

Network = Callable[..., torch.Tensor]  # of inputs; with exits=True it gives the logits of every exit, shallow to deep
# Inputs are (N, C, S, S). Targets are classes (N,) int64 or, where pictures were mixed, probabilities (N, K). The loss
# is the mean over the batch, in nats, and the logits are (N, K), both float32.
Loss = Callable[[Network, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def build(recipe: Recipe, counts: Sequence[int] = (), gates: Sequence[Gate] = ()) -> Loss:
    """The loss of a recipe.

    Args:
        recipe: its loss, label smoothing and balance.
        counts: training pictures of each class, by which classes are weighed where the recipe says so.
        gates: of the network.
    """
    loss = _of_one_exit(recipe, counts)
    if recipe.has_exits:
        loss = with_exits(loss, recipe.exit_weight, recipe.distill)
    return loss if recipe.gate_rate is None else with_gates(loss, gates, recipe.gate_rate)


def _of_one_exit(recipe: Recipe, counts: Sequence[int]) -> Loss:
    if recipe.loss == "bce":
        return binary_cross_entropy(recipe.label_smoothing)
    if recipe.loss == "gce":
        return generalised_cross_entropy(recipe.gce_q)
    weights = None
    if recipe.balance == "weights":
        # So that the mean weight of a picture is 1, and every class weighs the same altogether.
        weights = [sum(counts) / (len(counts) * max(1, count)) for count in counts]
    return cross_entropy(recipe.label_smoothing, weights)


def cross_entropy(label_smoothing: float = 0.0, weights: Sequence[float] | None = None) -> Loss:
    """Cross-entropy.

    Args:
        label_smoothing: probability spread over all classes (Szegedy et al. 2015, section 7).
        weights: of each class.
    """
    of_classes = None if weights is None else torch.tensor(weights)
    on_device: dict[torch.device, torch.Tensor] = {}

    def loss(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(inputs).float()
        if of_classes is None:
            return F.cross_entropy(logits, targets, label_smoothing=label_smoothing), logits
        # Divided by the pictures and not by their weights, so that a batch of a rare class alone weighs more.
        if logits.device not in on_device:  # sent once: nothing may come from elsewhere while a step is recorded
            on_device[logits.device] = sent(of_classes, logits.device)
        own = on_device[logits.device]
        summed = F.cross_entropy(logits, targets, own, label_smoothing=label_smoothing, reduction="sum")
        return summed / len(logits), logits

    return loss


def binary_cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """A sigmoid for each class, summed over the classes (Wightman et al. 2021, section 3.1)."""

    def loss(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(inputs).float()
        wanted = probabilities(targets, logits.shape[1])
        wanted = wanted * (1 - label_smoothing) + label_smoothing / logits.shape[1]
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(logits), logits

    return loss


def generalised_cross_entropy(q: float) -> Loss:
    """(1 - p^q) / q of the label's probability p: less steep where p is small, as it is of wrong labels.

    Source: Zhang & Sabuncu 2018, equation 6.
    """

    def loss(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(inputs).float()
        log_p = F.log_softmax(logits, dim=1).gather(1, targets[:, None])
        return (-torch.expm1(q * log_p) / q).mean(), logits

    return loss


def with_exits(loss: Loss, weight: float, distill: float, temperature: float = 3.0) -> Loss:
    """The loss at the network's end, and for every early exit one to the labels and one to what the end says.

    The end teaches and is not taught: it gets no gradient from the distance (Zhang et al. 2019, section 3.2, whose
    temperature is 3, too).

    Args:
        loss: of one exit.
        weight: of an exit beside the end.
        distill: the part of an exit's loss that is its distance to the end.
        temperature: by which logits are divided there (Hinton et al. 2015, section 2).
    """

    def joint(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        *early, end = (logits.float() for logits in network(inputs, exits=True))
        total, _ = loss(lambda _: end, inputs, targets)
        teacher = F.log_softmax(end.detach() / temperature, dim=1)
        for logits in early:
            to_labels, _ = loss(lambda _, logits=logits: logits, inputs, targets)
            student = F.log_softmax(logits / temperature, dim=1)
            to_end = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
            total = total + weight * ((1 - distill) * to_labels + distill * to_end)
        return total, end

    return joint


def distilled(loss: Loss, teacher: Network, weight: float, temperature: float = 2.0) -> Loss:
    """A loss to the labels and one to what a trained network says of the same pictures (Hinton et al. 2015, section 2).

    Args:
        loss: to the labels.
        teacher: in evaluation mode; it gets no gradient.
        weight: of the distance to the teacher, in [0, 1]; the labels have the rest.
        temperature: by which logits are divided there.
    """

    def both(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, logits = loss(network, inputs, targets)
        with torch.no_grad():
            wanted = F.log_softmax(teacher(inputs).float() / temperature, dim=1)
        found = F.log_softmax(logits / temperature, dim=1)
        distance = F.kl_div(found, wanted, reduction="batchmean", log_target=True) * temperature**2
        return (1 - weight) * total + weight * distance, logits

    return both


def with_gates(loss: Loss, gates: Sequence[Gate], rate: float, weight: float = 2.0) -> Loss:
    """The loss, and for every gate the square of how far its share of open pictures is from `rate`.

    Source: Veit & Belongie 2018, equation 4, whose weight is 2, too. The mean over the gates is taken of the squares of
    single gates, so that none is always open and another never by chance of how they began.
    """

    def gated(network: Network, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, logits = loss(network, inputs, targets)
        rates = torch.stack([gate.rate for gate in gates])
        return total + weight * (rates - rate).square().mean(), logits

    return gated


def probabilities(targets: torch.Tensor, classes: int) -> torch.Tensor:
    """Classes (N,) as probabilities (N, K) float32; what are probabilities already stays."""
    return targets if targets.ndim == 2 else F.one_hot(targets, classes).float()
