"""Papers: every learner has its own, in BibTeX that can be read."""

import re
from pathlib import Path

import pytest

import continual_ep
from continual_ep.citations import PAPERS, SOURCES, used_by
from continual_ep.errors import ConfigurationError
from continual_ep.experiments.config import RunConfig, config_from
from continual_ep.experiments.folder import opened_folder
from continual_ep.learning import LEARNING_RULES
from continual_ep.networks import NETWORKS


def test_every_rule_and_network_has_its_papers():
    assert set(LEARNING_RULES) | set(NETWORKS) <= set(SOURCES)
    assert {key for keys in SOURCES.values() for key in keys} <= set(PAPERS)


@pytest.mark.parametrize("key", PAPERS)
def test_entries_are_whole(key):
    fields = PAPERS[key].fields
    assert {"author", "title", "year"} <= set(fields)
    assert "doi" in fields or "eprint" in fields
    for value in fields.values():
        assert value and value.count("{") == value.count("}")


def test_what_is_named_is_cited_once():
    found = continual_ep.citation("stochastic", "sleep", "stochastic")
    assert re.findall(r"^@\w+\{(\w+),$", found, re.MULTILINE) == ["lin2025", "tadros2022"]
    assert len(re.findall(r"^@", continual_ep.citation(), re.MULTILINE)) == len(PAPERS)
    assert continual_ep.citation("neuromodulated") == ""
    with pytest.raises(ConfigurationError, match="'sleeep' is unknown"):
        continual_ep.citation("sleeep")


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
    found = set(re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE))
    assert found == {
        *("lomonaco2021", "scellier2017", "laborieux2021", "kubo2022", "meulemans2021"),
        *("meulemans2022", "dellaferrera2022", "tadros2022", "kubo2025"),
    }


def test_no_sleep_no_papers_on_sleep():
    config = RunConfig(arms=["sequential"]).model_dump(mode="json")
    assert used_by(config) == ["avalanche", "equilibrium-propagation", "bptt"]
