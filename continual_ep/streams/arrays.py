"""Arrays of a classification set: checked once, scaled once, then held in memory as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from continual_ep.errors import ConfigurationError, InputError

SCALES = ("auto", "max", "none")


@dataclass(frozen=True)
class Arrays:
    """A checked data set: raw values, and labels that are contiguous from 0.

    :param train_x, test_x: ``(n, features)``, ``(n, height, width)`` or
        ``(n, channels, height, width)``, of one trailing shape and any numeric type.
    :param train_y, test_y: ``(n,)`` int64 labels in ``0 .. n_classes - 1``.
    :param class_names: one name per label.
    :param label_values: the label that the source had for each of ours, e.g. ``(3, 7)`` when its
        labels were 3 and 7 and are now 0 and 1.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    class_names: tuple[str, ...]
    label_values: tuple[int, ...]

    @property
    def n_classes(self) -> int:
        return len(self.label_values)

    @classmethod
    def checked(
        cls,
        train_x: Any,
        train_y: Any,
        test_x: Any,
        test_y: Any,
        class_names: Sequence[str] | None = None,
    ) -> "Arrays":
        """Check four arrays and map their labels to ``0 .. n_classes - 1``.

        :param class_names: names of the source's labels 0, 1, ...; labels outside are an error.
            None: any integers are labels, and each is its own name.
        :raises InputError: shapes, types, lengths, values or labels that cannot be learned from.
        """
        train_x, train_y = _checked_split("train", train_x, train_y)
        test_x, test_y = _checked_split("test", test_x, test_y)
        if train_x.shape[1:] != test_x.shape[1:]:
            raise InputError(
                f"train_x has samples of shape {train_x.shape[1:]} but test_x of "
                f"{test_x.shape[1:]}: both need the same."
            )
        values = np.unique(train_y)
        _check_labels(values, np.unique(test_y), class_names)
        names = [str(v) if class_names is None else class_names[v] for v in values.tolist()]
        return cls(
            train_x=train_x,
            train_y=np.searchsorted(values, train_y),
            test_x=test_x,
            test_y=np.searchsorted(values, test_y),
            class_names=tuple(names),
            label_values=tuple(values.tolist()),
        )

    def divisor(self, scale: str) -> float:
        """The number by which the inputs are divided.

        ``"auto"`` brings what it can to [0, 1]: bytes are divided by 255, other non-negative
        values that pass 1 by the maximum of the training set; the rest is left as it is.
        ``"max"`` always divides by the maximum of the training set, ``"none"`` never divides.
        """
        if scale not in SCALES:
            raise ConfigurationError(f"scale={scale!r} is unknown: choose one of {SCALES}.")
        if scale == "none":
            return 1.0
        highest, lowest = float(self.train_x.max()), float(self.train_x.min())
        if scale == "max":
            if highest <= 0:
                raise ConfigurationError(
                    f"scale='max' needs a positive training maximum, which is {highest}: "
                    "use scale='none'."
                )
            return highest
        if self.train_x.dtype == np.uint8:
            return 255.0
        return highest if lowest >= 0 and highest > 1 else 1.0


class TensorData(Dataset[tuple[Tensor, int]]):
    """Samples in one tensor, labels as plain integers (Avalanche reads ``targets`` as a list).

    :param data: ``(n, ...)`` float32.
    :param targets: ``(n,)`` integer labels.
    """

    def __init__(self, data: Tensor, targets: Sequence[int]) -> None:
        self.data = data
        self.targets = [int(label) for label in targets]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.data[index], self.targets[index]


def as_samples(x: np.ndarray, divisor: float, flatten: bool) -> Tensor:
    """float32 samples ``(n, features)`` when flattened, else ``(n, channels, height, width)``.

    Feature vectors stay ``(n, features)`` either way; images without a channel axis get one.
    """
    samples = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).clone()
    samples /= divisor
    if flatten:
        return samples.flatten(1)
    return samples.unsqueeze(1) if samples.ndim == 3 else samples


def _checked_split(split: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype.kind not in "buif":
        raise InputError(f"{split}_x has type {x.dtype}: numbers are needed.")
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise InputError(
            f"{split}_x has shape {x.shape}: (n, features), (n, height, width) or "
            "(n, channels, height, width) with at least one sample is needed."
        )
    if y.ndim != 1 or y.dtype.kind not in "ui":
        raise InputError(
            f"{split}_y has shape {y.shape} and type {y.dtype}: one integer label per sample, "
            "shape (n,), is needed."
        )
    if len(x) != len(y):
        raise InputError(f"{split}_x holds {len(x)} samples but {split}_y {len(y)} labels.")
    _check_finite(split, x)
    return x, y.astype(np.int64)


def _check_finite(split: str, x: np.ndarray) -> None:
    if x.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):  # a float64 too large for float32 is counted as infinite
        bad = ~np.isfinite(x.astype(np.float32))
    if bad.any():
        samples = np.flatnonzero(bad.reshape(len(x), -1).any(axis=1))
        raise InputError(
            f"{split}_x holds {int(bad.sum())} NaN or infinite values in {len(samples)} samples "
            f"(the first is sample {samples[0]}): remove or repair them."
        )


def _check_labels(train: np.ndarray, test: np.ndarray, class_names: Sequence[str] | None) -> None:
    if class_names is not None:
        outside = [v for v in np.union1d(train, test).tolist() if not 0 <= v < len(class_names)]
        if outside:
            raise InputError(f"labels {outside} lie outside 0..{len(class_names) - 1}.")
    unseen = np.setdiff1d(test, train).tolist()
    if unseen:
        raise InputError(f"test_y has labels {unseen} of which train_y holds no sample.")
    untested = np.setdiff1d(train, test).tolist()
    if untested:
        raise InputError(f"train_y has labels {untested} of which test_y holds no sample.")
