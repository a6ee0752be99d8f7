"""Test error of an EP-trained 784-512-10 network on MNIST, all classes at once.

    python benchmarks/mnist_joint.py --data DIR                  # test error, trained on all 60,000
    python benchmarks/mnist_joint.py --data DIR --validation     # choose settings: last 10,000 held out

DIR holds torchvision's MNIST/raw. Writes one JSON line per epoch to --out; a run that was killed starts
again from its last epoch.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torchvision.datasets import MNIST

from continual_ep.learning import EquilibriumPropagation, SquaredError
from continual_ep.networks import MRNN


def load(root: Path, validation: bool) -> tuple[torch.Tensor, ...]:
    """Images in [0, 1], flat, and labels: train and test (or validation) part."""
    parts = [MNIST(root, train=train, download=False) for train in (True, False)]
    (x, y), (test_x, test_y) = [(p.data.flatten(1).float() / 255, p.targets) for p in parts]
    if validation:
        return x[:50_000], y[:50_000], x[50_000:], y[50_000:]
    return x, y, test_x, test_y


def error(network: MRNN, x: torch.Tensor, y: torch.Tensor) -> float:
    """Share of wrong answers, in per cent."""
    with torch.no_grad():
        wrong = sum(
            int((network(a).argmax(1) != b).sum())
            for a, b in zip(x.split(1000), y.split(1000), strict=True)
        )
    return 100.0 * wrong / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rates", type=float, nargs=2, default=(0.3, 0.15))
    parser.add_argument(
        "--decay", type=float, default=0.9, help="factor of the rates after each epoch"
    )
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--beta", type=float, default=0.2)
    parser.add_argument("--readout", default="linear")
    parser.add_argument("--nudging", default="loss")
    parser.add_argument("--free-steps", type=int, default=20)
    parser.add_argument("--nudged-steps", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/mnist_joint.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rule = EquilibriumPropagation(
        args.beta,
        free_steps=args.free_steps,
        nudged_steps=args.nudged_steps,
        tolerance=1e-4,
        nudging=args.nudging,
    )
    network = MRNN([784, args.hidden, 10], readout=args.readout, bias=True, learning=rule, gain=0.7)
    optimizer = torch.optim.SGD(network.parameter_groups(args.rates))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, args.decay)
    criterion = SquaredError()
    x, y, test_x, test_y = load(args.data, args.validation)
    settings = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in vars(args).items()
        if k not in ("data", "out")
    }
    state = args.out.with_suffix(".state.pt")
    first = 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        if saved["settings"] == settings:
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            schedule.load_state_dict(saved["schedule"])
            torch.set_rng_state(saved["rng"])
            first = saved["epoch"] + 1
    for epoch in range(first, args.epochs + 1):
        begin = time.perf_counter()
        for batch in torch.randperm(len(x)).split(args.batch):
            optimizer.zero_grad()
            criterion(network(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()
        line = {
            "epoch": epoch,
            "error": round(error(network, test_x, test_y), 3),
            "train_error": round(error(network, x[:10_000], y[:10_000]), 3),
            "seconds": round(time.perf_counter() - begin, 1),
            "torch": torch.__version__,
            **settings,
        }
        print(json.dumps(line), flush=True)
        with args.out.open("a") as out:
            out.write(json.dumps(line) + "\n")
        torch.save(
            {
                "settings": settings,
                "epoch": epoch,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "rng": torch.get_rng_state(),
            },
            state,
        )


if __name__ == "__main__":
    main()
