"""A command killed by SIGKILL goes on when it is given again, to the same numbers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from continual_ep.experiments.cells import CHECKPOINT, RESULT
from continual_ep.experiments.checkpoint import load_checkpoint
from continual_ep.experiments.config import config_from
from continual_ep.experiments.run import run

OPTIONS: dict[str, Any] = {
    "stream": {"experiences": [4, 3, 3], "per_class": 8},
    "network": {"hidden": [12]},
    "learning": [{"rule": "equilibrium-propagation", "free_steps": 8, "nudged_steps": 3}],
    # Long enough for the kill to arrive in the middle, also on a machine that is busy.
    "training": {"epochs": 25, "batch_size": 8, "momentum": 0.5, "learning_rates": 0.02},
    "sleep": {"steps": 60, "when": "every"},
    "mechanisms": {"er": {"per_class": 1}},
    "arms": ["sequential", "er+sleep"],
    "seeds": [0, 1],
}


def numbers(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: (folder / name).read_text() for name in ("results.csv", "summary.csv")
    }
    for path in folder.rglob(RESULT):
        result = json.loads(path.read_text())
        del result["seconds"]
        found[str(path.relative_to(folder))] = result
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in folder.rglob(CHECKPOINT):
        state = load_checkpoint(path)
        assert state is not None
        for name, value in state["model"].items():
            found[f"{path.relative_to(folder)}/{name}"] = value
    return found


def kill_at(command: list[str], moment: Callable[[list[str]], bool]) -> None:
    """Run a command and kill it by SIGKILL once the lines that it has printed say so."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if moment(lines):
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


def test_a_killed_command_resumes_with_the_same_command(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(config_from({**OPTIONS, "workers": 1, "out": str(whole)}), console=Console(file=StringIO()))

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**OPTIONS, "workers": 2, "out": str(killed)}))
    command = [sys.executable, "-m", "continual_ep", "run", str(file)]
    kill_at(command, lambda lines: "experience 1/3" in lines[-1])
    complete = {path.parent for path in killed.rglob(RESULT)}
    begun = {path.parent for path in killed.rglob(CHECKPOINT)} - complete
    assert len(complete) < 4, "it ended before it was killed"

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("resumed after experience") == len(begun)
    assert str(killed / "accuracy.png") in again.stdout
    # Two workers, killed once, or one without a break: the same.
    assert numbers(killed) == numbers(whole)
    one, other = weights(killed), weights(whole)
    assert one.keys() == other.keys() and len(one) > 0
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_arms_with_a_state_resume_after_a_kill(tmp_path: Path) -> None:
    arms = ["ewc+sleep", "owm", "agem:9", "icarl:20"]
    options = {**OPTIONS, "arms": arms, "seeds": [0], "learning": [{"rule": "backprop"}]}
    options["training"] = {**OPTIONS["training"], "epochs": 10}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(config_from({**options, "workers": 1, "out": str(whole)}), console=Console(file=StringIO()))

    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**options, "workers": len(arms), "out": str(killed)}))
    command = [sys.executable, "-m", "continual_ep", "run", str(file)]
    # All cells are trained at once; and most have a checkpoint when the third tells of its first.
    kill_at(command, lambda lines: sum("experience 1/3" in line for line in lines) == 3)
    complete = {path.parent for path in killed.rglob(RESULT)}
    assert len(complete) < len(arms), "it ended before it was killed"

    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert numbers(killed) == numbers(whole)
    one, other = weights(killed), weights(whole)
    assert one.keys() == other.keys() and len(one) > 0
    assert all(torch.equal(one[name], other[name]) for name in one)
