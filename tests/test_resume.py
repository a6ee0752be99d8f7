"""A run that is stopped at any moment resumes to the same numbers, bit for bit."""

import csv
import json
import os
import re
import signal
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from continual_ep.arms import MECHANISMS
from continual_ep.errors import (
    CheckpointError,
    ConfigurationError,
    ContinualEPError,
    ContinualEPWarning,
)
from continual_ep.experiments import folder as run_folder
from continual_ep.experiments import workers
from continual_ep.experiments.build import build_stream
from continual_ep.experiments.cell import CellRun
from continual_ep.experiments.cells import CHECKPOINT, RESULT, Cell, Event, cells_of
from continual_ep.experiments.checkpoint import load_checkpoint, save_checkpoint
from continual_ep.experiments.config import RunConfig, config_from
from continual_ep.experiments.folder import opened_folder
from continual_ep.experiments.randomness import (
    preserved_rng,
    random_states,
    restore_random_states,
    seed_everything,
)
from continual_ep.experiments.run import run

TINY: dict[str, Any] = {
    "stream": {"experiences": [4, 3, 3], "per_class": 8},
    "network": {"hidden": [12]},
    "learning": [{"rule": "equilibrium-propagation", "free_steps": 8, "nudged_steps": 3}],
    "training": {"epochs": 2, "batch_size": 8, "momentum": 0.5},
    "sleep": {"steps": 60, "when": "every"},
    "mechanisms": {"er": {"per_class": 1}},
    "arms": ["er+sleep"],
    "seeds": [0],
    "workers": 1,
}


def tiny(folder: Path, **changes: Any) -> RunConfig:
    return config_from({**TINY, "out": str(folder), **changes})


def quietly() -> Console:
    return Console(file=StringIO(), width=120)


