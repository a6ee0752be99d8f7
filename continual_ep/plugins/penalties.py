"""Avalanche's penalties against forgetting, corrected where they need it and able to save themselves.

Each class takes the arguments of the Avalanche plugin that it extends. Avalanche's have no state
dict: here ``state_dict`` holds what is needed between experiences and nothing else, as tensors and
plain values.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import (
    EWCPlugin,
    LwFPlugin,
    MASPlugin,
    RWalkPlugin,
    SynapticIntelligencePlugin,
)
from avalanche.training.regularization import LearningWithoutForgetting
from avalanche.training.utils import ParamData, zerolike_params_dict
from torch import Tensor, nn
from torch.utils.data import DataLoader

from continual_ep.errors import CheckpointError, reading_state, warn_user
from continual_ep.learning.losses import SquaredError
from continual_ep.plugins.bias_correction import without_offsets

#: Largest importance in Avalanche's synaptic intelligence, as in its source (arXiv:1806.08568).
LARGEST_IMPORTANCE = 0.001

Parameters = dict[str, ParamData]


class _Saved:
    """A penalty whose state are attributes with parameters by name, or several such by experience."""

    #: The attribute of each key of the state.
    saved: ClassVar[dict[str, str]]

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Move a loaded state to the device."""
        super().before_training(strategy, *args, **kwargs)  # type: ignore[misc]
        for name in self.saved.values():
            _move(getattr(self, name) or {}, strategy.device)

    def state_dict(self) -> dict[str, Any]:
        """The tensors of each attribute in :attr:`saved`."""
        return {key: _tensors(getattr(self, name) or {}) for key, name in self.saved.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        kind = type(self).__name__
        loaded = [_parameters(_mapping(state, key, kind), kind) for key in self.saved]
        for name, values in zip(self.saved.values(), loaded, strict=True):
            setattr(self, name, values or None)


class EWC(_Saved, EWCPlugin):
    """Elastic weight consolidation, separate or online, with a state."""

    saved: ClassVar[dict[str, str]] = {"weights": "saved_params", "importances": "importances"}

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        total: dict[str, Any] = {}
        for kept in self.importances.values():
            total = {name: total.get(name, 0.0) + value.data for name, value in kept.items()}
        warn_of_overshoot(strategy, "ewc", total, 2.0 * self.ewc_lambda)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        weights, importances = (_mapping(state, key, "EWC") for key in self.saved)
        if weights.keys() != importances.keys():
            raise CheckpointError("the state of EWC is damaged: weights and importances disagree")
        super().load_state_dict(state)
        for name in self.saved.values():  # Avalanche adds entries by experience
            setattr(self, name, defaultdict(dict, getattr(self, name) or {}))


class SynapticIntelligence(SynapticIntelligencePlugin):
    """Synaptic intelligence with a state.

    Avalanche 0.6 keeps the weights before a step as a view of the parameters when these are on the
    CPU. The optimizer changes both, every step seems to be zero, and so is every importance. Here
    the weights are copied. Avalanche's importances have no lower bound, and negative ones push
    weights away; here they are zero at least.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, **kwargs)
        _detach(self.ewc_data[0])
        groups: list[Any] = [*self.ewc_data, *self.syn_data.values()]
        for name, parameter in strategy.model.named_parameters():
            # Avalanche makes them in single precision.
            for kept in (group[name] for group in groups if name in group):
                kept.data = kept.data.to(parameter.dtype)
            # Avalanche would add up the last gradient of a frozen parameter again and again.
            if not parameter.requires_grad and name in self.syn_data["grad"]:
                self.syn_data["grad"][name].data = torch.zeros(parameter.numel())

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, **kwargs)
        _detach(self.syn_data["old_theta"])

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        # A parameter that the loss does not reach has no gradient, where Avalanche needs one.
        for parameter in strategy.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        super().after_training_iteration(strategy, **kwargs)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        importances = {name: kept.data.clamp_(min=0.0) for name, kept in self.ewc_data[1].items()}
        warn_of_overshoot(strategy, "si", importances, self.si_lambda[-1])

    def state_dict(self) -> dict[str, Any]:
        """The path integral of each parameter; importances and reference weights follow from it."""
        return {"path_integrals": _tensors(self.syn_data["cum_trajectory"])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        name = "SynapticIntelligence"
        integrals = _parameters(_mapping(state, "path_integrals", name), name)
        zeros = {key: torch.zeros_like(kept.data) for key, kept in integrals.items()}
        importances = {
            key: (-kept.data).clamp(0.0, LARGEST_IMPORTANCE) for key, kept in integrals.items()
        }
        self.ewc_data = (_parameters(zeros, name), _parameters(importances, name))
        # Overwritten at the start of an experience or of a step, except the integrals.
        buffers: dict[str, Any] = {key: _parameters(zeros, name) for key in self.syn_data}
        self.syn_data.update({**buffers, "cum_trajectory": integrals})


class MAS(_Saved, MASPlugin):
    """Memory aware synapses with a state.

    The importance is that of Avalanche, written as a loss of this package, so that it can also be
    followed through a nudged phase (``nudging="loss"``), and found without dropout. Avalanche's
    fails on a batch whose loss is exactly zero.
    """

    saved: ClassVar[dict[str, str]] = {"weights": "params", "importances": "importance"}

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        for name, parameter in strategy.model.named_parameters():
            if self.importance and self.params and name in self.importance:
                importance = self.importance[name].expand(parameter.shape)
                change = parameter - self.params[name].expand(parameter.shape)
                strategy.loss += self._lambda * (importance * change.square()).sum()

    def _get_importance(self, strategy: Any) -> Parameters:
        model, dataset = strategy.model, strategy.experience.dataset
        importance: Parameters = zerolike_params_dict(model)
        loader = DataLoader(
            dataset,
            batch_size=strategy.train_mb_size,
            collate_fn=getattr(dataset, "collate_fn", None),
        )
        half_square = SquaredError()
        model.eval()
        for batch in loader:
            strategy.optimizer.zero_grad()
            output = avalanche_forward(model, batch[0].to(strategy.device), batch[-1])
            (2.0 * half_square(output, torch.zeros_like(output))).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    importance[name].data += parameter.grad.abs() / len(loader)
        strategy.optimizer.zero_grad()
        model.train()
        return importance

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        importances = {name: kept.data for name, kept in (self.importance or {}).items()}
        warn_of_overshoot(strategy, "mas", importances, 2.0 * self._lambda)


class RWalk(_Saved, RWalkPlugin):
    """Riemannian walk with a state.

    Beyond Avalanche's: the network is trained in training mode (Avalanche leaves it in evaluation
    mode, without dropout); an experience of fewer than ``delta_t`` steps is scored, too, where
    Avalanche divides zero by zero; a parameter without a score keeps its importance.
    """

    saved: ClassVar[dict[str, str]] = {
        "weights": "exp_params",
        "importances": "iter_importance",
        "scores": "exp_scores",
    }
    _scored = False

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().before_training(strategy, *args, **kwargs)
        _move(self.exp_penalties or {}, strategy.device)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Note that no step of this experience has been scored."""
        self._scored = False

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().before_training_iteration(strategy, *args, **kwargs)
        strategy.model.train()

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._is_checkpoint_iter(strategy) and not self._scored:
            self._scored = True
            self.checkpoint_scores = zerolike_params_dict(strategy.model)
        super().after_training_iteration(strategy, *args, **kwargs)

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Score the steps so far, in case there are too few of them."""
        if not self._scored:
            self.checkpoint_scores = zerolike_params_dict(strategy.model)
            self._update_score(strategy)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, *args, **kwargs)
        self.exp_penalties = self._penalties(self.exp_importance or {}, self.exp_scores or {})
        importances = {name: kept.data for name, kept in self.exp_penalties.items()}
        warn_of_overshoot(strategy, "rwalk", importances, 2.0 * self.ewc_lambda)

    @staticmethod
    def _penalties(importances: Parameters, scores: Parameters) -> Parameters:
        """Importances and positive scores, each divided by its maximum over the network."""
        largest = [
            max((float(kept.data.max()) for kept in group.values()), default=0.0)
            for group in (importances, scores)
        ]
        penalties = {}
        for name, kept in importances.items():
            score = scores[name].expand(kept.data.shape).relu() if name in scores else 0.0
            penalties[name] = kept.data / (largest[0] or 1.0) + score / (
                largest[1] if largest[1] > 0 else 1.0
            )
        return _parameters(penalties, "RWalk")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        super().load_state_dict(state)
        self.exp_importance = self.iter_importance
        self.exp_penalties = self._penalties(self.iter_importance or {}, self.exp_scores or {})


class LwF(LwFPlugin):
    """Learning without forgetting with a state.

    The former network answers in evaluation mode; Avalanche leaves it in training mode, with
    dropout.
    """

    def __init__(self, alpha: float = 1.0, temperature: float = 2.0) -> None:
        super().__init__(alpha, temperature)
        self.lwf = _OrderedDistillation(alpha, temperature)
        self._loaded: dict[str, Any] | None = None

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Rebuild the former network of a loaded state."""
        if self._loaded is None:
            return
        former = _former(copy.deepcopy(strategy.model))
        try:
            former.load_state_dict(self._loaded)
        except RuntimeError as error:
            raise CheckpointError(f"the state of LwF is of another network: {error}") from error
        self.lwf.prev_model, self._loaded = former, None

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        _former(self.lwf.prev_model)

    def state_dict(self) -> dict[str, Any]:
        """The weights of the former network, and the classes that it has learned."""
        former: dict[str, Any] = self._loaded or {}
        if self.lwf.prev_model is not None:
            values = self.lwf.prev_model.state_dict()
            former = {name: value.detach().clone() for name, value in values.items()}
        return {
            "network": dict(former),
            "classes": {
                int(task): sorted(int(label) for label in labels)
                for task, labels in self.lwf.prev_classes_by_task.items()
            },
            "experiences": self.lwf.expcount,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        network = dict(_mapping(state, "network", "LwF"))
        with reading_state("LwF"):
            classes = {
                int(task): {int(label) for label in labels}
                for task, labels in _mapping(state, "classes", "LwF").items()
            }
            experiences = int(state["experiences"])
        self.lwf.prev_model, self._loaded = None, network or None
        self.lwf.prev_classes_by_task.clear()
        self.lwf.prev_classes_by_task.update(classes)
        self.lwf.expcount = experiences


class _OrderedDistillation(LearningWithoutForgetting):
    """Distillation that adds up the classes in their order.

    A set has an order of its own, which a restored set need not share; sums would differ in the
    last bit.
    """

    def _distillation_loss(self, out: Tensor, prev_out: Tensor, active_units: Any) -> Tensor:
        loss: Tensor = super()._distillation_loss(out, prev_out, sorted(active_units))
        return loss


def _former(model: nn.Module) -> nn.Module:
    """A copy of a network as a teacher: in evaluation mode, answering without corrections."""
    return without_offsets(model).eval()


def warn_of_overshoot(
    strategy: Any, name: str, importances: Mapping[str, Tensor], curvature: float
) -> None:
    """Warn of a penalty so steep that steps of gradient descent on it grow.

    :param curvature: of the penalty of a weight with importance 1.
    """
    if not isinstance(strategy.optimizer, torch.optim.SGD):
        return
    rates = {
        id(parameter): group["lr"]
        for group in strategy.optimizer.param_groups
        for parameter in group["params"]
    }
    steps = (
        rates.get(id(parameter), 0.0) * curvature * float(importances[key].max())
        for key, parameter in strategy.model.named_parameters()
        if key in importances and parameter.requires_grad
    )
    worst = max(steps, default=0.0)
    if worst > 2.0:
        warn_user(
            f"{name}: the penalty is too steep for the learning rate: their product is {worst:.3g} "
            f"for the most important weight, and weights diverge beyond 2. Divide the strength or "
            f"the learning rate by more than {worst / 2:.3g}"
        )


# ---- Avalanche's ParamData -----------------------------------------------------------------------


def _tensors(kept: Any) -> Any:
    """The tensors of parameters by name, or of several such; empty ones are left out."""
    if not isinstance(kept, Mapping):
        return kept.data.detach().clone()
    return {name: _tensors(value) for name, value in kept.items() if value != {}}


def _parameters(values: Mapping[Any, Any], plugin: str) -> dict[Any, Any]:
    """The inverse of :func:`_tensors`."""
    parameters: dict[Any, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            parameters[name] = _parameters(value, plugin)
        elif isinstance(value, Tensor):
            shape, initial = value.shape, value.clone()
            parameters[name] = ParamData(name, shape, device=value.device, init_tensor=initial)
        else:
            raise CheckpointError(f"the state of {plugin} is damaged: {name} is {value!r}")
    return parameters


def _mapping(state: Mapping[str, Any], key: str, plugin: str) -> Mapping[Any, Any]:
    value = state.get(key)
    if not isinstance(value, Mapping):
        raise CheckpointError(f"the state of {plugin} is damaged: {key} is {value!r}")
    return value


def _move(parameters: Mapping[Any, Any], device: Any) -> None:
    for kept in parameters.values():
        if isinstance(kept, Mapping):
            _move(kept, device)
        else:
            kept.device = torch.device(device)
            kept.data = kept.data.to(device)


def _detach(parameters: Mapping[str, Any]) -> None:
    """Copy values that may be views of a network's parameters."""
    for kept in parameters.values():
        kept.data = kept.data.clone()
