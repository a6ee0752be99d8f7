"""The diffs of docs/extending.md fit the registries, and what they add works."""

import ast
import re
import sys
import types
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from continual_ep.arms import MECHANISMS
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.config import config_from
from continual_ep.experiments.run import run
from continual_ep.learning import LEARNING_RULES, Backprop
from continual_ep.networks import MLP
from continual_ep.sleep import SLEEP_ALGORITHMS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
REGISTRIES = {
    "continual_ep/arms/registry.py": MECHANISMS,
    "continual_ep/sleep/registry.py": SLEEP_ALGORITHMS,
    "continual_ep/learning/__init__.py": LEARNING_RULES,
}
SMALL = {
    "stream": {"classes": 4, "experiences": 2, "per_class": 20},
    "network": {"hidden": [16]},
    "training": {"epochs": 2},
    "sleep": {"steps": 100},
    "learning": "backprop",
    "seeds": 0,
    "workers": 1,
}


def patches():
    """``(path, is new, lines with their first character)`` of every part of every diff."""
    parts = []
    for block in re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL):
        for old, path, body in re.findall(
            r"--- (\S+)\n\+\+\+ b/(\S+)\n((?:[+ ].*\n|\+\n)*)", block
        ):
            parts.append((path, old == "/dev/null", body.splitlines()))
    return parts


NEW_FILES = [(path, lines) for path, is_new, lines in patches() if is_new]
CHANGES = [(path, lines) for path, is_new, lines in patches() if not is_new]


def test_there_are_three_new_files_and_one_entry_in_each_registry():
    assert len(NEW_FILES) == 3
    entries = [path for path, lines in CHANGES if lines[-1].endswith(",")]
    assert Counter(entries) == Counter(list(REGISTRIES))


@pytest.mark.parametrize(("path", "lines"), CHANGES)
def test_the_context_of_a_change_is_in_the_file(path, lines):
    context = "\n".join(line[1:] for line in lines if line.startswith(" "))
    assert context and context in (ROOT / path).read_text()


@pytest.mark.parametrize(("path", "lines"), NEW_FILES)
def test_examples_are_short(path, lines):
    assert len(lines) <= 45
    assert max(len(line) for line in lines) <= 101


@pytest.fixture
def examples(monkeypatch):
    """Add the files of the page as modules, and their lines to the registries."""
    names = {}
    for path, lines in NEW_FILES:
        name = path.removesuffix(".py").replace("/", ".")
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile("\n".join(line[1:] for line in lines), path, "exec"), module.__dict__)
        names |= vars(module)
    for path, lines in CHANGES:
        added = lines[-1][1:].strip()
        if added.endswith(","):
            key, value = added.rstrip(",").split(": ")
            place = ast.literal_eval(value)
            # Mechanisms are found by their text when they are used, the others when loaded.
            entry = place if REGISTRIES[path] is MECHANISMS else names[place.partition(":")[2]]
            monkeypatch.setitem(REGISTRIES[path], ast.literal_eval(key), entry)
    return names


def ran(values, folder):
    config = config_from({**SMALL, **values, "out": str(folder)})
    return run(config, console=Console(file=StringIO()))


def test_the_mechanism_holds_weights_and_counts_its_bytes(examples, tmp_path):
    comparison = ran({"arms": ["sequential", "anchor:0.5", "anchor+sleep"]}, tmp_path / "run")
    kept = {group.arm: group.kept_bytes for group in comparison.groups}
    weights = 4 * (64 * 16 + 16 * 4)
    assert kept["anchor:0.5"] == weights and kept["anchor+sleep"] > weights
    states = [
        torch.load(tmp_path / "run" / "backprop" / arm / "seed-0" / "checkpoint.pt")["model"]
        for arm in ("sequential", "anchor:0.5")
    ]
    assert not torch.equal(states[0]["weights.0"], states[1]["weights.0"])
    with pytest.raises(ConfigurationError, match="strength"):
        config_from({**SMALL, "arms": ["anchor:0"]})


def test_the_sleep_algorithm_runs_as_an_arm(examples, tmp_path):
    options = {"sleep:homeostasis": {"inhibition": 0.2}}
    arms = ["sequential", "sleep:homeostasis"]
    comparison = ran({"arms": arms, "mechanisms": options}, tmp_path / "run")
    assert [group.arm for group in comparison.groups] == arms
    assert comparison.groups[1].kept_bytes > 0


def test_the_learning_rule_learns(examples, tmp_path):
    values = {"learning": "sign-symmetry", "arms": ["joint"], "training": {"epochs": 20}}
    [group] = ran(values, tmp_path / "run").groups
    assert group.interval("pooled_accuracy").mean > 0.6  # chance is 0.25


def test_the_learning_rule_is_exact_at_the_top_and_agrees_in_sign_below(examples):
    x, y = torch.rand(8, 6), torch.randint(3, (8,))
    gradients = []
    for rule in (examples["SignSymmetry"](), Backprop()):
        drawn = torch.Generator().manual_seed(0)
        network = MLP([6, 5, 3], bias=True, learning=rule, generator=drawn)
        torch.nn.functional.cross_entropy(network(x), y).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    (first, top, below, above), exact = gradients
    torch.testing.assert_close(top, exact[1])
    torch.testing.assert_close(above, exact[3])
    assert (first * exact[0]).sum() > 0 and (below * exact[2]).sum() > 0
