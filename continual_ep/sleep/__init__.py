"""How weights change asleep: sleep replay consolidation of any network. Needs torch only."""

from continual_ep.sleep.calibration import layer_gains
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.dreams import ClassDream, Dream, MeanDream, OwnDream
from continual_ep.sleep.ensembles import sleep_replay_ensemble
from continual_ep.sleep.layers import Chain, SleepLayer
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.presets import PRESETS, preset_named
from continual_ep.sleep.replay import sleep_chains, sleep_replay
from continual_ep.sleep.statistics import InputStatistics, RunningMean
from continual_ep.sleep.walk import find_chains

__all__ = [
    "PRESETS",
    "Chain",
    "ClassDream",
    "Dream",
    "InputStatistics",
    "MeanDream",
    "OwnDream",
    "RunningMean",
    "SleepDiary",
    "SleepLayer",
    "SleepParameters",
    "find_chains",
    "layer_gains",
    "preset_named",
    "sleep_chains",
    "sleep_replay",
    "sleep_replay_ensemble",
]
