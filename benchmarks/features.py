"""From photographs to a stream of features: is it right, how fast is it, and how much memory does it take.

    python benchmarks/features.py probe --images FOLDER --weights FILE      # Imagenette, MobileNetV2
    python benchmarks/features.py imagenet --classes 1000 --images-per-class 6

``probe`` computes MobileNetV2's features of a folder of images (train/CLASS, val/CLASS), trains a linear
classifier on those of train and measures it on those of val: preprocessing that is wrong shows there.
``imagenet`` generates small images in ImageNet's folder layout, runs them through the whole path (lists,
decoding, backbone, cache, stream, a few steps of training) and measures each part alone, each in a process
of its own. ``feed`` measures training on mapped features of ImageNet's full size, with made-up values.
One JSON object on standard output.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from continual_ep.features import Preprocessing
from continual_ep.features.cache import RowFile
from continual_ep.features.decoding import decoded
from continual_ep.plugins import BatchFeed
from continual_ep.strategies import EPStrategy
from continual_ep.streams import Images, class_incremental, load_source


def megabytes() -> float:
    """Most memory that this process has had resident, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def probe(args: argparse.Namespace) -> dict:
    """Accuracy of a linear classifier on features, and time to compute them."""
    changes = json.loads(args.preprocessing) if args.preprocessing else None
    images = Images(
        backbone=args.backbone,
        weights=args.weights,
        preprocessing=changes,
        cache=args.cache,
        batch_size=32,
        device=args.device,
    )
    begin = time.perf_counter()
    benchmark = class_incremental(f"image-folder:{args.images}", 1, images=images, scale="max")
    seconds = time.perf_counter() - begin
    (x, y), (test_x, test_y) = (
        (torch.stack([s[0] for s in e.dataset]), torch.tensor(list(e.dataset.targets)))
        for e in (benchmark.train_stream[0], benchmark.test_stream[0])
    )
    torch.manual_seed(0)
    linear = torch.nn.Linear(x.shape[1], benchmark.n_classes)
    optimizer = torch.optim.Adam(linear.parameters(), lr=3e-3, weight_decay=1e-5)
    for _ in range(20):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(linear(x[batch]), y[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = float((linear(test_x).argmax(1) == test_y).double().mean())
    return {
        "images": len(x) + len(test_x),
        "seconds": round(seconds, 1),
        "features": x.shape[1],
        "linear_probe_accuracy": round(100 * accuracy, 2),
    }


def generate(folder: Path, classes: int, train: int, test: int, side: int) -> None:
    """JPEG files of ImageNet's layout and typical size, each smooth noise of its own."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for label in range(classes):
        for split, count in (("train", train), ("val", test)):
            place = folder / split / f"n{label:08d}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                small = generator.integers(0, 256, (16, 20, 3), dtype=np.uint8)
                image = Image.fromarray(small).resize((side * 5 // 4, side), Image.BICUBIC)
                image.save(place / f"{number}.JPEG", quality=90)


def part(args: argparse.Namespace) -> dict:
    """One part of the path, alone in this process."""
    folder = Path(args.images)
    torch.set_num_threads(args.threads)
    begin = time.perf_counter()
    if args.part == "scan":
        found = load_source("imagenet", folder)
        count = len(found.train) + len(found.test)
        found.train.fingerprint()
        found.test.fingerprint()
    elif args.part == "decode":
        found = load_source("imagenet", folder)
        begin = time.perf_counter()
        count = sum(1 for _ in decoded(found.train, Preprocessing(), workers=args.threads))
    elif args.part == "extract":
        images = Images(
            backbone="mobilenet_v2", weights=args.weights, cache=args.cache, workers=args.threads
        )
        benchmark = class_incremental("imagenet", 10, root=folder, images=images)
        count = sum(len(e.dataset) for s in benchmark.streams.values() for e in s)
    else:
        images = Images(backbone="mobilenet_v2", weights=args.weights, cache=args.cache)
        benchmark = class_incremental("imagenet", 10, root=folder, images=images)
        train(benchmark)
        count = sum(len(e.dataset) for e in benchmark.train_stream)
    seconds = time.perf_counter() - begin
    return {
        "part": args.part,
        "images": count,
        "seconds": round(seconds, 2),
        "per_second": round(count / seconds, 1),
        "peak_memory_mb": round(megabytes()),
    }


def train(benchmark) -> None:
    """One pass through the stream with a small EP network."""
    inputs = int(np.prod(benchmark.input_shape))
    strategy = EPStrategy(
        sizes=[inputs, 256, benchmark.n_classes],
        network={"readout": "activated", "gain": 1.0},
        train_mb_size=64,
        plugins=[BatchFeed()],
        evaluator=None,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)


def imagenet(args: argparse.Namespace) -> dict:
    """Each part of the path in a process of its own, so that each has its own peak of memory."""
    work = Path(tempfile.mkdtemp(dir=args.work))
    try:
        weights = work / "weights.pt"
        import torchvision

        torch.manual_seed(0)
        torch.save(torchvision.models.mobilenet_v2(weights=None).state_dict(), weights)
        generate(work / "imagenet", args.classes, args.images_per_class, 1, args.side)
        parts = []
        for name in ("scan", "decode", "extract", "again"):
            command = [sys.executable, __file__, "part", "--part", name, "--images", str(work)]
            command += ["--weights", str(weights), "--cache", str(work / "cache")]
            command += ["--threads", str(args.threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            parts.append(json.loads(done.stdout))
        size = sum(path.stat().st_size for path in (work / "cache").rglob("*.safetensors"))
        return {"classes": args.classes, "parts": parts, "cache_mb": round(size / 2**20, 1)}
    finally:
        shutil.rmtree(work)


def feed(args: argparse.Namespace) -> dict:
    """Training on as many mapped features as ImageNet has; the values are made up."""
    work = Path(tempfile.mkdtemp(dir=args.work))
    try:
        if args.part:  # the child: what is measured
            return _fed(Path(args.images), args)
        generator = np.random.default_rng(0)
        rows = RowFile(work / "x.safetensors", args.rows)
        block = generator.random((10_000, 1280), dtype=np.float32).astype(np.float16)
        for start in range(0, args.rows, len(block)):
            rows.append(block[: args.rows - start], None)
        rows.finish()
        command = [sys.executable, __file__, "feed", "--part", "fed", "--images", str(work)]
        command += ["--rows", str(args.rows), "--work", str(work)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)
    finally:
        shutil.rmtree(work)


def _fed(folder: Path, args: argparse.Namespace) -> dict:
    from torch.utils.data import DataLoader

    from continual_ep.features.cache import rows_of
    from continual_ep.streams.feed import feed as whole_batches
    from continual_ep.streams.tensor_data import Preparation, Samples

    torch.set_num_threads(1)
    x = rows_of(folder / "x.safetensors")
    samples = Samples.of(x, np.arange(len(x)) % 1000, Preparation())
    loader = whole_batches(DataLoader(samples.part(), batch_size=64, shuffle=True))
    begin = time.perf_counter()
    count = sum(len(batch[0]) for batch in loader)
    seconds = time.perf_counter() - begin
    status = Path("/proc/self/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return {
        "samples": count,
        "file_gb": round(x.nbytes / 1e9, 2),
        "seconds": round(seconds, 1),
        "samples_per_second": round(count / seconds),
        "own_memory_mb": round(own / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("probe", "imagenet", "feed", "part"))
    parser.add_argument("--images", help="folder of images")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights")
    parser.add_argument("--preprocessing", help="changes to the published one, as JSON")
    parser.add_argument("--device")
    parser.add_argument("--cache", default="benchmarks/results/cache")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images-per-class", type=int, default=6)
    parser.add_argument("--side", type=int, default=375)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", default=None, help="folder for temporary files")
    parser.add_argument("--part", default="")
    args = parser.parse_args()
    what = {"probe": probe, "imagenet": imagenet, "feed": feed, "part": part}[args.what]
    print(json.dumps({**what(args), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
