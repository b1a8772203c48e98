"""A small kit, and a board whose kernels take times that are known: an oracle for measuring and importing."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rcnas_edge.board import measure as board
from rcnas_edge.kit import name_of, planned, write_kit
from rcnas_edge.measure.planning import copies_of, timed_part
from rcnas_edge.measure.specimen import specimen
from rcnas_edge.nets.wrn_rows import WrnConfig, rows
from rcnas_edge.pipeline.here import TIMED
from rcnas_edge.profile.fusion import Kernel, kernels
from rcnas_edge.space import Layer

WIDTHS = ((8, 8, 8), (8, 16, 16), (16, 16, 32), (16, 24, 32), (24, 24, 24), (32, 32, 32))


def network(widths: tuple[int, int, int], depth: int = 1) -> tuple[Layer, ...]:
    moments = {"mean": (0.3,), "std": (0.4,)}
    return tuple(rows(WrnConfig((depth, 1, 1), widths, (False,) * 3, image=(1, 8, 8), classes=10, **moments)))


NEEDED = [network(widths) for widths in WIDTHS]
WHOLE = {
    f"{len(WIDTHS) * depth + place:02} wrn": network(widths, depth)
    for depth in (1, 2, 3)
    for place, widths in enumerate(WIDTHS)
}
SPECIMEN_OVERHEAD, OVERHEAD, SCALE = 0.02, 0.05, 1.25
"""ms of a call, and of whole networks against the sum of their kernels."""


@cache
def small_kit(folder: Path, count: int = len(WIDTHS)) -> Path:
    """A kit of a few kernels and networks."""
    whole = dict(list(WHOLE.items())[: 3 * count])
    return write_kit(folder / "kit.zip", NEEDED[:count], whole, threads=(1,), cover={"families": "test"}).path


def known_ms(kernel: Kernel, threads: int) -> float:
    """Known, different for each kind of kernel, and linear in the channels, as the table interpolates."""
    base = int(hashlib.sha256(name_of(kernel[:7]).encode()).hexdigest(), 16) % 97  # type: ignore[arg-type]
    return (3 + base / 10 + 0.25 * kernel[7] + 0.125 * kernel[8]) / 100 / threads**0.5


class KnownBoard:
    """Stands in for `board.OnnxRuntime`: no model is run, a clock goes on by the known time of its kernels.

    `slowness` multiplies every time, as a clock that was turned down does.
    """

    provider, version = "double", "onnxruntime 9.9"

    def __init__(self, kit: Path, runtime: str, slowness: float = 1.0) -> None:
        self.runtime, self.slowness, self.now = runtime, slowness, 0
        self.after: Callable[[], None] = lambda: None
        manifest = json.loads(zipfile.ZipFile(kit).read("manifest.json"))
        self.layers: dict[str, tuple[float, float, Any]] = {}
        for kernel in {kernel for known in TIMED for kernel in planned(NEEDED, known)}:
            part, _ = timed_part(kernel)
            files = manifest["pairs"].get(name_of(kernel))
            if files:
                for key, count in (("one", 1), ("many", 1 + copies_of(part))):
                    self.layers[files[key]] = (SPECIMEN_OVERHEAD, 1.0, specimen(part, count))
        for name, entry in manifest["networks"].items():
            self.layers[entry["file"]] = (OVERHEAD, SCALE, WHOLE[name])

    def name(self, probe: bytes, plans: list[str]) -> tuple[str, str]:
        return self.runtime, self.runtime

    def open(self, model: bytes, threads: int) -> board.Runner:
        self.after()
        overhead, scale, layers = self.layers.get(
            f"models/{hashlib.sha256(model).hexdigest()[:16]}.onnx", (0.1, 1.0, ())
        )
        ms = overhead + scale * sum(known_ms(kernel, threads) for kernel, _ in kernels(layers, self.runtime))

        def run() -> None:
            self.now += round(1e6 * ms * self.slowness)

        return board.Runner(run, lambda: self.now)


def measured(kit: Path, runtime: KnownBoard, out: Path, threads: tuple[int, ...] = (1,), passes: int = 1) -> int:
    """What `board.main` does with the kit, on a double; how many timings are left."""
    opened = board.Kit(kit)
    start: dict[str, Any] = {
        "results": board.KIT,
        "runtime": runtime.runtime,
        "machine": board.machine("onnxruntime 9.9"),
    }
    start["kit"] = {"digest": opened.digest, "made_by": "rcnas-edge", "cover": {}}
    start |= {"pairs": {}, "networks": {}, "threads": {}, "models": []}
    results = board.Results(out, start)
    return board.measure(opened, runtime, results, runtime.runtime, threads, float("inf"), passes)
