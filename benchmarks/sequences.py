"""Digits read row by row: a sequence network with local errors, beside back-propagation through time.

    python benchmarks/sequences.py [--seeds 0:3] [--epochs 60] [--out sequences.jsonl]

scikit-learn's digits, 8 steps of 8 pixels, 64 hidden units, Adam, batches of 32; needs no data folder. One
JSON line for each rule: test errors in per cent, and the cosine between forward and backward recurrent
weights.
"""

import argparse
import json
from pathlib import Path

import torch
from other_learners.sequence import SequenceRNN

from continual_ep.learning import Backprop, CrossEntropy, DendriticLocalizedLearning
from continual_ep.streams import class_incremental

RULES = {
    "backprop": Backprop(),
    "fixed": DendriticLocalizedLearning("fixed"),
    "paper": DendriticLocalizedLearning("paper"),
    "opposite": DendriticLocalizedLearning("opposite"),
    "kolen-pollack": DendriticLocalizedLearning("kolen-pollack", 0.001, backward_rate=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", default="0:3")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    streams = class_incremental("digits", 1).streams
    parts = []
    for name in ("train", "test"):
        data = streams[name][0].dataset
        parts += [
            torch.stack([x for x, *_ in data]).view(-1, 8, 8),
            torch.tensor(list(data.targets)),
        ]
    x, y, test_x, test_y = parts
    first, _, end = args.seeds.partition(":")
    for name, rule in RULES.items():
        errors, cosines = [], []
        for seed in range(int(first), int(end or first) + (not end)):
            generator = torch.Generator().manual_seed(seed)
            network = SequenceRNN(8, 64, 10, learning=rule, generator=generator)
            optimizer = torch.optim.Adam(network.parameter_groups([2e-3, 2e-3]))
            for _ in range(args.epochs):
                for batch in torch.randperm(len(x), generator=generator).split(32):
                    optimizer.zero_grad()
                    CrossEntropy()(network(x[batch]), y[batch]).backward()
                    optimizer.step()
            with torch.no_grad():
                wrong = (network(test_x).argmax(1) != test_y).double().mean()
            errors.append(round(100 * float(wrong), 2))
            if len(network.backward_weights):
                pair = (
                    network.weights[1].detach().flatten(),
                    network.backward_weights[0].detach().flatten(),
                )
                cosines.append(round(float(torch.cosine_similarity(*pair, dim=0)), 2))
        line = {"rule": name, "errors": errors, "cosines": cosines, "epochs": args.epochs}
        print(json.dumps(line), flush=True)
        if args.out:
            with args.out.open("a") as out:
                out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
