"""Strategies for people who start from zero: network, rule and optimizer from plain arguments.

Each is Avalanche's ``SupervisedTemplate`` with a ready model. To use an EP network in any other Avalanche
strategy, build :class:`~continual_ep.networks.MRNN` yourself and pass it as ``model``.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate

from continual_ep.errors import ConfigurationError
from continual_ep.learning import (
    BPTT,
    LOSSES,
    BinaryFlips,
    EquilibriumPropagation,
    NudgingLoss,
    RecurrentRule,
    binarize,
)
from continual_ep.networks import MLP, MRNN
from continual_ep.networks.graph import RecurrentNetwork
from continual_ep.networks.layered import LayeredNetwork, per_layer
from continual_ep.options import option_fields
from continual_ep.streams.experiences import refuse_empty

OPTIMIZERS = ("sgd", "adam", "flips")


def make_optimizer(
    network: LayeredNetwork | RecurrentNetwork,
    learning_rates: float | Sequence[float],
    *,
    optimizer: str = "sgd",
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    adaptivity: float = 1e-3,
    threshold: float = 1e-6,
) -> torch.optim.Optimizer:
    """An optimizer with one learning rate per synapse layer.

    :param learning_rates: one for all layers, or one per layer, first to last.
    :param optimizer: ``"sgd"``, ``"adam"``, or ``"flips"``: weights are made binary and flip
        (:class:`~continual_ep.learning.BinaryFlips` with ``adaptivity`` and ``threshold``).
    :param momentum: of SGD.
    :param weight_decay: L2 penalty per step, as in torch.
    :raises ConfigurationError: for an unknown optimizer, momentum with Adam, or a wrong number of rates.
    """
    rates = per_layer(learning_rates, len(network.sizes) - 1, "learning rate")
    groups = network.parameter_groups(rates)
    if optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rates[0], momentum=momentum, weight_decay=weight_decay)
    if optimizer == "adam":
        if momentum:
            raise ConfigurationError(
                f"momentum is {momentum}, but Adam has none of its own: leave it at 0"
            )
        return torch.optim.Adam(groups, lr=rates[0], weight_decay=weight_decay)
    if optimizer == "flips":
        if momentum or weight_decay:
            raise ConfigurationError("weights that flip know neither momentum nor weight_decay")
        binarize([layer.weight for layer in network.synapses()])
        return BinaryFlips(groups, rates[0], adaptivity, threshold)
    raise ConfigurationError(
        f"optimizer {optimizer!r} is unknown; choose one of {', '.join(OPTIMIZERS)}"
    )


def make_loss(loss: str, readout: str) -> NudgingLoss:
    """The loss by name; ``"auto"`` is cross-entropy for a softmax readout, squared error otherwise.

    :raises ConfigurationError: for an unknown name.
    """
    if loss == "auto":
        loss = "cross-entropy" if readout == "softmax" else "squared-error"
    if loss not in LOSSES:
        raise ConfigurationError(
            f"loss {loss!r} is unknown; choose auto or one of {', '.join(LOSSES)}"
        )
    return LOSSES[loss]()


def silent_evaluator() -> EvaluationPlugin:
    """An evaluator without metrics that logs nowhere, and does not warn that it does so."""
    return EvaluationPlugin(loggers=[BaseLogger()])


class _NetworkStrategy(SupervisedTemplate):
    """A network with an optimizer, a loss, and Avalanche's training loop.

    :param model: the network.
    :param learning_rates: one, or one per synapse layer, first to last.
    :param optimizer: ``"sgd"`` or ``"adam"``; with ``momentum``, ``weight_decay``.
    :param loss: ``"squared-error"``, ``"cross-entropy"``, or ``"auto"`` (by the readout).
    :param plugins: Avalanche plugins; the list is copied, for Avalanche appends to it.
    :param evaluator: Avalanche's; None for silence.
    :param avalanche: every other argument of Avalanche's ``SupervisedTemplate``.
    :raises ConfigurationError: for values that cannot work.
    """

    def __init__(
        self,
        *,
        model: MRNN | MLP,
        learning_rates: float | Sequence[float] = 0.05,
        optimizer: str = "sgd",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        loss: str = "auto",
        train_mb_size: int = 20,
        eval_mb_size: int = 1000,
        plugins: Sequence[Any] | None = None,
        evaluator: Any = default_evaluator,
        **avalanche: Any,
    ) -> None:
        super().__init__(
            model=model,
            optimizer=make_optimizer(
                model,
                learning_rates,
                optimizer=optimizer,
                momentum=momentum,
                weight_decay=weight_decay,
            ),
            criterion=make_loss(loss, model.readout),
            train_mb_size=train_mb_size,
            eval_mb_size=eval_mb_size,
            plugins=list(plugins or ()),
            evaluator=silent_evaluator() if evaluator is None else evaluator,
            **avalanche,
        )

    def _before_train_dataset_adaptation(self, **kwargs: Any) -> None:
        refuse_empty(self)
        super()._before_train_dataset_adaptation(**kwargs)


class _RecurrentStrategy(_NetworkStrategy):
    """An MRNN that learns by :attr:`rule`."""

    rule: ClassVar[type[RecurrentRule]]

    def __init__(
        self, *, sizes: Sequence[int], network: dict[str, Any] | None = None, **options: Any
    ) -> None:
        names = [field.name for field in option_fields(self.rule) if field.name in options]
        learning = self.rule(**{name: options.pop(name) for name in names})
        super().__init__(model=MRNN(sizes, learning=learning, **(network or {})), **options)


class EPStrategy(_RecurrentStrategy):
    """A multilayer recurrent network that learns by equilibrium propagation.

    :param sizes: units per layer, input first.
    :param network: further arguments of :class:`~continual_ep.networks.MRNN`, e.g.
        ``{"activation": "tanh"}``.
    :param options: those of :class:`~continual_ep.learning.EquilibriumPropagation` (``beta``,
        ``free_steps``, ...); ``learning_rates`` (one, or one per synapse layer; default 0.05), ``optimizer``
        (``"sgd"`` or ``"adam"``), ``momentum``, ``weight_decay``, ``loss`` (``"auto"``,
        ``"squared-error"``, ``"cross-entropy"``), ``plugins``, and every argument of Avalanche's
        ``SupervisedTemplate``.
    :raises ConfigurationError: for values that cannot work.
    """

    rule = EquilibriumPropagation


class BPTTStrategy(_RecurrentStrategy):
    """The same recurrent network, learning by back-propagation through time.

    Its arguments are those of :class:`EPStrategy`, with the options of :class:`~continual_ep.learning.BPTT`.
    """

    rule = BPTT


class BPStrategy(_NetworkStrategy):
    """The feed-forward baseline, learning by back-propagation.

    :param sizes: units per layer, input first.
    :param network: further arguments of :class:`~continual_ep.networks.MLP`.
    :param training: as in :class:`EPStrategy`.
    :raises ConfigurationError: for values that cannot work.
    """

    def __init__(
        self, *, sizes: Sequence[int], network: dict[str, Any] | None = None, **training: Any
    ) -> None:
        super().__init__(model=MLP(sizes, **(network or {})), **training)
