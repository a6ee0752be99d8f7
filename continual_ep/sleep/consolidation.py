"""Sleep replay consolidation as a sleep algorithm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from continual_ep.errors import InputError
from continual_ep.options import option
from continual_ep.sleep.algorithm import Need, Night, SleepAlgorithm
from continual_ep.sleep.calibration import published_thresholds
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.layers import Chain, has_biases
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.prepare import prepare_chains
from continual_ep.sleep.replay_input import (
    ClassReplayInput,
    FunctionReplayInput,
    MeanReplayInput,
    ReplayInput,
    inner_replay,
    square_image,
    with_mask,
)


@dataclass(frozen=True, kw_only=True)
class SleepReplayConsolidation(SleepParameters, SleepAlgorithm):
    """Spiking replay of mean inputs with a local rule: published and calibrated forms.

    Source: Tadros, Krishnan, Ramyaa, Bazhenov 2022 (doi:10.1038/s41467-022-34938-7); for networks
    trained by equilibrium propagation: Kubo, Delanois, Bazhenov 2025 (arXiv:2508.14081). Options are
    those of :class:`~continual_ep.sleep.SleepParameters` and three more.
    """

    dreams: Literal["mean", "experience-mean", "class-means"] | Callable[..., Any] = option(
        "mean",
        "what is replayed: the mean of all inputs seen, of the latest experience's, one class mean at "
        "a time, or in Python a function (generator, step) -> rates",
    )
    entry: Literal["features", "input"] = option(
        "features",
        "where a night begins below which kernels stay as they are: features: above them, with the mean "
        "of what they sent while awake; input: below them, and they spike",
    )
    hold: int = option(1, "steps for which class-means replays the same class", ge=1)

    @property
    def needs(self) -> frozenset[Need]:
        mean: Need = "experience-mean" if self.dreams == "experience-mean" else "mean-input"
        classes: list[Need] = ["class-means"] if self.dreams == "class-means" else []
        maxima: list[Need] = [] if self.gain_scale is None else ["activity-maxima"]
        # Class means and own functions are inputs of the model; published constants name all its layers.
        above = self.entry == "features" and self.dreams in ("mean", "experience-mean")
        features: list[Need] = ["kernel-features"] if above and self.thresholds is None else []
        return frozenset([mean, *classes, *maxima, *features])

    def check(
        self, chains: Sequence[Chain], input_shape: tuple[int, ...], images: bool | None
    ) -> None:
        if self.thresholds is not None:
            published_thresholds(chains, self)
        if not callable(self.dreams):
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

    def run(self, night: Night) -> SleepDiary:
        # A chain whose inputs have not been seen has nothing to replay.
        chains = [c for c in night.chains if _seen(c, night)]
        if not chains:
            raise InputError("no inputs have been seen, so there is nothing to replay")
        unseen = [s.name for c in night.chains if c not in chains for s in c.layers]
        self._warn(night, chains, [name for name in unseen if name in night.plastic])
        maxima = None
        if night.activity_maxima is not None:
            maxima = [[night.activity_maxima[s.name] for s in c.layers] for c in chains]
        return prepare_chains(
            chains,
            [self._replay_input(chain, night) for chain in chains],
            self,
            steps=self.night_steps(night.number),
            plastic=night.plastic,
            generators=[night.generator(number) for number in range(len(chains))],
            activity_maxima=maxima,
        ).run(night.recorder)

    def replayed(self, night: Night, draws: int, generator: torch.Generator) -> Tensor | None:
        statistics = night.statistics
        if statistics.shape is None or not statistics.overall.count:
            return None
        replay = self._model_input(night, math.prod(statistics.shape))
        return replay(draws, generator)

    def _replay_input(self, chain: Chain, night: Night) -> ReplayInput:
        if chain.source is not None:
            return inner_replay(night.inner_means[chain.layers[0].name], self)
        return self._model_input(night, chain.inputs)

    def _model_input(self, night: Night, inputs: int) -> ReplayInput:
        if callable(self.dreams):
            return FunctionReplayInput(self.dreams, inputs)
        replay: ReplayInput
        statistics = night.statistics
        if self.dreams == "class-means":
            replay = ClassReplayInput(statistics.class_means(), self.hold)
        elif self.dreams == "experience-mean" and statistics.experience.count:
            replay = MeanReplayInput(statistics.experience.mean)
        else:
            replay = MeanReplayInput(statistics.overall.mean)
        shape = night.input_shape or statistics.shape or (inputs,)
        if len(shape) == 1 and night.images is None and self.window == "auto":
            if square_image(shape):
                night.warnings.warn(
                    "flat",
                    f"flat inputs of {shape[0]} values are taken for square images and replayed through "
                    "a window: if they are features say window=None; if they are images name the window "
                    "in pixels",
                )
        return with_mask(replay, shape, self, features=night.images is False)

    def _warn(self, night: Night, chains: Sequence[Chain], unseen: Sequence[str]) -> None:
        if unseen:
            night.warnings.warn(
                "unseen",
                f"no inputs of these layers were seen while awake, so they do not sleep: "
                f"{', '.join(unseen)}. If they should, train them before the night",
            )
        if names := has_biases(chains):
            night.warnings.warn(
                "biases",
                f"sleep changes weights, not biases, and these layers have some: {', '.join(names)} "
                f"(biases={self.biases!r}: see docs/sleep.md). Networks without biases remember more.",
            )
        share = float((night.statistics.overall.mean < 0).double().mean())
        if share > 0.5:
            night.warnings.warn(
                "negative",
                f"{share:.0%} of the mean input is negative, and negative rates never spike: scale the "
                "inputs to [0, 1] instead of standardising them",
            )


def _seen(chain: Chain, night: Night) -> bool:
    return chain.source is None or chain.layers[0].name in night.inner_means
