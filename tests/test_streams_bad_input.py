"""Data that cannot be learned from: one clear error each, and no download without being asked."""

import gzip

import numpy as np
import pytest

from continual_ep.errors import ConfigurationError, InputError, MissingDataError
from continual_ep.streams import Arrays, class_incremental


def good():
    return {
        "train_x": np.zeros((4, 3), np.float32),
        "train_y": np.array([0, 1, 0, 1]),
        "test_x": np.zeros((2, 3), np.float32),
        "test_y": np.array([0, 1]),
    }


def with_value(shape, place, value):
    x = np.zeros(shape, np.float64)
    x[place] = value
    return x


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_x": with_value((4, 3), (2, 1), np.nan)}, "train_x holds 1 NaN .* is sample 2"),
        ({"test_x": with_value((2, 3), 1, np.inf)}, "test_x holds 3 NaN or infinite .* 1 samples"),
        ({"train_x": with_value((4, 3), 0, 1e300)}, "train_x holds 3 NaN or infinite"),
        ({"train_x": np.zeros((4,))}, r"train_x has shape \(4,\)"),
        ({"train_x": np.zeros((4, 1, 1, 1, 1))}, "train_x has shape"),
        ({"train_x": np.zeros((0, 3)), "train_y": np.zeros(0, int)}, "at least one sample"),
        ({"test_x": np.zeros((2, 0))}, r"test_x has shape \(2, 0\)"),
        ({"test_x": np.zeros((2, 5))}, r"\(3,\) but test_x of \(5,\)"),
        ({"train_x": np.array([["a"] * 3] * 4)}, "train_x has type <U1"),
        ({"train_y": np.array([0, 1, 0])}, "4 samples but train_y 3 labels"),
        ({"train_y": np.array([[0], [1], [0], [1]])}, r"train_y has shape \(4, 1\)"),
        ({"train_y": np.array([0.0, 1.0, 0.0, 1.0])}, "type float64: one integer label"),
        ({"test_y": np.array([0, 2])}, r"test_y has labels \[2\] of which train_y"),
        ({"test_y": np.array([1, 1])}, r"train_y has labels \[0\] of which test_y"),
    ],
)
def test_unusable_arrays(change, message):
    with pytest.raises(InputError, match=message):
        Arrays.checked(**(good() | change))


def test_labels_outside_the_named_classes():
    Arrays.checked(**good(), class_names=["a", "b"])
    with pytest.raises(InputError, match=r"labels \[1\] lie outside 0\.\.0"):
        Arrays.checked(**good(), class_names=["a"])


def test_missing_keys(tmp_path):
    arrays = good()
    del arrays["test_y"]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=r"lacks \['test_y'\]"):
        class_incremental(tmp_path / "a.npz", 2)


def test_a_file_that_wants_pickle_is_refused(tmp_path):
    arrays = good() | {"train_x": np.array([{"a": 1}] * 4, dtype=object)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match="pickled objects, which could run code"):
        class_incremental(tmp_path / "a.npz", 2)


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut short"])
def test_damaged_npz(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz"):
        class_incremental(tmp_path / "a.npz", 2)


def test_truncated_npz(tmp_path):
    np.savez(tmp_path / "a.npz", **good())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short"):
        class_incremental(tmp_path / "a.npz", 2)


def test_missing_npz(tmp_path):
    with pytest.raises(MissingDataError, match=r"nowhere\.npz"):
        class_incremental(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_a_missing_set_names_the_folder_and_the_command(tmp_path, name):
    with pytest.raises(MissingDataError) as error:
        class_incremental(name, root=tmp_path / "sets")
    message = str(error.value)
    assert str(tmp_path / "sets") in message and "raw" in message
    assert f"continual-ep run --stream {name} --root {tmp_path / 'sets'} --download" in message
    assert not (tmp_path / "sets").exists()


def test_unknown_stream_names_what_there_is():
    with pytest.raises(ConfigurationError, match="digits, mnist"):
        class_incremental("imagenot")


def test_unknown_scale():
    with pytest.raises(ConfigurationError, match="scale='twice'"):
        class_incremental("digits", scale="twice")


def test_scale_by_a_maximum_of_zero(tmp_path):
    np.savez(tmp_path / "a.npz", **good())
    with pytest.raises(ConfigurationError, match="scale='max'"):
        class_incremental(tmp_path / "a.npz", 2, scale="max")


def idx(array):
    """The IDX format of LeCun's files: magic (type 8 = bytes), sizes as big-endian, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(root, labels=range(10)):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    y = np.array([*labels, *labels])
    x = np.arange(len(y) * 4).reshape(len(y), 2, 2) % 256
    for split in ("train", "t10k"):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(x))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(y))
    return folder


def test_torchvisions_layout_is_read_from_disk(tmp_path):
    write_mnist(tmp_path)
    benchmark = class_incremental("mnist", 5, root=tmp_path)
    assert [len(e.dataset) for e in benchmark.train_stream] == [4] * 5
    assert benchmark.image_shape == (2, 2) and benchmark.divisor == 255


def test_a_damaged_set_says_so(tmp_path):
    folder = write_mnist(tmp_path)
    path = folder / "train-images-idx3-ubyte"
    for content in (path.read_bytes()[:20], b"", gzip.compress(b"x")):
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            class_incremental("mnist", root=tmp_path)


def test_labels_outside_a_named_set(tmp_path):
    write_mnist(tmp_path, labels=range(11))
    with pytest.raises(InputError, match=r"labels \[10\] lie outside 0\.\.9"):
        class_incremental("mnist", root=tmp_path)


def test_a_download_that_fails_is_missing_data(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])  # no server
    with pytest.raises(MissingDataError, match="could not be fetched"):
        class_incremental("mnist", root=tmp_path, download=True)
