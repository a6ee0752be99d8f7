"""Images to features, once: file lists, decoding, backbones, and a cache that is never wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models, transforms

from continual_ep.errors import (
    ConfigurationError,
    ContinualEPError,
    ContinualEPWarning,
    InputError,
    MissingDataError,
)
from continual_ep.features import FileList, Preprocessing, as_backbone, cache, extract, extraction
from continual_ep.features.decoding import decoded
from continual_ep.features.extraction import Features, Pixels
from continual_ep.streams import Images, class_incremental

SMALL = Preprocessing(8, 8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def image_folder(root, classes=("cat", "dog"), train=4, test=2, size=(12, 10), ending="png"):
    """Noise, whose seed is its path."""
    for split, count in (("train", train), ("val", test)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                generator = np.random.default_rng([split == "train", ord(name[0]), number])
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.{ending}")
    return root


def file_list(folder):
    paths = sorted(os.fsencode(str(p.relative_to(folder))) for p in folder.rglob("*.png"))
    return FileList(folder, np.array(paths, dtype=np.bytes_), np.zeros(len(paths), np.int64))


class Means(nn.Module):
    """Mean colour of each quarter, times a weight."""

    pause = 0.0  # seconds for each batch

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        time.sleep(self.pause)
        return nn.functional.adaptive_avg_pool2d(x, 2) * self.weight


def features_of(network, preprocessing=SMALL):
    return Features(as_backbone(network, preprocessing=preprocessing), amp=False)


# ---- preprocessing -----------------------------------------------------------------------------


def test_framing_is_that_of_torchvision():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    published = models.MobileNet_V2_Weights.DEFAULT.transforms()
    ours = as_preprocessing_of("mobilenet_v2")
    expected = published(image)
    result = ours.normalised(ours.framed(image)[None].float() / 255)[0]
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


def as_preprocessing_of(name):
    from continual_ep.features.backbones import _of_torchvision

    return _of_torchvision(name).preprocessing


def test_arrays_are_framed_as_files_are():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 30, 20, 3), dtype=np.uint8)
    p = Preprocessing(16, 12, "bicubic")
    from_file = p.framed(Image.fromarray(pixels[0])).float() / 255
    from_array = p.framed_batch(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)[0]
    # Pillow rounds to whole values after each direction.
    torch.testing.assert_close(from_array, from_file, atol=2.1 / 255, rtol=0)


def test_grey_images_become_three_channels_and_can_be_turned():
    grey = torch.arange(16.0).view(1, 4, 4) / 16
    p = Preprocessing(4, 4, mean=(0, 0, 0), std=(1, 1, 1), turn=180)
    framed = p.framed_batch(grey)
    assert framed.shape == (1, 3, 4, 4)
    torch.testing.assert_close(p.normalised(framed)[0, 1], grey[0].flip(0, 1))


@pytest.mark.parametrize(
    "values",
    [{"crop": 300}, {"crop": 0}, {"interpolation": "magic"}, {"std": (0, 1, 1)}, {"turn": 45}],
)
def test_impossible_preprocessing(values):
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        Preprocessing(**values)


# ---- decoding ----------------------------------------------------------------------------------


def test_images_come_decoded_in_order_whatever_the_threads(tmp_path):
    files = file_list(image_folder(tmp_path, train=40) / "train")
    alone = list(decoded(files, SMALL, workers=1))
    together = list(decoded(files, SMALL, workers=5, start=7))
    assert len(alone) == 80 and all(x.shape == (3, 8, 8) for x in alone)
    assert all(torch.equal(a, b) for a, b in zip(alone[7:], together, strict=True))


def test_decoding_never_runs_far_ahead(tmp_path, monkeypatch):
    from continual_ep.features import decoding

    files = file_list(image_folder(tmp_path, train=60) / "train")
    started = []
    original = decoding._decode
    monkeypatch.setattr(decoding, "_decode", lambda *a: started.append(1) or original(*a))
    stream = decoded(files, SMALL, workers=2)
    next(stream)
    time.sleep(0.05)
    assert len(started) <= 2 * decoding.AHEAD + 1
    stream.close()


def test_corrupt_images_raise_or_are_skipped(tmp_path):
    folder = image_folder(tmp_path)
    (folder / "train" / "cat" / "1.png").write_bytes(b"no image at all")
    whole = (folder / "train" / "dog" / "0.png").read_bytes()
    (folder / "train" / "dog" / "0.png").write_bytes(whole[: len(whole) // 2])
    files = file_list(folder / "train")
    with pytest.raises(InputError, match=r"cat/1\.png.*on_corrupt='skip'"):
        list(decoded(files, SMALL))
    images = list(decoded(files, SMALL, on_corrupt="skip"))
    assert [i for i, x in enumerate(images) if x is None] == [1, 4]
    with pytest.raises(ConfigurationError, match="on_corrupt"):
        Images(on_corrupt="ignore")


def test_skipped_images_are_listed_and_their_labels_left_out(tmp_path):
    folder = image_folder(tmp_path / "images")
    (folder / "train" / "cat" / "0.png").write_bytes(b"")
    images = Images(size=8, cache=tmp_path / "cache", on_corrupt="skip")
    with pytest.warns(ContinualEPWarning, match=r"1 images could not .*cat/0\.png"):
        some = class_incremental(f"image-folder:{folder}", 1, images=images)
    assert len(some.train_stream[0].dataset) == 7
    assert sorted(some.train_stream[0].dataset.targets) == [0] * 3 + [1] * 4
    card = json.loads(next((tmp_path / "cache").glob("*/card.json")).read_text())
    assert card["splits"]["train"]["skipped"] == [[0, str(folder / "train/cat/0.png")]]
    with pytest.raises(InputError, match=r"cat/0\.png"):  # from the cache, but strictly
        class_incremental(
            f"image-folder:{folder}", 1, images=Images(size=8, cache=tmp_path / "cache")
        )
    for number in range(1, 4):
        (folder / "train" / "cat" / f"{number}.png").write_bytes(b"")
    with (
        pytest.raises(InputError, match=r"no image of classes .*cat"),
        pytest.warns(ContinualEPWarning),
    ):
        class_incremental(f"image-folder:{folder}", 1, images=images)


# ---- backbones ---------------------------------------------------------------------------------


def test_features_equal_the_input_of_the_classifier(tmp_path):
    torch.manual_seed(1)
    whole = models.resnet18(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "resnet.pth")
    x = torch.rand(2, 3, 64, 64)
    loaded = as_backbone(
        "resnet18", weights=tmp_path / "resnet.pth", preprocessing={"resize": 64, "crop": 64}
    ).to("cpu")
    expected = whole(loaded.preprocessing.normalised(x))
    torch.testing.assert_close(whole.fc(loaded.features(x)), expected, atol=1e-4, rtol=1e-4)
    assert loaded.features(x).shape == (2, 512)


@pytest.mark.parametrize(
    ("name", "width"), [("mobilenet_v2", 1280), ("vgg16", 4096), ("resnet50", 2048)]
)
def test_named_backbones_end_before_the_classifier(name, width, tmp_path):
    from continual_ep.features.backbones import _without_head

    with torch.device("meta"):
        network, spare = _without_head(name)
        assert network.eval()(torch.empty(1, 3, 64, 64)).shape == (1, width)
        published = models.get_model(name, weights=None).state_dict()
    left = [key for key in published if key not in network.state_dict()]
    assert len(left) == 2 and all(key.startswith(spare) for key in left)


def test_missing_weights_name_the_file_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = tmp_path / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    with pytest.raises(MissingDataError) as caught:
        as_backbone("mobilenet_v2")
    for part in (str(expected), "https://download.pytorch.org", "download=True", "--weights"):
        assert part in str(caught.value)
    assert not expected.exists()
    with pytest.raises(MissingDataError, match=r"nowhere\.pth"):
        as_backbone("mobilenet_v2", weights="nowhere.pth")


def test_published_weights_are_found_where_torch_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    whole = models.mobilenet_v2(weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / "mobilenet_v2-7ebf99e0.pth")
    loaded = as_backbone("mobilenet_v2")
    assert loaded.preprocessing.resize == 232 and loaded.preprocessing.crop == 224
    state = loaded.network.state_dict()
    assert all(torch.equal(state[key], whole.state_dict()[key]) for key in state)


def test_unusable_weights(tmp_path):
    class Code:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "code was run"),))

    torch.save({"a": Code()}, tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="cannot be read as plain tensors"):
        as_backbone("mobilenet_v2", weights=tmp_path / "pickle.pth")
    assert not (tmp_path / "code was run").exists()
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read"):
        as_backbone("mobilenet_v2", weights=tmp_path / "junk.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="do not fit backbone"):
        as_backbone("mobilenet_v2", weights=tmp_path / "other.safetensors")
    with pytest.raises(ConfigurationError, match="'brain' is unknown"):
        as_backbone("brain")
    with pytest.raises(ConfigurationError, match="does not end in a linear"):
        save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
        as_backbone("squeezenet1_0", weights=tmp_path / "x.safetensors")


def test_wrapped_state_dicts_are_loaded(tmp_path):
    wrapped = {"state_dict": {"module.weight": torch.tensor(3.0)}}
    torch.save(wrapped, tmp_path / "a.pth")
    loaded = as_backbone(Means(), weights=tmp_path / "a.pth")
    assert loaded.network.weight == 3


def test_a_backbone_from_the_users_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def halves():\n    return lambda x: x.mean((2, 3)) / 2\n")
    loaded = as_backbone("mine:halves", preprocessing=SMALL)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(loaded.features(x), SMALL.normalised(x).mean((2, 3)) / 2)
    for wrong in ("mine:thirds", "nowhere:halves"):
        with pytest.raises(ConfigurationError, match="cannot be imported"):
            as_backbone(wrong)
    with pytest.raises(InputError, match="a row for each"):
        as_backbone(lambda x: x.sum(), preprocessing=SMALL).features(x)
    with pytest.raises(ConfigurationError, match=r"\['zoom'\] are unknown"):
        as_backbone(Means(), preprocessing={"zoom": 2})


def test_dinov2_loads_its_published_keys(tmp_path):
    timm = pytest.importorskip("timm")
    small = timm.create_model(
        "vit_small_patch14_dinov2.lvd142m", num_classes=0, dynamic_img_size=True
    ).eval()
    state = {**small.state_dict(), "mask_token": torch.zeros(1, 384)}
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    loaded = as_backbone(
        "dinov2_vits14",
        weights=tmp_path / "dinov2_vits14_pretrain.pth",
        preprocessing={"resize": 28, "crop": 28},
    ).to("cpu")
    x = torch.rand(1, 3, 28, 28)
    torch.testing.assert_close(loaded.features(x), small(loaded.preprocessing.normalised(x)))


# ---- the cache ---------------------------------------------------------------------------------


def test_features_are_computed_once(tmp_path):
    files = file_list(image_folder(tmp_path / "images") / "train")
    network = Means()
    first = extract(
        {"train": files}, features_of(network), Images(cache=tmp_path / "c", batch_size=3)
    )
    assert network.seen == 8
    again = extract({"train": files}, features_of(network), Images(cache=tmp_path / "c"))
    assert network.seen == 8
    x = first["train"].x
    assert x.shape == (8, 12) and x.dtype == np.float16 and np.array_equal(x, again["train"].x)
    # Each row is the feature of its image.
    for number in range(8):
        with Image.open(files.path(number)) as image:
            framed = SMALL.framed(image)[None].float() / 255
        expected = Means()(SMALL.normalised(framed)).flatten().half().detach().numpy()
        np.testing.assert_allclose(x[number], expected, atol=2e-3)
    # Anybody's safetensors reads it.
    stored = load_file(next((tmp_path / "c").glob("*/train.safetensors")))
    assert torch.equal(stored["x"], torch.from_numpy(np.array(x)))


def test_every_change_of_data_or_options_makes_an_entry_of_its_own(tmp_path):
    folder = image_folder(tmp_path / "images") / "train"
    files = file_list(folder)
    options = Images(cache=tmp_path / "c")
    entries = set()

    def entry(files=files, encoder=None, amp=False):
        extract({"train": files}, encoder or features_of(Means()), options)
        new = {p.parent for p in (tmp_path / "c").glob("*/card.json")} - entries
        entries.update(new)
        return len(new)

    assert entry() == 1 and entry() == 0
    assert entry(encoder=features_of(Means(2.0))) == 1  # other weights
    assert entry(encoder=features_of(Means(), Preprocessing(9, 8))) == 1  # other preprocessing
    assert entry(encoder=Pixels(SMALL)) == 1
    assert entry(FileList(folder, files.names[::-1], files.labels)) == 1  # another order
    Image.new("RGB", (10, 10)).save(folder / "cat" / "0.png")  # another image, the same name
    assert entry() == 1
    encoder = Features(as_backbone(Means(), preprocessing=SMALL), amp=True)
    assert entry(encoder=encoder) == 1
    card = json.loads((sorted(entries)[0] / "card.json").read_text())
    card["identity"]["data"] = "changed"
    (sorted(entries)[0] / "card.json").write_text(json.dumps(card))
    with pytest.raises(ContinualEPError, match="belongs to other data"):
        cache.finished(sorted(entries)[0], {"data": "x"})


KILLED = """
import sys
from pathlib import Path
from test_features import Means, features_of, file_list
from continual_ep.features import Images, extract, extraction

