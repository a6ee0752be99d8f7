"""Sleep algorithms: how weights change during sleep, on any network. Needs torch only."""

from continual_ep.sleep.algorithm import Need, Night, SleepAlgorithm, run_algorithm
from continual_ep.sleep.calibration import layer_gains
from continual_ep.sleep.class_mean_replay import ClassMeanReplay
from continual_ep.sleep.consolidation import SleepReplayConsolidation
from continual_ep.sleep.diary import NightReport, SleepDiary
from continual_ep.sleep.downscaling import Downscaling
from continual_ep.sleep.hooks import SleepHooks
from continual_ep.sleep.layers import Chain
from continual_ep.sleep.once import sleep_once
from continual_ep.sleep.parameters import SleepParameters
from continual_ep.sleep.plasticity import GatedHebbian, Plasticity
from continual_ep.sleep.prepare import sleep_replay
from continual_ep.sleep.presets import PRESETS
from continual_ep.sleep.recording import NightRecording, SpikeRecorder
from continual_ep.sleep.registry import (
    SLEEP_ALGORITHMS,
    SleepSchedule,
    make_algorithm,
)
from continual_ep.sleep.replay_input import (
    DrawnReplayInput,
    FunctionReplayInput,
    MeanReplayInput,
    ReplayInput,
)
from continual_ep.sleep.statistics import InputStatistics, RunningMean
from continual_ep.sleep.walk import find_chains

__all__ = [
    "PRESETS",
    "SLEEP_ALGORITHMS",
    "Chain",
    "ClassMeanReplay",
    "Downscaling",
    "DrawnReplayInput",
    "FunctionReplayInput",
    "GatedHebbian",
    "InputStatistics",
    "MeanReplayInput",
    "Need",
    "Night",
    "NightRecording",
    "NightReport",
    "Plasticity",
    "ReplayInput",
    "RunningMean",
    "SleepAlgorithm",
    "SleepDiary",
    "SleepHooks",
    "SleepParameters",
    "SleepReplayConsolidation",
    "SleepSchedule",
    "SpikeRecorder",
    "find_chains",
    "layer_gains",
    "make_algorithm",
    "run_algorithm",
    "sleep_once",
    "sleep_replay",
]
