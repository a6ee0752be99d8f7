"""docs/arms.md says what the code says: names, defaults, needs and cards of all mechanisms."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from continual_ep.arms import MECHANISMS, mechanism_class, parse_arm
from continual_ep.options import option_fields

PAGE = (Path(__file__).parent.parent / "docs" / "arms.md").read_text()
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


def test_the_table_of_figures_names_arms():
    for row in rows("figures", "end of figures"):
        assert len(row) == 6
        parse_arm(row[0].strip("`"))
