"""Which exemplars are kept, what batches hold, and that a resumed run has the same ones."""

import io
import random
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.forward_passes import penultimate
from continual_ep.networks import MRNN
from continual_ep.plugins import AwakeRehearsal, SleepReplay
from continual_ep.plugins.exemplars import (
    ExemplarMemory,
    MixedBatches,
    herding_order,
)
from continual_ep.streams import class_incremental


class Spy(SupervisedPlugin):
    """Labels of every batch, by experience."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def before_training_exp(self, strategy, **kwargs):
        self.batches.append([])

    def before_training_iteration(self, strategy, **kwargs):
        self.batches[-1].append(strategy.mb_y.tolist())


@pytest.fixture(scope="module")
def benchmark():
    return class_incremental("digits", 5, seed=0, per_class=20)


def naive(*plugins, model=None, seed=0, epochs=1, batch=8):
    torch.manual_seed(seed)
    model = model or nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        train_mb_size=batch,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


class Agent:
    """As much of a strategy as a memory looks at."""

    def __init__(self, model=None):
        self.model, self.device = model, "cpu"


def filled(benchmark, experiences=5, model=None, **options):
    memory = ExemplarMemory(**options)
    for experience in benchmark.train_stream[:experiences]:
        memory.post_adapt(Agent(model), experience)
    return memory


def per_label(memory):
    return Counter(memory.entries[:, 2].tolist())


# ---- which samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", ["class-balanced", "herding"])
def test_two_per_class_grow_with_the_classes(benchmark, selection):
    model = nn.Sequential(nn.Linear(64, 10))
    for learned in range(1, 6):
        memory = filled(benchmark, learned, model, per_class=2, selection=selection)
        seen = [c for group in benchmark.classes_per_experience[:learned] for c in group]
        assert per_label(memory) == dict.fromkeys(seen, 2)
        assert len(memory.buffer) == 4 * learned


def test_a_balanced_total_is_shared_with_more_for_the_first_classes(benchmark):
    memory = filled(benchmark, 3, total=20)
    first, second, third = benchmark.classes_per_experience[:3]
    assert sorted(memory.classes) == sorted([*first, *second, *third])
    # 20 over 6 classes: 4, 4, 3, 3, 3, 3 in the order of appearance
    assert [per_label(memory)[label] for label in memory.classes] == [4, 4, 3, 3, 3, 3]
    assert set(memory.classes[:2]) == set(first)


def test_a_reservoir_holds_its_total_exactly(benchmark):
    assert [len(filled(benchmark, n, total=50, selection="reservoir")) for n in (1, 2, 5)] == [
        40,  # all there is: 2 classes of 20
        50,
        50,
    ]


def test_a_class_with_fewer_samples_than_its_quota_gives_what_it_has(benchmark):
    assert len(filled(benchmark, 2, per_class=1000)) == 80


def test_exemplars_are_the_samples_their_indices_name(benchmark):
    memory = filled(benchmark, per_class=3)
    for (experience, index, label), sample in zip(
        memory.entries.tolist(), memory.buffer, strict=True
    ):
        x, y, _ = benchmark.train_stream[experience].dataset[index]
        assert torch.equal(sample[0], x)
        assert sample[1] == y == label


def test_kept_exemplars_stay_when_quotas_shrink(benchmark):
    def of_first(memory):
        return {tuple(row) for row in memory.entries.tolist() if row[0] == 0}

    early, late = filled(benchmark, 1, total=20), filled(benchmark, 5, total=20)
    assert of_first(late) < of_first(early)


def test_the_reservoir_is_uniform_over_the_stream(benchmark):
    counts = Counter()
    for seed in range(60):
        memory = filled(benchmark, total=20, selection="reservoir", seed=seed)
        counts.update(memory.entries[:, 0].tolist())
    # 1200 draws over 5 equal experiences: 240 each, standard deviation below 14
    assert all(abs(counts[k] - 240) < 60 for k in range(5))


def test_an_experience_seen_again_replaces_itself(benchmark):
    for options in ({"per_class": 2}, {"total": 30, "selection": "reservoir"}):
        once, twice = filled(benchmark, **options), filled(benchmark, **options)
        twice.post_adapt(Agent(), benchmark.train_stream[4])
        assert torch.equal(once.entries, twice.entries)


def test_selection_follows_the_seed_and_leaves_the_global_state_alone(benchmark):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    model = nn.Sequential(nn.Linear(64, 10))
    for selection in ("class-balanced", "reservoir", "herding"):
        filled(benchmark, model=model, total=10, selection=selection)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    # Creating the layer drew from the generator; the selections after it must not have.
    torch.set_rng_state(before[0])
    nn.Linear(64, 10)
    assert torch.equal(torch.get_rng_state(), after[0])
    assert before[1:] == after[1:]
    a, b = (filled(benchmark, per_class=2, seed=s).entries for s in (0, 1))
    assert torch.equal(a, filled(benchmark, per_class=2, seed=0).entries)
    assert not torch.equal(a, b)


def test_resize_keeps_the_best(benchmark):
    memory = filled(benchmark, 2, total=8)
    memory.resize(None, 4)
    assert torch.equal(memory.entries, filled(benchmark, 2, total=4).entries)
    with pytest.raises(ConfigurationError, match="no total"):
        filled(benchmark, 1, per_class=1).resize(None, 4)


def herding_in_numpy(features, count):
    """Algorithm 4 of Rebuffi et al. 2017, written from the paper: indices in the order of choice."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean, chosen = unit.mean(axis=0), []
    for _ in range(count):
        distances = [
            np.linalg.norm(mean - unit[[*chosen, i]].mean(axis=0)) if i not in chosen else np.inf
            for i in range(len(unit))
        ]
        chosen.append(int(np.argmin(distances)))
    return chosen


