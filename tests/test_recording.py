"""A recorded night is the same night, and the recording holds its spikes."""

import numpy as np
import pytest
import torch
from torch import nn

from continual_ep.sleep import SleepParameters, SpikeRecorder
from continual_ep.sleep.prepare import prepare_model

STEPS = 330


def night(recorder, biases="zero-output", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 20, bias=False), nn.ReLU(), nn.Linear(20, 4, bias=False))
    parameters = SleepParameters(steps=STEPS, growth=0, window=None, **options)
    mean = torch.rand(64, generator=torch.Generator().manual_seed(1))
    prepared = prepare_model(model, mean, parameters, seed=3, night=1)
    diary = prepared.run(recorder) if recorder else prepared.run()
    return model, diary


@pytest.mark.parametrize("quiet", [None, 40])
def test_the_night_is_the_same(quiet):
    """With and without an early end, hence by the layerwise and the stepwise engine."""
    recorder = SpikeRecorder(window=50, parts=10)
    (plain, diary), (model, recorded) = (night(r, quiet_steps=quiet) for r in (None, recorder))
    assert diary.spikes == recorded.spikes and diary.spikes[0] > 0
    assert torch.equal(diary.counts, recorded.counts)
    assert diary.to_dict() == recorded.to_dict()
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_silent_night_ends_as_without_a_recorder():
    diaries = [night(r, quiet_steps=40, thresholds=(1e9, 1e9))[1] for r in (None, SpikeRecorder())]
    assert [len(diary.counts) for diary in diaries] == [40, 40]


@pytest.mark.parametrize("quiet", [None, 400])
def test_the_recording_holds_the_spikes(quiet):
    recorder = SpikeRecorder(window=50, parts=10)
    _, diary = night(recorder, quiet_steps=quiet)
    (recording,) = recorder.recordings
    assert recording.layers == ("input", "0.weight", "2.weight")
    assert recording.units == (64, 20, 4)
    assert np.array_equal(recording.counts, diary.counts.numpy())
    for layer, (steps, units) in enumerate(recording.raster):
        counted = np.bincount(steps, minlength=50)
        assert counted.tolist() == diary.counts[:50, layer].tolist()
        assert len(set(zip(steps.tolist(), units.tolist(), strict=True))) == len(steps)
    assert recording.ends[-1] <= STEPS and len(recording.ends) >= 9
    for layer, (rates, counts) in enumerate(
        zip(recording.rates(), recording.part_counts, strict=True), start=1
    ):
        begin = 0
        for end, of_part, rate in zip(recording.ends, counts, rates, strict=True):
            assert of_part.sum() == diary.counts[begin:end, layer].sum()
            assert rate.sum() == pytest.approx(of_part.sum() / (end - begin))
            begin = end
