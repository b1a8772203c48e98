"""What channels cost in time that come in no multiples of eight: networks timed in turns, beside their MACs.

Channel pruning takes the same share of every layer, so it ends at any number of channels, and its MACs say that it is
as cheap as a network of a search whose widths are multiples of eight. A runtime that computes channels in blocks of 8
or 16 fills the last block with zeros, or leaves the blocks altogether. Each network is exported and timed by
`measure.time_beside`, in turns with the first one, so that the ratio holds on a machine that does other things; a visit
is a timing of its own. Weights do not matter to time and are random.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, and before any import of torch

import torch
from machine import machine, show

from rcnas_edge.errors import InputError
from rcnas_edge.export import export_in, exporter
from rcnas_edge.measure import time_beside
from rcnas_edge.nets.wrn import family
from rcnas_edge.nets.wrn_rows import WrnConfig, rows

NETWORKS = ("2.2.2/8.16.40/16", "2.2.2/8.16.48/16", "2.2.1/8.24.40/16", "2.2.2/10.20.41/5", "2.2.2/32.64.128/16")
"""Of `real_search.py`: RC-NAS with a rule and from its agent alone, RobustScaling, magnitude pruning, the teacher."""


def network(text: str, image: tuple[int, int, int]) -> WrnConfig:
    """A WRN from its blocks, its channels and those of its stem, as 2.2.2/8.16.40/16; InputError for anything else."""
    try:
        depths, widths, stem = (tuple(map(int, part.split("."))) for part in text.split("/"))
        (stem_channels,) = stem
    except ValueError as error:
        raise InputError(f"a network is blocks/channels/stem, as 2.2.2/8.16.40/16, got {text!r}") from error
    return WrnConfig(
        depths,
        widths,
        (False,) * 3,
        image,
        classes=10,
        mean=(0.5,) * image[0],
        std=(0.25,) * image[0],
        stem_channels=stem_channels,
    )


def written(config: WrnConfig, path: Path) -> Path:
    """The network as an ONNX file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = family.build(config).eval()
    export_in(exporter("onnx"), "fp32", model, path, image=config.image, metadata={})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="blocks/channels/stem; all beside the first")
    parser.add_argument("--image", type=int, nargs=3, default=(1, 28, 28), metavar=("C", "H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--visits", type=int, default=5, help="timings of each network")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each visit")
    asked = parser.parse_args()
    if asked.visits < 1:
        parser.error(f"--visits is at least 1, got {asked.visits}")
    if len(asked.networks) < 2:
        parser.error(f"--networks are two or more, the others are timed beside the first, got {len(asked.networks)}")
    try:
        configs = [network(text, tuple(asked.image)) for text in asked.networks]
        with tempfile.TemporaryDirectory() as folder:
            files = [written(config, Path(folder) / f"{place}.onnx") for place, config in enumerate(configs)]
            found = [
                [time_beside(file, files[0], threads=asked.threads, seconds=asked.seconds) for _ in range(asked.visits)]
                for file in files[1:]
            ]
    except InputError as error:
        parser.error(str(error))
    print(machine())
    macs = [sum(layer.macs for layer in rows(config)) for config in configs]
    first = statistics.median(visit.other.p50_ms for visits in found for visit in visits)
    lines = [[asked.networks[0], f"{macs[0] / 1e6:.2f}", f"{first:.3f}", "1", "", "1"]]
    for text, count, visits in zip(asked.networks[1:], macs[1:], found, strict=True):
        shares = [visit.share for visit in visits]
        spread = f"{min(shares):.2f} to {max(shares):.2f}"
        ms = statistics.median(visit.timing.p50_ms for visit in visits)
        middle = statistics.median(shares)
        lines.append([text, f"{count / 1e6:.2f}", f"{ms:.3f}", f"{middle:.2f}", spread, f"{count / macs[0]:.2f}"])
    show(
        f"time beside {asked.networks[0]}, {asked.threads} thread(s), median of {asked.visits} visits of "
        f"{asked.seconds:g} s",
        ("network", "M MACs", "ms", "times as long", "least and most", "times the MACs"),
        lines,
    )


if __name__ == "__main__":
    main()
