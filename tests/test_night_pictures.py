"""Pictures of nights: drawn from a run's numbers, and from a cell that is trained again."""

import io
import json
import sys

import numpy as np
import pytest
from rich.console import Console

from continual_ep import cli
from continual_ep.experiments import night
from continual_ep.experiments.compare import compare
from continual_ep.experiments.config import config_from
from continual_ep.experiments.figures import change_figure, margin_figure
from continual_ep.experiments.night_figure import night_figure
from continual_ep.experiments.run import run
from continual_ep.sleep import NightRecording

OPTIONS = {
    "stream": {"experiences": [4, 3, 3], "per_class": 6},
    "network": {"hidden": [30]},
    "learning": [{"rule": "backprop"}],
    "training": {"epochs": 1, "learning_rates": 0.1},
    "arms": ["sequential", "sleep"],
    "sleep": {"steps": 150, "when": [1, 2]},
    "seeds": [0],
    "workers": 1,
}


def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "a"
    run(config_from({**OPTIONS, "out": str(path)}), console=console())
    return path


def is_picture(path):
    from PIL import Image

    with Image.open(path) as picture:
        return picture.width > 400 and len(picture.convert("L").getcolors(10**6)) > 20


def test_the_command_draws_the_nights_of_the_run(folder, monkeypatch, capsys):
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(sys, "argv", ["continual-ep", "night", str(folder)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capsys.readouterr()
    assert caught.value.code == 0, shown.err
    assert "other numbers" not in shown.out
    pictures = folder / "backprop" / "sleep" / "seed-0" / "nights"
    names = {"margins", "weights", "night-after-experience-2", "night-after-experience-3"}
    assert {path.stem for path in pictures.iterdir()} == names
    assert all(is_picture(path) for path in pictures.iterdir())
    assert all(path.read_bytes() == content for path, content in before.items())


def test_the_recorded_spikes_are_those_of_the_run(folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(night, "night_figure", lambda *args: drawn.append(args) or args[2])
    cell = folder / "backprop" / "sleep" / "seed-0"
    night.draw_nights(cell, tmp_path / "out", console())
    known = json.loads((cell / "result.json").read_text())["nights"]
    assert len(drawn) == len(known) == 2
    for (recording, heading, _), of_run in zip(drawn, known, strict=True):
        spikes = [values["spikes"] for values in of_run["layers"].values()]
        assert recording.counts[:, 1:].sum(0).tolist() == spikes and sum(spikes)
        assert recording.counts[:, 0].sum() == of_run["input_spikes"]
        assert f"night after experience {of_run['after_experience'] + 1} " in heading


def test_other_numbers_are_noticed(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    result = copy / "backprop" / "sleep" / "seed-0" / "result.json"
    values = json.loads(result.read_text())
    values["record"]["asleep"][2][0] += 0.25
    result.write_text(json.dumps(values))
    shown = console()
    night.draw_nights(copy, tmp_path / "out", shown)
    assert "other numbers than the run" in shown.file.getvalue()


def test_mistakes_are_named(folder, tmp_path):
    from continual_ep.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="has slept"):
        night.draw_nights(folder / "backprop" / "sequential", None, console())
    alone = tmp_path / "x" / "y" / "z" / "seed-0"
    alone.mkdir(parents=True)
    result = folder / "backprop" / "sleep" / "seed-0" / "result.json"
    (alone / "result.json").write_text(result.read_text())
    with pytest.raises(ConfigurationError, match="is missing"):
        night.draw_nights(alone, None, console())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="choose another --out"):
        night.draw_nights(folder, tmp_path / "file" / "below", console())


def test_a_report_has_pictures_where_the_data_are_there(folder, tmp_path):
    assert (folder / "weights.png").exists() and not (folder / "margins.png").exists()
    groups = compare([folder / "backprop" / "sequential"]).groups
    assert change_figure(groups, tmp_path / "a.png") == []
    probed = tmp_path / "probed"
    options = {**OPTIONS, "arms": ["sleep"], "probe": True, "out": str(probed)}
    run(config_from(options), console=console())
    assert is_picture(probed / "margins.png") and is_picture(probed / "weights.png")
    assert margin_figure(compare([probed]).groups, tmp_path / "b.png") == [tmp_path / "b.png"]


def test_a_silent_night_can_be_drawn(tmp_path):
    nothing = np.zeros((2, 0), np.int64)
    recording = NightRecording(
        layers=("input", "0.weight", "2.weight"),
        units=(5, 30, 3),
        raster=(nothing, nothing, nothing),
        window=10,
        counts=np.zeros((20, 3), np.int32),
        ends=np.array([10, 20]),
        part_counts=(np.zeros((2, 30), np.int64), np.zeros((2, 3), np.int64)),
    )
    assert is_picture(night_figure(recording, "silent", tmp_path / "silent.png"))
