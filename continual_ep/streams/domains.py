"""Domain-incremental benchmarks: all experiences share their classes; the inputs change."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continual_ep.errors import ConfigurationError
from continual_ep.features import Images
from continual_ep.streams.benchmark import (
    ContinualBenchmark,
    Loaded,
    describe,
    from_parts,
    load_samples,
)
from continual_ep.streams.selection import limited, named_generator, validation_split
from continual_ep.streams.tensor_data import Samples

DOMAINS = ("sets", "permuted", "rotated")


def domain_incremental(
    names: str | Path | Sequence[str | Path],
    experiences: int | None = None,
    *,
    domains: str = "sets",
    seed: int | None = 0,
    angles: Sequence[float] | None = None,
    root: str | Path | None = None,
    download: bool = False,
    classes: int | Sequence[int | str] | str | Path | None = None,
    validation: float = 0.0,
    per_class: int | None = None,
    per_experience: int | None = None,
    images: Images | None = None,
    flatten: bool = True,
    scale: str = "auto",
    standardize: bool = False,
    task_labels: bool = False,
) -> ContinualBenchmark:
    """Build an Avalanche benchmark of experiences that share their classes.

    * ``"sets"``: several data sets one after the other, class k of each being output k; MNIST, then
      Fashion-MNIST is the cross-modal stream of Tadros et al. 2022 (doi:10.1038/s41467-022-34938-7).
    * ``"permuted"``: the pixels of one set, permuted anew in each experience but the
      first (Goodfellow et al. 2013, arXiv:1312.6211).
    * ``"rotated"``: the images of one set, rotated by another angle in each experience.

    :param names: one named set, array file or folder of images; of ``"sets"``, several.
    :param experiences: how many; of ``"sets"``, as many as there are names.
    :param seed: draws permutations, angles and the validation split, each with a generator of its own.
    :param angles: degrees, counter-clockwise, one per experience; drawn from (-180, 180), the first 0,
        when None.
    :param task_labels: label each experience as a task of its own.

    The other parameters are those of :func:`~continual_ep.streams.class_incremental`. Every experience
    holds its own copy of the set.

    :raises ConfigurationError: options that cannot work, or sets that do not fit each other.
    :raises InputError: data that cannot be learned from.
    :raises MissingDataError: a set that is not on disk.
    """
    names = [names] if isinstance(names, str | Path) else list(names)
    count = _number_of_experiences(names, experiences, domains, angles)
    options: dict[str, Any] = {
        "root": root,
        "download": download,
        "classes": classes,
        "images": images,
        "scale": scale,
        "standardize": standardize,
    }
    turning = domains == "rotated"
    sets = [load_samples(name, flatten=flatten and not turning, **options) for name in names]
    _check_that_they_fit(names, sets)
    first, number = sets[0], 0 if seed is None else seed
    if domains == "permuted":
        sets = [_permuted(first, experience, number) for experience in range(count)]
    elif turning:
        turns = _angles(angles, count, number)
        sets = [_rotated(first, angle, flatten) for angle in turns]

    everything = tuple(range(first.arrays.n_classes))
    train, test, held_out = [], [], []
    for loaded in sets:
        labels = loaded.train.labels
        kept, left = validation_split(labels, validation, number)
        kept = limited(labels, kept, [everything], per_class, per_experience)
        train.append(loaded.train.part(kept))
        test.append(loaded.test.part())
        held_out.append(loaded.train.part(left))
    benchmark = from_parts(train, test, held_out if validation else None, task_labels=task_labels)
    benchmark.n_classes = len(everything)
    described = describe(
        benchmark, "+".join(map(str, names)), sets[0], everything, (everything,) * len(sets)
    )
    described.fingerprint = cache(lambda: "+".join(s.arrays.fingerprint() for s in sets))
    described.class_names_of = tuple(loaded.arrays.class_names for loaded in sets)
    described.class_names = tuple(
        " / ".join(dict.fromkeys(meanings))
        for meanings in zip(*described.class_names_of, strict=True)
    )
    return described


def _number_of_experiences(
    names: Sequence[str | Path],
    experiences: int | None,
    domains: str,
    angles: Sequence[float] | None,
) -> int:
    if domains not in DOMAINS:
        raise ConfigurationError(f"domains={domains!r} is unknown: choose one of {DOMAINS}.")
    if domains == "sets":
        if len(names) < 2 or experiences not in (None, len(names)):
            raise ConfigurationError(
                f"domains='sets' needs two sets or more, an experience each: {len(names)} named, "
                f"experiences={experiences}."
            )
        return len(names)
    if len(names) != 1:
        raise ConfigurationError(f"domains={domains!r} changes one set; {len(names)} are named.")
    if angles is not None and domains != "rotated":
        raise ConfigurationError("angles are for domains='rotated'.")
    count = len(angles) if angles is not None and experiences is None else experiences or 5
    if count < 1 or (angles is not None and len(angles) != count):
        raise ConfigurationError(
            f"experiences={experiences} must be 1 or more, and as many as angles if these are given."
        )
    return count


def _check_that_they_fit(names: Sequence[str | Path], sets: Sequence[Loaded]) -> None:
    kinds = {(loaded.arrays.train_x.shape[1:], loaded.arrays.n_classes) for loaded in sets}
    if len(kinds) > 1:
        listed = ", ".join(
            f"{name} {loaded.arrays.train_x.shape[1:]} in {loaded.arrays.n_classes} classes"
            for name, loaded in zip(names, sets, strict=True)
        )
        raise ConfigurationError(f"the sets of one stream need one shape and classes: {listed}.")


def _permuted(loaded: Loaded, experience: int, seed: int) -> Loaded:
    if experience == 0:
        return loaded
    shape = loaded.train.part().batch(torch.zeros(1, dtype=torch.int64)).shape[1:]
    generator = named_generator(seed, f"permutation of experience {experience}")
    permutation = torch.randperm(math.prod(shape), generator=generator)

    def permute(x: Tensor) -> Tensor:
        return x.flatten(1)[:, permutation].view_as(x)

    return _changed(loaded, permute)


def _angles(angles: Sequence[float] | None, count: int, seed: int) -> list[float]:
    if angles is not None:
        return [float(angle) for angle in angles]
    drawn = torch.rand(count - 1, generator=named_generator(seed, "angles")) * 360 - 180
    return [0.0, *drawn.tolist()]


def _rotated(loaded: Loaded, angle: float, flatten: bool) -> Loaded:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import rotate

    if loaded.preparation.image_shape is None:
        raise ConfigurationError(
            "domains='rotated' rotates images; this set holds feature vectors."
        )

    def turn(x: Tensor) -> Tensor:
        turned = rotate(x, angle, InterpolationMode.BILINEAR) if angle % 360 else x
        return turned.flatten(1) if flatten else turned

    return _changed(loaded, turn)


def _changed(loaded: Loaded, change: Any) -> Loaded:
    """Apply a change to all prepared samples, in pieces that bound the memory."""

    def changed(samples: Samples) -> Samples:
        rows = torch.arange(len(samples.labels)).split(4096)
        whole = samples.part()
        return Samples(torch.cat([change(whole.batch(part)) for part in rows]), samples.labels)

    return loaded._replace(train=changed(loaded.train), test=changed(loaded.test))
