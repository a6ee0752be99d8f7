"""Batches of exemplars for losses of their own, beside the batches of new samples."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from continual_ep.metrics.evaluation import batches_of


def samples_of(dataset: Any, device: torch.device | str | None = None) -> list[Tensor]:
    """All inputs, labels and task labels of a data set; task labels are 0 where there are none."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for x, y, task in batches_of(dataset, 1000, device):
        columns = (x, y, torch.zeros_like(y) if task is None else task)
        for part, column in zip(parts, columns, strict=True):
            part.append(column.to(device))
    return [torch.cat(part) for part in parts]


def endless_batches(
    columns: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[list[Tensor]]:
    """Batches in random order, all of one size, again and again.

    :param columns: of the same length each; a batch has rows of each of them.
    :param batch_size: all samples if there are fewer.
    """
    count = len(columns[0])
    size = min(batch_size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            rows = order[start : start + size]
            yield [column[rows.to(column.device)] for column in columns]
