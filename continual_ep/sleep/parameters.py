"""Every constant of a night, in one place."""

from dataclasses import dataclass, fields, replace
from typing import Any

from continual_ep.errors import ConfigurationError

BIASES = ("ignore", "current", "zero-output")

#: Constants that are whole numbers, and what else they may be.
WHOLE: dict[str, tuple[Any, ...]] = {
    "steps": (),
    "calibration_steps": (),
    "quiet_steps": (None,),
    "window": (None, "auto"),
}


@dataclass(frozen=True, kw_only=True)
class SleepParameters:
    r"""The constants of sleep replay; the defaults are the calibrated form.

    The defaults were chosen on held-out training images of MNIST with a recurrent network trained by
    equilibrium propagation (``benchmarks/README.md``), and serve the digits of scikit-learn as well.

    :param steps: length of the first night in steps of ``time_step``.
    :param growth: each further night is longer by this fraction of the first; night ``k`` (from 1)
        takes :math:`\text{steps}\,(1 + \text{growth}\,(k-1))` steps.
    :param increase: step of a synapse from a spiking input onto a spiking unit, before the gate.
    :param decrease: step down of a synapse from a silent input onto a spiking unit.
    :param gate_width: :math:`w_0` of the gate :math:`g(w) = 2\sigma(-w/w_0)`, in weight units.
    :param leak: the fraction of a membrane's potential that is left after one step.
    :param time_step: :math:`dt` in seconds.
    :param max_rate: :math:`R_{max}` in Hz; an input ``x`` spikes with probability
        :math:`\min(1, 2\,dt\,R_{max}\,x)` per step.
    :param window: side in pixels of the random square window of an image that is replayed at one
        step; ``"auto"`` for 11/28 of the image's side, None for the whole image. It must be None
        or ``"auto"`` for inputs that are not square images.
    :param subset: for inputs that are not images (or with ``window=None``): the probability that
        an input takes part in a step.
    :param thresholds: one per layer, published; None to calibrate them on the network at hand.
    :param gain_scale: scale of the published layer gains (see
        :func:`continual_ep.sleep.calibration.layer_gains`); None for gains of 1.
    :param firing_rate: calibration: the fraction of (unit, step) pairs of a hidden layer whose
        current alone reaches the threshold.
    :param output_threshold: calibration: the threshold of the output layer in units of the mean
        (over steps) of the strongest current.
    :param calibration_steps: steps without plasticity on which thresholds are calibrated.
    :param feedback: whether layers also get a current from the layer above.
    :param biases: ``"zero-output"``: not used, and the output's biases are zero afterwards;
        ``"ignore"``: not used and unchanged; ``"current"``: added to the current of each step.
    :param quiet_steps: the night ends when no unit above the input has fired for so many steps;
        None to sleep on.
    :raises ConfigurationError: for a value out of its range.
    """

    steps: int = 4000
    growth: float = 0.75
    increase: float = 0.003
    decrease: float = 0.0004
    gate_width: float = 0.001
    leak: float = 0.99
    time_step: float = 0.001
    max_rate: float = 140.0
    window: int | str | None = "auto"
    subset: float = 1.0
    thresholds: tuple[float, ...] | None = None
    gain_scale: float | None = None
    firing_rate: float = 0.0013
    output_threshold: float = 0.8
    calibration_steps: int = 100
    feedback: bool = False
    biases: str = "zero-output"
    quiet_steps: int | None = None

    def __post_init__(self) -> None:
        for name, others in WHOLE.items():
            value = getattr(self, name)
            if value not in others and (type(value) is not int or value < 1):
                also = "".join(f" or {other!r}" for other in others)
                raise ConfigurationError(
                    f"{name} must be a whole number, at least 1{also}, not {value!r}"
                )
        for name in ("growth", "increase", "decrease"):
            _check(name, getattr(self, name), 0.0, float("inf"))
        for name in ("gate_width", "time_step", "max_rate", "output_threshold"):
            _check(name, getattr(self, name), 0.0, float("inf"), open_below=True)
        for name in ("firing_rate", "subset"):
            _check(name, getattr(self, name), 0.0, 1.0, open_below=True)
        _check("leak", self.leak, 0.0, 1.0)
        if self.biases not in BIASES:
            raise ConfigurationError(
                f"biases must be one of {', '.join(BIASES)}, not {self.biases!r}"
            )
        if self.thresholds is not None and not all(beta > 0 for beta in self.thresholds):
            raise ConfigurationError(f"thresholds must be positive, not {self.thresholds}")

    @property
    def spike_scale(self) -> float:
        """Spike probability per step of an input of 1 (before it is cut at 1)."""
        return 2.0 * self.time_step * self.max_rate

    def night_steps(self, night: int) -> int:
        """The length of the given night, counted from 1."""
        return round(self.steps * (1.0 + self.growth * (night - 1)))

    def with_constants(self, **constants: Any) -> "SleepParameters":
        """A copy with some constants changed.

        :raises ConfigurationError: for a name that is no constant of a night.
        """
        known = [field.name for field in fields(self)]
        for name in constants:
            if name not in known:
                raise ConfigurationError(
                    f"{name!r} is no constant of a night; choose among {', '.join(known)}"
                )
        return replace(self, **constants)


def _check(name: str, value: float, low: float, high: float, *, open_below: bool = False) -> None:
    inside = low < value <= high if open_below else low <= value <= high
    if not inside:
        bounds = f"{'above' if open_below else 'at least'} {low:g}"
        if high != float("inf"):
            bounds += f" and at most {high:g}"
        raise ConfigurationError(f"{name} must be {bounds}, not {value}")
