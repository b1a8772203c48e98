"""What a classifier wants to be given for an image in [0, 1]: range, normalisation and the order of its axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rcnas_edge.errors import InputError

LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Feed:
    """What a file is given for an image x in [0, 1]: low + (high - low) (x - mean) / std, in its own layout.

    `mean` and `std` are per channel, or empty for none; `layout` is "nchw", "nhwc" or "" (by the file's own shape).
    """

    layout: str = ""
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in ("", *LAYOUTS):
            raise InputError(f"--layout is {' or '.join(LAYOUTS)}, got {self.layout!r}")
        if not self.low < self.high:
            raise InputError(f"--input-range is LOW,HIGH with LOW < HIGH, as 0,255; got {self.low:g},{self.high:g}")
        if any(not deviation > 0 for deviation in self.std):
            raise InputError(f"--std is above 0 in every channel, got {','.join(map(str, self.std))}")
        if (self.mean or self.std) and self.low:
            raise InputError(
                f"--mean and --std are of pixels in [0, 1], an --input-range from {self.low:g} says the same in other "
                "words: leave one of them out"
            )

    @classmethod
    def parse(cls, *, layout: str | None, input_range: str | None, mean: str | None, std: str | None) -> Feed:
        """From the texts of the command line; InputError says which of them cannot be read."""
        low, high = _numbers("--input-range", input_range, 2) or (0.0, 1.0)
        return cls((layout or "").lower(), low, high, _numbers("--mean", mean), _numbers("--std", std))

    def moments(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std float32 (C, 1, 1); InputError unless there is one of each for a channel, or for all."""
        found = []
        for option, values, default in (("--mean", self.mean, 0.0), ("--std", self.std, 1.0)):
            each = values or (default,)
            if len(each) not in (1, channels):
                raise InputError(f"{option} has one number per channel ({channels}), or one for all; got {len(each)}")
            found.append(np.array(each * (channels // len(each)), dtype=np.float32).reshape(channels, 1, 1))
        return found[0], found[1]

    def words(self) -> str:
        """What a file is given, for people."""
        reach = f"pixels in [{self.low:g}, {self.high:g}]"
        if not (self.mean or self.std):
            return reach
        mean, std = (",".join(f"{value:g}" for value in values) or "none" for values in (self.mean, self.std))
        return f"{reach}, normalised by mean {mean} and std {std}"


def _numbers(option: str, text: str | None, count: int | None = None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not np.isfinite(values).all() or count not in (None, len(values)):
        shape = "LOW,HIGH, as 0,255" if count == 2 else "numbers with commas between, as 0.49,0.48,0.45"
        raise InputError(f"{option} is {shape}; got {text!r}")
    return values
