"""The diary of a night: what happened."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from torch import Tensor

from continual_ep.synapses import Synapses

Report = TypeVar("Report", bound="NightReport")

#: What became of a night. ``"weakened"``: a part of its change was kept; ``"restored"``: none of it.
Outcome = Literal["slept", "weakened", "restored", "skipped"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True, eq=False)
class NightReport:
    """How much a night changed each layer. Layer names are those of the weights that feed the layers.

    :param layers: names of the layers above the input; none when the night was skipped.
    :param weight_change: Frobenius norm of each layer's change of weight that was kept.
    :param relative_change: the same, divided by the norm of the weight before.
    :param outcome: what became of the night; :param reason: why, unless it was slept as planned.
    :param step: the part of the night's change that was kept, from 0 to 1.
    :param need: see :func:`~continual_ep.sleep.need.need_of_sleep`; None: not measured.
    :param accuracy_before: on the guard's samples of the newest classes; None without guard.
    :param accuracy_after: the same with the weights that were kept.
    """

    layers: tuple[str, ...]
    weight_change: tuple[float, ...]
    relative_change: tuple[float, ...]
    outcome: Outcome = field(default="slept", kw_only=True)
    reason: str | None = field(default=None, kw_only=True)
    step: float = field(default=1.0, kw_only=True)
    need: float | None = field(default=None, kw_only=True)
    accuracy_before: float | None = field(default=None, kw_only=True)
    accuracy_after: float | None = field(default=None, kw_only=True)

    @staticmethod
    def skipped(reason: str) -> "NightReport":
        """Of a night that was not slept."""
        return NightReport((), (), (), outcome="skipped", reason=reason, step=0.0)

    @staticmethod
    def unchanged(layers: Sequence[Synapses], reason: str, accuracy_before: float) -> "NightReport":
        """Of a night that broke off, after which the weights were restored."""
        names, nothing = tuple(layer.name for layer in layers), (0.0,) * len(layers)
        return NightReport(
            names, nothing, nothing, outcome="restored", reason=reason, step=0.0,
            accuracy_before=accuracy_before, accuracy_after=accuracy_before,
        )  # fmt: skip

    def weakened(self: Report, step: float, accuracy: float, reason: str) -> Report:
        """The report when only this part of the change is kept; 0: nothing of it.

        :param accuracy: on the guard's samples, with what was kept.
        """
        return replace(
            self,
            weight_change=tuple(step * change for change in self.weight_change),
            relative_change=tuple(step * change for change in self.relative_change),
            outcome="weakened" if step else "restored",
            reason=reason,
            step=step,
            accuracy_after=accuracy,
        )

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

    def whole_values(self) -> dict[str, float]:
        """What there is to plot of the whole night, by name."""
        values = {
            "Sleep_Step": self.step,
            "Sleep_Need": self.need,
            "Sleep_NewestAccuracyBefore": self.accuracy_before,
            "Sleep_NewestAccuracyAfter": self.accuracy_after,
        }
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers for JSON."""
        return self.summary()

    def outcome_dict(self) -> dict[str, Any]:
        """What became of the night, for JSON."""
        names = ("outcome", "reason", "step", "need", "accuracy_before", "accuracy_after")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict[str, Any]:
        """The outcome and the numbers of each layer, for JSON."""
        changes = zip(self.layers, self.weight_change, self.relative_change, strict=True)
        return {
            **self.outcome_dict(),
            "layers": {
                name: {"weight_change": change, "relative_change": relative}
                for name, change, relative in changes
            },
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
            **self.outcome_dict(),
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
