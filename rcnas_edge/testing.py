"""For authors of plugins: does a device profile keep what the rest of the program relies on?"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rcnas_edge.errors import InputError
from rcnas_edge.profile import Profile, Target, read_profile, save_profile
from rcnas_edge.profile.fusion import DEPTHWISE, OPERATIONS, Kernel, kernels
from rcnas_edge.profile.rates import Rates
from rcnas_edge.space import IMAGE, Layer, Shape

__all__ = ["networks", "profile_conformance"]

IMAGES = ((32, 32), (224, 224))
"""Heights and widths of the images that networks are asked for, where the domain of a profile names none."""
CHANNELS = (8, 24, 64, 200)
"""Over which a rate grows."""


def profile_conformance(profile_or_path: Profile | Path | str) -> None:
    """Raise AssertionError, with one sentence, unless a device profile (or its TOML file) can be relied on.

    It comes back from disk as it was; every number has its provenance; every operation of some networks has a latency
    that is finite and above 0; rates do not fall where the work grows; the same question has the same answer.
    """
    try:
        profile = _opened(profile_or_path)
        profile.check_provenance()
        with tempfile.TemporaryDirectory() as folder:
            again = read_profile(save_profile(profile, folder))
    except InputError as error:
        raise AssertionError(str(error)) from error
    _require(again == profile, f"a profile comes back from disk as it was, {profile.name!r} does not")
    _require(
        again.digest() == profile.digest(), f"the digest of {profile.name!r} stays what it is on disk, it does not"
    )
    sizes = [tuple(map(int, image.split("x"))) for image in profile.domain.images] or IMAGES
    for setting in profile.settings:
        target = Target.parse(f"{profile.name}/{setting}")
        for height, width in sizes:
            for name, layers in networks((3, height, width)).items():
                _check_latency(profile, again, layers, target, f"the network {name!r} at {height}x{width}")
        if setting in profile.rates:
            _check_rates(profile.rates[setting], f"{profile.name}/{setting}")


def _opened(profile_or_path: Profile | Path | str) -> Profile:
    if isinstance(profile_or_path, Profile):
        return profile_or_path
    _require(
        isinstance(profile_or_path, (str, Path)),
        f"a DeviceProfile or the path of its TOML file is checked, got a {type(profile_or_path).__name__}",
    )
    profile = read_profile(profile_or_path)
    stem = Path(profile_or_path).stem
    _require(profile.name == stem, f"the name of a profile is the stem of its file, {profile.name!r} is in {stem}.toml")
    return profile


def _require(holds: bool, words: str) -> None:
    if not holds:  # no assert statement: it would be gone under python -O
        raise AssertionError(words)


def _check_latency(profile: Profile, again: Profile, layers: Sequence[Layer], target: Target, called: str) -> None:
    """Finite, above 0 and the same every time, for each kernel and for the whole."""
    table = profile.tables[target.setting]
    for kernel, _ in kernels(layers, profile.runtime):
        ms, _ = table.lookup(kernel)
        _require(
            math.isfinite(ms) and ms > 0,
            f"every kernel takes a finite time above 0, {kernel[0]} of {called} takes {ms} ms on {target}",
        )
    ms, share = profile.latency(layers, target)
    _require(math.isfinite(ms) and ms > 0, f"a latency is finite and above 0, {called} takes {ms} ms on {target}")
    _require(-1e-9 <= share <= 1 + 1e-9, f"the measured share is in [0, 1], of {called} it is {share} on {target}")
    _require(
        (ms, share) == profile.latency(layers, target) == again.latency(layers, target),
        f"a latency is the same every time and from disk, that of {called} on {target} is not",
    )


def _check_rates(rates: Rates, called: str) -> None:
    """More channels or a larger image never take less time."""
    for operation in OPERATIONS:
        for groups, size in ((1, 1), (1, 3), (DEPTHWISE, 3)) if operation == "conv" else ((1, 1),):
            for grown in _growing(operation, groups, size):
                for less, more in itertools.pairwise(map(rates.of, grown)):
                    _require(
                        less <= more,
                        f"a rate grows with the work, {operation} of {called} takes {more} ms after {less} ms",
                    )


def _growing(operation: str, groups: int, size: int) -> Iterator[list[Kernel]]:
    """Kernels of more and more work: by channels, and by pixels."""
    yield [(operation, "plain", size, 1, groups, 16, 16, channels, channels) for channels in CHANNELS]
    yield [(operation, "plain", size, 1, groups, pixels, pixels, 24, 24) for pixels in (4, 8, 16, 56)]


def networks(image: Shape) -> dict[str, tuple[Layer, ...]]:
    """Small networks on images (C, H, W) that together have every operation of `fusion.OPERATIONS` on some runtime."""
    made = {"residual": _residual, "mobile": _mobile, "cell": _cell}
    return {name: tuple(_Rows(image).of(make)) for name, make in made.items()}


class _Rows:
    """Rows in the order of execution; every method gives the index that later rows read."""

    def __init__(self, image: Shape) -> None:
        self.image = image
        self.rows: list[Layer] = []

    def of(self, make: Callable[[_Rows], None]) -> list[Layer]:
        make(self)
        return self.rows

    def add(
        self,
        kind: str,
        *reads: int,
        channels: int = 0,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        start: int = 0,
    ) -> int:
        """A row of the shape of its first operand, but for its channels and stride."""
        inputs = self.image if reads[0] == IMAGE else self.rows[reads[0]].output
        height, width = ((side - 1) // stride + 1 for side in inputs[1:])
        output = (channels or inputs[0], height, width)
        if kind == "globalpool":
            output = (inputs[0], 1, 1)
        name = f"{kind}{len(self.rows)}"
        self.rows.append(Layer(name, kind, inputs, output, reads, kernel, stride, groups, start=start))
        return len(self.rows) - 1

    def block(self, source: int, channels: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> int:
        """Convolution and batch normalisation."""
        made = self.add("conv", source, channels=channels, kernel=kernel, stride=stride, groups=groups)
        return self.add("batchnorm", made)


def _residual(rows: _Rows) -> None:
    """A pre-activation block with a sum."""
    stem = rows.add("conv", rows.add("normalize", IMAGE), channels=16, kernel=3)
    active = rows.add("relu", rows.add("batchnorm", stem))
    inner = rows.add("relu", rows.block(active, 16))
    joined = rows.add("add", rows.add("conv", inner, channels=16, kernel=3), stem)
    last = rows.add("relu", rows.add("batchnorm", joined))
    rows.add("linear", rows.add("globalpool", rows.add("maxpool", last, kernel=3, stride=2)), channels=10)


def _mobile(rows: _Rows) -> None:
    """An inverted bottleneck with squeeze-and-excitation, and grouped convolutions."""
    stem = rows.add("relu6", rows.block(IMAGE, 16, stride=2))
    wide = rows.add("relu6", rows.block(stem, 64, kernel=1))
    deep = rows.add("relu6", rows.block(wide, 64, groups=64))
    gate = rows.add("linear", rows.add("globalpool", deep), channels=64)
    scaled = rows.add("multiply", deep, rows.add("sigmoid", gate))
    joined = rows.add("add", rows.block(scaled, 16, kernel=1), stem)
    rows.add("linear", rows.add("globalpool", rows.block(joined, 32, groups=2)), channels=10)


def _cell(rows: _Rows) -> None:
    """Slices, each its own way, a concatenation, and x times sigmoid(x)."""
    stem = rows.add("relu", rows.block(IMAGE, 24))
    parts = [rows.add("slice", stem, channels=8, start=start) for start in (0, 8, 16)]
    pooled = rows.add("avgpool", parts[1], kernel=3)
    joined = rows.add("concat", rows.block(parts[0], 8), pooled, parts[2], channels=24)
    active = rows.add("multiply", joined, rows.add("sigmoid", joined))
    rows.add("linear", rows.add("globalpool", rows.add("relu6", rows.add("relu", active))), channels=10)
