r"""Networks on any directed graph, learning from how fast the neurons that they feed change.

.. math::

    \dot s_j &= \sum_i W_{ij} s_i - s_j \Big( \lambda + \sum_k W_{jk} \Big) \;[\; + \beta (y_j - s_j) \text{
    on outputs}], \\ s &\leftarrow \mathrm{clip}(s + dt\, \dot s,\; 0,\; 1), \qquad
    \Delta W_{ij} \propto \frac{1}{T} \sum_t s_i(t+1)\,\big( s_j(t+1) - s_j(t) \big)

with :math:`W_{ij}` from i to j. A neuron leaks by the sum of what it sends; for symmetric weights this is
the gradient flow of :math:`E = \frac14 \sum_{ij} W_{ij} (s_i - s_j)^2`, currents through conductances.
Source: Farinha, Pequito, Santos and Figueiredo 2020 (DEEP, arXiv:2006.08798); the further leak
:math:`\lambda` is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, DivergenceError, InputError
from continual_ep.learning.losses import Nudging, SquaredError
from continual_ep.networks.layered import checked_values


@dataclass(frozen=True)
class Stability:
    r"""Whether the theory's condition holds: every Gershgorin disc of the Jacobian lies left of zero.

    :param centres: :math:`d_j = -\lambda - \sum_k W_{jk}` of each neuron that is no input.
    :param radii: :math:`\sum_i |W_{ij}|` over the neurons that are no input.
    :param failing: numbers of the neurons for which :math:`d_j + r_j < 0` does not hold.
    """

    centres: Tensor
    radii: Tensor
    failing: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Whether the network is known to settle. Sufficient, not necessary: networks outside may settle
        too."""
        return not self.failing


