"""Record which units spike when, for pictures of a night."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from continual_ep.sleep.chain import ChainState, Events, SpikeTrain
from continual_ep.sleep.simulation import Signal

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class NightRecording:
    """The spikes of a night by unit, of all layers from the one below the first that may change.

    :param layers: names, the input (or the frozen layer that takes its place) first.
    :param units: of each layer.
    :param raster: of each layer ``(2, spikes)``: step and unit, in the first steps.
    :param window: how many steps these are.
    :param counts: ``(steps, layers)`` spikes of each step.
    :param ends: ``(parts,)`` the step at which each part of the night ends.
    :param part_counts: of each layer above the input ``(parts, units)`` spikes.
    """

    layers: tuple[str, ...]
    units: tuple[int, ...]
    raster: tuple[Array, ...]
    window: int
    counts: Array
    ends: Array
    part_counts: tuple[Array, ...]

    def rates(self) -> tuple[Array, ...]:
        """Of each layer above the input ``(parts, units)``: spikes per step."""
        lengths = np.diff(self.ends, prepend=0)[:, None]
        return tuple(counts / lengths for counts in self.part_counts)


class SpikeRecorder:
    """Runs nights in parts and keeps what each unit did; spikes and weights are the same.

    The first steps are parts of one step each, the rest of the night is cut into equal parts.

    :param window: steps of which every spike is kept; :param parts: of the rest.
    """

    def __init__(self, *, window: int = 200, parts: int = 100) -> None:
        self.window, self.parts = window, parts
        #: One for each night.
        self.recordings: list[NightRecording] = []

    def run(
        self,
        run: Callable[[int], Array],
        chains: Sequence[ChainState],
        steps: int,
        quiet_steps: int | None,
    ) -> Array:
        """Run a night.

        :param run: runs so many steps of the chains and returns their counts, as engines do.
        :returns: the counts of all steps that were run.
        """
        tapped = _TappedSpikes(chains[0].spikes, self.window)
        chains[0].spikes = tapped
        totals = [chain_counts for chain in chains for chain_counts in chain.unit_counts]
        before = [np.zeros_like(total) for total in totals]
        counts, parts = [], []
        silent = 0
        for length in self._lengths(steps, quiet_steps):
            counts.append(run(length))
            parts.append([total - old for total, old in zip(totals, before, strict=True)])
            before = [total.copy() for total in totals]
            silent = 0 if counts[-1][:, 1:].any() else silent + 1
            if silent == quiet_steps:
                break
        self._keep(chains, np.concatenate(counts), [len(c) for c in counts], parts, tapped)
        return np.concatenate(counts)

    def _lengths(self, steps: int, quiet_steps: int | None) -> list[int]:
        if quiet_steps is not None:  # an engine cannot know how long it was quiet in earlier parts
            return [1] * steps
        window = min(self.window, steps)
        cuts = np.linspace(0, steps - window, self.parts + 1).astype(int)
        return [1] * window + [int(length) for length in np.diff(cuts) if length]

    def _keep(
        self,
        chains: Sequence[ChainState],
        counts: Array,
        lengths: Sequence[int],
        parts: Sequence[Sequence[Array]],
        tapped: "_TappedSpikes",
    ) -> None:
        window = min(self.window, len(counts))
        steps_before = np.arange(window)
        raster = [_points(steps_before, tapped.seen[:window])]
        columns = [np.stack(column) for column in zip(*parts, strict=True)]
        raster += [
            _points(steps_before, [row.nonzero()[0] for row in column[:window]])
            for column in columns
        ]
        # For rates single steps are joined to parts of the length of the others.
        ends = np.cumsum(lengths)
        length = max(1, len(counts) // self.parts)
        kept = np.unique(np.searchsorted(ends, np.arange(length, len(counts) + 1, length)))
        starts = np.concatenate([[0], kept[:-1] + 1])
        layers = [layer for chain in chains for layer in chain.layers]
        below = chains[0].below
        self.recordings.append(
            NightRecording(
                layers=(
                    "input" if below is None else below.names[-1],
                    *(layer.name for layer in layers),
                ),
                units=(tapped.size, *(layer.units for layer in layers)),
                raster=tuple(raster),
                window=window,
                counts=counts,
                ends=ends[kept],
                part_counts=tuple(
                    np.add.reduceat(column[: kept[-1] + 1], starts) for column in columns
                ),
            )
        )


class _TappedSpikes(SpikeTrain):
    """The same spikes; those of the first steps are kept."""

    def __init__(self, spikes: SpikeTrain, window: int) -> None:
        self._spikes, self._window = spikes, window
        self.seen: list[Array] = []

    def __next__(self) -> Signal:
        signal = next(self._spikes)
        self._see(signal.active)
        return signal

    def events(self, steps: int) -> Events:
        events = self._spikes.events(steps)
        for begin, end in zip(events.starts[:-1], events.starts[1:], strict=True):
            if len(self.seen) == self._window:
                break
            self._see(events.active[begin:end])
        return events

    def rows(self, steps: int) -> NDArray[np.bool_]:
        rows = self._spikes.rows(steps)
        for row in rows[: self._window - len(self.seen)]:
            self._see(row.nonzero()[0])
        return rows

    @property
    def size(self) -> int:
        """Number of units, once a spike was read."""
        return self._spikes.size

    def _see(self, active: Array) -> None:
        if len(self.seen) < self._window:
            self.seen.append(active)


def _points(steps: Array, active: Sequence[Array]) -> Array:
    repeated = np.repeat(steps, [len(units) for units in active])
    units = np.concatenate([*active, np.zeros(0, np.int64)])
    return np.stack([repeated, units.astype(np.int64)])
