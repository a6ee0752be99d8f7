"""Groups of options: one schema for constructor and plain values."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from continual_ep.errors import ConfigurationError
from continual_ep.options import Options, OptionsError, option, options_from, plain_values


@dataclass(frozen=True)
class Inner(Options):
    share: float = option(0.5, "a share", gt=0, le=1)


@dataclass(frozen=True)
class Group(Options):
    beta: float | tuple[float, ...] = option(0.1, "strength", gt=0)
    kind: Literal["one", "two"] = option("one", "kind")
    steps: int = option(3, "number of steps", ge=1, kw_only=True)
    tolerance: float | None = option(None, "limit", gt=0)
    flag: bool = option(False, "switch")
    inner: Inner = option(Inner, "a group")
    window: int | Literal["auto"] | None = option("auto", "side", ge=1)

    def check_combination(self) -> None:
        if self.flag and self.tolerance:
            raise ConfigurationError("flag needs no tolerance")


def test_values_are_converted():
    group = Group(torch.tensor(0.5), steps=np.int64(4), inner={"share": 0.25}, window=7)
    assert (group.beta, group.steps, group.inner.share, group.window) == (0.5, 4, 0.25, 7)
    assert type(group.beta) is float and type(group.steps) is int
    assert Group([0.1, 0.2]).beta == (0.1, 0.2)
    assert Group("1e-3").beta == 0.001  # YAML reads 1e-3 as a text


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"beta": -1}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"beta": float("inf")}, "beta"),
        ({"beta": [0.1, -1]}, "beta"),
        ({"steps": True}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": None}, "steps"),
        ({"flag": 1}, "flag"),
        ({"flag": "yes"}, "flag"),
        ({"kind": "three"}, "'one' or 'two'"),
        ({"inner": {"share": 3}}, "inner.share"),
        ({"inner": {"shape": 3}}, "did you mean 'share'"),
        ({"inner": None}, "inner"),
        ({"window": 0}, "window"),
        ({"flag": True, "tolerance": 0.1}, "flag needs no tolerance"),
    ],
)
def test_a_wrong_value_is_named_by_constructor_and_file(values, named):
    with pytest.raises(ConfigurationError, match=named):
        Group(**values)
    with pytest.raises(OptionsError, match=named):
        options_from(Group, values)


def test_an_unknown_key_names_the_closest():
    with pytest.raises(OptionsError, match="did you mean 'beta'"):
        options_from(Group, {"bta": 1})


def test_all_problems_are_named_at_once():
    with pytest.raises(OptionsError) as caught:
        Group(beta=0, steps=0)
    assert [name for name, _ in caught.value.problems] == ["beta", "steps"]


def test_plain_values_make_the_same_group():
    group = Group((0.1, 0.3), steps=5, inner=Inner(0.2), window=None)
    assert options_from(Group, plain_values(group)) == group
