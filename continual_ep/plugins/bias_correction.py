"""Bias correction: an offset for each class, so that new classes do not win everywhere."""

from collections.abc import Mapping
from typing import Any

import torch
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, reading_state
from continual_ep.forward_passes import evaluating
from continual_ep.metrics.evaluation import batches_of
from continual_ep.seeding import generator_from
from continual_ep.streams.experiences import part_of


class BiasCorrection(SupervisedPlugin):
    r"""Adds an offset for each class to the outputs, chosen on data of the new experience alone.

    .. math:: o_c \leftarrow o_c - \delta \quad (c\ \text{new}), \qquad
              \delta: \text{share of samples with } \max_{new} o - \max_{old} o < \delta
              \text{ is } \texttt{cost}

    After training on classes alone, their outputs exceed those of all earlier classes on any
    input. Here the new outputs are lowered until a share ``cost`` of the new training samples is
    answered with an earlier class. Offsets act on the model in evaluation mode, through a forward
    hook, and not on the outputs that are trained. One number is kept for each class.

    Bias correction by Wu et al. 2019 (arXiv:1905.13260) fits scale and offset to stored samples of
    all classes; here nothing is stored, and ``cost`` stands for what they would say.

    :param cost: share of the new training samples that is given up, in (0, 1).
    :param samples: that are looked at, drawn from the experience.
    :param seed: of the draw.
    :raises ConfigurationError: for a value out of its range.
    """

    supports_distributed = False

    def __init__(self, *, cost: float = 0.1, samples: int = 1000, seed: int = 0) -> None:
        super().__init__()
        if not 0 < cost < 1:
            raise ConfigurationError(f"cost is {cost}; it must lie in (0, 1)")
        if samples < 1:
            raise ConfigurationError(f"samples is {samples}; it must be 1 or more")
        self.cost, self.samples, self.seed = cost, samples, seed
        self.offset = OutputOffset()
        #: Classes trained on so far, and those of the current experience.
        self.seen: set[int] = set()
        self._new: set[int] = set()

    def attach(self, model: nn.Module) -> None:
        """Let a model answer with the offsets, if it does not do so yet."""
        if not any(hook is self.offset for hook in model._forward_hooks.values()):
            model.register_forward_hook(self.offset)

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Attach to the model."""
        self.attach(strategy.model)
        self.offset.training = True

    def before_eval(self, strategy: Any, **kwargs: Any) -> None:
        """Attach to the model, which may not have been trained since it was restored."""
        self.attach(strategy.model)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Choose the offset of the new classes."""
        self._new |= {int(label) for label in strategy.experience.dataset.targets.uniques}
        if not part_of(strategy.experience).is_last:
            return
        new, self._new = self._new, set()
        old = self.seen - new
        self.seen |= new
        if not old:
            return
        outputs = self._outputs(strategy)
        self.offset.extend(outputs.shape[-1], outputs)
        answers = outputs + self.offset.values
        margins = answers[:, sorted(new)].amax(1) - answers[:, sorted(old)].amax(1)
        self.offset.values[sorted(new)] -= threshold(margins, self.cost)

    def after_training(self, strategy: Any, **kwargs: Any) -> None:
        """Training is over."""
        self.offset.training = False

    def _outputs(self, strategy: Any) -> Tensor:
        """Outputs without offsets of samples of the experience, ``(samples, classes)``."""
        model, dataset = strategy.model, strategy.experience.dataset
        number = part_of(strategy.experience).experience
        generator = generator_from(f"bias correction/{self.seed}/{number}")
        chosen = torch.randperm(len(dataset), generator=generator)[: self.samples]
        samples = dataset.subset(chosen.tolist())
        self.offset.active = False
        try:
            with evaluating(model, strategy.device):
                return torch.cat(
                    [
                        _checked(avalanche_forward(model, x.to(strategy.device), task))
                        for x, _, task in batches_of(samples, max(1, strategy.eval_mb_size))
                    ]
                )
        finally:
            self.offset.active = True

    def state_dict(self) -> dict[str, Any]:
        """The offsets and the classes seen."""
        return {"offsets": self.offset.values.clone(), "seen": sorted(self.seen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state; nothing changes then."""
        with reading_state("BiasCorrection"):
            offsets, seen = state["offsets"], {int(label) for label in state["seen"]}
            if not isinstance(offsets, Tensor) or offsets.dim() != 1:
                raise ValueError(f"offsets are {offsets!r}")
        self.seen, self.offset.values = seen, offsets.clone()


class OutputOffset:
    """A forward hook that adds an offset to the outputs of a model in evaluation mode.

    While a strategy trains, passes with gradients in evaluation mode are left alone: penalties
    compute importances so. A copy of the model has a copy of the offsets.
    """

    def __init__(self) -> None:
        self.values = torch.zeros(0)
        self.active, self.training = True, False

    def extend(self, classes: int, like: Tensor) -> None:
        """Extend to ``classes`` offsets of the type of ``like``."""
        values = like.new_zeros(classes)
        values[: len(self.values)] = self.values.to(values)
        self.values = values

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        if module.training or not self.active or not len(self.values):
            return None
        if self.training and torch.is_grad_enabled():
            return None
        output = _checked(output)
        offsets = output.new_zeros(output.shape[-1])
        offsets[: len(self.values)] = self.values.to(offsets)
        return output + offsets


def without_offsets(model: nn.Module) -> nn.Module:
    """The same model, without hooks of :class:`OutputOffset`."""
    for key, hook in list(model._forward_hooks.items()):
        if isinstance(hook, OutputOffset):
            del model._forward_hooks[key]
    return model


def threshold(margins: Tensor, share: float) -> Tensor:
    """The number below which a share of the margins lies, to the nearest sample."""
    ordered = margins.sort().values
    below = min(round(share * len(ordered)), len(ordered) - 1)
    return (ordered[max(below - 1, 0)] + ordered[below]) / 2


def _checked(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    raise ConfigurationError(
        f"bias correction needs one output for each class; the model returns {type(output).__name__}"
    )
