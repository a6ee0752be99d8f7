"""Papers: every learner has its own, in BibTeX that can be read."""

import re
from pathlib import Path

import pytest

import continual_ep
from continual_ep.arms.registry import MECHANISMS
from continual_ep.citations import SOURCES, papers, sources_of, used_by
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.config import RunConfig, config_from
from continual_ep.experiments.folder import opened_folder
from continual_ep.learning import LEARNING_RULES
from continual_ep.networks import NETWORKS
from continual_ep.options import plain_values


def test_every_rule_and_network_has_its_papers():
    for name in {*SOURCES, *LEARNING_RULES, *NETWORKS, *MECHANISMS}:
        assert set(sources_of(name)) <= set(papers()), name


@pytest.mark.parametrize("key", papers())
def test_entries_are_complete_bibtex(key):
    entry = papers()[key]
    lines = entry.splitlines()
    assert re.fullmatch(rf"@(article|inproceedings|misc)\{{{key},", lines[0]) and lines[-1] == "}"
    fields = dict(re.fullmatch(r"  (\w+) = \{(.+)\},", line).groups() for line in lines[1:-1])
    assert {"author", "title", "year"} <= set(fields)
    assert "doi" in fields or "eprint" in fields
    assert all(value.count("{") == value.count("}") for value in fields.values())


def test_each_paper_is_cited_once():
    text = continual_ep.citation("stochastic", "sleep", "stochastic")
    assert re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE) == ["lin2025", "tadros2022"]
    assert len(re.findall(r"^@", continual_ep.citation(), re.MULTILINE)) == len(papers())
    assert continual_ep.citation("neuromodulated") == ""
    with pytest.raises(ConfigurationError, match="'sleeep' is unknown"):
        continual_ep.citation("sleeep")


def test_the_sources_of_a_class_come_before_the_table(monkeypatch):
    class Rule:
        sources = ("zeng2019",)

    monkeypatch.setitem(LEARNING_RULES, "holomorphic", Rule)
    monkeypatch.setitem(LEARNING_RULES, "a-new-rule", Rule)
    assert sources_of("holomorphic") == sources_of("a-new-rule") == ("zeng2019",)
    assert continual_ep.citation("a-new-rule").startswith("@article{zeng2019,")


def test_a_run_cites_what_it_uses(tmp_path: Path):
    config = config_from(
        {
            "learning": [
                {"rule": "equilibrium-propagation", "adaptation_steps": 2},
                {"rule": "deep-feedback-control", "target": "label"},
            ],
            "training": {"grapes": True},
            "arms": ["sleep"],
            "out": str(tmp_path / "run"),
        }
    )
    with opened_folder(config) as folder:
        text = (folder / "citations.bib").read_text()
    keys = set(re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE))
    assert keys == {
        *("lomonaco2021", "scellier2017", "laborieux2021", "kubo2022", "meulemans2021"),
        *("meulemans2022", "dellaferrera2022", "tadros2022", "kubo2025"),
    }


def test_no_sleep_no_papers_on_sleep():
    config = plain_values(RunConfig(arms=["sequential"]))
    assert used_by(config) == ["avalanche", "equilibrium-propagation", "bptt"]


def test_mechanisms_of_arms_are_cited():
    config = {
        "network": {"kind": "mlp"},
        "training": {"optimizer": "sgd"},
        "learning": [{"rule": "backprop"}],
        "arms": ["sequential", "owm+sleep", "ewc:100"],
    }
    assert used_by(config) == ["avalanche", "mlp", "backprop", "owm", "sleep", "ewc"]
