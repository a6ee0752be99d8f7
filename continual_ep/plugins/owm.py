r"""Orthogonal weights modification: learning changes weights where earlier inputs were silent.

For a layer with presynaptic activity :math:`a` (with a constant 1 where it has biases) and the mean
over all experiences so far of its second moment,

.. math:: A = \frac{1}{K} \sum_{k=1}^{K} \mathrm{E}_k[a a^T], \qquad
          P = \alpha\,(A + \alpha I)^{-1}, \qquad \Delta W \leftarrow \Delta W P.

Directions in which earlier experiences were active on average are learned in little, all others as
before. P needs presynaptic activity only, so a local rule stays local. Source: Zeng, Chen, Cui and
Yu 2019 (doi:10.1038/s42256-019-0080-x).
"""

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, reading_state
from continual_ep.forward_passes import evaluating
from continual_ep.metrics.evaluation import batches_of
from continual_ep.networks.presynaptic import (
    Presynaptic,
    patches,
    presynaptic_activities,
    with_constant,
)
from continual_ep.sleep.walk import convolution_kernel
from continual_ep.streams.experiences import part_of


class OWM(SupervisedPlugin):
    r"""Project the gradients of all layers away from the activity of earlier experiences.

    Linear and Conv2d layers of any model and all layers of the networks of this package are
    projected, whatever the learning rule; for recurrent networks the activity is that of the free
    phase. After each experience one pass over its data gathers the second moments. Two things
    differ from the paper: A is computed from samples and not from batch means, and
    :math:`\alpha` does not fall during training.

    :param strength: :math:`\alpha` in units of the mean eigenvalue of A, so that it means the same
        for inputs of any number and scale.
    :raises ConfigurationError: when a parameter that learns belongs to no layer whose inputs can
        be seen (at the first training, before any step).

    Momentum is projected with the gradients. Adam scales each weight's step by itself, which turns
    the projected direction: use SGD.
    """

    supports_distributed = False

    #: For SleepReplay: nights cost more here than they win, unless the need is high.
    keeps_answers = True

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        if not 0 < strength < float("inf"):
            raise ConfigurationError(f"strength is {strength}; it must be positive and finite")
        self.strength = float(strength)
        #: Experiences gathered so far.
        self.experiences = 0
        #: A of each weight, by the weight's name, float64.
        self.moments: dict[str, Tensor] = {}
        self._projectors: dict[str, Tensor] = {}
        self._biases: dict[str, str | None] = {}
        self._back: set[str] = set()
        #: Sums and rows of the experience that is gathered: an online one comes in parts.
        self._sums: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}

    def check(self, strategy: Any, experience: Any, example: Tensor) -> None:
        """Refuse a model that it cannot see, before anything is trained.

        :raises ConfigurationError: as of the class.
        """
        with evaluating(strategy.model, strategy.device):
            self._seen(strategy.model, example.to(strategy.device))

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if not self._biases:  # not known yet, as before the first step or after a resume
            self.check(strategy, strategy.experience, strategy.mb_x[:2])

    @torch.no_grad()
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Project the gradients, before the optimizer sees them."""
        if not self.moments:
            return
        parameters = dict(strategy.model.named_parameters())
        if not self._projectors:
            self._projectors = {
                name: projector(moment, self.strength).to(parameters[name])
                for name, moment in self.moments.items()
            }
        for name, matrix in self._projectors.items():
            _project(parameters[name], self._biases[name], parameters, matrix, name in self._back)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Add the second moments of this experience to the mean, after its last part."""
        sums, rows = self._sums, self._rows
        dataset = strategy.experience.dataset.eval()
        with evaluating(strategy.model, strategy.device):
            for x, *_ in batches_of(dataset, strategy.eval_mb_size, strategy.device):
                for part in self._seen(strategy.model, x.to(strategy.device)):
                    activity = part.activity.double()
                    product = activity.T @ activity
                    sums[part.weight] = sums.get(part.weight, 0.0) + product
                    rows[part.weight] = rows.get(part.weight, 0) + len(activity)
        if not part_of(strategy.experience).is_last:
            return
        self.experiences += 1
        for name, product in sums.items():
            moment = product / rows[name]
            before = self.moments.get(name, torch.zeros_like(moment))
            self.moments[name] = before + (moment - before) / self.experiences
        self._sums, self._rows, self._projectors = {}, {}, {}

    def _seen(self, model: nn.Module, x: Tensor) -> list[Presynaptic]:
        """The activity below each weight, for a batch.

        :raises ConfigurationError: for a parameter that learns and is not among them.
        """
        parts = visible_activities(model, x)
        covered = {part.weight for part in parts} | {part.bias for part in parts}
        missing = [
            name
            for name, parameter in model.named_parameters()
            # Weights that carry errors back have no part in the answer.
            if parameter.requires_grad
            and name not in covered
            and "backward_weights" not in name.split(".")
        ]
        if missing:
            raise ConfigurationError(
                f"OWM cannot see the inputs of {', '.join(missing)}: it projects Linear and Conv2d "
                "layers and the networks of this package. Freeze these parameters "
                "(requires_grad_(False)) or leave OWM out"
            )
        self._biases = {part.weight: part.bias for part in parts}
        self._back = {part.weight for part in parts if part.sends_back}
        return parts

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The second moments, and of how many experiences they are the mean."""
        return {"experiences": self.experiences, "moments": dict(self.moments)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state.

        :raises CheckpointError: for a damaged state; nothing changes then.
        """
        with reading_state("OWM"):
            moments = {str(name): moment.double() for name, moment in state["moments"].items()}
            experiences = int(state["experiences"])
        self.moments, self.experiences, self._projectors = moments, experiences, {}


