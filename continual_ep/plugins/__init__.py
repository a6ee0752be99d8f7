"""What the package adds to Avalanche's strategies: plugins that sleep and rehearse."""

from continual_ep.plugins.awake_rehearsal import AwakeRehearsal
from continual_ep.plugins.sleep_replay import SleepReplay

__all__ = ["AwakeRehearsal", "SleepReplay"]
