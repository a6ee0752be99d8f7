"""What is wired to what: networks as PyTorch modules."""

from torch import nn

from continual_ep.networks.cnn import CNN
from continual_ep.networks.connections import Connection, Dense
from continual_ep.networks.convolution import Convolution, ConvolutionalRNN
from continual_ep.networks.dendrites import Dendritic, DendriticRNN
from continual_ep.networks.ensemble import Ensemble
from continual_ep.networks.feedback_regulated import FeedbackRegulatedRNN
from continual_ep.networks.graph import RecurrentNetwork
from continual_ep.networks.mlp import MLP
from continual_ep.networks.mrnn import MRNN
from continual_ep.networks.recurrent import RecurrentModule, Settling
from continual_ep.relaxation.activations import ACTIVATIONS, FEEDFORWARD_ACTIVATIONS
from continual_ep.synapses import Synapses

#: Networks by name, for configurations.
NETWORKS: dict[str, type[nn.Module]] = {
    "mrnn": MRNN,
    "dendritic": DendriticRNN,
    "convolutional": ConvolutionalRNN,
    "feedback-regulated": FeedbackRegulatedRNN,
    "mlp": MLP,
    "cnn": CNN,
}

__all__ = [
    "ACTIVATIONS",
    "CNN",
    "FEEDFORWARD_ACTIVATIONS",
    "MLP",
    "MRNN",
    "NETWORKS",
    "Connection",
    "Convolution",
    "ConvolutionalRNN",
    "Dendritic",
    "DendriticRNN",
    "Dense",
    "Ensemble",
    "FeedbackRegulatedRNN",
    "RecurrentModule",
    "RecurrentNetwork",
    "Settling",
    "Synapses",
]
