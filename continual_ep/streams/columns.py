"""A data set as tensors: which rows of which :class:`TensorData` its samples are, and their labels.

Avalanche builds data sets as trees: subsets of concatenations of subsets, each with its own indices.
Here such a tree is followed once, for all samples together, down to the tensors at its leaves.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.benchmarks.utils.classification_dataset import lookup
from avalanche.benchmarks.utils.data import _FlatDataWithTransform
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData
from avalanche.benchmarks.utils.transforms import MultiParamCompose, TupleTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, default_collate

from continual_ep.errors import ConfigurationError
from continual_ep.streams.tensor_data import TensorData

Rows = NDArray[np.int64]


class CannotFeed(ConfigurationError):
    """What keeps a data set or a loader from being fed by whole batches; the message is the reason."""


class Columns:
    """All samples of a data set as columns, of which batches are rows.

    A batch is what Avalanche's collation makes of the same samples: a list of inputs, labels and the
    attributes that are part of a sample (task labels).

    :param sets: where the inputs are.
    :param which: ``(n,)`` the set of each sample; :param rows: ``(n,)`` its row there.
    :param values: ``(n, ...)`` each, what follows the input: labels first.
    :param device: where the sets shall lie; None leaves them. Sets mapped from disk stay on the CPU.
    """

    def __init__(
        self,
        sets: Sequence[TensorData],
        which: Tensor,
        rows: Tensor,
        values: Sequence[Tensor],
        device: torch.device | str | None = None,
    ) -> None:
        self.sets = [found if device is None else found.on(device) for found in sets]
        devices = {found.labels.device for found in self.sets}
        self.device = devices.pop() if len(devices) == 1 else torch.device(device or "cpu")
        self._values = [column.to(self.device) for column in values]
        # Rows of several sets are sorted out on the CPU, where that needs no waiting for a device.
        several = len(self.sets) > 1
        self._which = which if several else None
        self._rows = rows if several else rows.to(self.device)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> list[Tensor]:
        """The samples at ``indices`` ``(n,)``, which lie on the CPU."""
        if self._which is not None:
            return next(self.batches(indices, [len(indices)]))
        there = indices.to(self.device)
        values = (column.index_select(0, there) for column in self._values)
        return [self.sets[0].batch(self._rows.index_select(0, there)), *values]

    def batches(self, indices: Tensor, sizes: list[int]) -> Iterator[list[Tensor]]:
        """One batch after the other; all but the inputs is fetched at once.

        :param indices: ``(sum of sizes,)`` of all batches, on the CPU; one transfer to the device.
        """
        there = indices.to(self.device)
        values = zip(*(v.index_select(0, there).split(sizes) for v in self._values), strict=True)
        if self._which is None:
            fetch = self.sets[0].batch
            rows = self._rows.index_select(0, there).split(sizes)
            for at, rest in zip(rows, values, strict=True):
                yield [fetch(at), *rest]
        else:
            which, rows = self._which[indices].split(sizes), self._rows[indices].split(sizes)
            for sets, at, rest in zip(which, rows, values, strict=True):
                yield [self._gathered(sets, at), *rest]

    def _gathered(self, which: Tensor, rows: Tensor) -> Tensor:
        """Inputs from several sets, in the order of the samples."""
        x: Tensor | None = None
        for number in which.unique().tolist():
            found = self.sets[number]
            places = (which == number).nonzero().flatten()
            part = found.batch(rows[places].to(found.labels.device)).to(self.device)
            if len(places) == len(which):
                return part
            if x is None:
                x = part.new_empty(len(which), *part.shape[1:])
            x.index_copy_(0, places.to(self.device), part)
        assert x is not None
        return x


def columns_of(dataset: Any, device: torch.device | str | None = None) -> Columns:
    """Follow a data set to the tensors that hold its samples.

    :param dataset: :class:`TensorData`, or any nesting of Avalanche's data sets and torch's
        ``ConcatDataset`` and ``Subset`` over such, with any attributes of one type.
    :param device: where the samples shall lie, moved once; None leaves them. If it has no room for them
        they stay where they are, and so do their batches.
    :raises CannotFeed: for samples that are not in a :class:`TensorData`, or changed on their way.
    """
    sets: list[TensorData] = []
    found = _found(sets, None, dataset, None)
    if not len(found.rows):
        raise CannotFeed("the data set has no samples")
    kinds = {(x.shape, x.dtype) for x in (s.batch(s.labels.new_zeros(1)) for s in sets)}
    if len(kinds) > 1:
        raise CannotFeed(f"its samples are of several kinds: {sorted(map(str, kinds))}")
    which, rows = torch.from_numpy(found.which), torch.from_numpy(found.rows)
    try:
        return Columns(sets, which, rows, found.values, device)
    except torch.OutOfMemoryError:
        return Columns(sets, which, rows, found.values)


class _Found(NamedTuple):
    """Samples of a part of the tree: the set of each, its row there, and what follows the input."""

    which: Rows
    rows: Rows
    values: list[Tensor]


def _found(sets: list[TensorData], group: str | None, dataset: Any, rows: Rows | None) -> _Found:
    """The samples of ``dataset`` at ``rows`` (None for all) under a group of transforms."""
    if isinstance(dataset, TensorData) and type(dataset).__getitem__ is TensorData.__getitem__:
        number = next((i for i, known in enumerate(sets) if known is dataset), len(sets))
        if number == len(sets):
            sets.append(dataset)
        rows = np.arange(len(dataset)) if rows is None else rows
        labels = dataset.labels.cpu()[torch.from_numpy(rows)]
        return _Found(np.full(len(rows), number), rows, [labels])
    if _is(dataset, AvalancheDataset):
        found = _found(sets, None, dataset._flat_data, rows)
        for attribute in dataset._data_attributes.values():
            if attribute.use_in_getitem and len(found.rows):
                found.values.extend(_attribute(attribute.name, attribute, rows).values)
        return found
    if _is(dataset, _FlatDataWithTransform):
        group = group or dataset._transform_groups.current_group
        rows = rows if dataset._indices is None else _taken(dataset._indices, rows)
        found = _joined(dataset._datasets, rows, partial(_found, sets, group))
        for groups in (dataset._frozen_transform_groups, dataset._transform_groups):
            found = _transformed(found, groups, group)
        return found
    if _is(dataset, FlatData):
        rows = rows if dataset._indices is None else _taken(dataset._indices, rows)
        return _joined(dataset._datasets, rows, partial(_found, sets, None))
    if _is(dataset, ConcatDataset):
        return _joined(dataset.datasets, rows, partial(_found, sets, None))
    if type(dataset) is Subset:
        return _found(sets, None, dataset.dataset, _taken(dataset.indices, rows))
    kind = type(dataset)
    raise CannotFeed(f"{kind.__module__}.{kind.__qualname__} does not keep its samples in a tensor")


def _is(dataset: Any, kind: Any) -> bool:
    """Whether it is of this kind and reads its samples as this kind does."""
    return isinstance(dataset, kind) and type(dataset).__getitem__ is kind.__getitem__


def _transformed(found: _Found, groups: Any, group: str | None) -> _Found:
    """No transform at all, or Avalanche's renumbering of classes; nothing else is done to samples."""
    try:
        transform = None if groups is None else groups.transform_groups[group]
    except KeyError:
        raise CannotFeed(f"it has no group of transforms named {group!r}") from None
    if transform is None:
        return found
    steps = getattr(transform, "transforms", [transform])
    if type(transform) is MultiParamCompose and not steps:
        return found
    others = [step for step in (*steps[:1], *steps[2:]) if step is not None]
    if type(transform) is not TupleTransform or others:
        raise CannotFeed(f"its samples are transformed one by one, by {transform}")
    for renumber in (step for step in steps[1:] if step is not None):
        if not isinstance(renumber, partial) or renumber.func is not lookup or renumber.keywords:
            raise CannotFeed(f"its labels are transformed one by one, by {renumber}")
        labels = torch.tensor(renumber.args[0])[found.values[0]]
        found = found._replace(values=[labels, *found.values[1:]])
    return found


