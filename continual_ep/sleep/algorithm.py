"""What a sleep algorithm is: options, its needs from the awake phase, one call that changes weights."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from continual_ep.errors import DivergenceError, WarnOnce
from continual_ep.options import Options
from continual_ep.sleep.activity import layer_inputs
from continual_ep.sleep.diary import NightReport
from continual_ep.sleep.layers import Chain
from continual_ep.sleep.notices import notices
from continual_ep.sleep.prepare import night_generator
from continual_ep.sleep.recording import SpikeRecorder
from continual_ep.sleep.statistics import InputStatistics
from continual_ep.synapses import Synapses

#: What can be gathered while awake, in memory that does not grow with the number of samples.
#: ``"mean-input"``: the mean input of the model, and of layers that begin a chain of their own.
#: ``"experience-mean"``: the same over the latest experience only. ``"class-means"``: the mean input of
#: each class. ``"activity-maxima"``: the largest activation of each layer over the latest experience.
#: ``"samples"``: inputs of the latest experience, which is at hand; nothing is kept of them.
Need = Literal["mean-input", "experience-mean", "class-means", "activity-maxima", "samples"]


@dataclass(frozen=True, kw_only=True)
class Night:
    """What a sleep algorithm gets: the layers of a model and what was gathered while awake.

    :param plastic: names of the layers that may change; the others are frozen or excluded.
    :param statistics: of the inputs, as far as the algorithm needs them.
    :param number: of the night, from 1, counted by experiences learned.
    :param inner_means: mean input of chains with inputs of their own, by the name of their first layer.
    :param activity_maxima: by the name of the layer; None unless needed.
    :param input_shape: of one input before it was flattened; None: as in ``statistics``.
    :param images: whether the inputs are images; None: not known.
    :param forward: how to run the model on a batch, where calling it is not enough.
    :param samples: inputs of the latest experience, ``(samples, ...)``; None unless needed.
    :param new_classes: of the experience just learned; :param old_classes: of earlier ones alone.
    :param separate_heads: whether the tasks have output layers of their own.
    :param recorder: keeps which units spike when, in nights of spiking units; None: not asked for.
    """

    model: nn.Module
    chains: Sequence[Chain]
    plastic: frozenset[str]
    statistics: InputStatistics
    number: int = 1
    seed: int = 0
    inner_means: Mapping[str, Tensor] = field(default_factory=dict)
    activity_maxima: Mapping[str, float] | None = None
    input_shape: tuple[int, ...] | None = None
    images: bool | None = None
    forward: Callable[[Tensor], Any] | None = None
    warnings: WarnOnce = field(default_factory=WarnOnce)
    samples: Tensor | None = None
    new_classes: tuple[int, ...] = ()
    old_classes: tuple[int, ...] = ()
    separate_heads: bool = False
    recorder: SpikeRecorder | None = None

    @property
    def layers(self) -> list[Synapses]:
        """All layers, first to last."""
        return [layer for chain in self.chains for layer in chain.layers]

    @property
    def plastic_layers(self) -> list[Synapses]:
        """The layers that may change."""
        return [layer for layer in self.layers if layer.name in self.plastic]

    @property
    def readout(self) -> Synapses:
        """The layer whose units are the output."""
        return self.chains[-1].layers[-1]

    def generator(self, chain: int = 0) -> torch.Generator:
        """A generator of this night's own; torch's global generator is left alone."""
        return night_generator(self.seed, self.number, chain)

    def inputs_of(self, layer: Synapses, x: Tensor) -> Tensor:
        """What reaches ``layer`` when the model runs on inputs ``x`` awake, ``(batch, n_pre)``."""
        batch = x.reshape(-1, *(self.statistics.shape or x.shape[1:]))
        batch = batch.to(layer.weight.device, layer.weight.dtype)
        return layer_inputs(self.model, layer, batch, self.forward)


class SleepAlgorithm(Options, ABC):
    """Base of a sleep algorithm: a frozen dataclass of options with a method :meth:`run`."""

    @property
    def needs(self) -> frozenset[Need]:
        """What has to be gathered while awake; nothing by default."""
        return frozenset()

    def check(
        self, chains: Sequence[Chain], input_shape: tuple[int, ...], images: bool | None
    ) -> None:
        """Refuse what would go wrong in a night, before anything is trained.

        :param input_shape: of one input, before it was flattened; :param images: see :class:`Night`.
        :raises ConfigurationError: when the options do not fit the layers or the inputs.
        """

    def replayed(self, night: Night, draws: int, generator: torch.Generator) -> Tensor | None:
        """Rates of the model's inputs that a night shows, ``(draws, inputs)``; None: not known.

        By default the mean input, if it was gathered. Nothing changes.
        """
        statistics = night.statistics
        if not statistics.overall.count:
            return None
        return statistics.input_range().rates(statistics.overall.mean)[None]

    def nothing_to_win(self, night: Night) -> str | None:
        """Why a night of this algorithm recovers nothing on these layers; None if it may."""
        return None

    @abstractmethod
    def run(self, night: Night) -> NightReport | None:
        """Change weights of ``night.plastic_layers`` in place, without a graph.

        :returns: what happened; None for the change of the weights alone, which is measured.
        """


@torch.no_grad()
def run_algorithm(algorithm: SleepAlgorithm, night: Night) -> NightReport:
    """Run a night and check the result.

    :raises DivergenceError: when a weight became NaN or infinite; all weights are then as before.
    """
    parameters = [p for s in night.layers for p in (s.weight, s.bias) if p is not None]
    before = [parameter.detach().clone() for parameter in parameters]
    report = algorithm.run(night)
    bad = [layer.name for layer in night.layers if not bool(torch.isfinite(layer.weight).all())]
    if bad:
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(old)
        raise DivergenceError(
            f"{type(algorithm).__name__} made the weights {', '.join(bad)} NaN or infinite; they are "
            "as before the night: use weaker changes"
        )
    if report is not None:
        for key, text in notices(report):
            night.warnings.warn(key, text)
        return report
    weights = {id(p): old for p, old in zip(parameters, before, strict=True)}
    return NightReport.measured(night.layers, [weights[id(s.weight)] for s in night.layers])
