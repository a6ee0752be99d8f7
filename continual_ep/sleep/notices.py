"""What a night shows of a network that sleep cannot help as it is, with the remedy."""

from collections.abc import Iterator

from continual_ep.sleep.diary import NightReport, SleepDiary

#: Fewer steps say little; nights of a few steps are for trying things.
STEPS = 1000

#: A unit that spikes in more than this part of all steps does not follow its input.
ENDLESS = 0.9


def notices(report: NightReport) -> Iterator[tuple[str, str]]:
    """``(key, message)`` for each thing that the user should know of a night."""
    if isinstance(report, SleepDiary) and report.steps >= STEPS:
        yield from _silence(report)
        yield from _endless(report)


def _silence(diary: SleepDiary) -> Iterator[tuple[str, str]]:
    if not int(diary.counts[:, 0].sum()):
        yield (
            "no input spikes",
            "no input unit spiked during the night, so nothing was replayed: the mean input is zero or "
            "negative, or dreams return no rates above 0",
        )
    elif not any(diary.spikes):
        yield (
            "silent night",
            "no unit above the input spiked during the night, so no weight changed: thresholds are "
            f"{_listed(diary.thresholds)}; lower output_threshold, raise firing_rate or max_rate, or "
            "leave thresholds to the calibration",
        )
    else:
        silent = [name for name, n in zip(diary.layers, diary.spikes, strict=True) if not n]
        if silent:
            yield (
                "silent layers",
                f"these layers had no spikes during the night, as nothing reached their thresholds: "
                f"{', '.join(silent)}. Layers above them did not sleep either; lower output_threshold, "
                "raise firing_rate, or sleep longer (steps)",
            )


def _endless(diary: SleepDiary) -> Iterator[tuple[str, str]]:
    always = {
        name: int((counts > ENDLESS * diary.steps).sum())
        for name, counts in zip(diary.layers, diary.unit_counts, strict=True)
    }
    if any(always.values()):
        units = ", ".join(f"{n} of {name}" for name, n in always.items() if n)
        yield (
            "endless activity",
            f"units spiked at nearly every step of the night, whatever was replayed: {units}. Their "
            "changes say nothing of what was learned: raise thresholds (lower firing_rate, higher "
            'output_threshold), and do not replay biases as currents (biases="current")',
        )


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
