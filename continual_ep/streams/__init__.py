"""Continual-learning benchmarks for Avalanche from named sets, array files and folders of images."""

from continual_ep.features import Images
from continual_ep.streams import named_sets  # registers them
from continual_ep.streams.arrays import Arrays
from continual_ep.streams.benchmark import ContinualBenchmark, class_incremental
from continual_ep.streams.domains import domain_incremental
from continual_ep.streams.online import online
from continual_ep.streams.picture import draw_stream
from continual_ep.streams.sources import SOURCES, Source, load_source, source
from continual_ep.streams.tensor_data import TensorData

__all__ = [
    "SOURCES",
    "Arrays",
    "ContinualBenchmark",
    "Images",
    "Source",
    "TensorData",
    "class_incremental",
    "domain_incremental",
    "draw_stream",
    "load_source",
    "named_sets",
    "online",
    "source",
]
