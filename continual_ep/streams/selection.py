"""Which class comes when, and which samples of it: index arithmetic without any data."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, InputError


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator of its own for each (seed, purpose), so that no draw shifts another's."""
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def order_of_classes(
    n_classes: int, seed: int | None = 0, explicit: Sequence[int] | None = None
) -> tuple[int, ...]:
    """The order in which classes appear: drawn from its own generator, natural, or as given.

    :param seed: seeds the permutation; None is the natural order ``0, 1, ...``.
    :param explicit: a permutation of all labels; overrides the seed.
    """
    if explicit is not None:
        order = tuple(int(label) for label in explicit)
        if sorted(order) != list(range(n_classes)):
            raise ConfigurationError(
                f"class_order={list(order)} must name each of the classes 0..{n_classes - 1} once."
            )
        return order
    if seed is None:
        return tuple(range(n_classes))
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randperm(n_classes, generator=generator).tolist())


def sizes_of_experiences(n_classes: int, experiences: int | Sequence[int]) -> tuple[int, ...]:
    """How many classes each experience brings; no class is ever left over.

    A number of experiences divides the classes as equally as possible, larger ones first:
    10 classes in 3 experiences are 4, 3, 3. A sequence states the sizes.
    """
    if isinstance(experiences, int):
        if not 1 <= experiences <= n_classes:
            raise ConfigurationError(
                f"experiences={experiences} is impossible with {n_classes} classes: "
                f"choose 1..{n_classes}."
            )
        size, larger = divmod(n_classes, experiences)
        return tuple(size + (index < larger) for index in range(experiences))
    sizes = tuple(int(size) for size in experiences)
    if not sizes or min(sizes) < 1 or sum(sizes) != n_classes:
        raise ConfigurationError(
            f"experiences={list(sizes)} must be sizes of at least 1 that add up to the "
            f"{n_classes} classes."
        )
    return sizes


def groups_of_classes(order: Sequence[int], sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The order cut into experiences: ``(3, 1, 2, 0), (2, 2) -> ((3, 1), (2, 0))``."""
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(
        tuple(order[start : start + size]) for start, size in zip(starts, sizes, strict=True)
    )


def validation_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted indices ``(training, validation)``; the share is drawn within each class.

    A class of n samples gives ``round(fraction * n)`` of them, at least one.

    :param labels: ``(n,)`` int64.
    :raises InputError: a class too small to give one sample and keep one.
    """
    if not 0 <= fraction < 1:
        raise ConfigurationError(f"validation={fraction} must lie in [0, 1).")
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    if fraction > 0:
        for label in labels.unique().tolist():
            members = torch.nonzero(labels == label).flatten()
            count = max(1, round(fraction * len(members)))
            if count >= len(members):
                raise InputError(
                    f"validation={fraction} leaves no training sample of class {label}, which has "
                    f"{len(members)}: lower it or add samples."
                )
            generator = named_generator(seed, f"validation of class {label}")
            held_out[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def limited(
    labels: Tensor,
    indices: Tensor,
    groups: Sequence[Sequence[int]],
    per_class: int | None = None,
    per_experience: int | None = None,
) -> Tensor:
    """The first ``per_class`` of each class, then the first ``per_experience`` of each experience.

    First means first in the original order; the result is sorted.

    :param labels: ``(n,)`` labels of the whole set; ``indices``: the part of it to choose from.
    :raises InputError: a limit that leaves a class without a sample.
    """
    for name, limit in (("per_class", per_class), ("per_experience", per_experience)):
        if limit is not None and limit < 1:
            raise ConfigurationError(f"{name}={limit} must be at least 1.")
    kept = []
    for experience, group in enumerate(groups):
        members = [indices[labels[indices] == label][:per_class] for label in group]
        chosen = torch.cat(members).sort().values[:per_experience]
        lost = sorted(set(group) - set(labels[chosen].tolist()))
        if lost:
            raise InputError(
                f"per_experience={per_experience} leaves experience {experience} no sample of "
                f"classes {lost}: raise it."
            )
        kept.append(chosen)
    return torch.cat(kept).sort().values
