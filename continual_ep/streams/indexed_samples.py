"""All samples of a data set as indices into tensors, with their labels.

Avalanche builds data sets as trees: subsets of concatenations of subsets, each with indices. Here such
a tree is resolved once, for all samples together, to the tensors at its leaves.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
from avalanche.benchmarks.utils.classification_dataset import lookup
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData
from avalanche.benchmarks.utils.transforms import MultiParamCompose, TupleTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, default_collate

from continual_ep.avalanche_internals import (
    TransformedData,
    attributes_of,
    parts_of,
    samples_below,
    transforms_of,
)
from continual_ep.errors import ConfigurationError
from continual_ep.streams.tensor_data import TensorData

Rows = NDArray[np.int64]


class UnsupportedLoader(ConfigurationError):
    """A data set or loader that cannot be read in whole batches; the message is the reason."""


class IndexedSamples:
    """All samples of a data set, read in batches by index.

    A batch equals what Avalanche's collation makes of the same samples: a list of inputs, labels and
    the attributes that are part of a sample (task labels).

    :param sets: the sets that hold the inputs.
    :param which: ``(n,)`` the number of each sample's set.
    :param rows: ``(n,)`` each sample's row in that set.
    :param values: what follows the input, ``(n, ...)`` each; labels first.
    :param device: moves the sets; None leaves them. Memory-mapped sets stay on the CPU.
    """

    def __init__(
        self,
        sets: Sequence[TensorData],
        which: Tensor,
        rows: Tensor,
        values: Sequence[Tensor],
        device: torch.device | str | None = None,
    ) -> None:
        self.sets = [part if device is None else part.on(device) for part in sets]
        devices = {part.labels.device for part in self.sets}
        self.device = devices.pop() if len(devices) == 1 else torch.device(device or "cpu")
        self._values = [column.to(self.device) for column in values]
        # Rows of several sets are grouped on the CPU, which avoids synchronising with a device.
        several = len(self.sets) > 1
        self._which = which if several else None
        self._rows = rows if several else rows.to(self.device)

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, indices: Tensor) -> list[Tensor]:
        """The samples at ``indices`` ``(n,)``, a CPU tensor."""
        if self._which is not None:
            return next(self.batches(indices, [len(indices)]))
        moved = indices.to(self.device)
        values = (column.index_select(0, moved) for column in self._values)
        return [self.sets[0].batch(self._rows.index_select(0, moved)), *values]

    def batches(self, indices: Tensor, sizes: list[int]) -> Iterator[list[Tensor]]:
        """Yield successive batches; everything but the inputs is fetched once for all of them.

        :param indices: ``(sum of sizes,)`` of all batches, a CPU tensor; moved to the device once.
        """
        moved = indices.to(self.device)
        values = zip(*(v.index_select(0, moved).split(sizes) for v in self._values), strict=True)
        if self._which is None:
            fetch = self.sets[0].batch
            rows = self._rows.index_select(0, moved).split(sizes)
            for batch_rows, rest in zip(rows, values, strict=True):
                yield [fetch(batch_rows), *rest]
        else:
            which, rows = self._which[indices].split(sizes), self._rows[indices].split(sizes)
            for batch_sets, batch_rows, rest in zip(which, rows, values, strict=True):
                yield [self._inputs(batch_sets, batch_rows), *rest]

    def _inputs(self, which: Tensor, rows: Tensor) -> Tensor:
        """Inputs from several sets, in the order of the samples."""
        x: Tensor | None = None
        for number in which.unique().tolist():
            source = self.sets[number]
            places = (which == number).nonzero().flatten()
            part = source.batch(rows[places].to(source.labels.device)).to(self.device)
            if len(places) == len(which):
                return part
            if x is None:
                x = part.new_empty(len(which), *part.shape[1:])
            x.index_copy_(0, places.to(self.device), part)
        assert x is not None
        return x


def index_samples(dataset: Any, device: torch.device | str | None = None) -> IndexedSamples:
    """Resolve a data set to the tensors that hold its samples.

    :param dataset: :class:`TensorData`, or any nesting of Avalanche's data sets and torch's
        ``ConcatDataset`` and ``Subset`` over such, with any attributes of one type.
    :param device: moves the samples there once; None leaves them. If the device is out of memory they
        stay where they are, and so do their batches.
    :raises UnsupportedLoader: for samples that are not in a :class:`TensorData`, or are transformed.
    """
    sets: list[TensorData] = []
    samples = _resolve(sets, None, dataset, None)
    if not len(samples.rows):
        raise UnsupportedLoader("the data set has no samples")
    kinds = {(x.shape, x.dtype) for x in (s.batch(s.labels.new_zeros(1)) for s in sets)}
    if len(kinds) > 1:
        raise UnsupportedLoader(f"its samples are of several kinds: {sorted(map(str, kinds))}")
    which, rows = torch.from_numpy(samples.which), torch.from_numpy(samples.rows)
    try:
        return IndexedSamples(sets, which, rows, samples.values, device)
    except torch.OutOfMemoryError:
        return IndexedSamples(sets, which, rows, samples.values)


class _Part(NamedTuple):
    """Samples of a subtree: the set of each, its row in that set, and what follows the input."""

    which: Rows
    rows: Rows
    values: list[Tensor]


def _resolve(sets: list[TensorData], group: str | None, dataset: Any, rows: Rows | None) -> _Part:
    """The samples of ``dataset`` at ``rows`` (None for all) under a group of transforms."""
    if isinstance(dataset, TensorData) and type(dataset).__getitem__ is TensorData.__getitem__:
        number = next((i for i, known in enumerate(sets) if known is dataset), len(sets))
        if number == len(sets):
            sets.append(dataset)
        rows = np.arange(len(dataset)) if rows is None else rows
        labels = dataset.labels.cpu()[torch.from_numpy(rows)]
        return _Part(np.full(len(rows), number), rows, [labels])
    if _is(dataset, AvalancheDataset):
        part = _resolve(sets, None, samples_below(dataset), rows)
        for attribute in attributes_of(dataset):
            if attribute.use_in_getitem and len(part.rows):
                part.values.extend(_attribute(attribute.name, attribute, rows).values)
        return part
    if _is(dataset, TransformedData):
        frozen, current = transforms_of(dataset)
        group = group or current.current_group
        part = _resolve_node(dataset, rows, partial(_resolve, sets, group))
        return _renumbered(_renumbered(part, frozen, group), current, group)
    if _is(dataset, FlatData):
        return _resolve_node(dataset, rows, partial(_resolve, sets, None))
    if _is(dataset, ConcatDataset):
        return _resolve_concatenation(dataset.datasets, rows, partial(_resolve, sets, None))
    if type(dataset) is Subset:
        return _resolve(sets, None, dataset.dataset, _index(dataset.indices, rows))
    kind = type(dataset)
    raise UnsupportedLoader(
        f"{kind.__module__}.{kind.__qualname__} does not keep its samples in a tensor"
    )


def _resolve_node(
    data: Any, rows: Rows | None, resolve: Callable[[Any, Rows | None], _Part]
) -> _Part:
    """The samples at ``rows`` of a node of Avalanche's tree: a subset of concatenated parts."""
    parts, indices = parts_of(data)
    rows = rows if indices is None else _index(indices, rows)
    return _resolve_concatenation(parts, rows, resolve)


