"""Named sets in the layouts of their publishers, with tiny files of the same form."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.io
import torchvision.datasets as sets
from PIL import Image

from continual_ep.errors import ConfigurationError, InputError, MissingDataError
from continual_ep.streams import SOURCES, Images, class_incremental, load_source, source
from continual_ep.streams.arrays import Arrays


def write_idx(path, values):
    """IDX: two zero bytes, 8 for bytes, the number of dimensions, their sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes())


def write_mnist(root, folder="MNIST", prefix="", test="t10k", classes=10, first=0):
    generator = np.random.default_rng(0)
    labels = np.arange(2 * classes) % classes + first
    for split in ("train", test):
        write_idx(
            root / folder / "raw" / f"{prefix}{split}-images-idx3-ubyte",
            generator.integers(0, 256, (len(labels), 28, 28)),
        )
        write_idx(root / folder / "raw" / f"{prefix}{split}-labels-idx1-ubyte", labels)


@pytest.mark.parametrize(
    ("stream", "folder"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")],
)
def test_mnist_and_kin(tmp_path, stream, folder):
    write_mnist(tmp_path, folder)
    assert SOURCES[stream].is_on_disk(tmp_path)
    benchmark = class_incremental(stream, 5, root=tmp_path)
    assert benchmark.image_shape == (28, 28) and benchmark.n_classes == 10
    assert len(benchmark.class_names) == len(set(benchmark.class_names)) == 10


def test_emnist_letters_stand_upright_and_count_from_0(tmp_path):
    write_mnist(tmp_path, "EMNIST", "emnist-letters-", "test", 26, first=1)
    stored = np.zeros((52, 28, 28))
    stored[0, 3, 5] = 255  # the files have rows and columns exchanged
    write_idx(tmp_path / "EMNIST/raw/emnist-letters-train-images-idx3-ubyte", stored)
    data = load_source("emnist-letters", tmp_path)
    assert data.train_x[0, 5, 3] == 255 and data.train_x[0].sum() == 255
    assert data.n_classes == 26 and data.class_names[:3] == ("a", "b", "c")
    assert data.train_y[:3].tolist() == [0, 1, 2]


def write_svhn(root):
    # Images last; the digit 0 is labelled 10.
    x = np.arange(20 * 32 * 32 * 3, dtype=np.uint32).reshape(32, 32, 3, 20).astype(np.uint8)
    y = np.array([*range(1, 11)] * 2)[:, None]
    for split in ("train", "test"):
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": x, "y": y})
    return x


def trusting(monkeypatch, kind, folder):
    """Let torchvision's set of that kind expect the sums of the files that are there."""

    def sums(files):
        return [
            (name, hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest())
            for name in files
        ]

    monkeypatch.setattr(kind, "train_list", sums([name for name, _ in kind.train_list]))
    monkeypatch.setattr(kind, "test_list", sums([name for name, _ in kind.test_list]))
    meta = folder / kind.meta["filename"]
    digest = hashlib.md5(meta.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": digest})


def test_svhn(tmp_path, monkeypatch):
    x = write_svhn(tmp_path)
    splits = {
        split: [
            None,
            f"{split}_32x32.mat",
            hashlib.md5(
                (tmp_path / f"{split}_32x32.mat").read_bytes(), usedforsecurity=False
            ).hexdigest(),
        ]
        for split in ("train", "test")
    }
    monkeypatch.setattr(sets.SVHN, "split_list", splits)
    data = load_source("svhn", tmp_path)
    assert data.train_x.shape == (20, 3, 32, 32)
    assert data.train_x[4, 2, 7, 9] == x[7, 9, 2, 4]
    assert data.train_y[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def write_cifar(root, kind, label_key, classes, names_key):
    folder = root / kind.base_folder
    folder.mkdir()
    for number, (name, _) in enumerate([*kind.train_list, *kind.test_list]):
        x = np.full((classes, 3072), number, np.uint8)
        x[:, 1024] = 200  # first value of green
        batch = {"data": x, label_key: list(range(classes))}
        (folder / name).write_bytes(pickle.dumps(batch))
    meta = {names_key: [f"kind {number}" for number in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    return folder


@pytest.mark.parametrize(
    ("stream", "kind", "label_key", "names_key", "classes"),
    [
        ("cifar10", sets.CIFAR10, "labels", "label_names", 10),
        ("cifar100", sets.CIFAR100, "fine_labels", "fine_label_names", 100),
    ],
)
def test_cifar(tmp_path, monkeypatch, stream, kind, label_key, names_key, classes):
    folder = write_cifar(tmp_path, kind, label_key, classes, names_key)
    # Pickle is read only where the published sums vouch for it.
    with pytest.raises(InputError, match="damaged"):
        load_source(stream, tmp_path)
    trusting(monkeypatch, kind, folder)
    data = load_source(stream, tmp_path)
    assert data.n_classes == classes and data.class_names[3] == "kind 3"
    assert data.train_x.shape[1:] == (3, 32, 32)
    assert data.train_x[0, 1, 0, 0] == 200 and data.train_x[0, 0, 0, 0] == 0


@pytest.mark.parametrize("damage", ["truncated", "magic", "labels", "empty"])
def test_damaged_idx_files(tmp_path, damage):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    whole = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(whole[:-100])
    elif damage == "magic":
        path.write_bytes(b"\x00\x00\x07\x01" + whole[4:])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        write_idx(tmp_path / "MNIST/raw/train-labels-idx1-ubyte", np.arange(7))
    with pytest.raises(InputError, match=r"damaged|20 samples but train_y 7 labels"):
        load_source("mnist", tmp_path)


def test_packed_files_are_pointed_at(tmp_path):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    with gzip.open(f"{path}.gz", "wb") as packed:
        packed.write(path.read_bytes())
    path.unlink()
    with pytest.raises(MissingDataError, match="gunzip --keep"):
        load_source("mnist", tmp_path)


@pytest.mark.parametrize("stream", [name for name, entry in SOURCES.items() if entry.files])
def test_missing_sets_say_where_they_were_looked_for(tmp_path, stream):
    assert not SOURCES[stream].is_on_disk(tmp_path)
    with pytest.raises(MissingDataError, match=str(tmp_path)):
        load_source(stream, tmp_path)
    assert not list(tmp_path.iterdir())


# ---- folders of images ------------------------------------------------------------------------


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (value, value, value)).save(path)


def pixels_of(benchmark, stream="test_stream"):
    """Label -> the grey values of its images."""
    pixels = {}
    for experience in getattr(benchmark, stream):
        for x, label, _ in experience.dataset:
            pixels.setdefault(benchmark.class_names[label], []).append(round(float(x[0]) * 255))
    return {name: sorted(values) for name, values in pixels.items()}


def stream_of(name, root, tmp_path, **options):
    images = Images(size=8, cache=tmp_path / "cache")
    return class_incremental(name, 1, root=root, images=images, **options)


def test_tiny_imagenet_in_its_published_layout(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for value, wnid in ((10, "n02"), (20, "n01")):
        for number in range(2):
            picture(folder / f"train/{wnid}/images/{wnid}_{number}.JPEG", value)
        (folder / f"train/{wnid}/{wnid}_boxes.txt").write_text("no image\n")
    picture(folder / "val/images/val_0.JPEG", 20)
    picture(folder / "val/images/val_1.JPEG", 10)
    (folder / "val/val_annotations.txt").write_text(
        "val_0.JPEG\tn01\t0\t0\t9\t9\nval_1.JPEG\tn02\t0\t0\t9\t9\n"
    )
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\ttench, Tinca tinca\nn02\tgoldfish\nn03\tshark\n")
    benchmark = stream_of("tiny-imagenet", tmp_path, tmp_path)
    assert benchmark.class_names == ("n01 tench", "n02 goldfish")
    assert pixels_of(benchmark) == {"n01 tench": [20], "n02 goldfish": [10]}
    assert pixels_of(benchmark, "train_stream") == {"n01 tench": [20] * 2, "n02 goldfish": [10] * 2}


@pytest.mark.parametrize("flat", [False, True])
def test_imagenet_with_sorted_and_with_flat_validation_images(tmp_path, flat):
    folder = tmp_path / "imagenet"
    for value, wnid in ((10, "n01"), (20, "n02"), (30, "n03")):
        picture(folder / f"train/{wnid}/{wnid}_0.JPEG", value)
        place = "val" if flat else f"val/{wnid}"
        picture(folder / f"{place}/ILSVRC2012_val_{value:08d}.JPEG", value)
    if flat:
        with pytest.raises(MissingDataError, match=r"val/WNID.*LOC_val_solution\.csv"):
            stream_of("imagenet", tmp_path, tmp_path)
        rows = [f"ILSVRC2012_val_{10 * n:08d},n0{n} 1 2 3 4 " for n in (3, 1, 2)]
        text = "\n".join(["ImageId,PredictionString", *rows]) + "\n"
        (folder / "LOC_val_solution.csv").write_text(text)
    benchmark = stream_of("imagenet", tmp_path, tmp_path)
    assert pixels_of(benchmark) == {"n01": [10], "n02": [20], "n03": [30]}
    (folder / "LOC_synset_mapping.txt").write_text("n01 tench, Tinca tinca\nn02 goldfish\n")
    (tmp_path / "wanted.txt").write_text("n03\nn01 tench\n")
    some = stream_of("imagenet", tmp_path, tmp_path, classes=tmp_path / "wanted.txt")
    assert pixels_of(some) == {"n03": [30], "n01 tench": [10]}
    by_wnid = stream_of("imagenet", tmp_path, tmp_path, classes=["n01"])
    assert by_wnid.class_names == ("n01 tench",)


@pytest.mark.parametrize(
    ("remove", "error", "message"),
    [
        ("val", MissingDataError, "is no folder of images"),
        ("train", MissingDataError, "is no folder of images"),
        ("train/b", InputError, r"val' has classes \['b'\]"),
        ("val/b", InputError, r"val' holds no image .* of classes \['b'\]"),
        ("train/a/0.png", InputError, r"train' holds no image .* of classes \['a'\]"),
    ],
)
def test_folders_that_lack_something(tmp_path, remove, error, message):
    import shutil

    for place in ("train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png"):
        picture(tmp_path / "images" / place)
    target = tmp_path / "images" / remove
    target.unlink() if target.is_file() else shutil.rmtree(target)
    with pytest.raises(error, match=message):
        load_source(f"image-folder:{tmp_path / 'images'}")


def test_images_in_folders_of_folders_and_hidden_files(tmp_path):
    for place in ("train/a/deep/0.png", "train/a/1.PNG", "test/a/0.png"):
        picture(tmp_path / place)
    (tmp_path / "train/a/.hidden.png").write_bytes(b"")
    (tmp_path / "train/.cache").mkdir()
    data = load_source(f"image-folder:{tmp_path}")
    assert [data.train.path(i).name for i in range(2)] == ["1.PNG", "0.png"]
    assert data.class_names == ("a",)


# ---- the registry -----------------------------------------------------------------------------


def test_a_new_stream_is_one_function(monkeypatch):
    monkeypatch.setattr("continual_ep.streams.sources.SOURCES", SOURCES)

    @source("two-dots", classes=2, shape=(1, 2), samples=(4, 2), licence="mine")
    def two_dots(root, download):
        """Two dots, left or right.

        More.
        """
        x, y = np.eye(2, dtype=np.float32)[:, None], np.arange(2)
        return Arrays.checked(np.tile(x, (2, 1, 1)), np.tile(y, 2), x, y)

    try:
        assert SOURCES["two-dots"].title == "Two dots, left or right."
        assert SOURCES["two-dots"].is_on_disk("anywhere")
        assert class_incremental("two-dots", 2).n_classes == 2
    finally:
        del SOURCES["two-dots"]


@pytest.mark.parametrize("name", ["minst", "arrays:", "image-folder", "folder:x", "x.csv"])
def test_unknown_names_list_what_there_is(name):
    with pytest.raises(ConfigurationError, match=r"imagenet.*arrays:PATH.*image-folder:PATH"):
        load_source(name)


def test_npz_files_may_name_their_classes(tmp_path):
    x, y = np.zeros((2, 3), np.float32), np.arange(2)
    arrays = {"train_x": x, "train_y": y, "test_x": x, "test_y": y}
    np.savez(tmp_path / "a.npz", **arrays, class_names=np.array(["cat", "dog"]))
    assert load_source(f"arrays:{tmp_path / 'a.npz'}").class_names == ("cat", "dog")
    np.savez(tmp_path / "a.npz", **arrays, class_names=np.array([1, 2]))
    with pytest.raises(InputError, match="class_names"):
        load_source(tmp_path / "a.npz")
