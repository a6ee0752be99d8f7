"""Class-incremental Avalanche benchmarks: each class appears in one experience only."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from continual_ep.avalanche_internals import (
    add_stream,
    benchmark_of_parts,
    new_classes_benchmark,
    task_labelled,
)
from continual_ep.errors import warn_user
from continual_ep.features import Images
from continual_ep.streams.arrays import Arrays
from continual_ep.streams.images import as_arrays
from continual_ep.streams.selection import (
    chosen_classes,
    explicit_groups,
    groups_of_classes,
    limited,
    order_of_classes,
    sizes_of_experiences,
    validation_split,
)
from continual_ep.streams.sources import load_source
from continual_ep.streams.tensor_data import Preparation, Samples, TensorData, channel_statistics


class ContinualBenchmark(Protocol):
    """An Avalanche benchmark with a description of its data, as the functions of this package return.

    :param name: the name or path that was given.
    :param class_order: all labels in the order in which they appear.
    :param classes_per_experience: the classes of each experience.
    :param class_names: the name of each label.
    :param class_names_of: the same for each experience, where sets with other names follow each other.
    :param label_values: the source's own number for each label.
    :param input_shape: shape of one sample as the network gets it.
    :param image_shape: ``(height, width)`` or ``(channels, height, width)`` before flattening,
        None for feature vectors.
    :param divisor: the number by which the source's values were divided.
    :param fingerprint: a function that hashes the data, see :meth:`Arrays.fingerprint`.
    """

    name: str
    class_order: tuple[int, ...]
    classes_per_experience: tuple[tuple[int, ...], ...]
    class_names: tuple[str, ...]
    class_names_of: tuple[tuple[str, ...], ...]
    label_values: tuple[int, ...]
    input_shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None
    divisor: float
    fingerprint: Callable[[], str]
    n_classes: int
    n_experiences: int
    train_stream: Any
    test_stream: Any
    streams: dict[str, Any]


class Loaded(NamedTuple):
    """A data set before it is divided into experiences: its checked arrays, and its samples as tensors."""

    arrays: Arrays
    train: Samples
    test: Samples
    preparation: Preparation


def load_samples(
    name: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = False,
    classes: int | Sequence[int | str] | str | Path | None = None,
    images: Images | None = None,
    flatten: bool = True,
    scale: str = "auto",
    standardize: bool = False,
) -> Loaded:
    """Load a data set as networks get it; for the parameters see :func:`class_incremental`."""
    source_data = load_source(name, root, download)
    if classes is not None:
        source_data = source_data.selected(chosen_classes(classes, source_data.class_names))
    arrays = as_arrays(source_data, images or Images(), download=download)
    divisor = arrays.divisor(scale)
    shape = arrays.train_x.shape[1:]
    mean, std = channel_statistics(arrays, divisor) if standardize else (None, None)
    preparation = Preparation(divisor, shape if len(shape) > 1 else None, flatten, mean, std)
    train = Samples.of(arrays.train_x, arrays.train_y, preparation)
    return Loaded(arrays, train, Samples.of(arrays.test_x, arrays.test_y, preparation), preparation)


def class_incremental(
    name: str | Path = "digits",
    experiences: int | Sequence[int] | Sequence[Sequence[int]] = 5,
    *,
    seed: int | None = 0,
    root: str | Path | None = None,
    download: bool = False,
    classes: int | Sequence[int | str] | str | Path | None = None,
    validation: float = 0.0,
    per_class: int | None = None,
    per_experience: int | None = None,
    class_order: Sequence[int] | None = None,
    images: Images | None = None,
    flatten: bool = True,
    scale: str = "auto",
    standardize: bool = False,
    task_labels: bool = False,
) -> ContinualBenchmark:
    """Build an Avalanche benchmark of experiences with classes of their own.

    Labels keep the values they have in the source, whatever the order of the classes (labels that
    are not ``0 .. n-1`` are mapped to that range first). The benchmark has the streams ``train``,
    ``test`` and, when asked for, ``validation``. The global random state is not touched.

    :param name: one of ``SOURCES``, ``arrays:PATH.npz``, ``image-folder:PATH``.
    :param experiences: number of experiences, the number of classes in each, or their classes.
    :param seed: seeds the order of the classes and the validation split, each with a generator of
        its own; None is the natural order (and the split of seed 0).
    :param root: folder with the named sets; ``data`` when None.
    :param download: fetch a missing set.
    :param classes: keep so many, or these, labels or names, or those named in a file; they become
        ``0, 1, ...``, see :func:`~continual_ep.streams.selection.chosen_classes`.
    :param validation: share of each class that leaves the training stream for ``validation``.
    :param per_class: train on the first so many samples of each class only.
    :param per_experience: train on the first so many samples of each experience only. Limits apply
        to what the validation split has left, and to the training stream alone.
    :param class_order: all labels in the order wanted; overrides the seed's order.
    :param images: how images become inputs: at what size, or through which backbone.
    :param flatten: samples as vectors, else images as ``(channels, height, width)``.
    :param scale: ``"auto"``, ``"max"`` or ``"none"``, see :meth:`Arrays.divisor`.
    :param standardize: after scaling, subtract the training set's mean and divide by its standard
        deviation, per channel of images.
    :param task_labels: label each experience as a task of its own (task-incremental).
    :raises ConfigurationError: options that cannot work with the set's classes.
    :raises InputError: data that cannot be learned from.
    :raises MissingDataError: a set that is not on disk.
    """
    loaded = load_samples(
        name,
        root=root,
        download=download,
        classes=classes,
        images=images,
        flatten=flatten,
        scale=scale,
        standardize=standardize,
    )
    order, sizes = _division(loaded.arrays.n_classes, experiences, seed, class_order)
    groups = groups_of_classes(order, sizes)
    labels = loaded.train.labels
    kept, held_out = validation_split(labels, validation, 0 if seed is None else seed)
    kept = limited(labels, kept, groups, per_class, per_experience)
    test = loaded.test.part()

    def division(train: TensorData) -> Any:
        return new_classes_benchmark(train, test, order, sizes, task_labels=task_labels)

    benchmark = division(loaded.train.part(kept))
    if len(held_out):
        add_stream(benchmark, "validation", division(loaded.train.part(held_out)))
    return describe(benchmark, str(name), loaded, order, groups)


#: Attributes of a benchmark that describe its data, in addition to Avalanche's.
DESCRIPTION = (
    "name",
    "class_order",
    "classes_per_experience",
    "class_names",
    "class_names_of",
    "label_values",
    "input_shape",
    "image_shape",
    "divisor",
    "fingerprint",
)


def from_parts(
    train: Sequence[Any],
    test: Sequence[Any],
    validation: Sequence[Any] | None = None,
    *,
    task_labels: bool = False,
) -> Any:
    """Build an Avalanche benchmark with one experience for each part, of any classes.

    :param train: :class:`TensorData`, or Avalanche's data sets, which keep their task labels.
    """

    def labelled(parts: Sequence[Any]) -> list[Any]:
        return [
            task_labelled(part, number if task_labels else 0) for number, part in enumerate(parts)
        ]

    others = {} if validation is None else {"validation": labelled(validation)}
    return benchmark_of_parts(labelled(train), labelled(test), others)


def describe(
    benchmark: Any,
    name: str,
    loaded: Loaded,
    order: tuple[int, ...],
    groups: tuple[tuple[int, ...], ...],
) -> ContinualBenchmark:
    """Attach the description of its data to an Avalanche benchmark."""
    arrays, preparation = loaded.arrays, loaded.preparation
    sample = loaded.test.part().batch(torch.zeros(1, dtype=torch.int64))
    benchmark.name = name
    benchmark.class_order = order
    benchmark.classes_per_experience = groups
    benchmark.class_names = arrays.class_names
    benchmark.class_names_of = (arrays.class_names,) * len(groups)
    benchmark.label_values = arrays.label_values
    benchmark.input_shape = tuple(sample.shape[1:])
    benchmark.image_shape = preparation.image_shape
    benchmark.divisor = preparation.divisor
    benchmark.fingerprint = cache(arrays.fingerprint)
    described: ContinualBenchmark = benchmark
    return described


def _division(
    n_classes: int,
    experiences: int | Sequence[int] | Sequence[Sequence[int]],
    seed: int | None,
    class_order: Sequence[int] | None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of the classes and how many each experience brings."""
    if not isinstance(experiences, int) and any(not isinstance(e, int) for e in experiences):
        groups: Any = experiences
        return explicit_groups(groups, n_classes)
    numbers: Any = experiences
    order = order_of_classes(n_classes, seed, class_order)
    sizes = sizes_of_experiences(n_classes, numbers)
    if isinstance(experiences, int) and len(set(sizes)) > 1:
        warn_user(
            f"{n_classes} classes do not divide into {len(sizes)} experiences: their sizes are "
            f"{list(sizes)}. Pass experiences={list(sizes)} to say that this is meant."
        )
    return order, sizes