def projector(moment: Tensor, strength: float) -> Tensor:
    r""":math:`P = \alpha (A + \alpha I)^{-1}` with :math:`\alpha` = strength × tr(A) / n.

    :param moment: A, ``(n, n)``, symmetric. Where it is zero, nothing was active and P is the identity.
    """
    size = len(moment)
    alpha = strength * float(moment.diagonal().mean())
    identity = torch.eye(size, dtype=moment.dtype, device=moment.device)
    if alpha <= 0:
        return identity
    return torch.cholesky_solve(identity, torch.linalg.cholesky(moment / alpha + identity))


def visible_activities(model: nn.Module, x: Tensor) -> list[Presynaptic]:
    """The activity below the weights of all layers whose inputs can be seen.

    :param model: any module; networks that list their synapses are asked, Linear and Conv2d layers
        are watched.
    """
    names = {module: name for name, module in model.named_modules()}
    parts: list[Presynaptic] = []

    def watch(module: nn.Module, args: tuple[Any, ...]) -> None:
        prefix = f"{names[module]}." if names[module] else ""
        if hasattr(module, "synapses"):
            for part in presynaptic_activities(module, args[0]):
                bias = None if part.bias is None else prefix + part.bias
                parts.append(part._replace(weight=prefix + part.weight, bias=bias))
            return
        bias = None if module.bias is None else f"{prefix}bias"
        if isinstance(module, nn.Conv2d):
            activity = patches(args[0], convolution_kernel(module))
        else:
            activity = args[0].flatten(0, -2)
        parts.append(Presynaptic(f"{prefix}weight", bias, with_constant(activity, bias)))

    inside = {
        child
        for module in names
        if hasattr(module, "synapses")
        for child in module.modules()
        if child is not module
    }
    watched = [m for m in names if m not in inside and _is_visible(m)]
    hooks = [module.register_forward_pre_hook(watch) for module in watched]
    try:
        with torch.no_grad():
            avalanche_forward(model, x, torch.zeros(len(x), dtype=torch.long, device=x.device))
    finally:
        for hook in hooks:
            hook.remove()
    return parts


def _is_visible(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros"
    return isinstance(module, nn.Linear) or hasattr(module, "synapses")


def _project(
    weight: nn.Parameter,
    bias: str | None,
    parameters: Mapping[str, nn.Parameter],
    matrix: Tensor,
    sends_back: bool,
) -> None:
    """Multiply a gradient on the presynaptic side, its bias as a further column; in place."""
    if weight.grad is None:
        return
    rows = weight.grad.T if sends_back else weight.grad.flatten(1)
    if bias is None:
        weight.grad.copy_((rows @ matrix).T if sends_back else (rows @ matrix).view_as(weight))
        return
    gradient = parameters[bias].grad
    column = torch.zeros_like(rows[:, :1]) if gradient is None else gradient.reshape(-1, 1)
    rows = torch.cat([rows, column], dim=1) @ matrix
    weight.grad.copy_(rows[:, :-1].view_as(weight))
    if gradient is not None:
        gradient.copy_(rows[:, -1].view_as(gradient))
