"""Check the arrays of a classification data set."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from continual_ep.errors import ConfigurationError, InputError

SCALES = ("auto", "max", "none")

#: Samples read at a time.
ROWS = 10_000

#: A fingerprint hashes about this many bytes: all rows of smaller arrays, every k-th row of larger ones.
HASHED_BYTES = 2**28


@dataclass(frozen=True)
class Arrays:
    """A checked data set: raw values, and labels that are contiguous from 0.

    :param train_x, test_x: ``(n, features)``, ``(n, height, width)`` or
        ``(n, channels, height, width)``, of one trailing shape and any numeric type. Images with
        1, 3 or 4 channels last are brought into this form.
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

    def selected(self, classes: Sequence[int]) -> "Arrays":
        """Only the samples of ``classes``, which become ``0, 1, ...`` in the order given."""
        return Arrays(
            *_only(self.train_x, self.train_y, classes),
            *_only(self.test_x, self.test_y, classes),
            class_names=tuple(self.class_names[label] for label in classes),
            label_values=tuple(self.label_values[label] for label in classes),
        )

    def fingerprint(self) -> str:
        """Hash labels and samples; of sets above 256 MB every k-th row only."""
        digest = hashlib.sha256()
        for x, y in ((self.train_x, self.train_y), (self.test_x, self.test_y)):
            step = 1 + x.nbytes // HASHED_BYTES
            digest.update(f"{x.shape} {x.dtype}".encode())
            digest.update(y.tobytes())
            for start in range(0, len(x), ROWS * step):
                digest.update(x[start : start + ROWS * step : step].tobytes())
        return digest.hexdigest()

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


def _only(x: np.ndarray, y: np.ndarray, classes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    new = np.full(int(y.max()) + 1 if len(y) else 0, -1, dtype=np.int64)
    for position, label in enumerate(classes):
        if label < len(new):
            new[label] = position
    kept = np.flatnonzero(new[y] >= 0)
    return np.asarray(x[kept]), new[y[kept]]


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Move channels that come last to the front; heights of 1, 3 or 4 pixels are read as channels."""
    if x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        return x.transpose(0, 3, 1, 2)
    return x


def _checked_split(split: str, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asanyarray(x), np.asarray(y)  # keeps memory-mapped files mapped
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
    return _channels_first(x), y.astype(np.int64)


def _check_finite(split: str, x: np.ndarray) -> None:
    if x.dtype.kind != "f":
        return
    values, samples = 0, []
    for start in range(0, len(x), ROWS):  # piece by piece, for memory-mapped files
        with np.errstate(over="ignore"):  # a float64 too large for float32 counts as infinite
            bad = ~np.isfinite(x[start : start + ROWS].astype(np.float32))
        if bad.any():
            values += int(bad.sum())
            samples += (start + np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))).tolist()
    if values:
        raise InputError(
            f"{split}_x holds {values} NaN or infinite values in {len(samples)} samples "
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
