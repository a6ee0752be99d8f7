"""What the package adds to Avalanche's strategies: plugins that sleep, replay, correct and feed."""

from continual_ep.plugins.augmentation import Augmentation
from continual_ep.plugins.awake_rehearsal import AwakeRehearsal
from continual_ep.plugins.batch_feed import BatchFeed
from continual_ep.plugins.bias_correction import BiasCorrection
from continual_ep.plugins.dark_replay import DarkReplay
from continual_ep.plugins.freeze_hidden import FreezeHidden
from continual_ep.plugins.gdumb import GDumb
from continual_ep.plugins.grapes import Grapes
from continual_ep.plugins.icarl import ICaRL
from continual_ep.plugins.labels_trick import LabelsTrick
from continual_ep.plugins.owm import OWM
from continual_ep.plugins.sleep_replay import SleepReplay
from continual_ep.plugins.weight_averaging import WeightAveraging

__all__ = [
    "OWM",
    "Augmentation",
    "AwakeRehearsal",
    "BatchFeed",
    "BiasCorrection",
    "DarkReplay",
    "FreezeHidden",
    "GDumb",
    "Grapes",
    "ICaRL",
    "LabelsTrick",
    "SleepReplay",
    "WeightAveraging",
]
