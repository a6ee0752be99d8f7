"""The command line: options arrive, mistakes are messages with exit code 2."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from continual_ep import cli
from continual_ep.experiments.compare import Comparison
from continual_ep.experiments.config import RunConfig
from continual_ep.experiments.display import Display

TINY = """
stream: {experiences: [4, 3, 3], per_class: 6}
network: {hidden: [8]}
learning: {rule: equilibrium-propagation, free_steps: 5, nudged_steps: 3}
training: {epochs: 1}
arms: [sequential]
seeds: [0]
workers: 1
"""


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """``main`` is the process's own; here it must leave no handler behind."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


class Outcome:
    """What a command printed, and its exit code."""

    def __init__(self, code: Any, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["continual-ep", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Outcome(caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def configured(command: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The configuration that a command line stands for, without running it."""
    import continual_ep.experiments.run as module

    caught: list[RunConfig] = []

    def run_nothing(config: RunConfig, **rest: Any) -> Comparison:
        caught.append(config)
        return Comparison([])

    monkeypatch.setattr(module, "run", run_nothing)

    def resolve(*arguments: str) -> RunConfig:
        outcome = command("run", *arguments)
        assert outcome.code == 0, outcome.err
        return caught.pop()

    return resolve


def test_version(command: Any) -> None:
    from importlib.metadata import version

    assert command("--version").out.strip() == version("continual-ep")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom continual_ep.cli import main\n"
        f"sys.argv = ['continual-ep', *{arguments!r}]\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, 'avalanche' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("False False")
    assert done.returncode == 0


def test_flags(configured: Any) -> None:
    config = configured(
        *"--stream mnist --experiences 2 --order-seed 7 --root here --download --hidden 30,20".split(),
        *"--learning bptt,backprop --epochs 3 --sleep tadros2022 --arms er:5,sleep".split(),
        *"--seeds 4:6 --workers 1 --threads 2 --out there --tensorboard".split(),
    )
    stream = config.stream
    assert (stream.name, stream.experiences, stream.order_seed) == ("mnist", 2, 7)
    assert stream.root == "here"
    assert config.stream.download and config.tensorboard
    assert config.network.options.hidden == [30, 20]
    assert [entry.rule for entry in config.learning] == ["bptt", "backprop"]
    assert config.training.epochs == 3
    assert config.sleep.options.preset == "tadros2022" and config.arms == ["er:5", "sleep"]
    assert (config.seeds, config.workers, config.threads, config.out) == ([4, 5], 1, 2, "there")


def test_flags_win_over_the_file_and_set_over_flags(configured: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("training: {epochs: 7, batch_size: 3}\narms: [sleep, sequential]")
    config = configured(str(path), "--epochs", "5", "--set", "training.epochs=4", "--arms", "ewc")
    assert (config.training.epochs, config.training.batch_size) == (4, 3)
    assert config.arms == ["ewc"]


def test_without_anything_it_is_the_demo(configured: Any) -> None:
    assert configured() == RunConfig()


def test_every_option_can_be_set(configured: Any) -> None:
    demo = RunConfig()
    from continual_ep.experiments.config import flattened
    from continual_ep.options import plain_values

    flat = flattened(plain_values(demo))
    texts = [f"--set={key}={json.dumps(value)}" for key, value in flat.items()]
    assert configured(*texts) == demo


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--stream cifar", ["'cifar' is unknown", "digits"]),
        ("--stream mnist --root {tmp}/none", ["mnist", "{tmp}/none", "--download"]),
        ("--stream {tmp}/none.npz", ["none.npz"]),
        ("--set stream.experience=2", ["did you mean 'experiences'"]),
        ("--set training.epochs", ["KEY=VALUE"]),
        ("--set training.epochs=0", ["training.epochs", "greater than or equal to 1"]),
        ("--hidden many", ["--hidden 'many'"]),
        ("--seeds 3:1", ["seeds", "0:3"]),
        ("--arms er:some", ["arm 'er:some'", "per_class"]),
        ("--arms er:0", ["per_class", "greater than or equal to 1"]),
        ("--arms ewcc", ["did you mean 'ewc'"]),
        ("--arms ewc,ewc", ["more than once"]),
        ("--arms ncm+sleep", ["without a trained network"]),
        ("--sleep nap --out {tmp}/new", ["'nap'", "calibrated"]),
        ("--device cuda:99 --out {tmp}/new", ["cuda:99"]),
        ("--experiences 11 --out {tmp}/new", ["11", "10 classes"]),
        ("--out {tmp}/file/below", ["{tmp}/file", "--out"]),
        ("--out {tmp}", ["files that belong to no run", "'file'"]),
        ("{tmp}/none.yaml", ["none.yaml"]),
        ("--bogus", ["--bogus"]),
        ("--workers many", ["workers", "many"]),
        ("--stream digits --backbone mobilenet_v9", ["mobilenet_v9"]),
        ("--stream image-folder:{tmp}/none", ["{tmp}/none", "train/CLASS"]),
        ("--classes 11", ["classes=11", "1..10"]),
        ("--image-size 8", ["size=8 is for image files"]),
    ],
)
def test_mistakes_are_messages(
    command: Any, tmp_path: Path, arguments: str, words: list[str]
) -> None:
    (tmp_path / "file").write_text("precious")
    outcome = command("run", *arguments.format(tmp=tmp_path).split())
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    for word in words:
        assert word.format(tmp=tmp_path) in outcome.err.replace("\n", " ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_a_dead_network_is_an_exit_code(command: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(TINY)
    arguments = ["--learning", "backprop", "--set", "training.learning_rates=1e30"]
    for _ in range(2):  # also when all cells are done already
        out = ["--out", str(tmp_path / "run")]
        done = command("run", str(tmp_path / "config.yaml"), *out, *arguments)
        assert done.code == 1 and "dead network: backprop | sequential" in done.out


def test_run_and_compare(command: Any, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(TINY)
    out = tmp_path / "run"
    done = command("run", str(tmp_path / "config.yaml"), "--out", str(out))
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if "| experience " in line]
    assert len(lines) == 3 and "1/3" in lines[0]
    assert f"figure:  {out / 'accuracy.png'}" in done.out
    assert done.err == ""

    again = command("compare", str(out), "--out", str(tmp_path / "figures"))
    assert again.code == 0, again.err
    table = [line for line in done.out.splitlines() if line.strip().startswith("sequential")]
    assert table and table[0] in again.out
    assert (tmp_path / "figures" / "accuracy.png").exists()
    assert command("compare", str(tmp_path / "none")).code == 2


def test_an_interrupted_run_says_how_to_go_on(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*rest: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Display, "_on_experience", interrupt)
    (tmp_path / "config.yaml").write_text(TINY)
    outcome = command("run", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run"))
    assert outcome.code == 130
    assert "the same command goes on" in outcome.err


def test_streams_are_listed(command: Any, tmp_path: Path) -> None:
    from continual_ep.streams import SOURCES

    outcome = command("streams", "--root", str(tmp_path))
    assert outcome.code == 0
    lines = {line.split()[0]: line for line in outcome.out.splitlines() if line[:1].strip()}
    assert set(SOURCES) | {"arrays:PATH", "image-folder:PATH"} <= set(lines)
    assert lines["digits"].split()[1:] == ["10", "8×8", "1,438", "+", "359", "yes"]
    assert lines["imagenet"].endswith("no") and "1000" in lines["imagenet"]
    assert "CC BY-SA 4.0" in " ".join(outcome.out.split())


def test_a_picture_of_a_stream(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    outcome = command("streams", "show", "digits", "--experiences", "4,3,3", "--columns", "5")
    assert outcome.code == 0 and "3 experiences, 10 classes, 8×8, 1,438" in outcome.out
    with Image.open("digits.png") as picture:
        assert picture.width > 400 and len(picture.convert("L").getcolors()) > 20
    classes = command("streams", "show", "digits", "--classes", "3,7", "--experiences", "2")
    assert "2 classes" in classes.out
    both = command(
        *"streams show digits,digits --scenario domain-incremental --out two.png".split()
    )
    assert both.code == 0 and Path("two.png").is_file()
    for arguments, word in (
        ("nowhere", "unknown"),
        ("digits --out no/folder.png", "cannot write the picture"),
        ("digits --out picture.docx", "cannot write the picture"),
    ):
        wrong = command("streams", "show", *arguments.split())
        assert wrong.code == 2 and word in wrong.err and "Traceback" not in wrong.err


def test_flags_of_streams(configured: Any) -> None:
    config = configured(
        *"--stream image-folder:/photos --classes n01,n02 --backbone resnet18".split(),
        *"--weights resnet.pth --cache there --experiences 2".split(),
    )
    assert config.stream.classes == ["n01", "n02"]
    images = config.stream.images
    assert (images.backbone, images.weights, images.cache) == ("resnet18", "resnet.pth", "there")
    config = configured("--stream", "imagenet", "--classes", "100", "--image-size", "64")
    assert (config.stream.classes, config.stream.images.size) == (100, 64)
    config = configured(*"--stream mnist,fashion-mnist --scenario domain-incremental".split())
    assert config.stream.name == ["mnist", "fashion-mnist"]
    assert configured("--classes", "wanted.txt").stream.classes == "wanted.txt"


def test_presets(configured: Any, command: Any) -> None:
    config = configured("--preset", "dendritic-ep-mnist", "--epochs", "1", "--experiences", "5")
    assert config.network.kind == "dendritic" and config.network.options.dendrites.branches == 8
    assert (config.training.epochs, config.stream.experiences) == (1, 5)
    wrong = command("run", "--preset", "dendritic")
    assert wrong.code == 2 and "dendritic-ep-mnist" in wrong.err


def test_check_gradients(command: Any) -> None:
    outcome = command(
        *"check-gradients --learning equilibrium-propagation,bptt --hidden 10,10 --batch 6".split(),
        # Without a kink: a clipped output is where EP and the derivative may differ at any beta.
        *"--set network.activation=tanh".split(),
        *"--set learning.0.beta=0.001 --set learning.0.free_steps=300".split(),
        *"--set learning.0.nudged_steps=100 --set learning.1.free_steps=300".split(),
    )
    assert outcome.code == 0, outcome.err
    rows = [line.split() for line in outcome.out.splitlines() if "weights." in line]
    assert [row[0] for row in rows] == ["weights.0", "weights.1", "weights.2"] * 2
    assert all(float(row[1]) > 0.999 for row in rows)


def test_check_gradients_of_a_network_of_ones_own(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_network.py").write_text(
        "import torch\n"
        "from continual_ep.learning import CrossEntropy\n"
        "from continual_ep.networks import MRNN\n"
        "def make():\n"
        "    generator = torch.Generator().manual_seed(0)\n"
        "    x = torch.rand(5, 4, generator=generator).double()\n"
        "    network = MRNN([4, 6, 3], generator=generator).double()\n"
        "    return network, x, torch.tensor([0, 1, 2, 0, 1]), CrossEntropy()\n"
        "def wrong():\n"
        "    return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    outcome = command("check-gradients", "--import", "my_network:make")
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("weights.") == 2
    for name, word in [
        ("my_network:wrong", "(network, x, y, criterion)"),
        ("my_network:none", "no function 'none'"),
        ("no_such_network:make", "no_such_network"),
        ("my_network", "package.module:function"),
    ]:
        outcome = command("check-gradients", "--import", name)
        assert outcome.code == 2 and word in outcome.err


def test_check_gradients_of_the_feedforward_baseline(command: Any) -> None:
    outcome = command("check-gradients", "--learning", "backprop")
    assert outcome.code == 2 and "nothing to check" in outcome.err


def test_a_run_with_recorded_phases_is_the_run_itself(command: Any, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(TINY)
    tables = []
    for option in ("false", "true"):
        out = tmp_path / option
        done = command(
            "run", str(config), "--out", str(out), "--set", f"network.cuda_graphs={option}"
        )
        assert done.code == 0, done.err
        tables.append((out / "results.csv").read_text())
    assert tables[0] == tables[1]
    tolerance = ("--set", "network.cuda_graphs=true", "--set", "learning.0.tolerance=0.001")
    done = command("run", str(config), "--out", str(tmp_path / "other"), *tolerance)
    assert done.code == 2
    assert "network.cuda_graphs" in done.err
