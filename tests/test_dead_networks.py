"""A network that answers nothing is reported, not given an accuracy in silence."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from continual_ep.experiments.config import config_from
from continual_ep.experiments.dead import dead_network
from continual_ep.experiments.run import run
from continual_ep.streams import class_incremental

TINY: dict[str, Any] = {
    "stream": {"experiences": [5, 5], "per_class": 6},
    "network": {"hidden": [8]},
    "learning": [{"rule": "backprop"}],
    "arms": ["sequential", "sleep", "ncm"],
    "sleep": {"steps": 20, "when": "every"},
    "seeds": [0],
    "workers": 1,
}


class Strategy:
    device = torch.device("cpu")

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def linear(weight: float = 0.0, bias: float = 0.0, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    model = nn.Linear(64, 10)
    model.weight.data *= weight
    model.bias.data[3] = bias
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (linear(1.0), None),
        (linear(0.0), "do not depend on the input"),
        (linear(1.0, bias=100.0), "answers output 3 to every sample"),
        (linear(float("nan")), "outputs are NaN"),
    ],
)
def test_reasons(model: nn.Module, words: str | None) -> None:
    stream = class_incremental("digits", 2, per_class=5).test_stream
    state = torch.get_rng_state()
    reason = dead_network(Strategy(model), stream)
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert reason is None if words is None else words in str(reason)


def test_one_class_at_a_time_may_answer_one_class() -> None:
    stream = class_incremental("digits", 10, per_class=5).test_stream
    assert dead_network(Strategy(linear(1.0, bias=100.0)), stream) is None


@pytest.mark.parametrize("rate", [0.05, 1e30])
def test_a_run_names_dead_networks_and_its_results_do(tmp_path: Path, rate: float) -> None:
    out = StringIO()
    config = config_from({**TINY, "out": str(tmp_path), "training": {"learning_rates": rate}})
    comparison = run(config, console=Console(file=out, width=200))
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    dead = {result["arm"] for result in results if result["dead"]}
    assert dead == (set() if rate < 1 else {"sequential", "sleep"})
    assert len(comparison.dead) == len(dead)
    assert ("dead network: " in out.getvalue()) == bool(dead)
    slept = next(result for result in results if result["arm"] == "sleep")
    assert len(slept["nights"]) == 2 and all("outcome" in night for night in slept["nights"])


def test_the_table_counts_nights(tmp_path: Path) -> None:
    out = StringIO()
    sleep = {"steps": 20, "min_need": 0.0, "guard": False}
    run(config_from({**TINY, "sleep": sleep, "out": str(tmp_path)}), console=Console(file=out))
    row = next(line for line in out.getvalue().splitlines() if line.strip().startswith("sleep "))
    assert " 2s " in row and "s slept" in out.getvalue()
