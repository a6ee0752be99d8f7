"""What importing costs, and what it drags in."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "package", ["", ".networks", ".relaxation", ".learning", ".sleep", ".features"]
)
def test_numerical_core_imports_without_avalanche(package):
    """Also where Avalanche is not installed at all: the import is made to fail."""
    run(
        "import sys; sys.modules['avalanche'] = None\n"
        f"import continual_ep{package}\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] in "
        "('torchvision', 'sklearn', 'matplotlib', 'pydantic', 'typer')]\n"
        "assert not loaded, loaded"
    )


def test_core_trains_and_sleeps_nothing_but_torch():
    """The package adds no heavy module to torch; its own modules are what an import costs."""
    added = run(
        "import sys, torch, torch.nn.functional\n"
        "before = set(sys.modules)\n"
        "import continual_ep, continual_ep.networks, continual_ep.learning, continual_ep.sleep\n"
        "print(' '.join({n.split('.')[0] for n in set(sys.modules) - before}))"
    ).split()
    assert set(added) <= {"continual_ep", "numpy", "torch"} | sys.stdlib_module_names


def test_version_is_the_distribution_s():
    from importlib.metadata import version

    import continual_ep

    assert version("continual-ep") == continual_ep.__version__


def test_names_of_the_package_are_loaded_when_they_are_used():
    run(
        "import sys, continual_ep\n"
        "assert 'torch' not in sys.modules\n"
        "from continual_ep import MRNN, EquilibriumPropagation\n"
        "assert 'avalanche' not in sys.modules\n"
        "from continual_ep import SleepReplay, AwakeRehearsal, class_incremental, EPStrategy\n"
        "assert set(continual_ep.__all__) <= set(dir(continual_ep))\n"
        "assert all(hasattr(continual_ep, name) for name in continual_ep.__all__)\n"
        "try:\n    continual_ep.MRNNN\nexcept AttributeError:\n    pass\n"
        "else:\n    raise AssertionError('an unknown name was found')"
    )
