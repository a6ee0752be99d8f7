"""One small network of every kind and one rule of every name, for tests of what all have in common.

A new line in ``NETWORKS`` or ``LEARNING_RULES`` is picked up here.
"""

import inspect
from itertools import product

import torch

from continual_ep.errors import ConfigurationError
from continual_ep.learning import LEARNING_RULES, CrossEntropy, SquaredError
from continual_ep.networks import NETWORKS

ALL_NETWORKS = list(NETWORKS)
ALL_RULES = list(LEARNING_RULES)

CLASSES, SIDE = 3, 6


def example_network(kind, seed=0, sizes=(SIDE * SIDE, 8, 7, CLASSES), **options):
    """A small network in float64, by default for inputs of 6 by 6 and 3 classes.

    Its activation is smooth and bounded in [0, 1], which suits every rule.
    """
    make = NETWORKS[kind]
    known = inspect.signature(make).parameters
    given = {"activation": "shifted-sigmoid", "readout": "activated", "channels": [2], **options}
    given = {name: value for name, value in given.items() if name in known}
    first = {"sizes": list(sizes)}
    if "channels" in known:
        first = {"input_shape": (1, SIDE, SIDE), "classes": CLASSES}
    return make(**first, **given, generator=torch.Generator().manual_seed(seed)).double()


def example_batch(samples=8, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, SIDE * SIDE, generator=drawn, dtype=torch.float64)
    return x, torch.randint(CLASSES, (samples,), generator=drawn)


def criterion_for(network):
    return CrossEntropy() if network.readout == "softmax" else SquaredError()


def gradients(network, x, y, factor=1.0, seed=0):
    """Gradients of all parameters by name, None where none was formed."""
    torch.manual_seed(seed)  # for rules that draw
    network.zero_grad()
    (factor * criterion_for(network)(network(x), y)).backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def _fits(kind, rule):
    """Whether a network of this kind learns by the rule."""
    try:
        gradients(example_network(kind, learning=LEARNING_RULES[rule]()), *example_batch(2))
    except ConfigurationError:
        return False
    return True


#: The pairs of a network and a rule that go together.
ALL_PAIRS = [pair for pair in product(ALL_NETWORKS, ALL_RULES) if _fits(*pair)]
