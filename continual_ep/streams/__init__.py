"""What is learned, and when: class-incremental Avalanche benchmarks from named sets and array files."""

from continual_ep.streams.arrays import Arrays, TensorData
from continual_ep.streams.benchmark import ClassIncrementalBenchmark, class_incremental
from continual_ep.streams.sources import SOURCES, load_source, source

__all__ = [
    "SOURCES",
    "Arrays",
    "ClassIncrementalBenchmark",
    "TensorData",
    "class_incremental",
    "load_source",
    "source",
]
