"""Stochastic gradient descent with a learning rate for each member of an ensemble."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError


class EnsembleSGD(torch.optim.Optimizer):
    r"""SGD in which member m has the learning rate :math:`\eta_m`.

    .. math:: v \leftarrow \mu v + g + \lambda\theta, \qquad \theta_m \leftarrow \theta_m - \eta_m v_m

    :param params: parameters of an :class:`~continual_ep.networks.Ensemble`, members first.
    :param lr: one rate for each member.
    :param momentum, weight_decay: :math:`\mu` and :math:`\lambda`, as of :class:`torch.optim.SGD`.
    :raises ConfigurationError: rates that are negative or not finite, or not one for each member.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: Iterable[float],
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        rates = tuple(float(rate) for rate in lr)
        if not rates or not all(0 <= rate < float("inf") for rate in rates):
            raise ConfigurationError(f"learning rates {rates} must be finite, and 0 or more")
        super().__init__(params, {"lr": rates, "momentum": momentum, "weight_decay": weight_decay})
        sizes = {len(p) for group in self.param_groups for p in group["params"]}
        if sizes != {len(rates)}:
            raise ConfigurationError(
                f"{len(rates)} learning rates were given for {sorted(sizes)} members: give one for each"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; see :meth:`torch.optim.Optimizer.step`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        change: Tensor = parameter.grad  # type: ignore[assignment]
        if group["weight_decay"]:
            change = change.add(parameter, alpha=group["weight_decay"])
        if group["momentum"]:
            state = self.state[parameter]
            if "momentum_buffer" in state:
                state["momentum_buffer"].mul_(group["momentum"]).add_(change)
            else:
                state["momentum_buffer"] = change.clone()
            change = state["momentum_buffer"]
        rates = self._rates(parameter, group)
        parameter.addcmul_(change, rates, value=-1.0)

    def _rates(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """The rates beside the parameters; made once, as a copy to a GPU waits."""
        state = self.state[parameter]
        if state.get("rates_of") != group["lr"]:
            shape = (-1, *[1] * (parameter.dim() - 1))
            state["rates"] = parameter.new_tensor(group["lr"]).view(shape)
            state["rates_of"] = group["lr"]
        rates: Tensor = state["rates"]
        return rates
