"""What the package adds to Avalanche's strategies: plugins that sleep, rehearse, feed and augment."""

from continual_ep.plugins.augmentation import Augmentation
from continual_ep.plugins.awake_rehearsal import AwakeRehearsal
from continual_ep.plugins.batch_feed import BatchFeed
from continual_ep.plugins.grapes import Grapes
from continual_ep.plugins.sleep_replay import SleepReplay

__all__ = ["Augmentation", "AwakeRehearsal", "BatchFeed", "Grapes", "SleepReplay"]
