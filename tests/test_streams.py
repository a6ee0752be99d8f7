"""Streams: what each experience holds, and that nothing is dropped, shared or drawn globally."""

import hashlib
import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from continual_ep.errors import ConfigurationError, ContinualEPWarning, InputError
from continual_ep.streams import SOURCES, Arrays, class_incremental, domain_incremental, source
from continual_ep.streams.selection import (
    groups_of_classes,
    limited,
    named_generator,
    order_of_classes,
    sizes_of_experiences,
    validation_split,
)


def toy_file(tmp_path, per_class=6, labels=(0, 1, 2, 3), shape=(4,), dtype=np.float32):
    """An .npz whose sample i has the constant value i / n, so that every sample is known."""
    train_y = np.tile(labels, per_class)
    n = len(train_y)
    train_x = (np.arange(n) / n).reshape(n, *[1] * len(shape)) * np.ones((n, *shape))
    path = tmp_path / "toy.npz"
    np.savez(
        path,
        train_x=train_x.astype(dtype),
        train_y=train_y,
        test_x=train_x[: len(labels)].astype(dtype),
        test_y=train_y[: len(labels)],
    )
    return path


def labels_of(experience):
    return Counter(experience.dataset.targets)


# ---- order and sizes -------------------------------------------------------------------------


@given(n_classes=st.integers(1, 40), data=st.data())
def test_sizes_are_nearly_equal_larger_first_and_complete(n_classes, data):
    experiences = data.draw(st.integers(1, n_classes))
    sizes = sizes_of_experiences(n_classes, experiences)
    assert len(sizes) == experiences
    assert sum(sizes) == n_classes
    assert max(sizes) - min(sizes) <= 1
    assert list(sizes) == sorted(sizes, reverse=True)


@given(n_classes=st.integers(1, 30), seed=st.integers(0, 2**31))
def test_every_class_appears_once_in_any_order(n_classes, seed):
    order = order_of_classes(n_classes, seed)
    groups = groups_of_classes(order, sizes_of_experiences(n_classes, min(3, n_classes)))
    assert sorted(label for group in groups for label in group) == list(range(n_classes))


def test_order_is_seeded_natural_or_given():
    assert order_of_classes(10, 3) == order_of_classes(10, 3)
    assert len({order_of_classes(10, seed) for seed in range(5)}) > 1
    assert order_of_classes(4, None) == (0, 1, 2, 3)
    assert order_of_classes(4, 0, [3, 1, 0, 2]) == (3, 1, 0, 2)


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_order_must_name_each_class_once(order):
    with pytest.raises(ConfigurationError, match=r"0\.\.3 once"):
        order_of_classes(4, 0, order)


@pytest.mark.parametrize("experiences", [0, 5, [], [4, 0], [1, 1, 1], [3, 2]])
def test_impossible_sizes_are_refused(experiences):
    with pytest.raises(ConfigurationError, match="experiences="):
        sizes_of_experiences(4, experiences)


def test_uneven_classes_are_all_kept_and_announced():
    with pytest.warns(ContinualEPWarning, match=r"\[4, 3, 3\]"):
        benchmark = class_incremental("digits", 3)
    seen = [set(labels_of(e)) for e in benchmark.train_stream]
    assert [len(classes) for classes in seen] == [4, 3, 3]
    assert set.union(*seen) == set(range(10))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ContinualEPWarning)
        class_incremental("digits", [4, 3, 3])


# ---- what a benchmark holds --------------------------------------------------------------------


def test_digits_are_complete_scaled_and_labelled_as_in_the_source():
    benchmark = class_incremental("digits", 5, seed=1)
    assert benchmark.input_shape == (64,)
    assert benchmark.image_shape == (8, 8)
    assert benchmark.class_names == tuple("0123456789")
    train = sum(len(e.dataset) for e in benchmark.train_stream)
    test = sum(len(e.dataset) for e in benchmark.test_stream)
    assert train + test == 1797
    for stream in (benchmark.train_stream, benchmark.test_stream):
        for experience, classes in zip(stream, benchmark.classes_per_experience, strict=True):
            assert set(labels_of(experience)) == set(classes)
    x, y, task = benchmark.train_stream[0].dataset[0]
    assert x.shape == (64,) and x.dtype == torch.float32 and isinstance(y, int) and task == 0
    values = torch.stack([sample[0] for sample in benchmark.train_stream[0].dataset])
    assert values.min() == 0 and values.max() == 1
    assert benchmark.class_order == tuple(c for g in benchmark.classes_per_experience for c in g)


