r"""Stochastic equilibrium propagation: units tell each other spikes, drawn anew at every step.

.. math:: b_l \sim \mathrm{Bernoulli}(s_l), \qquad s_l \leftarrow \rho(u_l(b))

Learning uses the mean of the states over the last steps of each phase; the mean field is deterministic
equilibrium propagation. The two nudged phases hear the same noise, without which it would drown the small
difference between them. Our reading of Lin, Jiang and Sengupta 2025 (arXiv:2511.11320), of which only the
abstract was at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.options import option
from continual_ep.relaxation import Nudge, Relaxation, Settled, settle
from continual_ep.relaxation.activations import Activation
from continual_ep.relaxation.protocols import ClampedDynamics, Current, SettlingNetwork

#: Activations in [0, 1], which can be probabilities.
PROBABILITIES = ("hard-sigmoid", "shifted-sigmoid")


@dataclass(frozen=True)
class StochasticEP(EquilibriumPropagation):
    """Equilibrium propagation between units that spike; all else is as there.

    :raises ConfigurationError: for an impossible value, or hidden activations outside of [0, 1].
    """

    kinds = ("mrnn", "dendritic", "convolutional")
    sources = ("lin2025",)

    nudged_steps: int = option(10, "of each nudged phase", ge=1)
    averaged_steps: int = option(
        5, "at the end of each phase, whose states are averaged; fewer than the phase has", ge=1
    )

    def check_combination(self) -> None:
        super().check_combination()
        if self.averaged_steps >= min(self.free_steps, self.nudged_steps):
            raise ConfigurationError(
                f"averaged_steps is {self.averaged_steps}; it must be less than the steps of each phase"
            )
        if self.tolerance is not None or self.adaptation_steps:
            raise ConfigurationError(
                "states that are drawn never settle: StochasticEP takes no tolerance and no adaptation"
            )

    supports_ensembles = False

    @property
    def supports_cuda_graphs(self) -> bool:
        return False

    def check(self, network: SettlingNetwork) -> None:
        bent = [a.name for a in network.activations[:-1] if a.name not in PROBABILITIES]
        if bent:
            raise ConfigurationError(
                f"StochasticEP needs activations in [0, 1], and those of {bent[0]} are not: use one of "
                f"{', '.join(PROBABILITIES)}"
            )

    def free_phase(self, network: SettlingNetwork, clamped: ClampedDynamics) -> Settled:
        return self._averaged(clamped, network.relaxation, self.free_steps, None, None, 1)

    def _settle_nudged(
        self,
        clamped: ClampedDynamics,
        relaxation: Relaxation,
        start: list[Tensor],
        nudge: Nudge,
        times: int,
        *,
        check_finite: bool,
    ) -> list[Tensor]:
        settled = self._averaged(clamped, relaxation, self.nudged_steps, start, nudge, times)
        return settled.states

    def _averaged(
        self,
        clamped: ClampedDynamics,
        relaxation: Relaxation,
        steps: int,
        start: list[Tensor] | None,
        nudge: Nudge | None,
        times: int,
    ) -> Settled:
        noisy = Spiking(clamped, times)
        before = settle(
            noisy, relaxation, steps=steps - self.averaged_steps, start=start, nudge=nudge
        )
        end = settle(
            noisy,
            relaxation,
            steps=self.averaged_steps,
            start=before.states,
            nudge=nudge,
            trace=True,
        )
        layers = list(zip(*end.trace, strict=True))
        means = [torch.stack(layer).mean(0) for layer in layers]
        # What drawing one step more would change in the means: states themselves never rest.
        change = max(
            float((layer[-1] - mean).abs().mean()) / self.averaged_steps
            for layer, mean in zip(layers, means, strict=True)
        )
        return Settled(means, steps, change)


@dataclass
class Spiking:
    """A clamped network whose units hear spikes of each other.

    :param times: parts of the batch that hear the same noise.
    """

    network: ClampedDynamics
    times: int

    @property
    def activations(self) -> Sequence[Activation]:
        return self.network.activations

    @property
    def time_steps(self) -> Sequence[Tensor] | None:
        return self.network.time_steps

    def initial_states(self) -> list[Tensor]:
        return self.network.initial_states()

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        return self.network.current(layer, self._spikes(layer, states), out)

    def prepared(self, layer: int) -> Current:
        inner = self.network.prepared(layer)
        return lambda states, out: inner(self._spikes(layer, states), out)

    def _spikes(self, layer: int, states: Sequence[Tensor]) -> list[Tensor]:
        """Spikes of all other layers whose activations are probabilities."""
        heard = list(states)
        for number, state in enumerate(states):
            if number != layer and self.activations[number].name in PROBABILITIES:
                part = state[: len(state) // self.times]
                noise = torch.cat([torch.rand_like(part)] * self.times)
                heard[number] = (noise < state).to(state.dtype)
        return heard

    def nonfinite_source(self) -> str | None:
        return self.network.nonfinite_source()
