"""The command line: a thin door. Heavy modules are imported by the command that needs them."""

import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from continual_ep.errors import ContinualEPError

streams_app = typer.Typer(help="What can be learned, and what it looks like.")
app = typer.Typer(
    name="continual-ep",
    help="Continual learning with sleep: equilibrium propagation networks and sleep replay.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(streams_app, name="streams")

STREAM = "A name of `continual-ep streams`, arrays:FILE.npz or image-folder:FOLDER."
BACKBONE = "Frozen network whose features are the inputs: mobilenet_v2, resnet50, module:function."
SET = "Any option by its dotted name, e.g. --set training.epochs=4 --set learning.0.beta=0.1."

# Options of several commands.
Scenario = Annotated[str | None, typer.Option(help="class-incremental or domain-incremental.")]
Experiences = Annotated[
    str | None, typer.Option(help="Number of experiences, or classes in each: 4,3,3.")
]
OrderSeed = Annotated[int | None, typer.Option(help="Seed of the class order.")]
Classes = Annotated[
    str | None,
    typer.Option(help="Keep so many classes, these (with commas), or those named in a file."),
]
Root = Annotated[str | None, typer.Option(help="Folder of the data sets.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch what is missing.")]
Hidden = Annotated[str | None, typer.Option(help="Hidden units, e.g. 256 or 512,512.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET)]


def _version(asked: bool) -> None:
    if asked:
        print(version("continual-ep"))
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: Annotated[Path | None, typer.Argument(help="YAML file; none: the demo.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Published settings instead of a file, e.g. dendritic-ep-mnist."),
    ] = None,
    stream: Annotated[str | None, typer.Option(help=STREAM)] = None,
    scenario: Scenario = None,
    classes: Classes = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels of image files, without a backbone.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help=BACKBONE)] = None,
    weights: Annotated[str | None, typer.Option(help="File with its state dict.")] = None,
    cache: Annotated[str | None, typer.Option(help="Folder where features are kept.")] = None,
    experiences: Experiences = None,
    order_seed: OrderSeed = None,
    root: Root = None,
    download: Download = False,
    network: Annotated[str | None, typer.Option(help="mrnn, mlp or auto.")] = None,
    hidden: Hidden = None,
    learning: Annotated[
        str | None,
        typer.Option(
            help="Rules, e.g. equilibrium-propagation,bptt; backprop: the feed-forward baseline."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each experience.")] = None,
    sleep: Annotated[
        str | None, typer.Option(help="Preset of the sleep: calibrated, tadros2022, ...")
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="What is compared: mechanisms joined by +, e.g. sequential,sleep,ewc:100+sleep."
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="0:3 for 0, 1, 2; or 0,4,7.")] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="What does the last hidden layer still know? Uses old training data."
        ),
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    workers: Annotated[str | None, typer.Option(help="Processes, or auto.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each process.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder; default runs/<stream>-<hash>.")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events.")
    ] = False,
    assignments: Assignments = None,
) -> None:
    """Train, let sleep, compare. Repeat the same command to resume."""
    given = {
        "stream.name": _names(stream),
        "stream.scenario": scenario,
        "stream.classes": _classes(classes),
        "stream.images.size": image_size,
        "stream.images.backbone": backbone,
        "stream.images.weights": weights,
        "stream.images.cache": cache,
        "stream.experiences": _one_or_many(experiences, "--experiences"),
        "stream.order_seed": order_seed,
        "stream.root": root,
        "stream.download": download or None,
        "network.kind": network,
        "network.hidden": _numbers(hidden, "--hidden"),
        "training.epochs": epochs,
        "sleep.preset": sleep,
        "arms": arms if arms is None else arms.split(","),
        "seeds": seeds if seeds is None or ":" in seeds else _numbers(seeds, "--seeds"),
        "probe": probe or None,
        "device": device,
        "workers": int(workers) if workers is not None and workers.isdigit() else workers,
        "threads": threads,
        "out": out,
        "tensorboard": tensorboard or None,
    }
    if preset is not None:
        config = _preset(preset, config)
    values = _values(config, given, learning, assignments or [])
    from continual_ep.experiments.config import config_from

    resolved = config_from(values, "the options" if config is None else f"{config} and the options")
    try:
        from continual_ep.experiments.run import run as run_config

        comparison = run_config(resolved, console=Console(), fork=True)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None
    if comparison.dead:
        raise typer.Exit(1)  # the report names them


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or parts of them.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and figures; none: only the tables.")
    ] = None,
) -> None:
    """The tables and figures of any runs on disk."""
    from continual_ep.experiments.compare import compare as compare_runs
    from continual_ep.experiments.report import show, write_into

    console = Console()
    comparison = compare_runs(runs)
    show(comparison, console)
    if out is not None:
        for path in write_into(comparison, out):
            console.print(f"figure: {path}", highlight=False, soft_wrap=True)


@app.command()
def night(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of one of its cells.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; none: nights/ of the cell.")
    ] = None,
) -> None:
    """Draw the nights of a run: margins, weight changes, spikes. Trains one cell again."""
    from continual_ep.experiments.night import draw_nights

    console = Console()
    for path in draw_nights(run, out, console):
        console.print(f"figure: {path}", highlight=False, soft_wrap=True)


