"""Comparisons of results on disk: hand-written results, hand-computed tables."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy.special import expit, logit

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.experiments.compare import Comparison, compare
from continual_ep.experiments.figures import styles_of
from continual_ep.experiments.report import show, write_into


def write_result(
    run: Path,
    arm: str,
    seed: int,
    final: float,
    *,
    learning: str = "ep",
    settings: dict[str, Any] | None = None,
    stream: str = "digits",
    evaluated: str = "test",
    samples: int = 50,
    number: int = 0,
    class_order: list[int] | None = None,
) -> Path:
    """Two experiences of equal size; the pooled accuracy at the end is ``final``."""
    rows = [[1.0, 0.0], [2 * final - 1.0, 1.0]]
    folder = run / learning / arm / f"seed-{seed}"
    folder.mkdir(parents=True)
    record = {
        "stream": evaluated,
        "counts": [samples, samples],
        "trained": [0, 1],
        "awake": rows,
        "asleep": rows,
        "slept": ["sleep" in arm] * 2,
        "baseline": None,
    }
    result = {
        "format": 2,
        "number": number,
        "learning": learning,
        "arm": arm,
        "seed": seed,
        "settings": settings or {"training.epochs": 2},
        "stream": {
            "name": stream,
            "class_order": class_order or [0, 1, 2, 3],
            "classes_per_experience": [[0, 1], [2, 3]],
        },
        "record": record,
        "metrics": {"pooled_accuracy": final, "sleep_gain": None},
        "kept_bytes": 0,
        "needs": {"labels": False, "boundaries": False, "samples": False},
    }
    path = folder / "result.json"
    path.write_text(json.dumps(result))
    return path


def shown(*paths: Path) -> str:
    console = Console(file=StringIO(), width=100)
    show(compare(list(paths)), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_means_intervals_and_paired_differences(tmp_path: Path) -> None:
    for seed, (sequential, slept) in enumerate([(0.50, 0.60), (0.54, 0.68), (0.58, 0.70)]):
        write_result(tmp_path, "sequential", seed, sequential)
        write_result(tmp_path, "sleep", seed, slept)
    comparison = compare([tmp_path])
    sequential, slept = (group.interval("pooled_accuracy") for group in comparison.groups)
    assert sequential is not None and slept is not None
    # mean 0.54, standard deviation 0.04, t of 2 degrees of freedom 4.302653
    assert sequential.mean == pytest.approx(0.54)
    width = 4.302653 * 0.04 / 3**0.5 / (0.54 * 0.46)  # on the logit scale
    assert sequential.low == pytest.approx(expit(logit(0.54) - width), rel=1e-6)
    assert sequential.high == pytest.approx(expit(logit(0.54) + width), rel=1e-6)
    assert slept.mean == pytest.approx(0.66)
    [difference] = comparison.differences()
    # 0.10, 0.14, 0.12: mean 0.12, standard deviation 0.02
    assert (difference.arm, difference.than) == ("sleep", "sequential")
    assert difference.interval.mean == pytest.approx(0.12)
    assert difference.interval.half_width == pytest.approx(4.302653 * 0.02 / 3**0.5, rel=1e-6)
    text = shown(tmp_path)
    assert "54.0 [44, 64]" in text
    assert "+12.0 ± 5.0" in text


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    write_result(tmp_path, "sequential", 0, 0.5)
    row = next(line for line in shown(tmp_path).splitlines() if "sequential" in line)
    assert "50.0" in row and "±" not in row and "[" not in row


def test_an_arm_with_sleep_is_compared_with_the_same_arm_awake(tmp_path: Path) -> None:
    for arm, final in [("sequential", 0.2), ("ewc:5", 0.3), ("ewc:5+sleep", 0.7), ("sleep", 0.6)]:
        write_result(tmp_path, arm, 0, final)
    differences = {(d.arm, d.than): d.interval.mean for d in compare([tmp_path]).differences()}
    assert differences == {
        ("ewc:5", "sequential"): pytest.approx(0.1),
        ("ewc:5+sleep", "sequential"): pytest.approx(0.5),
        ("ewc:5+sleep", "ewc:5"): pytest.approx(0.4),
        ("sleep", "sequential"): pytest.approx(0.4),
    }


def test_seeds_with_two_class_orders_are_not_paired(tmp_path: Path) -> None:
    write_result(tmp_path, "sequential", 0, 0.5)
    write_result(tmp_path, "sleep", 0, 0.6, class_order=[3, 2, 1, 0])
    with pytest.raises(ConfigurationError, match="two class orders"):
        compare([tmp_path]).differences()


def test_results_of_another_version_are_named_and_left(tmp_path: Path) -> None:
    path = write_result(tmp_path, "sequential", 0, 0.5)
    path.write_text(path.read_text().replace('"format": 2', '"format": 1'))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"format 1, of another version"):
        compare([tmp_path])
    assert path.read_bytes() == before


def test_styles_follow_from_the_arms() -> None:
    arms = ["sequential", "sleep", "ewc:5", "ewc:5+sleep", "er:50"]
    styles = styles_of(arms)
    assert styles["ewc:5"].colour == styles["ewc:5+sleep"].colour != styles["er:50"].colour
    assert styles["ewc:5+sleep"].filled and not styles["ewc:5"].filled
    assert len({styles[arm].colour for arm in ("sequential", "sleep", "ewc:5", "er:50")}) == 4


def test_differences_use_the_seeds_that_both_arms_have(tmp_path: Path) -> None:
    for seed, final in [(0, 0.5), (1, 0.9)]:
        write_result(tmp_path, "sequential", seed, final)
    for seed, final in [(1, 0.95), (2, 0.6)]:
        write_result(tmp_path, "sleep", seed, final)
    [difference] = compare([tmp_path]).differences()
    assert difference.interval.n == 1
    assert difference.interval.mean == pytest.approx(0.05)


def test_several_runs_and_parts_of_runs(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "sequential", 0, 0.5)
    write_result(tmp_path / "a", "sleep", 0, 0.6)
    path = write_result(tmp_path / "b", "sequential", 1, 0.7)
    whole = compare([tmp_path / "a", tmp_path / "b"])
    assert [(group.arm, len(group.results)) for group in whole.groups] == [
        ("sequential", 2),
        ("sleep", 1),
    ]
    part = compare([tmp_path / "a" / "ep" / "sequential", path, tmp_path / "b"])
    assert [(group.arm, len(group.results)) for group in part.groups] == [("sequential", 2)]


def test_other_settings_are_not_averaged_but_named(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "sequential", 0, 0.5, settings={"e": 2, "same": 1})
    write_result(tmp_path / "b", "sequential", 0, 0.7, settings={"e": 4, "same": 1})
    names = [group.name for group in compare([tmp_path / "a", tmp_path / "b"]).groups]
    assert names == ["ep (e=2)", "ep (e=4)"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stream": "mnist"}, "different streams"),
        ({"evaluated": "validation"}, "different evaluation data"),
        ({"samples": 20}, "different numbers of evaluation samples"),
        ({}, "seed 0 of ep, sequential is there twice"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_result(tmp_path / "a", "sequential", 0, 0.5)
    write_result(tmp_path / "b", "sequential", 0, 0.6, **change)
    with pytest.raises(ConfigurationError, match=words):
        compare([tmp_path / "a", tmp_path / "b"])


def test_folders_without_results(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no"):
        compare([tmp_path / "none"])
    with pytest.raises(ConfigurationError, match="holds no complete result"):
        compare([tmp_path])


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 7}', "\x00"])
def test_a_damaged_result_is_named(tmp_path: Path, content: str) -> None:
    path = write_result(tmp_path, "sequential", 0, 0.5)
    path.write_text(content)
    with pytest.raises(InputError, match=r"result\.json"):
        compare([tmp_path])


def test_tables_and_figures_on_disk(tmp_path: Path) -> None:
    write_result(tmp_path / "a", "sequential", 0, 0.5)
    write_result(tmp_path / "a", "sleep", 0, 0.6)
    out = tmp_path / "out"
    figures = write_into(compare([tmp_path / "a"]), out)
    assert [path.name for path in figures] == ["accuracy.png", "matrices.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    with (out / "results.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["arm"], row["pooled_accuracy"]) for row in rows] == [
        ("sequential", "0.5"),
        ("sleep", "0.6"),
    ]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    with pytest.raises(ConfigurationError, match="run's own folder"):
        write_into(compare([tmp_path / "a"]), tmp_path / "run")
    with pytest.raises(ConfigurationError, match="cannot write"):
        write_into(compare([tmp_path / "a"]), figures[0] / "below")


def test_files_that_are_there_are_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "results.csv").write_text("mine")
    with pytest.raises(ConfigurationError, match="holds files already"):
        write_into(Comparison([]), out)
    assert (out / "results.csv").read_text() == "mine"
