"""The inner loops of a night for a GPU, in Triton. Imported only where Triton is installed.

The arithmetic is that of :mod:`continual_ep.sleep.engines.numba_kernels` in the same order, so that
spikes and weights are the same. Not yet measured on a GPU.
"""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def sleep_units(  # type: ignore[no-untyped-def] # Triton reads annotations as types of its own
    weight,
    mask,
    membrane,
    constant,
    starts,
    active,
    spiking,
    spikes,
    inputs,
    units,
    steps,
    constants,
    limits,
    MASKED: tl.constexpr,
    CONSTANT: tl.constexpr,
    PLASTIC: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    """All steps of ``LANES`` units of one layer of one network; the second grid axis counts networks.

    :param weight: ``(networks, inputs, units)``, changed in place; :param mask: likewise.
    :param membrane: ``(networks, units)``, changed in place; :param constant: ``(networks, units)``.
    :param starts: ``(networks, steps + 1)``: the inputs that spike in step t are
        ``active[starts[t] : starts[t + 1]]``.
    :param spiking: the same as ``(networks, steps, inputs)`` of zeros and ones.
    :param spikes: of these units, ``(networks, steps, units)``, zeros on entry.
    :param constants: leak, gain, threshold, increase, decrease, ``(networks, 5)``.
    :param limits: :math:`1/w_0`, low and high as of :func:`.gate_limits`, in double precision.
    """
    inverse_width, low, high = tl.load(limits), tl.load(limits + 1), tl.load(limits + 2)
    network = tl.program_id(1).to(tl.int64)
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    here = lane < units
    weight += network * inputs * units
    mask += network * inputs * units
    starts += network * (steps + 1)
    spiking += network * steps * inputs
    spikes += network * steps * units
    leak = tl.load(constants + network * 5)
    gain = tl.load(constants + network * 5 + 1)
    threshold = tl.load(constants + network * 5 + 2)
    increase = tl.load(constants + network * 5 + 3)
    decrease = tl.load(constants + network * 5 + 4)
    charge = tl.load(membrane + network * units + lane, mask=here, other=0.0)
    steady = tl.zeros_like(charge)
    if CONSTANT:
        steady = tl.load(constant + network * units + lane, mask=here, other=0.0)
    end = tl.load(starts)
    for step in range(steps):
        begin = end
        end = tl.load(starts + step + 1)
        if begin < end:
            # In order, as on the CPU: sums in another order would give other spikes.
            current = tl.zeros_like(charge)
            for place in range(begin, end):
                source = tl.load(active + place)
                current += tl.load(weight + source * units + lane, mask=here, other=0.0)
            charge = charge * leak + gain * current
        else:
            charge = charge * leak
        if CONSTANT:
            charge += steady
        fired = (charge >= threshold) & here
        if tl.max(fired.to(tl.int32), 0) > 0:
            tl.store(spikes + step * units + lane, 1, mask=fired)
            charge = tl.where(fired, 0.0, charge)
            if PLASTIC:
                for first in range(0, inputs, TILE):
                    source = first + tl.arange(0, TILE)
                    exists = source < inputs
                    spiked = tl.load(spiking + step * inputs + source, mask=exists, other=0) != 0
                    change = tl.where(spiked, increase, -decrease)
                    places = source[:, None] * units + lane[None, :]
                    wanted = exists[:, None] & fired[None, :]
                    if MASKED:
                        wanted = wanted & (tl.load(mask + places, mask=wanted, other=0) != 0)
                    old = tl.load(weight + places, mask=wanted, other=0.0)
                    exponent = old.to(tl.float64) * inverse_width
                    bounded = tl.minimum(tl.maximum(exponent, low), high)
                    gate = (2.0 / (1.0 + tl.exp(bounded))).to(old.dtype)
                    gate = tl.where(exponent > low, gate, 2.0).to(old.dtype)
                    new = old + gate * change[:, None]
                    tl.store(weight + places, new, mask=wanted & (exponent <= high))
                # Other threads of this program read these weights in the next step.
                tl.debug_barrier()
    tl.store(membrane + network * units + lane, charge, mask=here)
