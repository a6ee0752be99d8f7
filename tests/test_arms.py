"""Arms: names, combinations, and what every mechanism promises."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch

from continual_ep.arms import (
    MECHANISMS,
    Assembly,
    kept_bytes,
    mechanism_class,
    parse_arm,
    parse_arms,
)
from continual_ep.arms.arm import label_without, split_names
from continual_ep.errors import ConfigurationError
from continual_ep.learning import CrossEntropy
from continual_ep.metrics import AccuracyMatrix
from continual_ep.networks import MLP
from continual_ep.plugins import BatchFeed
from continual_ep.strategies import make_optimizer, silent_evaluator
from continual_ep.streams import class_incremental

ALL_MECHANISMS = list(MECHANISMS)
#: Values with which a mechanism fits the few samples of these tests.
SMALL = {"er-ace": "er-ace:12", "der++": "der++:12", "gdumb": "gdumb:12", "icarl": "icarl:12"}


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", [2, 2], classes=4, seed=1, per_class=12)


def trained(benchmark, text, seed=0, epochs=2):
    """The strategy of an arm after both experiences, and the assembly."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = MLP([64, 16, 4], generator=torch.Generator().manual_seed(seed))
    optimizer = make_optimizer(model, 0.05)
    assembly = Assembly(model, optimizer, CrossEntropy(), benchmark, seed, 8, epochs)
    for mechanism in parse_arm(text).mechanisms.values():
        mechanism.install(assembly)
    matrix = AccuracyMatrix(benchmark.test_stream, baseline=False)
    assembly.plugins = [matrix, *assembly.plugins, BatchFeed()]
    strategy = assembly.strategy(silent_evaluator())
    if assembly.whole_stream:
        strategy.train(benchmark.train_stream)
    else:
        for experience in benchmark.train_stream:
            strategy.train(experience)
    return strategy, assembly, matrix


# -- names -------------------------------------------------------------------------------------------


def test_names_are_split_at_plus_signs_that_belong_to_no_name():
    assert split_names("der+++sleep") == ["der++", "sleep"]
    assert split_names("sleep+der++:200+ewc") == ["sleep", "der++:200", "ewc"]


def test_a_value_behind_the_colon_is_the_main_option():
    [mechanism] = parse_arm("er:50").mechanisms.values()
    assert mechanism.per_class == 50
    arm = parse_arm("owm:2+er", {"er": {"total": 30}})
    assert arm.mechanisms["owm"].strength == 2
    assert (arm.mechanisms["er"].total, arm.mechanisms["er"].per_class) == (30, None)


def test_the_old_name_of_experience_replay_still_works():
    assert parse_arm("rehearsal+sleep").label == "er+sleep"
    assert parse_arm("rehearsal+sleep").mechanisms == parse_arm("er+sleep").mechanisms


def test_the_arm_without_sleep():
    assert label_without("ewc:10+sleep", "sleep") == "ewc:10"
    assert label_without("sleep:downscaling", "sleep") == "sequential"
    assert label_without("ewc", "sleep") is None
    assert label_without("der+++sleep", "sleep") == "der++"


def test_another_sleep_algorithm_takes_when_and_where_only():
    options = {"sleep": {"steps": 50, "when": "last"}, "sleep:downscaling": {"exclude": ["head"]}}
    [sleep] = parse_arm("sleep:downscaling", options).mechanisms.values()
    assert sleep.algorithm == "downscaling"
    assert (sleep.when, sleep.exclude) == ("last", ("head",))


def test_mechanisms_are_installed_in_one_order():
    assert list(parse_arm("sleep+er").mechanisms) == list(parse_arm("er+sleep").mechanisms)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no name"),
        ("ewcc", "did you mean 'ewc'"),
        ("er:0", "per_class.*given: 0"),
        ("er:-1", "per_class"),
        ("er:many", "per_class"),
        ("er:", "give er's per_class"),
        ("ewc:0", "given: 0"),
        ("ewc:.nan", "ewc"),
        ("ewc:null", "ewc"),
        ("owm:0", "strength"),
        ("labels-trick:3", "takes no value"),
        ("sequential:1", "takes no value"),
        ("sequential+sleep", "cannot be combined"),
        ("ewc+ewc:5", "names ewc twice"),
        ("ewc+", "unknown mechanism"),
        ("ncm+sleep", "without a trained network"),
        ("er+gdumb", "cannot be combined"),
        ("owm+agem", "both project the gradient"),
        ("joint+er", "cannot be combined"),
        ("er+labels-trick", "labels-trick"),
        ("sleep:nap", "unknown"),
        ("random-features:100000", "units"),
    ],
)
def test_an_arm_that_cannot_work_is_refused_with_the_reason(text, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_arm(text)


@pytest.mark.parametrize("texts", [["er", "er"], ["er:2", "er"], ["sleep+er", "er+sleep"]])
def test_arms_that_repeat_are_refused(texts):
    with pytest.raises(ConfigurationError, match="more than once"):
        parse_arms(texts)


def test_unknown_options_of_a_mechanism_name_the_closest():
    with pytest.raises(ConfigurationError, match="did you mean 'per_class'"):
        parse_arm("er", {"er": {"per_clas": 3}})


# -- every mechanism ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_MECHANISMS)
def test_every_mechanism_is_described(name):
    kind = mechanism_class(name)
    assert len((kind.__doc__ or "").split()) > 10
    assert kind.main is None or kind.main in parse_arm(name).mechanisms[name].settings()
    assert all(isinstance(flag, bool) for flag in parse_arm(name).needs)


@pytest.mark.parametrize("name", ALL_MECHANISMS)
def test_every_mechanism_trains_and_saves_its_state_as_plain_values(name, benchmark):
    strategy, assembly, matrix = trained(benchmark, SMALL.get(name, name))
    assert 0.0 <= matrix.pooled_asleep[-1] <= 1.0
    for parameter in strategy.model.parameters():
        assert torch.isfinite(parameter).all()
    states = {key: state.state_dict() for key, state in assembly.states.items()}
    file = io.BytesIO()
    torch.save(states, file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == states.keys()
    kept = sum(kept_bytes(state) for state in assembly.states.values())
    if parse_arm(SMALL.get(name, name)).needs.samples:
        assert kept >= 4 * (64 * 4)  # at least one sample of each class


@pytest.mark.parametrize("name", ALL_MECHANISMS)
def test_every_mechanism_repeats_itself(name, benchmark):
    first, second = (trained(benchmark, SMALL.get(name, name))[0].model for _ in range(2))
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["joint", "cumulative", "er:12", "icarl:48", "gdumb:48", "ncm"])
def test_what_keeps_data_or_sums_remembers(name, benchmark):
    sequential = trained(benchmark, "sequential", epochs=15)[2].asleep[-1][0]
    assert trained(benchmark, name, epochs=15)[2].asleep[-1][0] > sequential + 0.3


def test_names_of_arms_do_not_import_avalanche():
    code = (
        "import sys; from continual_ep.arms import parse_arm, MECHANISMS\n"
        "[parse_arm(name) for name in MECHANISMS]\n"
        "assert not {'avalanche', 'torchvision', 'sklearn'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
