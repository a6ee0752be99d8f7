"""Which package may import which, and what stays private: read from the source, not from imports."""

import ast
from pathlib import Path

import pytest

import continual_ep
import continual_ep.networks

ROOT = Path(continual_ep.__file__).parent

#: Packages and modules from the bottom to the top; each may import those of earlier rows.
LAYERS = [
    {"errors", "registry"},
    {"seeding", "atomic_files", "synapses", "forward_passes", "progress"},
    {"options"},
    {"relaxation", "features"},
    {"learning"},
    {"networks", "sleep"},
    {"gradient_check", "avalanche_internals"},
    {"streams"},
    {"metrics"},
    {"plugins", "strategies"},
    {"arms"},
    {"citations"},
    {"experiments"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

#: Imports within a row or upwards, with the reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}

MODULES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.stem[0] != "_")


def package_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(tree):
    """``(module, name or None)`` of all imports of the package: also lazy ones and for types alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            if node.module.split(".")[0] == "continual_ep":
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (
                (alias.name, None)
                for alias in node.names
                if alias.name.split(".")[0] == "continual_ep"
            )


def imported_package(module, name):
    """``from continual_ep import plugins`` imports a package, too."""
    parts = [*module.split("."), *([] if name is None else [name])]
    return parts[1] if len(parts) > 1 else ""


@pytest.fixture(scope="module")
def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def test_every_package_has_its_layer(trees):
    assert {package_of(path) for path in trees} == set(LEVEL)


def test_imports_lead_downwards(trees):
    """A package imports from those below it alone; hence there is no cycle between packages."""
    upwards = {}
    for path, tree in trees.items():
        source = package_of(path)
        for module, name in imports(tree):
            target = imported_package(module, name)
            if target not in LEVEL or target == source:
                continue
            if LEVEL[target] >= LEVEL[source] and (source, target) not in EXCEPTIONS:
                upwards.setdefault((source, target), set()).add(str(path.relative_to(ROOT)))
    assert not upwards


def test_exceptions_are_still_needed(trees):
    used = {
        (package_of(path), imported_package(module, name))
        for path, tree in trees.items()
        for module, name in imports(tree)
    }
    assert set(EXCEPTIONS) <= used


def test_private_names_stay_in_their_package(trees):
    """Neither ``from other import _name`` nor ``other._name`` of an imported module."""
    reached = []
    for path, tree in trees.items():
        source, modules = package_of(path), set()
        for module, name in imports(tree):
            if imported_package(module, name) == source:
                continue
            if name is None or (ROOT.parent / module.replace(".", "/") / f"{name}.py").exists():
                modules.add((name or module).split(".")[-1])
            if name is not None and name.startswith("_") and not name.startswith("__"):
                reached.append(f"{path.relative_to(ROOT)}: {module}.{name}")
        reached += [
            f"{path.relative_to(ROOT)}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ]
    assert not reached


def test_rules_do_not_ask_for_classes_of_networks(trees):
    """A rule asks a protocol or an attribute: another class of networks may satisfy it."""
    asked = []
    for path, tree in trees.items():
        if package_of(path) not in ("learning", "relaxation"):
            continue
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id in ("isinstance", "issubclass"):
                named = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                asked += sorted(named & set(continual_ep.networks.__all__))
    assert not asked


def test_the_core_does_not_import_avalanche(trees):
    core = {name for name in LEVEL if LEVEL[name] <= LEVEL["networks"]}
    for path, tree in trees.items():
        if package_of(path) in core:
            for node in ast.walk(tree):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                names += [a.name for a in node.names] if isinstance(node, ast.Import) else []
                assert not any(name.split(".")[0] == "avalanche" for name in names), path
