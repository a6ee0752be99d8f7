"""Replay input: the rates of the input units at each step of a night."""

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.sleep.parameters import SleepParameters

#: Random numbers drawn at once: large enough that drawing costs little, small enough for the cache.
CHUNK = 1 << 18

#: Side of the published window on MNIST, as a fraction of the image's side.
WINDOW_FRACTION = 11 / 28


class ReplayInput(Protocol):
    """Rates of the input units for the next ``steps`` steps, shape ``(steps, n)``, not negative."""

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor: ...


class MeanReplayInput:
    """The same mean input at every step.

    :param mean: shape ``(n,)``; negative values count as zero.
    """

    def __init__(self, mean: Tensor) -> None:
        self._rates = checked_rates(mean)

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor:
        return self._rates.expand(steps, -1)


class DrawnReplayInput:
    """One of several rows of rates, drawn anew every ``hold`` steps, each being as likely.

    :param rows: of samples, or the means of classes; shape ``(rows, n)``.
    """

    def __init__(self, rows: Tensor, hold: int = 1) -> None:
        if hold < 1:
            raise ConfigurationError(f"hold must be at least 1 step, not {hold}")
        self._rates, self._hold = checked_rates(rows), hold
        self._step, self._current = 0, 0

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor:
        first = self._step
        segments = (first + steps - 1) // self._hold - (first - 1) // self._hold
        drawn = torch.randint(len(self._rates), (segments,), generator=generator)
        drawn = torch.cat([torch.tensor([self._current]), drawn])
        segment = torch.arange(first, first + steps) // self._hold - (first - 1) // self._hold
        self._step, self._current = first + steps, int(drawn[-1])
        return self._rates[drawn[segment]]


class FunctionReplayInput:
    """Rates from the user's ``function(generator, step)``, of any shape with ``n`` values.

    :raises InputError: when it returns another number of values.
    """

    def __init__(self, function: Callable[[torch.Generator, int], Tensor], inputs: int) -> None:
        self._function, self._inputs, self._step = function, inputs, 0

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor:
        rows = []
        for _ in range(steps):
            rates = _rates_of(self._function(generator, self._step), self._step)
            if rates.numel() != self._inputs:
                raise InputError(
                    f"the replay input of step {self._step} has {rates.numel()} rates; the network has "
                    f"{self._inputs} inputs"
                )
            rows.append(checked_rates(rates))
            self._step += 1
        return torch.stack(rows)


def _rates_of(returned: Any, step: int) -> Tensor:
    try:
        return torch.as_tensor(returned, dtype=torch.float32).detach().flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the replay input of step {step} is a {type(returned).__name__}, not a tensor of rates "
            f"({error}): return one number from 0 to 1 for each input"
        ) from error


class MaskedReplayInput:
    """Replay input of which each step shows a random part.

    :param mask: draws ``(steps, n)`` zeros and ones.
    """

    def __init__(self, replay: ReplayInput, mask: ReplayInput) -> None:
        self._replay, self._mask = replay, mask

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor:
        return self._replay(steps, generator) * self._mask(steps, generator)


class WindowMask:
    """A square window at a random place of an image, anew at each step, the same in all channels.

    :param shape: ``(channels, side, side)``; :param window: side of the window in pixels.
    """

    def __init__(self, shape: tuple[int, int, int], window: int) -> None:
        if window > shape[1]:
            raise ConfigurationError(
                f"the window of {window} pixels is wider than the image of {shape[1]}"
            )
        self._shape, self._window = shape, window

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor:
        channels, side, _ = self._shape
        corners = torch.randint(side - self._window + 1, (steps, 2, 1), generator=generator)
        place = torch.arange(side)
        inside = (place >= corners) & (place < corners + self._window)
        window = inside[:, 0, :, None] & inside[:, 1, None, :]
        return window[:, None].expand(-1, channels, -1, -1).reshape(steps, -1)


class SubsetMask:
    """Each of ``inputs`` units takes part in a step with the probability ``share``."""

    def __init__(self, inputs: int, share: float) -> None:
        self._inputs, self._share = inputs, share

    def __call__(self, steps: int, generator: torch.Generator) -> Tensor:
        return torch.rand(steps, self._inputs, generator=generator) < self._share


def checked_rates(rates: Tensor) -> Tensor:
    """Rates as float32 on the CPU, negative ones cut at zero.

    :raises InputError: for NaN or infinity.
    """
    if not bool(torch.isfinite(rates).all()):
        raise InputError(
            "the inputs to replay hold NaN or infinite values: clean the training inputs (for "
            "example with torch.nan_to_num) before training"
        )
    return rates.detach().to("cpu", torch.float32).clamp(min=0.0)


def square_image(shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """``(channels, side, side)`` of inputs that are square images, also flattened; else None.

    A flat vector counts as an image when its length, or a third of it, is the square of a side of
    at least 4 pixels.
    """
    if len(shape) in (2, 3) and shape[-1] == shape[-2] and shape[-1] > 1:
        return (shape[0] if len(shape) == 3 else 1, shape[-1], shape[-1])
    if len(shape) == 1:
        for channels in (1, 3):
            side = math.isqrt(shape[0] // channels)
            if side >= 4 and channels * side * side == shape[0]:
                return (channels, side, side)
    return None


def with_mask(
    replay: ReplayInput,
    shape: tuple[int, ...],
    parameters: SleepParameters,
    *,
    features: bool = False,
) -> ReplayInput:
    """``replay`` behind the mask that ``parameters`` ask for.

    :param shape: of one input, without batch.
    :param features: whether the inputs are known to be no images, whatever their number.
    :raises ConfigurationError: for a window in pixels on inputs that are not square images.
    """
    image, window = None if features else square_image(shape), parameters.window
    if isinstance(window, int) and image is None:
        raise ConfigurationError(
            f"a window of {window} pixels needs square images, but the inputs have shape "
            f"{shape}: use window=None, or subset=0.15 for a random part"
        )
    if window is not None and image is not None:
        side = window if isinstance(window, int) else max(1, round(image[1] * WINDOW_FRACTION))
        return MaskedReplayInput(replay, WindowMask(image, side))
    if parameters.subset < 1.0:
        return MaskedReplayInput(replay, SubsetMask(math.prod(shape), parameters.subset))
    return replay


def input_spikes(
    replay: ReplayInput, inputs: int, parameters: SleepParameters, generator: torch.Generator
) -> Iterator[NDArray[np.bool_]]:
    r"""Bernoulli spikes of the input units, chunk after chunk without end, each ``(steps, n)``.

    .. math:: P(s_0[i] = 1) = \min(1,\; 2\,dt\,R_{max}\,x_i)
    """
    steps = max(1, min(256, CHUNK // max(1, inputs)))
    while True:
        # rand lies in [0, 1): a rate of zero never spikes, and from probability 1 on it always does.
        probability = replay(steps, generator) * parameters.spike_scale
        drawn: NDArray[Any] = (torch.rand(steps, inputs, generator=generator) < probability).numpy()
        yield drawn
