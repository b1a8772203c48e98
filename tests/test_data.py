"""Data sets: splits that do not overlap, readers of real layouts, and one sentence for every misfit."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcnas_edge.data import Split, _read_image, load_dataset, stratified
from rcnas_edge.errors import InputError


def rows(split: Split) -> set[bytes]:
    return {image.tobytes() + bytes([label]) for image, label in zip(split.images, split.labels, strict=True)}


def make_folder(root: Path, per_class: int = 10, size: int = 12) -> Path:
    generator = np.random.default_rng(0)
    for label, name in enumerate(["bird", "cat", "dog"]):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = generator.integers(0, 80, (size, size + 3, 3)) + 80 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def test_digits_are_the_pixels_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    assert data.image == (1, 8, 8)
    assert (len(data.train), len(data.held_out), len(data.test)) == (1038, 259, 500)
    bunch = load_digits()
    assert rows(data.train) | rows(data.held_out) | rows(data.test) == {
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() + bytes([label])
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    floats = data.train.floats()
    assert floats.dtype == np.float32
    assert floats.min() == 0
    assert floats.max() == 1
    assert data.mean == (pytest.approx(floats.mean(), abs=1e-3),)
    assert data.std == (pytest.approx(floats.std(), abs=1e-3),)


def test_held_out_is_cut_from_train_stratified_and_seeded():
    first, again, other = load_dataset("digits"), load_dataset("digits"), load_dataset("digits", seed=1)
    assert first.digest == again.digest != other.digest
    assert rows(first.test) == rows(other.test)
    assert not rows(first.held_out) & rows(first.test)
    assert rows(first.held_out) != rows(other.held_out)
    counts = np.bincount(first.held_out.labels) / np.bincount(
        np.concatenate([first.train.labels, first.held_out.labels])
    )
    assert np.abs(counts - 0.2).max() < 0.02


def test_stratified_partitions_and_always_leaves_one():
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    kept, cut = stratified(labels, 0.9, seed=3)
    assert sorted([*kept, *cut]) == list(range(10))
    assert set(labels[kept]) == set(labels[cut]) == {0, 1}
    with pytest.raises(InputError, match="class 1 has one"):
        stratified(np.array([0, 0, 1]), 0.5, seed=0)


def test_subset_is_smaller_and_keeps_every_class():
    data = load_dataset("digits", subset=200)
    assert len(data.train) + len(data.held_out) == pytest.approx(200, abs=10)
    assert len(data.test) == pytest.approx(200, abs=10)
    assert len(np.unique(data.train.labels)) == 10


def test_folder_with_one_folder_per_class(tmp_path):
    data = load_dataset("folder", root=make_folder(tmp_path), image_size=8)
    assert data.class_names == ("bird", "cat", "dog")
    assert data.image == (3, 8, 8)
    assert len(data.train) + len(data.held_out) + len(data.test) == 30
    for split in (data.train, data.held_out, data.test):
        brightness = split.images.reshape(len(split), -1).mean(1)
        assert (np.digitize(brightness, [80, 160]) == split.labels).all()


def test_folder_with_train_and_test(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "test", per_class=4)
    data = load_dataset("folder", root=tmp_path, image_size=8)
    assert len(data.test) == 12
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "wolf")
    with pytest.raises(InputError, match="wolf"):
        load_dataset("folder", root=tmp_path, image_size=8)


def test_a_folders_classes_are_mixed(tmp_path):
    """Selection takes the first so many held-out images, batch statistics the first so many of train."""
    data = load_dataset("folder", root=make_folder(tmp_path, per_class=60), image_size=4)
    for split in (data.train, data.held_out):
        third = split.labels[: len(split) // 3]
        assert set(third) == {0, 1, 2}
    again = load_dataset("folder", root=tmp_path, image_size=4)
    assert again.digest == data.digest


def test_sixteen_bits_are_brought_to_eight(tmp_path):
    make_folder(tmp_path)
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "cat" / "wide.png")
    image = _read_image(tmp_path / "cat" / "wide.png", 8)
    assert (image == grey >> 8).all()
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "cat" / "float.tiff")
    with pytest.raises(InputError, match=r"float\.tiff has 32 \(mode F\)"):
        load_dataset("folder", root=tmp_path, image_size=8)


@pytest.mark.parametrize("damage", ["magic", "labels"])
def test_damaged_fashion_mnist_is_one_sentence(tmp_path, damage):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for half in ("train", "t10k"):
        images, labels = (2051, 6, 4, 4), (2049, 5 if damage == "labels" else 6)
        for name, header, count in (("images-idx3", images, 96), ("labels-idx1", labels, labels[1])):
            magic = 0x0B00 + 9 if damage == "magic" else header[0]
            content = np.array([magic, *header[1:]], dtype=">i4").tobytes() + bytes(count)
            (raw / f"{half}-{name}-ubyte").write_bytes(content)
    with pytest.raises(InputError, match="not whole"):
        load_dataset("fashion-mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "mnist"}, "one of digits, cifar10"),
        ({"name": "cifar10"}, "--data-root"),
        ({"name": "cifar10", "root": Path("/nowhere")}, "not whole"),
        ({"name": "folder"}, "--image-size"),
        ({"name": "folder", "root": Path("/nowhere"), "image_size": 8}, "not a folder"),
        ({"name": "folder", "root": Path("/"), "image_size": 2}, "between 4 and 1024"),
        ({"name": "digits", "image_size": 16}, "leave it out"),
        ({"name": "digits", "subset": 5}, "two images per class"),
    ],
)
def test_a_misfit_is_one_sentence(arguments, words):
    with pytest.raises(InputError, match=words):
        load_dataset(**arguments)


def test_a_broken_image_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "cat" / "3.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"3\.png"):
        load_dataset("folder", root=tmp_path, image_size=8)


@pytest.mark.parametrize(
    ("name", "image", "sizes"), [("cifar10", (3, 32, 32), 50000), ("fashion-mnist", (1, 28, 28), 60000)]
)
def test_real_data_in_torchvisions_layout(name, image, sizes):
    root = os.environ.get("RCNAS_DATA")
    if not root:
        pytest.skip("RCNAS_DATA names no folder with CIFAR-10 and Fashion-MNIST")
    data = load_dataset(name, root=Path(root), subset=1000)
    assert data.image == image
    assert data.classes == 10
    full = load_dataset(name, root=Path(root))
    assert len(full.train) + len(full.held_out) == sizes
    assert len(full.test) == 10000
