"""Test error of networks that learn all classes at once.

    python benchmarks/learners.py NAME ... --data DATA --stream mnist --seeds 0:3 --epochs 10
    python benchmarks/learners.py --list

The dendritic papers' public settings standardise Fashion-MNIST and KMNIST, not MNIST: --standardize.
DATA holds torchvision's MNIST/raw and FashionMNIST/raw; other streams by arrays:FILE.npz. --validation holds
out a sixth of the training images and measures on that, for choosing settings. One JSON line per epoch
in --out; a run that was killed starts again from its last epoch.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from continual_ep.learning import (
    BPTT,
    Backprop,
    ContrastiveHebbian,
    CrossEntropy,
    DeepFeedbackControl,
    DendriticLocalizedLearning,
    EquilibriumPropagation,
    LinearResponse,
    SquaredError,
)
from continual_ep.networks import MLP, MRNN, ConvolutionalRNN, DendriticRNN
from continual_ep.streams import class_incremental


@dataclass
class Setting:
    """A network with its optimizer.

    :param make: ``generator -> network``.
    :param rates: one learning rate for each connection, first to last.
    """

    make: Callable[[torch.Generator], nn.Module]
    rates: list[float]
    momentum: float = 0.0
    batch: int = 64
    adam: bool = False
    loss: type = SquaredError
    decay: float = 1.0
    note: str = field(default="")


def public_ep(**more) -> EquilibriumPropagation:
    """The rule of the public dendritic settings: 60 and 12 synchronous steps, here half as red-black."""
    return EquilibriumPropagation(0.1, free_steps=30, nudged_steps=6, nudging="loss", **more)


def dendritic(hidden: list[int], **options) -> Callable[[torch.Generator], nn.Module]:
    learning = options.pop("learning", public_ep())
    return lambda generator: DendriticRNN(
        [784, *hidden, 10],
        readout="activated",
        generator=generator,
        learning=learning,
        **options,
    )


def plain(hidden: list[int], **options) -> Callable[[torch.Generator], nn.Module]:
    learning = options.pop("learning", public_ep())
    return lambda generator: MRNN(
        [784, *hidden, 10],
        readout="activated",
        bias=True,
        generator=generator,
        learning=learning,
        **{"gain": 1.0, **options},
    )


def glorot(sizes: list[int]) -> list[float]:
    """Gains that make weights U(+-sqrt(6 / (n_in + n_out)))."""
    return [math.sqrt(6 * pre / (pre + post)) for pre, post in pairwise(sizes)]


def fre(
    hidden: list[int], scale: float, steps: tuple[int, int], repaired: bool, dtype=torch.float32
) -> Setting:
    """FRE-RNN: published, or by its linear response, divided by its feedback scales."""
    learning = (
        LinearResponse(*steps, update="postsynaptic", corrected=True)
        if repaired
        else EquilibriumPropagation(
            0.1,
            estimator="one-sided",
            nudging="force",
            update="postsynaptic",
            free_steps=steps[0],
            nudged_steps=steps[1],
        )
    )
    sizes = [784, *hidden, 10]

    def make(generator: torch.Generator) -> nn.Module:
        network = MRNN(
            sizes,
            activation="tanh",
            readout="softmax",
            gain=glorot(sizes),
            feedback_scale=scale,
            order="synchronous",
            learning=learning,
            generator=generator,
        )
        return network.to(dtype)

    return Setting(make, [1e-3] * (len(sizes) - 1), batch=500, adam=True, loss=CrossEntropy)


def settings() -> dict[str, Setting]:
    published = {"feedback": "untied", "feedback_scale": 0.2}
    through_time = BPTT(free_steps=30, backward_steps=6)
    found = {}
    for name, hidden, rates in (
        ("1", [256], [0.4, 0.02]),
        ("3-public", [256] * 3, [0.4, 0.1, 0.05, 0.02]),
    ):
        public = {"rates": rates, "momentum": 0.9}
        found[f"dendritic-ep-{name}"] = Setting(dendritic(hidden, **published), **public)
        found[f"dendritic-ep-tied-{name}"] = Setting(dendritic(hidden), **public)
        found[f"dendritic-bptt-{name}"] = Setting(
            dendritic(hidden, learning=through_time, **published), **public
        )
        found[f"ep-{name.removesuffix('-public')}"] = Setting(plain(hidden), **public)
    # Three layers need larger weights, or what differs between images is averaged away; tied feedback
    # then has to be weaker, and its gradient corrected. Found on held-out images.
    deep, strong = [256] * 3, {"gain": [2, 5, 5, 5]}
    found["dendritic-ep-3"] = Setting(
        dendritic(deep, **published, **strong), [0.4, 0.2, 0.1, 0.05], 0.9, decay=0.9
    )
    found["dendritic-bptt-3"] = Setting(
        dendritic(deep, learning=through_time, **published, **strong),
        [0.4, 0.2, 0.2, 0.2],
        0.9,
        decay=0.9,
    )
    corrected = public_ep(corrected=True, tolerance=1e-4)
    # With clipped outputs of branches it loses a class: its readout is outside of the dynamics.
    found["dendritic-ep-tied-3"] = Setting(
        dendritic(deep, learning=corrected, feedback_scale=0.2, gain=[2, 5, 5], readout="softmax"),
        [0.4, 0.2, 0.2, 0.05],
        0.9,
        loss=CrossEntropy,
        decay=0.9,
    )
    # Plain EP loses classes at the rates that suit dendrites: rates of its own, found on held-out images.
    found["ep-own-1-fashion-mnist"] = Setting(plain([256]), [0.02, 0.005], 0.9)
    found["ep-own-1-kmnist"] = Setting(plain([256]), [0.1, 0.02], 0.9)
    found["ep-own-equal-1"] = Setting(plain([1030]), [0.02, 0.005], 0.9)
    # As many parameters as the dendritic network has active ones.
    found["ep-equal-1"] = Setting(plain([1030]), [0.4, 0.02], 0.9)
    found["ep-equal-3"] = Setting(plain([760] * 3), [0.4, 0.1, 0.05, 0.02], 0.9)
    for repaired in (False, True):
        end = "-repaired" if repaired else ""
        found[f"fre-2x512{end}"] = fre([512] * 2, 0.01, (10, 5), repaired)
        found[f"fre-5x64{end}"] = fre([64] * 5, 0.01, (20, 10), repaired)
        found[f"fre-10x64{end}"] = fre([64] * 10, 0.1, (100, 50), repaired)
        found[f"fre-10x64-weak{end}"] = fre([64] * 10, 0.01, (40, 20), repaired)
    # Adjusted adaptation against no adaptation and against a merely weaker nudge: five steps at 0.1 leave
    # 0.9^5 = 0.59 of the nudge's effect if the network does not restore it.
    for name, beta, adaptation in (("", 0.5, 0), ("-adapted", 0.5, 5), ("-weaker", 0.295, 0)):
        rule = EquilibriumPropagation(
            beta,
            estimator="one-sided",
            free_steps=20,
            nudged_steps=6,
            nudging="loss",
            adaptation_steps=adaptation,
        )
        found[f"ep-strong{name}"] = Setting(plain([256], learning=rule), [0.1, 0.05], decay=0.9)
    # Weak feedback settles in 10 steps where full feedback wants 60 and more; corrected, it is as exact.
    soft = EquilibriumPropagation(
        0.4, nudging="force", free_steps=10, nudged_steps=4, tolerance=1e-3, corrected=True
    )
    found["conv-ep"] = Setting(
        lambda generator: ConvolutionalRNN(
            (1, 28, 28),
            [32, 64],
            10,
            kernel=5,
            gain=0.8,
            feedback_scale=0.1,
            learning=soft,
            generator=generator,
        ),
        [0.05, 0.05, 0.05],
        momentum=0.9,
        loss=CrossEntropy,
        decay=0.7,
    )
    chl = ContrastiveHebbian(free_steps=20, clamped_steps=20, tolerance=1e-4)
    found["chl"] = Setting(
        plain([256], learning=chl, gain=0.5, feedback_scale=0.3), [0.5, 0.5], batch=50, decay=0.9
    )
    # As published: leaky steps, so that the target fades slowly while the states adapt.
    for name, more in (
        ("", {}),
        ("-adapted", {"adaptation_steps": 20, "adaptation_rate": 0.1}),
    ):
        rule = ContrastiveHebbian(
            free_steps=120, clamped_steps=120, update="clamped-presynaptic", **more
        )
        found[f"chl-leaky{name}"] = Setting(
            plain(
                [50],
                learning=rule,
                activation="shifted-sigmoid",
                gain=0.5,
                dt=0.1,
                order="synchronous",
            ),
            [0.1, 0.1],
            batch=10,
        )
    # A weaker clamp instead: the output moves by 0.14 / 1.14 = 12 % of the way to its target, which is what
    # twenty steps of adaptation at 0.1 leave. EP divides by beta, so the rates are multiplied by it.
    weaker = EquilibriumPropagation(
        0.14,
        estimator="one-sided",
        update="postsynaptic",
        free_steps=120,
        nudged_steps=120,
        nudging="loss",
    )
    found["chl-leaky-weaker"] = Setting(
        plain(
            [50],
            learning=weaker,
            activation="shifted-sigmoid",
            gain=0.5,
            dt=0.1,
            order="synchronous",
        ),
        [0.014, 0.014],
        batch=10,
    )
    found |= feedforward()
    # The published convolutional setting at an eighth of its channels.
    for name, beta, adaptation in (("", 0.18, 0), ("-adapted", 0.18, 5), ("-weaker", 0.106, 0)):
        found[f"conv-cifar{name}"] = convolutional_adaptation(beta, adaptation)
    return found


def perceptron(hidden: list[int], rule, **options) -> Callable[[torch.Generator], nn.Module]:
    sizes = [784, *hidden, 10]
    options = {"activation": "tanh", "bias": True, "gain": glorot(sizes), **options}
    return lambda generator: MLP(sizes, learning=rule, generator=generator, **options)


def feedforward() -> dict[str, Setting]:
    """Rules of feed-forward networks, with back-propagation of the same network beside them."""
    found = {}
    adam = {"adam": True, "loss": CrossEntropy, "decay": 0.9}
    wide = [1024, 512, 256]
    # The published range of the first weights, N(0, 0.05^2), as a uniform one.
    narrow = {"gain": [0.05 * math.sqrt(3 * pre) for pre in [784, *wide]]}
    for name, rule in (
        ("dll-fixed", DendriticLocalizedLearning("fixed", backward_std=1.0)),
        ("dll", DendriticLocalizedLearning("paper", backward_std=1.0)),
        ("dll-opposite", DendriticLocalizedLearning("opposite", backward_std=1.0)),
        ("dll-kolen-pollack", DendriticLocalizedLearning("kolen-pollack", 1e-4, backward_rate=1.0)),
        ("dll-backprop", Backprop()),
    ):
        found[name] = Setting(perceptron(wide, rule, **narrow), [1e-3] * 4, batch=128, **adam)
    found["dll-fashion"] = replace(found["dll"], rates=[5e-4] * 4, batch=64)
    for name, rule in (
        ("dfc-public", DeepFeedbackControl(0.08, leak=0.0014)),
        ("dfc", DeepFeedbackControl(0.08, leak=10.0)),
        ("dfc-learned", DeepFeedbackControl(0.08, leak=1.0, feedback_learning=True)),
        ("dfc-backprop", Backprop()),
    ):
        found[name] = Setting(perceptron([256] * 3, rule), [1e-3] * 4, batch=128, **adam)
    strong = DeepFeedbackControl(target="label", leak=10.0, control_steps=3)
    found["dfc-strong"] = Setting(
        perceptron([256] * 3, strong), [1e-3] * 4, batch=128, adam=True, decay=0.9
    )
    return found


def convolutional_adaptation(beta: float, adaptation: int) -> Setting:
    rule = EquilibriumPropagation(
        beta,
        estimator="one-sided",
        free_steps=65,
        nudged_steps=15,
        tolerance=1e-4,
        nudging="loss",
        adaptation_steps=adaptation,
    )
    return Setting(
        lambda generator: ConvolutionalRNN(
            (3, 32, 32),
            [32, 64],
            10,
            kernel=3,
            gain=0.5,
            readout="activated",
            learning=rule,
            generator=generator,
        ),
        [0.21, 0.021, 0.021],
        batch=20,
    )


def load(args: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in [0, 1], flat, and labels: train and test (or validation) part."""
    held = 1 / 6 if args.validation else 0.0
    benchmark = class_incremental(
        args.stream, 1, root=args.data, seed=None if not args.validation else 0, validation=held
    )
    parts = []
    for name in ("train", "validation" if args.validation else "test"):
        data = benchmark.streams[name][0].dataset
        parts += [torch.stack([x for x, *_ in data]), torch.tensor(list(data.targets))]
    if args.standardize:
        # For images of several colours, the mean and spread of all their values.
        mean, spread = parts[0].mean(), parts[0].std()
        parts[0], parts[2] = (parts[0] - mean) / spread, (parts[2] - mean) / spread
    return tuple(parts)


