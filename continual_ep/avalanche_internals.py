"""Every private or deprecated name of Avalanche that this package uses, behind small functions.

Avalanche 0.6 has no public way to read a data set's tree, to draw a loader's batches without its
samples, or to build a benchmark with a validation stream. A new version of Avalanche needs changes
here only; ``pyproject.toml`` bounds the version for that reason.
"""

from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks import CLScenario, nc_benchmark
from avalanche.benchmarks.scenarios.deprecated.generic_benchmark_creation import (
    create_multi_dataset_generic_benchmark,
)
from avalanche.benchmarks.scenarios.deprecated.new_classes import NCStream
from avalanche.benchmarks.utils import AvalancheDataset, as_taskaware_classification_dataset
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from avalanche.benchmarks.utils.data import _FlatDataWithTransform
from avalanche.benchmarks.utils.data_loader import MultiDatasetDataLoader, MultiDatasetSampler
from avalanche.benchmarks.utils.flat_data import FlatData

#: Methods of Avalanche's loaders that decide which batches they make.
BATCH_METHODS = ("__iter__", "_get_loader", "_create_samplers", "_make_pytorch_loader")


# ---- data sets -----------------------------------------------------------------------------------

#: The node of a data set's tree that applies transforms to its samples.
TransformedData: Any = _FlatDataWithTransform


def samples_below(dataset: AvalancheDataset) -> Any:
    """The tree that holds an Avalanche data set's samples."""
    return dataset._flat_data


def attributes_of(dataset: AvalancheDataset) -> list[Any]:
    """The attributes of a data set (targets, task labels, ...), part of a sample or not."""
    return list(dataset._data_attributes.values())


def parts_of(data: FlatData) -> tuple[Sequence[Any], Any]:
    """The data sets that a node concatenates, and its indices into them; None for all samples."""
    return data._datasets, data._indices


def transforms_of(data: Any) -> tuple[Any, Any]:
    """The frozen and the current transform groups of a :data:`TransformedData`; None if none."""
    return data._frozen_transform_groups, data._transform_groups


def task_labelled(part: Any, task_label: int | Sequence[int]) -> Any:
    """A classification data set with one task label, or one per sample; Avalanche's keep theirs."""
    if isinstance(part, AvalancheDataset):
        return as_taskaware_classification_dataset(part)
    return _make_taskaware_classification_dataset(part, task_labels=task_label)


# ---- loaders -------------------------------------------------------------------------------------


def overridden_batch_method(loader: MultiDatasetDataLoader) -> str | None:
    """The first of :data:`BATCH_METHODS` that the loader's class overrides; None if none."""
    kind = type(loader)
    changed = (
        n for n in BATCH_METHODS if getattr(kind, n) is not getattr(MultiDatasetDataLoader, n)
    )
    return next(changed, None)


def sampler_of(loader: MultiDatasetDataLoader) -> MultiDatasetSampler:
    """The sampler whose indices the loader's own iterator would use."""
    samplers = loader._create_samplers(
        loader.datasets, loader.batch_sizes, loader.distributed_sampling, loader.loader_kwargs
    )
    return MultiDatasetSampler(
        loader.datasets,
        samplers,
        termination_dataset_idx=loader.termination_dataset,
        oversample_small_datasets=loader.oversample_small_datasets,
        never_ending=loader.never_ending,
    )


# ---- strategies ----------------------------------------------------------------------------------


def criterion_of(strategy: Any) -> Any:
    """The loss ``(output, target)`` that a strategy trains with."""
    return strategy._criterion


def show_published(evaluator: Any) -> None:
    """Hand what was published to the loggers now; those that print lines print what they hold."""
    for logger in evaluator.loggers:
        logger.log_metrics(evaluator._metric_values)
        if hasattr(logger, "print_current_metrics"):
            logger.print_current_metrics()
            logger.metric_vals = {}
    evaluator._metric_values = []


# ---- benchmarks ----------------------------------------------------------------------------------


def new_classes_benchmark(
    train: Any, test: Any, order: Sequence[int], sizes: Sequence[int], *, task_labels: bool
) -> Any:
    """A class-incremental benchmark with the classes in this order, so many in each experience."""
    # Explicit order and sizes: Avalanche would otherwise reseed the global generator, and refuse
    # (nc_benchmark) or drop (class_incremental_benchmark) classes that do not divide equally.
    return nc_benchmark(
        train,
        test,
        n_experiences=len(sizes),
        task_labels=task_labels,
        shuffle=False,
        fixed_class_order=list(order),
        per_exp_classes=dict(enumerate(sizes)),
    )


def benchmark_of_parts(train: list[Any], test: list[Any], others: dict[str, list[Any]]) -> Any:
    """A benchmark with one experience for each data set of each stream."""
    return create_multi_dataset_generic_benchmark(
        train_datasets=train, test_datasets=test, other_streams_datasets=others
    )


def add_stream(benchmark: Any, name: str, other: Any) -> None:
    """Add the training stream of another class-incremental benchmark under a new name."""
    benchmark.stream_definitions[name] = other.stream_definitions["train"]
    streams = [*benchmark.streams.values(), NCStream(name, benchmark)]
    CLScenario.__init__(benchmark, streams)  # registers ``streams[name]`` and ``name_stream``
