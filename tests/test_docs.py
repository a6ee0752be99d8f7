"""The code in README and docs runs as it stands."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml

from continual_ep.cli import app
from continual_ep.experiments.config import config_from

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
WITH_COMMANDS = [*PAGES, "benchmarks/README.md"]


def snippets(page: str) -> list[str]:
    """The Python blocks of a page; blocks that go on from one another share their names."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_python_on_the_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = snippets(page)
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_yaml_on_the_page_is_a_configuration(page):
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        config_from(yaml.safe_load(block))


@cache
def options_of(*names: str) -> set[str]:
    """The options of a command of ours, by its own help."""
    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return {option for parameter in command.params for option in parameter.opts}


def commands(page: str) -> list[list[str]]:
    """The lines of code blocks that call our command, without their comments."""
    blocks = re.findall(r"```(?:bash|console)?\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if "continual-ep " in line]
    return [line for line in found if line and line[0] == "continual-ep"]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_on_the_page_exist(page):
    for _, *arguments in commands(page):
        names = arguments[:1]
        if arguments[:2] == ["streams", "show"]:
            names = arguments[:2]
        flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert flags <= options_of(*names), (page, arguments)


def test_there_are_commands_to_check():
    assert sum(len(commands(page)) for page in WITH_COMMANDS) >= 10


def test_every_link_leads_to_a_file():
    for page in ROOT.glob("**/*.md"):
        if {".venv", "node_modules"} & set(page.parts):
            continue
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
