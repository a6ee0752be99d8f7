"""A night on a GPU: a layer's units in groups, all networks of an ensemble in one launch.

The same layer-by-layer night as :mod:`continual_ep.sleep.event_driven`, whose input spikes are drawn on
the CPU: every engine dreams the same dream. Not yet measured on a GPU; Triton's interpreter runs it on
the CPU in the tests.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continual_ep.sleep.event_driven import Events, gate_limits, knows_only_below
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.sleepers import DenseSleeper

if TYPE_CHECKING:
    from continual_ep.sleep.night import SleepingChain

Array = NDArray[Any]

#: Units of one program. A cache line holds the weights of 32 units from one input.
LANES = 32

#: Inputs whose weights onto the units of a program change at once.
TILE = 16


def can_sleep_on_device(
    chains: "Sequence[SleepingChain]",
    parameters: Sequence[SleepParameters],
    device: torch.device | str,
) -> bool:
    """Whether these networks can sleep together on this device.

    On a GPU with Triton: layers that know only what is below, of the same shapes, plastic alike, with one
    gate width and one way with biases.
    """
    first = chains[0]
    return (
        torch.device(device).type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and all(knows_only_below(c, own) for c, own in zip(chains, parameters, strict=True))
        and len({(own.gate_width, own.biases) for own in parameters}) == 1
        and all(_kind(chain) == _kind(first) for chain in chains)
    )


def _kind(chain: "SleepingChain") -> tuple[object, ...]:
    masked = tuple(getattr(s, "mask_by_input", None) is not None for s in chain.sleepers)
    shapes = tuple(s.weight().shape for s in chain.sleepers)
    return shapes, masked, tuple(chain.plastic), chain.dtype


def sleep_on_device(
    chains: "Sequence[SleepingChain]",
    parameters: Sequence[SleepParameters],
    steps: int,
    device: torch.device | str,
) -> list[list[Array]]:
    """The whole night of networks of one shape; for each the spikes of every step, by layer.

    :param chains: dense layers without pools, as :func:`.knows_only_below` demands; one for each
        network. :param parameters: likewise; gate width and biases are those of the first.
    :param steps: of the night. :param device: where.
    """
    events = [chain.spikes.events(steps) for chain in chains]
    counts = [[own.counts] for own in events]
    for layer in range(len(chains[0].sleepers)):
        events = _layer(chains, layer, events, parameters, steps, torch.device(device))
        for known, own in zip(counts, events, strict=True):
            known.append(own.counts)
    return counts


def _layer(
    chains: "Sequence[SleepingChain]",
    layer: int,
    below: list[Events],
    parameters: Sequence[SleepParameters],
    steps: int,
    device: torch.device,
) -> list[Events]:
    from continual_ep.sleep.triton_kernels import sleep_units

    sleepers = [chain.sleepers[layer] for chain in chains]
    first = sleepers[0]
    assert isinstance(first, DenseSleeper)
    inputs, units = first.by_input.shape

    def there(arrays: Sequence[Array]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(device)

    weight = there([s.by_input for s in sleepers if isinstance(s, DenseSleeper)])
    membrane = there([chain.membranes[layer] for chain in chains])
    masked = first.mask_by_input is not None
    masks = [s.mask_by_input for s in sleepers if isinstance(s, DenseSleeper)]
    mask = there([m for m in masks if m is not None]) if masked else weight
    steady = parameters[0].biases == "current"
    constant = membrane
    if steady:
        own = [c.gains[layer] * c.constants[layer] for c in chains]
        kind = first.by_input.dtype
        constant = there([np.broadcast_to(c, (units,)).astype(kind) for c in own])
    offsets = np.cumsum([0, *(len(events.active) for events in below)])
    pairs = list(zip(below, offsets, strict=False))
    spiking = torch.zeros(len(chains), steps, inputs, dtype=torch.uint8, device=device)
    for number, events in enumerate(below):
        when = np.repeat(np.arange(steps), events.counts)
        spiking[number, torch.from_numpy(when), torch.from_numpy(events.active)] = 1
    spikes = torch.zeros(len(chains), steps, units, dtype=torch.uint8, device=device)
    numbers = [
        (p.leak, chain.gains[layer], chain.thresholds[layer], p.increase, p.decrease)
        for chain, p in zip(chains, parameters, strict=True)
    ]
    largest = max(max(p.increase, p.decrease) for p in parameters)
    low, high = gate_limits(largest, parameters[0].gate_width, first.by_input.dtype)
    sleep_units[(-(-units // LANES), len(chains))](
        weight,
        mask,
        membrane,
        constant,
        there([events.starts + offset for events, offset in pairs]),
        torch.from_numpy(np.concatenate([e.active for e in below])).to(device),
        spiking,
        spikes,
        inputs,
        units,
        steps,
        torch.tensor(numbers, dtype=weight.dtype, device=device),
        torch.tensor([1.0 / parameters[0].gate_width, low, high], dtype=torch.float64).to(device),
        MASKED=masked,
        CONSTANT=steady,
        PLASTIC=chains[0].plastic[layer],
        LANES=LANES,
        TILE=TILE,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return [
        _woken(chain, layer, weight[number], membrane[number], spikes[number])
        for number, chain in enumerate(chains)
    ]


def _woken(
    chain: "SleepingChain", layer: int, weight: Tensor, membrane: Tensor, spikes: Tensor
) -> Events:
    """Back to the CPU: what a layer has become, and its spikes."""
    asleep = chain.sleepers[layer]
    assert isinstance(asleep, DenseSleeper)
    if chain.plastic[layer]:
        asleep.by_input[:] = weight.cpu().numpy()
    chain.membranes[layer][:] = membrane.cpu().numpy()
    chain.unit_counts[layer] += spikes.sum(0, dtype=torch.int64).cpu().numpy()
    step, unit = spikes.nonzero(as_tuple=True)
    number = np.bincount(step.cpu().numpy(), minlength=len(spikes))
    return Events(np.concatenate([[0], np.cumsum(number)]), unit.cpu().numpy())
