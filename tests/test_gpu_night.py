"""The night for GPUs, run by Triton's interpreter: the same spikes and weights as on the CPU."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from batched_nights import sleep_replay_ensemble
from torch import nn

from continual_ep.networks import MRNN, Ensemble
from continual_ep.sleep import SleepParameters
from continual_ep.sleep.chain import ChainState, SpikeTrain
from continual_ep.sleep.engines import triton as engine
from continual_ep.sleep.night import run_sleep
from continual_ep.sleep.simulation import make_layer
from continual_ep.synapses import Synapses

pytest.importorskip("triton", reason="Triton is not installed")


interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="Triton compiles for the GPU that is here"
)


def chain(
    seed,
    parameters=None,
    *,
    masked=False,
    constants=False,
    plastic=(True, True),
    dtype=torch.float32,
):
    generator = torch.Generator().manual_seed(seed)
    sizes, layers = [20, 37, 5], []
    for number, (pre, post) in enumerate(pairwise(sizes)):
        weight = torch.randn(post, pre, generator=generator, dtype=dtype) * 0.3 + 0.05
        mask = (torch.rand(post, pre, generator=generator) < 0.6).to(dtype) if masked else None
        layer = Synapses(f"w{number}", nn.Parameter(weight), shape=(pre,), mask=mask)
        layers.append(make_layer(layer, (parameters or SleepParameters(leak=0.9)).rule))
    spikes = torch.rand(60, 20, generator=generator) < 0.15
    spikes[7:12] = False  # steps in which no unit below spikes
    kind = layers[0].by_input.dtype
    steady = [np.full(size, 0.02 * (seed + 1), kind) if constants else 0.0 for size in sizes[1:]]
    return ChainState(
        layers,
        SpikeTrain([spikes.numpy()]),
        [0.4 + 0.05 * seed, 0.3],
        [1.0, 0.8],
        steady,
        plastic,
        kind,
    )


@interpreted
@pytest.mark.parametrize(
    "options",
    [{}, {"masked": True}, {"constants": True}, {"plastic": (True, False)}],
    ids=["dense", "masked", "biased", "frozen"],
)
def test_the_interpreter_gives_the_same_night(options):
    biases = "current" if options.get("constants") else "zero-output"
    parameters = [
        SleepParameters(leak=0.9, increase=inc, decrease=0.002, biases=biases)
        for inc in (0.01, 0.03)
    ]
    expected = [chain(seed, own, **options) for seed, own in enumerate(parameters)]
    diaries = [run_sleep([own], p, 60) for own, p in zip(expected, parameters, strict=True)]
    found = [chain(seed, own, **options) for seed, own in enumerate(parameters)]
    before = found[0].layers[0].weight().copy()
    counts = engine.run_batched(found, parameters, 60, "cpu")
    for ours, theirs, diary, count in zip(found, expected, diaries, counts, strict=True):
        np.testing.assert_array_equal(count, diary.counts.numpy())
        assert diary.counts[:, 2].sum() > 0
        for a, b in zip(ours.layers, theirs.layers, strict=True):
            np.testing.assert_array_equal(a.weight(), b.weight())
        for a, b in zip(ours.membranes, theirs.membranes, strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(ours.unit_counts, theirs.unit_counts, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(found[0].layers[0].weight(), before)


@interpreted
def test_ensembles_sleep_in_one_launch(monkeypatch):
    members = [
        MRNN((16, 20, 3), gain=3.0, generator=torch.Generator().manual_seed(seed))
        for seed in range(2)
    ]
    one, other = Ensemble(members), Ensemble(members)
    mean = torch.rand(16, generator=torch.Generator().manual_seed(5))
    options = {"parameters": SleepParameters(steps=40), "seeds": [3, 4]}
    expected = sleep_replay_ensemble(one, mean, **options)
    launches, run_batched = [], engine.run_batched

    def on_device(*arguments):
        launches.append(arguments)
        return run_batched(*arguments)

    monkeypatch.setattr(engine, "can_run_batched", lambda *_: True)
    monkeypatch.setattr(engine, "run_batched", on_device)
    found = sleep_replay_ensemble(other, mean, **options)
    assert len(launches) == 1
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.counts, b.counts)
    torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=0, atol=0)


def test_only_alike_networks_sleep_together():
    chains, parameters = [chain(0), chain(1)], [SleepParameters(), SleepParameters()]
    assert engine.can_run_batched(chains, parameters, "cuda")
    assert not engine.can_run_batched(chains, parameters, "cpu")
    assert not engine.can_run_batched(
        [chain(0), chain(1, plastic=(True, False))], parameters, "cuda"
    )
    for options in ({"gate_width": 0.1}, {"feedback": True}, {"plasticity": object()}):
        other = SleepParameters(**options)
        assert not engine.can_run_batched(chains, [parameters[0], other], "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_night():
    expected, found = chain(0), chain(0)
    parameters = SleepParameters(leak=0.9)
    diary = run_sleep([expected], parameters, 60)
    same = run_sleep([found], parameters, 60, "cuda")
    assert torch.equal(same.counts, diary.counts)
    for a, b in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(a.weight(), b.weight())


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from continual_ep.sleep.engines.triton import LANES, TILE
from continual_ep.sleep.engines.triton_kernels import sleep_units

types = dict.fromkeys(("weight", "mask", "membrane", "constant", "constants"), "*fp32")
types |= dict.fromkeys(("starts", "active"), "*i64") | dict.fromkeys(("spiking", "spikes"), "*u8")
types |= dict.fromkeys(("inputs", "units", "steps"), "i32") | {"limits": "*fp64"}
flags = dict(MASKED=True, CONSTANT=True, PLASTIC=True, LANES=LANES, TILE=TILE)
signature = {name: types.get(name, "constexpr") for name in sleep_units.arg_names}
source = ASTSource(fn=sleep_units, signature=signature, constexprs=flags)
options = {"num_warps": 1, "enable_fp_fusion": False}
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
assert "fma.rn.f32" not in compiled.asm["ptx"]  # it would round otherwise than the CPU
assert len(compiled.asm["cubin"]) > 0
"""


def test_the_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
