r"""One step of sleep as the formula reads: dense, slow, and what the engine is tested against.

For the layers :math:`l = 1 \ldots L` in order, within the same step:

.. math::

    v_l &\leftarrow \lambda\, v_l + \alpha_l\,(W_l\, s_{l-1} + B_l\, s_{l+1}^{\text{previous}} + c_l) \\
    s_l &= [\, v_l \ge \beta_l \,] \\
    W_l &\leftarrow W_l + s_l \odot g(W_l) \odot (\text{inc}\; s_{l-1} - \text{dec}\,(1 - s_{l-1}))^T \\
    v_l &\leftarrow (1 - s_l) \odot v_l
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from continual_ep.sleep.parameters import SleepParameters


class SleepState(NamedTuple):
    """Weights ``(n_post, n_pre)``, membranes ``(n_post,)`` and last spikes ``(n_post,)`` by layer."""

    weights: tuple[Tensor, ...]
    membranes: tuple[Tensor, ...]
    spikes: tuple[Tensor, ...]


def initial_state(weights: Sequence[Tensor]) -> SleepState:
    """The state before the first step: membranes at zero, no unit has spiked."""
    silent = tuple(weight.new_zeros(weight.shape[0]) for weight in weights)
    return SleepState(tuple(weights), silent, silent)


def sleep_step(
    state: SleepState,
    input_spikes: Tensor,
    parameters: SleepParameters,
    *,
    thresholds: Sequence[float],
    gains: Sequence[float],
    currents: Sequence[Tensor | float] | None = None,
    plastic: Sequence[bool] | None = None,
) -> SleepState:
    """The state after one step.

    :param input_spikes: zeros and ones, shape ``(n_0,)``.
    :param thresholds: :math:`\\beta_l`. :param gains: :math:`\\alpha_l`.
    :param currents: :math:`c_l`, constant currents such as those of biases.
    :param plastic: which layers change; all by default.
    """
    below, weights, membranes, spikes = input_spikes, [], [], []
    for layer, weight in enumerate(state.weights):
        current = weight @ below
        if parameters.feedback and layer + 1 < len(state.weights):
            current = current + state.weights[layer + 1].T @ state.spikes[layer + 1]
        if currents is not None:
            current = current + currents[layer]
        membrane = parameters.leak * state.membranes[layer] + gains[layer] * current
        spike = (membrane >= thresholds[layer]).to(weight.dtype)
        step = parameters.increase * below - parameters.decrease * (1 - below)
        gate = 2 * torch.sigmoid(-weight / parameters.gate_width)
        if plastic is None or plastic[layer]:
            weight = weight + spike[:, None] * gate * step
        weights.append(weight)
        membranes.append((1 - spike) * membrane)
        spikes.append(spike)
        below = spike
    return SleepState(tuple(weights), tuple(membranes), tuple(spikes))
