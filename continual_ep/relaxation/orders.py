r"""Update orders: which layers move together within one step.

A *step* updates every layer once. It is a sequence of groups: the layers of a group move
simultaneously, and the next group already sees their new states.

``synchronous``
    One group. The map :math:`s_{t+1} = \rho(\partial\Phi/\partial s(s_t))` of Ernoult et al. 2019.
``red-black``
    Layers 1, 3, 5, ..., then 2, 4, 6, ... A layered network without leak is bipartite: its synchronous
    trajectory is two interleaved chains that never meet, and ``k`` red-black steps from rest give bit for
    bit the states after ``2k - 1`` (odd layers) and ``2k`` (even layers) synchronous steps, at half the cost.
``sweep``
    One layer at a time: upwards in the free phase, downwards from the output in a nudged phase.
"""

from collections.abc import Callable

from continual_ep.errors import ConfigurationError

Groups = list[list[int]]


def _synchronous(depth: int, nudged: bool) -> Groups:
    return [list(range(depth))]


def _red_black(depth: int, nudged: bool) -> Groups:
    groups = [list(range(0, depth, 2)), list(range(1, depth, 2))]
    # A nudge enters at the output: begin with the output's colour, or its first half-step would be idle.
    if nudged and (depth - 1) % 2 == 1:
        groups.reverse()
    return [group for group in groups if group]


def _sweep(depth: int, nudged: bool) -> Groups:
    layers = range(depth - 1, -1, -1) if nudged else range(depth)
    return [[layer] for layer in layers]


#: Update orders by name; each gives the groups for a number of layers and a phase.
ORDERS: dict[str, Callable[[int, bool], Groups]] = {
    "synchronous": _synchronous,
    "red-black": _red_black,
    "sweep": _sweep,
}


def update_groups(order: str, depth: int, *, nudged: bool = False) -> Groups:
    """The groups of layer indices (0 = first layer above the input) that move together.

    :raises ConfigurationError: for an unknown order.
    """
    if order not in ORDERS:
        raise ConfigurationError(
            f"update order {order!r} is unknown; choose one of {', '.join(ORDERS)}"
        )
    return ORDERS[order](depth, nudged)
