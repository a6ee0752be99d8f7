r"""The relaxation of a network with clamped input to its equilibrium.

Every layer follows

.. math:: s_l \leftarrow (1 - dt)\, s_l + dt\, \rho_l(u_l(s)),

with :math:`u_l` the total input current of the layer. ``dt = 1`` is the discrete map, ``0 < dt < 1``
the Euler step of the leaky rate dynamics; the fixed points are the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from continual_ep.errors import DivergenceError
from continual_ep.options import Options, option
from continual_ep.relaxation.orders import Groups, update_groups
from continual_ep.relaxation.products import tensor_cores
from continual_ep.relaxation.protocols import Clamped, Current, Nudge

#: Steps between two tests of the tolerance: each test costs a copy and, on a GPU, a synchronisation.
CHECK_EVERY = 4


@dataclass(frozen=True)
class Relaxation(Options):
    """How a network settles.

    ``dt`` is in units of the membrane time constant. For the orders see :mod:`.orders`, for products in fewer
    bits, whose sums and states are float32, :mod:`.products`, for CUDA graphs
    :mod:`continual_ep.learning.cuda_graphs`.

    :raises ConfigurationError: for an unknown choice or a ``dt`` outside (0, 1].
    """

    order: Literal["red-black", "synchronous", "sweep"] = option("red-black", "order of updates")
    dt: float = option(1.0, "time step, 1 = discrete map", gt=0, le=1)
    products: Literal["float32", "tf32", "bfloat16"] = option(
        "float32", "bits of products while settling: 23, 10 or 7 behind the point"
    )
    cuda_graphs: bool = option(False, "record the phases of a step (CUDA graphs)")


@dataclass
class Settled:
    """Where a relaxation ended.

    :param states: one tensor ``(batch, n_l)`` per layer above the input.
    :param steps: the number of steps taken.
    :param residual: the largest change of any unit in the last step, in units of the state.
    :param trace: the states after every step, if a trace was asked for.
    :param change: the residual where it has not been brought to the host; else None.
    """

    states: list[Tensor]
    steps: int
    residual: float
    trace: list[list[Tensor]] = field(default_factory=list)
    change: Tensor | None = None


def step(
    clamped: Clamped, states: list[Tensor], groups: Groups, dt: float, nudge: Nudge | None = None
) -> None:
    """One step, replacing the tensors in ``states``; differentiable by autograd."""
    last, time_steps = len(states) - 1, clamped.time_steps
    for group in groups:
        activations = []
        for layer in group:
            current = clamped.current(layer, states)
            if nudge is not None and layer == last:
                current = nudge(current, states[layer])
            activations.append(clamped.activations[layer](current))
        for layer, activation in zip(group, activations, strict=True):
            if time_steps is not None:
                states[layer] = torch.lerp(states[layer], activation, time_steps[layer])
            else:
                states[layer] = (
                    activation if dt == 1.0 else torch.lerp(states[layer], activation, dt)
                )


class _Update(NamedTuple):
    """How one layer moves."""

    layer: int
    current: Current
    nudge: Nudge | None
    activate: Callable[[Tensor], Tensor] | None
    #: The part of the way to its rate that it goes; None for all of it.
    pace: float | Tensor | None


def _updates(
    clamped: Clamped, groups: Groups, dt: float, nudge: Nudge | None
) -> list[list[_Update]]:
    """One step, in the order of ``groups``."""
    activations, time_steps = clamped.activations, clamped.time_steps
    last = len(activations) - 1

    def update(layer: int) -> _Update:
        activation = activations[layer]
        return _Update(
            layer,
            clamped.prepared(layer),
            nudge if layer == last else None,
            None if activation.name == "identity" else activation.in_place,
            time_steps[layer] if time_steps is not None else None if dt == 1.0 else dt,
        )

    return [[update(layer) for layer in group] for group in groups]


def _steps_in_place(
    updates: list[list[_Update]], states: list[Tensor], buffers: list[Tensor], steps: int
) -> None:
    """:func:`step` without allocation: new states go to ``buffers``, and the two change places."""
    for _ in range(steps):
        for group in updates:
            for layer, current, nudge, activate, _ in group:
                arriving = current(states, buffers[layer])
                if nudge is not None:
                    nudge(arriving, states[layer])
                if activate is not None:
                    activate(arriving)
            for layer, _, _, _, pace in group:
                if pace is None:
                    states[layer], buffers[layer] = buffers[layer], states[layer]
                else:
                    states[layer].lerp_(buffers[layer], pace)


@torch.no_grad()
def settle(
    clamped: Clamped,
    relaxation: Relaxation,
    *,
    steps: int,
    start: Sequence[Tensor] | None = None,
    tolerance: float | None = None,
    nudge: Nudge | None = None,
    trace: bool = False,
    phase: str = "free phase",
    check_finite: bool = True,
) -> Settled:
    """Let a clamped network settle.

    :param clamped: the network, its input clamped.
    :param relaxation: update order and time step.
    :param steps: the number of steps, or the largest number if ``tolerance`` is given.
    :param start: the states to start from (left untouched); default: at rest.
    :param tolerance: stop when no unit changed by more than this in a step; tested every
        :data:`CHECK_EVERY` steps.
    :param nudge: a nudge of the output layer; with one, orders begin at the output.
    :param trace: keep the states after every step.
    :param phase: the name of the phase, for messages.
    :param check_finite: look for divergence. Without, a phase of fixed length needs no host
        synchronisation, and ``residual`` is NaN.
    :returns: the states reached, with statistics.
    :raises DivergenceError: when a state becomes NaN or infinite.
    """
    origin = clamped.initial_states() if start is None else start
    states = list(origin) if start is None else [state.clone() for state in origin]
    buffers = [torch.empty_like(state) for state in states]
    groups = update_groups(relaxation.order, len(states), nudged=nudge is not None)
    updates = _updates(clamped, groups, relaxation.dt, nudge)
    paced = clamped.time_steps is not None or relaxation.dt != 1.0
    history: list[list[Tensor]] = []
    residual = float("inf")
    taken = 0
    looks = check_finite and tolerance is not None
    with tensor_cores(relaxation.products, states[0].device):
        while taken < steps:
            stretch = 1 if trace else min(CHECK_EVERY if looks else steps, steps - taken)
            _steps_in_place(updates, states, buffers, stretch - 1)
            taken += stretch
            due = taken == steps or (looks and taken % CHECK_EVERY == 0)
            # A step of full length leaves the states before it in the buffers.
            kept = [state.clone() for state in states] if due and paced else buffers
            _steps_in_place(updates, states, buffers, 1)
            if trace:
                history.append([state.clone() for state in states])
            if not due or not check_finite:
                continue
            residual = largest_change(kept, states)
            if not residual < float("inf"):
                begin = clamped.initial_states() if start is None else start
                _raise_divergence(clamped, relaxation.dt, groups, begin, taken, nudge, phase)
            if tolerance is not None and residual <= tolerance:
                break
    if not check_finite:
        return Settled(states, taken, float("nan"), history, _change(kept, states))
    return Settled(states, taken, residual, history)


def repeat_batch(states: Sequence[Tensor], times: int, dim: int = 0) -> list[Tensor]:
    """The states of ``times`` batches that all begin alike, each in the memory layout that it has.

    :param dim: the dimension that counts samples.
    """
    return [
        torch.cat([state.mT] * times, dim=dim + 1).mT
        if state.dim() == dim + 2 and not state.is_contiguous()
        else torch.cat([state] * times, dim=dim)
        for state in states
    ]


def largest_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest change of any unit; NaN or infinity if any state is."""
    return float(_change(before, after))


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    pairs = zip(before, after, strict=True)
    changes = [(new - old).abs().max() for old, new in pairs if new.numel()]
    return torch.stack(changes).max() if changes else torch.zeros(())


def _raise_divergence(
    clamped: Clamped,
    dt: float,
    groups: Groups,
    origin: Sequence[Tensor],
    steps: int,
    nudge: Nudge | None,
    phase: str,
) -> None:
    """Repeat the relaxation step by step to say where it first left the finite numbers."""
    cause = clamped.nonfinite_source()
    states = list(origin)
    place = f"by step {steps}"
    for number in range(1, steps + 1):
        step(clamped, states, groups, dt, nudge)
        bad = [layer for layer, state in enumerate(states) if not bool(state.isfinite().all())]
        if bad:
            place = f"in layer {bad[0] + 1} at step {number}"
            break
    remedy = cause or (
        "the input and the parameters are finite: lower dt, beta, the learning rate, feedback_scale or the "
        "weights' gain"
    )
    raise DivergenceError(f"the {phase} left the finite numbers {place}: {remedy}")
