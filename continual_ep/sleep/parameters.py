r"""The constants of sleep replay consolidation, each defined once."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, Union

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, option
from continual_ep.sleep.plasticity import GatedHebbian, Plasticity
from continual_ep.sleep.presets import PRESETS

Parameters = TypeVar("Parameters", bound="SleepParameters")

#: Words for None in files, where null is easily overlooked.
WORDS = {"window": "whole", "thresholds": "calibrated", "quiet_steps": "never"}


@dataclass(frozen=True, kw_only=True)
class SleepParameters(Options):
    r"""The constants of a night of sleep replay; the defaults are the calibrated form.

    The defaults were chosen on validation images of MNIST, Fashion-MNIST, KMNIST and CIFAR-10 features,
    with networks trained by equilibrium propagation, SGD and Adam (``benchmarks/sleep_search.md``).
    Night ``k`` (from 1) takes :math:`\text{steps}\,(1 + \text{growth}\,(k-1))` steps; an input ``x``
    spikes with probability :math:`\min(1, 2\,dt\,R_{max}\,x)` per step.

    :param plasticity: rule of the weight changes, see :class:`~continual_ep.sleep.plasticity.Plasticity`;
        None for :class:`~continual_ep.sleep.plasticity.GatedHebbian` with ``increase``, ``decrease`` and
        ``gate_width``. In Python only.
    :raises ConfigurationError: for a value out of its range.
    """

    preset: Union[str, "SleepParameters"] = option(
        "calibrated",
        "constants by name: calibrated, tadros2022:mnist, ...; options that are given go before",
    )
    steps: int = option(2000, "length of the first night, in steps of time_step", ge=1)
    growth: float = option(0.25, "each further night is longer by this fraction of the first", ge=0)
    increase: float = option(
        0.003, "step of a synapse from a spiking input onto a spiking unit, before the gate", ge=0
    )
    decrease: float = option(
        0.0005, "step down of a synapse from a silent input onto a spiking unit", ge=0
    )
    gate_width: float = option(0.001, "of the gate of weight changes, in weight units", gt=0)
    leak: float = option(0.99, "fraction of a membrane's potential left after a step", ge=0, le=1)
    time_step: float = option(0.001, "of the sleep, in seconds", gt=0)
    max_rate: float = option(100.0, "Hz, of an input of 1", gt=0)
    window: int | Literal["auto"] | None = option(
        "auto",
        "side in pixels of the replayed image window; auto: 11/28 of the image's side; null or "
        "whole: the whole image",
        ge=1,
    )
    subset: float = option(
        1.0, "probability that an input takes part in a step, where there is no window", gt=0, le=1
    )
    thresholds: tuple[float, ...] | None = option(
        None, "one per layer; null or calibrated: from the network at hand", gt=0
    )
    gain_scale: float | None = option(None, "of the published layer gains; null: gains of 1", gt=0)
    firing_rate: float = option(
        0.0013,
        "calibration: fraction of steps in which the current alone makes a hidden unit spike",
        gt=0,
        le=1,
    )
    output_threshold: float = option(
        0.8, "calibration: threshold of the output, in mean strongest currents", gt=0
    )
    calibration_steps: int = option(100, "steps of the calibration, without plasticity", ge=1)
    feedback: bool = option(False, "whether layers also get a current from the layer above")
    biases: Literal["ignore", "current", "zero-output"] = option(
        "zero-output",
        "zero-output: unused, and the output's are zero afterwards; ignore: unused and unchanged; "
        "current: added to the current of each step",
    )
    quiet_steps: int | None = option(
        None, "end the night when no unit has spiked for so many steps; null or never: do not", ge=1
    )
    plasticity: Plasticity | None = None

    def __new__(cls: type[Parameters], **options: Any) -> Parameters:
        self = super().__new__(cls)
        # A preset replaces defaults, not options that are given with the value of a default.
        object.__setattr__(self, "_given", frozenset(options))
        return self

    def __post_init__(self) -> None:
        preset = self.preset
        if isinstance(preset, SleepParameters):
            names = [field.name for field in fields(SleepParameters)]
            constants: Mapping[str, Any] = {name: getattr(preset, name) for name in names}
            object.__setattr__(self, "preset", preset.preset)
        elif preset in PRESETS:
            constants = PRESETS[preset]
        else:
            raise ConfigurationError(
                f"sleep preset {preset!r} is unknown; choose one of {', '.join(PRESETS)}"
            )
        for name in constants.keys() - getattr(self, "_given"):  # noqa: B009
            object.__setattr__(self, name, constants[name])
        for name, word in WORDS.items():
            if getattr(self, name) == word:
                object.__setattr__(self, name, None)
        super().__post_init__()

    @property
    def rule(self) -> Plasticity:
        """The plasticity in force."""
        if self.plasticity is not None:
            return self.plasticity
        return GatedHebbian(self.increase, self.decrease, self.gate_width)

    @property
    def spike_scale(self) -> float:
        """Spike probability per step of an input of 1 (before it is cut at 1)."""
        return 2.0 * self.time_step * self.max_rate

    def night_steps(self, night: int) -> int:
        """The length of the given night, counted from 1."""
        return round(self.steps * (1.0 + self.growth * (night - 1)))