def test_herding_keeps_the_running_mean_close_to_the_class_mean():
    # Unit vectors at 0, 10, 20 and 90 degrees; their mean is (0.731, 0.379), at 27.4 degrees.
    # k = 1: 20 degrees is closest. k = 2: with 90 degrees the mean is (0.470, 0.671), with 10 degrees
    # (0.962, 0.258), with 0 degrees (0.970, 0.171): distances 0.392, 0.261, 0.317. k = 3: with 90
    # degrees (0.641, 0.505), with 0 degrees (0.975, 0.172): distances 0.155, 0.320.
    angles = torch.deg2rad(torch.tensor([0.0, 10.0, 20.0, 90.0]))
    features = 3 * torch.stack([angles.cos(), angles.sin()], dim=1)
    assert herding_order(features, 4).tolist() == [2, 1, 3, 0]
    assert herding_order(features, 2).tolist() == [2, 1]
    # By distance to the mean alone 0 degrees would come before 90.
    nearest = (features / 3 - features.mean(0) / 3).norm(dim=1).argsort().tolist()
    assert nearest == [2, 1, 0, 3]


def test_a_herded_memory_keeps_the_first_samples_in_herding_order(benchmark):
    options = {"selection": "herding", "features": lambda model, x: x}
    memory = filled(benchmark, 2, nn.Identity(), per_class=4, **options)
    halved = filled(benchmark, 2, nn.Identity(), total=12, **options)
    halved.resize(None, 8)
    for number, experience in enumerate(benchmark.train_stream[:2]):
        x = np.stack([x.numpy() for x, *_ in experience.dataset]).astype(np.float64)
        labels = np.array(list(experience.dataset.targets))
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            order = [int(members[i]) for i in herding_in_numpy(x[members], len(members))]
            for kept, count in ((memory, 4), (halved, 2)):
                mine = (kept.entries[:, 0] == number) & (kept.entries[:, 2] == int(label))
                assert kept.entries[mine][:, 1].tolist() == sorted(order[:count])
            # The test can tell: neither the last in order nor the nearest to the mean are the same.
            unit = x[members] / np.linalg.norm(x[members], axis=1, keepdims=True)
            nearest = np.linalg.norm(unit - unit.mean(0), axis=1).argsort()[:4]
            assert set(order[-4:]) != set(order[:4]) != set(members[nearest].tolist())


