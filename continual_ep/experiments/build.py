"""From a configuration to the objects of a cell: stream, strategy, plugins."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.templates import SupervisedTemplate

from continual_ep.errors import ConfigurationError
from continual_ep.experiments.cells import Cell
from continual_ep.experiments.config import LearningEntry, NetworkEntry, RunConfig
from continual_ep.experiments.network_options import NetworkOptions
from continual_ep.metrics import AccuracyMatrix
from continual_ep.networks import NETWORKS
from continual_ep.options import plain_values
from continual_ep.plugins import AwakeRehearsal, BatchFeed, Grapes, SleepReplay
from continual_ep.seeding import generator_from
from continual_ep.strategies import make_loss, make_optimizer, silent_evaluator
from continual_ep.streams import (
    ContinualBenchmark,
    Images,
    class_incremental,
    domain_incremental,
    online,
)


class Built(NamedTuple):
    """A strategy and those of its plugins that have a state, by name."""

    strategy: SupervisedTemplate
    plugins: dict[str, Any]


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


def build_stream(config: RunConfig) -> ContinualBenchmark:
    """The benchmark of a run; the same for all of its cells."""
    options = plain_values(config.stream)
    small, overlap, scenario = (options.pop(k) for k in ("online", "overlap", "scenario"))
    name, experiences, seed = (options.pop(k) for k in ("name", "experiences", "order_seed"))
    domains, angles = options.pop("domains"), options.pop("angles")
    options["images"] = Images(**options["images"])
    if scenario == "class-incremental":
        benchmark = class_incremental(name, experiences, seed=seed, **options)
    else:
        options.pop("class_order")
        domains = domains or ("sets" if isinstance(name, list) else "permuted")
        count = None if domains == "sets" or angles else experiences
        benchmark = domain_incremental(
            name, count, domains=domains, angles=angles, seed=seed, **options
        )
    return benchmark if small is None else online(benchmark, small, overlap=overlap, seed=seed or 0)


def build_cell(
    config: RunConfig, cell: Cell, benchmark: ContinualBenchmark, log: Path | None = None
) -> Built:
    """The strategy of a cell, before its first experience.

    :param log: folder for TensorBoard events; None for none.
    :raises ConfigurationError: for options that cannot work together.
    """
    plugins = build_plugins(config, cell, benchmark)
    return Built(build_strategy(config, cell, benchmark, list(plugins.values()), log), plugins)


def build_plugins(config: RunConfig, cell: Cell, benchmark: ContinualBenchmark) -> dict[str, Any]:
    """Accuracy matrix, exemplars and sleep, as the arm asks."""
    plugins: dict[str, Any] = {"accuracy": AccuracyMatrix(benchmark.streams[config.evaluate])}
    if cell.rehearses and config.rehearsal is not None:
        plugins["rehearsal"] = AwakeRehearsal(**plain_values(config.rehearsal), seed=cell.seed)
    if cell.sleeps and config.sleep is not None:
        options = config.sleep
        plugins["sleep"] = SleepReplay(
            when=options.when,
            preset=options.preset,
            dreams=options.dreams,
            hold=options.hold,
            exclude=options.exclude,
            diary=options.diary,
            seed=cell.seed,
            **options.constants(),
        )
    return plugins


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


def build_strategy(
    config: RunConfig,
    cell: Cell,
    benchmark: ContinualBenchmark,
    plugins: Sequence[Any],
    log: Path | None,
) -> SupervisedTemplate:
    """Avalanche's training loop around the network."""
    training = config.training
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
    more = [Grapes()] if training.grapes else []
    return SupervisedTemplate(
        model=model,
        optimizer=optimizer,
        criterion=make_loss(training.loss, model.readout),
        train_mb_size=training.batch_size,
        train_epochs=training.epochs,
        eval_mb_size=1000,
        device=config.device,
        plugins=[*plugins, *more, BatchFeed()],
        evaluator=build_evaluator(log),
    )


def build_evaluator(log: Path | None) -> EvaluationPlugin:
    """Avalanche's evaluator: loss and accuracy of the training and our matrices for TensorBoard."""
    if log is None:
        return silent_evaluator()
    from avalanche.evaluation.metrics import accuracy_metrics, loss_metrics
    from avalanche.logging import TensorboardLogger

    metrics = (accuracy_metrics(epoch=True), loss_metrics(epoch=True))
    return EvaluationPlugin(*metrics, loggers=[TensorboardLogger(str(log))])