def _is(dataset: Any, kind: Any) -> bool:
    """Whether it is of this kind and inherits its way of reading samples."""
    return isinstance(dataset, kind) and type(dataset).__getitem__ is kind.__getitem__


def _renumbered(part: _Part, groups: Any, group: str | None) -> _Part:
    """Apply a group's transform, which may only be none or Avalanche's renumbering of classes."""
    try:
        transform = None if groups is None else groups.transform_groups[group]
    except KeyError:
        raise UnsupportedLoader(f"it has no group of transforms named {group!r}") from None
    if transform is None:
        return part
    steps = getattr(transform, "transforms", [transform])
    if type(transform) is MultiParamCompose and not steps:
        return part
    others = [step for step in (*steps[:1], *steps[2:]) if step is not None]
    if type(transform) is not TupleTransform or others:
        raise UnsupportedLoader(f"its samples are transformed one by one, by {transform}")
    for renumber in (step for step in steps[1:] if step is not None):
        if not isinstance(renumber, partial) or renumber.func is not lookup or renumber.keywords:
            raise UnsupportedLoader(f"its labels are transformed one by one, by {renumber}")
        labels = torch.tensor(renumber.args[0])[part.values[0]]
        part = part._replace(values=[labels, *part.values[1:]])
    return part


def _resolve_concatenation(
    parts: Sequence[Any], rows: Rows | None, resolve: Callable[[Any, Rows | None], _Part]
) -> _Part:
    """The samples at ``rows`` of concatenated parts, each resolved by ``resolve(part, its rows)``."""
    if len(parts) == 1:
        return resolve(parts[0], rows)
    sizes = [len(part) for part in parts]
    if rows is None:
        return _concatenated(
            [resolve(part, None) for part, size in zip(parts, sizes, strict=True) if size]
        )
    ends = np.cumsum([0, *sizes])
    where = np.searchsorted(ends[1:], rows, side="right")
    places = [(number, np.flatnonzero(where == number)) for number in np.unique(where).tolist()]
    samples = _concatenated([resolve(parts[n], rows[at] - ends[n]) for n, at in places])
    if len(places) < 2:
        return samples
    order = np.argsort(np.concatenate([at for _, at in places]))
    values = [column[torch.from_numpy(order)] for column in samples.values]
    return _Part(samples.which[order], samples.rows[order], values)


