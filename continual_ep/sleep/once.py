"""One night of any sleep algorithm, without Avalanche."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from continual_ep.errors import InputError
from continual_ep.sleep.algorithm import Night, SleepAlgorithm, run_algorithm
from continual_ep.sleep.diary import NightReport
from continual_ep.sleep.layers import plastic_layers
from continual_ep.sleep.registry import make_algorithm
from continual_ep.sleep.statistics import InputStatistics
from continual_ep.sleep.walk import chains_of, refuse_inner_inputs


def sleep_once(
    model: nn.Module,
    mean_input: Tensor | None = None,
    algorithm: str | SleepAlgorithm = "src",
    *,
    samples: Tensor | None = None,
    class_means: Mapping[int, Tensor] | None = None,
    activity_maxima: Sequence[float] | None = None,
    seed: int = 0,
    night: int = 1,
    exclude: Sequence[str] = (),
    kernels: bool = False,
    **options: Any,
) -> NightReport:
    """Run one night of a sleep algorithm on a model.

    :param model: changed in place.
    :param mean_input: the mean of the inputs seen awake, in the shape of one input; default: that of
        ``samples``. Flat inputs count as images when their number is a square, or three times one
        (``window=None`` for features).
    :param algorithm: a name in :data:`~continual_ep.sleep.SLEEP_ALGORITHMS`, or an algorithm.
    :param samples: inputs of the latest experience, ``(samples, ...)``, which show the range of the
        inputs, too; needed by ``"src"`` unless it replays means (``dreams="mean"``).
    :param class_means: the mean input of each class, by label, for algorithms that need them.
    :param activity_maxima: the largest activation of each layer, for published gains.
    :param seed: of the night's own generator; :param night: its number, from 1.
    :param exclude: names of layers whose weights stay as they are; :param kernels: whether
        the kernels of convolutions change too.
    :param options: of the algorithm.
    :raises ConfigurationError: a model without layers that can sleep, or options that do not fit.
    :raises InputError: what the algorithm needs is missing, or has NaN or infinite values.
    """
    chosen = make_algorithm(algorithm, options)
    if "class-means" in chosen.needs and not class_means:
        raise InputError(f"{type(chosen).__name__} needs the mean of each class: give class_means")
    if "samples" in chosen.needs and samples is None:
        raise InputError(
            f"{type(chosen).__name__} replays samples of the latest experience: give samples, or replay "
            "the mean input by dreams='mean'"
        )
    if samples is not None and (samples.dim() < 2 or len(samples) == 0):
        raise InputError(
            f"samples has shape {tuple(samples.shape)}: give a batch of at least one input"
        )
    if mean_input is None:
        if samples is None:
            raise InputError("give samples of the inputs, or mean_input")
        mean_input = samples.double().mean(0).to(samples.dtype)
    chains = chains_of(model, mean_input)
    if "mean-input" in chosen.needs and "samples" not in chosen.needs:
        refuse_inner_inputs(chains)
    statistics = InputStatistics(per_class=class_means is not None)
    for label, mean in (class_means or {}).items():
        if mean.numel() != mean_input.numel():
            raise InputError(
                f"the mean of class {label} has {mean.numel()} values; the network has "
                f"{mean_input.numel()} inputs"
            )
        statistics.add_class_mean(label, mean)
    statistics.add(mean_input[None])
    statistics.low = statistics.high = None  # a mean does not show the range
    if samples is not None:
        statistics.see_range(samples)
    names = [layer.name for chain in chains for layer in chain.layers]
    maxima = None
    if activity_maxima is not None:
        maxima = dict(zip(names, activity_maxima, strict=True))
    return run_algorithm(
        chosen,
        Night(
            model=model,
            chains=chains,
            plastic=plastic_layers(chains, exclude, kernels),
            statistics=statistics,
            number=night,
            seed=seed,
            activity_maxima=maxima,
            samples=samples,
            images=True,  # the shape of mean_input says so, as far as it can
        ),
    )
