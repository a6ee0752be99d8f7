"""Weight averaging: after each experience the weights become the mean over experiences."""

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.streams.experiences import part_of


class WeightAveraging(SupervisedPlugin):
    r"""Sets the weights to their running mean over experiences; training goes on from there.

    .. math:: \bar\theta_k = \bar\theta_{k-1} + \lambda_k\,(\theta_k - \bar\theta_{k-1}), \qquad
              \lambda_k = 1/k \text{ or } \texttt{share}, \quad \lambda_1 = 1

    Mean-IMM of Lee et al. 2017 (arXiv:1703.08475) with equal shares. Between experiences nothing is
    kept but their number, as the network itself is the mean; during an experience a copy is.
    Deviation: there the next experience starts from the last trained weights, here from the mean.

    :param share: of the new weights from the second experience on; None for 1/k.
    :raises ConfigurationError: for a share outside (0, 1].
    """

    supports_distributed = False

    def __init__(self, *, share: float | None = None) -> None:
        super().__init__()
        if share is not None and not 0 < share <= 1:
            raise ConfigurationError(f"share is {share}; it must lie in (0, 1], or be None for 1/k")
        self.share = share
        self.experiences = 0
        self._mean: dict[str, Tensor] = {}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Copy the mean, with which the experience starts."""
        if self.experiences and part_of(strategy.experience).is_first:
            self._mean = {n: p.detach().clone() for n, p in strategy.model.named_parameters()}

    @torch.no_grad()
    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Set the weights to the new mean."""
        if not part_of(strategy.experience).is_last:
            return
        self.experiences += 1
        share = 1.0 / self.experiences if self.share is None else self.share
        for name, parameter in strategy.model.named_parameters():
            mean = self._mean.get(name)
            # A parameter that has grown has no mean yet.
            if mean is not None and mean.shape == parameter.shape:
                parameter.copy_(torch.lerp(mean, parameter, share))
        self._mean = {}

    def state_dict(self) -> dict[str, Any]:
        """The number of experiences."""
        return {"experiences": self.experiences}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        number = state.get("experiences")
        if type(number) is not int or number < 0:
            raise CheckpointError(f"the state of WeightAveraging is damaged: {state!r}")
        self.experiences, self._mean = number, {}
