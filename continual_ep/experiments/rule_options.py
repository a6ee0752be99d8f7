"""The options of the learning rules, with the demo's numbers as defaults. Nothing here imports torch."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from continual_ep.experiments.option_types import Count, NotNegative, Options, Rate, Share


class RuleOptions(Options):
    """What every learning rule can be given."""

    #: The kinds of network that it can train; the first is what "auto" stands for.
    kinds: ClassVar[tuple[str, ...]] = ("mrnn", "dendritic", "convolutional", "feedback-regulated")
    #: Whether it has to know the output's target, and with it an output inside the dynamics.
    needs_target: ClassVar[bool] = False

    if TYPE_CHECKING:
        rule: str

    label: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._=+-]*$",
        description="name in tables and folders; null: the rule's name",
    )
    learning_rates: Rate | list[Rate] | None = Field(
        default=None, description="instead of training.learning_rates"
    )


class EquilibriumPropagationOptions(RuleOptions):
    """Equilibrium propagation."""

    rule: Literal["equilibrium-propagation"] = "equilibrium-propagation"
    beta: Rate = Field(default=0.2, description="strength of the nudge")
    estimator: Literal["centered", "one-sided", "random-sign"] = Field(
        default="centered", description="how two equilibria make a gradient"
    )
    free_steps: Count = Field(default=20, description="of the free phase")
    nudged_steps: Count = Field(default=6, description="of each nudged phase")
    tolerance: Rate | None = Field(
        default=None, description="stop a phase that moves less; null: never"
    )
    nudging: Literal["force", "loss"] = Field(
        default="loss", description="loss: evaluated at each step, as published"
    )
    update: Literal["contrast", "postsynaptic"] = Field(
        default="contrast",
        description="postsynaptic: change of the post- times free presynaptic state",
    )
    corrected: bool = Field(
        default=False, description="divide by the feedback scales between layer and output"
    )
    teaching: Literal["states", "difference"] = Field(
        default="states", description="difference: carried as a small change; needs nudging: force"
    )
    adaptation_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="steps of adjusted adaptation after the nudged phase"
    )
    adaptation_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="pull towards the free equilibrium in each of them"
    )
    read_noise: NotNegative = Field(
        default=0.0, description="standard deviation of the noise with which states are read"
    )
    reads: Count = Field(default=1, description="how often each state is read and averaged")


class ContrastiveHebbianOptions(RuleOptions):
    """Contrastive Hebbian learning; needs squared error and a readout inside the dynamics."""

    needs_target: ClassVar[bool] = True

    rule: Literal["contrastive-hebbian"] = "contrastive-hebbian"
    free_steps: Count = Field(default=30, description="of the free phase")
    clamped_steps: Count = Field(default=20, description="of the clamped phase")
    tolerance: Rate | None = Field(
        default=None, description="stop a phase that moves less; null: never"
    )
    update: Literal["contrast", "clamped-presynaptic"] = Field(
        default="contrast", description="difference of products, or change times clamped state"
    )
    corrected: bool = Field(
        default=True, description="divide by the feedback scales between layer and output"
    )
    adaptation_steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="steps of adjusted adaptation after the clamped phase; needs dt < 1"
    )
    adaptation_rate: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="pull towards the free equilibrium in each of them"
    )


class BPTTOptions(RuleOptions):
    """Back-propagation through time."""

    rule: Literal["bptt"] = "bptt"
    free_steps: Count = Field(default=20, description="of the free phase")
    backward_steps: Count | None = Field(
        default=None, description="steps differentiated; null: all"
    )
    tolerance: Rate | None = Field(
        default=None, description="stop a phase that moves less; null: never"
    )


class EquilibriumGradientOptions(RuleOptions):
    """The exact gradient at the equilibrium."""

    rule: Literal["equilibrium-gradient"] = "equilibrium-gradient"
    free_steps: Count = Field(default=200, description="at most, of the free phase")
    adjoint_steps: Count = Field(default=200, description="at most, of the adjoint's relaxation")
    tolerance: Rate | None = Field(default=1e-6, description="stop a phase that moves less")


class BackpropOptions(RuleOptions):
    """Back-propagation in the feed-forward twin."""

    kinds: ClassVar[tuple[str, ...]] = ("mlp", "cnn")

    rule: Literal["backprop"] = "backprop"


class CoupledLearningOptions(ContrastiveHebbianOptions):
    """Coupled learning; the options of contrastive-hebbian and one more."""

    rule: Literal["coupled"] = "coupled"  # type: ignore[assignment]
    amplitude: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="how far of the way to its target the output is clamped"
    )


class StochasticEPOptions(EquilibriumPropagationOptions):
    """Stochastic EP; the options of equilibrium-propagation and one more."""

    kinds: ClassVar[tuple[str, ...]] = ("mrnn", "dendritic", "convolutional")

    rule: Literal["stochastic"] = "stochastic"  # type: ignore[assignment]
    free_steps: Count = Field(default=20, description="of the free phase")
    nudged_steps: Count = Field(default=10, description="of each nudged phase")
    averaged_steps: Count = Field(
        default=5, description="at the end of each phase, whose states are averaged"
    )


class HolomorphicEPOptions(RuleOptions):
    """Holomorphic EP; needs activation tanh or shifted-sigmoid."""

    kinds: ClassVar[tuple[str, ...]] = ("mrnn",)

    rule: Literal["holomorphic"] = "holomorphic"
    beta: Rate = Field(default=0.5, description="radius of the circle of nudges")
    points: Annotated[int, Field(ge=2)] = Field(default=4, description="nudges on the circle")
    free_steps: Count = Field(default=20, description="of the free phase")
    nudged_steps: Count = Field(default=10, description="of the nudged phases")
    tolerance: Rate | None = Field(
        default=None, description="stop a phase that moves less; null: never"
    )


class ContinualEPOptions(RuleOptions):
    """Continual EP: weights change within the nudged phase."""

    kinds: ClassVar[tuple[str, ...]] = ("mrnn",)

    rule: Literal["continual"] = "continual"
    beta: Rate = Field(default=0.1, description="strength of the nudge")
    rate: NotNegative = Field(default=0.001, description="of the changes within the phase")
    free_steps: Count = Field(default=20, description="of the free phase")
    nudged_steps: Count = Field(default=10, description="of the nudged phase")
    tolerance: Rate | None = Field(
        default=None, description="stop the free phase when it moves less; null: never"
    )


class PredictiveHebbianOptions(RuleOptions):
    """Contrastive Hebbian learning against predicted free states (bioCHL)."""

    kinds: ClassVar[tuple[str, ...]] = ("mrnn",)
    needs_target: ClassVar[bool] = True

    rule: Literal["predictive-hebbian"] = "predictive-hebbian"
    free_steps: Count = Field(default=60, description="of the free phase")
    clamped_steps: Count = Field(default=60, description="of the clamped phase")
    seen_steps: Count = Field(default=12, description="from which the free state is predicted")
    fitted: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="part of each batch on which predictions are fitted"
    )
    tolerance: None = Field(default=None, description="none: the path is what is predicted from")


class DirectCostFeedbackOptions(RuleOptions):
    """Direct cost feedback: one phase."""

    kinds: ClassVar[tuple[str, ...]] = ("mrnn",)

    rule: Literal["direct-cost-feedback"] = "direct-cost-feedback"
    free_steps: Count = Field(default=20, description="of the free phase")
    tolerance: Rate | None = Field(
        default=None, description="stop the phase when it moves less; null: never"
    )


class NeuromodulatedOptions(DirectCostFeedbackOptions):
    """Neuromodulated equilibrium learning: one phase, and a reward."""

    needs_target: ClassVar[bool] = True

    rule: Literal["neuromodulated"] = "neuromodulated"  # type: ignore[assignment]
    exploration: Share = Field(default=0.2, description="probability of a class drawn at random")


class DendriticLocalizedOptions(RuleOptions):
    """Dendritic localized learning: local errors, backward weights."""

    kinds: ClassVar[tuple[str, ...]] = ("mlp", "cnn")

    rule: Literal["dendritic-localized"] = "dendritic-localized"
    backward_learning: Literal["fixed", "paper", "opposite", "kolen-pollack"] = Field(
        default="paper", description="how backward weights learn; opposite: as in the public code"
    )
    decay: NotNegative = Field(
        default=0.0, description="of forward and backward weights, for kolen-pollack"
    )
    backward_rate: Rate = Field(
        default=0.1, description="rate of backward weights, as a part of their layer's"
    )
    backward_std: Rate | None = Field(
        default=None, description="their initial standard deviation; null: by the fan-out"
    )


class DeepFeedbackControlOptions(RuleOptions):
    """Deep feedback control at its steady state (DFC-SSA)."""

    kinds: ClassVar[tuple[str, ...]] = ("mlp",)

    rule: Literal["deep-feedback-control"] = "deep-feedback-control"
    nudge: Rate = Field(default=0.1, description="how far the target is from the output")
    leak: NotNegative = Field(default=0.001, description="of the controller")
    target: Literal["nudged", "label"] = Field(
        default="nudged", description="label: strong feedback, for squared error"
    )
    control_steps: Count = Field(default=1, description="linearisations of the controller")
    feedback_learning: bool = Field(default=False, description="learn the feedback weights")
    noise: Rate = Field(default=0.1, description="by which they learn")
    feedback_decay: NotNegative = Field(default=0.1, description="of the feedback weights")
    normalized: bool = Field(default=False, description="divide by the squared input of a layer")


class WeightPerturbationOptions(RuleOptions):
    """Weight perturbation, the lower bound."""

    kinds: ClassVar[tuple[str, ...]] = ("mlp",)

    rule: Literal["weight-perturbation"] = "weight-perturbation"
    scale: Rate = Field(default=0.01, description="of the perturbation")
    draws: Count = Field(default=1, description="perturbations tried on each batch")


#: By name; a line here and one in ``continual_ep.learning.LEARNING_RULES`` make a rule known.
RULES: dict[str, type[RuleOptions]] = {
    str(options.model_fields["rule"].default): options
    for options in (
        EquilibriumPropagationOptions,
        ContrastiveHebbianOptions,
        BPTTOptions,
        EquilibriumGradientOptions,
        HolomorphicEPOptions,
        ContinualEPOptions,
        CoupledLearningOptions,
        PredictiveHebbianOptions,
        DirectCostFeedbackOptions,
        NeuromodulatedOptions,
        StochasticEPOptions,
        BackpropOptions,
        DendriticLocalizedOptions,
        DeepFeedbackControlOptions,
        WeightPerturbationOptions,
    )
}

if TYPE_CHECKING:
    LearningOptions = RuleOptions
else:
    LearningOptions = Annotated[reduce(or_, RULES.values()), Field(discriminator="rule")]
