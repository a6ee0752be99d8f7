"""The probe as an option of a run: columns, results, resume."""

import csv
import io
import json

import pytest
from rich.console import Console

from continual_ep.experiments.config import config_from
from continual_ep.experiments.display import Display
from continual_ep.experiments.run import run

TINY = {
    "stream": {"experiences": [4, 3, 3], "per_class": 6, "validation": 0.3},
    "network": {"hidden": [20]},
    "learning": "backprop",
    "training": {"epochs": 2, "learning_rates": 0.1},
    "arms": ["sequential", "sleep"],
    "sleep": {"steps": 200},
    "evaluate": "validation",
    "seeds": [0],
    "workers": 1,
}


def console():
    return Console(file=io.StringIO(), width=200)


def results(folder):
    return {
        path.parent.parent.name: json.loads(path.read_text())
        for path in folder.rglob("result.json")
    }


def test_results_and_columns(tmp_path):
    arms = ["sequential", "sleep", "joint", "ncm"]
    shown = console()
    options = {**TINY, "learning": [{"rule": "backprop"}], "arms": arms}
    run(config_from({**options, "probe": True, "out": str(tmp_path / "a")}), console=shown)
    plain = console()
    run(config_from({**options, "out": str(tmp_path / "b")}), console=plain)
    with_probe, without = results(tmp_path / "a"), results(tmp_path / "b")
    for arm, result in with_probe.items():
        assert result["record"] == without[arm]["record"]
        assert without[arm]["probe"] is None and "probe_ridge" not in without[arm]["metrics"]
        if arm == "ncm":
            assert result["probe"] is None
            continue
        assert result["probe"]["network"]["asleep"] == result["record"]["asleep"]
        assert 0.2 < result["metrics"]["probe_ridge"] <= 1
        assert len(result["probe"]["margins"]) == (1 if arm == "joint" else 3)
    sequential = with_probe["sequential"]["metrics"]
    assert sequential["probe_ridge"] > sequential["pooled_accuracy"]
    table = shown.file.getvalue()
    assert "ridge" in table and "old ones included" in table
    assert "ridge" not in plain.file.getvalue()
    lines = list(csv.DictReader((tmp_path / "a" / "results.csv").open()))
    assert {line["arm"]: line["probe_ridge"] != "" for line in lines} == {
        "sequential": True,
        "sleep": True,
        "joint": True,
        "ncm": False,
    }


def test_a_stopped_run_resumes_to_the_same_probe(tmp_path, monkeypatch):
    options = {**TINY, "learning": [{"rule": "backprop"}], "arms": ["sleep"], "probe": True}
    run(config_from({**options, "out": str(tmp_path / "whole")}), console=console())

    def stop(self, event, cell):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Display, "_on_experience", stop)
        run(config_from({**options, "out": str(tmp_path / "parts")}), console=console())
    run(config_from({**options, "out": str(tmp_path / "parts")}), console=console())
    whole, parts = (results(tmp_path / name)["sleep"] for name in ("whole", "parts"))
    assert parts["probe"] == whole["probe"]
