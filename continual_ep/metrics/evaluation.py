"""Evaluate a model without changing its mode, its gradients or any random state."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from avalanche.models import avalanche_forward
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from continual_ep.errors import InputError
from continual_ep.forward_passes import evaluating
from continual_ep.streams.feed import BatchLoader, feed
from continual_ep.streams.indexed_samples import UnsupportedLoader

Batch = tuple[Tensor, Tensor, Tensor | None]


def batches_of(
    dataset: Any, batch_size: int, device: torch.device | str | None = None
) -> Iterator[Batch]:
    """``(inputs, labels, task labels or None)`` in the data set's order, by its own collation.

    :param device: where batches may lie at once if the samples are tensors; None leaves them. Other
        data sets are read sample by sample, and their batches lie where these do.
    """
    yield from read(loader_of(dataset, batch_size, device))


def loader_of(
    dataset: Any, batch_size: int, device: torch.device | str | None = None
) -> BatchLoader | DataLoader[Any]:
    """A loader in the data set's order: of whole batches if the samples are tensors."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=getattr(dataset, "collate_fn", None),
        generator=torch.Generator(),  # a loader without one draws from the global generator
    )
    try:
        return feed(loader, device)
    except UnsupportedLoader:
        return loader


def read(loader: Iterable[Any]) -> Iterator[Batch]:
    """``(inputs, labels, task labels or None)`` of each batch."""
    for x, y, *task in loader:
        yield x, y, task[0] if task else None


def correct_in(
    model: nn.Module, batches: Iterable[Batch], device: torch.device | str = "cpu"
) -> tuple[int, int]:
    """``(right, all)``: how many samples have their label as the largest output."""
    right = total = 0
    for x, y, task in batches:
        output = avalanche_forward(model, x.to(device), None if task is None else task.to(device))
        right += int((output.argmax(dim=1) == y.to(device)).sum())
        total += len(y)
    return right, total


def accuracy_per_experience(
    model: nn.Module,
    stream: Iterable[Any],
    *,
    batch_size: int = 1000,
    device: torch.device | str = "cpu",
) -> NDArray[np.float64]:
    """``(experiences,)`` accuracies of a model on a stream, in [0, 1].

    :param batch_size: samples per forward pass; the result does not depend on it.
    :raises InputError: an experience without samples.
    """
    accuracies: list[float] = []
    with evaluating(model, device):
        for experience in stream:
            batches = batches_of(experience.dataset.eval(), batch_size, device)
            right, total = correct_in(model, batches, device)
            if not total:
                raise InputError(
                    f"experience {len(accuracies)} of the evaluation stream has no samples."
                )
            accuracies.append(right / total)
    return np.array(accuracies, dtype=np.float64)
