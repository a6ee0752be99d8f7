r"""Linear response: equilibrium propagation in the limit of a vanishing nudge.

A force F on the output moves the free equilibrium by :math:`\beta\,\delta`, where :math:`\delta` settles by

.. math:: \delta_l \leftarrow \rho_l'(u_l) \big( (A\,\delta)_l + F_l \big), \qquad
          A = \partial u/\partial s, \qquad
          \frac{dL}{d\theta} = -\frac{d}{d\beta} \frac{\partial\Phi}{\partial\theta}(s + \beta\,\delta).

No difference of nearby states is formed, so the signal is not lost in rounding however small the
feedback makes it. The products with A are Jacobian-vector products of the network's own currents.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from continual_ep.learning.rule import FreePhase, SecondPhaseRule, largest_force
from continual_ep.options import option
from continual_ep.relaxation import settle
from continual_ep.relaxation.activations import Activation, Slope
from continual_ep.relaxation.protocols import ClampedDynamics, Current, Gradients


@dataclass(frozen=True)
class LinearResponse(SecondPhaseRule):
    """The linear response of the free equilibrium to the force of the loss, under any loss.

    :param update: see :class:`~continual_ep.learning.EquilibriumPropagation`; likewise ``corrected``.
    :raises ConfigurationError: for an impossible value.
    """

    sources = ("scellier2017", "pineda1987")
    supports_ensembles = True

    free_steps: int = option(30, "of the free phase", ge=1)
    response_steps: int = option(
        6, "in which the small change settles; more than there are layers", ge=1
    )
    tolerance: float | None = option(None, "stop a phase that moves less; null: never", gt=0)
    update: Literal["contrast", "postsynaptic"] = option(
        "contrast", "postsynaptic: change of the post- times free presynaptic state"
    )
    corrected: bool = option(False, "divide by the feedback scales between layer and output")

    @property
    def supports_cuda_graphs(self) -> bool:
        return self.tolerance is None

    def gradients(
        self, phase: FreePhase, output_gradient: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        clamped, states = phase.clamped, phase.states
        scale = largest_force(output_gradient, clamped.batch_dim)
        # Without a force anywhere there is nothing to divide.
        force = -output_gradient / torch.where(scale > 0, scale, 1.0)
        factors = clamped.attenuations() if self.corrected else [1.0] * len(states)
        settled = settle(
            SmallChanges(clamped, states, clamped.slopes(states), factors),
            phase.network.relaxation,
            steps=self.response_steps,
            tolerance=self.tolerance,
            nudge=lambda current, state: current.add_(force),
            phase="linear response",
            check_finite=phase.check_finite,
        )
        changes = [-scale * change for change in settled.states]
        if self.update == "postsynaptic":
            return clamped.hebbian_product(changes, states)
        changes = [factor * change for factor, change in zip(factors, changes, strict=True)]
        gradients, to_input = contrast_jvp(phase, changes)
        return (clamped.corrected(gradients) if self.corrected else gradients), to_input


def contrast_jvp(phase: FreePhase, changes: Sequence[Tensor]) -> Gradients:
    r"""The change of :math:`\partial\Phi/\partial\theta` for small changes of the free states."""
    clamped = phase.clamped
    alone = phase.network.clamp(clamped.x, drives=clamped.drives, wants_input=False)

    def products(states: Sequence[Tensor]) -> list[Tensor]:
        return alone.hebbian_product(states, states)[0]

    gradients = jvp(products, phase.states, changes)
    # The input is clamped, so that its gradient is linear in the changes.
    to_input = clamped.hebbian_product(changes, phase.states)[1] if clamped.wants_input else None
    return gradients, to_input


def jvp(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    at: Sequence[Tensor],
    along: Sequence[Tensor],
) -> list[Tensor]:
    """The change of a function of tensors for small changes of these."""
    _prepare_forward_mode()
    # With gradients enabled, dynamics do not cache what they computed of the states.
    with torch.enable_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, b) for a, b in zip(at, along, strict=True)]
        values = [forward_ad.unpack_dual(value) for value in function(duals)]
        # A value that depends on no state has no tangent.
        return [torch.zeros_like(v.primal) if v.tangent is None else v.tangent for v in values]


@cache
def _prepare_forward_mode() -> None:
    """Let torch load what forward-mode differentiation needs, without its own warning of 2.15."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)
        forward_ad.make_dual(torch.zeros(()), torch.ones(()))


@dataclass
class SmallChanges:
    r"""The network of small changes around an equilibrium.

    .. math:: \delta_l \leftarrow \rho_l' \sum_k A_{lk}\, \frac{c_k}{c_l}\, \delta_k

    :param clamped, states: the network and its equilibrium.
    :param slopes: :math:`\rho_l'(u_l)` there.
    :param factors: c, the units of the changes: with those of
        :meth:`~continual_ep.relaxation.protocols.ClampedDynamics.attenuations` a signal of 1 at the output
        is of order 1 in all layers, and none is too small for its type.
    """

    clamped: ClampedDynamics
    states: Sequence[Tensor]
    slopes: Sequence[Tensor]
    factors: Sequence[float]

    @property
    def activations(self) -> Sequence[Activation]:
        return [Slope(slope) for slope in self.slopes]

    @property
    def time_steps(self) -> Sequence[Tensor] | None:
        return self.clamped.time_steps

    def initial_states(self) -> list[Tensor]:
        """No change anywhere."""
        return [torch.zeros_like(slope) for slope in self.slopes]

    def current(self, layer: int, states: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """The current of a layer's change."""
        unit = self.factors[layer]
        along = [
            change if factor == unit else (factor / unit) * change
            for factor, change in zip(self.factors, states, strict=True)
        ]
        (total,) = jvp(lambda at: [self.clamped.current(layer, at)], self.states, along)
        return total if out is None else out.copy_(total)

    def prepared(self, layer: int) -> Current:
        return partial(self.current, layer)

    def nonfinite_source(self) -> str | None:
        return self.clamped.nonfinite_source()
