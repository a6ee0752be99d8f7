"""Flips and crops of whole batches: what each pixel becomes, and who sees it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from continual_ep.errors import CheckpointError, ConfigurationError, InputError
from continual_ep.plugins import Augmentation, BatchFeed
from continual_ep.strategies import EPStrategy
from continual_ep.streams import class_incremental
from continual_ep.streams.transforms import RandomTransforms, flip, shifted_crop


def test_only_the_chosen_images_are_mirrored():
    x = torch.arange(12.0).view(2, 1, 2, 3)
    result = flip(x, torch.tensor([False, True]))
    assert torch.equal(result[0], x[0])
    assert result[1].tolist() == [[[8, 7, 6], [11, 10, 9]]]


@given(st.integers(0, 3), st.integers(0, 10**6))
def test_crops_are_cut_out_of_the_padded_image(padding, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 4, 5, generator=generator)
    down, right = torch.randint(2 * padding + 1, (2, 3), generator=generator)
    result = shifted_crop(x, padding, down, right)
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    for i, (d, r) in enumerate(zip(down, right, strict=True)):
        assert torch.equal(result[i], padded[i, :, d : d + 4, r : r + 5])


def test_batches_keep_their_shape_and_the_seed_decides():
    x = torch.rand(20, 48)
    first, second, other = (
        RandomTransforms((3, 4, 4), flip=True, padding=1, seed=seed)(x) for seed in (1, 1, 2)
    )
    assert first.shape == x.shape
    assert torch.equal(first, second) and not torch.equal(first, other)
    nothing = RandomTransforms((3, 4, 4))(x)
    assert torch.equal(nothing, x)


@pytest.mark.parametrize(("shape", "options"), [(None, {}), ((64,), {}), ((8, 8), {"padding": -1})])
def test_impossible_transforms(shape, options):
    with pytest.raises(ConfigurationError):
        RandomTransforms(shape, **options)


def test_other_images_are_refused():
    with pytest.raises(InputError, match=r"\(65,\) are not \(1, 8, 8\)"):
        RandomTransforms((8, 8), flip=True)(torch.zeros(2, 65))


def trained(benchmark, plugins):
    torch.manual_seed(3)
    strategy = EPStrategy(sizes=[64, 12, 10], train_mb_size=20, plugins=plugins, evaluator=None)
    strategy.train(benchmark.train_stream[0])
    return strategy


def test_training_sees_transformed_batches_and_evaluation_does_not():
    benchmark = class_incremental("digits", 5, per_class=20)
    seen = {"train": [], "eval": []}

    class Spy(Augmentation):
        def after_forward(self, strategy, **kwargs):
            seen["train"].append(strategy.mb_x.clone())

        def after_eval_forward(self, strategy, **kwargs):
            seen["eval"].append(strategy.mb_x.clone())

    strategy = trained(benchmark, [Spy(benchmark.image_shape, flip=False, padding=2), BatchFeed()])
    strategy.eval(benchmark.test_stream[0])
    rows = {tuple(x.tolist()) for x, *_ in benchmark.train_stream[0].dataset}
    inputs = [tuple(x.tolist()) for x in torch.cat(seen["train"])]
    assert sum(x in rows for x in inputs) < len(inputs) / 2
    test = {tuple(x.tolist()) for x, *_ in benchmark.test_stream[0].dataset}
    assert all(tuple(x.tolist()) in test for x in torch.cat(seen["eval"]))


def test_augmentation_leaves_the_trainings_random_stream_alone():
    benchmark = class_incremental("digits", 5, per_class=20)
    plain = trained(benchmark, []).model.state_dict()
    after_plain = torch.get_rng_state()
    idle = trained(benchmark, [Augmentation(benchmark.image_shape, flip=False, padding=0)])
    assert torch.equal(torch.get_rng_state(), after_plain)
    assert all(torch.equal(plain[k], v) for k, v in idle.model.state_dict().items())
    moved = trained(benchmark, [Augmentation(benchmark.image_shape)])
    assert torch.equal(torch.get_rng_state(), after_plain)
    assert any(not torch.equal(plain[k], v) for k, v in moved.model.state_dict().items())


def test_its_state_resumes_the_same_transforms():
    x = torch.rand(9, 64)
    first = Augmentation((8, 8))
    first.transforms(x)
    state = first.state_dict()
    expected = first.transforms(x)
    second = Augmentation((8, 8), seed=5)
    second.load_state_dict(state)
    assert torch.equal(second.transforms(x), expected)
    for wrong in ({}, {"generator": 3}, {"generator": torch.zeros(3, dtype=torch.uint8)}):
        with pytest.raises(CheckpointError, match="generator"):
            second.load_state_dict(wrong)
