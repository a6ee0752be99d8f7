"""How fast the toolkit is: figures as ratios, both sides measured in turn in one process.

    python benchmarks/speed.py [FIGURE ...] --data DATA [--out speed.json] [--plot speed.png]
    python benchmarks/speed.py --list

DATA holds torchvision's MNIST/raw. One thread; medians. Results are added to --out, one entry for each
figure, so that figures can be measured one at a time; --plot draws the costs as work grows.
"""

import argparse
import copy
import itertools
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from continual_ep.learning import (
    EquilibriumPropagation,
    SquaredError,
    reference_gradients,
)
from continual_ep.networks import MLP, MRNN, DendriticRNN, Ensemble
from continual_ep.sleep import SleepParameters, sleep_replay
from continual_ep.sleep.reference import initial_state, sleep_step
from continual_ep.sleep.replay_input import MeanReplayInput, input_spikes, with_mask
from continual_ep.streams import class_incremental

STEPS, NUDGED, BATCH, BETA = 60, 12, 64, 0.1
#: Half the steps, red-black: the same trajectory.
RULE = EquilibriumPropagation(
    BETA, nudging="force", free_steps=STEPS // 2, nudged_steps=NUDGED // 2
)

Result = dict[str, Any]
Action = Callable[[], object]


def in_turn(*actions: tuple[Action, int], rounds: int = 5) -> list[float]:
    """The median seconds of each action, ``(action, repetitions a round)``, taken in turn."""
    times: list[list[float]] = [[] for _ in actions]
    for action, _ in actions:
        action()
    for _ in range(rounds):
        for place, (action, repetitions) in enumerate(actions):
            for _ in range(repetitions):
                begin = time.perf_counter()
                action()
                times[place].append(time.perf_counter() - begin)
    return [statistics.median(each) for each in times]


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    a, b = (torch.cat([g.double().flatten() for g in each]) for each in (found, exact))
    return float((a - b).norm() / b.norm())


def milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def batch_of(inputs: int, classes: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(size, inputs, generator=generator)
    return x, torch.randint(classes, (size,), generator=generator)


def gradients(network: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    wanted = [p for p in network.parameters() if p.requires_grad]
    return list(torch.autograd.grad(SquaredError()(network(x), y), wanted))


# ---- the step of equilibrium propagation -------------------------------------------------------


def naive_step(network: Any, x: Tensor, y: Tensor) -> list[Tensor]:
    """Autograd through the primitive function at every step, nothing cached, sign after sign."""
    return reference_gradients(
        network,
        x,
        y,
        SquaredError(),
        beta=BETA,
        free_steps=STEPS,
        nudged_steps=NUDGED,
        nudging="force",
    )


def against_naive(network: Any) -> Result:
    x, y = batch_of(784, 10)
    ours = gradients(network, x, y)
    fast, slow = in_turn(
        (lambda: gradients(network, x, y), 12), (lambda: naive_step(network, x, y), 2)
    )
    naive = naive_step(network, x, y)
    precise = copy.deepcopy(network).double()
    exact = naive_step(precise, x.double(), y)
    return {
        "ours_ms": milliseconds(fast),
        "naive_ms": milliseconds(slow),
        "ratio": round(slow / fast, 1),
        "error_float64": relative_error(gradients(precise, x.double(), y), exact),
        "error_float32": relative_error(ours, exact),
        "error_naive_float32": relative_error(naive, exact),
    }


def step_256(args: argparse.Namespace) -> Result:
    torch.manual_seed(0)
    return against_naive(MRNN([784, 256, 10], readout="linear", gain=0.7, learning=RULE))


def step_512(args: argparse.Namespace) -> Result:
    torch.manual_seed(0)
    return against_naive(MRNN([784, 512, 512, 10], readout="linear", gain=0.7, learning=RULE))


def step_dendritic(args: argparse.Namespace) -> Result:
    """Tied, for which the naive form has a primitive function; the untied step's time beside it."""
    torch.manual_seed(0)
    result = against_naive(DendriticRNN([784, 256, 10], readout="activated", learning=RULE))
    untied = DendriticRNN(
        [784, 256, 10], readout="activated", feedback="untied", feedback_scale=0.2, learning=RULE
    )
    x, y = batch_of(784, 10)
    settled = DendriticRNN(
        [784, 256, 10], readout="activated", learning=replace(RULE, tolerance=0.01, nudged_steps=4)
    )
    times = in_turn(
        (lambda: gradients(untied, x, y), 12),
        (lambda: gradients(settled, x, y), 12),
        (products_of_branches(x), 12),
    )
    return {
        **result,
        "untied_ms": milliseconds(times[0]),
        "tolerance_ms": milliseconds(times[1]),
        "ratio_tolerance": round(result["naive_ms"] / milliseconds(times[1]), 1),
        "two_largest_products_ms": milliseconds(times[2]),
    }


def products_of_branches(x: Tensor) -> Action:
    """The drive of all branches and the gradient of their weights, without which no step can do."""
    weight, opened = torch.rand(2048, 784), torch.rand(len(x), 2048)
    drive, gradient = torch.empty_like(opened), torch.empty_like(weight)

    def action() -> None:
        torch.mm(x, weight.t(), out=drive)
        torch.mm(opened.t(), x, out=gradient)

    return action


def step_tolerance(args: argparse.Namespace) -> Result:
    """Fixed steps, the tolerance, and the tolerance under weak feedback, whose gradient is corrected.

    Each trains for two epochs of MNIST; then a step of the trained network is timed, against the naive
    step of the network that was trained with fixed steps.
    """
    x, y, test_x, test_y = mnist(args.data)
    found: Result = {}
    trained: dict[str, MRNN] = {}
    settled = replace(RULE, tolerance=0.05, nudged_steps=4)
    weak = replace(settled, tolerance=0.01, nudged_steps=3, corrected=True)
    for name, rule, scale in (
        ("fixed", RULE, 1.0),
        ("tolerance", settled, 1.0),
        ("weak", weak, 0.1),
    ):
        generator = torch.Generator().manual_seed(0)
        network = MRNN(
            [784, 512, 512, 10],
            readout="linear",
            gain=0.7,
            feedback_scale=scale,
            learning=rule,
            generator=generator,
        )
        optimizer = torch.optim.SGD(network.parameter_groups([0.2, 0.1, 0.04]), lr=0.1)
        for _ in range(2):
            for batch in torch.randperm(len(x), generator=generator).split(BATCH):
                optimizer.zero_grad()
                SquaredError()(network(x[batch]), y[batch]).backward()
                optimizer.step()
        trained[name] = network
        found[f"{name}_accuracy"] = accuracy(network, test_x, test_y)
    a, b = x[:BATCH], y[:BATCH]
    *ours, naive = in_turn(
        *((lambda n=network: gradients(n, a, b), 8) for network in trained.values()),
        (lambda: naive_step(trained["fixed"], a, b), 2),
    )
    found["naive_ms"] = milliseconds(naive)
    for (name, network), seconds in zip(trained.items(), ours, strict=True):
        found[f"{name}_ms"] = milliseconds(seconds)
        found[f"{name}_ratio"] = round(naive / seconds, 1)
        found[f"{name}_free_steps"] = network.settling.steps if network.settling else None
    return found


def gemms_alone(args: argparse.Namespace) -> Result:
    """A step against the same products and nothing else, in buffers that are there already."""
    found: Result = {}
    for sizes in ([784, 256, 10], [784, 512, 512, 10], [784, 1024, 1024, 10]):
        torch.manual_seed(0)
        network = MRNN(sizes, readout="linear", gain=0.7, learning=RULE)
        x, y = batch_of(784, 10)
        times = in_turn((lambda: gradients(network, x, y), 20), (products(network, x), 20))  # noqa: B023
        found["-".join(map(str, sizes))] = {
            "ours_ms": milliseconds(times[0]),
            "gemms_ms": milliseconds(times[1]),
            "ratio": round(times[0] / times[1], 2),
        }
    return found


def products(network: MRNN, x: Tensor) -> Action:
    weights = [weight.detach() for weight in network.weights]
    depth = len(weights)
    once = [torch.rand(len(x), len(w)) for w in weights]
    twice = [torch.rand(2 * len(x), len(w)) for w in weights]
    held = [torch.rand_like(once[0]), torch.rand_like(twice[0])]
    found = [torch.empty_like(weight) for weight in weights]
    into = [[torch.empty_like(state) for state in states] for states in (once, twice)]

    def steps(states: list[Tensor], out: list[Tensor], drive: Tensor, count: int) -> None:
        for _ in range(count):
            torch.addmm(drive, states[1], weights[1], out=out[0])
            for layer in range(1, depth):
                torch.mm(states[layer - 1], weights[layer].t(), out=out[layer])
                if layer + 1 < depth:
                    torch.addmm(out[layer], states[layer + 1], weights[layer + 1], out=out[layer])

    def action() -> None:
        torch.mm(x, weights[0].t(), out=into[0][0])
        steps(once, into[0], held[0], RULE.free_steps)
        steps(twice, into[1], held[1], RULE.nudged_steps)
        torch.mm(once[0].t(), x, out=found[0])
        for layer in range(1, depth):
            torch.mm(twice[layer].t(), twice[layer - 1], out=found[layer])

    return action


# ---- training ----------------------------------------------------------------------------------


def mnist(data: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = []
    benchmark = class_incremental("mnist", 1, root=data, seed=None)
    for name in ("train", "test"):
        part = benchmark.streams[name][0].dataset
        parts += [torch.stack([x for x, *_ in part]), torch.tensor(list(part.targets))]
    return parts[0], parts[1], parts[2], parts[3]


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    right = sum(
        int((network(a).argmax(1) == b).sum())
        for a, b in zip(x.split(1000), y.split(1000), strict=True)
    )
    return round(100.0 * right / len(y), 2)


def to_97(args: argparse.Namespace) -> Result:
    """Seconds of training, evaluations aside, until 97 % of MNIST's test images are right.

    Both with plain SGD at the best of their rates (a grid on held-out images); evaluated every 100 steps.
    """
    x, y, test_x, test_y = mnist(args.data)
    quick = EquilibriumPropagation(BETA, nudging="force", free_steps=6, nudged_steps=3)
    sizes = [784, 256, 10]
    learners: dict[str, tuple[Callable[[torch.Generator], Any], list[float]]] = {
        "ep": (
            lambda g: MRNN(sizes, readout="linear", gain=0.7, learning=quick, generator=g),
            [0.5, 0.2],
        ),
        "backprop": (lambda g: MLP(sizes, activation="relu", gain=1.0, generator=g), [0.5, 0.3]),
    }
    found: Result = {}
    for name, (make, rates) in learners.items():
        seconds, steps = [], []
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            network = make(generator)
            optimizer = torch.optim.SGD(network.parameter_groups(rates), lr=rates[0])
            spent, taken = 0.0, 0
            while accuracy(network, test_x, test_y) < 97.0 and taken < 20_000:
                begin = time.perf_counter()
                for _ in range(100):
                    batch = torch.randint(len(x), (BATCH,), generator=generator)
                    optimizer.zero_grad()
                    SquaredError()(network(x[batch]), y[batch]).backward()
                    optimizer.step()
                spent += time.perf_counter() - begin
                taken += 100
            seconds.append(spent)
            steps.append(taken)
        found[name] = {"seconds": [round(s, 2) for s in seconds], "steps": steps}
    ratio = sum(found["ep"]["seconds"]) / sum(found["backprop"]["seconds"])
    return {**found, "ratio": round(ratio, 2)}


def split_mnist(args: argparse.Namespace) -> Result:
    """Split-MNIST in five with EP and five nights, against Avalanche's Naive of an MLP of the same sizes.

    5,000 images of each experience, batches of 50, one epoch, 784-512-10. Naive takes Avalanche's own path:
    torchvision's images through ToTensor, sample by sample, in the main process.
    """
    from avalanche.benchmarks import nc_benchmark
    from avalanche.training.supervised import Naive
    from torch.utils.data import Subset
    from torchvision.datasets import MNIST
    from torchvision.transforms import ToTensor

    from continual_ep.plugins import BatchFeed, SleepReplay
    from continual_ep.strategies import EPStrategy, silent_evaluator

    benchmark = class_incremental("mnist", 5, root=args.data, seed=None, per_experience=5000)
    labels = MNIST(args.data, train=True).targets
    chosen = torch.cat(
        [torch.isin(labels, torch.tensor([a, a + 1])).nonzero()[:5000, 0] for a in range(0, 10, 2)]
    ).tolist()

    def part(train: bool) -> Any:
        data = MNIST(args.data, train=train, transform=ToTensor())
        if not train:
            return data
        subset = Subset(data, chosen)
        subset.targets = labels[chosen].tolist()
        return subset

    def ours() -> None:
        torch.manual_seed(0)
        strategy = EPStrategy(
            sizes=[784, 512, 10],
            network={"readout": "activated", "gain": 0.45},
            beta=0.15,
            free_steps=12,
            nudged_steps=4,
            tolerance=1e-3,
            learning_rates=[0.045, 0.009],
            train_mb_size=50,
            plugins=[SleepReplay(), BatchFeed()],
            evaluator=silent_evaluator(),
        )
        for experience in benchmark.train_stream:
            strategy.train(experience)

    def naive() -> None:
        torch.manual_seed(0)
        plain = nc_benchmark(
            part(True), part(False), 5, task_labels=False, fixed_class_order=list(range(10))
        )
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
        strategy = Naive(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=50,
            evaluator=silent_evaluator(),
        )
        for experience in plain.train_stream:
            strategy.train(experience)

    fast, slow = in_turn((ours, 1), (naive, 1), rounds=3)
    return {"ours_s": round(fast, 2), "naive_s": round(slow, 2), "ratio": round(fast / slow, 2)}


# ---- sleep -------------------------------------------------------------------------------------


def tired(data: Path) -> tuple[nn.Sequential, Tensor]:
    """784-1200-1200-10 without biases that has learnt two digits, and its mean input."""
    x, y, *_ = mnist(data)
    chosen = (y < 2).nonzero()[:, 0][:5000]
    x, y = x[chosen], y[chosen]
    torch.manual_seed(0)
    sizes = [784, 1200, 1200, 10]
    layers: list[nn.Module] = []
    for pre, post in itertools.pairwise(sizes):
        layers += [nn.Linear(pre, post, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in torch.randperm(len(x)).split(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model, x.mean(0)


def night(args: argparse.Namespace) -> Result:
    """A night of 15,000 steps; the dense reference's cost from 60 of its steps, all of which are alike."""
    steps, sample = 15_000, 60
    model, mean = tired(args.data)
    parameters = SleepParameters(steps=steps)
    diary = sleep_replay(copy.deepcopy(model), mean, parameters)
    weights = [m.weight.detach().clone() for m in model if isinstance(m, nn.Linear)]
    replay = with_mask(MeanReplayInput(mean), tuple(mean.shape), parameters)
    spikes = next(input_spikes(replay, 784, parameters, torch.Generator().manual_seed(0)))
    rows = torch.from_numpy(np.asarray(spikes[:sample], np.float32))

    def dense() -> None:
        state = initial_state(weights)
        for row in rows:
            state = sleep_step(
                state, row, parameters, thresholds=diary.thresholds, gains=diary.gains
            )

    def ours() -> None:
        sleep_replay(copy.deepcopy(model), mean, parameters)

    fast, slow = in_turn((ours, 1), (dense, 1))
    whole = slow / sample * steps
    return {
        "ours_s": round(fast, 3),
        "dense_s": round(whole, 1),
        "ratio": round(whole / fast, 1),
        "spikes": list(diary.spikes),
        **lower_bound(diary, [w.shape for w in weights], fast),
    }


def small_cnn() -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    for pre, post in ((1, 16), (16, 32)):
        layers += [nn.Conv2d(pre, post, 3, padding=1), nn.BatchNorm2d(post), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10))


class SlimResNet(nn.Module):
    """Avalanche's SlimResNet18 on digits in three colours and a frame, 3 by 32 by 32."""

    def __init__(self) -> None:
        from avalanche.models import SlimResNet18

        super().__init__()
        self.network = SlimResNet18(10)

    def forward(self, x: Tensor) -> Tensor:
        images = nn.functional.pad(x.reshape(-1, 1, 28, 28), (2, 2, 2, 2))
        output: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return output


def nights(args: argparse.Namespace) -> Result:
    """The time of a default night over that of the epoch of 5,000 images before it, mean of five.

    Split-MNIST by whole batches. Seconds of the CPU. What the plugin does while awake counts to the night;
    its engine is compiled before.
    """
    rule = EquilibriumPropagation(0.15, free_steps=12, nudged_steps=4)
    torch.manual_seed(0)
    ep = MRNN([784, 512, 10], gain=0.45, learning=rule)
    cnn, resnet = small_cnn(), SlimResNet()
    adam, sgd = torch.optim.Adam, torch.optim.SGD
    sleep_replay(MLP([64, 8, 10]), torch.rand(64), SleepParameters(steps=10))
    return {
        "EP 784-512-10": timed_nights(ep, sgd(ep.parameters(), lr=0.05), 50, args.data),
        "CNN": timed_nights(cnn, adam(cnn.parameters(), lr=1e-3), 64, args.data),
        "SlimResNet18": timed_nights(resnet, adam(resnet.parameters(), lr=1e-3), 64, args.data),
    }


def timed_nights(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: int, data: Path
) -> Result:
    from avalanche.training.supervised import Naive

    from continual_ep.plugins import BatchFeed, SleepReplay
    from continual_ep.strategies import silent_evaluator

    class Timed(SleepReplay):
        spent = 0.0

        def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            begin = time.process_time()
            super().before_training_iteration(strategy, **kwargs)
            self.spent += time.process_time() - begin

        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            begin = time.process_time()
            super().after_training_exp(strategy, **kwargs)
            self.spent += time.process_time() - begin

    split = class_incremental("mnist", 5, root=data, seed=None, per_experience=5000)
    sleep = Timed(when="every")
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        plugins=[sleep, BatchFeed()],
        evaluator=silent_evaluator(),
    )
    rows = []
    for experience in split.train_stream:
        begin, sleep.spent = time.process_time(), 0.0
        strategy.train(experience)
        rows.append((sleep.spent, time.process_time() - begin - sleep.spent))
    ratios = [night / epoch for night, epoch in rows]
    return {
        "night_s": [round(night, 3) for night, _ in rows],
        "epoch_s": [round(epoch, 3) for _, epoch in rows],
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.mean(ratios), 3),
    }


def lower_bound(diary: Any, shapes: Sequence[tuple[int, ...]], seconds: float) -> Result:
    """What an event-driven night cannot do without.

    A spike of an input adds one weight to each unit above it (a leak of each unit that gets current is
    one more, not counted); a spike of a unit reads and writes each weight onto it once.
    """
    counts = diary.counts.double().sum(0)
    adds = sum(float(counts[layer]) * shape[0] for layer, shape in enumerate(shapes))
    learnt = sum(float(counts[layer + 1]) * shape[1] for layer, shape in enumerate(shapes))
    moved = 4.0 * adds + 8.0 * learnt
    return {
        "adds_millions": round(adds / 1e6, 2),
        "weights_changed_millions": round(learnt / 1e6, 2),
        "bytes_millions": round(moved / 1e6, 1),
        "gigabytes_per_second": round(moved / seconds / 1e9, 3),
    }


# ---- many seeds, fewer bits ----------------------------------------------------------------------


def ensemble_of(count: int, sizes: Sequence[int], device: str = "cpu") -> Ensemble:
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    rule = replace(RULE, free_steps=12, nudged_steps=4)
    members = [
        MRNN(sizes, readout="linear", gain=0.5, learning=rule, generator=g) for g in generators
    ]
    return Ensemble(members).to(device)


def seeds(args: argparse.Namespace) -> Result:
    """A step of n networks as one, against n steps of one: ``[n, milliseconds, ratio to one]``."""
    found: Result = {}
    for sizes in ([64, 30, 10], [784, 256, 10]):
        x, y = batch_of(sizes[0], 10)
        network = ensemble_of(1, sizes).member(0)
        rows = []
        for count in (1, 2, 4, 8, 16, 32):
            ensemble = ensemble_of(count, sizes)
            together, single = in_turn(
                (lambda: gradients(ensemble, x, y), 5),  # noqa: B023
                (lambda: gradients(network, x, y), 5),  # noqa: B023
            )
            rows.append([count, milliseconds(together), round(together / single, 2)])
        found["-".join(map(str, sizes))] = rows
    return found


def cosine(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    a, b = (torch.cat([g.double().flatten() for g in each]) for each in (found, exact))
    return float(a @ b / (a.norm() * b.norm()))


def fewer_bits(args: argparse.Namespace) -> Result:
    """What fewer bits in the products do to the gradient of a network that has learnt for one epoch.

    Cosine with the gradient of the same network in float64, by beta.
    """
    x, y, *_ = mnist(args.data)
    generator = torch.Generator().manual_seed(0)
    network = MRNN([784, 256, 10], readout="linear", gain=0.7, learning=RULE, generator=generator)
    optimizer = torch.optim.SGD(network.parameter_groups([0.5, 0.2]), lr=0.1)
    for batch in torch.randperm(len(x), generator=generator).split(BATCH):
        optimizer.zero_grad()
        SquaredError()(network(x[batch]), y[batch]).backward()
        optimizer.step()
    found: Result = {}
    batches = [(x[n : n + BATCH], y[n : n + BATCH]) for n in range(0, 10 * BATCH, BATCH)]
    for beta in (0.02, 0.1, 0.5):
        network.learning = replace(RULE, beta=beta)
        row: dict[str, float] = {}
        for products in ("float32", "tf32", "bfloat16"):
            network.relaxation = replace(network.relaxation, products=products)
            exact = copy.deepcopy(network).double()
            exact.relaxation = replace(network.relaxation, products="float32")
            each = [
                cosine(gradients(network, a, b), gradients(exact, a.double(), b))
                for a, b in batches
            ]
            row[products] = round(statistics.median(each), 6)
        found[f"beta {beta}"] = row
    return found


# ---- a GPU ---------------------------------------------------------------------------------------


def waiting(action: Action) -> Action:
    """``action``, and the GPU's work to its end."""

    def waited() -> None:
        action()
        torch.cuda.synchronize()

    return waited


def gpu(args: argparse.Namespace) -> Result:
    """Recorded phases against eager ones, 32 seeds against one, a night there against one here."""
    if not torch.cuda.is_available():
        return {"not measured": "no CUDA device"}
    found: Result = {}
    for sizes in ([784, 256, 10], [784, 1024, 1024, 10]):
        x, y = (part.cuda() for part in batch_of(784, 10))
        row: Result = {}
        for products in ("float32", "tf32", "bfloat16"):
            torch.manual_seed(0)
            eager = MRNN(sizes, readout="linear", gain=0.5, learning=RULE).cuda()
            eager.relaxation = replace(eager.relaxation, products=products)
            recorded = copy.deepcopy(eager)
            recorded.relaxation = replace(eager.relaxation, cuda_graphs=True)
            times = in_turn(
                (waiting(lambda: gradients(eager, x, y)), 20),  # noqa: B023
                (waiting(lambda: gradients(recorded, x, y)), 20),  # noqa: B023
            )
            with FlopCounterMode(display=False) as counter:
                gradients(eager, x, y)
            row[products] = {
                "eager_ms": milliseconds(times[0]),
                "recorded_ms": milliseconds(times[1]),
                "ratio": round(times[0] / times[1], 1),
                "teraflops": round(counter.get_total_flops() / times[1] / 1e12, 2),
            }
        found["-".join(map(str, sizes))] = row
    one, many = (ensemble_of(count, [784, 256, 10], "cuda") for count in (1, 32))
    for ensemble in (one, many):
        ensemble.relaxation = replace(ensemble.relaxation, cuda_graphs=True)
    x, y = (part.cuda() for part in batch_of(784, 10))
    times = in_turn(
        (waiting(lambda: gradients(one, x, y)), 20), (waiting(lambda: gradients(many, x, y)), 20)
    )
    found["32 seeds against one"] = round(times[1] / times[0], 2)
    model, mean = tired(args.data)
    there = copy.deepcopy(model).cuda()
    parameters = SleepParameters(steps=15_000)
    times = in_turn(
        (lambda: sleep_replay(copy.deepcopy(model), mean, parameters), 1),
        (lambda: sleep_replay(copy.deepcopy(there), mean, parameters), 1),
    )
    found["night"] = {"cpu_s": round(times[0], 3), "gpu_s": round(times[1], 3)}
    return found


# ---- growth ------------------------------------------------------------------------------------


def growth(args: argparse.Namespace) -> Result:
    """What a step and a night cost as the work grows: ``[size, milliseconds, floating point operations]``."""
    rule = EquilibriumPropagation(BETA, nudging="force", free_steps=10, nudged_steps=4)

    def step(sizes: list[int], batch: int) -> list[float]:
        torch.manual_seed(0)
        network = MRNN(sizes, readout="linear", gain=0.5, learning=rule)
        x, y = batch_of(784, 10, batch)
        with FlopCounterMode(display=False) as counter:
            gradients(network, x, y)
        (seconds,) = in_turn((lambda: gradients(network, x, y), 3), rounds=3)
        return [milliseconds(seconds), counter.get_total_flops()]

    found: Result = {
        "width": [[n, *step([784, n, 10], BATCH)] for n in (128, 256, 512, 1024, 2048, 4096)],
        "depth": [[n, *step([784, *[256] * n, 10], BATCH)] for n in (1, 2, 3, 4, 6, 8)],
        "batch": [[n, *step([784, 256, 10], n)] for n in (1, 4, 16, 64, 256, 1024, 4096)],
    }
    model, mean = tired(args.data)
    nights = []
    for steps in (1000, 2000, 4000, 8000, 16_000, 32_000):
        parameters = SleepParameters(steps=steps)
        action = lambda: sleep_replay(copy.deepcopy(model), mean, parameters)  # noqa: B023, E731
        spikes = sum(action().spikes)
        (seconds,) = in_turn((action, 1), rounds=3)
        nights.append([steps, milliseconds(seconds), spikes])
    return {**found, "night": nights}


def plot(found: Result, path: Path) -> None:
    """Costs as work grows, on logarithmic axes, with the line of proportional growth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    labels = {
        "width": "hidden units, 784-n-10",
        "depth": "hidden layers of 256",
        "batch": "samples in a batch",
        "night": "steps of a night",
        "seeds": "seeds, 784-256-10 in one",
    }
    for axes, (name, label) in zip(figure.subplots(1, 5), labels.items(), strict=True):
        sizes, times, _ = zip(*found[name], strict=True)
        axes.loglog(sizes, times, "o-", markersize=4)
        axes.loglog(sizes, [times[-1] * n / sizes[-1] for n in sizes], ":", color="grey")
        axes.set_xlabel(label)
        axes.set_xticks(sizes, [str(n) if n < 10_000 else f"{n // 1000}k" for n in sizes])
        axes.minorticks_off()
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("milliseconds")
    figure.savefig(path, dpi=120)


FIGURES: dict[str, Callable[[argparse.Namespace], Result]] = {
    "step-256": step_256,
    "step-512-512": step_512,
    "step-tolerance": step_tolerance,
    "step-dendritic": step_dendritic,
    "gemms-alone": gemms_alone,
    "to-97": to_97,
    "split-mnist": split_mnist,
    "night": night,
    "nights": nights,
    "seeds": seeds,
    "fewer-bits": fewer_bits,
    "gpu": gpu,
    "growth": growth,
}


def machine() -> Result:
    processor = platform.processor() or platform.machine()
    for line in (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ()
    ):
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return {
        "processor": processor,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("figures", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG of the costs as work grows")
    args = parser.parse_args()
    if args.list:
        print("\n".join(FIGURES))
        return
    unknown = set(args.figures) - set(FIGURES)
    if unknown:
        parser.error(
            f"unknown figures {', '.join(sorted(unknown))}; choose from {', '.join(FIGURES)}"
        )
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.figures or FIGURES:
        results[name] = {**FIGURES[name](args), "machine": machine()}
        print(json.dumps({name: results[name]}), flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    if args.plot and "growth" in results and "seeds" in results:
        plot({**results["growth"], "seeds": results["seeds"]["784-256-10"]}, args.plot)


if __name__ == "__main__":
    main()
