"""Class-incremental Avalanche benchmarks: each class appears in one experience only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from avalanche.benchmarks import CLScenario, nc_benchmark
from avalanche.benchmarks.scenarios.deprecated.new_classes import NCStream
from torch import Tensor

from continual_ep.errors import warn_user
from continual_ep.streams.arrays import TensorData, as_samples
from continual_ep.streams.selection import (
    groups_of_classes,
    limited,
    order_of_classes,
    sizes_of_experiences,
    validation_split,
)
from continual_ep.streams.sources import load_source


class ClassIncrementalBenchmark(Protocol):
    """What :func:`class_incremental` returns: an Avalanche ``NCScenario`` that knows its origin.

    :param name: the name or path that was asked for.
    :param class_order: all labels in the order in which they appear.
    :param classes_per_experience: the same order, cut into experiences.
    :param class_names: the name of each label.
    :param label_values: the source's own number for each label.
    :param input_shape: shape of one sample as the network gets it.
    :param image_shape: ``(height, width)`` or ``(channels, height, width)`` before flattening,
        None for feature vectors.
    :param divisor: the number by which the source's values were divided.
    """

    name: str
    class_order: tuple[int, ...]
    classes_per_experience: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    label_values: tuple[int, ...]
    input_shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None
    divisor: float
    n_classes: int
    n_experiences: int
    train_stream: Any
    test_stream: Any
    streams: dict[str, Any]


def class_incremental(
    name: str | Path = "digits",
    experiences: int | Sequence[int] = 5,
    *,
    seed: int | None = 0,
    root: str | Path | None = None,
    download: bool = False,
    validation: float = 0.0,
    per_class: int | None = None,
    per_experience: int | None = None,
    class_order: Sequence[int] | None = None,
    flatten: bool = True,
    scale: str = "auto",
) -> ClassIncrementalBenchmark:
    """A stream of experiences, each with classes of its own, as an Avalanche benchmark.

    Labels keep the values they have in the source, whatever the order of the classes (labels that
    are not ``0 .. n-1`` are mapped to that range first). The benchmark has the streams ``train``,
    ``test`` and, when asked for, ``validation``. The global random state is not touched.

    :param name: ``"digits"``, ``"mnist"``, ``"fashion-mnist"``, ``"kmnist"`` or a path to an
        ``.npz`` file with ``train_x, train_y, test_x, test_y``.
    :param experiences: number of experiences, or the number of classes in each.
    :param seed: seeds the order of the classes and the validation split, each with a generator of
        its own; None is the natural order (and the split of seed 0).
    :param root: folder with torchvision's sets; ``data`` when None.
    :param download: fetch a missing set.
    :param validation: share of each class that leaves the training stream for ``validation``.
    :param per_class: train on the first so many samples of each class only.
    :param per_experience: train on the first so many samples of each experience only. Limits apply
        to what the validation split has left, and to the training stream alone.
    :param class_order: all labels in the order wanted; overrides the seed's order.
    :param flatten: samples as vectors, else images as ``(channels, height, width)``.
    :param scale: ``"auto"``, ``"max"`` or ``"none"``, see :meth:`Arrays.divisor`.
    :raises ConfigurationError: options that cannot work with the set's classes.
    :raises InputError: data that cannot be learned from.
    :raises MissingDataError: a set that is not on disk.
    """
    arrays = load_source(name, root, download)
    order = order_of_classes(arrays.n_classes, seed, class_order)
    sizes = sizes_of_experiences(arrays.n_classes, experiences)
    if isinstance(experiences, int) and len(set(sizes)) > 1:
        _warn_of_unequal_sizes(arrays.n_classes, sizes)
    groups = groups_of_classes(order, sizes)
    divisor = arrays.divisor(scale)

    labels = torch.from_numpy(arrays.train_y)
    kept, held_out = validation_split(labels, validation, 0 if seed is None else seed)
    kept = limited(labels, kept, groups, per_class, per_experience)

    def part(indices: Tensor) -> TensorData:
        chosen = indices.numpy()
        samples = as_samples(arrays.train_x[chosen], divisor, flatten)
        return TensorData(samples, arrays.train_y[chosen].tolist())

    test = TensorData(as_samples(arrays.test_x, divisor, flatten), arrays.test_y.tolist())
    benchmark = _new_classes(part(kept), test, order, sizes)
    if len(held_out):
        _add_stream(benchmark, "validation", _new_classes(part(held_out), test, order, sizes))

    image_shape = arrays.train_x.shape[1:]
    benchmark.name = str(name)
    benchmark.class_order = order
    benchmark.classes_per_experience = groups
    benchmark.class_names = arrays.class_names
    benchmark.label_values = arrays.label_values
    benchmark.input_shape = tuple(test.data.shape[1:])
    benchmark.image_shape = tuple(image_shape) if len(image_shape) > 1 else None
    benchmark.divisor = divisor
    return benchmark


def _new_classes(
    train: TensorData, test: TensorData, order: Sequence[int], sizes: Sequence[int]
) -> Any:
    # Explicit order and sizes: Avalanche's own would reseed the global generator and refuse
    # (nc_benchmark) or drop (class_incremental_benchmark) what cannot be divided.
    return nc_benchmark(
        train,
        test,
        n_experiences=len(sizes),
        task_labels=False,
        shuffle=False,
        fixed_class_order=list(order),
        per_exp_classes=dict(enumerate(sizes)),
    )


def _add_stream(benchmark: Any, name: str, other: Any) -> None:
    """Give a benchmark the training stream of another under a new name."""
    benchmark.stream_definitions[name] = other.stream_definitions["train"]
    streams = [*benchmark.streams.values(), NCStream(name, benchmark)]
    CLScenario.__init__(benchmark, streams)  # registers ``streams[name]`` and ``name_stream``


def _warn_of_unequal_sizes(n_classes: int, sizes: Sequence[int]) -> None:
    warn_user(
        f"{n_classes} classes do not divide into {len(sizes)} experiences: their sizes are "
        f"{list(sizes)}. Pass experiences={list(sizes)} to say that this is meant."
    )
