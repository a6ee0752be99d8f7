r"""Binary synapses: weights of two values that flip when their gradient insists.

.. math:: m \leftarrow (1 - \gamma)\, m + \gamma\, g, \qquad
          w \leftarrow -w \;\text{ where }\; \mathrm{sign}(w)\, m > \tau

with g the gradient of descent: a weight flips when its smoothed gradient points away from it by more than the
threshold. Source: Laydevant et al. 2021 (CVPRW, "Training dynamical binary neural networks with equilibrium
propagation"); the optimizer is that of Helwegen et al. 2019 (arXiv:1906.02107).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, WarnOnce

#: Steps without a flip after which a threshold is reported that flips nothing.
PATIENCE = 500


def binarize(weights: Iterable[nn.Parameter]) -> None:
    r"""Give each weight matrix two values, :math:`\pm` the mean of its absolute values."""
    with torch.no_grad():
        for weight in weights:
            size = weight.abs().mean()
            weight.copy_(torch.where(weight < 0, -size, size))


class BinaryFlips(torch.optim.Optimizer):
    r"""Flips binary weights; parameters of one dimension (biases) learn by plain SGD.

    :param params: parameters or groups; matrices and kernels have to be binary, see :func:`binarize`.
    :param lr: of biases.
    :param adaptivity: :math:`\gamma`, in (0, 1]: the part of a new gradient in its running mean.
    :param threshold: :math:`\tau`, positive. The larger, the more a weight keeps of what it has learnt
        before: a consolidation.
    :raises ConfigurationError: for values that cannot work, or weights of more than two values.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        adaptivity: float = 1e-3,
        threshold: float = 1e-6,
    ) -> None:
        if not 0 < adaptivity <= 1:
            raise ConfigurationError(f"adaptivity is {adaptivity}; it must lie in (0, 1]")
        if not 0 < threshold < float("inf"):
            raise ConfigurationError(
                f"threshold is {threshold}; it must be positive and finite, or every weight flips at every "
                f"step"
            )
        if not 0 <= lr < float("inf"):
            raise ConfigurationError(f"lr is {lr}; it must be finite, and 0 or more")
        super().__init__(params, {"lr": lr, "adaptivity": adaptivity, "threshold": threshold})
        for weight in self._weights():
            size = weight.detach().abs()
            if weight.numel() and not torch.allclose(size, size.mean().expand_as(size), rtol=1e-4):
                raise ConfigurationError(
                    "BinaryFlips needs weights of two values: binarize(network.weights) first"
                )
        #: Part of the weights that flipped in the last step.
        self.flipped = 0.0
        self._quiet_steps = 0
        self._warnings = WarnOnce()

    def _weights(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"] if p.dim() > 1]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; see :meth:`torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        flipped: list[Tensor] = []
        total = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.dim() == 1:
                    parameter.sub_(parameter.grad, alpha=group["lr"])
                    continue
                flip = self._flips(parameter, group)
                parameter.mul_(1.0 - 2.0 * flip.to(parameter.dtype))
                flipped.append(flip.sum())
                total += flip.numel()
        if total:
            self._check_share(float(torch.stack(flipped).sum()) / total)
        return loss

    def _flips(self, weight: nn.Parameter, group: dict[str, Any]) -> Tensor:
        state = self.state[weight]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(weight)
        assert weight.grad is not None
        state["mean"].lerp_(weight.grad, group["adaptivity"])
        flips: Tensor = weight.sign() * state["mean"] > group["threshold"]
        return flips

    def _check_share(self, share: float) -> None:
        """Warn, once, of a threshold that flips everything or nothing."""
        self.flipped = share
        self._quiet_steps = 0 if share else self._quiet_steps + 1
        if share > 0.5:
            self._warn(
                "flips all",
                f"the threshold flips nearly everything: {share:.0%} of the weights in one step",
            )
        if self._quiet_steps == PATIENCE:
            self._warn(
                "flips nothing", f"the threshold flips nothing: no weight in {PATIENCE} steps"
            )

    def _warn(self, key: str, message: str) -> None:
        self._warnings.warn(key, f"{message}. Choose another threshold or adaptivity.")