def numbers(folder: Path) -> dict[str, Any]:
    """Every number that a run has left, and its final weights."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob(RESULT)):
        result = json.loads(path.read_text())
        del result["seconds"]
        state = load_checkpoint(path.parent / CHECKPOINT)
        assert state is not None
        name = str(path.parent.relative_to(folder))
        found[name] = (result, state["model"], state["optimizer"], state["plugins"])
    found["tables"] = [path.read_text() for path in sorted(folder.glob("*.csv"))]
    return found


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_equal(*pair)
    else:
        assert one == other


def train(config: RunConfig, folder: Path, listener: Any = lambda event: None) -> None:
    """Trains the only cell, without tables and figures."""
    with opened_folder(config) as opened:
        CellRun(config, cells_of(config)[0], build_stream(config), opened, listener).run()


class Stop(BaseException):
    """Stands for a death of the process: nothing of ours catches it."""


def stopped_after(config: RunConfig, folder: Path, kind: str, count: int) -> None:
    """Trains the only cell until the ``count``-th event of a kind."""
    heard = 0

    def listener(event: Event) -> None:
        nonlocal heard
        heard += event.kind == kind
        if heard == count:
            raise Stop

    with pytest.raises(Stop):
        train(config, folder, listener)
    assert not (cells_of(config)[0].folder(folder) / RESULT).exists()


VARIANTS: dict[str, dict[str, Any]] = {
    "sgd": {},
    # Without exemplars all batches come from the global generators, which must be restored.
    "sequential": {"arms": ["sequential"]},
    "sleep": {"arms": ["sleep"]},
    # Which classes are old decides; a resumed run must know those before the kill.
    "auto": {"arms": ["sleep"], "sleep": {"steps": 60, "min_need": 0.0, "max_cost": 0.1}},
    "adam": {
        "training": {"epochs": 2, "batch_size": 8, "optimizer": "adam"},
        "sleep": {"steps": 60, "when": [0, 2], "dreams": "class-means"},
        "mechanisms": {"er": {"total": 6, "selection": "reservoir"}},
    },
    "per-layer": {
        "learning": [{"rule": "bptt", "free_steps": 8}],
        "training": {
            "epochs": 2,
            "batch_size": 8,
            "momentum": 0.5,
            "reset_optimizer": True,
            "learning_rates": [0.05, 0.01],
        },
        "sleep": {"steps": 60, "when": "last"},
        "mechanisms": {"er": {"per_class": 1, "selection": "herding", "share": "proportional"}},
    },
}


@pytest.fixture(scope="module", params=VARIANTS)
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    changes, folder = VARIANTS[request.param], tmp_path_factory.mktemp("whole")
    train(tiny(folder, **changes), folder)
    return changes, numbers(folder)


@pytest.mark.parametrize(
    ("kind", "count"), [("epoch", 1), ("experience", 1), ("epoch", 4), ("experience", 3)]
)
def test_a_stopped_cell_resumes_bit_for_bit(
    tmp_path: Path,
    uninterrupted: tuple[dict[str, Any], dict[str, Any]],
    kind: str,
    count: int,
) -> None:
    changes, expected = uninterrupted
    config = tiny(tmp_path, **changes)
    stopped_after(config, tmp_path, kind, count)
    train(config, tmp_path)
    assert_equal(numbers(tmp_path), expected)


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_resumes_bit_for_bit(tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {
        "arms": [name],
        "learning": [{"rule": "backprop"}],
        "mechanisms": {"gdumb": {"epochs": 2}},
    }
    whole, again = tmp_path / "whole", tmp_path / "again"
    train(tiny(whole, **changes), whole)
    stopped_after(tiny(again, **changes), again, "epoch" if name == "joint" else "experience", 1)
    train(tiny(again, **changes), again)
    assert_equal(numbers(again), numbers(whole))


@pytest.mark.parametrize(("file", "count"), [(CHECKPOINT, 2), (RESULT, 1)])
def test_a_cell_that_is_stopped_while_it_writes_resumes_bit_for_bit(
    tmp_path: Path, file: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(tiny(whole), whole)
    replace = os.replace
    written: list[str] = []

    def stop(source: Path, target: Path) -> None:
        written.append(target.name)
        if (written.count(CHECKPOINT) == 2 and target.name == file) or target.name == RESULT:
            raise Stop
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(Stop):
            train(tiny(stopped), stopped)
    cell = cells_of(tiny(stopped))[0].folder(stopped)
    assert (cell / f"{file}.tmp").exists()  # half of a file, as far as a reader knows
    (cell / f"{file}.tmp").write_bytes(b"{")
    train(tiny(stopped), stopped)
    assert_equal(numbers(stopped), numbers(whole))


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ("sequential", "starts again: it has no checkpoint yet"),
        ("joint", "starts again: it trains all experiences in one call"),
    ],
)
def test_a_cell_that_starts_again_says_so(tmp_path: Path, arm: str, message: str) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    first, console = quietly(), quietly()
    run(tiny(whole, arms=[arm]), console=first)
    assert "starts again" not in first.file.getvalue()  # type: ignore[attr-defined]
    stopped_after(tiny(again, arms=[arm]), again, "epoch", 1)
    run(tiny(again, arms=[arm]), console=console)
    assert message in console.file.getvalue()  # type: ignore[attr-defined]
    assert_equal(numbers(again), numbers(whole))


def test_the_bar_ends_full_whatever_the_epochs_of_an_arm(tmp_path: Path) -> None:
    arms = ["sequential", "gdumb", "joint", "ncm"]
    config = tiny(tmp_path, arms=arms, mechanisms={"gdumb": {"epochs": 7}})
    console = Console(file=StringIO(), width=120, force_terminal=True, color_system=None)
    run(config, console=console)
    shown = re.findall(r"(\d+)/12 ", console.file.getvalue())  # type: ignore[attr-defined]
    assert shown[-1] == "12"


SCENARIOS: dict[str, dict[str, Any]] = {
    "online": {"stream": {**TINY["stream"], "online": 8}, "training": {"epochs": 1}},
    "blurry": {
        "stream": {"experiences": 3, "per_class": 12, "online": 8, "overlap": 3.0},
        "training": {"epochs": 1},
    },
    "permuted": {"stream": {"scenario": "domain-incremental", "experiences": 3, "per_class": 3}},
    "sets": {
        "stream": {
            "scenario": "domain-incremental",
            "name": ["digits", "digits", "digits"],
            "per_class": 3,
            "task_labels": True,
        }
    },
    "some classes": {"stream": {"classes": [3, 1, 8], "experiences": [[2], [0], [1]]}},
}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.filterwarnings("ignore:10 classes do not divide")
def test_every_scenario_runs_and_resumes(tmp_path: Path, scenario: str) -> None:
    changes = SCENARIOS[scenario]
    train(tiny(tmp_path / "whole", **changes), tmp_path / "whole")
    stopped_after(tiny(tmp_path / "again", **changes), tmp_path / "again", "experience", 2)
    train(tiny(tmp_path / "again", **changes), tmp_path / "again")
    expected = numbers(tmp_path / "whole")
    assert_equal(numbers(tmp_path / "again"), expected)
    result, *_ = next(iter(expected.values()))
    assert len(result["record"]["asleep"]) == len(result["nights"]) == 3


def test_data_that_changed_in_between_are_noticed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    arrays = {
        f"{split}_{kind}": values.numpy()
        for split in ("train", "test")
        for kind, values in (
            ("x", torch.rand(24, 5, generator=generator)),
            ("y", torch.arange(24) % 6),
        )
    }
    data, out = tmp_path / "data.npz", tmp_path / "out"
    np.savez(data, **arrays)
    config = tiny(out, stream={"name": str(data), "experiences": 3})
    stopped_after(config, out, "experience", 1)
    checkpoint = cells_of(config)[0].folder(out) / CHECKPOINT
    before = checkpoint.read_bytes()
    arrays["train_x"][3, 2] += 0.5
    np.savez(data, **arrays)
    with pytest.raises(CheckpointError, match=r"data of stream '.*data\.npz' have changed"):
        train(config, out)
    assert checkpoint.read_bytes() == before
    arrays["train_x"][3, 2] -= 0.5
    np.savez(data, **arrays)
    train(config, out)


def test_diaries_of_the_nights_are_files(tmp_path: Path) -> None:
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    train(tiny(plain), plain)
    config = tiny(kept, sleep={"steps": 60, "when": "every", "diary": True})
    train(config, kept)
    ours, theirs = (cells_of(config)[0].folder(folder) for folder in (kept, plain))
    assert not (theirs / "nights").exists()
    nights = json.loads((ours / RESULT).read_text())["nights"]
    for experience, night in enumerate(nights):
        diary = json.loads((ours / f"nights/after-experience-{experience}.json").read_text())
        assert diary.items() >= night.items() and diary["after_experience"] == experience
        assert {len(spikes) for spikes in diary["spikes_per_step"].values()} == {night["steps"]}
        for name, layer in night["layers"].items():
            assert sum(diary["spikes_per_step"][name]) == layer["spikes"]
            assert sum(diary["spikes_per_unit"][name]) == layer["spikes"]
    assert config.digest() == tiny(plain).digest()  # it changes no number


def test_starts_that_cannot_be_read_are_kept(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    run(config, console=quietly())
    for damaged in ("{", '{"started": 1}'):
        (tmp_path / "environment.json").write_text(damaged)
        with pytest.warns(ContinualEPWarning, match="it is kept as"):
            run(config, console=quietly())
        assert len(json.loads((tmp_path / "environment.json").read_text())) == 1
    kept = sorted(tmp_path.glob("environment.damaged-*.json"))
    assert [path.read_text() for path in kept] == ["{", '{"started": 1}']


def test_an_empty_configuration_belongs_to_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match=r"config\.yaml is empty"):
        run(tiny(tmp_path), console=quietly())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sleep": {"preset": "tadros2022:mnist"}}, "3 thresholds are given for a network of 2"),
        ({"sleep": {"thresholds": [1.0]}}, "1 thresholds"),
        ({"sleep": {"window": 9}}, "9 pixels is wider than the image of 8"),
        ({"sleep": {"exclude": ["head"]}}, "head"),
        ({"training": {"batch_size": 1}}, "mixed batch of 1"),
    ],
)
def test_what_a_later_night_or_batch_could_not_do_is_refused_first(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(tiny(tmp_path / "new", **changes), console=quietly())
    assert not (tmp_path / "new").exists()


def test_features_sleep_without_a_window(tmp_path: Path) -> None:
    x, y = torch.rand(24, 64).numpy(), (torch.arange(24) % 6).numpy()
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    stream = {"name": str(tmp_path / "a.npz"), "experiences": 3}
    with pytest.raises(ConfigurationError, match="needs square images"):
        run(tiny(tmp_path / "b", stream=stream, sleep={"window": 3}), console=quietly())
    run(tiny(tmp_path / "c", stream=stream), console=quietly())  # 64 is a square, but no image


def test_complete_cells_are_not_trained_again(tmp_path: Path) -> None:
    config = tiny(tmp_path)
    run(config, console=quietly())
    path = cells_of(config)[0].folder(tmp_path) / CHECKPOINT
    before = path.stat().st_mtime_ns
    console = quietly()
    run(config, console=console)
    assert path.stat().st_mtime_ns == before
    assert "1 of 1 cells are done" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_checkpoint_is_named_and_kept(tmp_path: Path, damage: str) -> None:
    config = tiny(tmp_path)
    stopped_after(config, tmp_path, "experience", 1)
    path = cells_of(config)[0].folder(tmp_path) / CHECKPOINT
    content = path.read_bytes()
    state = load_checkpoint(path)
    assert state is not None
    weights = state["model"]["weights.0"].numpy().tobytes()
    place = content.index(weights) + len(weights) // 2
    flipped = bytes([content[place] ^ 1])
    damaged = {
        "cut": content[: len(content) // 2],
        "flip": content[:place] + flipped + content[place + 1 :],
        "empty": b"",
        "other": b"not a checkpoint",
    }[damage]
    path.write_bytes(damaged)
    console = quietly()
    with pytest.raises(ContinualEPError):
        run(config, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert str(path) in said and "damaged" in said and "move it away" in said
    assert path.read_bytes() == damaged
    path.unlink()
    train(config, tmp_path)  # the remedy that the message names


def test_a_cell_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    config = tiny(tmp_path, seeds=[0, 1])
    first, second = cells_of(config)
    with opened_folder(config):
        first.folder(tmp_path).mkdir(parents=True)
        (first.folder(tmp_path) / CHECKPOINT).write_bytes(b"damaged")
    console = quietly()
    with pytest.raises(ContinualEPError, match=r"1 of the cells failed.*seed 0"):
        run(config, console=console)
    assert (second.folder(tmp_path) / RESULT).exists()
    assert re.search(r"er\+sleep +[0-9]", console.file.getvalue())  # type: ignore[attr-defined]


class Thing:
    """What no checkpoint may hold."""


def test_checkpoints_hold_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"a": torch.ones(2)})
    with pytest.raises(CheckpointError):
        save_checkpoint(path, {"a": Thing()})  # refused when written, not when it is needed
    state = load_checkpoint(path)
    assert state is not None and torch.equal(state["a"], torch.ones(2))
    assert load_checkpoint(tmp_path / "none.pt") is None


def test_a_checkpoint_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 99}, path)
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path)


def test_all_global_generators_are_restored() -> None:
    import random

    import numpy as np

    def draws() -> tuple[float, float, float, float]:
        normal = np.random.standard_normal()  # keeps a second value for the next call
        return random.random(), random.gauss(0, 1), normal, float(torch.rand(()))

    with preserved_rng():
        seed_everything(1, "here")
        draws()
        states = random_states()
        expected = draws()
        draws()
        restore_random_states(states)
        assert draws() == expected


def test_a_cell_leaves_the_callers_generators_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tiny(tmp_path), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_folder_of_another_configuration(tmp_path: Path) -> None:
    run(tiny(tmp_path), console=quietly())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = tiny(tmp_path, training={**TINY["training"], "epochs": 3}, seeds=[1])
    with pytest.raises(ConfigurationError) as caught:
        run(other, console=quietly())
    message = str(caught.value)
    assert "training.epochs: 2 there, 3 now" in message
    assert "seeds: [0] there, [1] now" in message
    assert "momentum" not in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigurationError, match=r"thesis\.tex"):
        run(tiny(tmp_path), console=quietly())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match="--out"):
            run(tiny(folder), console=quietly())


def test_two_runs_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    config = tiny(tmp_path)
    with (
        opened_folder(config),
        pytest.raises(ConfigurationError, match=f"in use by process {os.getpid()}"),
        opened_folder(config),
    ):
        pass
    with opened_folder(config):  # the lock file still exists, but no process holds it
        assert (tmp_path / ".lock").exists()


def test_a_run_that_cannot_work_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for changes in ({"sleep": {"preset": "nap"}}, {"stream": {"experiences": 11}}):
        with pytest.raises(ConfigurationError):
            run(tiny(folder, **changes), console=quietly())
    assert not folder.exists()


def test_what_a_run_leaves(tmp_path: Path) -> None:
    config = tiny(tmp_path, tensorboard=True)
    run(config, console=quietly())
    for name in ("config.yaml", "environment.json", "results.csv", "summary.csv", "matrices.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert config_from(yaml.safe_load((tmp_path / "config.yaml").read_text())) == config
    cell = cells_of(config)[0].folder(tmp_path)
    assert list((cell / "tensorboard").glob("events*"))
    result = json.loads((cell / RESULT).read_text())
    assert sorted(result["stream"]["class_order"]) == list(range(10))
    assert [len(row) for row in result["record"]["awake"]] == [3, 3, 3]
    assert [night["after_experience"] for night in result["nights"]] == [0, 1, 2]
    with (cell / "accuracies.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 3
    last = [float(row["accuracy"]) for row in rows if row["phase"] == "asleep"][-3:]
    assert last == result["record"]["asleep"][-1]


# -- workers, with work that needs no network ---------------------------------------------------


def pretend() -> Any:
    """A setup whose cells end in the way that their seed says."""

    def work(cell: Cell, listener: Any) -> None:
        if cell.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if cell.seed == 2:
            raise ConfigurationError("so it goes")
        if cell.seed == 3:
            raise ZeroDivisionError
        listener(Event(cell.number, "finished", {}))

    return work


def test_a_worker_that_dies_costs_its_cell_only() -> None:
    events: list[Event] = []
    cells = [Cell(n, None, "sequential", n) for n in range(8)]  # type: ignore[arg-type]
    workers.run_in_processes(pretend, cells, events.append, workers=2, method="fork")
    kinds = {event.cell: event.kind for event in events}
    assert kinds == dict.fromkeys((0, 4, 5, 6, 7), "finished") | {
        1: "failed",
        2: "failed",
        3: "crashed",
    }
    messages = {event.cell: event.data.get("message", "") for event in events}
    assert "signal 9" in messages[1]
    assert messages[2] == "so it goes"
    assert "ZeroDivisionError" in messages[3]


def test_workers_are_stopped_when_the_parent_is_interrupted() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    cells = [Cell(n, None, "sequential", 0) for n in range(3)]  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        workers.run_in_processes(pretend, cells, interrupted, workers=2, method="fork")
