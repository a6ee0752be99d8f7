"""Task labels, domains, online streams: what each experience holds, in real strategies."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import rotate

from continual_ep.errors import ConfigurationError
from continual_ep.metrics import AccuracyMatrix
from continual_ep.plugins import AwakeRehearsal, SleepReplay
from continual_ep.strategies import EPStrategy
from continual_ep.streams import class_incremental, domain_incremental, online


def arrays_file(path, value, classes=2, shape=(4,)):
    """Sample i of class c holds value + 10 c + i."""
    y = np.arange(3 * classes) % classes
    x = np.stack([np.full(shape, value + 10 * c + i) for i, c in enumerate(y)]).astype(np.float32)
    np.savez(path, train_x=x, train_y=y, test_x=x, test_y=y)
    return path


def matrix(experience):
    return torch.stack([sample[0] for sample in experience.dataset])


def test_experiences_may_be_given_class_by_class():
    benchmark = class_incremental("digits", [[3, 1], [0, 2, 4, 5, 6, 7], [9, 8]])
    seen = [set(experience.dataset.targets) for experience in benchmark.train_stream]
    assert seen == [{3, 1}, {0, 2, 4, 5, 6, 7}, {9, 8}]
    assert benchmark.class_order == (3, 1, 0, 2, 4, 5, 6, 7, 9, 8)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9]], r"\[1\] stand twice"),
        ([[0, 1], [2, 3]], "each of the classes must stand in one"),
        ([list(range(10)), []], "each of the classes"),
    ],
)
def test_impossible_class_lists(groups, message):
    with pytest.raises(ConfigurationError, match=message):
        class_incremental("digits", groups)


@pytest.mark.parametrize("classes", [3, [0, 1, 2], ["0", "1", "2"], "file"])
def test_a_stream_of_some_classes(tmp_path, classes):
    if classes == "file":
        classes = tmp_path / "classes.txt"
        classes.write_text("0 zero, the first\n\n1\n2\n")
    benchmark = class_incremental("digits", 3, classes=classes, seed=None)
    assert benchmark.n_classes == 3 and benchmark.class_names == ("0", "1", "2")
    assert [set(e.dataset.targets) for e in benchmark.train_stream] == [{0}, {1}, {2}]


def test_chosen_classes_are_renumbered_in_their_order():
    some = class_incremental("digits", 2, classes=[7, 2], seed=None)
    assert some.label_values == (7, 2) and some.class_names == ("7", "2")
    whole = class_incremental("digits", 10, seed=None)
    assert torch.equal(matrix(some.train_stream[0]), matrix(whole.train_stream[7]))


@pytest.mark.parametrize("classes", [0, 11, ["ten"], [10], [1, 1], [], "nowhere.txt"])
def test_impossible_choices_of_classes(classes):
    with pytest.raises(ConfigurationError, match="classes"):
        class_incremental("digits", 1, classes=classes)


def test_task_labels_on_request():
    benchmark = class_incremental("digits", 5, task_labels=True, validation=0.1)
    for name in ("train", "test", "validation"):
        labels = [set(e.dataset.targets_task_labels) for e in benchmark.streams[name]]
        assert labels == [{0}, {1}, {2}, {3}, {4}]


def test_standardized_inputs_have_mean_0_and_deviation_1(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (50, 3, 4, 4)).astype(np.uint8)
    x[:, 1] = 7
    y = np.arange(50) % 2
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    benchmark = class_incremental(tmp_path / "a.npz", 1, standardize=True, flatten=False)
    images = matrix(benchmark.train_stream[0])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    expected = torch.tensor([1.0, 0.0, 1.0])  # a constant channel stays as it is
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), expected, atol=1e-4, rtol=0)


def test_images_with_channels_last_are_turned(tmp_path):
    x = np.arange(2 * 5 * 6 * 3).reshape(2, 5, 6, 3).astype(np.float32)
    y = np.array([0, 1])
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    benchmark = class_incremental(tmp_path / "a.npz", 1, flatten=False, scale="none")
    assert benchmark.input_shape == (3, 5, 6)
    torch.testing.assert_close(
        matrix(benchmark.train_stream[0]), torch.from_numpy(x).permute(0, 3, 1, 2)
    )


# ---- domains ---------------------------------------------------------------------------------


def test_sets_follow_each_other_with_shared_labels(tmp_path):
    first, second = (arrays_file(tmp_path / f"{v}.npz", v) for v in (1, 2))
    benchmark = domain_incremental([first, second], scale="none", validation=0.3)
    assert [e.dataset[0][0][0].item() % 10 for e in benchmark.test_stream] == [1, 2]
    for stream in benchmark.streams.values():
        assert [set(e.dataset.targets) for e in stream] == [{0, 1}, {0, 1}]
    assert benchmark.n_classes == 2 and benchmark.classes_per_experience == ((0, 1), (0, 1))
    assert [len(e.dataset) for e in benchmark.validation_stream] == [2, 2]


def test_sets_of_other_shapes_or_classes_do_not_fit(tmp_path):
    first = arrays_file(tmp_path / "1.npz", 1)
    for other in (
        arrays_file(tmp_path / "2.npz", 2, shape=(5,)),
        arrays_file(tmp_path / "3.npz", 2, classes=3),
    ):
        with pytest.raises(ConfigurationError, match="one shape and classes"):
            domain_incremental([first, other])


def test_permutations_keep_the_pixels_of_each_sample_and_change_with_the_seed():
    benchmark = domain_incremental("digits", 3, domains="permuted", seed=1)
    plain = domain_incremental("digits", 1, domains="permuted", seed=2)
    first, second, third = (matrix(e) for e in benchmark.test_stream)
    assert torch.equal(first, matrix(plain.test_stream[0]))  # the first domain is the set itself
    assert torch.equal(second.sort(1).values, first.sort(1).values)
    assert not torch.equal(second, first) and not torch.equal(third, second)
    again = domain_incremental("digits", 3, domains="permuted", seed=1)
    assert torch.equal(matrix(again.test_stream[1]), second)
    other = domain_incremental("digits", 3, domains="permuted", seed=2)
    assert not torch.equal(matrix(other.test_stream[1]), second)
    # One permutation for training and test.
    moved = {tuple(sorted(x.tolist())): x for x in matrix(benchmark.train_stream[0])}
    position = [int(torch.nonzero(second[0] == v)[0]) for v in second[0].unique()]
    assert len(moved) > 1000 and position


def test_rotations_turn_each_image_by_the_angle_of_its_experience():
    benchmark = domain_incremental("digits", domains="rotated", angles=[0, 90], flatten=False)
    straight, turned = (matrix(e) for e in benchmark.test_stream)
    assert straight.shape[1:] == (1, 8, 8)
    torch.testing.assert_close(turned, torch.rot90(straight, 1, (2, 3)), atol=1e-5, rtol=0)
    drawn = domain_incremental("digits", 3, domains="rotated", seed=5)
    assert drawn.input_shape == (64,)
    assert not torch.equal(matrix(drawn.test_stream[1]), matrix(drawn.test_stream[2]))
    assert torch.equal(matrix(drawn.test_stream[0]), rotate(straight, 0.0).flatten(1))


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("digits", {"domains": "sets"}, "two sets or more"),
        (["digits", "digits"], {"experiences": 3}, "two sets or more"),
        (["digits", "digits"], {"domains": "permuted"}, "changes one set"),
        ("digits", {"domains": "mirrored"}, "unknown"),
        ("digits", {"domains": "permuted", "angles": [1.0]}, "angles"),
        ("digits", {"domains": "rotated", "experiences": 2, "angles": [1.0]}, "as many as angles"),
    ],
)
def test_impossible_domains(names, options, message):
    with pytest.raises(ConfigurationError, match=message):
        domain_incremental(names, **options)


def test_feature_vectors_cannot_be_rotated(tmp_path):
    with pytest.raises(ConfigurationError, match="feature vectors"):
        domain_incremental(arrays_file(tmp_path / "1.npz", 1), 2, domains="rotated")


def test_limits_and_task_labels_of_domains():
    benchmark = domain_incremental("digits", 2, domains="permuted", per_class=3, task_labels=True)
    assert [Counter(e.dataset.targets) for e in benchmark.train_stream] == [
        dict.fromkeys(range(10), 3)
    ] * 2
    assert [set(e.dataset.targets_task_labels) for e in benchmark.train_stream] == [{0}, {1}]


# ---- online ----------------------------------------------------------------------------------


def samples(stream):
    return sorted((tuple(x.tolist()), int(y)) for e in stream for x, y, _ in e.dataset)


def test_online_experiences_are_small_and_hold_every_sample_once():
    whole = class_incremental("digits", 5, per_class=12)
    before = torch.get_rng_state()
    benchmark = online(whole, 10, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(e.dataset) for e in benchmark.train_stream] == [10, 10, 4] * 5
    assert benchmark.origin_experience == tuple(sorted(list(range(5)) * 3))
    assert samples(benchmark.train_stream) == samples(whole.train_stream)
    assert samples(benchmark.test_stream) == samples(whole.test_stream)
    again = online(whole, 10, seed=3)
    for one, two in zip(benchmark.train_stream, again.train_stream, strict=True):
        assert torch.equal(matrix(one), matrix(two))


def test_blurry_boundaries_mix_neighbours_and_keep_the_order():
    whole = class_incremental("digits", 5, seed=None)
    before = torch.get_rng_state()
    benchmark = online(whole, 30, overlap=4.0, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    seen = [set(e.dataset.targets) for e in benchmark.train_stream]
    assert any(len(classes) > 2 for classes in seen)
    assert seen[0] <= {0, 1} and seen[-1] <= {8, 9}
    assert benchmark.origin_experience[0] == 0 and set(benchmark.origin_experience) == set(range(5))
    again = online(whole, 30, overlap=4.0, seed=1)
    assert [list(e.dataset.targets) for e in again.train_stream] == [
        list(e.dataset.targets) for e in benchmark.train_stream
    ]


@pytest.mark.parametrize("options", [{"experience_size": 0}, {"overlap": 1.0}])
def test_impossible_online_streams(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        online(class_incremental("digits"), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: class_incremental("digits", 3, classes=6, per_class=10, task_labels=True),
        lambda: domain_incremental("digits", 2, domains="permuted", per_class=5),
        lambda: domain_incremental(["digits", "digits"], per_class=5, validation=0.1),
        lambda: online(class_incremental("digits", 2, classes=4, per_class=10), 20),
        lambda: online(class_incremental("digits", 2, classes=4, per_class=20), 20, overlap=3.0),
    ],
)
def test_every_scenario_trains_sleeps_and_replays(make):
    benchmark = make()
    accuracy = AccuracyMatrix(benchmark.test_stream)
    strategy = EPStrategy(
        sizes=[64, 12, benchmark.n_classes],
        train_mb_size=5,
        plugins=[accuracy, SleepReplay(steps=20), AwakeRehearsal(per_class=1)],
        evaluator=None,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert accuracy.asleep.shape == (len(benchmark.test_stream), len(benchmark.test_stream))
    assert np.isfinite(accuracy.asleep).all()
