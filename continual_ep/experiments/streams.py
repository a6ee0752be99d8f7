"""The output of ``continual-ep streams``: a table of streams, or a picture of one."""

from pathlib import Path

from rich.console import Console
from rich.padding import Padding

from continual_ep.errors import ConfigurationError
from continual_ep.experiments.build import build_stream
from continual_ep.experiments.config import RunConfig
from continual_ep.streams import SOURCES, draw_stream
from continual_ep.streams.sources import PLACES


def list_streams(root: Path, console: Console) -> None:
    """Print a table of all registered streams.

    :param root: folder of the named sets.
    """
    line = "{:16} {:>7} {:>8}  {:19} {}"
    console.print(
        line.format("stream", "classes", "shape", "train + test", "on disk"), style="bold"
    )
    for stream in SOURCES.values():
        shape = "" if stream.shape is None else "×".join(map(str, stream.shape))
        samples = "" if stream.samples is None else " + ".join(f"{n:,}" for n in stream.samples)
        on_disk = "yes" if stream.is_on_disk(root) else "no"
        row = line.format(stream.name, stream.classes or "", shape, samples, on_disk)
        console.print(row, highlight=False, soft_wrap=True)
        licence = stream.licence or "not stated"
        _print_below(console, f"{stream.title} Licence: {licence}.")
    for kind, what in PLACES.items():
        console.print(f"{kind}:PATH", highlight=False)
        _print_below(console, what)
    console.print(f"looked for in {root.absolute()} (--root)", highlight=False, soft_wrap=True)


def _print_below(console: Console, text: str) -> None:
    console.print(Padding(text, (0, 0, 0, 4)), style="dim", highlight=False)


def picture_of(config: RunConfig, out: Path | None, console: Console, *, columns: int = 10) -> Path:
    """Draw the stream of a configuration into a file and print its path.

    :param out: the file; ``<stream>.png`` here if None.
    :raises ConfigurationError: a stream that cannot be built, or a file that cannot be written.
    """
    path = Path(f"{config.stream.title}.png") if out is None else out
    benchmark = build_stream(config)
    try:
        path = draw_stream(benchmark, path, columns=columns)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"cannot write the picture {path}: {error}") from None
    shape = "×".join(map(str, benchmark.image_shape or benchmark.input_shape))
    counts = [len(experience.dataset) for experience in benchmark.train_stream]
    console.print(
        f"{benchmark.name}: {len(counts)} experiences, {benchmark.n_classes} classes, {shape}, "
        f"{sum(counts):,} training samples",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    return path