def test_herding_reads_the_layer_below_the_readout(benchmark):
    torch.manual_seed(0)
    x = torch.rand(5, 64)
    plain = nn.Sequential(nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10))
    assert torch.equal(penultimate(plain, x), plain[1](plain[0](x)))
    assert torch.equal(penultimate(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), x), x)
    network = MRNN([64, 12, 10])
    assert torch.allclose(penultimate(network, x), network.activities(x)[-2])
    with pytest.raises(ConfigurationError, match="features="):
        penultimate(nn.Sequential(nn.Flatten()), x)
    given = filled(
        benchmark, 2, nn.Flatten(), per_class=2, selection="herding", features=lambda m, x: m(x)
    )
    assert len(given) == 8


# ---- what batches hold ---------------------------------------------------------------------------------


@given(
    new=st.integers(1, 40),
    memory=st.integers(1, 40),
    n_new=st.integers(1, 9),
    n_exemplars=st.integers(1, 9),
    drop_last=st.booleans(),
)
def test_batches_pass_once_over_the_new_and_in_rounds_over_the_exemplars(
    new, memory, n_new, n_exemplars, drop_last
):
    sampler = MixedBatches((new, memory), n_new, n_exemplars, drop_last=drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    fresh = [i for batch in batches for i in batch if i < new]
    old = Counter(i for batch in batches for i in batch if i >= new)
    assert len(set(fresh)) == len(fresh) == (new // n_new * n_new if drop_last else new)
    assert all(sum(i >= new for i in batch) == n_exemplars for batch in batches)
    assert all(len(batch) == n_new + n_exemplars for batch in batches[:-1])
    if batches:
        assert len(old) == min(memory, n_exemplars * len(batches))
        assert max(old.values()) - min(old.get(new + k, 0) for k in range(memory)) <= 1


@pytest.mark.parametrize(
    ("options", "exemplars"),
    [({}, 4), ({"share": 0.25}, 2), ({"share": 0.01}, 1), ({"share": 0.99}, 7)],
)
def test_the_mixed_batch_has_the_strategys_size_and_a_constant_share(benchmark, options, exemplars):
    spy = Spy()
    strategy = naive(AwakeRehearsal(per_class=2, **options), spy)
    strategy.train(benchmark.train_stream[:3])
    assert [len(batch) for batch in spy.batches[0]] == [8] * 5  # the first experience as ever
    for index in (1, 2):
        new = set(benchmark.classes_per_experience[index])
        batches, left = spy.batches[index], 40
        for batch in batches:
            fresh = sum(label in new for label in batch)
            assert fresh == min(left, 8 - exemplars)
            assert len(batch) == fresh + exemplars
            left -= fresh
        assert left == 0
        old = {c for group in benchmark.classes_per_experience[:index] for c in group}
        assert {c for batch in batches for c in batch} - new <= old


def test_the_batch_size_can_be_stated(benchmark):
    spy = Spy()
    naive(AwakeRehearsal(per_class=2, batch_size=20), spy).train(benchmark.train_stream[:2])
    assert [len(batch) for batch in spy.batches[1]] == [20] * 4  # 40 new ones, 10 in each


def test_proportional_exemplars_are_seen_once_in_an_epoch(benchmark):
    spy = Spy()
    rehearsal = AwakeRehearsal(per_class=2, share="proportional")
    naive(rehearsal, spy).train(benchmark.train_stream[:3])
    assert [len(batch) for batch in spy.batches[2]] == [8] * 6  # 40 new ones and 8 exemplars
    labels = Counter(label for batch in spy.batches[2] for label in batch)
    expected = dict.fromkeys(benchmark.classes_per_experience[2], 20)
    for group in benchmark.classes_per_experience[:2]:
        expected |= dict.fromkeys(group, 2)
    assert labels == expected


def test_an_experience_does_not_rehearse_itself(benchmark):
    spy = Spy()
    strategy = naive(AwakeRehearsal(per_class=2), spy)
    for _ in range(2):
        strategy.train(benchmark.train_stream[0])
    assert [len(batch) for batch in spy.batches[1]] == [8] * 5


def test_shuffling_and_dropping_can_be_asked_for(benchmark):
    spy = Spy()
    strategy = naive(AwakeRehearsal(per_class=2), spy, batch=6)
    strategy.train(benchmark.train_stream[:2], shuffle=False, drop_last=True)
    assert [len(batch) for batch in spy.batches[1]] == [6] * 13  # 40 = 13 * 3 + 1
    # Avalanche lays out class after class
    fresh = [label for batch in spy.batches[1] for label in batch[:3]]
    assert len({tuple(fresh[:20])}) == 1 and len(set(fresh[:20])) == 1


# ---- in a strategy ---------------------------------------------------------------------------------------


def test_rehearsal_keeps_what_sequential_training_forgets(benchmark):
    def accuracy_on_the_first(*plugins):
        strategy = naive(*plugins, epochs=5)
        strategy.train(benchmark.train_stream[:3])
        data = benchmark.test_stream[0].dataset
        x, y = torch.stack([s[0] for s in data]), torch.tensor(list(data.targets))
        return (strategy.model(x).argmax(1) == y).float().mean()

    assert accuracy_on_the_first() < 0.3
    assert accuracy_on_the_first(AwakeRehearsal(per_class=5)) > 0.5


def test_no_warning_is_shown(benchmark):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="No loggers specified")
        for selection in ("class-balanced", "herding"):
            strategy = naive(AwakeRehearsal(per_class=2, selection=selection))
            strategy.train(benchmark.train_stream[:2])


@pytest.mark.parametrize("first", [True, False])
def test_it_composes_with_sleep_in_either_order_on_an_ep_network(benchmark, first):
    torch.manual_seed(0)
    rehearsal, sleep, spy = AwakeRehearsal(per_class=2), SleepReplay(steps=20), Spy()
    pair = (rehearsal, sleep) if first else (sleep, rehearsal)
    naive(*pair, spy, model=MRNN([64, 12, 10])).train(benchmark.train_stream)
    assert len(rehearsal.memory) == 20
    assert torch.equal(rehearsal.memory.entries, filled(benchmark, per_class=2).entries)
    assert {len(batch) for batch in spy.batches[4]} == {8}


@pytest.mark.parametrize("selection", ["class-balanced", "reservoir", "herding"])
@pytest.mark.parametrize("given", [True, False])
def test_a_resumed_run_is_the_same_bit_for_bit(benchmark, selection, given):
    def rehearsal():
        return AwakeRehearsal(total=10, selection=selection)

    whole = naive(rehearsal())
    for experience in benchmark.train_stream[:3]:
        whole.train(experience)

    first = naive(rehearsal())
    for experience in benchmark.train_stream[:2]:
        first.train(experience)
    file = io.BytesIO()
    torch.save(first.plugins[0].state_dict(), file)
    file.seek(0)
    again = rehearsal()
    state = torch.load(file, weights_only=True)
    again.load_state_dict(state, class_incremental("digits", 5, per_class=20) if given else None)
    first.plugins[0] = again
    first.train(benchmark.train_stream[2])

    for a, b in zip(whole.model.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.plugins[0].memory.entries, again.memory.entries)
    assert all(isinstance(v, torch.Tensor | list | dict) for v in state.values())
    assert torch.equal(whole.plugins[0].generator.get_state(), again.generator.get_state())
    assert state["entries"].shape == (10, 3)


def test_a_state_of_other_options_or_another_stream_is_refused(benchmark):
    rehearsal = AwakeRehearsal(per_class=2)
    naive(rehearsal).train(benchmark.train_stream[:2])
    state = rehearsal.state_dict()
    with pytest.raises(CheckpointError, match="chosen with"):
        AwakeRehearsal(per_class=3).load_state_dict(state)
    with pytest.raises(CheckpointError, match="experience 0 are not in this stream"):
        AwakeRehearsal(per_class=2).load_state_dict(state, class_incremental("digits", seed=3))
    with pytest.raises(CheckpointError, match="not in this stream"):
        AwakeRehearsal(per_class=2).load_state_dict(state, class_incremental("digits", 1))


@pytest.mark.parametrize("damage", ["entries", "keys", "classes", "options", "generator"])
@pytest.mark.parametrize("value", [None, 3, torch.zeros(4), "missing"])
def test_a_damaged_state_changes_nothing(benchmark, damage, value):
    rehearsal = AwakeRehearsal(per_class=2)
    naive(rehearsal).train(benchmark.train_stream[:2])
    state = rehearsal.state_dict()
    wrong = {k: v for k, v in state.items() if k != damage}
    if value != "missing":
        wrong[damage] = value
    before = rehearsal.memory.entries.clone(), rehearsal.generator.get_state()
    with pytest.raises(
        CheckpointError, match=f"{damage}|classes None|chosen with|entries of shape"
    ):
        rehearsal.load_state_dict(wrong)
    assert torch.equal(rehearsal.memory.entries, before[0])
    assert torch.equal(rehearsal.generator.get_state(), before[1])


@pytest.mark.parametrize("share", [0.5, "proportional"])
def test_the_order_of_mixed_batches_is_the_seeds_alone(benchmark, share):
    def orders(seed, drawn):
        strategy = naive(AwakeRehearsal(per_class=2, share=share, seed=seed))
        strategy.train(benchmark.train_stream[0])
        torch.manual_seed(drawn)  # of no matter for what follows
        seen = []

        class Notes(SupervisedPlugin):
            def before_forward(self, strategy, **kwargs):
                seen.append(strategy.mb_y.tolist())

        strategy.plugins.append(Notes())
        strategy.train(benchmark.train_stream[1])
        return seen

    assert orders(0, 1) == orders(0, 2) != orders(1, 1)
    assert len(set(map(str, orders(0, 1)))) > 1


def test_an_empty_experience_adds_no_exemplar(benchmark):
    memory = AwakeRehearsal(per_class=2).memory
    experience = benchmark.train_stream[0]

    class Empty:
        current_experience = 0
        dataset = experience.dataset.subset([])

    memory.post_adapt(None, Empty)
    assert len(memory) == 0 and len(memory.buffer) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"per_class": 2, "total": 20}, "exactly one"),
        ({"per_class": 0}, "per_class=0"),
        ({"total": -1}, "total=-1"),
        ({"per_class": 2, "selection": "best"}, "selection='best'"),
        ({"per_class": 2, "selection": "reservoir"}, "needs total"),
        ({"per_class": 2, "share": 0.0}, "share=0.0"),
        ({"per_class": 2, "share": 1}, "share=1"),
        ({"per_class": 2, "share": "half"}, "share='half'"),
        ({"per_class": 2, "batch_size": 0}, "batch_size=0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AwakeRehearsal(**options)


def test_a_batch_of_one_cannot_be_mixed(benchmark):
    strategy = naive(AwakeRehearsal(per_class=1), batch=1)
    with pytest.raises(ConfigurationError, match="mixed batch of 1"):
        strategy.train(benchmark.train_stream[:2])
    naive(AwakeRehearsal(per_class=1, share="proportional"), batch=1).train(
        benchmark.train_stream[:2]
    )
