"""The kit that a board without torch and network is measured with: models, a list of them, and the one measure.py.

A zip holds the specimens of every kernel that a table of the covered networks wants, for each layout that ONNX Runtime
may have on a CPU (the board finds out which it has), and whole random networks, of which some calibrate the table and
the others check it. The weights repeat a short pattern, so that the zip is small; models that layouts share are stored
once. `results` makes a profile of what the board writes.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from rcnas_edge import __version__
from rcnas_edge.board.kit import KIT
from rcnas_edge.bundle.program import program
from rcnas_edge.checkpoint import ZIP_DATE, write_whole
from rcnas_edge.errors import InputError
from rcnas_edge.measure.planning import copies_of, ordered, plan, timed_part
from rcnas_edge.measure.rowgraph import Pattern, graph_of
from rcnas_edge.measure.specimen import specimen
from rcnas_edge.measure.timing import layout_probe, reference_model
from rcnas_edge.pipeline.console import Advance
from rcnas_edge.pipeline.covering import spaces
from rcnas_edge.pipeline.here import TIMED
from rcnas_edge.pipeline.prepare import sampled_layers
from rcnas_edge.profile import image_size
from rcnas_edge.profile.bounds import MOST_THREADS
from rcnas_edge.profile.device import megabytes_of_weights
from rcnas_edge.profile.fusion import Kernel, kernels
from rcnas_edge.space import Architecture, Layer, Space

Network = Sequence[Layer]

NETWORKS = 150
"""Whole networks of a kit, of all its families together."""
FIT, CHECK = "fit", "check"
"""What a whole network is for: every third fixes overhead and scale, the others say how well they predict."""


@dataclass(frozen=True)
class Packed:
    """What a kit holds."""

    path: Path
    kernels: Mapping[str, int]
    """By runtime."""
    networks: int
    models: int
    bytes: int
    unpacked: int


def make_kit(
    path: Path, kind: str, base: str | None, image: str, classes: int, threads: Sequence[int], advance: Advance
) -> Packed:
    """Write the kit for the students of the network `base` of a family (or of `all`), on images "CxHxW"."""
    of = spaces(kind, base, image, classes)
    needed: list[Network] = []
    for place, space in enumerate(of.values()):
        advance(0.1 * place / len(of), "networks to cover")
        needed += sampled_layers(space, 0)
    cover = {"families": kind, "largest": ", ".join(of), "image": image, "classes": classes}
    return write_kit(path, needed, whole_networks(of, NETWORKS), threads=threads, cover=cover, advance=advance)


def threads_of(text: str) -> tuple[int, ...]:
    """The numbers of threads that are written as 1,2."""
    if not re.fullmatch("[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", text) or max(map(int, text.split(","))) > MOST_THREADS:
        raise InputError(f"--threads are from 1 to {MOST_THREADS}, as 1,2, got {text!r}")
    return tuple(sorted(set(map(int, text.split(",")))))


def whole_networks(of: Mapping[str, Space], count: int) -> dict[str, tuple[Layer, ...]]:
    """So many different random networks by name, of each space in turns; fewer where the spaces have no more."""
    generator = random.Random(1)
    found: dict[tuple[Layer, ...], str] = {}
    for attempt in range(20 * count):
        name, space = list(of.items())[attempt % len(of)]
        picks = tuple(generator.randrange(len(gene.options)) for gene in space.genes)
        found.setdefault(tuple(space.layers(Architecture(picks))), name)
        if len(found) == count:
            break
    return {f"{place:03} {name}": layers for place, (layers, name) in enumerate(found.items())}


def write_kit(
    path: Path,
    needed: Iterable[Network],
    whole: Mapping[str, Network],
    *,
    threads: Sequence[int] = (1,),
    cover: Mapping[str, Any] | None = None,
    advance: Advance = lambda share, text: None,
) -> Packed:
    """Write the kit that measures what predicts networks like `needed`, calibrated and checked on the `whole` ones."""
    plans = {runtime: planned(needed, runtime) for runtime in TIMED}
    if not any(plans.values()):
        raise InputError("a kit measures the kernels of at least one network, got none: pass rows of a space")
    content: Packing = Packing()

    def write(aside: Path) -> None:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            content.archive = archive
            manifest = {
                "kit": KIT,
                "made_by": f"rcnas-edge {__version__}",
                "cover": dict(cover or {}),
                "threads": list(threads),
                "reference": content.add(reference_model()),
                "probe": content.add(layout_probe()),
                "plans": {runtime: [name_of(kernel) for kernel in todo] for runtime, todo in plans.items()},
                "pairs": _pairs({kernel for todo in plans.values() for kernel in todo}, content, advance),
                "networks": _networks(whole, content, advance),
                "files": content.hashes,
            }
            content.text("manifest.json", json.dumps(manifest))
            content.text("measure.py", program("measure"))
            content.text("measure_tensorrt.py", _packaged("board", "tensorrt.py"))
            content.text("__main__.py", "import sys\n\nimport measure\n\nsys.exit(measure.main())\n")
            content.text("README.txt", _packaged("assets", "kit", "README.txt"))

    write_whole(path, write)
    return Packed(
        path,
        {runtime: len(todo) for runtime, todo in plans.items()},
        len(whole),
        len(content.hashes),
        path.stat().st_size,
        content.unpacked,
    )


@dataclass
class Packing:
    """A zip that is being written: models are named by their content, so that none is there twice."""

    archive: zipfile.ZipFile = field(init=False)
    hashes: dict[str, str] = field(default_factory=dict)
    unpacked: int = 0

    def add(self, model: bytes) -> str:
        """The name of a model in the zip."""
        digest = hashlib.sha256(model).hexdigest()
        name = f"models/{digest[:16]}.onnx"
        if name not in self.hashes:
            self.hashes[name] = digest
            self.unpacked += len(model)
            self._write(name, model)
        return name

    def text(self, name: str, words: str) -> None:
        """A file that is no model."""
        self._write(name, words.encode("utf-8"))

    def _write(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name, ZIP_DATE)
        entry.external_attr = 0o644 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        self.archive.writestr(entry, content)


def planned(needed: Iterable[Network], runtime: str) -> list[Kernel]:
    """The kernels to time for networks like these, in order."""
    counts = Counter(kernel for layers in needed for kernel, _ in kernels(layers, runtime))
    return ordered(plan(counts, {}, runtime), counts, runtime)


def name_of(kernel: Kernel) -> str:
    """A kernel in one text."""
    return " ".join(map(str, kernel))


def rows_digest(kernel: Kernel, copies: int) -> str:
    """What identifies the two specimens that a kernel is timed by."""
    part, share = timed_part(kernel)
    rows = [specimen(part, count) for count in (1, 1 + copies)]
    return hashlib.sha256(repr((share, rows)).encode()).hexdigest()[:12]


def _pairs(todo: set[Kernel], content: Packing, advance: Advance) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, kernel in enumerate(sorted(todo)):
        advance(0.1 + 0.4 * place / len(todo), "kernels")
        part, _ = timed_part(kernel)
        copies = copies_of(part)
        one, many = (content.add(_model(specimen(part, count))) for count in (1, 1 + copies))
        about = {"copies": copies, "rows": rows_digest(kernel, copies)}
        found[name_of(kernel)] = {"one": one, "many": many, "about": about}
    return found


def _networks(whole: Mapping[str, Network], content: Packing, advance: Advance) -> dict[str, Any]:
    found: dict[str, Any] = {}
    turns: Counter[str] = Counter()
    for place, (name, layers) in enumerate(whole.items()):
        advance(0.5 + 0.5 * place / len(whole), "whole networks")
        of = name.partition(" ")[2]  # every space has its networks for the fit and for the check
        turns[of] += 1
        counts = {runtime: Counter(name_of(kernel) for kernel, _ in kernels(layers, runtime)) for runtime in TIMED}
        about = {
            "role": FIT if turns[of] % 3 == 1 else CHECK,
            "image": image_size(layers),
            "megabytes": round(megabytes_of_weights(layers), 6),
            "kernels": {runtime: dict(of_runtime) for runtime, of_runtime in counts.items()},
        }
        found[name] = {"file": content.add(_model(layers)), "about": about}
    return found


def _model(layers: Network) -> bytes:
    return graph_of(layers, draws=Pattern()).SerializeToString()


def _packaged(*way: str) -> str:
    """A file of this package."""
    return resources.files("rcnas_edge").joinpath(*way).read_text(encoding="utf-8")