def error(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of wrong answers, in per cent."""
    with torch.no_grad():
        pairs = zip(x.split(1000), y.split(1000), strict=True)
        wrong = sum(int((network(a).argmax(1) != b).sum()) for a, b in pairs)
    return 100.0 * wrong / len(y)


def train(name: str, setting: Setting, seed: int, data: tuple, args: argparse.Namespace) -> None:
    x, y, test_x, test_y = data
    if args.limit:
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: args.limit]
        x, y = x[chosen], y[chosen]
    generator = torch.Generator().manual_seed(seed)
    network = setting.make(generator)
    groups = network.parameter_groups(setting.rates)
    if setting.adam:
        optimizer = torch.optim.Adam(groups, lr=setting.rates[0])
    else:
        optimizer = torch.optim.SGD(groups, lr=setting.rates[0], momentum=setting.momentum)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, setting.decay)
    criterion = setting.loss()
    stream = Path(args.stream).stem + ("-standardized" if args.standardize else "")
    state = args.out.with_suffix(f".{name}.{stream}.{seed}.pt")
    first = 1
    if state.exists():
        saved = torch.load(state, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        generator.set_state(saved["generator"])
        first = saved["epoch"] + 1
    for epoch in range(first, args.epochs + 1):
        begin = time.perf_counter()
        for batch in torch.randperm(len(x), generator=generator).split(setting.batch):
            optimizer.zero_grad()
            criterion(network(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()
        line = {
            "name": name,
            "stream": stream,
            "seed": seed,
            "epoch": epoch,
            "error": round(error(network, test_x, test_y), 3),
            "seconds": round(time.perf_counter() - begin, 1),
            "validation": args.validation,
            "torch": torch.__version__,
        }
        print(json.dumps(line), flush=True)
        with args.out.open("a") as out:
            out.write(json.dumps(line) + "\n")
        torch.save(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "generator": generator.get_state(),
                "epoch": epoch,
            },
            state,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--stream", default="mnist")
    parser.add_argument("--seeds", default="0:1")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--limit", type=int, help="training images at most")
    parser.add_argument(
        "--standardize", action="store_true", help="inputs of mean 0 and standard deviation 1"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/learners.jsonl"))
    args = parser.parse_args()
    known = settings()
    if args.list:
        print("\n".join(known))
        return
    torch.set_num_threads(1)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    data = load(args)
    first, _, end = args.seeds.partition(":")
    for seed in range(int(first), int(end or first) + (not end)):
        for name in args.names:
            train(name, known[name], seed, data, args)


if __name__ == "__main__":
    main()
