"""The configuration: what it accepts, what it refuses and how it says so."""

import importlib
import inspect
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from continual_ep.arms import MECHANISMS, mechanism_class
from continual_ep.citations import citation
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.build import build_network
from continual_ep.experiments.config import (
    NetworkEntry,
    RunConfig,
    config_from,
    read_yaml,
    seeds_from,
)
from continual_ep.experiments.options import TrainingOptions
from continual_ep.experiments.overrides import (
    assign,
    choose_learning,
    parsed_assignment,
)
from continual_ep.experiments.reference import all_options, markdown_table
from continual_ep.experiments.run import run
from continual_ep.features import Images
from continual_ep.learning import LEARNING_RULES
from continual_ep.networks import ACTIVATIONS, FEEDFORWARD_ACTIVATIONS, NETWORKS
from continual_ep.options import (
    Choice,
    Options,
    OptionsError,
    group_of,
    option_fields,
    options_from,
    plain_values,
)
from continual_ep.relaxation import TimeSteps
from continual_ep.sleep import SleepParameters
from continual_ep.strategies import BPTTStrategy, EPStrategy


def test_the_defaults_are_the_demo() -> None:
    config = RunConfig()
    assert (config.stream.name, config.stream.experiences) == ("digits", 5)
    assert [entry.rule for entry in config.learning] == ["equilibrium-propagation", "bptt"]
    assert config.arms == ["sequential", "sleep", "er", "er+sleep"]
    assert config.mechanisms == {} and config.sleep.algorithm == "src"
    assert config.seeds == [0, 1, 2, 3, 4]


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
    assert list(yaml.safe_load(config.to_yaml())) == [f.name for f in option_fields(RunConfig)]


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
        (
            {"learning": {"rule": "bptt", "beta": 0.1}},
            ["learning.0: 'beta' is an option of rule equilibrium-propagation", "not of bptt"],
        ),
        ({"learning": {"beta": 0.1}}, ["learning.0", "rule is missing", "equilibrium-propagation"]),
        ({"learning": []}, ["learning", "at least 1"]),
        (
            {"learning": {"rule": "equilibrium-propagation", "beta": [0.1, 0.2]}},
            ["learning.0.beta", "give one number"],
        ),
        ({"learning": ["bptt", "bptt"]}, ["label"]),
        ({"arms": ["nap"]}, ["unknown mechanism 'nap'", "sequential", "labels-trick"]),
        ({"arms": ["sleep"], "sleep": None}, ["'sleep'", "null"]),
        ({"seeds": "3:1"}, ["seeds", "0:3"]),
        ({"seeds": [1, 1]}, ["seeds", "1 given more than once"]),
        ({"seeds": []}, ["seeds", "at least 1"]),
        ({"device": "gpu"}, ["device", "cuda:N"]),
        ({"evaluate": "validation"}, ["stream.validation"]),
        ({"network": {"kind": "mlp"}}, ["network.kind", "equilibrium-propagation", "mrnn"]),
        ({"network": {"kind": "mrnn", "dropout": 0.5}}, ["dropout", "mlp"]),
        ({"network": {"activation": "relu"}}, ["network.activation", "'hard-sigmoid'", "relu"]),
        ({"network": {"kind": "mrnn", "residuals": True}}, ["residuals", "feedback-regulated"]),
        ({"network": {"kind": "dendritic", "gain": 2.0}}, ["gain", "mrnn"]),
        (
            {"network": {"kind": "dendritic", "convolutions": {"kernel": 3}}},
            ["convolutions", "convolutional"],
        ),
        ({"network": {"dt": 0.5, "time_steps": {}}}, ["either dt or time_steps"]),
        ({"network": {"feedback": "none"}}, ["network.feedback", "'tied'"]),
        ({"network": {"kind": "mlpp"}}, ["network.kind", "did you mean 'mlp'"]),
        ({"learning": {"rule": "bptt", "free_stepps": 3}}, ["did you mean 'free_steps'"]),
        ({"learning": ["bptt", {"rule": "bptt", "label": "/"}]}, ["learning.1.label"]),
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
        ({"workers": "many"}, "workers: must be a valid integer"),
        ({"stream": {"experiences": "few"}}, "stream.experiences: must be a valid integer"),
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
    [arm] = config_from({"rehearsal": {"total": 30}, "arms": "er"}).parsed_arms()
    assert arm.mechanisms["er"].per_class is None  # type: ignore[attr-defined]


def test_switching_sleep_off_removes_its_arms() -> None:
    assert config_from({"sleep": None}).arms == ["sequential", "er"]
    assert config_from({"sleep": None, "rehearsal": None}).arms == ["sequential"]


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
    before = RunConfig().learning[0].options.free_steps
    assert config.stream.experiences == 2
    assert config.sleep is not None and config.sleep.options.steps == 7
    assert [entry.options.free_steps for entry in config.learning] == [before, 4]
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
    assert config.learning[1].options.free_steps == 3


