"""What a cell is assembled from, and the Avalanche strategy that it makes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class Assembly:
    """What a cell is assembled from; mechanisms add to it, in the order of the arm.

    :param model: on its device, before any training. References put a model of their own here.
    :param optimizer: of all its parameters; None until a reference has made its model.
    :param criterion: the loss of a batch.
    :param benchmark: the streams.
    :param seed: of the cell; whatever draws takes a generator of its own from it.
    :param batch_size: samples of a step; :param epochs: passes through an experience.
    :param device: where the model is.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    criterion: Any
    benchmark: Any
    seed: int
    batch_size: int
    epochs: int
    device: torch.device | str = "cpu"
    #: Avalanche plugins, in their order.
    plugins: list[Any] = field(default_factory=list)
    #: By mechanism: what has ``state_dict`` and ``load_state_dict``, and is saved in checkpoints.
    states: dict[str, Any] = field(default_factory=dict)
    #: Avalanche's strategy class; None for ``SupervisedTemplate``.
    trainer: Any = None
    #: Further arguments of the strategy class.
    trainer_options: dict[str, Any] = field(default_factory=dict)
    #: Called with the strategy once it exists.
    finishers: list[Callable[[Any], None]] = field(default_factory=list)
    #: Whether all experiences are trained in one call.
    whole_stream: bool = False
    #: Whether a killed cell goes on after the last complete experience.
    resumes: bool = True

    @property
    def classes(self) -> int:
        """Classes of the whole stream."""
        return len(self.benchmark.class_order)

    @property
    def inputs(self) -> int:
        """Values of one sample."""
        return math.prod(self.benchmark.input_shape)

    def add(self, name: str, plugin: Any, state: Any = None) -> None:
        """Add a plugin whose state is saved under ``name``.

        :param state: what saves it; default: the plugin itself.
        """
        self.plugins.append(plugin)
        self.states[name] = plugin if state is None else state

    def strategy(self, evaluator: Any, *, eval_batch_size: int = 1000) -> Any:
        """The Avalanche strategy with all that the mechanisms have added.

        :param evaluator: Avalanche's evaluation plugin.
        """
        from avalanche.training.templates import SupervisedTemplate

        trainer = self.trainer or SupervisedTemplate
        strategy = trainer(
            model=self.model,
            optimizer=self.optimizer,
            criterion=self.criterion,
            train_mb_size=self.batch_size,
            train_epochs=self.epochs,
            eval_mb_size=eval_batch_size,
            device=self.device,
            plugins=list(self.plugins),
            evaluator=evaluator,
            **self.trainer_options,
        )
        for finish in self.finishers:
            finish(strategy)
        return strategy
