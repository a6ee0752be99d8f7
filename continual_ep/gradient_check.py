"""How well a learning rule follows the gradient, on the network and the data at hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError
from continual_ep.learning.backprop import Backprop
from continual_ep.learning.bptt import BPTT
from continual_ep.learning.equilibrium_gradient import EquilibriumGradient
from continual_ep.learning.feedforward import FeedforwardRule
from continual_ep.learning.rule import RecurrentRule
from continual_ep.networks.recurrent import RecurrentModule, Settling

#: The rules to compare with. The exact one settles further than any training run would.
REFERENCES: dict[str, Callable[[RecurrentRule], RecurrentRule]] = {
    "exact": lambda rule: EquilibriumGradient(
        free_steps=10_000, adjoint_steps=10_000, tolerance=1e-10
    ),
    "bptt": lambda rule: BPTT(rule.free_steps),
}


@dataclass(frozen=True)
class GradientRow:
    r"""One parameter: the rule's gradient :math:`g` beside the reference :math:`g^*`.

    :param name: the parameter's name in the network's ``state_dict``.
    :param cosine: :math:`g \cdot g^* / (|g| |g^*|)`.
    :param relative_error: :math:`|g - g^*| / |g^*|`.
    :param norm: :math:`|g^*|`.
    """

    name: str
    cosine: float
    relative_error: float
    norm: float


@dataclass(frozen=True)
class GradientReport:
    """The rule beside the reference, parameter by parameter.

    :param rows: one per parameter.
    :param loss: of the batch.
    :param settling: statistics of the rule's free phase.
    :param silent_outputs: the share of outputs that are clipped at equilibrium, so that their exact
        gradient is zero while a nudge of finite size may still move them; 0 without clipping.
    """

    rows: tuple[GradientRow, ...]
    loss: float
    settling: Settling | None
    silent_outputs: float = 0.0

    @property
    def worst(self) -> GradientRow:
        """The row with the largest relative error."""
        return max(self.rows, key=lambda row: row.relative_error)


def check_gradients(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor],
    *,
    reference: str = "exact",
) -> GradientReport:
    """Compare the gradients of ``network.learning`` with a reference; the network stays as it was.

    :param network: in float64 the comparison is not limited by rounding.
    :param x: a batch of inputs; ``y``: its targets, as ``criterion`` takes them.
    :param reference: ``"exact"`` (implicit differentiation at the equilibrium) or ``"bptt"`` (through all
        free steps of the rule). A feed-forward network is compared with back-propagation.
    :raises ConfigurationError: for an unknown reference, or a network without one of our rules.
    """
    if reference not in REFERENCES:
        raise ConfigurationError(
            f"reference {reference!r} is unknown; choose one of {', '.join(REFERENCES)}"
        )
    if not isinstance(network, RecurrentModule):
        return _against_backprop(network, x, y, criterion)
    rule = network.learning
    found, loss, settling = _gradients(network, x, y, criterion)
    try:
        network.learning = REFERENCES[reference](rule)
        exact, _, _ = _gradients(network, x, y, criterion)
    finally:
        network.learning, network.settling = rule, settling
    rows = tuple(_row(name, found[name], exact[name]) for name in found)
    return GradientReport(rows, loss, settling, _silent_outputs(network, x))


def _against_backprop(
    network: nn.Module, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
) -> GradientReport:
    owner: Any = network
    rule = getattr(network, "learning", None)
    if not isinstance(rule, FeedforwardRule) or isinstance(rule, Backprop):
        raise ConfigurationError(
            f"{type(network).__name__} learns by autograd itself: there is nothing to check"
        )
    # Backward weights have no gradient of their own to compare with.
    named = {n: p for n, p in network.named_parameters() if not n.startswith("backward_weights")}
    found, loss = _autograd(network, named, x, y, criterion)
    try:
        owner.learning = Backprop()
        exact, _ = _autograd(network, named, x, y, criterion)
    finally:
        owner.learning = rule
    return GradientReport(tuple(_row(n, found[n], exact[n]) for n in found), loss, None)


def _autograd(
    network: nn.Module,
    named: dict[str, nn.Parameter],
    x: Tensor,
    y: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> tuple[dict[str, Tensor], float]:
    named = {name: p for name, p in named.items() if p.requires_grad}
    with torch.enable_grad():
        loss = criterion(network(x), y)
        gradients = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, gradients, strict=True)), float(loss.detach())


def _silent_outputs(network: RecurrentModule, x: Tensor) -> float:
    """The share of units of the last dynamical layer with slope zero."""
    if not network.activations[-1].piecewise_linear:
        return 0.0
    states = network.settle(x).states
    slopes = network.clamp(network.checked_input(x.detach())).slopes(states)
    return float((slopes[-1] == 0).double().mean())


def _gradients(
    network: RecurrentModule, x: Tensor, y: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
) -> tuple[dict[str, Tensor], float, Settling | None]:
    found, loss = _autograd(network, dict(network.named_parameters()), x, y, criterion)
    return found, loss, network.settling


def _row(name: str, found: Tensor, exact: Tensor) -> GradientRow:
    found, exact = found.double().flatten(), exact.double().flatten()
    norm = float(exact.norm())
    error = float((found - exact).norm())
    cosine = float(torch.nn.functional.cosine_similarity(found, exact, dim=0))
    return GradientRow(
        name, cosine, error / norm if norm else (0.0 if error == 0 else float("inf")), norm
    )
