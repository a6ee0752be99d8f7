r"""Adjusted adaptation: after the teaching phase the states are pulled back to the free equilibrium.

.. math:: s \leftarrow (1 - c)\, F(s) + c\, s^*

with F one step of the network's own dynamics. Source: Kubo, Chalmers and Luczak 2022 (arXiv:2204.14008).
"""

from collections.abc import Sequence

from torch import Tensor

from continual_ep.relaxation import Nudge, Relaxation, settle
from continual_ep.relaxation.protocols import Clamped


def adapted(
    clamped: Clamped,
    relaxation: Relaxation,
    states: Sequence[Tensor],
    free: Sequence[Tensor],
    *,
    steps: int,
    rate: float,
    nudge: Nudge | None = None,
) -> list[Tensor]:
    """The states after ``steps`` steps of adaptation.

    :param states: after the teaching phase; :param free: the equilibrium that they are pulled to.
    :param rate: c, in (0, 1).
    :param nudge: what stays on meanwhile.
    """
    moved = list(states)
    for _ in range(steps):
        settled = settle(clamped, relaxation, steps=1, start=moved, nudge=nudge, phase="adaptation")
        moved = [state.lerp_(rest, rate) for state, rest in zip(settled.states, free, strict=True)]
    return moved