def test_digits_have_one_test_set_for_all_seeds_with_a_fifth_of_each_class():
    tests = []
    for seed in (0, 1):
        benchmark = class_incremental("digits", 1, seed=seed)
        data = benchmark.test_stream[0].dataset
        tests.append({(tuple(x.tolist()), y) for x, y, _ in data})
        train = labels_of(benchmark.train_stream[0])
        for label, count in labels_of(benchmark.test_stream[0]).items():
            assert count == round((count + train[label]) / 5)
    assert tests[0] == tests[1]


def test_one_class_per_experience():
    benchmark = class_incremental("digits", 10)
    assert [len(labels_of(e)) for e in benchmark.train_stream] == [1] * 10


def test_global_random_state_is_not_touched():
    def state():
        numpy_state = np.random.get_state()
        return torch.get_rng_state(), random.getstate(), numpy_state[1].tobytes(), numpy_state[2]

    before = state()
    class_incremental("digits", 5, seed=7, validation=0.2, per_class=5)
    after = state()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_images_keep_their_shape_on_request(tmp_path):
    grey = class_incremental(toy_file(tmp_path, shape=(3, 5)), 2, flatten=False)
    assert grey.input_shape == (1, 3, 5) and grey.image_shape == (3, 5)
    flat = class_incremental(toy_file(tmp_path, shape=(2, 3, 5)), 2)
    assert flat.input_shape == (30,) and flat.image_shape == (2, 3, 5)
    features = class_incremental(toy_file(tmp_path, shape=(7,)), 2, flatten=False)
    assert features.input_shape == (7,) and features.image_shape is None