def _joined(
    parts: Sequence[Any], rows: Rows | None, follow: Callable[[Any, Rows | None], _Found]
) -> _Found:
    """Rows of parts laid end to end; ``follow(part, rows of it)`` finds them."""
    if len(parts) == 1:
        return follow(parts[0], rows)
    sizes = [len(part) for part in parts]
    if rows is None:
        return _laid_end_to_end(
            [follow(part, None) for part, size in zip(parts, sizes, strict=True) if size]
        )
    ends = np.cumsum([0, *sizes])
    where = np.searchsorted(ends[1:], rows, side="right")
    places = [(number, np.flatnonzero(where == number)) for number in np.unique(where).tolist()]
    found = _laid_end_to_end([follow(parts[n], rows[at] - ends[n]) for n, at in places])
    if len(places) < 2:
        return found
    order = np.argsort(np.concatenate([at for _, at in places]))
    values = [column[torch.from_numpy(order)] for column in found.values]
    return _Found(found.which[order], found.rows[order], values)


def _laid_end_to_end(parts: list[_Found]) -> _Found:
    if not parts:
        return _Found(np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    if len(parts) == 1:
        return parts[0]
    kinds = {tuple((column.shape[1:], column.dtype) for column in part.values) for part in parts}
    if len(kinds) > 1:
        raise CannotFeed("the attributes of its parts differ in number or type")
    values = [torch.cat(columns) for columns in zip(*(part.values for part in parts), strict=True)]
    which, rows = (np.concatenate([p[field] for p in parts]) for field in (0, 1))
    return _Found(which, rows, values)


def _taken(indices: Any, rows: Rows | None) -> Rows:
    """``indices[rows]``, where indices are a list, an array, or one of Avalanche's lazy sequences."""
    if rows is None and not isinstance(indices, list):
        return np.fromiter((int(index) for index in indices), np.int64, len(indices))
    if rows is None:
        return np.array(indices, np.int64)
    return np.fromiter((indices[row] for row in rows.tolist()), np.int64, len(rows))


def _attribute(name: str, sequence: Any, rows: Rows | None) -> _Found:
    """The values of an attribute, collated for all samples at once, as the only column."""
    if isinstance(sequence, DataAttribute):
        return _attribute(name, sequence.data, rows)
    if isinstance(sequence, FlatData):
        rows = rows if sequence._indices is None else _taken(sequence._indices, rows)
        return _joined(sequence._datasets, rows, partial(_attribute, name))
    count = len(sequence) if rows is None else len(rows)
    if isinstance(sequence, ConstantSequence):
        values = [sequence[0]]
    else:
        values = list(sequence) if rows is None else [sequence[row] for row in rows.tolist()]
    types = sorted({type(value).__name__ for value in values})
    try:
        column = default_collate(values)
    except (RuntimeError, TypeError, ValueError):
        column = None  # tensors of several shapes, or what torch does not collate
    if len(types) > 1 or not isinstance(column, Tensor):
        raise CannotFeed(f"its attribute {name} holds {' and '.join(types)} that make no tensor")
    nowhere = np.zeros(count, np.int64)
    return _Found(nowhere, nowhere, [column.expand(count, *column.shape[1:])])
