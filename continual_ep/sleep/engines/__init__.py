"""Engines that run a night, fastest first; all give the same spikes and weights.

An engine is a module with two functions, see :class:`Engine`. The first one that can run a night
runs it (:func:`continual_ep.sleep.night.run_sleep`).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from continual_ep.sleep.chain import ChainState
from continual_ep.sleep.engines import layerwise, stepwise, triton
from continual_ep.sleep.parameters import SleepParameters


class Engine(Protocol):
    """What an engine provides."""

    def can_run(
        self,
        chains: Sequence[ChainState],
        parameters: SleepParameters,
        device: torch.device | str,
    ) -> bool:
        """Whether this engine can run a night of these chains of one model on this device."""

    def run(
        self,
        chains: Sequence[ChainState],
        parameters: SleepParameters,
        steps: int,
        device: torch.device | str,
    ) -> NDArray[Any]:
        """Run the night; the chains change in place.

        :returns: spikes of each step in the input and in each layer, ``(steps run, 1 + layers)``.
        """


#: All engines. The last one runs every night.
ENGINES: tuple[Engine, ...] = (triton, layerwise, stepwise)
