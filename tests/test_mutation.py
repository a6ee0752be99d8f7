"""The defects of ``make mutation`` fit the code, and the script tells caught, alive and stale apart."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("mutation", ROOT / "scripts/mutation_test.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_defect_has_its_line_and_its_tests(script):
    assert len({defect.name for defect in script.DEFECTS}) == len(script.DEFECTS) >= 35
    for defect in script.DEFECTS:
        code = (ROOT / "continual_ep" / defect.file).read_text()
        assert code.count(defect.old) == 1, defect.name
        for test in defect.tests:
            file, _, function = test.partition("[")[0].partition("::")
            assert f"def {function}(" in (ROOT / "tests" / file).read_text(), defect.name


@pytest.mark.parametrize(
    ("old", "new", "test", "outcome"),
    [
        ("return 1", "return 2", "test_a.py::test_one", "caught"),
        ("return 1", "return 2", "test_a.py::test_nothing", "alive"),
        ("return 1", "return 2", "test_a.py::test_absent", "stale"),
        ("return 1", "return (", "test_a.py::test_one", "stale"),
        ("return 3", "return 2", "test_a.py::test_one", "stale"),
    ],
)
def test_what_becomes_of_a_defect(script, tmp_path, old, new, test, outcome):
    for folder in ("continual_ep", "tests"):
        (tmp_path / folder).mkdir()
    code = tmp_path / "continual_ep/one.py"
    code.write_text("def one():\n    return 1\n")
    (tmp_path / "tests/test_a.py").write_text(
        "from continual_ep.one import one\n"
        "def test_one():\n    assert one() == 1\n"
        "def test_nothing():\n    pass\n"
    )
    (tmp_path / "pyproject.toml").write_text("")
    defect = script.Defect("a defect", "one.py", old, new, (test,))
    assert script.outcome(defect, tmp_path)[0] == outcome
    assert code.read_text() == "def one():\n    return 1\n"


def test_unknown_names_are_refused(script):
    assert [defect.name for defect in script.chosen(["sign of the nudge"])]
    with pytest.raises(SystemExit, match="no defect is called 'sign of the judge'"):
        script.chosen(["sign of the judge"])
