"""What of the experience at hand a night may look at: its classes, and samples."""

from collections.abc import Callable
from typing import Any

import torch
from avalanche.benchmarks.utils.utils import concat_datasets
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.metrics.evaluation import batches_of
from continual_ep.sleep.guard import Batch, sample_size
from continual_ep.streams.experiences import datasets_of


def classes_of(experience: Any) -> tuple[int, ...]:
    """The classes of an experience, in rising order; on online streams of the one it was cut from.

    :returns: empty where the data set names none.
    """
    if hasattr(experience, "is_last_subexp"):
        experience = experience.origin_experience
    # Known to Avalanche; to read the labels one by one takes as long as a short night.
    known = getattr(experience, "classes_in_this_experience", None)
    if known and len(datasets_of(experience)) == 1:
        return tuple(sorted(int(label) for label in known))
    labels = {int(label) for part in datasets_of(experience) for label in _targets(part)}
    return tuple(sorted(labels))


def newest_samples(
    experience: Any,
    generator: torch.Generator,
    batch_size: int,
    device: torch.device | str,
    size: Callable[[int], int] = sample_size,
) -> list[Batch]:
    """Random samples of an experience, as the evaluation reads them.

    :param generator: draws which; global random streams are left alone.
    :param size: how many of so many samples; default: as many as the guard looks at.
    :raises ConfigurationError: without labelled samples at hand.
    """
    refuse_without_samples(experience)
    parts = datasets_of(experience)
    sizes = torch.tensor([len(part) for part in parts], dtype=torch.long)
    total = int(sizes.sum())
    chosen = torch.randperm(total, generator=generator)[: size(total)].sort().values
    part_of_sample = torch.bucketize(chosen, sizes.cumsum(0), right=True)
    firsts = sizes.cumsum(0) - sizes
    picked = [
        parts[part].subset((chosen[part_of_sample == part] - firsts[part]).tolist())
        for part in part_of_sample.unique().tolist()
    ]
    # Transforms may draw at random although they should not in evaluation.
    with torch.random.fork_rng(devices=[]):
        return list(batches_of(concat_datasets(picked).eval(), max(1, batch_size), device))


def refuse_without_samples(experience: Any) -> None:
    """:raises ConfigurationError: for an experience without labelled samples at hand."""
    if not any(len(getattr(part, "targets", ())) for part in datasets_of(experience)):
        raise ConfigurationError(
            f"experience {experience.current_experience} has no labelled data set at hand, which a night "
            "replays and on which its guard compares the network before and after: to sleep without it "
            "use dreams='mean' and guard=False"
        )


def _targets(dataset: Any) -> Any:
    targets = getattr(dataset, "targets", ())
    if isinstance(targets, Tensor):
        return targets.unique().tolist()
    return set(targets)
