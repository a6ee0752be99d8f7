"""How much there is to recover: a signal that needs no samples of earlier classes."""

from torch import Tensor

from continual_ep.errors import DivergenceError, warnings_to
from continual_ep.forward_passes import evaluating
from continual_ep.seeding import generator_from
from continual_ep.sleep.algorithm import Night, SleepAlgorithm

#: Default of ``min_need``: nights with a smaller need are skipped. Measured on held-out images of MNIST
#: with a few exemplars (``docs/sleep.md``): nights gain points down to a need of about 0.4.
MIN_NEED = 0.4

#: The same where another mechanism keeps the answers to earlier classes (OWM): there nights with a need
#: of 0.46 to 0.63 cost 5 to 10 points.
MIN_NEED_OF_KEPT_ANSWERS = 0.7

#: Replay inputs that are shown to the awake network.
DRAWS = 200


def inputs_from_rates(rates: Tensor, night: Night) -> Tensor:
    """The inputs of the awake network with these rates, ``(draws, inputs)``."""
    return night.statistics.input_range().inputs(rates)


def need_of_sleep(algorithm: SleepAlgorithm, night: Night, draws: int = DRAWS) -> float | None:
    """Measure how often the newest classes win on the replay input.

    The inputs that the night would replay are shown to the awake network. Where learning has pushed
    the newest classes above the older ones for any input, the share is near 1, and sleep can recover
    older classes; where it is small, there is nothing to recover.

    :returns: share of ``draws`` inputs for which the largest output of ``night.new_classes`` exceeds
        that of ``night.old_classes``, in [0, 1]; None when it cannot be measured: no older classes, no
        statistics of the inputs, outputs that are no class scores or that diverge.
    :raises InputError: for replay input that does not fit the network.
    """
    if not night.old_classes or not night.new_classes:
        return None
    generator = generator_from(f"need/{night.seed}/{night.number}")
    rates = algorithm.replayed(night, draws, generator)
    if rates is None:
        return None
    try:
        # Warnings of the network are for inputs of its training, which these are not.
        with warnings_to(lambda text: None):
            scores = _scores(night, inputs_from_rates(rates, night))
    except DivergenceError:
        return None
    if not isinstance(scores, Tensor) or scores.dim() != 2 or bool(scores.isnan().any()):
        return None
    if max(*night.old_classes, *night.new_classes) >= scores.shape[1]:
        return None
    new, old = (scores[:, list(c)].amax(1) for c in (night.new_classes, night.old_classes))
    return float((new > old).double().mean())


def _scores(night: Night, inputs: Tensor) -> object:
    weight = night.layers[0].weight
    batch = inputs.reshape(-1, *(night.statistics.shape or inputs.shape[1:]))
    with evaluating(night.model, weight.device):
        scores: object = (night.forward or night.model)(batch.to(weight.device, weight.dtype))
    return scores


def reason_to_skip(
    night: Night, need: float | None, min_need: float, *, first: bool = False
) -> str | None:
    """Why sleep has nothing to win; None if it may.

    :param need: see :func:`need_of_sleep`; None is no reason.
    :param first: whether to sleep although no class is old, as what will be forgotten comes later.
    """
    if night.separate_heads:
        return "the tasks have output layers of their own, which do not compete"
    if not night.old_classes and not first:
        return "there is no older class to recover: all classes seen are in this experience"
    if need is not None and need < min_need:
        return (
            f"the newest classes win on {need:.0%} of the replay inputs, less than "
            f"min_need={min_need:g}: there is little to recover"
        )
    return None