@streams_app.callback(invoke_without_command=True)
def streams(
    context: typer.Context,
    root: Annotated[Path, typer.Option(help="Folder of the data sets.")] = Path("data"),
) -> None:
    """List the streams: classes, shape, size, licence, and whether they are on disk."""
    if context.invoked_subcommand is None:
        from continual_ep.experiments.streams import list_streams

        list_streams(root, Console())


@streams_app.command(name="show")
def show_stream(
    name: Annotated[str, typer.Argument(help=STREAM)],
    out: Annotated[Path | None, typer.Option(help="Picture; default <name>.png.")] = None,
    columns: Annotated[int, typer.Option(min=1, help="Samples in a row.")] = 10,
    scenario: Scenario = None,
    experiences: Experiences = None,
    order_seed: OrderSeed = None,
    classes: Classes = None,
    image_size: Annotated[int | None, typer.Option(help="Side of image files in pixels.")] = None,
    root: Root = None,
    download: Download = False,
    assignments: Assignments = None,
) -> None:
    """Write a picture of a stream: a row of samples for each experience, with class names."""
    given = {
        "stream.name": _names(name),
        "stream.scenario": scenario,
        "stream.experiences": _one_or_many(experiences, "--experiences"),
        "stream.order_seed": order_seed,
        "stream.classes": _classes(classes),
        "stream.images.size": image_size,
        "stream.root": root,
        "stream.download": download or None,
    }
    values = _values(None, given, None, assignments or [])
    from continual_ep.experiments.config import config_from
    from continual_ep.experiments.streams import picture_of

    picture_of(config_from(values), out, Console(), columns=columns)


@app.command()
def options(
    part: Annotated[
        str | None, typer.Argument(help="Only those of stream, network, learning, ...")
    ] = None,
) -> None:
    """List every option of a run, with defaults, as Markdown tables."""
    from continual_ep.experiments.reference import markdown_table

    print(markdown_table(part))


@app.command(name="check-gradients")
def check_gradients(
    config: Annotated[Path | None, typer.Option(help="YAML file of a run.")] = None,
    network: Annotated[str | None, typer.Option(help="mrnn or auto.")] = None,
    hidden: Hidden = None,
    learning: Annotated[str | None, typer.Option(help="Rules, with commas.")] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            "--import",
            metavar="MODULE:FUNCTION",
            help="A function of yours that returns (network, x, y, criterion).",
        ),
    ] = None,
    reference: Annotated[str, typer.Option(help="exact or bptt.")] = "exact",
    batch: Annotated[int, typer.Option(min=1, help="Samples, of a run's stream.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights.")] = 0,
    assignments: Assignments = None,
) -> None:
    """Compare a rule's gradient with a reference, layer by layer."""
    from continual_ep.experiments.gradients import check_configured, check_imported

    console = Console()
    if factory is not None:
        check_imported(factory, reference, console)
        return
    given = {
        "network.kind": network,
        "network.hidden": _numbers(hidden, "--hidden"),
    }
    values = _values(config, given, learning, assignments or [])
    from continual_ep.experiments.config import config_from

    check_configured(config_from(values), reference, console, batch=batch, seed=seed)


def _values(
    path: Path | None,
    given: dict[str, Any],
    learning: str | None,
    assignments: list[str],
) -> dict[str, Any]:
    """A file's values with the command line's laid over them; --set comes last."""
    from continual_ep.errors import ConfigurationError
    from continual_ep.experiments import overrides
    from continual_ep.experiments.config import read_yaml

    values = {} if path is None else read_yaml(path)
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds a {type(values).__name__}, not options by name")
    for key, value in given.items():
        if value is not None:
            overrides.assign(values, key.split("."), value)
    if learning is not None:
        overrides.choose_learning(values, learning.split(","))
    for text in assignments:
        overrides.assign(values, *overrides.parsed_assignment(text))
    return values


def _numbers(text: str | None, option: str) -> list[int] | None:
    from continual_ep.errors import ConfigurationError

    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"{option} {text!r}: give whole numbers, with commas") from None


def _preset(name: str, config: Path | None) -> Path:
    """The file of a preset."""
    from continual_ep.errors import ConfigurationError

    folder = Path(__file__).parent / "presets"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if config is not None:
        raise ConfigurationError(f"give either --preset {name} or {config}, not both")
    if name not in known:
        raise ConfigurationError(f"preset {name!r} is unknown; choose one of {', '.join(known)}")
    return folder / f"{name}.yaml"


def _names(text: str | None) -> str | list[str] | None:
    """Several streams with commas; a path with one is given by --set."""
    return text.split(",") if text is not None and "," in text else text


def _classes(text: str | None) -> int | list[int | str] | str | None:
    """A number, a list with commas, or a file."""
    if text is None or text.isdigit():
        return None if text is None else int(text)
    if "," not in text:
        return text
    return [int(part) if part.isdigit() else part for part in text.split(",") if part]


def _one_or_many(text: str | None, option: str) -> int | list[int] | None:
    numbers = _numbers(text, option)
    return numbers[0] if numbers is not None and len(numbers) == 1 else numbers


def main() -> NoReturn:
    """Runs the command; the user's mistakes are messages, not tracebacks, and exit with code 2."""
    # A terminated run stops as an interrupted one does: workers first, then the message.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except ContinualEPError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        sys.exit(_usage_error(error))
    sys.exit(code or 0)


def _usage_error(error: Exception) -> int:
    """Shows what typer found wrong with the command line; any other exception goes on."""
    if not hasattr(error, "exit_code") or not hasattr(error, "show"):
        raise error
    error.show()
    return int(error.exit_code)
