"""Online streams: one pass over small experiences, with sharp or blurry boundaries."""

from typing import Any

import torch
from avalanche.benchmarks.scenarios.online import (
    split_continuous_linear_decay_stream,
    split_online_stream,
)

from continual_ep.errors import ConfigurationError
from continual_ep.streams.benchmark import DESCRIPTION, ContinualBenchmark, from_parts


def online(
    benchmark: ContinualBenchmark,
    experience_size: int = 10,
    *,
    seed: int = 0,
    overlap: float | None = None,
) -> ContinualBenchmark:
    """Cut the training stream of a benchmark into small experiences, each seen once.

    The test and validation streams stay as they are. ``benchmark.origin_experience`` holds, for each
    small experience, the number of the one it was cut from; where boundaries are blurry, of the one whose
    time it falls in. Sleep and accuracies go by these (:mod:`continual_ep.streams.experiences`).

    :param benchmark: of :func:`~continual_ep.streams.class_incremental` or
        :func:`~continual_ep.streams.domain_incremental`; left as it is.
    :param experience_size: samples in each small experience; the last of each may be smaller.
    :param seed: draws the order of the samples.
    :param overlap: None for sharp boundaries. Else blurry ones, drawn by Avalanche's
        ``split_continuous_linear_decay_stream``: its ``beta``, above 1; the share of an experience
        in its neighbours' time falls linearly and lasts 2 / beta of an experience's time. Samples are then
        drawn with replacement once an experience is used up.
    :raises ConfigurationError: for a size or an overlap that cannot work.
    """
    if experience_size < 1:
        raise ConfigurationError(f"experience_size={experience_size} must be 1 or more.")
    if overlap is not None and not overlap > 1:
        raise ConfigurationError(
            f"overlap={overlap} must be above 1 (the larger, the sharper), or None for none."
        )
    # Avalanche draws from the global generator; its state is put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        parts = _parts(benchmark, experience_size, seed, overlap)
    origins = tuple(origin for origin, _ in parts)
    names = benchmark.class_names_of
    validation = benchmark.streams.get("validation")
    small: Any = from_parts(
        [data for _, data in parts],
        [experience.dataset for experience in benchmark.test_stream],
        validation and [experience.dataset for experience in validation],
    )
    for name in DESCRIPTION:
        setattr(small, name, getattr(benchmark, name))
    small.n_classes = benchmark.n_classes
    small.class_names_of = tuple(
        names[origin] if overlap is None else benchmark.class_names for origin in origins
    )
    small.origin_experience = origins
    described: ContinualBenchmark = small
    return described


def _parts(
    benchmark: ContinualBenchmark, size: int, seed: int, overlap: float | None
) -> list[tuple[int, Any]]:
    stream = benchmark.train_stream
    if overlap is None:
        return [
            (experience.current_experience, part.dataset)
            for experience in stream
            for part in split_online_stream([experience], size, seed=seed)
        ]
    samples = sum(len(experience.dataset) for experience in stream)
    steps = max(1, samples // (size * len(stream)))
    mixed = split_continuous_linear_decay_stream(stream, size, steps, overlap, shuffle=True)
    return [(number // steps, part.dataset) for number, part in enumerate(mixed)]
