"""Private and deprecated names of Avalanche are used in one module only."""

import ast
from pathlib import Path

import continual_ep

PACKAGE = Path(continual_ep.__file__).parent
INTERNALS = PACKAGE / "avalanche_internals.py"

#: Private names of Avalanche's data sets, loaders and templates.
PRIVATE = {
    *("_flat_data", "_data_attributes", "_transform_groups", "_frozen_transform_groups"),
    *("_datasets", "_indices", "_FlatDataWithTransform", "_make_taskaware_classification_dataset"),
    *("_get_loader", "_create_samplers", "_make_pytorch_loader"),
}


def names_in(path: Path) -> set[str]:
    """All imported modules and names, attributes and strings of a source file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def uses_internals(path: Path) -> set[str]:
    names = names_in(path)
    deprecated = {name for name in names if name.startswith("avalanche") and "deprecated" in name}
    # nc_benchmark is imported from a public place and made of the deprecated classes.
    return (names & (PRIVATE | {"nc_benchmark", "stream_definitions"})) | deprecated


def test_only_one_module_uses_avalanches_internals():
    users = {path: uses_internals(path) for path in PACKAGE.rglob("*.py") if path != INTERNALS}
    assert {path: names for path, names in users.items() if names} == {}


def test_the_search_sees_what_the_module_uses():
    names = uses_internals(INTERNALS)
    assert {"_flat_data", "_create_samplers", "_FlatDataWithTransform", "nc_benchmark"} <= names
    assert any("deprecated" in name for name in names)


def private_imports(path: Path) -> set[str]:
    return {
        alias.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("avalanche")
        for alias in node.names
        if alias.name.startswith("_")
    }


def test_no_other_module_imports_a_private_name_of_avalanche():
    users = {path for path in PACKAGE.rglob("*.py") if private_imports(path)}
    assert users == {INTERNALS}
