"""The configuration: what it accepts, what it refuses and how it says so."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from continual_ep.errors import ConfigurationError
from continual_ep.experiments.config import RunConfig, config_from, read_yaml, seeds_from
from continual_ep.experiments.overrides import (
    assign,
    choose_learning,
    parsed_assignment,
    switch,
)


def test_the_defaults_are_the_demo() -> None:
    config = RunConfig()
    assert (config.stream.name, config.stream.experiences) == ("digits", 5)
    assert [entry.rule for entry in config.learning] == ["equilibrium-propagation", "bptt"]
    assert config.arms == ["sequential", "sleep", "rehearsal", "rehearsal+sleep"]
    assert config.rehearsal is not None and config.rehearsal.per_class == 2
    assert config.seeds == [0, 1, 2]


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = config_from(
        {
            "stream": {"experiences": 2},
            "learning": [{"rule": "bptt", "free_steps": 9}],
            "sleep": None,
        }
    )
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert config_from(read_yaml(path)) == config
    assert set(yaml.safe_load(config.to_yaml())) == set(RunConfig.model_fields)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"straem": {}}, ["unknown key 'straem'", "did you mean 'stream'", "learning"]),
        ({"stream": {"experience": 2}}, ["stream", "did you mean 'experiences'"]),
        ({"stream": {"scenario": "blurry"}}, ["stream.scenario", "'domain-incremental'"]),
        ({"stream": {"overlap": 3.0}}, ["overlap belongs to online"]),
        ({"stream": {"online": 10}}, ["one pass", "training.epochs is 4"]),
        ({"stream": {"domains": "permuted"}}, ["domains belongs to scenario domain-incremental"]),
        ({"stream": {"name": ["digits", "mnist"]}}, ["several names"]),
        (
            {"stream": {"scenario": "domain-incremental", "class_order": [1, 0]}},
            ["class_order belongs to scenario class-incremental"],
        ),
        (
            {"stream": {"scenario": "domain-incremental", "experiences": [1, 2]}},
            ["a number, not a list"],
        ),
        ({"stream": {"images": {"on_corrupt": "shrug"}}}, ["stream.images.on_corrupt", "'skip'"]),
        ({"stream": {"images": {"sise": 3}}}, ["stream.images", "did you mean 'size'"]),
        ({"stream": {"experiences": 0}}, ["stream.experiences", "greater than or equal to 1"]),
        ({"learning": "hebb"}, ["'hebb'", "equilibrium-propagation", "backprop"]),
        ({"learning": {"rule": "bptt", "beta": 0.1}}, ["learning.0", "'beta'", "free_steps"]),
        ({"learning": {"beta": 0.1}}, ["no rule", "equilibrium-propagation"]),
        ({"learning": []}, ["learning", "at least 1"]),
        ({"learning": ["bptt", "bptt"]}, ["label"]),
        ({"arms": ["nap"]}, ["arms.0", "'sequential'", "'rehearsal+sleep'"]),
        ({"arms": ["sleep"], "sleep": None}, ["'sleep'", "null"]),
        ({"seeds": "3:1"}, ["seeds", "0:3"]),
        ({"seeds": [1, 1]}, ["seeds", "1 given more than once"]),
        ({"seeds": []}, ["seeds", "at least 1"]),
        ({"device": "gpu"}, ["device", "cuda:N"]),
        ({"evaluate": "validation"}, ["stream.validation"]),
        ({"network": {"kind": "mlp"}}, ["network.kind", "equilibrium-propagation", "mrnn"]),
        ({"network": {"kind": "mrnn", "dropout": 0.5}}, ["dropout", "mlp"]),
        ({"network": {"activation": "relu"}}, ["relu", "bounded"]),
        ({"network": {"kind": "mrnn", "residuals": True}}, ["residuals", "feedback-regulated"]),
        ({"network": {"kind": "dendritic", "gain": 2.0}}, ["gain", "mrnn"]),
        (
            {"network": {"kind": "dendritic", "convolutions": {"kernel": 3}}},
            ["convolutions", "convolutional"],
        ),
        ({"network": {"dt": 0.5, "time_steps": {}}}, ["either dt or time_steps"]),
        ({"network": {"feedback": "none"}}, ["feedback none"]),
        (
            {"learning": "contrastive-hebbian", "network": {"readout": "softmax"}},
            ["no softmax readout"],
        ),
        ({"rehearsal": {"per_class": 2, "total": 5}}, ["either per_class or total"]),
        ({"training": {"optimizer": "adam", "momentum": 0.9}}, ["momentum", "sgd"]),
        ({"training": {"learning_rates": [0.1]}}, ["learning_rates", "2 synapse layers"]),
        ({"training": {"batch_size": 2.5}}, ["training.batch_size", "integer"]),
        ([1, 2], ["list", "stream"]),
    ],
)
def test_impossible_values_are_refused_with_what_is_allowed(
    values: object, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_from(values)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"workers": "many"}, "workers: Input should be a valid integer"),
        ({"stream": {"experiences": "few"}}, "stream.experiences: Input should be a valid integer"),
    ],
)
def test_one_line_for_each_mistake(values: object, line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_from(values)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 1 and lines[0].strip().startswith(line)


def test_streams_have_short_names() -> None:
    for name, title in (
        ("arrays:/data/mine.npz", "mine"),
        ("image-folder:/data/birds/", "birds"),
        ("here.npz", "here"),
    ):
        assert config_from({"stream": {"name": name}}).stream.title == title
    both = {"name": ["mnist", "fashion-mnist"], "scenario": "domain-incremental"}
    assert config_from({"stream": both}).stream.title == "mnist+fashion-mnist"


def test_where_features_are_kept_changes_no_number() -> None:
    here, there = (
        config_from({"stream": {"images": {"size": 8, "cache": cache, "batch_size": size}}})
        for cache, size in (("a", 1), ("b", 2))
    )
    other = config_from({"stream": {"images": {"size": 9}}})
    assert here.digest() == there.digest() != other.digest()


def test_seeds_and_shorthands() -> None:
    assert seeds_from("0:3") == [0, 1, 2]
    assert config_from({"seeds": "4"}).seeds == config_from({"seeds": 4}).seeds == [4]
    assert config_from({"learning": "backprop"}).learning[0].rule == "backprop"
    assert config_from({"rehearsal": {"total": 30}}).rehearsal.per_class is None  # type: ignore[union-attr]


def test_switching_sleep_off_removes_its_arms() -> None:
    assert config_from({"sleep": None}).arms == ["sequential", "rehearsal"]
    assert config_from({"sleep": None, "rehearsal": None}).arms == ["sequential"]
    values: dict[str, object] = {"arms": ["sleep", "sequential"]}
    switch(values, "sleep", "off")
    assert config_from(values).arms == ["sequential"]


def test_the_folder_is_named_by_what_changes_numbers() -> None:
    config = RunConfig()
    same = config_from({"workers": 1, "tensorboard": True, "stream": {"root": "elsewhere"}})
    other = config_from({"stream": {"order_seed": 1}})
    assert config.folder() == same.folder() == Path("runs") / f"digits-{config.digest()}"
    assert other.folder() != config.folder()
    assert config_from({"out": "here"}).folder() == Path("here")


def test_dotted_assignments() -> None:
    values: dict[str, object] = {"sleep": None}
    for text in ("stream.experiences=2", "sleep.steps=7", "learning.1.free_steps=4", "seeds=0:2"):
        keys, value = parsed_assignment(text)
        assign(values, keys, value)
    config = config_from(values)
    before = RunConfig().learning[0].free_steps  # type: ignore[union-attr]
    assert config.stream.experiences == 2
    assert config.sleep is not None and config.sleep.steps == 7
    assert [entry.free_steps for entry in config.learning] == [before, 4]  # type: ignore[union-attr]
    assert config.seeds == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stream", "KEY=VALUE"),
        ("learning.beta=1", "is a list"),
        ("learning.7.beta=1", "0 to 1"),
        ("device.x=1", "no keys of its own"),
        ("stream.name=[", "not a YAML value"),
    ],
)
def test_impossible_assignments(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        keys, value = parsed_assignment(text)
        assign({"device": "cpu"}, keys, value)


def test_choosing_a_rule_keeps_the_parameters_it_has() -> None:
    values: dict[str, object] = {"learning": [{"rule": "bptt", "free_steps": 3}]}
    choose_learning(values, ["backprop", "bptt"])
    config = config_from(values)
    assert [entry.rule for entry in config.learning] == ["backprop", "bptt"]
    assert config.learning[1].free_steps == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("content", ["a: [", "\x00"])
def test_a_file_that_is_not_yaml(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"broken\.yaml"):
        read_yaml(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        read_yaml(tmp_path / "none.yaml")


def test_every_parameter_of_a_rule_can_be_configured() -> None:
    from continual_ep.experiments.rule_options import RULES, RuleOptions
    from continual_ep.learning import LEARNING_RULES

    assert set(RULES) == set(LEARNING_RULES)
    for name, options in RULES.items():
        own = set(options.model_fields) - set(RuleOptions.model_fields) - {"rule"}
        assert own == {field.name for field in dataclasses.fields(LEARNING_RULES[name])}


def test_every_constant_of_the_sleep_can_be_configured() -> None:
    from continual_ep.experiments.options import SleepOptions
    from continual_ep.options import option_fields
    from continual_ep.plugins import SleepReplay
    from continual_ep.sleep.parameters import SleepParameters

    plugin = {"when", "preset", "dreams", "hold", "exclude", "diary"}
    constants = {field.name for field in option_fields(SleepParameters)}
    assert set(SleepOptions.model_fields) == plugin | constants
    options = SleepOptions(window="whole", quiet_steps="never", thresholds=[1.0, 2.0], leak=0.5)
    assert options.constants() == {
        "window": None,
        "quiet_steps": None,
        "thresholds": (1.0, 2.0),
        "leak": 0.5,
    }
    assert SleepReplay(**options.constants()).algorithm.leak == 0.5


def test_names_are_those_of_the_registries() -> None:
    from typing import get_args

    from continual_ep.experiments.network_options import NetworkOptions
    from continual_ep.networks import NETWORKS
    from continual_ep.relaxation.activations import FEEDFORWARD_ACTIVATIONS

    kinds = get_args(NetworkOptions.model_fields["kind"].annotation)
    assert set(kinds) == {"auto", *NETWORKS}
    literal, none = get_args(NetworkOptions.model_fields["activation"].annotation)
    assert set(get_args(literal)) == set(FEEDFORWARD_ACTIVATIONS) and none is type(None)


def test_the_documentation_lists_every_option() -> None:
    from continual_ep.experiments.reference import all_options, markdown_table

    for option in all_options():
        assert option.meaning, f"{option.name} has no description"
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    listed = page.partition("<!-- options -->")[2].partition("<!-- end of options -->")[0]
    assert listed.strip() == markdown_table(), (
        "docs/experiments.md is out of date: replace its table by the output of continual-ep options"
    )


def test_checking_a_configuration_does_not_import_torch() -> None:
    code = "import sys, continual_ep.experiments.overrides; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "continual_ep/presets").glob("*.yaml")), ids=str
)
def test_presets_are_configurations_that_build(path: Path) -> None:
    import torch

    from continual_ep.experiments.build import build_network

    config = config_from(read_yaml(path), str(path))
    image = (3, 32, 32) if config.stream.name == "cifar10" else (28, 28)
    inputs = 3072 if config.stream.name == "cifar10" else 784
    network = build_network(
        config.network, config.learning[0], inputs, 10, torch.Generator(), image
    )
    x = torch.rand(2, inputs)
    if hasattr(network, "settle"):
        assert network.read(network.settle(x, steps=2).states[-1]).shape == (2, 10)
    else:
        assert network(x).shape == (2, 10)
