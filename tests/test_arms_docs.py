"""docs/arms.md says what the code says: names, defaults, needs and cards of all mechanisms."""

import dataclasses
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from continual_ep.arms import MECHANISMS, mechanism_class, parse_arm
from continual_ep.errors import ConfigurationError
from continual_ep.options import option_fields

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "arms.md").read_text()
ALL_MECHANISMS = list(MECHANISMS)


def rows(marker, end):
    """The cells of the table between two comments, without heading and ruler."""
    table = PAGE.split(f"<!-- {marker} -->")[1].split(f"<!-- {end} -->")[0].strip()
    lines = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in line] for line in lines[2:]]


OVERVIEW = {row[0].split("`")[1]: row for row in rows("overview", "end of overview")}
CARDS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE.split("# Cards")[1], re.M | re.S))


def test_overview_and_cards_list_all_mechanisms_in_the_order_of_the_registry():
    assert list(OVERVIEW) == ALL_MECHANISMS
    assert list(CARDS) == ALL_MECHANISMS


@pytest.mark.parametrize("name", ALL_MECHANISMS)
def test_overview_has_the_main_option_its_default_and_the_needs(name):
    mechanism = parse_arm(name).mechanisms[name]
    _, main, default, needs, kept = OVERVIEW[name]
    if mechanism.main is None:
        assert (main, default) == ("–", "–")
    else:
        assert main == f"`{mechanism.main}`"
        assert yaml.safe_load(default.strip("`")) == getattr(mechanism, mechanism.main)
    letters = [field[0] for field in mechanism.needs._fields if getattr(mechanism.needs, field)]
    assert needs == " ".join(letters)
    assert kept


@pytest.mark.parametrize("name", ALL_MECHANISMS)
def test_defaults_on_cards_are_those_of_the_code(name):
    defaults = {
        field.name: field.default
        for field in option_fields(mechanism_class(name))
        if field.default is not dataclasses.MISSING
    }
    named = re.findall(r"`(\w+)`(?:\s+\$[^$]+\$)?\s+\(([-\d.e]+)\)", CARDS[name])
    for option, value in named:
        assert float(value) == defaults[option], option


@pytest.mark.parametrize("name", ALL_MECHANISMS)
def test_cards_say_what_is_kept(name):
    assert "**Keeps**" in CARDS[name]


def refused_by(row):
    """The pairs that a row of the table of combinations refuses."""
    text = row[0].replace("anything", " ".join(f"`{name}`" for name in ALL_MECHANISMS))
    if "whatever stores samples" in text:
        storing = [name for name in ALL_MECHANISMS if parse_arm(name).needs.samples]
        text = text.replace("whatever stores samples", " ".join(f"`{name}`" for name in storing))
    one, _, others = text.partition(" but ")[0].partition(" and ")
    allowed = set(re.findall(r"`(\S+)`", text.partition(" but ")[2]))
    first, second = (re.findall(r"`([^`]+)`", part) for part in (one, others))
    if "with each other" in text:
        second = first
    return {frozenset((a, b)) for a in first for b in second if a != b and b not in allowed}


def test_combinations_on_the_page_are_those_that_the_code_refuses():
    listed = set().union(*map(refused_by, rows("combinations", "end of combinations")[1:]))
    refused = set()
    for pair in combinations(ALL_MECHANISMS, 2):
        try:
            parse_arm("+".join(pair))
        except ConfigurationError:
            refused.add(frozenset(pair))
    assert listed == refused


def test_the_table_of_figures_has_a_row_for_each_arm_of_the_benchmark():
    table = rows("figures", "end of figures")
    assert all(len(row) == 6 for row in table)
    arms = yaml.safe_load((ROOT / "benchmarks" / "arms_feedforward.yaml").read_text())["arms"]
    assert set(arms) <= {row[0].strip("`") for row in table}
