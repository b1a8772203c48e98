"""Data sets as arrays: train, held-out (cut from train) and test; search and training never see test.

Images are uint8 (N, C, H, W); networks take them as float32 / 255 and normalise inside, so that an epsilon is
in pixel units before and after export.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnas_edge.errors import InputError
from rcnas_edge.reading import told
from rcnas_edge.space import Shape

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""By the file's content: some of the other formats that Pillow knows are programs, which it would run."""
FOLDER = "folder"
"""The one data set that its name does not identify."""
MOST_PIXELS = 90_000_000
"""Of one image, before it is made small."""
MOST_BYTES = 16_000_000_000
"""Of all images of a folder, once they are."""


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) with labels int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(f"images are uint8 (N, C, H, W), got {self.images.dtype} {self.images.shape}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"one label per image, got {self.labels.shape} for {self.images.shape}")

    def __len__(self) -> int:
        return len(self.labels)

    def floats(self) -> np.ndarray:
        """Images float32 (N, C, H, W) in [0, 1]."""
        return self.images.astype(np.float32) / np.float32(255)

    def take(self, indices: np.ndarray) -> Split:
        """The examples at these indices."""
        return Split(np.ascontiguousarray(self.images[indices]), self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """Three splits with what a network and an attack need to know of them.

    `mean` and `std` are per channel of the train split in [0, 1] units; `threat` is the default threat model;
    `augmentation` is "crop", "crop+flip" or "none"; `digest` identifies splits and labels.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    held_out: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    threat: str
    augmentation: str
    digest: str

    @property
    def image(self) -> Shape:
        """(C, H, W)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        return len(self.class_names)


@dataclass(frozen=True)
class Source:
    """How a named data set is read: `read(root, image_size)` gives (train, test or None, class names)."""

    read: Callable[[Path | None, int | None], tuple[Split, Split | None, tuple[str, ...]]]
    threat: str
    augmentation: str
    held_out: float
    """Share of train that is held out."""
    summary: str
    test: float = 0.2
    """Share that is cut for test where the source has no test split of its own."""


def load_dataset(
    name: str,
    *,
    root: Path | None = None,
    image_size: int | None = None,
    subset: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a data set; `held_out` is a stratified, seeded part of train.

    `subset` takes about that many images of train (held-out ones included) and at most about that many of test,
    stratified and seeded, for trials: every class is rounded. Raises InputError for an unknown name, a missing folder
    or an unreadable image.
    """
    if name not in SOURCES:
        raise InputError(f"a data set is one of {', '.join(SOURCES)}, got {name!r}")
    if image_size is not None and name != FOLDER:
        raise InputError(f"--image-size is for --dataset folder, {name} has its own resolution: leave it out")
    source = SOURCES[name]
    train, test, class_names = source.read(root, image_size)
    if len(np.unique(train.labels)) < 2:
        raise InputError(f"a classifier needs images of at least two classes, {name} at {root} has {class_names}")
    if test is None:
        rest, cut = stratified(train.labels, source.test, seed=20240601)
        train, test = train.take(rest), train.take(cut)
    if subset is not None:
        if subset < 2 * len(class_names):
            raise InputError(f"--subset is at least two images per class ({2 * len(class_names)}), got {subset}")
        train, test = _subset(train, subset, seed), _subset(test, subset, seed)
    kept, held_out = stratified(train.labels, source.held_out, seed=seed)
    train, held_out_split = train.take(kept), train.take(held_out)
    mean, std = _moments(train.images)
    return Dataset(
        name=name,
        class_names=class_names,
        train=train,
        held_out=held_out_split,
        test=test,
        mean=mean,
        std=std,
        threat=source.threat,
        augmentation=source.augmentation,
        digest=_digest(train, held_out_split, test),
    )


def stratified(labels: np.ndarray, share: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (kept, cut): of every class about `share`, at least one image, is cut; both ascending."""
    generator = np.random.default_rng(seed)
    cut = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise InputError(f"a class is split in two, so it needs at least two images; class {label} has one")
        cut.append(members[: min(len(members) - 1, max(1, round(len(members) * share)))])
    chosen = np.sort(np.concatenate(cut))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _subset(split: Split, count: int, seed: int) -> Split:
    if count >= len(split):
        return split
    _, chosen = stratified(split.labels, count / len(split), seed=seed)
    return split.take(chosen)


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of pixels in [0, 1], exact from the histogram, to four digits."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        average = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - average) ** 2).sum() / counts.sum())
        mean.append(round(average, 4))
        std.append(max(round(math.sqrt(variance), 4), 1e-3))
    return tuple(mean), tuple(std)


def _digest(*splits: Split) -> str:
    sha = hashlib.sha256()
    for split in splits:
        sha.update(repr(split.images.shape).encode())
        sha.update(np.ascontiguousarray(split.images).data)
        sha.update(np.ascontiguousarray(split.labels, dtype=np.int64).data)
    return sha.hexdigest()[:16]


def _digits(root: Path | None, image_size: int | None) -> tuple[Split, Split | None, tuple[str, ...]]:
    """scikit-learn's handwritten digits: 1,797 grey images of 8x8 (UCI, Alpaydin and Kaynak 1998), 500 for test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    everything = Split(images, bunch.target.astype(np.int64))
    kept, cut = stratified(everything.labels, 500 / len(everything), seed=20240601)
    return everything.take(kept), everything.take(cut), tuple(str(digit) for digit in range(10))


def _torchvision(kind: str) -> Callable[[Path | None, int | None], tuple[Split, Split | None, tuple[str, ...]]]:
    """A reader of torchvision's on-disk layout, which checks the files' md5 sums where it has them."""

    def read(root: Path | None, image_size: int | None) -> tuple[Split, Split | None, tuple[str, ...]]:
        if root is None:
            raise InputError(f"{kind} is read from a folder in torchvision's layout: pass it as --data-root DIR")
        from torchvision import datasets

        halves = []
        for train in (True, False):
            try:
                data = getattr(datasets, kind)(str(root), train=train, download=False)
                if len(data.data) != len(data.targets):
                    raise ValueError(f"{len(data.data)} images have {len(data.targets)} labels")
            except Exception as error:  # torchvision asserts on damaged files, and raises many other types
                raise InputError(
                    f"{kind} is not, or not whole, under --data-root {root} (torchvision's layout): {error}"
                ) from error
            images = np.asarray(data.data)
            images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
            halves.append(Split(np.ascontiguousarray(images), np.asarray(data.targets, dtype=np.int64)))
        return halves[0], halves[1], tuple(data.classes)

    return read


def _folder(root: Path | None, image_size: int | None) -> tuple[Split, Split | None, tuple[str, ...]]:
    """ROOT/class/image files, or ROOT/train/class/... with ROOT/test (or val)/class/..."""
    if root is None or image_size is None:
        raise InputError("--dataset folder needs --data-root DIR (a folder of images per class) and --image-size N")
    if not 4 <= image_size <= 1024:
        raise InputError(f"--image-size is between 4 and 1024 pixels, got {image_size}")
    if not root.is_dir():
        raise InputError(f"--data-root is a folder with one folder of images per class, {root} is not a folder")
    if not (root / "train").is_dir():
        train, class_names = _read_classes(root, image_size, None)
        return train, None, class_names
    test_root = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    train, class_names = _read_classes(root / "train", image_size, None)
    test = None if test_root is None else _read_classes(test_root, image_size, class_names)[0]
    return train, test, class_names


def _read_classes(root: Path, size: int, expected: tuple[str, ...] | None) -> tuple[Split, tuple[str, ...]]:
    try:
        listed = {folder.name: list(_listed(folder)) for folder in sorted(root.iterdir()) if folder.is_dir()}
    except OSError as error:
        raise InputError(f"a folder data set is one that can be read, {error.filename} is not: {error}") from error
    classes = tuple(listed)
    for name, paths in listed.items():
        if not name.isprintable():
            raise InputError(f"a class has a name that can be shown, that of the folder {name!a} cannot: rename it")
        if not paths:
            raise InputError(
                f"a class has a folder of images ({', '.join(EXTENSIONS)}), {told(root / name)} has none: remove it"
            )
    if not classes:
        raise InputError(f"a folder data set has one folder of images per class, {told(root)} has no folder at all")
    if expected is not None and classes != expected:
        raise InputError(f"{root} has the classes {list(classes)}, train has {list(expected)}: make them the same")
    samples = [(path, label) for label, paths in enumerate(listed.values()) for path in paths]
    if len(samples) * 3 * size**2 > MOST_BYTES:
        raise InputError(
            f"the images of a folder take at most {MOST_BYTES / 1e9:g} GB, {len(samples)} of {size}x{size} take more: "
            "make --image-size smaller, or leave some out"
        )
    # listed class by class: mixed, so that the first so many images of a split stand for all of its classes
    samples = [samples[index] for index in np.random.default_rng(0).permutation(len(samples))]
    images = np.stack([_read_image(path, size) for path, _ in samples])
    return Split(images, np.array([label for _, label in samples], dtype=np.int64)), classes


def _listed(folder: Path) -> Iterator[Path]:
    """The images of a folder and of those inside it, links followed, in the order of torchvision's ImageFolder."""
    for inside in sorted(_folders(folder), key=str):
        yield from (
            path for path in sorted(inside.iterdir()) if path.name.lower().endswith(EXTENSIONS) and not path.is_dir()
        )


def _folders(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A folder and those inside it; InputError for one that lies in itself."""
    real = folder.resolve()
    if real in above:
        raise InputError(f"a folder of images ends somewhere, {told(folder)} is a link back to one around it")
    yield folder
    for path in folder.iterdir():
        if path.is_dir():
            yield from _folders(path, (*above, real))


def _read_image(path: Path, size: int) -> np.ndarray:
    """RGB uint8 (3, size, size): the shorter side is scaled to `size`, the centre is cut out.

    Of 16 bits the upper eight are taken: Pillow's own conversion cuts grey images off at 255 of 65535, which is white.
    """
    from PIL import Image, ImageOps

    try:
        if not path.is_file():
            raise InputError(f"an image is a regular file, {told(path)} is none: remove it")
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise InputError(
                    f"an image has at most {MOST_PIXELS / 1e6:g} million pixels, {told(path)} has "
                    f"{image.width}x{image.height}: make it smaller"
                )
            if image.mode in ("I", "F"):
                raise InputError(
                    f"an image has 8 or 16 bits per channel, {told(path)} has 32 (mode {image.mode}): convert it"
                )
            wide = image.mode.startswith("I;16")
            grey = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if wide else image
            square = ImageOps.fit(grey.convert("RGB"), (size, size), Image.Resampling.BILINEAR)
    except InputError:
        raise
    except Exception as error:  # Pillow raises many types for damaged files
        reason = " ".join(str(error).split()).replace(str(path), path.name)
        words = f"every file of a folder data set is a readable image, {told(path)} is not: {reason[:200]}"
        raise InputError("".join(letter if letter.isprintable() else "?" for letter in words)) from error
    return np.asarray(square, dtype=np.uint8).transpose(2, 0, 1)


SOURCES = {
    "digits": Source(_digits, "linf:0.1:10", "none", 0.2, "scikit-learn's digits, 8x8 grey, epsilon 0.1; embedded"),
    "cifar10": Source(_torchvision("CIFAR10"), "linf:8/255:10", "crop+flip", 0.1, "CIFAR-10, 32x32, epsilon 8/255"),
    "cifar100": Source(_torchvision("CIFAR100"), "linf:8/255:10", "crop+flip", 0.1, "CIFAR-100, 32x32, epsilon 8/255"),
    "fashion-mnist": Source(
        _torchvision("FashionMNIST"), "linf:0.1:10", "crop+flip", 0.1, "Fashion-MNIST, 28x28 grey, epsilon 0.1"
    ),
    FOLDER: Source(_folder, "linf:4/255:10", "crop+flip", 0.1, "a folder of images per class, epsilon 4/255"),
}
