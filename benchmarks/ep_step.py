"""One step of equilibrium propagation against a naive one, in one process on one thread.

    python benchmarks/ep_step.py

Naive: autograd through the primitive function at every step, nothing cached, synchronous, the two signs
of the nudge one after the other; 60 free and 2 x 12 nudged steps, batch 64. Ours: red-black, half as many
steps for the same trajectory. Both hold the force fixed, so that they compute the same number; its error is
measured against the naive one in float64.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from continual_ep.learning import EquilibriumPropagation, SquaredError, reference_gradients
from continual_ep.networks import MRNN

STEPS, NUDGED, BATCH, BETA = 60, 12, 64, 0.1


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The median time of a call."""
    function()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The relative error of all gradients together."""
    a, b = (torch.cat([g.double().flatten() for g in each]) for each in (found, exact))
    return float((a - b).norm() / b.norm())


def compare(sizes: list[int]) -> dict[str, object]:
    torch.manual_seed(0)
    rule = EquilibriumPropagation(BETA, free_steps=STEPS // 2, nudged_steps=NUDGED // 2)
    network = MRNN(sizes, gain=0.7, learning=rule)
    criterion = SquaredError()
    x, y = torch.rand(BATCH, sizes[0]), torch.randint(0, sizes[-1], (BATCH,))

    def ours() -> list[Tensor]:
        return list(torch.autograd.grad(criterion(network(x), y), list(network.parameters())))

    def naive() -> list[Tensor]:
        steps = {"free_steps": STEPS, "nudged_steps": NUDGED, "nudging": "force"}
        return reference_gradients(network, x, y, criterion, beta=BETA, **steps)

    fast, slow = ours(), naive()
    times = seconds(ours, 30), seconds(naive, 7)
    network.double()
    x = x.double()
    exact = naive()
    return {
        "sizes": sizes,
        "ours_ms": round(1e3 * times[0], 2),
        "naive_ms": round(1e3 * times[1], 2),
        "speedup": round(times[1] / times[0], 2),
        "error_ours_float64": error(ours(), exact),
        "error_ours_float32": error(fast, exact),
        "error_naive_float32": error(slow, exact),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"torch": torch.__version__, "machine": platform.machine(), "threads": 1}))
    for sizes in ([784, 256, 10], [784, 512, 512, 10]):
        print(json.dumps(compare(sizes)))