class DirectedNetwork(nn.Module):
    r"""Neurons on a directed graph (DEEP): inputs, hidden ones, outputs, and one that is always on.

    ``network(x)`` settles and returns the outputs ``(batch, outputs)``; ``loss.backward()`` runs the teaching
    phase, for which the loss has to be :class:`~continual_ep.learning.SquaredError`.

    :param inputs, hidden, outputs: numbers of neurons; inputs should lie in [0, 1].
    :param edges: ``"complete"``, ``"layered"`` (inputs to hidden to outputs), or a matrix ``(n, n)`` of
        zeros and ones, row i to column j, in the order: inputs, the neuron that is always on, hidden,
        outputs.
    :param dt: time step; :param leak: :math:`\lambda`.
    :param beta: strength of the teaching phase.
    :param free_steps, teaching_steps: of the two phases.
    :param spread: initial weights are drawn from :math:`N(0, \mathrm{spread}^2)`.
    :param generator: for them.
    :raises ConfigurationError: for values that cannot work; self-loops, edges onto inputs, or an output that
    no
        input reaches.

    It does not sleep: its neurons form no chain of layers. :meth:`prune` makes it sparse, :meth:`stability`
    says whether the theory's condition holds.
    """

    readout = "activated"

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        edges: str | Tensor = "complete",
        dt: float = 0.05,
        leak: float = 0.0,
        beta: float = 10.0,
        free_steps: int = 1000,
        teaching_steps: int = 1000,
        spread: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, count in (("inputs", inputs), ("outputs", outputs)):
            _check_positive(name, count)
        if type(hidden) is not int or hidden < 0:
            raise ConfigurationError(f"hidden is {hidden!r}; it must be 0 or more")
        _check_positive("free_steps", free_steps)
        _check_positive("teaching_steps", teaching_steps)
        if not 0 < dt <= 1:
            raise ConfigurationError(f"dt is {dt}; it must lie in (0, 1]")
        for name, value in (("beta", beta), ("spread", spread)):
            if not 0 < value < float("inf"):
                raise ConfigurationError(f"{name} is {value}; it must be positive and finite")
        if not 0 <= leak < float("inf"):
            raise ConfigurationError(f"leak is {leak}; it must be finite, and 0 or more")
        self.inputs, self.hidden, self.outputs = inputs, hidden, outputs
        self.dt, self.leak, self.beta = dt, leak, beta
        self.free_steps, self.teaching_steps = free_steps, teaching_steps
        self.mask: Tensor
        self.register_buffer("mask", self._edges(edges))
        device = generator.device if generator is not None else None
        drawn = torch.empty(self.mask.shape, device=device).normal_(0, spread, generator=generator)
        self.weight = nn.Parameter(drawn * self.mask.to(drawn))

    @property
    def driven(self) -> int:
        """Neurons whose state is given: the inputs and the one that is always on."""
        return self.inputs + 1

    def _edges(self, edges: str | Tensor) -> Tensor:
        count = self.inputs + 1 + self.hidden + self.outputs
        first, last = self.driven, self.driven + self.hidden
        mask = torch.zeros(count, count)
        if isinstance(edges, Tensor):
            if edges.shape != mask.shape:
                raise ConfigurationError(
                    f"edges has shape {tuple(edges.shape)}; {count} neurons need {tuple(mask.shape)}"
                )
            mask = (edges != 0).float()
        elif edges == "complete":
            mask[:, first:] = 1.0
            mask.fill_diagonal_(0.0)
        elif edges == "layered":
            mask[:first, first:last] = 1.0
            mask[first:last, last:] = 1.0
            mask[self.inputs, last:] = 1.0
            if not self.hidden:
                mask[:first, last:] = 1.0
        else:
            raise ConfigurationError(
                f"edges {edges!r} is unknown; choose complete, layered, or give a matrix"
            )
        if bool(mask.diagonal().any()):
            raise ConfigurationError(
                "edges has self-loops: a neuron's leak already depends on itself"
            )
        if bool(mask[:, :first].any()):
            raise ConfigurationError("edges lead onto inputs, whose states are given")
        reached = torch.zeros(count)
        reached[: self.inputs] = 1.0
        for _ in range(count):
            reached = ((reached + reached @ mask) > 0).float()
        lost = [j - last for j in range(last, count) if not reached[j]]
        if lost:
            raise ConfigurationError(f"no path leads from an input to outputs {lost}")
        return mask

    def forward(self, x: Tensor) -> Tensor:
        """The outputs at rest, ``(batch, outputs)``.

        :raises InputError: for an input that does not fit.
        :raises DivergenceError: when a state leaves the finite numbers.
        """
        checked_values(x, self.inputs)
        if x.numel() and (float(x.min()) < 0 or float(x.max()) > 1):
            raise InputError("inputs of a DirectedNetwork are rates: scale them to [0, 1]")
        nudging = Nudging()
        output: Tensor = _Settled.apply(self, nudging, x.flatten(1), self.weight)
        output.nudging = nudging  # type: ignore[attr-defined]
        return output

    @torch.no_grad()
    def settle(
        self,
        x: Tensor,
        start: Tensor | None = None,
        target: Tensor | None = None,
        observe: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """The states of all neurons ``(batch, n)`` at the end of a phase.

        :param start: default: all at zero but the inputs.
        :param target: of the outputs, in the teaching phase.
        :param observe: is shown the states before and after each step.
        """
        weight = self.weight * self.mask
        driven = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        if start is None:
            start = x.new_zeros(len(x), len(weight))
        state = torch.cat([driven, start[:, self.driven :]], 1)
        leak = weight.sum(1) + self.leak
        steps = self.free_steps if target is None else self.teaching_steps
        for _ in range(steps):
            change = state @ weight - state * leak
            if target is not None:
                outputs = state[:, -self.outputs :]
                change[:, -self.outputs :] += self.beta * (target - outputs)
            moved = (state + self.dt * change).clamp_(0.0, 1.0)
            moved[:, : self.driven] = driven
            if observe is not None:
                observe(state, moved)
            state = moved
        if not bool(state.isfinite().all()):
            raise DivergenceError(
                "a directed network left the finite numbers: lower the learning rate, or give it a leak"
            )
        return state

    def stability(self) -> Stability:
        """Whether the theory's condition holds for the weights as they are."""
        weight = (self.weight * self.mask).detach()
        centres = -(weight.sum(1) + self.leak)[self.driven :]
        radii = weight[self.driven :].abs().sum(0)[self.driven :]
        failing = (centres + radii >= 0).nonzero()[:, 0] + self.driven
        return Stability(centres, radii, tuple(failing.tolist()))

    @torch.no_grad()
    def prune(
        self,
        temperature: float = 5.0,
        safe: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> int:
        r"""Set weak weights to zero by chance; they may grow again. To be called once an epoch.

        An edge with :math:`|W_{ij}| \le` ``safe`` goes with the probability
        :math:`e^{-|W_{ij}|/\tau} / \sum_{i'} e^{-|W_{i'j}|/\tau}` among the edges onto j.

        :returns: how many went.
        """
        size = self.weight.abs()
        chance = torch.exp(-size / temperature) * self.mask
        chance = chance / chance.sum(0).clamp(min=1e-30)
        drawn = torch.rand(chance.shape, generator=generator).to(chance)
        gone = (size <= safe) & (self.weight != 0) & (drawn < chance)
        self.weight[gone] = 0.0
        return int(gone.sum())

    @property
    def sparsity(self) -> float:
        """The part of the edges whose weight is zero."""
        return 1.0 - float((self.weight[self.mask > 0] != 0).float().mean())

    def parameter_groups(self, learning_rates: Any) -> list[dict[str, Any]]:
        """One group: a complete graph has no layers."""
        rate = learning_rates if isinstance(learning_rates, float | int) else learning_rates[0]
        return [{"params": [self.weight], "lr": float(rate)}]

    def synapses(self) -> list[Any]:
        """:raises ConfigurationError: always; see above."""
        raise ConfigurationError(
            "a DirectedNetwork does not sleep: its neurons form no chain of layers"
        )

    def extra_repr(self) -> str:
        return (
            f"{self.inputs} inputs, {self.hidden} hidden, {self.outputs} outputs, beta={self.beta}"
        )


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name} is {value!r}; it must be an integer of 1 or more")


class _Settled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, network: DirectedNetwork, nudging: Nudging, x: Tensor, weight: Tensor
    ) -> Tensor:
        ctx.network, ctx.nudging = network, nudging
        ctx.state = network.settle(x.detach())
        ctx.save_for_backward(x, weight)
        return ctx.state[:, -network.outputs :].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, output_gradient: Tensor) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        network, loss_and_weights = ctx.network, ctx.nudging.single_loss()
        if loss_and_weights is None or not isinstance(loss_and_weights[0], SquaredError):
            raise ConfigurationError(
                "a DirectedNetwork is taught a target: use SquaredError of continual_ep.learning"
            )
        weights = loss_and_weights[1].unsqueeze(1)
        safe = torch.where(weights != 0, weights, 1.0)
        target = ctx.state[:, -network.outputs :] - output_gradient / safe
        total = torch.zeros_like(weight)

        def observe(before: Tensor, after: Tensor) -> None:
            total.addmm_((weights * after).t(), after - before)

        network.settle(x, ctx.state, target, observe)
        ctx.nudging.loss_terms.clear()
        return None, None, None, -total * network.mask / network.teaching_steps
