"""From a configuration to the objects of a cell: stream, strategy, plugins."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate
from torch import nn

from continual_ep.arms import Assembly
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.cells import Cell
from continual_ep.experiments.config import LearningEntry, NetworkEntry, RunConfig
from continual_ep.experiments.network_options import NetworkOptions
from continual_ep.metrics import AccuracyMatrix, RepresentationProbe
from continual_ep.networks import NETWORKS
from continual_ep.options import plain_values
from continual_ep.plugins import BatchFeed, Grapes
from continual_ep.seeding import generator_from
from continual_ep.strategies import make_loss, make_optimizer, silent_evaluator
from continual_ep.streams import (
    ContinualBenchmark,
    class_incremental,
    domain_incremental,
    online,
)


class Refusal(ConfigurationError):
    """A mechanism that cannot work with this learner or stream; others may."""


class Built(NamedTuple):
    """A strategy and what of it has a state, by name."""

    strategy: SupervisedTemplate
    assembly: Assembly
    accuracy: AccuracyMatrix
    probe: RepresentationProbe | None = None

    @property
    def states(self) -> dict[str, Any]:
        """What is saved in checkpoints beside model, optimizer, clock and random states."""
        probe = {} if self.probe is None else {"probe": self.probe}
        return {"accuracy": self.accuracy, **probe, **self.assembly.states}

    @property
    def sleep(self) -> Any:
        """The plugin of the mechanism ``sleep``; None without it."""
        return self.assembly.states.get("sleep")


def check_device(device: str) -> None:
    """:raises ConfigurationError: for a CUDA device that is not there."""
    if not device.startswith("cuda"):
        return
    if not torch.cuda.is_available():
        raise ConfigurationError(
            f"device {device} was asked for, but there is no usable CUDA device: use --device cpu"
        )
    number = int(device.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device {device} was asked for; there are cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )


class Streams:
    """The streams of a run: one for all seeds, or one for each seed with a class order of its own.

    The last one is kept, as cells come seed by seed.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._built: tuple[int | None, ContinualBenchmark] | None = None

    def of(self, seed: int) -> ContinualBenchmark:
        """The stream of a cell's seed."""
        order = self.config.stream.order_seed
        number = seed if order == "seed" else order
        if self._built is None or self._built[0] != number:
            self._built = None  # give the memory back first
            self._built = (number, build_stream(self.config, seed))
        return self._built[1]


def build_stream(config: RunConfig, seed: int = 0) -> ContinualBenchmark:
    """The benchmark of the cells with a seed; the same for all of their arms and learners.

    :param seed: of the class order, where ``stream.order_seed`` is ``"seed"``.
    """
    options = {**plain_values(config.stream), "images": config.stream.images}
    small, overlap, scenario = (options.pop(k) for k in ("online", "overlap", "scenario"))
    name, experiences, order = (options.pop(k) for k in ("name", "experiences", "order_seed"))
    number = seed if order == "seed" else order
    domains, angles = options.pop("domains"), options.pop("angles")
    if scenario == "class-incremental":
        benchmark = class_incremental(name, experiences, seed=number, **options)
    else:
        options.pop("class_order")
        domains = domains or ("sets" if isinstance(name, list) else "permuted")
        count = None if domains == "sets" or angles else experiences
        benchmark = domain_incremental(
            name, count, domains=domains, angles=angles, seed=number, **options
        )
    if small is None:
        return benchmark
    return online(benchmark, small, overlap=overlap, seed=number or 0)


def build_cell(
    config: RunConfig, cell: Cell, benchmark: ContinualBenchmark, log: Path | None = None
) -> Built:
    """The strategy of a cell, before its first experience.

    :param log: folder for TensorBoard events; None for none.
    :raises Refusal: for a mechanism that cannot work with this learner or stream.
    :raises ConfigurationError: for options that cannot work together.
    """
    assembly = build_assembly(config, cell, benchmark)
    for name, mechanism in cell.arm.mechanisms.items():
        reason = None
        if cell.learning is not None:
            network = config.network.resolved(cell.learning)
            reason = mechanism.refusal(cell.learning.options, network.options)
        try:
            if reason is not None:
                raise ConfigurationError(reason)
            mechanism.install(assembly)
        except ConfigurationError as error:
            raise Refusal(f"{name} cannot work with {cell.label}: {error}") from error
    accuracy = AccuracyMatrix(
        benchmark.streams[config.evaluate], baseline=not cell.arm.is_reference
    )
    probe = None
    if config.probe and not cell.arm.is_reference:
        streams = benchmark.train_stream, benchmark.streams[config.evaluate]
        probe = RepresentationProbe(*streams, seed=cell.seed)
    measures = [accuracy] if probe is None else [accuracy, probe]
    more = [Grapes()] if config.training.grapes else []
    assembly.plugins = [*measures, *assembly.plugins, *more, BatchFeed()]
    return Built(assembly.strategy(build_evaluator(log)), assembly, accuracy, probe)


def build_assembly(config: RunConfig, cell: Cell, benchmark: ContinualBenchmark) -> Assembly:
    """The network with its optimizer and loss; none for references."""
    training = config.training
    shared: dict[str, Any] = {
        "benchmark": benchmark,
        "seed": cell.seed,
        "batch_size": training.batch_size,
        "epochs": training.epochs,
        "device": config.device,
    }
    if cell.learning is None:
        return Assembly(nn.Identity(), None, nn.CrossEntropyLoss(), **shared)
    # Its own generator: the same seed gives the same weights, whatever else is drawn.
    generator = generator_from(f"weights:{cell.seed}")
    inputs, outputs = math.prod(benchmark.input_shape), len(benchmark.class_order)
    shape = benchmark.image_shape
    model: Any = build_network(config.network, cell.learning, inputs, outputs, generator, shape)
    model = model.to(config.device)
    optimizer = make_optimizer(
        model,
        cell.learning.learning_rates or training.learning_rates,
        optimizer=training.optimizer,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        adaptivity=training.adaptivity,
        threshold=training.threshold,
    )
    return Assembly(model, optimizer, make_loss(training.loss, model.readout), **shared)


def build_network(
    network: NetworkEntry,
    learning: LearningEntry,
    inputs: int,
    outputs: int,
    generator: torch.Generator,
    image_shape: tuple[int, ...] | None = None,
) -> Any:
    """The network with its learning rule.

    :param inputs: values of one sample.
    :param outputs: classes of the whole stream.
    :param generator: draws the initial weights.
    :param image_shape: ``(h, w)`` or ``(c, h, w)``, for convolutions.
    :raises ConfigurationError: convolutions of what is no image.
    """
    network = network.resolved(learning)
    options: NetworkOptions = network.options
    positional, keywords = options.arguments(inputs, outputs, image_shape)
    kind: Any = NETWORKS[network.kind]
    if getattr(options, "cuda_graphs", False) and not learning.options.supports_cuda_graphs:
        raise ConfigurationError(
            f"network.cuda_graphs records phases of fixed length: {learning.rule} with these options has "
            "none (equilibrium-propagation without tolerance and adaptation has)"
        )
    return kind(*positional, **keywords, learning=learning.options, generator=generator)


def build_evaluator(log: Path | None) -> EvaluationPlugin:
    """Avalanche's evaluator: loss and accuracy of the training and our matrices for TensorBoard."""
    if log is None:
        return silent_evaluator()
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.logging import TensorboardLogger

    metrics = (accuracy_metrics(epoch=True), loss_metrics(epoch=True))
    return EvaluationPlugin(*metrics, loggers=[TensorboardLogger(str(log))])
