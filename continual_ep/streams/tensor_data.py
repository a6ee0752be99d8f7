"""Data sets whose samples are rows of one tensor, read in whole batches or one by one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from continual_ep.streams.arrays import Arrays

#: Sets of up to so many bytes, as float32, are prepared once; larger ones batch by batch.
PREPARED_AT_ONCE = 2**30


@dataclass(frozen=True)
class Preparation:
    r"""Turn stored values into network inputs, :math:`(x / d - \mu_c) / \sigma_c`.

    :param divisor: :math:`d`.
    :param image_shape: ``(height, width)`` or ``(channels, height, width)`` of the source; None for
        feature vectors.
    :param flatten: samples as vectors, else as ``(channels, height, width)``.
    :param mean, std: :math:`\mu_c, \sigma_c` of each channel (features: one of each), or None.
    """

    divisor: float = 1.0
    image_shape: tuple[int, ...] | None = None
    flatten: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, stored: Tensor) -> Tensor:
        """``(n, ...)`` of any numeric type as float32 ``(n, features)`` or ``(n, c, h, w)``."""
        x = stored.to(torch.float32, copy=True).div_(self.divisor)
        if self.mean is not None and self.std is not None:
            view = [1, len(self.mean), *[1] * (2 if self.image_shape else 0)]
            images = x.unsqueeze(1) if x.dim() == 3 else x
            images.sub_(x.new_tensor(self.mean).view(view)).div_(x.new_tensor(self.std).view(view))
        if self.flatten:
            return x.flatten(1)
        return x.unsqueeze(1) if x.dim() == 3 else x


class TensorData(Dataset[tuple[Tensor, int]]):
    """A part of a tensor of samples with its labels (Avalanche reads ``targets`` as a list).

    :param data: ``(n, ...)``: float32 as networks get them, or as stored if there is a ``preparation``.
    :param targets: an integer label for each sample of this part.
    :param rows: the rows of ``data`` that make this part; None for all of them.
    :param preparation: applied to each batch.
    :param mapped: whether ``data`` lie on disk; then they stay there and only batches move.
    :param copies: of ``data`` on other devices, shared by all parts of one tensor.
    """

    def __init__(
        self,
        data: Tensor,
        targets: Sequence[int] | Tensor,
        *,
        rows: Tensor | None = None,
        preparation: Preparation | None = None,
        mapped: bool = False,
        copies: dict[torch.device, Tensor] | None = None,
    ) -> None:
        self.data, self.rows, self.preparation, self.mapped = data, rows, preparation, mapped
        labels = torch.as_tensor(targets, dtype=torch.int64)
        #: The labels as a tensor ``(n,)``, where the data are.
        self.labels = labels.to(data.device)
        self.targets: list[int] = labels.tolist()
        self._copies: dict[torch.device, Tensor] = {} if copies is None else copies
        self._moved: dict[torch.device, TensorData] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.batch(torch.tensor([index], device=self.data.device))[0], self.targets[index]

    def batch(self, indices: Tensor) -> Tensor:
        """The samples at ``indices`` ``(n,)`` as float32 ``(n, *sample)``, on the data's device."""
        rows = indices if self.rows is None else self.rows.index_select(0, indices)
        stored = self.data.index_select(0, rows)
        return stored if self.preparation is None else self.preparation(stored)

    def on(self, device: torch.device | str) -> "TensorData":
        """The same samples with their tensor on ``device``, moved once for all parts; mapped data stay."""
        device = torch.empty(0, device=device).device
        if device == self.data.device or self.mapped:
            return self
        if device not in self._moved:
            if device not in self._copies:
                self._copies[device] = self.data.to(device)
            self._moved[device] = TensorData(
                self._copies[device],
                self.targets,
                rows=None if self.rows is None else self.rows.to(device),
                preparation=self.preparation,
            )
        return self._moved[device]


@dataclass(frozen=True)
class Samples:
    """All samples of a split; its parts share one tensor.

    :param data, preparation, mapped: as of :class:`TensorData`; :param labels: ``(n,)`` int64.
    """

    data: Tensor
    labels: Tensor
    preparation: Preparation | None = None
    mapped: bool = False
    copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, preparation: Preparation) -> "Samples":
        """Prepare small sets once; large sets and sets on disk are prepared batch by batch."""
        mapped = isinstance(x, np.memmap)
        stored, labels = _shared(x), torch.from_numpy(np.ascontiguousarray(y))
        if not mapped and 4 * x.size <= PREPARED_AT_ONCE:
            return cls(preparation(stored), labels)
        return cls(stored, labels, preparation, mapped)

    def part(self, rows: Tensor | None = None) -> TensorData:
        """The samples at ``rows``; None for all."""
        labels = self.labels if rows is None else self.labels[rows]
        return TensorData(
            self.data,
            labels,
            rows=rows,
            preparation=self.preparation,
            mapped=self.mapped,
            copies=self.copies,
        )


def _shared(x: np.ndarray) -> Tensor:
    """A tensor over an array's own memory where torch has its type; else a float32 copy."""
    if x.dtype not in (np.uint8, np.float16, np.float32) or not x.dtype.isnative:
        return torch.from_numpy(x.astype(np.float32))
    if isinstance(x, np.memmap) and not x.flags.writeable:
        # torch warns of read-only memory; a copy-on-write map of the same file has no such warning.
        filename: Any = x.filename
        x = np.memmap(filename, x.dtype, "c", x.offset, x.shape)
    return torch.from_numpy(x if x.flags.writeable else np.array(x, copy=True))


def channel_statistics(
    arrays: Arrays, divisor: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the training set, after the divisor.

    Feature vectors have one mean and one deviation in all. A constant channel has deviation 1.
    """
    x = arrays.train_x
    images = x[:, None] if x.ndim == 3 else x
    channels = images.shape[1] if x.ndim > 2 else 1
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(x), 1000):
        part = images[start : start + 1000].astype(np.float64) / divisor
        part = part.reshape(len(part), channels, -1)
        total, squares = total + part.sum((0, 2)), squares + (part**2).sum((0, 2))
        count += part.shape[0] * part.shape[2]
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
