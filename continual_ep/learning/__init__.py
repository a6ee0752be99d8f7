"""How weights change awake: learning rules as gradients, and the losses that can nudge."""

from continual_ep.learning.backprop import Backprop
from continual_ep.learning.binary import BinaryFlips, binarize
from continual_ep.learning.bptt import BPTT
from continual_ep.learning.continual import ContinualEP
from continual_ep.learning.contrastive_hebbian import ContrastiveHebbian
from continual_ep.learning.coupled import CoupledLearning
from continual_ep.learning.deep_feedback_control import DeepFeedbackControl
from continual_ep.learning.dendritic_localized import DendriticLocalizedLearning
from continual_ep.learning.ensemble_sgd import EnsembleSGD
from continual_ep.learning.equilibrium_gradient import EquilibriumGradient
from continual_ep.learning.equilibrium_propagation import EquilibriumPropagation
from continual_ep.learning.feedforward import FeedforwardRule
from continual_ep.learning.holomorphic import HolomorphicEP
from continual_ep.learning.linear_response import LinearResponse
from continual_ep.learning.losses import LOSSES, CrossEntropy, NudgingLoss, SquaredError
from continual_ep.learning.predictive_hebbian import PredictiveHebbian
from continual_ep.learning.reference import reference_gradients
from continual_ep.learning.rule import RecurrentRule
from continual_ep.learning.single_phase import (
    DirectCostFeedback,
    NeuromodulatedEquilibriumLearning,
)
from continual_ep.learning.stochastic import StochasticEP
from continual_ep.learning.weight_perturbation import WeightPerturbation
from continual_ep.registry import classes

#: Learning rules by name, for configurations.
LEARNING_RULES: dict[str, type] = classes(
    "continual_ep.learning",
    {
        "equilibrium-propagation": "equilibrium_propagation:EquilibriumPropagation",
        "linear-response": "linear_response:LinearResponse",
        "bptt": "bptt:BPTT",
        "contrastive-hebbian": "contrastive_hebbian:ContrastiveHebbian",
        "equilibrium-gradient": "equilibrium_gradient:EquilibriumGradient",
        "holomorphic": "holomorphic:HolomorphicEP",
        "continual": "continual:ContinualEP",
        "coupled": "coupled:CoupledLearning",
        "predictive-hebbian": "predictive_hebbian:PredictiveHebbian",
        "direct-cost-feedback": "single_phase:DirectCostFeedback",
        "neuromodulated": "single_phase:NeuromodulatedEquilibriumLearning",
        "stochastic": "stochastic:StochasticEP",
        "backprop": "backprop:Backprop",
        "dendritic-localized": "dendritic_localized:DendriticLocalizedLearning",
        "deep-feedback-control": "deep_feedback_control:DeepFeedbackControl",
        "weight-perturbation": "weight_perturbation:WeightPerturbation",
    },
)

__all__ = [
    "BPTT",
    "LEARNING_RULES",
    "LOSSES",
    "Backprop",
    "BinaryFlips",
    "ContinualEP",
    "ContrastiveHebbian",
    "CoupledLearning",
    "CrossEntropy",
    "DeepFeedbackControl",
    "DendriticLocalizedLearning",
    "DirectCostFeedback",
    "EnsembleSGD",
    "EquilibriumGradient",
    "EquilibriumPropagation",
    "FeedforwardRule",
    "HolomorphicEP",
    "LinearResponse",
    "NeuromodulatedEquilibriumLearning",
    "NudgingLoss",
    "PredictiveHebbian",
    "RecurrentRule",
    "SquaredError",
    "StochasticEP",
    "WeightPerturbation",
    "binarize",
    "reference_gradients",
]