@pytest.mark.parametrize(
    ("values", "dtype", "scale", "divisor"),
    [
        ([0, 51, 102], np.uint8, "auto", 255.0),  # bytes by their range, whatever the maximum
        ([0, 51, 102], np.uint8, "max", 102.0),
        ([0, 51, 102], np.uint8, "none", 1.0),
        ([0.0, 0.2, 0.5], np.float32, "auto", 1.0),  # in [0, 1] already
        ([0.0, 2.0, 4.0], np.float64, "auto", 4.0),
        ([-3.0, 2.0, 4.0], np.float32, "auto", 1.0),  # cannot be brought to [0, 1] by dividing
        ([-3.0, 2.0, 4.0], np.float32, "max", 4.0),
        ([0, 2, 8], np.int64, "auto", 8.0),
    ],
)
def test_scaling(tmp_path, values, dtype, scale, divisor):
    x = np.array(values, dtype=dtype).reshape(3, 1)
    y = np.array([0, 1, 2])
    np.savez(tmp_path / "s.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    benchmark = class_incremental(tmp_path / "s.npz", 1, scale=scale)
    assert benchmark.divisor == divisor
    inputs = sorted(sample.item() for sample, _, _ in benchmark.train_stream[0].dataset)
    assert inputs == pytest.approx([value / divisor for value in values])


def test_labels_with_gaps_are_mapped_and_the_mapping_kept(tmp_path):
    benchmark = class_incremental(toy_file(tmp_path, labels=(7, -2, 30)), 3, seed=None)
    assert benchmark.label_values == (-2, 7, 30)
    assert benchmark.class_names == ("-2", "7", "30")
    assert [set(labels_of(e)) for e in benchmark.train_stream] == [{0}, {1}, {2}]
    # sample 0 of the file had the label 7, which is now 1
    assert (0.0, 1) in {(x[0].item(), y) for x, y, _ in benchmark.train_stream[1].dataset}


def test_a_new_source_is_one_function():
    @source("two-points")
    def two_points(root, download):
        return Arrays.checked([[0.0], [1.0]], [0, 1], [[0.0], [1.0]], [0, 1])

    try:
        assert class_incremental("two-points", 2).n_experiences == 2
    finally:
        del SOURCES["two-points"]


# ---- validation and limits -----------------------------------------------------------------------


def test_validation_takes_a_seeded_share_of_each_class_out_of_training():
    whole = class_incremental("digits", 5, seed=None)
    split = class_incremental("digits", 5, seed=None, validation=0.25)
    assert set(split.streams) == {"train", "test", "validation"}
    assert split.validation_stream is split.streams["validation"]
    for index in range(5):
        complete = labels_of(whole.train_stream[index])
        train = labels_of(split.train_stream[index])
        held_out = labels_of(split.validation_stream[index])
        assert train + held_out == complete
        assert held_out == {label: round(0.25 * n) for label, n in complete.items()}
    assert "validation" not in whole.streams


def test_validation_samples_are_disjoint_and_follow_the_seed():
    labels = torch.arange(40) % 4
    train, held_out = validation_split(labels, 0.3, seed=0)
    assert sorted(train.tolist() + held_out.tolist()) == list(range(40))
    assert torch.equal(held_out, validation_split(labels, 0.3, seed=0)[1])
    assert not torch.equal(held_out, validation_split(labels, 0.3, seed=1)[1])


def test_no_validation_sample_is_trained_on(tmp_path):
    path = toy_file(tmp_path, per_class=8)  # sample i is the constant i / 32
    options = {"scale": "none", "validation": 0.25, "seed": 3}
    for benchmark in (
        class_incremental(path, 2, **options),
        domain_incremental([path, path], **options),
    ):
        numbers = {
            name: [round(32 * float(x[0])) for e in benchmark.streams[name] for x, *_ in e.dataset]
            for name in ("train", "validation")
        }
        assert set(numbers["train"]) | set(numbers["validation"]) == set(range(32))
        assert not set(numbers["train"]) & set(numbers["validation"])
        assert len(set(numbers["validation"])) == 8


def test_a_class_keeps_and_gives_at_least_one_sample():
    train, held_out = validation_split(torch.tensor([0, 0, 0, 1, 1]), 0.1, seed=0)
    assert len(held_out) == 2 and len(train) == 3
    with pytest.raises(InputError, match="class 1, which has 1"):
        validation_split(torch.tensor([0, 0, 1]), 0.1, seed=0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_impossible_validation_share(fraction):
    with pytest.raises(ConfigurationError, match="validation="):
        validation_split(torch.arange(4), fraction, seed=0)


def test_limits_keep_the_first_samples_in_the_original_order():
    labels = torch.tensor([0, 0, 1, 0, 2, 1, 2, 3, 3, 1])
    everything = torch.arange(10)
    groups = [(0, 1), (3, 2)]
    assert limited(labels, everything, groups).tolist() == list(range(10))
    assert limited(labels, everything, groups, per_class=1).tolist() == [0, 2, 4, 7]
    # experience (0, 1) has samples 0 1 2 3 5 9, experience (3, 2) has 4 6 7 8
    assert limited(labels, everything, groups, per_experience=3).tolist() == [0, 1, 2, 4, 6, 7]
    assert limited(labels, everything, groups, per_class=2, per_experience=3).tolist() == [
        *[0, 1, 2],
        *[4, 6, 7],
    ]


def test_limits_concern_training_alone():
    benchmark = class_incremental("digits", 5, validation=0.25, per_class=3)
    assert [len(e.dataset) for e in benchmark.train_stream] == [6] * 5
    whole = class_incremental("digits", 5, validation=0.25)
    for name in ("test", "validation"):
        assert [len(e.dataset) for e in benchmark.streams[name]] == [
            len(e.dataset) for e in whole.streams[name]
        ]


def test_a_limit_may_not_empty_a_class(tmp_path):
    with pytest.raises(InputError, match="per_experience=1 leaves experience 0 no sample"):
        class_incremental("digits", 5, per_experience=1)
    for limit in ("per_class", "per_experience"):
        with pytest.raises(ConfigurationError, match=f"{limit}=0"):
            class_incremental("digits", 5, **{limit: 0})


def test_named_generators_keep_their_numbers():
    """Class splits and exemplars of published results depend on them."""
    seed = int.from_bytes(hashlib.sha256(b"angles:3").digest()[:7], "big")
    expected = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(4, generator=named_generator(3, "angles")), expected)
    assert named_generator(0, "digits test split").initial_seed() == 17775564183654167
