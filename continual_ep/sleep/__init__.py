"""Sleep algorithms: how weights change during sleep, on any network. Needs torch only."""

from continual_ep.sleep.calibration import layer_gains
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.ensembles import sleep_replay_ensemble
from continual_ep.sleep.layers import Chain
from continual_ep.sleep.parameters import SleepParameters, preset_named
from continual_ep.sleep.plasticity import GatedHebbian, Plasticity
from continual_ep.sleep.prepare import sleep_replay
from continual_ep.sleep.presets import PRESETS
from continual_ep.sleep.replay_input import (
    ClassReplayInput,
    FunctionReplayInput,
    MeanReplayInput,
    ReplayInput,
)
from continual_ep.sleep.statistics import InputStatistics, RunningMean
from continual_ep.sleep.walk import find_chains

__all__ = [
    "PRESETS",
    "Chain",
    "ClassReplayInput",
    "FunctionReplayInput",
    "GatedHebbian",
    "InputStatistics",
    "MeanReplayInput",
    "Plasticity",
    "ReplayInput",
    "RunningMean",
    "SleepDiary",
    "SleepParameters",
    "find_chains",
    "layer_gains",
    "preset_named",
    "sleep_replay",
    "sleep_replay_ensemble",
]