Means.pause = 0.2
extraction.NOTE_EVERY = 0.0
print("started", flush=True)
extract({"train": file_list(Path(sys.argv[1]))}, features_of(Means()),
        Images(cache=sys.argv[2], batch_size=4))
print("finished", flush=True)
"""


def waiting_process(folder, cache_folder):
    return subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(cache_folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )


def test_a_killed_extraction_resumes(tmp_path):
    folder = image_folder(tmp_path / "images", train=60) / "train"
    process = waiting_process(folder, tmp_path / "c")
    deadline = time.monotonic() + 60
    while not (notes := list((tmp_path / "c").glob("*/*.note.json"))):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    done = json.loads(notes[0].read_text())["told"]["images"]
    assert 0 < done < 120 and not list((tmp_path / "c").glob("*/card.json"))

    network = Means()
    resumed = extract(
        {"train": file_list(folder)},
        features_of(network),
        Images(cache=tmp_path / "c", batch_size=4),
    )
    assert len(list((tmp_path / "c").glob("*/card.json"))) == 1
    assert len(list((tmp_path / "c").iterdir())) == 1, "the second run made an entry of its own"
    assert network.seen == 120 - done
    whole = extract(
        {"train": file_list(folder)},
        features_of(Means()),
        Images(cache=tmp_path / "d", batch_size=4),
    )
    assert np.array_equal(resumed["train"].x, whole["train"].x)


def test_two_processes_share_one_computation(tmp_path):
    folder = image_folder(tmp_path / "images", train=10) / "train"
    processes = [waiting_process(folder, tmp_path / "c") for _ in range(2)]
    for process in processes:
        assert process.communicate(timeout=60)[0].split() == ["started", "finished"]
        assert process.returncode == 0
    entries = list((tmp_path / "c").iterdir())
    assert len(entries) == 1
    assert sorted(p.name for p in entries[0].iterdir()) == [
        "card.json",
        "lock",
        "train.done.json",
        "train.safetensors",
    ]


def test_interrupts_between_writes_lose_and_repeat_no_row(tmp_path, monkeypatch):
    files = file_list(image_folder(tmp_path / "images", train=10) / "train")
    options = Images(cache=tmp_path / "c", batch_size=4)
    original, calls = cache._write, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) in (3, 6):
            raise KeyboardInterrupt
        original(*arguments)

    monkeypatch.setattr(cache, "_write", failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            extract({"train": files}, features_of(Means()), options)
    resumed = extract({"train": files}, features_of(Means()), options)
    monkeypatch.undo()
    whole = extract(
        {"train": files}, features_of(Means()), Images(cache=tmp_path / "d", batch_size=4)
    )
    assert np.array_equal(resumed["train"].x, whole["train"].x)


def test_a_full_disk_raises_and_keeps_the_rows_written(tmp_path, monkeypatch):
    files = file_list(image_folder(tmp_path / "images", train=10) / "train")
    options = Images(cache=tmp_path / "c", batch_size=4)
    original, calls = cache._write, []

    def full(*arguments):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    monkeypatch.setattr(cache, "_write", full)
    with pytest.raises(ContinualEPError, match=r"no space for the features .* is kept"):
        extract({"train": files}, features_of(Means()), options)
    monkeypatch.undo()
    network = Means()
    assert extract({"train": files}, features_of(network), options)["train"].x.shape == (20, 12)
    assert network.seen == 20 - 8  # two batches had been written


def test_a_file_larger_than_the_disk_is_refused_at_the_start(tmp_path):
    folder = image_folder(tmp_path / "images", train=10) / "train"
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
    )
    limited = KILLED.replace("Means.pause", limit + "Means.pause")
    process = subprocess.run(
        [sys.executable, "-c", limited, str(folder), str(tmp_path / "c")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert "no space for the features" in process.stderr and process.returncode == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_folder(tmp_path):
    files = file_list(image_folder(tmp_path / "images") / "train")
    (tmp_path / "c").mkdir(mode=0o500)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        extract({"train": files}, features_of(Means()), Images(cache=tmp_path / "c"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_cache_folder_that_cannot_be_written(tmp_path, monkeypatch, code):
    files = file_list(image_folder(tmp_path / "images") / "train")

    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be written .*name another \(cache"):
        extract({"train": files}, features_of(Means()), Images(cache=tmp_path / "c"))


def test_a_finished_cache_is_read_without_writing(tmp_path, monkeypatch):
    files = file_list(image_folder(tmp_path / "images") / "train")
    extract({"train": files}, features_of(Means()), Images(cache=tmp_path / "c"))
    monkeypatch.setattr(cache, "writing", None)
    monkeypatch.setattr(extraction, "writing", None)
    assert extract({"train": files}, features_of(Means()), Images(cache=tmp_path / "c"))


@pytest.mark.parametrize("damage", ["card", "short", "junk"])
def test_damaged_entries_raise_an_error(tmp_path, damage):
    files = file_list(image_folder(tmp_path / "images") / "train")
    extract({"train": files}, features_of(Means()), Images(cache=tmp_path / "c"))
    entry = next((tmp_path / "c").iterdir())
    if damage == "card":
        (entry / "card.json").write_text("{")
    else:
        path = entry / "train.safetensors"
        path.write_bytes(path.read_bytes()[:-5] if damage == "short" else b"junk")
    with pytest.raises(ContinualEPError, match="damaged"):
        extract({"train": files}, features_of(Means()), Images(cache=tmp_path / "c"))


def test_features_beyond_float16_are_refused(tmp_path):
    files = file_list(image_folder(tmp_path / "images") / "train")
    with pytest.raises(InputError, match="float16 cannot hold"):
        extract({"train": files}, features_of(Means(1e9)), Images(cache=tmp_path / "c"))


# ---- streams -----------------------------------------------------------------------------------


def test_streams_of_features_and_of_pixels(tmp_path):
    folder = image_folder(tmp_path / "images", classes=("ant", "bee", "cow"))
    place = f"image-folder:{folder}"
    images = Images(backbone=Means(), preprocessing=SMALL, cache=tmp_path / "c")
    benchmark = class_incremental(place, 3, images=images, seed=None)
    assert benchmark.class_names == ("ant", "bee", "cow")
    assert benchmark.input_shape == (12,) and benchmark.image_shape is None
    assert [set(e.dataset.targets) for e in benchmark.train_stream] == [{0}, {1}, {2}]
    pixels = class_incremental(place, 3, images=Images(size=6, cache=tmp_path / "c"), flatten=False)
    assert pixels.input_shape == (3, 6, 6) and pixels.divisor == 255
    with pytest.raises(ConfigurationError, match="sizes of their own"):
        class_incremental(place, 3)


def test_features_of_arrays(tmp_path):
    benchmark = class_incremental(
        "digits",
        5,
        images=Images(backbone=Means(), preprocessing=SMALL, cache=tmp_path, batch_size=500),
    )
    assert benchmark.input_shape == (12,)
    whole = class_incremental("digits", 1, seed=None, images=Images())
    assert len(whole.train_stream[0].dataset) == 1438


def test_large_sets_of_features_stay_on_disk(tmp_path, monkeypatch):
    from continual_ep.streams import images as images_room

    monkeypatch.setattr(images_room, "READ_AT_ONCE", 10)
    folder = image_folder(tmp_path / "images")
    images = Images(backbone=Means(), preprocessing=SMALL, cache=tmp_path / "c")
    benchmark = class_incremental(f"image-folder:{folder}", 2, images=images, scale="max")
    monkeypatch.undo()
    held = class_incremental(f"image-folder:{folder}", 2, images=images, scale="max")
    for mapped, plain in zip(benchmark.train_stream, held.train_stream, strict=True):
        for one, two in zip(mapped.dataset, plain.dataset, strict=True):
            assert torch.equal(one[0], two[0]) and one[1] == two[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "is for image files"),
        ({"weights": "a.pth"}, "weights belongs to a backbone"),
        ({"preprocessing": {"crop": 2}}, "preprocessing belongs to a backbone"),
        ({"size": 8, "backbone": Means()}, "is for pixels"),
        ({"batch_size": 0}, "batch_size"),
        ({"on_corrupt": "shrug"}, "on_corrupt"),
    ],
)
def test_image_options_without_their_backbone_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        class_incremental("digits", images=Images(**options))


def test_a_backbone_refuses_vectors(tmp_path):
    x, y = np.zeros((2, 5), np.float32), np.arange(2)
    np.savez(tmp_path / "a.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    with pytest.raises(ConfigurationError, match="vectors of 5 features"):
        class_incremental(tmp_path / "a.npz", 1, images=Images(backbone=Means()))


def test_transforms_expected_by_torchvision_are_still_there():
    """The names that backbones take their published preprocessing from."""
    published = models.get_model_weights("resnet50").DEFAULT.transforms()
    assert {"resize_size", "crop_size", "mean", "std", "interpolation"} <= set(vars(published))
    assert isinstance(published.interpolation, transforms.InterpolationMode)
