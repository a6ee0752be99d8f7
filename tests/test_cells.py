"""A cell of a run: its seed decides weights, order and nights; it never trains on validation data."""

from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin

from continual_ep.experiments.build import Built, build_cell, build_stream
from continual_ep.experiments.cell import CellRun
from continual_ep.experiments.cells import Event, cells_of
from continual_ep.experiments.checkpoint import restore_strategy, strategy_state
from continual_ep.experiments.config import RunConfig, config_from
from continual_ep.experiments.randomness import seed_everything

TINY: dict[str, Any] = {
    "stream": {"experiences": [4, 3, 3], "per_class": 8, "order_seed": 0},
    "network": {"hidden": [12]},
    "learning": [{"rule": "equilibrium-propagation", "free_steps": 8, "nudged_steps": 3}],
    "training": {"epochs": 2, "batch_size": 8},
    "sleep": {"steps": 60, "when": "every", "guard": False},
    "arms": ["sleep"],
    "seeds": [0, 1],
}


def tiny(**changes: Any) -> RunConfig:
    return config_from({**TINY, **changes})


def built(config: RunConfig, seed: int = 0) -> Built:
    [cell] = (cell for cell in cells_of(config) if cell.seed == seed)
    return build_cell(config, cell, build_stream(config, seed))


@pytest.mark.parametrize("rule", ["equilibrium-propagation", "backprop"])
def test_each_seed_has_initial_weights_of_its_own(rule: str) -> None:
    config = tiny(learning=[{"rule": rule}])
    one, again, other = (list(built(config, s).strategy.model.parameters()) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_each_seed_has_nights_of_its_own() -> None:
    """The same weights and inputs in each cell: what differs comes from the generator of the night."""
    config = tiny()
    weights = built(config).strategy.model.state_dict()
    spikes = []
    for seed in (0, 0, 1):
        cell = built(config, seed)
        assert cell.sleep.seed == seed
        cell.strategy.model.load_state_dict(weights)
        seed_everything(0, "training")
        cell.strategy.train(cell.assembly.benchmark.train_stream[0], eval_streams=[])
        spikes.append(cell.sleep.last_night.counts[:, 0])
    assert torch.equal(spikes[0], spikes[1])
    assert not torch.equal(spikes[0], spikes[2])


class Stop(BaseException):
    """Ends a cell; nothing of ours catches it."""


def test_each_seed_has_an_order_of_samples_of_its_own(tmp_path: Path) -> None:
    """Avalanche shuffles with torch's global generator, which a cell seeds before it trains."""
    config, seeds = tiny(), []

    def started(event: Event) -> None:
        seeds.append(torch.initial_seed())
        raise Stop

    for cell in cells_of(config):
        with pytest.raises(Stop):
            CellRun(config, cell, build_stream(config, cell.seed), tmp_path, started).run()
    assert len(set(seeds)) == len(config.seeds)


class Seen(SupervisedPlugin):
    """Keeps every sample of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[torch.Tensor] = []

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.samples += list(strategy.mb_x.clone())


@pytest.mark.parametrize("arm", ["sequential", "er:2+sleep"])
def test_a_cell_never_trains_on_validation_data(arm: str) -> None:
    stream = {**TINY["stream"], "validation": 0.25}
    cell, seen = built(tiny(stream=stream, arms=[arm], evaluate="validation")), Seen()
    cell.strategy.plugins.append(seen)
    benchmark = cell.assembly.benchmark
    for experience in benchmark.train_stream:
        cell.strategy.train(experience, eval_streams=[])

    def values(samples: Any) -> set[bytes]:
        return {sample.numpy().tobytes() for sample in samples}

    held_out = [x for experience in benchmark.validation_stream for x, *_ in experience.dataset]
    assert len(values(held_out)) == len(held_out) > 100
    assert len(values(seen.samples)) == 10 * TINY["stream"]["per_class"]
    assert not values(held_out) & values(seen.samples)


def test_a_restored_clock_goes_on() -> None:
    """The clock is the horizontal axis of logs."""
    config = tiny()
    whole, first, second = built(config), built(config), built(config)
    experiences = list(whole.assembly.benchmark.train_stream)
    for cell, parts in ((whole, experiences[:2]), (first, experiences[:1])):
        for experience in parts:
            cell.strategy.train(experience, eval_streams=[])
    state = strategy_state(first.strategy, first.states, 1)
    assert restore_strategy(second.strategy, second.states, state) == 1
    second.strategy.train(experiences[1], eval_streams=[])
    assert vars(second.strategy.clock) == vars(whole.strategy.clock)
    assert whole.strategy.clock.train_exp_counter == 2