@pytest.mark.parametrize("content", ["a: [", "\x00"])
def test_a_file_that_is_not_yaml(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"broken\.yaml"):
        read_yaml(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", LEARNING_RULES)
def test_defaults_of_a_rule_are_those_of_its_constructor(name: str) -> None:
    entry = config_from({"learning": name}).learning[0]
    assert entry.options == LEARNING_RULES[name]()
    signature = inspect.signature(LEARNING_RULES[name])
    defaults = {key: value.default for key, value in signature.parameters.items()}
    values = plain_values(entry)
    assert {key: values[key] for key in defaults} == defaults
    assert set(values) == {"rule", "label", "learning_rates", *defaults}


@pytest.mark.parametrize("kind", NETWORKS)
def test_defaults_of_a_network_are_those_of_its_constructor(kind: str) -> None:
    positional, keywords = NetworkEntry(kind).options.arguments(784, 10, (28, 28))
    signature = inspect.signature(NETWORKS[kind])
    defaults = {
        key: list(value.default) if isinstance(value.default, tuple) else value.default
        for key, value in signature.parameters.items()
        if value.default is not inspect.Parameter.empty
        and key not in ("learning", "generator", "relaxation", "order", "dt")
    }
    settling = keywords.pop("relaxation", None)
    assert keywords == defaults
    network = NETWORKS[kind](*positional)
    assert getattr(network, "relaxation", None) == settling


@pytest.mark.parametrize("strategy", [EPStrategy, BPTTStrategy])
def test_defaults_of_a_strategy_are_those_of_a_run(strategy: Any) -> None:
    model = strategy(sizes=[64, 512, 10], evaluator=None).model
    learning = next(e for e in RunConfig().learning if type(e.options) is type(model.learning))
    assert model.learning == learning.options
    generator = torch.Generator()
    built = build_network(RunConfig().network, learning, 64, 10, generator)
    assert repr(model) == repr(built)
    assert float(model.weights[0].detach().max()) < 0.45 / 64**0.5


def test_options_of_mechanisms_are_checked_where_they_stand() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'per_class'"):
        config_from({"mechanisms": {"er": {"per_clas": 3}}})
    with pytest.raises(ConfigurationError, match="did you mean 'ewc'"):
        config_from({"mechanisms": {"ewcc": {}}})
    with pytest.raises(ConfigurationError, match="stand in the group sleep"):
        config_from({"mechanisms": {"sleep": {"steps": 3}}})
    config = config_from({"mechanisms": {"er:5": {"selection": "herding"}}, "arms": "er:5,er:7"})
    five, seven = (arm.mechanisms["er"] for arm in config.parsed_arms())
    assert (five.selection, seven.selection) == ("herding", "class-balanced")  # type: ignore[attr-defined]


def test_names_are_those_of_the_registries() -> None:
    assert set(NetworkEntry.choices()) == {"auto", *NETWORKS}
    for name, group in NetworkEntry.choices().items():
        hint = get_type_hints(group)["activation"]
        known = FEEDFORWARD_ACTIVATIONS if name in ("auto", "mlp", "cnn") else ACTIVATIONS
        literals = [part for part in (hint, *get_args(hint)) if get_origin(part) is Literal]
        words = {word for literal in literals for word in get_args(literal)}
        assert words == set(known) - {"identity"}


def _groups() -> list[type[Options]]:
    """Every group of a configuration."""
    hints = get_type_hints(RunConfig)
    groups: list[type[Options]] = [RunConfig, Images, TimeSteps]
    for hint in hints.values():
        group = group_of(hint)
        if group is not None and issubclass(group, Choice):
            groups += group.choices().values()
        elif group is not None:
            groups.append(group)
    return groups + [mechanism_class(name) for name in MECHANISMS if name != "sleep"]


@pytest.mark.parametrize("group", _groups(), ids=lambda group: group.__name__)
def test_a_misspelt_key_names_the_closest_of_its_group(group: type[Options]) -> None:
    for field in option_fields(group):
        with pytest.raises(OptionsError, match=f"did you mean '{field.name}'"):
            options_from(group, {f"{field.name}_": 1})


def _values(hint: Any, bounds: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values as a file holds them for an annotation."""
    origin, arguments = get_origin(hint), get_args(hint)
    group = group_of(hint)
    if origin is Annotated:
        return _values(arguments[0], {**bounds, **dict(arguments[1:])})
    if group is not None and origin is None and group is not SleepParameters:
        return _plain(group)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (list, tuple):
        return st.lists(_values(arguments[0], bounds), min_size=1, max_size=3)
    if arguments and origin is not dict:
        # A preset may be an object and replay inputs a function, in Python only.
        plain = [part for part in arguments if part is not SleepParameters]
        plain = [part for part in plain if get_origin(part) is not Callable]
        return st.one_of(*(_values(part, bounds) for part in plain))
    low = bounds.get("ge", bounds.get("gt", 0))
    high = bounds.get("le", bounds.get("lt", low + 5))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        str: st.sampled_from(["one", "two"]),
        int: st.integers(int(low) + ("gt" in bounds), int(high)),
        float: st.floats(low, high, exclude_min="gt" in bounds, exclude_max="lt" in bounds),
        type(None): st.none(),
    }
    return simple.get(hint, st.just({}))


def _plain(group: type[Options]) -> st.SearchStrategy[dict[str, Any]]:
    hints = get_type_hints(group, include_extras=True)
    fields = {
        field.name: _values(hints[field.name], field.metadata["constraints"])
        for field in option_fields(group)
    }
    return st.fixed_dictionaries({}, optional=fields)


@pytest.mark.parametrize("group", _groups()[1:], ids=lambda group: group.__name__)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_values_survive_yaml(group: type[Options], data: st.DataObject) -> None:
    try:
        made = options_from(group, data.draw(_plain(group)))
    except OptionsError:  # combinations that cannot work
        assume(False)
    text = yaml.safe_dump(plain_values(made))
    again = options_from(group, yaml.safe_load(text))
    assert again == made
    assert yaml.safe_dump(plain_values(again)) == text


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rule=st.sampled_from(list(LEARNING_RULES)),
    kind=st.sampled_from(["auto", *NETWORKS]),
    data=st.data(),
)
def test_a_configuration_survives_yaml(rule: str, kind: str, data: st.DataObject) -> None:
    values = {
        "learning": {"rule": rule, **data.draw(_plain(LEARNING_RULES[rule]))},
        "network": {"kind": kind, **data.draw(_plain(NetworkEntry.choices()[kind]))},
        "training": data.draw(_plain(TrainingOptions)),
    }
    try:
        config = config_from(values)
    except ConfigurationError:
        assume(False)
    assert config_from(yaml.safe_load(config.to_yaml())) == config


RULE = """
from dataclasses import dataclass

from continual_ep.learning import RecurrentRule
from continual_ep.learning.rule import SecondPhaseRule
from continual_ep.options import option


@dataclass(frozen=True)
class DampedRule(SecondPhaseRule):
    \"\"\"A rule of the tests: the exact rule, damped.\"\"\"

    kinds = ("mrnn",)
    sources = ("pineda1987",)

    free_steps: int = option(15, "of the free phase", ge=1)
    damping: float = option(0.5, "in front of all gradients", gt=0, le=1)
    tolerance: None = option(None, "none")

    def gradients(self, phase, output_gradient):
        found, to_input = phase.clamped.parameter_vjp(
            [*[s * 0 for s in phase.states[:-1]], output_gradient], phase.states
        )
        return [self.damping * gradient for gradient in found], to_input
"""


def test_a_rule_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damped.py").write_text(RULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LEARNING_RULES, "damped", importlib.import_module("damped").DampedRule)

    values = {"learning": [{"rule": "damped", "damping": 0.25}], "arms": ["sequential"], "seeds": 0}
    small = {"stream": {"experiences": 2, "per_class": 5}, "training": {"epochs": 1}}
    config = config_from({**values, **small, "out": str(tmp_path / "run")})
    assert config_from(yaml.safe_load(config.to_yaml())) == config
    with pytest.raises(ConfigurationError, match="must be less than or equal to 1"):
        config_from({"learning": {"rule": "damped", "damping": 2}})
    with pytest.raises(ConfigurationError, match="did you mean 'damping'"):
        config_from({"learning": {"rule": "damped", "dampnig": 1}})
    assert "| `learning.N.damping` | number | `0.5` | in front of" in markdown_table("learning")
    assert citation("damped").startswith("@article{pineda1987,")

    run(config, console=Console(file=StringIO()))
    result = json.loads(next((tmp_path / "run").rglob("result.json")).read_text())
    assert result["learning"] == "damped" and result["settings"]["learning.damping"] == 0.25


def test_the_documentation_lists_every_option() -> None:
    for option in all_options():
        assert option.meaning, f"{option.name} has no description"
    page = (Path(__file__).parents[1] / "docs" / "experiments.md").read_text()
    listed = page.partition("<!-- options -->")[2].partition("<!-- end of options -->")[0]
    assert listed.strip() == markdown_table(), (
        "docs/experiments.md is out of date: replace its table by the output of continual-ep options"
    )


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "continual_ep/presets").glob("*.yaml")), ids=str
)
def test_presets_are_configurations_that_build(path: Path) -> None:
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
