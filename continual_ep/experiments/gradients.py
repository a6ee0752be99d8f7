"""``check-gradients``: a rule's gradient beside a reference, as a table per layer."""

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from continual_ep.errors import ConfigurationError, warnings_to
from continual_ep.experiments.build import build_network, build_stream
from continual_ep.experiments.config import RunConfig
from continual_ep.gradient_check import GradientReport, check_gradients
from continual_ep.networks import RecurrentModule
from continual_ep.seeding import generator_from
from continual_ep.strategies import make_loss


def check_configured(
    config: RunConfig, reference: str, console: Console, *, batch: int = 20, seed: int = 0
) -> list[GradientReport]:
    """Checks every learning rule of a configuration on its untrained network and its stream.

    In float64, so that the comparison is not limited by rounding.

    :param batch: samples, spread over the whole training stream.
    :param seed: of the initial weights, as a run of that seed draws them.
    """
    reports = []
    with warnings_to(lambda text: console.print(f"warning: {text}", markup=False, highlight=False)):
        x, y, outputs, image = _samples(config, batch)
        for learning in config.learning:
            generator = generator_from(f"weights:{seed}")
            features = math.prod(x.shape[1:])
            network = build_network(config.network, learning, features, outputs, generator, image)
            criterion = make_loss(config.training.loss, network.readout)
            report = check_gradients(network.double(), x, y, criterion, reference=reference)
            against = reference if isinstance(network, RecurrentModule) else "backprop"
            show_report(report, f"{learning.name} against {against}", console)
            reports.append(report)
    return reports


def check_imported(factory: str, reference: str, console: Console) -> GradientReport:
    """Checks a network of the user's own.

    :param factory: ``"package.module:function"``; the function returns
        ``(network, x, y, criterion)``.
    :raises ConfigurationError: when it cannot be imported or returns something else.
    """
    made = _factory(factory)()
    if not isinstance(made, tuple) or len(made) != 4:
        raise ConfigurationError(
            f"{factory} returned a {type(made).__name__}; it must return the four "
            "(network, x, y, criterion)"
        )
    report = check_gradients(*made, reference=reference)
    show_report(report, f"{factory} against {reference}", console)
    return report


def _factory(name: str) -> Callable[[], Any]:
    module_name, separator, function = name.partition(":")
    if not separator:
        raise ConfigurationError(f"--import {name!r} is not of the form package.module:function")
    sys.path.insert(0, "")  # as with python -m: modules of the current folder can be imported
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(f"--import {name}: {error}") from error
    finally:
        sys.path.remove("")
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigurationError(f"--import {name}: {module_name} has no function {function!r}")
    return found  # type: ignore[no-any-return]


def _samples(config: RunConfig, batch: int) -> tuple[Tensor, Tensor, int, tuple[int, ...] | None]:
    """Inputs and labels from all experiences in turn, the number of classes, the shape of images."""
    benchmark = build_stream(config)
    sets = [experience.dataset for experience in benchmark.train_stream]
    pairs = [
        sets[k % len(sets)][k // len(sets)][:2]
        for k in range(batch)
        if k // len(sets) < len(sets[k % len(sets)])
    ]
    x = torch.stack([sample for sample, _ in pairs]).double()
    y = torch.tensor([int(label) for _, label in pairs])
    return x, y, len(benchmark.class_order), benchmark.image_shape


def show_report(report: GradientReport, title: str, console: Console) -> None:
    """Prints a table with one line per parameter."""
    table = Table("parameter", title=title, title_justify="left", box=box.SIMPLE)
    for heading in ("cosine", "relative error", "norm"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(row.name, f"{row.cosine:.6f}", f"{row.relative_error:.2e}", f"{row.norm:.3g}")
    console.print(table)
    if report.silent_outputs > 0:
        console.print(
            f"{report.silent_outputs:.0%} of the outputs are clipped: their exact gradient is zero, but a "
            "nudge of finite size looks across the kink, so the two differ. See docs/networks.md.",
            soft_wrap=True,
        )
    if report.settling is not None and not report.settling.settled:
        console.print(
            f"The free phase did not settle: a unit still moved by {report.settling.residual:.2g} in "
            "the last step. More free_steps bring the rule closer to the exact gradient.",
            soft_wrap=True,
        )
