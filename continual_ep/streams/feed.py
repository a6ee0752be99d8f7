"""Read whole batches by index: the same batches in the same order as a data loader.

A data loader draws indices, fetches samples one by one and collates them. Where all samples are in
tensors, fetching and collating are one ``index_select``. The loader's own samplers draw the indices,
so batches and random states are bit for bit those of the ordinary path.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader, MultiDatasetSampler
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from continual_ep.avalanche_internals import overridden_batch_method, sampler_of
from continual_ep.streams.indexed_samples import IndexedSamples, UnsupportedLoader, index_samples


class BatchLoader:
    """The batches of a loader, read whole instead of sample by sample.

    :param loader: a ``DataLoader`` or a loader of Avalanche, of which the samplers are used.
    :param samples: all of its samples.
    """

    def __init__(self, loader: Any, samples: IndexedSamples) -> None:
        self.loader, self.samples = loader, samples

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Tensor]]:
        if not isinstance(self.loader, DataLoader):
            return self._of_avalanche()
        # As torch's loaders do, draw from the random state now; Avalanche's do on the first batch.
        sampler = self.loader.batch_sampler
        return self._batches(sampler, _started(sampler, self.loader.generator))

    def _of_avalanche(self) -> Iterator[list[Tensor]]:
        sampler = sampler_of(self.loader)
        sampler.samplers = [_Slices(p) if _draws_at_once(p) else p for p in sampler.samplers]
        yield from self._batches(
            sampler, _started(sampler, self.loader.loader_kwargs.get("generator"))
        )

    def _batches(self, sampler: Any, started: Iterator[Any]) -> Iterator[list[Tensor]]:
        restarts = _restarts(sampler)
        if restarts is None:
            for indices in started:
                yield self.samples.batch(torch.tensor(indices))
            return
        for block in _blocks(_as_arrays(sampler, started), restarts):
            indices = torch.from_numpy(np.concatenate(block))
            yield from self.samples.batches(indices, [len(batch) for batch in block])


def feed(loader: Any, device: torch.device | str | None = None) -> BatchLoader:
    """Replace a data loader by one that reads whole batches.

    :param loader: torch's ``DataLoader`` or any of Avalanche's, over data sets of this package's
        streams, or any subsets and concatenations of them.
    :param device: moves the samples there once; None leaves them. Memory-mapped sets stay on the CPU.
    :raises UnsupportedLoader: for a loader or data set that cannot be read in whole batches, with the
        reason.
    """
    if isinstance(loader, MultiDatasetDataLoader):
        samples = index_samples(_joint_data(loader), device)
        # Same test as Avalanche's has_ffcv_support, which takes as long as an epoch of batches.
        if any(hasattr(part, "ffcv_info") for part in samples.sets):
            raise UnsupportedLoader("the data set is read by FFCV")
        return BatchLoader(loader, samples)
    if type(loader) is not DataLoader:
        raise UnsupportedLoader(
            f"a {type(loader).__name__} is none of torch's or Avalanche's data loaders"
        )
    if loader.batch_sampler is None:
        raise UnsupportedLoader("the loader makes no batches (batch_size is None)")
    _check_options(loader.num_workers, loader.collate_fn)
    return BatchLoader(loader, index_samples(loader.dataset, device))


def _joint_data(loader: Any) -> Any:
    """The data sets of one of Avalanche's loaders, concatenated."""
    method = overridden_batch_method(loader)
    if method is not None:
        raise UnsupportedLoader(f"{type(loader).__name__} has its own {method}")
    if loader.distributed_sampling:
        raise UnsupportedLoader("the loader samples for distributed training")
    options = loader.loader_kwargs
    _check_options(options.get("num_workers", 0), options["collate_fn"])
    return ConcatDataset(loader.datasets)


def _check_options(num_workers: int, collate_fn: Any) -> None:
    if num_workers:
        raise UnsupportedLoader(
            f"num_workers={num_workers} asks for other processes to fetch samples"
        )
    if collate_fn not in (None, default_collate):
        name = getattr(collate_fn, "__qualname__", repr(collate_fn))
        raise UnsupportedLoader(f"the loader collates samples its own way, by {name}")


def _started(sampler: Any, generator: torch.Generator | None) -> Iterator[list[int]]:
    """The batches of a sampler, after the random draw that starting a ``DataLoader`` makes.

    torch draws a seed for worker processes even if there are none.
    """
    batches = iter(sampler)
    iter(DataLoader([0], generator=generator))  # type: ignore[arg-type]
    return batches


def _draws_at_once(sampler: Any) -> bool:
    """Whether all random draws for a pass over a data set are made for its first batch."""
    if type(sampler) is not BatchSampler:
        return type(sampler) is _Slices
    order = sampler.sampler
    shuffled = type(order) is RandomSampler and order.generator is None and not order.replacement
    return shuffled or type(order) is SequentialSampler


def _restarts(sampler: Any) -> list[int] | None:
    """The periods, in batches, after which a data set restarts and draws a new order.

    No other draws are made after the first batch. None if draws are made at other times.
    """
    if type(sampler) is not MultiDatasetSampler:
        return [] if _draws_at_once(sampler) else None
    if not all(map(_draws_at_once, sampler.samplers)):
        return None
    if not sampler.oversample_small_datasets:
        return []
    last = sampler.termination_dataset_idx  # ends the epoch instead; -1 in endless loaders
    return [len(part) for i, part in enumerate(sampler.samplers) if i != last and len(part)]


def _blocks(batches: Iterator[Any], restarts: list[int]) -> Iterator[list[Any]]:
    """Group the batches between restarts; drawing their indices at once changes no result."""
    done = 0
    while True:
        together = min((length - done % length for length in restarts), default=None)
        block = list(islice(batches, together))
        if not block:
            return
        yield block
        done += len(block)


def _as_arrays(sampler: Any, started: Iterator[Any]) -> Iterator[Any]:
    """The same batches, as arrays if they come from one data set."""
    if type(sampler) is BatchSampler:
        return iter(_Slices(sampler))
    if len(sampler.samplers) == 1 and not sampler.never_ending and len(sampler):
        return iter(sampler.samplers[0])
    return started


class _Slices:
    """The batches of a batch sampler as slices of one array, which is drawn at the first batch."""

    def __init__(self, sampler: BatchSampler) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        order = self.sampler.sampler
        indices = np.fromiter(order, np.int64, len(order))  # type: ignore[arg-type]
        size = self.sampler.batch_size
        for number in range(len(self.sampler)):
            yield indices[number * size : (number + 1) * size]
