"""Choose the classes and samples of each experience: index arithmetic without data."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError, InputError
from continual_ep.seeding import generator_from


def named_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator for a seed and a purpose, independent of every other purpose's."""
    return generator_from(f"{name}:{seed}", length=7)  # 7 bytes: results of version 0.1 stay


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
    # The seed itself, not a name: class orders stay those of version 0.1.
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


def chosen_classes(
    wanted: int | Sequence[int | str] | str | Path, class_names: Sequence[str]
) -> tuple[int, ...]:
    """The labels of the classes that a stream is restricted to.

    :param wanted: a number n (the first n classes), labels, class names or their first words
        (ImageNet's wnids, say), or a file with one such word per line.
    :param class_names: one name per label of the source.
    :raises ConfigurationError: for a class that the source does not have, twice the same, or none.
    """
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(class_names):
            raise ConfigurationError(
                f"classes={wanted} is impossible with {len(class_names)} classes: choose "
                f"1..{len(class_names)}."
            )
        return tuple(range(wanted))
    if isinstance(wanted, str | Path):
        wanted = _names_in(Path(wanted))
    label_of = _by_name(class_names)
    labels = [label_of.get(name, name) if isinstance(name, str) else name for name in wanted]
    unknown = [f for f in labels if not isinstance(f, int) or not 0 <= f < len(class_names)]
    if unknown or not labels or len(set(labels)) < len(labels):
        what = f"unknown: {unknown[:5]}" if unknown else "none, or one twice"
        raise ConfigurationError(
            f"classes={list(wanted)[:10]} must name different ones of the {len(class_names)} classes "
            f"{list(class_names[:3])}... or their numbers ({what})."
        )
    return tuple(int(label) for label in labels)


def _by_name(class_names: Sequence[str]) -> dict[str, int]:
    """Labels by name, and by the first word of a name (a wnid, say) where no other begins so."""
    first = [name.split(" ")[0] for name in class_names]
    words = {word: label for label, word in enumerate(first) if first.count(word) == 1}
    return words | {name: label for label, name in enumerate(class_names)}


def _names_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"cannot read the list of classes {path}: {error}") from None
    # What follows the first word is a comment, as in ImageNet's own lists.
    return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]


def explicit_groups(
    groups: Sequence[Sequence[int]], n_classes: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Order and sizes of experiences that are given class by class.

    :raises ConfigurationError: unless every class stands in one experience.
    """
    order = tuple(int(label) for group in groups for label in group)
    twice = sorted({label for label in order if order.count(label) > 1})
    if twice or sorted(order) != list(range(n_classes)) or not all(groups):
        what = f"{twice} stand twice" if twice else "each of the classes must stand in one"
        raise ConfigurationError(
            f"experiences={[list(group) for group in groups]} do not divide the classes "
            f"0..{n_classes - 1}: {what}."
        )
    return order, tuple(len(group) for group in groups)


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
