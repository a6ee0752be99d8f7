"""Sleep replay consolidation as a sleep algorithm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.options import option
from continual_ep.sleep.algorithm import Need, Night, SleepAlgorithm
from continual_ep.sleep.calibration import published_thresholds
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.input_range import InputRange, keep_offset_current
from continual_ep.sleep.layers import Chain
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.prepare import prepare_chains
from continual_ep.sleep.replay_input import (
    WINDOW_FRACTION,
    DrawnReplayInput,
    FunctionReplayInput,
    MaskedReplayInput,
    MeanReplayInput,
    ReplayInput,
    SubsetMask,
    square_image,
    with_mask,
)

#: Default of ``hold``: best of 1, 10 and 30 steps on held-out images (benchmarks/sleep_search.md).
HOLD = 10


@dataclass(frozen=True, kw_only=True)
class SleepReplayConsolidation(SleepParameters, SleepAlgorithm):
    """Spiking replay of samples or mean inputs with a local rule: calibrated and published forms.

    Source: Tadros, Krishnan, Ramyaa, Bazhenov 2022 (doi:10.1038/s41467-022-34938-7); for networks
    trained by equilibrium propagation: Kubo, Delanois, Bazhenov 2025 (arXiv:2508.14081). Options are
    those of :class:`~continual_ep.sleep.SleepParameters` and two more.
    """

    dreams: Literal["experience", "mean", "experience-mean", "class-means"] | Callable[..., Any] = (
        option(
            "experience",
            "what is replayed: samples of the latest experience, which is still at hand; the mean of all "
            "inputs seen (published); the mean of the latest experience's; class-means, one at a time; "
            "or in Python a function (generator, step) -> rates",
        )
    )
    hold: int = option(HOLD, "steps for which a sample or a class mean is replayed", ge=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset != "calibrated" and "dreams" not in getattr(self, "_given"):  # noqa: B009
            object.__setattr__(self, "dreams", "mean")  # as published

    @property
    def needs(self) -> frozenset[Need]:
        needs: list[Need] = ["mean-input"]
        if self.dreams == "experience":
            needs.append("samples")
        elif self.dreams == "experience-mean":
            needs = ["experience-mean"]
        elif self.dreams == "class-means":
            needs.append("class-means")
        if self.gain_scale is not None:
            needs.append("activity-maxima")
        return frozenset(needs)

    def check(
        self, chains: Sequence[Chain], input_shape: tuple[int, ...], images: bool | None
    ) -> None:
        if self.thresholds is not None:
            published_thresholds(chains, self)
        if not callable(self.dreams) and not self._whole:
            nothing = MeanReplayInput(chains[0].layers[0].weight.detach().new_zeros(1))
            with_mask(nothing, input_shape, self, features=images is False)

    def nothing_to_win(self, night: Night) -> str | None:
        hidden = len(night.layers) > 1 or night.chains[-1].source is not None
        if not hidden or night.plastic != {night.readout.name}:
            return None
        return (
            f"only the output layer {night.readout.name} would change, which recovers nothing alone: "
            "what sleeps with profit are hidden dense layers with it (see docs/sleep.md)"
        )

    @property
    def _whole(self) -> bool:
        """Whether samples are replayed as they are, without a mask."""
        return self.dreams == "experience" and self.window in ("auto", None) and self.subset == 1.0

    def run(self, night: Night) -> SleepDiary:
        # A chain whose inputs have not been seen has nothing to replay.
        chains = [c for c in night.chains if self._has_input(c, night)]
        if not chains:
            raise InputError("no inputs have been seen, so there is nothing to replay")
        unseen = [s.name for c in night.chains if c not in chains for s in c.layers]
        self._warn(night, [name for name in unseen if name in night.plastic])
        maxima = None
        if night.activity_maxima is not None:
            maxima = [[night.activity_maxima[s.name] for s in c.layers] for c in chains]
        driven = [self._driven(chain, night) for chain in chains]
        before = [d.chain.layers[0].weight.detach().clone() for d in driven]
        diary = prepare_chains(
            [d.chain for d in driven],
            [d.replay for d in driven],
            self,
            steps=self.night_steps(night.number),
            plastic=night.plastic,
            generators=[night.generator(number) for number in range(len(chains))],
            activity_maxima=maxima,
        ).run(night.recorder)
        for drive, weight in zip(driven, before, strict=True):
            self._keep_offset(drive, weight, night)
        return diary

    def replayed(self, night: Night, draws: int, generator: torch.Generator) -> Tensor | None:
        statistics = night.statistics
        if statistics.shape is None or not statistics.overall.count:
            return None
        if callable(self.dreams):
            return FunctionReplayInput(self.dreams, math.prod(statistics.shape))(draws, generator)
        inputs = math.prod(statistics.shape)
        replay = self._masked_means(night, inputs)
        # Samples of the newest classes would be answered with them in any case; parts of the mean
        # of all inputs show whether the newest classes win on anything.
        if self.dreams == "experience" and not isinstance(replay, MaskedReplayInput):
            share = max(WINDOW_FRACTION**2, min(1.0, 8 / inputs))  # few inputs: about 8 of them
            replay = MaskedReplayInput(replay, SubsetMask(inputs, share))
        return replay(draws, generator)

    def _has_input(self, chain: Chain, night: Night) -> bool:
        if self.dreams == "experience":
            return night.samples is not None
        return chain.source is None or chain.layers[0].name in night.inner_means

    def _driven(self, chain: Chain, night: Night) -> "_Driven":
        if not any(layer.name in night.plastic for layer in chain.layers):
            return _Driven(chain, MeanReplayInput(torch.zeros(chain.inputs)))
        if self.dreams == "experience":
            return self._driven_by_samples(chain, night)
        if chain.source is not None:
            return _Driven(chain, MeanReplayInput(night.inner_means[chain.layers[0].name]))
        if callable(self.dreams):
            replay: ReplayInput = FunctionReplayInput(self.dreams, chain.inputs)
        else:
            replay = self._masked_means(night, chain.inputs)
        return _Driven(chain, replay, *_offset(night))

    def _driven_by_samples(self, chain: Chain, night: Night) -> "_Driven":
        """Layers below the first one that changes are not simulated: their activity is the input."""
        assert night.samples is not None
        first = next(n for n, layer in enumerate(chain.layers) if layer.name in night.plastic)
        layer = chain.layers[first]
        if first == 0 and chain.source is None:
            x, span = night.samples.flatten(1), night.statistics.input_range()
        else:
            x = night.inputs_of(layer, night.samples)
            layer = replace(layer, pooling=())
            low, high = x.cpu().aminmax()
            span = InputRange.between(*(v.expand(x.shape[1]) for v in (low.clamp(max=0), high)))
        rates = span.rates(x)
        replay: ReplayInput = DrawnReplayInput(rates, self.hold)
        if not self._whole:
            inner = first > 0 or chain.source is not None
            if inner and isinstance(self.window, int):
                raise ConfigurationError(
                    f"a window masks images, but {layer.name} is driven by the activity of layers that do "
                    "not change: use dreams='mean', or subset"
                )
            shape = night.input_shape or night.statistics.shape or (x.shape[1],)
            no_window = inner or night.images is False or self.window == "auto"
            shape = (x.shape[1],) if inner else shape
            replay = with_mask(replay, shape, self, features=no_window)
        layers = (layer, *chain.layers[first + 1 :])
        constant = (rates == 0).all(0)
        return _Driven(Chain(layers, chain.source, x.shape[1]), replay, span.low, constant)

    def _masked_means(self, night: Night, inputs: int) -> ReplayInput:
        replay: ReplayInput
        statistics = night.statistics
        span = statistics.input_range()
        if self.dreams == "class-means":
            replay = DrawnReplayInput(span.rates(statistics.class_means()), self.hold)
        elif self.dreams == "experience-mean" and statistics.experience.count:
            replay = MeanReplayInput(span.rates(statistics.experience.mean))
        else:
            replay = MeanReplayInput(span.rates(statistics.overall.mean))
        shape = night.input_shape or statistics.shape or (inputs,)
        if len(shape) == 1 and night.images is None and self.window == "auto":
            if square_image(shape) and not self._whole:
                night.warnings.warn(
                    "flat",
                    f"flat inputs of {shape[0]} values are taken for square images and replayed through "
                    "a window: if they are features say window=None; if they are images name the window "
                    "in pixels",
                )
        return with_mask(replay, shape, self, features=night.images is False)

    def _keep_offset(self, driven: "_Driven", before: Tensor, night: Night) -> None:
        layer = driven.chain.layers[0]
        if driven.low is None or layer.kernel is not None or not bool(driven.low.any()):
            return
        if not keep_offset_current(layer, before, driven.low, driven.constant):
            night.warnings.warn(
                "offset",
                f"inputs of {layer.name} are as low as {float(driven.low.min()):.3g}, and it has no "
                "bias that could keep what this offset does to its units as it is: add a bias, or "
                "scale the inputs to [0, 1]",
            )

    def _warn(self, night: Night, unseen: Sequence[str]) -> None:
        if unseen:
            night.warnings.warn(
                "unseen",
                f"no inputs of these layers were seen while awake, so they do not sleep: "
                f"{', '.join(unseen)}. If they should, train them before the night",
            )
        mean = night.statistics.overall.mean
        share = float((mean < 0).double().mean())
        if share > 0.5 and night.statistics.low is None:
            night.warnings.warn(
                "negative",
                f"{share:.0%} of the mean input is negative, and negative rates never spike: give "
                "samples, which show the range of the inputs, or scale the inputs to [0, 1]",
            )


@dataclass(frozen=True)
class _Driven:
    """A chain with what it replays.

    :param low: the inputs at rates of zero; None: not known. :param constant: inputs that stay there.
    """

    chain: Chain
    replay: ReplayInput
    low: Tensor | None = None
    constant: Tensor | None = None


def _offset(night: Night) -> tuple[Tensor, Tensor | None]:
    """The lowest inputs, and which inputs never leave them."""
    span = night.statistics.input_range()
    if night.samples is None:
        return span.low, None
    return span.low, (span.rates(night.samples.flatten(1)) == 0).all(0)
