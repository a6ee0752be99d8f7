"""The diary of a night: what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from continual_ep.synapses import Synapses


@dataclass(frozen=True, eq=False)
class NightReport:
    """How much a night changed each layer. Layer names are those of the weights that feed the layers.

    :param layers: names of the layers above the input.
    :param weight_change: Frobenius norm of each layer's change of weight.
    :param relative_change: the same, divided by the norm of the weight before.
    """

    layers: tuple[str, ...]
    weight_change: tuple[float, ...]
    relative_change: tuple[float, ...]

    @staticmethod
    def measured(layers: Sequence[Synapses], before: Sequence[Tensor]) -> "NightReport":
        """From the weights before the night and as they are now."""
        changes = [float((s.weight - old).norm()) for s, old in zip(layers, before, strict=True)]
        norms = [float(old.norm()) for old in before]
        relative = (c / n if n else 0.0 for c, n in zip(changes, norms, strict=True))
        names = tuple(layer.name for layer in layers)
        return NightReport(names, tuple(changes), tuple(relative))

    def values(self) -> dict[str, tuple[float, ...]]:
        """What there is to plot for each layer, by name."""
        return {"Sleep_WeightChange": self.relative_change}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers for JSON."""
        return self.summary()

    def summary(self) -> dict[str, Any]:
        """The numbers of each layer, for JSON."""
        changes = zip(self.layers, self.weight_change, self.relative_change, strict=True)
        return {
            "layers": {
                name: {"weight_change": change, "relative_change": relative}
                for name, change, relative in changes
            }
        }


@dataclass(frozen=True, eq=False)
class SleepDiary(NightReport):
    """What happened in a night of spiking units.

    :param counts: spikes per step and layer, ``(steps, 1 + layers)``; column 0 is the input.
    :param unit_counts: spikes of each unit over the night, one tensor per layer above the input.
    :param thresholds: of each layer; :param gains: of each layer's current.
    :param asked_steps: the length of the night that was planned.
    :param quiet_steps: how long no unit may spike for the activity to count as died out.
    """

    counts: Tensor
    unit_counts: tuple[Tensor, ...]
    thresholds: tuple[float, ...]
    gains: tuple[float, ...]
    asked_steps: int
    quiet_steps: int = 1000

    @property
    def steps(self) -> int:
        """The steps that were run."""
        return len(self.counts)

    @property
    def stopped_early(self) -> bool:
        """Whether the night ended because no unit spiked any more."""
        return self.steps < self.asked_steps

    @property
    def spikes(self) -> tuple[int, ...]:
        """Spikes of each layer above the input over the night."""
        return tuple(int(count) for count in self.counts[:, 1:].sum(0))

    def values(self) -> dict[str, tuple[float, ...]]:
        return {"Sleep_Spikes": self.spikes, **super().values()}

    @property
    def died_out(self) -> int | None:
        """The first step from which no unit above the input spikes; None if units still do.

        Silence counts from ``quiet_steps`` steps on.
        """
        fired = self.counts[:, 1:].sum(1).nonzero()
        last = int(fired[-1]) if len(fired) else -1
        return last + 1 if self.steps - last > self.quiet_steps else None

    def to_dict(self) -> dict[str, Any]:
        """The whole diary as plain numbers for JSON: the summary, and the spikes step by step.

        ``spikes_per_step`` has a list for the input and each layer, ``spikes_per_unit`` one for each layer.
        """
        names = ("input", *self.layers)
        columns = self.counts.T.tolist()
        units = (counts.tolist() for counts in self.unit_counts)
        return {
            **self.summary(),
            "spikes_per_step": dict(zip(names, columns, strict=True)),
            "spikes_per_unit": dict(zip(self.layers, units, strict=True)),
        }

    def summary(self) -> dict[str, Any]:
        """The diary without its series, as plain numbers for JSON."""
        return {
            "steps": self.steps,
            "stopped_early": self.stopped_early,
            "died_out": self.died_out,
            "input_spikes": int(self.counts[:, 0].sum()),
            "layers": {
                name: {
                    "spikes": self.spikes[layer],
                    "weight_change": self.weight_change[layer],
                    "relative_change": self.relative_change[layer],
                    "threshold": self.thresholds[layer],
                    "gain": self.gains[layer],
                }
                for layer, name in enumerate(self.layers)
            },
        }