def _concatenated(parts: list[_Part]) -> _Part:
    if not parts:
        return _Part(np.zeros(0, np.int64), np.zeros(0, np.int64), [])
    if len(parts) == 1:
        return parts[0]
    kinds = {tuple((column.shape[1:], column.dtype) for column in part.values) for part in parts}
    if len(kinds) > 1:
        raise UnsupportedLoader("the attributes of its parts differ in number or type")
    values = [torch.cat(columns) for columns in zip(*(part.values for part in parts), strict=True)]
    which, rows = (np.concatenate([p[field] for p in parts]) for field in (0, 1))
    return _Part(which, rows, values)


def _index(indices: Any, rows: Rows | None) -> Rows:
    """``indices[rows]``, where indices are a list, an array, or one of Avalanche's lazy sequences."""
    if rows is None and not isinstance(indices, list):
        return np.fromiter((int(index) for index in indices), np.int64, len(indices))
    if rows is None:
        return np.array(indices, np.int64)
    return np.fromiter((indices[row] for row in rows.tolist()), np.int64, len(rows))


def _attribute(name: str, sequence: Any, rows: Rows | None) -> _Part:
    """The values of an attribute, collated once for all samples, as the only column."""
    if isinstance(sequence, DataAttribute):
        return _attribute(name, sequence.data, rows)
    if isinstance(sequence, FlatData):
        return _resolve_node(sequence, rows, partial(_attribute, name))
    count = len(sequence) if rows is None else len(rows)
    if isinstance(sequence, ConstantSequence):
        values = [sequence[0]]
    else:
        values = list(sequence) if rows is None else [sequence[row] for row in rows.tolist()]
    types = sorted({type(value).__name__ for value in values})
    try:
        column = default_collate(values)
    except (RuntimeError, TypeError, ValueError):
        column = None  # tensors of several shapes, or a type that torch does not collate
    if len(types) > 1 or not isinstance(column, Tensor):
        raise UnsupportedLoader(
            f"its attribute {name} holds {' and '.join(types)} that make no tensor"
        )
    unused = np.zeros(count, np.int64)
    return _Part(unused, unused, [column.expand(count, *column.shape[1:])])
