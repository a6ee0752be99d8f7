"""A night on a GPU by Triton: a layer's units in groups, all networks of an ensemble in one launch.

The same layer-by-layer night as :mod:`continual_ep.sleep.engines.layerwise`. Input spikes are drawn on
the CPU, so that all engines replay the same spikes. Not yet measured on a GPU; Triton's interpreter
runs it on the CPU in the tests.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continual_ep.sleep.chain import ChainState, Events, depends_on_below_only
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.plasticity import GatedHebbian, gate_limits

Array = NDArray[Any]

#: Units of one program. A cache line holds the weights of 32 units from one input.
LANES = 32

#: Inputs whose weights onto the units of a program change at once.
TILE = 16


def can_run(
    chains: Sequence[ChainState], parameters: SleepParameters, device: torch.device | str
) -> bool:
    """Whether the model is one chain that :func:`can_run_batched` accepts."""
    return len(chains) == 1 and can_run_batched(chains, [parameters], device)


def run(
    chains: Sequence[ChainState],
    parameters: SleepParameters,
    steps: int,
    device: torch.device | str,
) -> Array:
    """The night of one model, see :class:`continual_ep.sleep.engines.Engine`."""
    return run_batched(chains, [parameters], steps, device)[0]


def can_run_batched(
    chains: Sequence[ChainState],
    parameters: Sequence[SleepParameters],
    device: torch.device | str,
) -> bool:
    """Whether these networks, one chain each, can run as one batch on this device.

    On a GPU with Triton: all-to-all layers that depend on the layer below only, of the same shapes,
    plastic alike by the rule that the kernel has, with one gate width and one treatment of biases.
    """
    first = chains[0]
    return (
        torch.device(device).type == "cuda"
        and importlib.util.find_spec("triton") is not None
        and all(type(p.rule) is GatedHebbian for p in parameters)
        and all(depends_on_below_only(c, p) for c, p in zip(chains, parameters, strict=True))
        and len({(p.gate_width, p.biases) for p in parameters}) == 1
        and all(_kind(chain) == _kind(first) for chain in chains)
    )


def _kind(chain: ChainState) -> tuple[object, ...]:
    """What chains of one batch have in common."""
    masks = tuple(layer.mask_by_input is not None for layer in chain.layers)
    shapes = tuple(layer.weight().shape for layer in chain.layers)
    return shapes, masks, tuple(chain.plastic), chain.dtype


def run_batched(
    chains: Sequence[ChainState],
    parameters: Sequence[SleepParameters],
    steps: int,
    device: torch.device | str,
) -> list[Array]:
    """The whole night of networks of one shape; for each the spikes of every step and layer.

    :param chains: one for each network, as :func:`can_run_batched` demands.
    :param parameters: likewise; gate width and biases are those of the first.
    """
    events = [chain.spikes.events(steps) for chain in chains]
    counts = [[one.counts] for one in events]
    for layer in range(len(chains[0].layers)):
        events = _run_layer(chains, layer, events, parameters, steps, torch.device(device))
        for columns, one in zip(counts, events, strict=True):
            columns.append(one.counts)
    return [np.stack(columns, axis=1).astype(np.int32) for columns in counts]


def _run_layer(
    chains: Sequence[ChainState],
    layer: int,
    below: list[Events],
    parameters: Sequence[SleepParameters],
    steps: int,
    device: torch.device,
) -> list[Events]:
    from continual_ep.sleep.engines.triton_kernels import sleep_units

    def on_device(arrays: Sequence[Array]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.stack(arrays))).to(device)

    weights = [w for chain in chains if (w := chain.layers[layer].by_input) is not None]
    masks = [m for chain in chains if (m := chain.layers[layer].mask_by_input) is not None]
    (inputs, units), kind = weights[0].shape, weights[0].dtype
    weight = on_device(weights)
    membrane = on_device([chain.membranes[layer] for chain in chains])
    mask = on_device(masks) if masks else weight
    steady = parameters[0].biases == "current"
    constant = membrane
    if steady:
        currents = [c.gains[layer] * c.constants[layer] for c in chains]
        constant = on_device([np.broadcast_to(c, (units,)).astype(kind) for c in currents])
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
    low, high = gate_limits(largest, parameters[0].gate_width, kind)
    sleep_units[(-(-units // LANES), len(chains))](
        weight,
        mask,
        membrane,
        constant,
        on_device([events.starts + offset for events, offset in pairs]),
        torch.from_numpy(np.concatenate([e.active for e in below])).to(device),
        spiking,
        spikes,
        inputs,
        units,
        steps,
        torch.tensor(numbers, dtype=weight.dtype, device=device),
        torch.tensor([1.0 / parameters[0].gate_width, low, high], dtype=torch.float64).to(device),
        MASKED=bool(masks),
        CONSTANT=steady,
        PLASTIC=chains[0].plastic[layer],
        LANES=LANES,
        TILE=TILE,
        num_warps=1,
        enable_fp_fusion=False,
    )
    return [
        _write_back(chain, layer, weight[number], membrane[number], spikes[number])
        for number, chain in enumerate(chains)
    ]


def _write_back(
    chain: ChainState, layer: int, weight: Tensor, membrane: Tensor, spikes: Tensor
) -> Events:
    """Copy what a layer has become to the CPU; its spikes."""
    by_input = chain.layers[layer].by_input
    if chain.plastic[layer] and by_input is not None:
        by_input[:] = weight.cpu().numpy()
    chain.membranes[layer][:] = membrane.cpu().numpy()
    chain.unit_counts[layer] += spikes.sum(0, dtype=torch.int64).cpu().numpy()
    step, unit = spikes.nonzero(as_tuple=True)
    per_step = np.bincount(step.cpu().numpy(), minlength=len(spikes))
    return Events(np.concatenate([[0], np.cumsum(per_step)]), unit.cpu().numpy())
